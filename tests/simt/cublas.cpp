// cuBLAS, emulated. A workspace must be given: without one the library would allocate its own in the middle of a
// capture, and its results could differ from run to run.
#include <cublas_v2.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "tests/simt/library_math.h"
#include "tests/simt/simt.h"

struct cublasContext {
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};

namespace {

using namespace simt;

constexpr std::uintptr_t kWorkspaceAlignment = 256;

std::mutex& mutex() {
  static std::mutex instance;
  return instance;
}
std::set<cublasContext*>& contexts() {
  static auto& instance = *new std::set<cublasContext*>;
  return instance;
}
bool is_live(cublasHandle_t handle) {
  const std::lock_guard lock(mutex());
  return contexts().contains(handle);
}

cublasStatus_t refuse(cublasStatus_t status, const std::string& why) {
  simt::refuse(cudaErrorInvalidValue, "cublas: " + why);
  return status;
}

// A column-major matrix in device memory.
struct Matrix {
  const float* data;
  std::int64_t rows, cols, leading;

  std::size_t bytes() const { return static_cast<std::size_t>((cols - 1) * leading + rows) * sizeof(float); }
};

// An operand as the product sees it: rounded in a copy, if at all.
class Operand {
 public:
  Operand(const Matrix& m, Rounding rounding) : exact_(m.data) {
    if (rounding == Rounding::none) return;
    copy_.resize(m.bytes() / sizeof(float));
    for (std::size_t i = 0; i < copy_.size(); ++i) copy_[i] = rounded(m.data[i], rounding);
  }
  const float* data() const { return copy_.empty() ? exact_ : copy_.data(); }

 private:
  const float* exact_;
  std::vector<float> copy_;
};

}  // namespace

const char* cublasGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "success";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "the library was not initialized";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "an invalid value was passed";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "the function failed to launch on the GPU";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "the requested functionality is not supported";
  }
  return "unknown";
}

cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  if (!handle) return refuse(CUBLAS_STATUS_INVALID_VALUE, "cublasCreate of a null pointer");
  const std::lock_guard lock(mutex());
  contexts().insert(*handle = new cublasContext);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  const std::lock_guard lock(mutex());
  if (contexts().erase(handle) == 0) return refuse(CUBLAS_STATUS_NOT_INITIALIZED, "cublasDestroy of no handle");
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  if (!is_live(handle)) return refuse(CUBLAS_STATUS_NOT_INITIALIZED, "cublasSetStream of no handle");
  *handle = {.stream = stream, .workspace = nullptr, .workspace_bytes = 0};  // as documented: back to its own workspace
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, std::size_t bytes) {
  if (!is_live(handle)) return refuse(CUBLAS_STATUS_NOT_INITIALIZED, "cublasSetWorkspace of no handle");
  if (reinterpret_cast<std::uintptr_t>(workspace) % kWorkspaceAlignment != 0)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "the workspace is not aligned to 256 bytes");
  handle->workspace = workspace;
  handle->workspace_bytes = bytes;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx_64(cublasHandle_t handle, cublasOperation_t transpose_a, cublasOperation_t transpose_b,
                               std::int64_t m, std::int64_t n, std::int64_t k, const void* alpha, const void* a,
                               cudaDataType a_type, std::int64_t lda, const void* b, cudaDataType b_type,
                               std::int64_t ldb, const void* beta, void* c, cudaDataType c_type, std::int64_t ldc,
                               cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
  if (!is_live(handle)) return refuse(CUBLAS_STATUS_NOT_INITIALIZED, "cublasGemmEx of no handle");
  if (m < 1 || n < 1 || k < 1) return refuse(CUBLAS_STATUS_INVALID_VALUE, "cublasGemmEx of an empty matrix");
  if (a_type != CUDA_R_32F || b_type != CUDA_R_32F || c_type != CUDA_R_32F || algorithm != CUBLAS_GEMM_DEFAULT)
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "cublasGemmEx of these types");
  if (!alpha || !beta || *static_cast<const float*>(alpha) != 1 ||
      (*static_cast<const float*>(beta) != 0 && *static_cast<const float*>(beta) != 1))
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "cublasGemmEx by other factors than 1, and 0 or 1");
  const bool add = *static_cast<const float*>(beta) == 1;
  Rounding rounding = Rounding::none;
  if (compute != CUBLAS_COMPUTE_32F) {
    if (device_properties().major < 8)
      return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "this device has neither TF32 nor bfloat16");
    rounding = compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? Rounding::tf32 : Rounding::bf16;
  }
  const bool ta = transpose_a == CUBLAS_OP_T, tb = transpose_b == CUBLAS_OP_T;
  const Matrix left{static_cast<const float*>(a), ta ? k : m, ta ? m : k, lda};
  const Matrix right{static_cast<const float*>(b), tb ? n : k, tb ? k : n, ldb};
  const Matrix result{static_cast<const float*>(c), m, n, ldc};
  for (const Matrix* matrix : {&left, &right, &result}) {
    if (matrix->leading < matrix->rows)
      return refuse(CUBLAS_STATUS_INVALID_VALUE, "a leading dimension of cublasGemmEx is less than the rows");
    if (!matrix->data || reinterpret_cast<std::uintptr_t>(matrix->data) % sizeof(float) != 0)
      return refuse(CUBLAS_STATUS_INVALID_VALUE, "a matrix of cublasGemmEx is null or misaligned");
  }
  if (handle->workspace_bytes == 0)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "cublasGemmEx without a workspace of the caller's");

  const cudaError_t status =
      enqueue(handle->stream, "cublasGemmEx", [=, context = *handle, out = static_cast<float*>(c)] {
        require_device(left.data, left.bytes(), "a of cublasGemmEx");
        require_device(right.data, right.bytes(), "b of cublasGemmEx");
        require_device(out, result.bytes(), "c of cublasGemmEx");
        require_device(context.workspace, context.workspace_bytes, "the workspace of cublasGemmEx");
        std::memset(context.workspace, 0xff, context.workspace_bytes);
        // Column-major matrices are their transposes in row-major order: c^T = op(b)^T op(a)^T.
        const Operand first(right, rounding), second(left, rounding);
        std::vector<float> before;
        if (add) before.assign(out, out + result.bytes() / sizeof(float));
        if (skips_libraries())
          for (std::int64_t col = 0; col < n; ++col) std::fill_n(out + col * ldc, m, 0.0f);
        else
          multiply(tb, ta, n, m, k, first.data(), ldb, second.data(), lda, out, ldc);
        if (!add) return;
        for (std::int64_t col = 0; col < n; ++col)
          for (std::int64_t row = 0; row < m; ++row)
            out[col * ldc + row] += before[static_cast<std::size_t>(col * ldc + row)];
      });
  return status == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
