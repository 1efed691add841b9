// The device, its memory and recordings. Everything happens on one stream, so that memory which the pool hands out
// again is written only after its last reader is done; upload buffers (transfers.h), whose fillings have a stream of
// their own, keep to that order by events.
#include <algorithm>

#include "kernels/cuda/context.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/timing_event.h"
#include "kernels/memory_holder.h"

namespace minidl {
namespace {

constexpr int kOldestMajor = 7, kOldestMinor = 5;  // what the kernels are compiled for

class GraphRecording final : public Recording {
 public:
  GraphRecording(cudaGraphExec_t graph, cudaStream_t stream) : graph_(graph), stream_(stream) {}
  ~GraphRecording() override { cudaGraphExecDestroy(graph_); }
  GraphRecording(const GraphRecording&) = delete;
  GraphRecording& operator=(const GraphRecording&) = delete;

  void replay() override { gpu::check_status(cudaGraphLaunch(graph_, stream_), "replaying a recorded graph"); }

 private:
  cudaGraphExec_t graph_;
  cudaStream_t stream_;
};

// The device's name. Throws Error when it cannot be used.
std::string check_device() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  check(status != cudaErrorInsufficientDriver,
        "device cuda: there is no NVIDIA driver here, or it is too old for this build; install a newer one, or use "
        "--device cpu");
  check(status == cudaSuccess && count > 0, "device cuda: this machine has no usable NVIDIA GPU (",
        status == cudaSuccess ? "none found" : cudaGetErrorString(status), "); use --device cpu");
  cudaDeviceProp properties;
  gpu::check_status(cudaGetDeviceProperties(&properties, 0), "asking for the device's properties");
  check(properties.major > kOldestMajor || (properties.major == kOldestMajor && properties.minor >= kOldestMinor),
        "device cuda: ", properties.name, " has compute capability ", properties.major, ".", properties.minor, "; ",
        kOldestMajor, ".", kOldestMinor, " or newer is needed; use --device cpu");
  return properties.name;
}

}  // namespace

namespace gpu {

void check_status(cudaError_t status, const char* what) {
  check(status == cudaSuccess, "cuda: ", what, " failed: ", cudaGetErrorString(status));
}

cudaStream_t stream() { return cuda_backend().stream(); }
void* workspace(std::size_t bytes) { return cuda_backend().workspace(bytes); }

}  // namespace gpu

CudaBackend& cuda_backend() {
  // Never destroyed: tensors of static lifetime may outlive any other static object, and the driver cleans up.
  static CudaBackend* const instance = new CudaBackend;
  return *instance;
}

Backend& cuda_backend_of_this_build() { return cuda_backend(); }

CudaBackend::CudaBackend() : name_(check_device()) {
  gpu::check_status(cudaSetDevice(0), "choosing the device");
  gpu::check_status(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  gpu::check_status(cudaStreamCreateWithFlags(&upload_stream_, cudaStreamNonBlocking), "making a stream");
  staging_ = std::make_unique<gpu::Staging>(stream_);
  upload_staging_ = std::make_unique<gpu::Staging>(upload_stream_);
}

void* CudaBackend::allocate(std::size_t bytes) {
  check(!recording_, "cuda: memory of ", bytes, " bytes is asked for while operations are recorded");
  return allocate_or_trim(
      DeviceType::cuda, bytes,
      [&] {
        void* memory = nullptr;
        const cudaError_t status = cudaMalloc(&memory, std::max<std::size_t>(bytes, 1));  // null for none
        if (status == cudaErrorMemoryAllocation)
          cudaGetLastError();  // not sticky: the next attempt may succeed
        else
          gpu::check_status(status, "allocating memory");
        return memory;
      },
      [] {
        std::size_t available = 0, total = 0;
        gpu::check_status(cudaMemGetInfo(&available, &total), "asking for free memory");
        return concat_text(mebibytes_text(available), " of ", mebibytes_text(total));
      });
}

void CudaBackend::deallocate(void* memory) {
  check(!recording_, "cuda: memory is given back while operations are recorded");
  gpu::check_status(cudaFree(memory), "giving memory back");
}

void CudaBackend::upload(void* device, const void* host, std::size_t bytes) {
  check(!recording_, "cuda: an upload of ", bytes, " bytes while operations are recorded");
  staging_->upload(device, host, bytes);
}

std::unique_ptr<UploadBuffer> CudaBackend::upload_buffer(void* memory) {
  check(!recording_, "cuda: an upload buffer is made while operations are recorded");
  return std::make_unique<gpu::StagedBuffer>(stream_, *upload_staging_, memory);
}

std::unique_ptr<PendingDownload> CudaBackend::begin_download(std::span<const Download> pieces) {
  check(!recording_, "cuda: a download while operations are recorded");
  return landings_.begin(stream_, pieces);
}

void CudaBackend::copy(void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  gpu::check_status(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "a copy");
}

void CudaBackend::synchronize() {
  check(!recording_, "cuda: the device is waited for while operations are recorded");
  gpu::check_status(cudaStreamSynchronize(upload_stream_), "waiting for the device");
  gpu::check_status(cudaStreamSynchronize(stream_), "waiting for the device");
}

double CudaBackend::measure(const std::function<void()>& work) {
  check(!recording_, "cuda: time is measured while operations are recorded");
  gpu::TimingEvent start, end;
  start.record();
  work();
  end.record();
  return end.milliseconds_since(start) / 1e3;
}

void* CudaBackend::workspace(std::size_t bytes) {
  std::vector<Workspace>& mine = workspaces_.mine([] { return std::vector<Workspace>(); });
  if (mine.empty() || mine.back().bytes < bytes) {
    // Small ones grow in leaps; of large ones no more is taken than is needed.
    constexpr std::size_t kLarge = std::size_t{64} << 20;
    const std::size_t wanted = mine.empty() || bytes >= kLarge ? bytes : std::max(bytes, 2 * mine.back().bytes);
    mine.push_back({allocate(wanted), wanted});
  }
  return mine.back().memory;
}

void CudaBackend::begin_recording() {
  check(!recording_, "cuda: operations are being recorded already");
  gpu::check_status(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "beginning to record");
  recording_ = true;
}

std::unique_ptr<Recording> CudaBackend::end_recording() {
  check(recording_, "cuda: no operations are being recorded");
  recording_ = false;
  cudaGraph_t graph = nullptr;
  gpu::check_status(cudaStreamEndCapture(stream_, &graph), "recording operations");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  gpu::check_status(status, "making a graph of the recorded operations");
  return std::make_unique<GraphRecording>(executable, stream_);
}

}  // namespace minidl
