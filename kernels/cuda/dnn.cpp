#include "kernels/cuda/dnn.h"

namespace minidl::gpu {

void check_status(cublasStatus_t status, const char* what) {
  check(status == CUBLAS_STATUS_SUCCESS, "cublas: ", what, " failed: ", cublasGetStatusString(status));
}

void check_status(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  char detail[256] = "";
  cudnnGetLastErrorString(detail, sizeof detail);
  fail("cudnn: ", what, " failed: ", cudnnGetErrorString(status), *detail ? ": " : "", detail);
}

cublasHandle_t blas() {
  static PerThread<cublasHandle_t> handles;
  return handles.mine([] {
    cublasHandle_t made = nullptr;
    check_status(cublasCreate(&made), "starting cuBLAS");
    check_status(cublasSetStream(made, stream()), "setting the stream");
    return made;
  });
}

cudnnHandle_t dnn() {
  static const cudnnHandle_t handle = [] {
    cudnnHandle_t made = nullptr;
    check_status(cudnnCreate(&made), "starting cuDNN");
    check_status(cudnnSetStream(made, stream()), "setting the stream");
    return made;
  }();
  return handle;
}

}  // namespace minidl::gpu
