// The real cuDNN and cuBLAS, as far as they go without a GPU: plans of every convolution of the networks for devices
// that are described by their properties. Its heuristics and its engines' checks see the descriptors that training
// makes.
#include <map>
#include <set>

#include "kernels/cuda/conv_plan.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace minidl::gpu;

namespace {

struct Device {
  const char* name;
  int version;  // compute capability times 100
  int processors;
  std::int64_t shared_memory, memory;  // of a block, at most, and in all
};
constexpr Device kDevices[] = {
    {"Tesla T4", 750, 40, 65536, std::int64_t{16} << 30},
    {"NVIDIA A100", 800, 108, 166912, std::int64_t{40} << 30},
    {"GeForce RTX 3090", 860, 82, 101376, std::int64_t{24} << 30},
    {"GeForce RTX 4090", 890, 128, 101376, std::int64_t{24} << 30},
    {"NVIDIA H100", 900, 132, 232448, std::int64_t{80} << 30},
    {"NVIDIA B200", 1000, 148, 232448, std::int64_t{180} << 30},
    {"GeForce RTX 5090", 1200, 170, 101376, std::int64_t{32} << 30},
};
constexpr const Device& kH100 = kDevices[4];

Descriptor description(const Device& d) {
  const std::string json = concat_text(
      R"({"version":1,"deviceName":")", d.name, R"(","deviceVer":)", d.version, R"(,"multiProcessorCount":)",
      d.processors, R"(,"maxSharedMemoryPerBlockOptin":)", d.shared_memory, R"(,"totalGlobalMem":)", d.memory,
      R"(,"warpSize":32,"maxSharedMemoryPerBlock":49152,"reservedSharedMemoryPerBlock":1024,"maxRegistersPerSM":65536,)"
      R"("maxCtasPerSM":16,"maxThreadsPerBlock":1024,"maxThreadsPerSM":1024,"regsPerBlock":65536,)"
      R"("smClockRateKHz":1500000,"memClockRateKHz":1500000,"l2CacheSize":4194304,"maxBlockSize":[1024,1024,64],)"
      R"("maxGridSize":[2147483647,65535,65535],"supportCoopLaunch":1,"pciDeviceId":0,"isTccDriver":0,)"
      R"("cudaDeviceId":0,"driverVer":13000})");
  Descriptor properties(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  properties.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, std::span<const char>(json))
      .finalize("describing a device");
  return properties;
}

ConvDims conv(std::int64_t n, std::int64_t in, std::int64_t side, std::int64_t out, std::int64_t kernel,
              std::int64_t stride = 1) {
  const std::int64_t smaller = (side - kernel) / stride + 1;
  return {{n, in, side, side, in}, {n, out, smaller, smaller, out}, kernel, stride, 0};
}

// The convolutions of generator and discriminators, whose padding comes before them; the same in the light and the full
// model, which differ in their linear layers.
std::set<ConvDims> convolutions(std::int64_t n, std::int64_t ch, std::int64_t side) {
  std::set<ConvDims> all;
  all.insert(conv(n, 3, side + 6, ch, 7));
  all.insert(conv(n, ch, side + 2, 2 * ch, 3, 2));
  all.insert(conv(n, 2 * ch, side / 2 + 2, 4 * ch, 3, 2));
  all.insert(conv(n, 4 * ch, side / 4 + 2, 4 * ch, 3));
  all.insert(conv(n, 8 * ch, side / 4, 4 * ch, 1));
  all.insert(conv(n, 4 * ch, side / 2 + 2, 2 * ch, 3));
  all.insert(conv(n, 2 * ch, side + 2, ch, 3));
  all.insert(conv(n, ch, side + 6, 3, 7));
  for (const int halvings : {3, 5}) {  // local and global discriminator
    std::int64_t channels = ch, at = side / 2;
    all.insert(conv(n, 3, side + 2, ch, 4, 2));
    for (int i = 1; i < halvings; ++i, channels *= 2, at /= 2)
      all.insert(conv(n, channels, at + 2, 2 * channels, 4, 2));
    all.insert(conv(n, channels, at + 2, 2 * channels, 4));
    all.insert(conv(n, 4 * channels, at - 1, 2 * channels, 1));
    all.insert(conv(n, 2 * channels, at + 1, 1, 4));
  }
  return all;
}

std::string text(const ConvUse& use) {
  const ConvDims& d = use.dims;
  return concat_text("pass ", static_cast<int>(use.pass), ", precision ", static_cast<int>(use.precision), ", ", d.in.n,
                     "x", d.in.c, "x", d.in.h, "x", d.in.w, " to ", d.out.c, " channels, kernel ", d.kernel,
                     ", stride ", d.stride, ", padding ", d.padding);
}

template <class F>
void for_each_use(const Device& device, const std::set<ConvDims>& dims, F f) {
  for (const ConvDims& d : dims)
    for (const ConvPass pass : {ConvPass::forward, ConvPass::backward_data, ConvPass::backward_weights})
      for (const Precision precision : {Precision::fp32, Precision::tf32, Precision::bf16}) {
        if (precision != Precision::fp32 && device.version < 800) continue;  // which set_precision refuses
        const ConvUse use{pass, d, false, precision};
        INFO(device.name << ": " << text(use));
        f(use);
      }
}

}  // namespace

TEST_CASE("cudnn: it has a plan for every convolution of the networks on every generation of devices", "[cuda]") {
  for (const Device& device : kDevices) {
    const Descriptor properties = description(device);
    std::map<Precision, std::size_t> workspace;
    for (const std::int64_t n : {1, 2})
      for_each_use(device, convolutions(n, 64, 256), [&](const ConvUse& use) {
        const auto plans = conv_plans({.description = &properties}, use, 1);
        REQUIRE(plans.size() == 1);
        workspace[use.precision] = std::max(workspace[use.precision], plans[0].workspace());
      });
    for (const auto& [precision, bytes] : workspace) {
      INFO(device.name << ", precision " << static_cast<int>(precision));
      CHECK(bytes < std::size_t{400} << 20);
    }
  }
}

TEST_CASE("cudnn: odd sizes, single channels and padding have plans too", "[cuda]") {
  const Device& device = kH100;
  const Descriptor properties = description(device);
  std::set<ConvDims> dims;
  for (const std::int64_t channels : {1, 3, 5, 31, 33, 2048})
    for (const std::int64_t padding : {0, 1})
      for (const std::int64_t stride : {1, 2}) {
        ConvDims d = conv(3, channels, 7 + 2 * padding, 33, 3, stride);
        d.in.h = d.in.w = 7;
        d.padding = padding;
        dims.insert(d);
      }
  dims.insert(conv(1, 1, 1, 1, 1));
  dims.insert(conv(1, 1, 7, 1, 7));
  for_each_use(device, dims,
               [&](const ConvUse& use) { CHECK(conv_plans({.description = &properties}, use, 1).size() == 1); });
}

TEST_CASE("cudnn: a plan's name gives the plan again", "[cuda]") {
  const Device& device = kH100;
  const Descriptor properties = description(device);
  const PlanTarget target{.description = &properties};
  for_each_use(device, {conv(1, 64, 66, 128, 4, 2), conv(1, 3, 70, 64, 7)}, [&](const ConvUse& use) {
    const auto plans = conv_plans(target, use, 16);
    CHECK(plans.size() >= 3);
    for (const ConvPlan& plan : plans) {
      INFO(plan.algorithm());
      const auto again = conv_plan(target, use, plan.algorithm());
      REQUIRE(again.has_value());
      CHECK(again->algorithm() == plan.algorithm());
      CHECK(again->workspace() == plan.workspace());
    }
    const std::string name = plans[0].algorithm();
    for (const std::string& unknown : {std::string(), std::string("direct"), "cudnn 1 " + name.substr(12),
                                       name + " 2=77777", name + " x", name.substr(0, 19) + "9999"})
      CHECK_FALSE(conv_plan(target, use, unknown).has_value());
  });
}

TEST_CASE("cudnn: float32 is planned without tensor cores", "[cuda]") {
  const Descriptor properties = description(kH100);
  const PlanTarget target{.description = &properties};
  const auto names = [&](Precision precision) {
    std::set<std::string> set;
    for (const ConvPlan& plan :
         conv_plans(target, {ConvPass::forward, conv(1, 256, 66, 256, 3), false, precision}, 100))
      set.insert(plan.algorithm());
    return set;
  };
  const auto exact = names(Precision::fp32), tf32 = names(Precision::tf32);
  CHECK(exact.size() < tf32.size());
  for (const std::string& name : exact) CHECK(tf32.contains(name));
}

TEST_CASE("cudnn: tensors that do not fit together are refused", "[cuda]") {
  const Descriptor properties = description(kH100);
  const ConvDims good = conv(1, 16, 9, 32, 3);
  const auto refused = [&](auto change) {
    ConvDims d = good;
    change(d);
    CHECK_THROWS_AS(conv_plans({.description = &properties}, {ConvPass::forward, d, false, Precision::fp32}, 1), Error);
  };
  refused([](ConvDims& d) { d.out.h += 1; });
  refused([](ConvDims& d) { d.out.n += 1; });
  refused([](ConvDims& d) { d.stride = 2; });
  refused([](ConvDims& d) { d.padding = 1; });
  refused([](ConvDims& d) { d.stride = 0; });
}

TEST_CASE("cuda: without a device the libraries say so", "[cuda]") {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) return;  // there is one
  cublasHandle_t blas = nullptr;
  cudnnHandle_t dnn = nullptr;
  CHECK_THROWS_WITH(check_status(cublasCreate(&blas), "starting cuBLAS"),
                    Catch::StartsWith("cublas: starting cuBLAS failed: "));
  CHECK_THROWS_WITH(check_status(cudnnCreate(&dnn), "starting cuDNN"),
                    Catch::StartsWith("cudnn: starting cuDNN failed: "));
}
