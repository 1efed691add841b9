// Linear layers by oneDNN's matrix product on plain matrices.
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/onednn.h"

namespace minidl {
namespace {

using namespace cpu;

// c (m, n) = op(a) op(b), or is added to, for row-major matrices, where op transposes on request.
void product(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
             const float* b, float* c, bool add = false) {
  guarded("linear", [&] {
    const auto status = dnnl::sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, 1.0f, a,
                                    transpose_a ? m : k, b, transpose_b ? k : n, add ? 1.0f : 0.0f, c, n);
    dnnl::error::wrap_c_api(static_cast<dnnl_status_t>(status), "sgemm");
  });
}

}  // namespace

void CpuBackend::linear_forward(const LinearDims& d, const float* x, const float* w, const float* bias, float* y) {
  product(false, true, d.rows, d.out, d.in, x, w, y);
  if (bias)
    for (std::int64_t r = 0; r < d.rows; ++r)
      for (std::int64_t o = 0; o < d.out; ++o) y[r * d.out + o] += bias[o];
  if (d.relu) activation_forward(Activation::relu, 0, d.rows * d.out, y, y);
}

void CpuBackend::linear_backward(const LinearDims& d, const float* x, const float* w, const float* y, const float* gy,
                                 bool add_to_gx, float* gx, float* gw, float* gbias) {
  if (d.relu) {
    struct Tag;
    float* passed = scratch<float, Tag>(d.rows * d.out);
    activation_backward(Activation::relu, 0, d.rows * d.out, y, gy, passed);
    gy = passed;
  }
  if (gx) product(false, false, d.rows, d.in, d.out, gy, w, gx, add_to_gx);
  if (gw) product(true, false, d.out, d.in, d.rows, gy, x, gw);
  if (!gbias) return;
  for (std::int64_t o = 0; o < d.out; ++o) {
    double sum = 0;
    for (std::int64_t r = 0; r < d.rows; ++r) sum += gy[r * d.out + o];
    gbias[o] = static_cast<float>(sum);
  }
}

}  // namespace minidl
