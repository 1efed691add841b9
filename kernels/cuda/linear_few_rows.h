// Linear layers of a few rows, which read every weight once and are limited by that: own kernels, in float32 whatever
// the precision. A launch does all that a layer asks for.
#pragma once

#include "kernels/backend.h"

namespace minidl::gpu {

// Whether the functions below serve these dimensions.
bool has_few_rows(const LinearDims& dims);

// As those of the contract. Both use the workspace.
void linear_of_few_rows(const LinearDims& dims, const float* x, const float* w, const float* bias, float* y);
void linear_of_few_rows_backward(const LinearDims& dims, const float* x, const float* w, const float* y,
                                 const float* gy, bool add_to_gx, float* gx, float* gw, float* gbias);

}  // namespace minidl::gpu
