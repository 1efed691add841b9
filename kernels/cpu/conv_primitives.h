// oneDNN's primitives for a convolution, by pass and algorithm.
#pragma once

#include <optional>

#include "kernels/cpu/conv_choice.h"
#include "kernels/cpu/onednn.h"

namespace minidl::cpu {

// The caller's operands as oneDNN sees them: images in our layout, everything else plain, all float32.
struct ConvDescs {
  Desc x, w, bias, y;
  dnnl::memory::dims strides, padding_before, padding_after;

  ConvDescs(const ConvDims& dims, bool with_bias);
};

struct ForwardConv {
  using PrimitiveDesc = dnnl::convolution_forward::primitive_desc;
  using Primitive = dnnl::convolution_forward;
};
// Forward for weights that stay.
struct InferenceConv : ForwardConv {};
struct BackwardDataConv {
  using PrimitiveDesc = dnnl::convolution_backward_data::primitive_desc;
  using Primitive = dnnl::convolution_backward_data;
};
struct BackwardWeightsConv {
  using PrimitiveDesc = dnnl::convolution_backward_weights::primitive_desc;
  using Primitive = dnnl::convolution_backward_weights;
};

// How a pass computes a use by an algorithm; nullopt where oneDNN has no implementation on this processor.
template <class Conv>
std::optional<typename Conv::PrimitiveDesc> primitive_desc(const ConvUse& use, ConvAlgorithm algorithm);

// What oneDNN's implementation consists of.
inline constexpr int kScalar = 0, kByProducts = 1, kVectorised = 2, kByTiles = 3;  // the last: Intel AMX
std::optional<int> implementation_speed(const ConvUse& use, ConvAlgorithm algorithm);

}  // namespace minidl::cpu
