// Elementwise functions over flat buffers; see map() for the division of the work. None launches anything for size 0.
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/loops.h"

namespace minidl {

using namespace gpu;

namespace {

// A NaN passes the kinked ones: a broken run must not look healthy.
struct Relu {
  __device__ float operator()(float x) const { return x < 0 ? 0.0f : x; }
};
struct LeakyRelu {
  float slope;
  __device__ float operator()(float x) const { return x > 0 ? x : x * slope; }
};
struct Tanh {
  __device__ float operator()(float x) const { return tanhf(x); }
};
struct Sigmoid {
  __device__ float operator()(float x) const { return 1.0f / (1.0f + expf(-x)); }
};

struct ReluBackward {
  __device__ float operator()(float y, float gy) const { return y > 0 ? gy : 0.0f; }
};
struct LeakyReluBackward {
  float slope;
  __device__ float operator()(float y, float gy) const { return y > 0 ? gy : gy * slope; }
};
struct TanhBackward {
  __device__ float operator()(float y, float gy) const { return gy * (1.0f - y * y); }
};
struct SigmoidBackward {
  __device__ float operator()(float y, float gy) const { return gy * (1.0f - y) * y; }
};

struct Constant {
  float value;
  __device__ float operator()() const { return value; }
};
struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Multiply {
  __device__ float operator()(float a, float b) const { return a * b; }
};
struct Scale {
  float factor;
  __device__ float operator()(float x) const { return factor * x; }
};
struct ScaleBy {
  const float* s;
  float factor = 0;
  __device__ void load() { factor = s[0]; }
  __device__ float operator()(float x) const { return factor * x; }
};

}  // namespace

void CudaBackend::activation_forward(Activation f, float slope, std::int64_t size, const float* x, float* y) {
  switch (f) {
    case Activation::relu:
      return map("relu", size, Relu{}, y, x);
    case Activation::leaky_relu:
      return map("leaky_relu", size, LeakyRelu{slope}, y, x);
    case Activation::tanh:
      return map("tanh", size, Tanh{}, y, x);
    case Activation::sigmoid:
      return map("sigmoid", size, Sigmoid{}, y, x);
  }
}

void CudaBackend::activation_backward(Activation f, float slope, std::int64_t size, const float* y, const float* gy,
                                      float* gx) {
  switch (f) {
    case Activation::relu:
      return map("relu backward", size, ReluBackward{}, gx, y, gy);
    case Activation::leaky_relu:
      return map("leaky_relu backward", size, LeakyReluBackward{slope}, gx, y, gy);
    case Activation::tanh:
      return map("tanh backward", size, TanhBackward{}, gx, y, gy);
    case Activation::sigmoid:
      return map("sigmoid backward", size, SigmoidBackward{}, gx, y, gy);
  }
}

void CudaBackend::fill(std::int64_t size, float value, float* y) { map("fill", size, Constant{value}, y); }

void CudaBackend::add(std::int64_t size, const float* a, const float* b, float* y) { map("add", size, Add{}, y, a, b); }

void CudaBackend::multiply(std::int64_t size, const float* a, const float* b, float* y) {
  map("multiply", size, Multiply{}, y, a, b);
}

void CudaBackend::scale(std::int64_t size, float factor, const float* x, float* y) {
  map("scale", size, Scale{factor}, y, x);
}

void CudaBackend::scale_by(std::int64_t size, const float* s, const float* x, float* y) {
  map("scale_by", size, ScaleBy{s}, y, x);
}

}  // namespace minidl
