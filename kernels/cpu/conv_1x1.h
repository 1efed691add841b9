// The gradient of the weight of a 1x1 convolution between images in blocks: a product of matrices, pixels by channels, that
// comes out as its owner keeps it.
#pragma once

#include "kernels/backend.h"

namespace minidl::cpu {

bool products_serve(const ConvUse& use);

// gbias is (out.c) or null.
void products_backward_weights(const ConvDims& dims, const float* x, const float* gy, float* gw, float* gbias);

}  // namespace minidl::cpu
