#include "kernels/cpu/conv_primitives.h"

#include <string>

namespace minidl::cpu {
namespace {

// What follows the last position that the kernel reaches: negative where a stride leaves pixels over, without which
// oneDNN falls back to scalar code.
std::int64_t padding_after(const ConvDims& d, std::int64_t in, std::int64_t out) {
  return (out - 1) * d.stride + d.kernel - in - d.padding;
}

Desc any(const Desc& desc) {
  return Desc(desc.dims(), static_cast<dnnl::memory::data_type>(desc.data.data_type), Tag::any);
}

Desc planar(const Desc& desc) { return plain_desc(desc.dims(), Tag::nchw); }

// The operands as an algorithm takes them. oneDNN always chooses the format of the weights.
struct Formats {
  Desc x, w, y;
};

Formats formats_of(ConvPass pass, const ConvDescs& ours, ConvAlgorithm algorithm) {
  using enum ConvAlgorithm;
  Formats f{ours.x, ours.w, ours.y};
  if (algorithm == direct_planar) f.x = planar(f.x), f.y = planar(f.y);
  if (algorithm == bf16 || algorithm == bf16_any) {
    if (pass != ConvPass::backward_data) f.x = bf16_twin(f.x);
    if (pass != ConvPass::backward_weights) f.w = bf16_twin(f.w);
    if (pass != ConvPass::forward) f.y = bf16_twin(f.y);
  }
  if (algorithm == direct_any || algorithm == bf16_any) f.x = any(f.x), f.y = any(f.y);
  f.w = any(f.w);
  return f;
}

// What make() returns; nullopt if oneDNN has not implemented it.
template <class Make>
auto if_implemented(Make make) -> std::optional<decltype(make())> {
  try {
    return make();
  } catch (const dnnl::error& error) {
    if (error.status != dnnl_unimplemented) throw;
    return std::nullopt;
  }
}

ForwardConv::PrimitiveDesc forward_desc(const ConvDescs& ours, const Formats& f,
                                        dnnl::prop_kind kind = dnnl::prop_kind::forward_training) {
  const dnnl::convolution_forward::desc desc(kind, dnnl::algorithm::convolution_direct, f.x, f.w, ours.bias, f.y,
                                             ours.strides, ours.padding_before, ours.padding_after);
  return {desc, engine()};
}

// oneDNN wants a forward primitive beside every backward one, as a hint that its convolutions do not look at.
ForwardConv::PrimitiveDesc hint(const ConvDescs& ours) {
  return forward_desc(ours, {any(ours.x), any(ours.w), any(ours.y)});
}

int speed_of(const std::string& implementation) {
  return implementation.find("amx") != std::string::npos    ? kByTiles     // "brgconv:avx512_core_amx_bf16"
         : implementation.starts_with("jit")                ? kVectorised  // "jit:avx2"
         : implementation.find("gemm") != std::string::npos ? kByProducts  // "x64:gemm:jit"
                                                            : kScalar;
}

template <class Conv>
std::optional<int> speed_of_pass(const ConvUse& use, ConvAlgorithm algorithm) {
  const auto desc = primitive_desc<Conv>(use, algorithm);
  return desc ? std::optional(speed_of(desc->impl_info_str())) : std::nullopt;
}

}  // namespace

ConvDescs::ConvDescs(const ConvDims& d, bool with_bias)
    : x(image_desc(d.in)),
      w(plain_desc({d.out.c, d.in.c, d.kernel, d.kernel}, Tag::oihw)),
      bias(with_bias ? plain_desc({d.out.c}, Tag::x) : Desc()),
      y(image_desc(d.out)),
      strides{d.stride, d.stride},
      padding_before{d.padding, d.padding},
      padding_after{cpu::padding_after(d, d.in.h, d.out.h), cpu::padding_after(d, d.in.w, d.out.w)} {}

template <>
std::optional<ForwardConv::PrimitiveDesc> primitive_desc<ForwardConv>(const ConvUse& use, ConvAlgorithm algorithm) {
  const ConvDescs ours(use.dims, use.bias);
  return if_implemented([&] { return forward_desc(ours, formats_of(use.pass, ours, algorithm)); });
}

template <>
std::optional<InferenceConv::PrimitiveDesc> primitive_desc<InferenceConv>(const ConvUse& use, ConvAlgorithm algorithm) {
  const ConvDescs ours(use.dims, use.bias);
  return if_implemented(
      [&] { return forward_desc(ours, formats_of(use.pass, ours, algorithm), dnnl::prop_kind::forward_inference); });
}

template <>
std::optional<BackwardDataConv::PrimitiveDesc> primitive_desc<BackwardDataConv>(const ConvUse& use,
                                                                                ConvAlgorithm algorithm) {
  const ConvDescs ours(use.dims, false);
  const Formats f = formats_of(use.pass, ours, algorithm);
  return if_implemented([&] {
    const dnnl::convolution_backward_data::desc desc(dnnl::algorithm::convolution_direct, f.x, f.w, f.y, ours.strides,
                                                     ours.padding_before, ours.padding_after);
    return BackwardDataConv::PrimitiveDesc(desc, engine(), hint(ours));
  });
}

template <>
std::optional<BackwardWeightsConv::PrimitiveDesc> primitive_desc<BackwardWeightsConv>(const ConvUse& use,
                                                                                      ConvAlgorithm algorithm) {
  const ConvDescs ours(use.dims, use.bias);
  const Formats f = formats_of(use.pass, ours, algorithm);
  return if_implemented([&] {
    const dnnl::convolution_backward_weights::desc desc(dnnl::algorithm::convolution_direct, f.x, f.w, ours.bias, f.y,
                                                        ours.strides, ours.padding_before, ours.padding_after);
    return BackwardWeightsConv::PrimitiveDesc(desc, engine(), hint(ours));
  });
}

std::optional<int> implementation_speed(const ConvUse& use, ConvAlgorithm algorithm) {
  switch (use.pass) {
    case ConvPass::forward:
      return speed_of_pass<ForwardConv>(use, algorithm);
    case ConvPass::backward_data:
      return speed_of_pass<BackwardDataConv>(use, algorithm);
    case ConvPass::backward_weights:
      return speed_of_pass<BackwardWeightsConv>(use, algorithm);
  }
  return std::nullopt;
}

}  // namespace minidl::cpu
