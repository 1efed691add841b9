// The calls of the runtime that are neither streams nor graphs: devices, errors, memory and launches.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/simt/block.h"
#include "tests/simt/faults.h"
#include "tests/simt/memory.h"
#include "tests/simt/settings.h"
#include "tests/simt/stream.h"
#include "tests/simt/symbols.h"

namespace simt {

Counters& device_counters();

namespace {

thread_local cudaError_t last_error = cudaSuccess;

// Keeps what a call returns for cudaGetLastError.
cudaError_t returned(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}

constexpr std::size_t kStaticShared = 48 << 10;
constexpr std::size_t kMostParameters = 32764;

cudaDeviceProp default_properties() {
  cudaDeviceProp p = {};
  std::strcpy(p.name, "emulated device");
  p.totalGlobalMem = device_bytes_total();
  p.sharedMemPerBlock = kStaticShared;
  p.sharedMemPerBlockOptin = kStaticShared;
  p.warpSize = 32;
  p.maxThreadsPerBlock = 1024;
  p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024;
  p.maxThreadsDim[2] = 64;
  p.maxGridSize[0] = 2147483647;
  p.maxGridSize[1] = p.maxGridSize[2] = 65535;
  p.major = 9;
  p.multiProcessorCount = 16;
  p.maxThreadsPerMultiProcessor = 2048;
  p.memoryBusWidth = 5120;
  p.l2CacheSize = 50 << 20;
  return p;
}

// Empty, or why a device would refuse the launch.
std::string refusal(const cudaLaunchConfig_t& config, std::size_t parameter_bytes) {
  const cudaDeviceProp& p = device_properties();
  const dim3 g = config.gridDim, b = config.blockDim;
  const auto text = [](dim3 d) {
    return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
  };
  const auto beyond = [](unsigned value, int most) { return value == 0 || value > static_cast<unsigned>(most); };
  if (beyond(g.x, p.maxGridSize[0]) || beyond(g.y, p.maxGridSize[1]) || beyond(g.z, p.maxGridSize[2]))
    return "a grid of " + text(g) + " blocks";
  if (beyond(b.x, p.maxThreadsDim[0]) || beyond(b.y, p.maxThreadsDim[1]) || beyond(b.z, p.maxThreadsDim[2]) ||
      std::uint64_t{b.x} * b.y * b.z > static_cast<std::uint64_t>(p.maxThreadsPerBlock))
    return "a block of " + text(b) + " threads";
  if (config.dynamicSmemBytes != 0)
    return std::to_string(config.dynamicSmemBytes) + " bytes of dynamic shared memory, which the emulation lacks";
  if (config.numAttrs != 0) return "launch attributes, which the emulation lacks";
  if (parameter_bytes > kMostParameters) return std::to_string(parameter_bytes) + " bytes of parameters";
  return "";
}

enum class Where { device, pinned, pageable };

Where where(const void* pointer, std::size_t bytes) {
  if (in_arena(pointer)) return Where::device;
  return is_pinned(pointer, bytes) ? Where::pinned : Where::pageable;
}

// Empty, or what is wrong with a copy of this kind.
std::string check_copy(const void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const bool to_device = in_arena(to), from_device = in_arena(from);
  const bool wrong = (kind == cudaMemcpyHostToDevice && (!to_device || from_device)) ||
                     (kind == cudaMemcpyDeviceToHost && (to_device || !from_device)) ||
                     (kind == cudaMemcpyDeviceToDevice && (!to_device || !from_device)) ||
                     (kind == cudaMemcpyHostToHost && (to_device || from_device));
  if (wrong)
    return std::string("a copy from ") + (from_device ? "device" : "host") + " to " + (to_device ? "device" : "host") +
           " memory that says it is another kind";
  if (to_device && !is_device(to, bytes))
    return "a copy of " + std::to_string(bytes) + " bytes to " + describe_address(to);
  if (from_device && !is_device(from, bytes))
    return "a copy of " + std::to_string(bytes) + " bytes from " + describe_address(from);
  return "";
}

cudaError_t copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream, bool wait) {
  const Lock lock;
  if (device_error() != cudaSuccess) return device_error();
  CUstream_st* s = device_stream(stream);
  if (!s) return refuse(cudaErrorInvalidResourceHandle, "cudaMemcpyAsync: no such stream");
  if (wait)
    if (const cudaError_t e = device_refuse_in_capture("cudaMemcpy")) return e;
  if (bytes == 0) return cudaSuccess;
  if (const std::string wrong = check_copy(to, from, bytes, kind); !wrong.empty())
    return refuse(cudaErrorInvalidValue, wrong);
  const bool pageable = where(to, bytes) == Where::pageable || where(from, bytes) == Where::pageable;
  if (pageable && s->capture) {
    s->capture->invalid = true;
    return refuse(cudaErrorStreamCaptureUnsupported, "a copy from or to pageable host memory cannot be captured");
  }
  Operation operation;
  operation.kind = Operation::Kind::copy;
  operation.name = "a copy";
  operation.bytes = bytes;
  operation.run = [=] {
    if (in_arena(to)) require_device(to, bytes, "the destination of a copy");
    if (in_arena(from)) require_device(from, bytes, "the source of a copy");
    std::memmove(to, from, bytes);
  };
  const cudaError_t result = device_submit(s, std::move(operation));
  // A copy of pageable memory has read or written it when the call returns.
  return result == cudaSuccess && (wait || pageable) ? device_wait(s, s->submitted) : result;
}

cudaError_t set(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  const Lock lock;
  if (device_error() != cudaSuccess) return device_error();
  CUstream_st* s = device_stream(stream);
  if (!s) return refuse(cudaErrorInvalidResourceHandle, "cudaMemsetAsync: no such stream");
  if (bytes == 0) return cudaSuccess;
  if (!is_device(to, bytes))
    return refuse(cudaErrorInvalidValue,
                  "cudaMemsetAsync of " + std::to_string(bytes) + " bytes at " + describe_address(to));
  Operation operation;
  operation.kind = Operation::Kind::set;
  operation.name = "cudaMemsetAsync";
  operation.run = [=] {
    require_device(to, bytes, "cudaMemsetAsync");
    std::memset(to, value, bytes);
  };
  return device_submit(s, std::move(operation));
}

}  // namespace

cudaDeviceProp& device_properties() {
  static cudaDeviceProp properties = default_properties();
  return properties;
}

void set_device_memory(std::size_t bytes) {
  const Lock lock;
  set_device_limit(bytes);
  device_properties().totalGlobalMem = device_bytes_total();
}

bool is_device(const void* pointer, std::size_t bytes) {
  const Lock lock;
  const Allocation* a = allocation_at(pointer);
  return a && static_cast<const char*>(pointer) + bytes <= a->address + a->bytes;
}

void require_device(const void* pointer, std::size_t bytes, const char* what) {
  if (!is_device(pointer, bytes))
    throw Fault(cudaErrorIllegalAddress, std::string(what) + ": needs " + std::to_string(bytes) +
                                             " bytes of device memory, got " + describe_address(pointer));
  open_allocation(pointer);  // a stand-in may have further threads, whose faults nobody handles
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::size_t parameter_bytes,
                   std::shared_ptr<const Call> call) {
  const Lock lock;
  if (device_error() != cudaSuccess) return returned(device_error());
  Operation operation;
  operation.kind = Operation::Kind::kernel;
  operation.name = function_name(kernel);
  CUstream_st* stream = device_stream(config.stream);
  if (!stream) return returned(refuse(cudaErrorInvalidResourceHandle, operation.name + ": no such stream"));
  if (const std::string why = refusal(config, parameter_bytes); !why.empty())
    return returned(refuse(cudaErrorInvalidConfiguration, operation.name + ": launched with " + why));
  const dim3 g = config.gridDim, b = config.blockDim;
  operation.blocks = std::uint64_t{g.x} * g.y * g.z;
  operation.threads = operation.blocks * b.x * b.y * b.z;
  operation.run = [=, name = operation.name, call = std::move(call)] { run_grid(name, g, b, *call); };
  return returned(device_submit(stream, std::move(operation)));
}

cudaError_t function_attributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  return device_error();
}

cudaError_t set_function_attribute(const void*, cudaFuncAttribute, int) { return device_error(); }

cudaError_t occupancy(int* blocks, const void*, int block_size, std::size_t) {
  *blocks = std::max(1, device_properties().maxThreadsPerMultiProcessor / std::max(1, block_size));
  return device_error();
}

}  // namespace simt

using namespace simt;

// --- devices and errors ---------------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  *count = visible && *visible == '\0' ? 0 : 1;
  if (*count == 0) return returned(cudaErrorNoDevice);
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : returned(refuse(cudaErrorInvalidDevice, "cudaSetDevice: there is device 0 only"));
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return returned(refuse(cudaErrorInvalidDevice, "there is device 0 only"));
  *properties = device_properties();
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return returned(refuse(cudaErrorInvalidDevice, "there is device 0 only"));
  const cudaDeviceProp& p = device_properties();
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = p.maxThreadsPerBlock;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(p.sharedMemPerBlock);
      break;
    case cudaDevAttrWarpSize:
      *value = p.warpSize;
      break;
    case cudaDevAttrClockRate:
      *value = 1'500'000;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = p.multiProcessorCount;
      break;
    case cudaDevAttrMemoryClockRate:
      *value = 2'600'000;
      break;
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = p.memoryBusWidth;
      break;
    case cudaDevAttrL2CacheSize:
      *value = p.l2CacheSize;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = p.maxThreadsPerMultiProcessor;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = p.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = p.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(p.sharedMemPerBlockOptin);
      break;
  }
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  const Lock lock;
  if (const cudaError_t e = device_refuse_in_capture("cudaDeviceSynchronize")) return returned(e);
  if (const cudaError_t e = device_drain_all()) return returned(e);
  if (const std::string wrong = check_canaries(); !wrong.empty())
    return returned(device_fail(cudaErrorIllegalAddress, wrong));
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = device_error() != cudaSuccess ? device_error() : last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return device_error() != cudaSuccess ? device_error() : last_error; }

namespace {

struct ErrorText {
  cudaError_t error;
  const char *name, *text;
};

constexpr ErrorText kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidDevicePointer, "cudaErrorInvalidDevicePointer", "invalid device pointer"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver", "driver version is insufficient for runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice", "no kernel image is available for the device"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources", "too many resources requested for launch"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched", "capture was not initiated in this stream"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
};

const ErrorText* find_error(cudaError_t error) {
  for (const ErrorText& e : kErrors)
    if (e.error == error) return &e;
  return nullptr;
}

}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
  const ErrorText* found = find_error(error);
  return found ? found->name : "cudaErrorUnknown";
}

const char* cudaGetErrorString(cudaError_t error) {
  const ErrorText* found = find_error(error);
  return found ? found->text : "unknown error";
}

// --- memory ---------------------------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  const Lock lock;
  *memory = nullptr;
  if (device_error() != cudaSuccess) return returned(device_error());
  if (const cudaError_t e = device_refuse_in_capture("cudaMalloc")) return returned(e);
  if (bytes == 0) return cudaSuccess;
  watch_faults();
  *memory = allocate_device(bytes);
  if (!*memory) return returned(cudaErrorMemoryAllocation);
  ++device_counters().allocations;
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  const Lock lock;
  if (const cudaError_t e = device_refuse_in_capture("cudaFree")) return returned(e);
  if (!memory) return returned(device_error());
  device_drain_all();  // as cudaFree waits for the device
  const bool known = is_device(memory, 0);
  if (const std::string wrong = free_device(memory); !wrong.empty())
    return returned(known ? device_fail(cudaErrorIllegalAddress, wrong) : refuse(cudaErrorInvalidValue, wrong));
  return returned(device_error());
}

cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  return cudaHostAlloc(memory, bytes, cudaHostAllocDefault);
}

cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  const Lock lock;
  *memory = nullptr;
  if (device_error() != cudaSuccess) return returned(device_error());
  if (const cudaError_t e = device_refuse_in_capture("cudaHostAlloc")) return returned(e);
  *memory = allocate_pinned(bytes);
  return *memory ? cudaSuccess : returned(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void* memory) {
  const Lock lock;
  if (const cudaError_t e = device_refuse_in_capture("cudaFreeHost")) return returned(e);
  if (!memory) return cudaSuccess;
  device_drain_all();
  if (!free_pinned(memory)) return returned(refuse(cudaErrorInvalidValue, "cudaFreeHost of memory that is not pinned"));
  return returned(device_error());
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  const Lock lock;
  *free = device_bytes_free();
  *total = device_bytes_total();
  return returned(device_error());
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return returned(copy(to, from, bytes, kind, nullptr, true));
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return returned(copy(to, from, bytes, kind, stream, false));
}

cudaError_t cudaMemset(void* to, int value, std::size_t bytes) { return returned(set(to, value, bytes, nullptr)); }

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return returned(set(to, value, bytes, stream));
}
