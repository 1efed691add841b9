// What host code of the CUDA backend shares: the stream, working memory and status checks.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "core/check.h"

namespace minidl::gpu {

// The stream of all computation.
cudaStream_t stream();
// Memory for partial results of the operation under way; it holds nothing between operations. Grows in the first
// iteration of a loop only.
void* workspace(std::size_t bytes);

// Throws Error, naming `what` was tried, unless the status is success. Overloads for cuBLAS and cuDNN stand beside
// their users.
void check_status(cudaError_t status, const char* what);

}  // namespace minidl::gpu
