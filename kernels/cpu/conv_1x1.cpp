#include "kernels/cpu/conv_1x1.h"

#include <algorithm>

#include "kernels/cpu/channel_sums.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/products.h"

namespace minidl::cpu {
namespace {

// Pixels over which a gradient is summed at a time, and blocks of either side that a thread multiplies.
constexpr std::int64_t kPiece = 256, kSomeBlocks = 8;

}  // namespace

bool products_serve(const ConvUse& use) {
  const ConvDims& d = use.dims;
  return use.pass == ConvPass::backward_weights && d.kernel == 1 && d.stride == 1 && d.padding == 0 &&
         d.in.block == d.out.block && product_kernels(d.in.block);
}

void products_backward_weights(const ConvDims& d, const float* x, const float* gy, float* gw, float* gbias) {
  const ProductKernels& kernels = *product_kernels(d.in.block);
  const std::int64_t lanes = d.in.block, pixels = d.in.pixels(), pieces = (pixels + kPiece - 1) / kPiece;
  const std::int64_t ins = d.in.c / lanes, outs = d.out.c / lanes;
  const std::int64_t in_parts = (ins + kSomeBlocks - 1) / kSomeBlocks,
                     out_parts = (outs + kSomeBlocks - 1) / kSomeBlocks;
  parallel_for(in_parts * out_parts, d.in.n * pixels * kSomeBlocks * lanes * lanes, [&](std::int64_t i) {
    const std::int64_t in = i / out_parts * ins / in_parts, in_end = (i / out_parts + 1) * ins / in_parts;
    const std::int64_t out = i % out_parts * outs / out_parts, out_end = (i % out_parts + 1) * outs / out_parts;
    for (std::int64_t n = 0; n < d.in.n; ++n)
      for (std::int64_t p = 0; p < pieces; ++p) {
        const std::int64_t first = p * pixels / pieces, end = (p + 1) * pixels / pieces;
        kernels.correlate({end - first, gy + d.out.index(n, out * lanes, 0, 0) + first * lanes, pixels * lanes,
                           out_end - out, x + d.in.index(n, in * lanes, 0, 0) + first * lanes, pixels * lanes,
                           in_end - in, gw + (out * d.in.c + in) * lanes, d.in.c, n > 0 || p > 0});
      }
  });
  if (gbias) sum_channels(d.out, gy, gbias);
}

}  // namespace minidl::cpu
