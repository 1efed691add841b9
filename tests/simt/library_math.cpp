#include "tests/simt/library_math.h"

#include <bit>
#include <dnnl.hpp>

namespace simt {
namespace {

using Desc = dnnl::memory::desc;
using dnnl::memory;

const dnnl::engine& engine() {
  static const dnnl::engine instance(dnnl::engine::kind::cpu, 0);
  return instance;
}

Desc desc_of(const Tensor& t) {
  return Desc(memory::dims(t.sizes.begin(), t.sizes.end()), memory::data_type::f32,
              memory::dims(t.strides.begin(), t.strides.end()));
}

Desc any(const Tensor& t) {
  return Desc(memory::dims(t.sizes.begin(), t.sizes.end()), memory::data_type::f32, memory::format_tag::any);
}

void move(memory& from, memory& to) {
  dnnl::stream stream(engine());
  dnnl::reorder(from, to).execute(stream, from, to);
  stream.wait();
}

memory reordered(const Tensor& tensor, float* data, const Desc& wanted) {
  memory from(desc_of(tensor), engine(), data), to(wanted, engine());
  move(from, to);
  return to;
}

// Runs a primitive on two reordered inputs and brings its output back.
template <class Primitive, class PrimitiveDesc>
void run(const PrimitiveDesc& desc, int first, memory a, int second, memory b, int output, const Desc& theirs,
         const Tensor& tensor, float* data) {
  memory result(theirs, engine()), to(desc_of(tensor), engine(), data);
  dnnl::stream stream(engine());
  Primitive(desc).execute(stream, {{first, a}, {second, b}, {output, result}});
  stream.wait();
  move(result, to);
}

std::uint32_t nearest(std::uint32_t bits, int dropped) {
  return (bits + (1u << (dropped - 1)) - 1 + (bits >> dropped & 1)) >> dropped << dropped;
}

}  // namespace

float rounded(float value, Rounding rounding) {
  if (rounding == Rounding::none || value != value) return value;
  return std::bit_cast<float>(nearest(std::bit_cast<std::uint32_t>(value), rounding == Rounding::tf32 ? 13 : 16));
}

std::uint16_t to_bf16(float value) {
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(rounded(value, Rounding::bf16)) >> 16);
}

float from_bf16(std::uint16_t value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16); }

std::int64_t Tensor::extent() const {
  std::int64_t last = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) last += (sizes[i] - 1) * strides[i];
  return last + 1;
}

void convolve(const Convolution& c, float* x, float* w, float* y) {
  const auto algorithm = dnnl::algorithm::convolution_direct;
  const memory::dims strides(c.strides.begin(), c.strides.end()), before(c.padding.begin(), c.padding.end());
  memory::dims after;
  for (std::size_t i = 0; i < 2; ++i)  // negative where the last rows are out of every window's reach
    after.push_back((c.y.sizes[i + 2] - 1) * c.strides[i] + c.w.sizes[i + 2] - c.x.sizes[i + 2] - c.padding[i]);
  const dnnl::convolution_forward::primitive_desc forward(
      {dnnl::prop_kind::forward_training, algorithm, any(c.x), any(c.w), any(c.y), strides, before, after}, engine());
  switch (c.pass) {
    case ConvPass::forward:
      return run<dnnl::convolution_forward>(forward, DNNL_ARG_SRC, reordered(c.x, x, forward.src_desc()),
                                            DNNL_ARG_WEIGHTS, reordered(c.w, w, forward.weights_desc()), DNNL_ARG_DST,
                                            forward.dst_desc(), c.y, y);
    case ConvPass::backward_data: {
      const dnnl::convolution_backward_data::primitive_desc desc(
          {algorithm, any(c.x), any(c.w), any(c.y), strides, before, after}, engine(), forward);
      return run<dnnl::convolution_backward_data>(desc, DNNL_ARG_DIFF_DST, reordered(c.y, y, desc.diff_dst_desc()),
                                                  DNNL_ARG_WEIGHTS, reordered(c.w, w, desc.weights_desc()),
                                                  DNNL_ARG_DIFF_SRC, desc.diff_src_desc(), c.x, x);
    }
    case ConvPass::backward_weights: {
      const dnnl::convolution_backward_weights::primitive_desc desc(
          {algorithm, any(c.x), any(c.w), any(c.y), strides, before, after}, engine(), forward);
      return run<dnnl::convolution_backward_weights>(desc, DNNL_ARG_SRC, reordered(c.x, x, desc.src_desc()),
                                                     DNNL_ARG_DIFF_DST, reordered(c.y, y, desc.diff_dst_desc()),
                                                     DNNL_ARG_DIFF_WEIGHTS, desc.diff_weights_desc(), c.w, w);
    }
  }
}

void multiply(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
              std::int64_t lda, const float* b, std::int64_t ldb, float* c, std::int64_t ldc) {
  dnnl::sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, 1.0f, a, lda, b, ldb, 0.0f, c, ldc);
}

}  // namespace simt
