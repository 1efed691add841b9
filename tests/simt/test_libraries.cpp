// The emulated cuBLAS and cuDNN: that they compute what the CUDA backend asks for, and refuse what the libraries would
// refuse, or be free to answer with anything.
#include <cublas_v2.h>
#include <cudnn.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <random>
#include <set>

#include "kernels/cuda/conv_plan.h"
#include "kernels/cuda/operands.h"
#include "tests/simt/library_math.h"
#include "tests/simt/simt.h"

using namespace minidl;
using namespace minidl::gpu;
using Catch::Matchers::Contains;

namespace {

std::vector<float> random_values(std::int64_t count, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(engine);
  return values;
}

// Memory of the device.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::size_t count) : count_(count) {
    REQUIRE(cudaMalloc(&data_, std::max<std::size_t>(count, 1) * sizeof(T)) == cudaSuccess);
  }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
    REQUIRE(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice) == cudaSuccess);
  }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> host(count_);
    REQUIRE(cudaMemcpy(host.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess);
    return host;
  }

 private:
  std::size_t count_;
  T* data_ = nullptr;
};

double relative_error(const std::vector<float>& a, const std::vector<double>& b) {
  double difference = 0, size = 0;
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(difference / size);
}

// Errors are meant to happen here, so they are not to be printed, nor to outlive their test.
struct Quiet {
  Quiet() { simt::set_messages_to_stderr(false); }
  ~Quiet() {
    simt::reset();
    simt::set_messages_to_stderr(true);
    simt::device_properties().major = major;
  }
  int major = simt::device_properties().major;
};

std::string last_detail() {
  char text[256];
  cudnnGetLastErrorString(text, sizeof text);
  return text;
}

// --- convolution

ImageDims image(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) { return {n, c, h, w, c}; }

ConvDims conv(ImageDims in, std::int64_t out_channels, std::int64_t kernel, std::int64_t stride, std::int64_t padding) {
  const auto out = [&](std::int64_t size) { return (size + 2 * padding - kernel) / stride + 1; };
  return {in, image(in.n, out_channels, out(in.h), out(in.w)), kernel, stride, padding};
}

std::int64_t weights(const ConvDims& d) { return d.out.c * d.in.c * d.kernel * d.kernel; }

// The operand that a pass computes, from the two others.
std::vector<double> naive(ConvPass pass, const ConvDims& d, const std::vector<float>& x, const std::vector<float>& w,
                          const std::vector<float>& y) {
  const std::int64_t sizes[] = {d.out.size(), d.in.size(), weights(d)};
  std::vector<double> result(static_cast<std::size_t>(sizes[static_cast<int>(pass)]));
  const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  for (std::int64_t n = 0; n < d.out.n; ++n)
    for (std::int64_t o = 0; o < d.out.c; ++o)
      for (std::int64_t c = 0; c < d.in.c; ++c)
        for (std::int64_t oy = 0; oy < d.out.h; ++oy)
          for (std::int64_t ox = 0; ox < d.out.w; ++ox)
            for (std::int64_t ky = 0; ky < d.kernel; ++ky)
              for (std::int64_t kx = 0; kx < d.kernel; ++kx) {
                const std::int64_t iy = oy * d.stride + ky - d.padding, ix = ox * d.stride + kx - d.padding;
                if (iy < 0 || iy >= d.in.h || ix < 0 || ix >= d.in.w) continue;
                const std::size_t i = at(d.in.index(n, c, iy, ix)), j = at(d.out.index(n, o, oy, ox)),
                                  k = at(((o * d.in.c + c) * d.kernel + ky) * d.kernel + kx);
                if (pass == ConvPass::forward) result[j] += static_cast<double>(x[i]) * w[k];
                if (pass == ConvPass::backward_data) result[i] += static_cast<double>(y[j]) * w[k];
                if (pass == ConvPass::backward_weights) result[k] += static_cast<double>(y[j]) * x[i];
              }
  return result;
}

// A handle of cuDNN on a stream of its own.
struct Dnn {
  cudaStream_t stream = nullptr;
  cudnnHandle_t handle = nullptr;
  Dnn() {
    REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    REQUIRE(cudnnCreate(&handle) == CUDNN_STATUS_SUCCESS);
    REQUIRE(cudnnSetStream(handle, stream) == CUDNN_STATUS_SUCCESS);
  }
  ~Dnn() {
    cudnnDestroy(handle);
    cudaStreamDestroy(stream);
  }
  std::vector<ConvPlan> plans(const ConvUse& use) const { return conv_plans({.handle = handle}, use, 100); }
};

constexpr ConvPass kPasses[] = {ConvPass::forward, ConvPass::backward_data, ConvPass::backward_weights};

std::set<std::string> names(const std::vector<ConvPlan>& plans) {
  std::set<std::string> set;
  for (const ConvPlan& plan : plans) set.insert(plan.algorithm().substr(0, plan.algorithm().find("engine") + 8));
  return set;
}

// Operands of a small convolution on the device.
struct Operands {
  ConvDims dims = conv(image(2, 5, 7, 9), 4, 3, 2, 1);
  ConvUse use{ConvPass::forward, dims, false, Precision::fp32};
  Buffer<float> x{random_values(dims.in.size(), 1)}, w{random_values(weights(dims), 2)},
      y{random_values(dims.out.size(), 3)};
};

// A plan that wants a workspace.
const ConvPlan& with_workspace(const std::vector<ConvPlan>& plans) {
  return *std::find_if(plans.begin(), plans.end(), [](const ConvPlan& plan) { return plan.workspace() > 0; });
}

}  // namespace

TEST_CASE("emulated cuDNN: every plan computes its pass", "[simt][libraries]") {
  const Dnn dnn;
  const ConvDims cases[] = {conv(image(2, 5, 7, 9), 4, 3, 2, 1), conv(image(1, 1, 4, 4), 1, 4, 1, 0),
                            conv(image(1, 3, 9, 8), 17, 4, 2, 0), conv(image(3, 8, 1, 1), 16, 1, 1, 0),
                            conv(image(1, 33, 5, 6), 31, 3, 1, 0)};
  for (const ConvDims& d : cases)
    for (const ConvPass pass : kPasses)
      for (const Precision precision : {Precision::fp32, Precision::tf32}) {
        const auto x = random_values(d.in.size(), 1), w = random_values(weights(d), 2),
                   y = random_values(d.out.size(), 3);
        const auto expected = naive(pass, d, x, w, y);
        for (const ConvPlan& plan : dnn.plans({pass, d, false, precision})) {
          INFO(plan.algorithm() << ", pass " << static_cast<int>(pass));
          const Buffer<float> dx(x), dw(w), dy(y);
          const Buffer<char> workspace(plan.workspace());
          REQUIRE(plan.execute(dnn.handle, dx.data(), dw.data(), dy.data(), workspace.data()) == CUDNN_STATUS_SUCCESS);
          REQUIRE(cudaStreamSynchronize(dnn.stream) == cudaSuccess);
          const auto& result = pass == ConvPass::forward ? dy : pass == ConvPass::backward_data ? dx : dw;
          CHECK(relative_error(result.values(), expected) < (precision == Precision::fp32 ? 1e-6 : 2e-3));
        }
      }
}

TEST_CASE("emulated cuDNN: only reproducible engines of enough precision are planned", "[simt][libraries]") {
  const Quiet quiet;
  const Dnn dnn;
  const ConvDims d = Operands().dims;
  for (const ConvPass pass : kPasses) {
    const auto exact = dnn.plans({pass, d, false, Precision::fp32}),
               tf32 = dnn.plans({pass, d, false, Precision::tf32});
    CHECK(names(exact) == std::set<std::string>{"cudnn 91900 engine 0", "cudnn 91900 engine 1"});
    CHECK(names(tf32) == std::set<std::string>{"cudnn 91900 engine 0", "cudnn 91900 engine 1", "cudnn 91900 engine 2"});
    CHECK(tf32[0].algorithm() == "cudnn 91900 engine 2 2=1");
    CHECK(exact.size() == 4);  // each configuration once
    for (const ConvPlan& plan : tf32) {
      const auto again = conv_plan({.handle = dnn.handle}, {pass, d, false, Precision::tf32}, plan.algorithm());
      REQUIRE(again.has_value());
      CHECK(again->algorithm() == plan.algorithm());
      CHECK(again->workspace() == plan.workspace());
    }
    for (const char* unknown :
         {"", "direct", "cudnn 91900 engine 99", "cudnn 90000 engine 0", "cudnn 91900 engine 1 2=4",
          "cudnn 91900 engine 0 2=0", "cudnn 91900 engine 1 2=", "cudnn 91900 engine 1 2=1x",
          "cudnn 91900 engine 1 3=1", "cudnn 91900 engine 2 2=1", "cudnn 91900 engine 3", "cudnn 91900 engine 5 2=0"})
      CHECK_FALSE(conv_plan({.handle = dnn.handle}, {pass, d, false, Precision::fp32}, unknown).has_value());
  }
  simt::device_properties().major = 7;
  CHECK(names(dnn.plans({ConvPass::forward, d, false, Precision::tf32})).size() == 2);
  CHECK(dnn.plans({ConvPass::forward, d, false, Precision::bf16}).empty());
}

TEST_CASE("emulated cuDNN: bfloat16 tensors are read and written", "[simt][libraries]") {
  const Dnn dnn;
  const ConvDims d = Operands().dims;
  const auto to_bf16 = [](const std::vector<float>& values) {
    std::vector<std::uint16_t> rounded;
    for (const float value : values) rounded.push_back(simt::to_bf16(value));
    return rounded;
  };
  const auto x = random_values(d.in.size(), 1), w = random_values(weights(d), 2);
  const Buffer<std::uint16_t> dx(to_bf16(x)), dw(to_bf16(w)), dy(static_cast<std::size_t>(d.out.size()));
  const auto plans = dnn.plans({ConvPass::forward, d, false, Precision::bf16});
  REQUIRE_FALSE(plans.empty());
  const Buffer<char> workspace(plans[0].workspace());
  REQUIRE(plans[0].execute(dnn.handle, dx.data(), dw.data(), dy.data(), workspace.data()) == CUDNN_STATUS_SUCCESS);
  REQUIRE(cudaStreamSynchronize(dnn.stream) == cudaSuccess);
  std::vector<float> y;
  for (const std::uint16_t value : dy.values()) y.push_back(simt::from_bf16(value));
  const double error = relative_error(y, naive(ConvPass::forward, d, x, w, {}));
  CHECK(error < 1e-2);
  CHECK(error > 1e-4);
}

TEST_CASE("emulated cuDNN refuses operands that a GPU would not survive", "[simt][libraries]") {
  const Quiet quiet;
  const Dnn dnn;
  const Operands o;
  const auto plans = dnn.plans(o.use);
  const ConvPlan& plan = with_workspace(plans);
  const Buffer<char> workspace(plan.workspace()), small(plan.workspace() - 4);
  std::vector<float> host(4096);

  const auto refused_at_once = [&](const void* x, const void* w, const void* y, void* memory) {
    const cudnnStatus_t status = plan.execute(dnn.handle, x, w, y, memory);
    CHECK(cudaStreamSynchronize(dnn.stream) == cudaSuccess);
    return status;
  };
  CHECK(refused_at_once(nullptr, o.w.data(), o.y.data(), workspace.data()) == CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
  CHECK(refused_at_once(o.x.data(), o.w.data(), o.y.data(), nullptr) == CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
  CHECK(refused_at_once(o.x.data() + 1, o.w.data(), o.y.data(), workspace.data()) ==
        CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER);
  CHECK_THAT(last_detail(), Contains("aligned to 16 bytes"));
  CHECK(refused_at_once(o.x.data(), o.w.data(), o.y.data(), workspace.data() + 4) ==
        CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER);

  const auto fails = [&](const void* x, const void* w, const void* y, void* memory, const char* why) {
    const bool at_once = plan.execute(dnn.handle, x, w, y, memory) != CUDNN_STATUS_SUCCESS;
    CHECK((cudaStreamSynchronize(dnn.stream) != cudaSuccess || at_once));
    CHECK_THAT(simt::last_message(), Contains(why));
    simt::reset();
  };
  fails(o.x.data(), o.w.data(), o.y.data(), small.data(), "workspace of a convolution");
  fails(host.data(), o.w.data(), o.y.data(), workspace.data(), "x of a convolution");
  fails(o.x.data(), o.w.data(), host.data(), workspace.data(), "y of a convolution");
  fails(o.w.data(), o.w.data(), o.y.data(), workspace.data(), "x of a convolution");  // too small for it
  fails(o.x.data(), o.w.data(), o.x.data(), workspace.data(), "overlaps");
  const Buffer<float> joint(static_cast<std::size_t>(o.dims.in.size()) + plan.workspace());
  fails(joint.data(), o.w.data(), o.y.data(), joint.data() + 4, "overlaps");
  CHECK(plan.execute(dnn.handle, o.x.data(), o.w.data(), o.y.data(), workspace.data()) == CUDNN_STATUS_SUCCESS);
  CHECK(cudaStreamSynchronize(dnn.stream) == cudaSuccess);

  const Dnn other;
  CHECK(plan.execute(other.handle, o.x.data(), o.w.data(), o.y.data(), workspace.data()) == CUDNN_STATUS_BAD_PARAM);
}

TEST_CASE("emulated cuDNN refuses descriptors that are incomplete or do not fit", "[simt][libraries]") {
  const Quiet quiet;
  using Numbers = std::vector<std::int64_t>;
  const auto tensor = [](const Numbers& sizes, const Numbers& strides, std::int64_t name = 1) {
    Descriptor d(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, name)
        .set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_DATA_FLOAT)
        .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, std::int64_t{16})
        .set(CUDNN_ATTR_TENSOR_DIMENSIONS, std::span<const std::int64_t>(sizes))
        .set(CUDNN_ATTR_TENSOR_STRIDES, std::span<const std::int64_t>(strides));
    return d;
  };
  const Numbers sizes{2, 3, 4, 5}, strides{60, 1, 15, 3};
  CHECK(tensor(sizes, strides).try_finalize() == CUDNN_STATUS_SUCCESS);
  CHECK(tensor(sizes, {60, 1, 16, 3}).try_finalize() == CUDNN_STATUS_NOT_SUPPORTED_LAYOUT);
  CHECK(tensor(sizes, {60, 1, 12, 3}).try_finalize() == CUDNN_STATUS_NOT_SUPPORTED_LAYOUT);
  CHECK(tensor({2, 0, 4, 5}, strides).try_finalize() == CUDNN_STATUS_BAD_PARAM);

  Descriptor incomplete(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  incomplete.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, std::int64_t{1});
  CHECK(incomplete.try_finalize() == CUDNN_STATUS_BAD_PARAM);
  CHECK_THROWS_WITH(incomplete.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, 1.0f), Contains("another type"));
  CHECK_THROWS_WITH(incomplete.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_HEUR_MODE_A), Contains("no attribute"));
  CHECK_THROWS_WITH(incomplete.set(CUDNN_ATTR_TENSOR_DIMENSIONS, std::int64_t{1}), Contains("length"));
  Descriptor done = tensor(sizes, strides);
  done.finalize("a tensor");
  CHECK_THROWS_WITH(done.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, std::int64_t{2}), Contains("any more"));
  CHECK(done.try_finalize() == CUDNN_STATUS_BAD_PARAM);

  // A plan asks for its descriptors itself: its dimensions are wrong here.
  const Dnn dnn;
  ConvUse use = Operands().use;
  use.dims.out.h += 1;
  CHECK_THROWS_WITH(dnn.plans(use), Contains("do not fit"));
  use = Operands().use;
  use.dims.out.n = 1;
  CHECK_THROWS_WITH(dnn.plans(use), Contains("do not fit"));

  Descriptor operation(CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
  CHECK_THROWS_WITH(operation.set(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, tensor(sizes, strides)),
                    Contains("not finalized"));
}

TEST_CASE("emulated libraries are recorded and replayed with the stream", "[simt][libraries]") {
  const Dnn dnn;
  const Operands o;
  const auto plans = dnn.plans(o.use);
  const ConvPlan& plan = with_workspace(plans);
  const Buffer<char> workspace(plan.workspace());
  const auto before = o.y.values();
  REQUIRE(cudaStreamBeginCapture(dnn.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK(plan.execute(dnn.handle, o.x.data(), o.w.data(), o.y.data(), workspace.data()) == CUDNN_STATUS_SUCCESS);
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamEndCapture(dnn.stream, &graph) == cudaSuccess);
  CHECK(o.y.values() == before);
  cudaGraphExec_t executable = nullptr;
  REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  REQUIRE(cudaGraphLaunch(executable, dnn.stream) == cudaSuccess);
  REQUIRE(cudaStreamSynchronize(dnn.stream) == cudaSuccess);
  CHECK(relative_error(o.y.values(), naive(ConvPass::forward, o.dims, o.x.values(), o.w.values(), {})) < 1e-6);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

TEST_CASE("emulated cuBLAS multiplies, and refuses what it cannot", "[simt][libraries]") {
  const Quiet quiet;
  constexpr std::int64_t kM = 5, kN = 7, kK = 33;
  constexpr std::size_t kWorkspace = 1 << 20;
  const auto a = random_values(kM * kK, 1), b = random_values(kK * kN, 2);
  const Buffer<float> da(a), db(b), dc(static_cast<std::size_t>(kM * kN));
  const Buffer<char> workspace(kWorkspace);
  cudaStream_t stream = nullptr;
  cublasHandle_t handle = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  REQUIRE(cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(cublasSetStream(handle, stream) == CUBLAS_STATUS_SUCCESS);
  // Column-major.
  const auto multiply = [&](cublasOperation_t ta, cublasOperation_t tb, std::int64_t lda, std::int64_t ldb,
                            cublasComputeType_t compute, const float* left, float alpha = 1) {
    const float beta = 0;
    return cublasGemmEx_64(handle, ta, tb, kM, kN, kK, &alpha, left, CUDA_R_32F, lda, db.data(), CUDA_R_32F, ldb, &beta,
                           dc.data(), CUDA_R_32F, kM, compute, CUBLAS_GEMM_DEFAULT);
  };
  CHECK(multiply(CUBLAS_OP_N, CUBLAS_OP_N, kM, kK, CUBLAS_COMPUTE_32F, da.data()) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK_THAT(simt::last_message(), Contains("without a workspace"));
  CHECK(cublasSetWorkspace(handle, workspace.data() + 16, 1024) == CUBLAS_STATUS_INVALID_VALUE);
  REQUIRE(cublasSetWorkspace(handle, workspace.data(), kWorkspace) == CUBLAS_STATUS_SUCCESS);
  for (const auto& [compute, least, most] :
       {std::tuple{CUBLAS_COMPUTE_32F, 0.0, 1e-6}, std::tuple{CUBLAS_COMPUTE_32F_FAST_TF32, 1e-5, 1e-3},
        std::tuple{CUBLAS_COMPUTE_32F_FAST_16BF, 1e-3, 1e-2}})
    for (const bool ta : {false, true})
      for (const bool tb : {false, true}) {
        REQUIRE(multiply(ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb ? CUBLAS_OP_T : CUBLAS_OP_N, ta ? kK : kM, tb ? kN : kK,
                         compute, da.data()) == CUBLAS_STATUS_SUCCESS);
        REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
        std::vector<double> expected(kM * kN);
        for (std::int64_t i = 0; i < kM; ++i)
          for (std::int64_t j = 0; j < kN; ++j)
            for (std::int64_t k = 0; k < kK; ++k)
              expected[static_cast<std::size_t>(j * kM + i)] +=
                  static_cast<double>(a[static_cast<std::size_t>(ta ? i * kK + k : k * kM + i)]) *
                  b[static_cast<std::size_t>(tb ? k * kN + j : j * kK + k)];
        const double error = relative_error(dc.values(), expected);
        CHECK(error <= most);
        CHECK(error >= least);
      }

  const auto refused = [&](cublasStatus_t status, const char* why) {
    CHECK(status != CUBLAS_STATUS_SUCCESS);
    CHECK_THAT(simt::last_message(), Contains(why));
  };
  refused(multiply(CUBLAS_OP_N, CUBLAS_OP_N, kM - 1, kK, CUBLAS_COMPUTE_32F, da.data()), "leading dimension");
  refused(multiply(CUBLAS_OP_N, CUBLAS_OP_N, kM, kK, CUBLAS_COMPUTE_32F, da.data(), 2), "factors");
  refused(multiply(CUBLAS_OP_N, CUBLAS_OP_N, kM, kK, CUBLAS_COMPUTE_32F, nullptr), "null");
  multiply(CUBLAS_OP_N, CUBLAS_OP_N, kM, kK, CUBLAS_COMPUTE_32F, a.data());
  CHECK(cudaStreamSynchronize(stream) != cudaSuccess);
  CHECK_THAT(simt::last_message(), Contains("a of cublasGemmEx"));
  simt::reset();
  multiply(CUBLAS_OP_N, CUBLAS_OP_N, kM + 1, kK, CUBLAS_COMPUTE_32F, da.data());  // rows beyond the last allocation
  CHECK(cudaStreamSynchronize(stream) != cudaSuccess);
  simt::reset();
  REQUIRE(cublasSetWorkspace(handle, workspace.data(), kWorkspace + 1) == CUBLAS_STATUS_SUCCESS);
  multiply(CUBLAS_OP_N, CUBLAS_OP_N, kM, kK, CUBLAS_COMPUTE_32F, da.data());
  CHECK(cudaStreamSynchronize(stream) != cudaSuccess);
  CHECK_THAT(simt::last_message(), Contains("the workspace of cublasGemmEx"));
  simt::reset();
  REQUIRE(cublasSetStream(handle, stream) == CUBLAS_STATUS_SUCCESS);  // forgets the workspace
  refused(multiply(CUBLAS_OP_N, CUBLAS_OP_N, kM, kK, CUBLAS_COMPUTE_32F, da.data()), "without a workspace");
  REQUIRE(cublasSetWorkspace(handle, workspace.data(), kWorkspace) == CUBLAS_STATUS_SUCCESS);
  simt::device_properties().major = 7;
  refused(multiply(CUBLAS_OP_N, CUBLAS_OP_N, kM, kK, CUBLAS_COMPUTE_32F_FAST_TF32, da.data()), "neither TF32");
  CHECK(cublasDestroy(handle) == CUBLAS_STATUS_SUCCESS);
  CHECK(cublasDestroy(handle) == CUBLAS_STATUS_NOT_INITIALIZED);
  cudaStreamDestroy(stream);
}

TEST_CASE("operands: rounding, widening, biases and sums of rows", "[simt][libraries]") {
  struct Case {
    std::int64_t rows, cols;
  };
  for (const auto& [rows, cols] :
       {Case{1, 1}, Case{3, 31}, Case{257, 33}, Case{129, 3}, Case{5000, 5}, Case{9, 36}, Case{2, 2048}}) {
    INFO(rows << " x " << cols);
    const auto x = random_values(rows * cols, 1), bias = random_values(cols, 2), other = random_values(7, 3);
    const Buffer<float> dx(x), dbias(bias), dother(other), dy(x.size()), sums(bias.size());
    const Buffer<std::uint16_t> rounded(x.size()), rounded_other(other.size());
    round_to_bf16(rows * cols, dx.data(), rounded.data(), 7, dother.data(), rounded_other.data());
    widen_from_bf16(rows, cols, rounded.data(), dbias.data(), dy.data());
    REQUIRE(cudaStreamSynchronize(stream()) == cudaSuccess);
    const auto y = dy.values();
    for (std::size_t i = 0; i < x.size(); ++i) {
      CHECK(y[i] == simt::rounded(x[i], simt::Rounding::bf16) + bias[i % bias.size()]);
      if (i > 100) break;
    }
    CHECK(y.back() == simt::rounded(x.back(), simt::Rounding::bf16) + bias.back());
    CHECK(simt::from_bf16(rounded_other.values().back()) == simt::rounded(other.back(), simt::Rounding::bf16));

    std::vector<float> shifted{0};  // behind an address that is no multiple of 16
    shifted.insert(shifted.end(), x.begin(), x.end());
    const Buffer<float> unaligned(shifted);
    add_bias(rows, cols, dbias.data(), unaligned.data() + 1);
    add_bias(rows, cols, dbias.data(), dx.data());
    sum_rows(rows, cols, dx.data(), sums.data());
    REQUIRE(cudaStreamSynchronize(stream()) == cudaSuccess);
    std::vector<double> expected(bias.size());
    for (std::size_t i = 0; i < x.size(); ++i) expected[i % bias.size()] += x[i] + bias[i % bias.size()];
    CHECK(relative_error(sums.values(), expected) < 1e-6);
    const auto biased = dx.values(), biased_unaligned = unaligned.values();
    CHECK(std::equal(biased.begin(), biased.end(), biased_unaligned.begin() + 1));
    CHECK(biased[x.size() / 2] == x[x.size() / 2] + bias[x.size() / 2 % bias.size()]);
  }
}
