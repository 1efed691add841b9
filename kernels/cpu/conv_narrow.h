// Convolutions between a blocked image and a planar one of few channels (the last layer of a generator: 64 channels to
// RGB). oneDNN pads the few channels to a whole block, and so computes 16 channels for 3; these kernels take the vector
// from the wide side alone, and compute what is asked for.
#pragma once

#include "kernels/backend.h"

namespace minidl::cpu {

// True if these kernels serve the geometry: stride 1, no padding, at most four planar channels on the narrow side.
bool narrow_output(const ConvDims& dims);  // blocked in, planar out
bool narrow_input(const ConvDims& dims);   // planar in, blocked out

// The narrow side is the output. bias is (out.c) or null.
void narrow_forward(const ConvDims& dims, const float* x, const float* w, const float* bias, float* y);
void narrow_backward_data(const ConvDims& dims, const float* gy, const float* w, float* gx);
void narrow_backward_weights(const ConvDims& dims, const float* x, const float* gy, float* gw, float* gbias);

// The gradient of the input where that is the narrow side.
void narrow_input_backward_data(const ConvDims& dims, const float* gy, const float* w, float* gx);

}  // namespace minidl::cpu
