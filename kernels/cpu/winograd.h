// Winograd's algorithm F(4x4, 3x3) for 3x3 convolutions of stride 1 between images in blocks: a quarter of the
// multiplications, at the accuracy of a direct convolution.
//
// The output is cut into tiles of 4x4 pixels; the input windows of neighbours, 6x6, overlap by two. With the constant
// matrices A (6x4), B (6x6) and G (6x3) every pass is three transforms and, at each of 6x6 points, a product of
// matrices:
//   forward           y window = A^T M A,          M = sum over c of U V
//   gradient of x     x windows += B V' B^T,       V' = sum over k of U M'    (the transpose of forward, so that a
//   padded gradient of w     w = G^T U' G,                U' = sum over tiles of M' V   image needs no more tiles than
//   its core)
// where U = G w G^T, V = B^T (x window) B, M' = A (gradient of the y window) A^T; c counts input channels, k output
// ones.
//
// A thread transforms a few tiles, multiplies and transforms back while they are in its cache. Work is divided by size
// alone and sums have a fixed order: results do not depend on the number of threads.
#pragma once

#include "kernels/backend.h"

namespace minidl::cpu {

// What the matrices of points are multiplied in; int16: winograd_int16.h.
enum class WinogradProducts { float32, int16 };

bool winograd_serves(const ConvDims& dims, WinogradProducts products);

// bias and gbias are (out.c) or null; prepared as in Backend::conv_forward.
void winograd_forward(const ConvDims& dims, const float* x, const float* w, const float* bias, float* y,
                      PreparedWeights* prepared, WinogradProducts products);
void winograd_backward_data(const ConvDims& dims, const float* gy, const float* w, float* gx,
                            WinogradProducts products);
void winograd_backward_weights(const ConvDims& dims, const float* x, const float* gy, float* gw, float* gbias,
                               WinogradProducts products);

}  // namespace minidl::cpu
