#include "kernels/cpu/winograd.h"

namespace minidl::cpu {
namespace {

constexpr int kTaps = 3, kTile = 6;
// The weight g of a pair of channels becomes G g G^T. oneDNN interpolates at 0, +-0.625, +-1.5 and infinity.
constexpr float kG[kTile][kTaps] = {{1.13777777777778f, 0.f, 0.f},
                                    {-0.688403361344538f, -0.430252100840336f, -0.26890756302521f},
                                    {-0.688403361344538f, 0.430252100840336f, -0.26890756302521f},
                                    {0.119514472455649f, 0.179271708683473f, 0.26890756302521f},
                                    {0.119514472455649f, -0.179271708683473f, 0.26890756302521f},
                                    {0.f, 0.f, 1.f}};

Vec times_G(int row, const Vec (&v)[kTaps]) { return kG[row][0] * v[0] + kG[row][1] * v[1] + kG[row][2] * v[2]; }

// One input channel and the eight output channels from w on; element (u, v) goes to to[(u * kTile + v) * stride].
void transform(const float* w, std::int64_t in_channels, float* to, std::int64_t stride) {
  Vec taps[kTaps][kTaps];
  for (int y = 0; y < kTaps; ++y)
    for (int x = 0; x < kTaps; ++x)
      for (std::int64_t lane = 0; lane < kLanes; ++lane)
        taps[y][x][lane] = w[(lane * in_channels * kTaps + y) * kTaps + x];
  Vec rows[kTile][kTaps];  // g G^T, transposed
  for (int v = 0; v < kTile; ++v)
    for (int y = 0; y < kTaps; ++y) rows[v][y] = times_G(v, taps[y]);
  for (int u = 0; u < kTile; ++u)
    for (int v = 0; v < kTile; ++v) store(to + (u * kTile + v) * stride, times_G(u, rows[v]));
}

}  // namespace

bool transform_winograd_weights(const Desc& wanted, const float* w, float* to) {
  const dnnl_memory_desc_t& desc = wanted.data;
  if (desc.format_kind != dnnl_format_kind_wino) return false;
  const dnnl_wino_desc_t& f = desc.format_desc.wino_desc;
  if (f.wino_format != dnnl_wino_wei_OBaaIBOIio || f.r != kTaps || f.alpha != kTile || f.oc != desc.dims[0] ||
      f.ic != desc.dims[1] || f.oc_block % kLanes != 0)
    return false;
  // Dimensions from the outermost: chunk of output channels, u, v, chunk of input channels, block of output channels in
  // its chunk, block of input channels, input channel, output channel.
  const std::int64_t out = f.oc_block, out_chunk = out * f.oc2_block, in_chunk = f.ic_block * f.ic2_block;
  const std::int64_t stride = out_chunk * f.ic;
  parallel_for(f.oc / out * (f.ic / in_chunk), kTile * kTile * in_chunk * out, [&](std::int64_t i) {
    const std::int64_t o = i / (f.ic / in_chunk) * out, first = i % (f.ic / in_chunk) * in_chunk;
    float* block = to + o / out_chunk * kTile * kTile * stride + first * out_chunk + o % out_chunk * in_chunk;
    for (std::int64_t c = 0; c < in_chunk; ++c)
      for (std::int64_t lane = 0; lane < out; lane += kLanes)
        transform(w + ((o + lane) * f.ic + first + c) * kTaps * kTaps, f.ic, block + c * out + lane, stride);
  });
  return true;
}

}  // namespace minidl::cpu
