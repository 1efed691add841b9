// Convolution by oneDNN. A primitive is made once per geometry and direction and kept. Large 3x3 convolutions use
// Winograd's algorithm where oneDNN has it. Images stay in our layout wherever oneDNN has a vectorised kernel for it;
// where it has not (a planar side that meets a blocked one, as for RGB), oneDNN chooses or everything becomes planar,
// and images are reordered. Weights are plain for their owners and reordered for the primitive.
#include <algorithm>
#include <map>
#include <string>
#include <tuple>

#include "kernels/cpu/conv_narrow.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/onednn.h"
#include "kernels/cpu/prepared.h"

namespace minidl {
namespace {

using namespace cpu;

struct ConvDescs {
  Desc x, w, bias, y;
  dnnl::memory::dims strides, padding_before, padding_after;

  explicit ConvDescs(const ConvDims& d, bool with_bias)
      : x(image_desc(d.in)),
        w(plain_desc({d.out.c, d.in.c, d.kernel, d.kernel}, Tag::oihw)),
        bias(with_bias ? plain_desc({d.out.c}, Tag::x) : Desc()),
        y(image_desc(d.out)),
        strides{d.stride, d.stride},
        padding_before{d.padding, d.padding},
        padding_after{after(d, d.in.h, d.out.h), after(d, d.in.w, d.out.w)} {}

  // What follows the last position that the kernel reaches: negative where a stride leaves pixels over, without which
  // oneDNN falls back to scalar code.
  static std::int64_t after(const ConvDims& d, std::int64_t in, std::int64_t out) {
    return (out - 1) * d.stride + d.kernel - in - d.padding;
  }
};

Desc any(const Desc& desc) { return Desc(desc.dims(), dnnl::memory::data_type::f32, Tag::any); }

Desc planar(const Desc& desc) { return plain_desc(desc.dims(), Tag::nchw); }

// Rank of an implementation by its name: vectorised directly ("jit:avx2"), by matrix products ("x64:gemm:jit"), scalar.
int speed(const std::string& implementation) {
  return implementation.starts_with("jit") ? 2 : implementation.find("gemm") != std::string::npos ? 1 : 0;
}

constexpr auto kDirect = dnnl::algorithm::convolution_direct;
constexpr auto kWinograd = dnnl::algorithm::convolution_winograd;

// Winograd F(4x4, 3x3): a quarter of the multiplications, at a direct convolution's accuracy. With fewer channels or
// pixels than this its transforms cost what it saves (docs/benchmarks.md).
bool winograd_wins(const ConvDims& d) {
  return d.kernel == 3 && d.stride == 1 && d.in.block == 16 && d.out.block == 16 && std::min(d.in.c, d.out.c) >= 32 &&
         d.out.pixels() >= 256;
}

// The primitive descriptor for the fastest implementation, in our layout if that has one of equal rank.
template <class Make>
auto choose(const ConvDims& d, const ConvDescs& descs, Make make) {
  if (winograd_wins(d)) try {
      return make(kWinograd, descs.x, any(descs.w), descs.y);
    } catch (const dnnl::error& error) {
      if (error.status != dnnl_unimplemented) throw;  // only processors with AVX-512 have it
    }
  auto chosen = make(kDirect, descs.x, any(descs.w), descs.y);
  const auto consider = [&](const Desc& x, const Desc& y) {
    auto other = make(kDirect, x, any(descs.w), y);
    if (speed(other.impl_info_str()) > speed(chosen.impl_info_str())) chosen = other;
  };
  if (speed(chosen.impl_info_str()) < 2) consider(any(descs.x), any(descs.y));
  if (speed(chosen.impl_info_str()) < 1) consider(planar(descs.x), planar(descs.y));
  return chosen;
}

using Forward = dnnl::convolution_forward;
using BackwardData = dnnl::convolution_backward_data;
using BackwardWeights = dnnl::convolution_backward_weights;

Forward::primitive_desc forward_desc(const ConvDims& d, const ConvDescs& descs,
                                     dnnl::prop_kind kind = dnnl::prop_kind::forward_training) {
  return choose(d, descs, [&](dnnl::algorithm algorithm, const Desc& x, const Desc& w, const Desc& y) {
    return Forward::primitive_desc(
        Forward::desc(kind, algorithm, x, w, descs.bias, y, descs.strides, descs.padding_before, descs.padding_after),
        engine());
  });
}

template <class PrimitiveDesc, class Primitive>
struct Plan {
  PrimitiveDesc desc;
  Primitive primitive;

  explicit Plan(const PrimitiveDesc& d) : desc(d), primitive(d) {}
};

// The plan for a geometry, made on first use. Kept per thread: oneDNN's primitives share a scratchpad within a thread.
template <class Plan, class Make>
const Plan& cached(const ConvDims& d, bool with_bias, Make make) {
  const auto key = [](const ImageDims& i) { return std::make_tuple(i.n, i.c, i.h, i.w, i.block); };
  using Key = std::tuple<decltype(key(d.in)), decltype(key(d.out)), std::int64_t, std::int64_t, std::int64_t, bool>;
  thread_local std::map<Key, Plan> plans;
  const Key k{key(d.in), key(d.out), d.kernel, d.stride, d.padding, with_bias};
  auto found = plans.find(k);
  if (found == plans.end()) found = plans.emplace(k, make()).first;
  return found->second;
}

struct X;
struct W;
struct Y;

// Inference: unlike forward_training's, Winograd's algorithm then takes weights that have been transformed before.
struct PreparedPlan : Plan<Forward::primitive_desc, Forward> {
  using Plan::Plan;
};

void forward_prepared(const ConvDims& d, const float* x, const float* w, const float* bias, float* y,
                      PreparedWeights& kept) {
  const ConvDescs ours(d, bias != nullptr);
  const PreparedPlan& plan = cached<PreparedPlan>(
      d, bias != nullptr, [&] { return PreparedPlan(forward_desc(d, ours, dnnl::prop_kind::forward_inference)); });
  const Desc wanted = plan.desc.weights_desc();
  const auto reordered = ours.w == wanted ? nullptr : reordered_weight(kept, ours.w, wanted, w);
  Operand<X> in(ours.x, plan.desc.src_desc(), x);
  Operand<Y> out(ours.y, plan.desc.dst_desc(), y);
  std::unordered_map<int, dnnl::memory> arguments{
      {DNNL_ARG_SRC, in.read().memory()},
      {DNNL_ARG_WEIGHTS, reordered ? reordered->memory() : memory_of(ours.w, w)},
      {DNNL_ARG_DST, out.memory()}};
  if (bias) arguments.emplace(DNNL_ARG_BIAS, memory_of(ours.bias, bias));
  plan.primitive.execute(stream(), arguments);
  out.write_back();
}

void forward(const ConvDims& d, const float* x, const float* w, const float* bias, float* y) {
  const ConvDescs ours(d, bias != nullptr);
  using P = Plan<Forward::primitive_desc, Forward>;
  const P& plan = cached<P>(d, bias != nullptr, [&] { return P(forward_desc(d, ours)); });
  Operand<X> in(ours.x, plan.desc.src_desc(), x);
  Operand<W> weights(ours.w, plan.desc.weights_desc(), w);
  Operand<Y> out(ours.y, plan.desc.dst_desc(), y);
  std::unordered_map<int, dnnl::memory> arguments{
      {DNNL_ARG_SRC, in.read().memory()}, {DNNL_ARG_WEIGHTS, weights.read().memory()}, {DNNL_ARG_DST, out.memory()}};
  if (bias) arguments.emplace(DNNL_ARG_BIAS, memory_of(ours.bias, bias));
  plan.primitive.execute(stream(), arguments);
  out.write_back();
}

void backward_data(const ConvDims& d, const float* gy, const float* w, float* gx) {
  const ConvDescs ours(d, false);
  using P = Plan<BackwardData::primitive_desc, BackwardData>;
  const P& plan = cached<P>(d, false, [&] {
    const auto hint = forward_desc(d, ours);
    return P(
        choose(d, ours, [&](dnnl::algorithm algorithm, const Desc& gx_desc, const Desc& w_desc, const Desc& gy_desc) {
          return BackwardData::primitive_desc(BackwardData::desc(algorithm, gx_desc, w_desc, gy_desc, ours.strides,
                                                                 ours.padding_before, ours.padding_after),
                                              engine(), hint);
        }));
  });
  Operand<X> out(ours.x, plan.desc.diff_src_desc(), gx);
  Operand<W> weights(ours.w, plan.desc.weights_desc(), w);
  Operand<Y> in(ours.y, plan.desc.diff_dst_desc(), gy);
  plan.primitive.execute(stream(), {{DNNL_ARG_DIFF_DST, in.read().memory()},
                                    {DNNL_ARG_WEIGHTS, weights.read().memory()},
                                    {DNNL_ARG_DIFF_SRC, out.memory()}});
  out.write_back();
}

void backward_weights(const ConvDims& d, const float* x, const float* gy, float* gw, float* gbias) {
  const ConvDescs ours(d, gbias != nullptr);
  using P = Plan<BackwardWeights::primitive_desc, BackwardWeights>;
  const P& plan = cached<P>(d, gbias != nullptr, [&] {
    const auto hint = forward_desc(d, ours);
    return P(
        choose(d, ours, [&](dnnl::algorithm algorithm, const Desc& x_desc, const Desc& gw_desc, const Desc& gy_desc) {
          return BackwardWeights::primitive_desc(
              BackwardWeights::desc(algorithm, x_desc, gw_desc, ours.bias, gy_desc, ours.strides, ours.padding_before,
                                    ours.padding_after),
              engine(), hint);
        }));
  });
  Operand<X> in(ours.x, plan.desc.src_desc(), x);
  Operand<Y> gradient(ours.y, plan.desc.diff_dst_desc(), gy);
  Operand<W> out(ours.w, plan.desc.diff_weights_desc(), gw);
  std::unordered_map<int, dnnl::memory> arguments{{DNNL_ARG_SRC, in.read().memory()},
                                                  {DNNL_ARG_DIFF_DST, gradient.read().memory()},
                                                  {DNNL_ARG_DIFF_WEIGHTS, out.memory()}};
  if (gbias) arguments.emplace(DNNL_ARG_DIFF_BIAS, memory_of(ours.bias, gbias));
  plan.primitive.execute(stream(), arguments);
  out.write_back();
}

}  // namespace

void CpuBackend::conv_forward(const ConvDims& d, const float* x, const float* w, const float* bias, float* y,
                              PreparedWeights* prepared) {
  if (narrow_output(d)) return narrow_forward(d, x, w, bias, y);
  guarded("conv2d", [&] {
    if (prepared)
      forward_prepared(d, x, w, bias, y, *prepared);
    else
      forward(d, x, w, bias, y);
  });
}

void CpuBackend::conv_backward_data(const ConvDims& d, const float* gy, const float* w, float* gx) {
  if (narrow_output(d)) return narrow_backward_data(d, gy, w, gx);
  if (narrow_input(d)) return narrow_input_backward_data(d, gy, w, gx);
  guarded("conv2d, gradient of the input", [&] { backward_data(d, gy, w, gx); });
}

void CpuBackend::conv_backward_weights(const ConvDims& d, const float* x, const float* gy, float* gw, float* gbias) {
  if (narrow_output(d)) return narrow_backward_weights(d, x, gy, gw, gbias);
  guarded("conv2d, gradient of the weight", [&] { backward_weights(d, x, gy, gw, gbias); });
}

}  // namespace minidl
