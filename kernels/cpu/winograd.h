// Winograd's algorithm for convolutions between images in blocks: a fraction of the multiplications, at the accuracy of
// a direct convolution.
//
//   kernel           algorithm       multiplications
//   3x3, stride 1    F(4x4, 3x3)     1 of 4
//   4x4, stride 1    F(3x3, 4x4)     1 of 4
//   4x4, stride 2    F(5x5, 2x2)     1 of 2.8
//   3x3, stride 2    F(5x5, 2x2)     1 of 1.6
//
// With stride 2 the kernel's taps are of four phases, by whether row and column are even or odd. Each phase is a 2x2
// kernel of stride 1 on every second row and column of the input (one row or column of it is zero for some phases of a
// 3x3 kernel): the convolution is one with four times the input channels.
//
// The output is cut into tiles of m x m pixels; the input windows of neighbours, 6x6, overlap by r - 1. m + r is 7 in
// all forms, and so is what follows but for the sizes. With the constant matrices A (6 x m), B (6x6) and G (6 x r)
// every pass is three transforms and, at each of 6x6 points, a product of matrices:
//   forward           y window = A^T M A,          M = sum over c of U V
//   gradient of x     x windows += B V' B^T,       V' = sum over k of U M'    (the transpose of forward, so that a
//                                                                  padded image needs no more tiles than its core)
//   gradient of w     w = G^T U' G,                U' = sum over tiles of M' V
// where U = G w G^T, V = B^T (x window) B, M' = A (gradient of the y window) A^T; c counts input channels
// (times phases), k output ones.
//
// Of many tiles, a thread transforms a few, multiplies point after point, so that the weights of one stay in its cache, and
// transforms back. Of few, it has some columns of the weights, which are more than the tiles, and transforms these where
// it multiplies them. Work is divided by size alone and sums have a fixed order: results do not depend on the number of
// threads.
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
