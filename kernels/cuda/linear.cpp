// Linear layers: own kernels for few rows, cuBLAS for many.
#include <algorithm>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/dnn.h"
#include "kernels/cuda/linear_few_rows.h"
#include "kernels/cuda/operands.h"

namespace minidl {
namespace {

using namespace gpu;

// What cuBLAS recommends for its fastest kernels. Memory of ours keeps a recorded product's workspace where it was, and
// with it products are the same bits on every run.
constexpr std::size_t kWorkspace = std::size_t{32} << 20;

// Operands and results are float32 always; cuBLAS rounds operands as it loads them, which costs no pass over memory.
cublasComputeType_t compute_type(Precision precision) {
  switch (precision) {
    case Precision::fp32:
      return CUBLAS_COMPUTE_32F;
    case Precision::tf32:
      return CUBLAS_COMPUTE_32F_FAST_TF32;
    case Precision::bf16:
      break;
  }
  return CUBLAS_COMPUTE_32F_FAST_16BF;
}

// c (m, n) = op(a) op(b), or is added to, for row-major matrices, where op transposes on request. cuBLAS is
// column-major: the memory of a row-major matrix is that of its transpose there, and c^T = op(b)^T op(a)^T.
void product(Precision precision, bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
             const float* a, const float* b, float* c, bool add = false) {
  const auto operation = [](bool transpose) { return transpose ? CUBLAS_OP_T : CUBLAS_OP_N; };
  const float one = 1, kept = add ? 1.0f : 0.0f;
  check_status(cublasSetWorkspace(blas(), workspace(kWorkspace), kWorkspace), "setting the workspace");
  check_status(cublasGemmEx_64(blas(), operation(transpose_b), operation(transpose_a), n, m, k, &one, b, CUDA_R_32F,
                               transpose_b ? k : n, a, CUDA_R_32F, transpose_a ? m : k, &kept, c, CUDA_R_32F, n,
                               compute_type(precision), CUBLAS_GEMM_DEFAULT),
               "linear");
}

}  // namespace

void CudaBackend::linear_forward(const LinearDims& d, const float* x, const float* w, const float* bias, float* y) {
  if (has_few_rows(d)) return linear_of_few_rows(d, x, w, bias, y);
  product(precision_, false, true, d.rows, d.out, d.in, x, w, y);
  if (bias) add_bias(d.rows, d.out, bias, y);
  if (d.relu) activation_forward(Activation::relu, 0, d.rows * d.out, y, y);
}

void CudaBackend::linear_backward(const LinearDims& d, const float* x, const float* w, const float* y, const float* gy,
                                  bool add_to_gx, float* gx, float* gw, float* gbias) {
  if (has_few_rows(d)) return linear_of_few_rows_backward(d, x, w, y, gy, add_to_gx, gx, gw, gbias);
  if (d.relu) {  // the gradient that passes lies behind what the products and the sum use of the workspace
    const std::size_t front = std::max(kWorkspace, workspace_of_sum_rows(d.rows, d.out));
    auto* memory = static_cast<std::byte*>(workspace(front + static_cast<std::size_t>(d.rows * d.out) * sizeof(float)));
    auto* passed = reinterpret_cast<float*>(memory + front);
    activation_backward(Activation::relu, 0, d.rows * d.out, y, gy, passed);
    gy = passed;
  }
  if (gx) product(precision_, false, false, d.rows, d.in, d.out, gy, w, gx, add_to_gx);
  if (gw) product(precision_, true, false, d.out, d.in, d.rows, gy, x, gw);
  if (gbias) sum_rows(d.rows, d.out, gy, gbias);
}

}  // namespace minidl
