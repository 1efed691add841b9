// Stands in for kernels/cuda where libminidl is built without it.
#include "core/check.h"
#include "kernels/backend.h"

namespace minidl {

Backend& cuda_backend_of_this_build() {
  fail("device cuda: this build of libminidl has no CUDA backend; use --device cpu");
}

}  // namespace minidl
