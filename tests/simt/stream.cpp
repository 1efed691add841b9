#include "tests/simt/stream.h"

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <set>

#include "tests/simt/access.h"
#include "tests/simt/faults.h"
#include "tests/simt/memory.h"
#include "tests/simt/settings.h"

namespace simt {
namespace {

struct Device {
  std::recursive_mutex mutex;
  cudaError_t error = cudaSuccess;  // sticky
  std::string message;
  bool to_stderr = true;
  CUstream_st legacy;
  std::set<CUstream_st*> streams;
  Counters counters;
  bool draining = false;  // others first
};

Device& device() {
  static Device& instance = *new Device;  // outlives everything
  return instance;
}

void count(const Operation& operation, double seconds) {
  Counters& c = device().counters;
  switch (operation.kind) {
    case Operation::Kind::kernel:
      ++c.launches;
      break;
    case Operation::Kind::library:
      ++c.stand_in_calls;
      break;
    case Operation::Kind::copy:
      ++c.copies, c.copied_bytes += operation.bytes;
      return;
    case Operation::Kind::set:
      ++c.sets;
      return;
    case Operation::Kind::marker:
      return;
  }
  KernelCounters& k = c.kernels[operation.name];
  ++k.launches;
  k.blocks += operation.blocks;
  k.threads += operation.threads;
  k.seconds += seconds;
  if (operation.kind == Operation::Kind::kernel && !dry_run()) {
    k.bytes_read += traffic().bytes_read;
    k.bytes_written += traffic().bytes_written;
    k.unique_read += traffic().unique_read;
    k.unique_written += traffic().unique_written;
  }
}

// Kernels watch themselves and markers run other operations; the rest of the operations may touch what it should not.
void run_guarded(const Operation& operation) {
  if (operation.kind == Operation::Kind::kernel || operation.kind == Operation::Kind::marker) return operation.run();
  const FaultScope faults;
  if (sigsetjmp(faults.target(), 1) == 0)
    operation.run();
  else
    throw Fault(cudaErrorIllegalAddress, operation.name + ": " + FaultScope::message());
}

void execute(const Operation& operation) {
  if (device().error != cudaSuccess) return;
  const bool computes = operation.kind == Operation::Kind::kernel || operation.kind == Operation::Kind::library;
  if (computes && dry_run()) return count(operation, 0);
  const auto begin = std::chrono::steady_clock::now();
  try {
    run_guarded(operation);
  } catch (const Fault& fault) {
    device_fail(fault.error, fault.what());
  }
  count(operation, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
}

}  // namespace

Lock::Lock() { device().mutex.lock(); }
Lock::~Lock() { device().mutex.unlock(); }

cudaError_t device_error() { return device().error; }

cudaError_t device_fail(cudaError_t error, const std::string& message) {
  Device& d = device();
  if (d.error == cudaSuccess) d.error = error;
  return refuse(error, message);
}

CUstream_st* device_stream(cudaStream_t stream) {
  if (stream == nullptr) return &device().legacy;
  return device().streams.contains(stream) ? stream : nullptr;
}

cudaError_t device_drain(CUstream_st* stream, std::uint64_t position) {
  if (stream->queue.empty() || stream->executed >= position) return device().error;
  const DeviceAccess access;
  if (execution() == Execution::others_first && !device().draining) {
    device().draining = true;  // what an operation waits for is drained as far as it asks
    for (CUstream_st* other : device().streams)
      if (other != stream) device_drain(other, other->submitted);
    device_drain(stream, position);
    device().draining = false;
    return device().error;
  }
  while (!stream->queue.empty() && stream->executed < position) {
    const Operation operation = std::move(stream->queue.front());
    stream->queue.pop_front();
    ++stream->executed;
    execute(operation);
  }
  return device().error;
}

cudaError_t device_wait(CUstream_st* stream, std::uint64_t position) {
  if (!stream->queue.empty() && stream->executed < position) ++device().counters.waits;
  return device_drain(stream, position);
}

cudaError_t device_drain_all() {
  device_drain(&device().legacy, device().legacy.submitted);
  for (CUstream_st* stream : device().streams) device_drain(stream, stream->submitted);
  return device().error;
}

cudaError_t device_submit(CUstream_st* stream, Operation operation) {
  Device& d = device();
  if (d.error != cudaSuccess) return d.error;
  if (stream->capture) {
    if (stream->capture->invalid) return cudaErrorStreamCaptureInvalidated;
    stream->capture->operations.push_back(std::move(operation));
    stream->joined = stream == stream->capture->origin;
    return cudaSuccess;
  }
  // The legacy stream and the blocking ones wait for each other.
  if (stream == &d.legacy) {
    for (CUstream_st* other : d.streams) {
      if (!other->blocking) continue;
      if (other->capture) {
        other->capture->invalid = true;
        return refuse(cudaErrorStreamCaptureImplicit, "the legacy stream is used while a blocking stream is captured");
      }
      device_drain(other, other->submitted);
    }
  } else if (stream->blocking) {
    device_drain(&d.legacy, d.legacy.submitted);
  }
  stream->queue.push_back(std::move(operation));
  ++stream->submitted;
  return execution() == Execution::eager ? device_drain(stream, stream->submitted) : cudaSuccess;
}

cudaError_t device_refuse_in_capture(const char* call) {
  bool refused = false;
  for (CUstream_st* stream : device().streams)
    if (stream->capture) refused = stream->capture->invalid = true;
  if (!refused) return cudaSuccess;
  return refuse(cudaErrorStreamCaptureUnsupported,
                std::string(call) + " is not allowed while a stream is being captured; the capture is invalid now");
}

// --- simt.h ---------------------------------------------------------------------------------------------------------

cudaError_t refuse(cudaError_t error, const std::string& message) {
  const Lock lock;
  device().message = message;
  if (device().to_stderr) std::fprintf(stderr, "simt: %s: %s\n", cudaGetErrorName(error), message.c_str());
  return error;
}

std::string last_message() {
  const Lock lock;
  return device().message;
}

void set_messages_to_stderr(bool on) { device().to_stderr = on; }

void reset() {
  const Lock lock;
  Device& d = device();
  d.legacy.queue.clear();
  d.legacy.executed = d.legacy.submitted;
  for (CUstream_st* stream : d.streams) {
    stream->queue.clear();
    stream->executed = stream->submitted;
    if (stream->capture && stream->capture->origin == stream) delete stream->capture;
    stream->capture = nullptr;
  }
  d.error = cudaSuccess;
  d.message.clear();
  cudaGetLastError();
}

bool is_capturing(cudaStream_t stream) {
  const Lock lock;
  const CUstream_st* s = device_stream(stream);
  return s && s->capture;
}

cudaError_t enqueue(cudaStream_t stream, const char* name, std::function<void()> work) {
  const Lock lock;
  CUstream_st* s = device_stream(stream);
  if (!s) return refuse(cudaErrorInvalidResourceHandle, std::string(name) + ": no such stream");
  Operation operation;
  operation.kind = Operation::Kind::library;
  operation.name = name;
  operation.run = std::move(work);
  return device_submit(s, std::move(operation));
}

Counters counters() {
  const Lock lock;
  return device().counters;
}

Counters& device_counters() { return device().counters; }

void reset_counters() {
  const Lock lock;
  device().counters = {};
}

}  // namespace simt

// --- streams --------------------------------------------------------------------------------------------------------

using namespace simt;

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  const Lock lock;
  if (device_error() != cudaSuccess) return device_error();
  auto* created = new CUstream_st;
  created->blocking = flags != cudaStreamNonBlocking;
  device().streams.insert(created);
  *stream = created;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock;
  CUstream_st* s = device_stream(stream);
  if (!s || !stream) return refuse(cudaErrorInvalidResourceHandle, "cudaStreamDestroy: no such stream");
  if (s->capture) s->capture->invalid = true;
  device_drain(s, s->submitted);
  device().streams.erase(s);
  delete s;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock;
  CUstream_st* s = device_stream(stream);
  if (!s) return refuse(cudaErrorInvalidResourceHandle, "cudaStreamSynchronize: no such stream");
  if (const cudaError_t e = device_refuse_in_capture("cudaStreamSynchronize")) return e;
  return stream ? device_wait(s, s->submitted) : device_drain_all();
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const Lock lock;
  CUstream_st* s = device_stream(stream);
  if (!s) return refuse(cudaErrorInvalidResourceHandle, "cudaStreamQuery: no such stream");
  if (const cudaError_t e = device_refuse_in_capture("cudaStreamQuery")) return e;
  if (device_error() != cudaSuccess) return device_error();
  if (s->queue.empty()) return cudaSuccess;
  // Time passes: one operation more is done at each query.
  device_drain(s, s->executed + 1);
  return cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Lock lock;
  CUstream_st* s = device_stream(stream);
  if (!s || !event) return refuse(cudaErrorInvalidResourceHandle, "cudaStreamWaitEvent: no such stream or event");
  if (device_error() != cudaSuccess) return device_error();
  if (event->capture) {
    CUgraph_st* capture = event->capture;
    if (s->capture && s->capture != capture)
      return refuse(cudaErrorStreamCaptureIsolation, "cudaStreamWaitEvent: an event of another capture");
    s->capture = capture;
    if (event->stream != s) event->stream->joined = true;
    s->joined = s == capture->origin;
    return cudaSuccess;
  }
  if (!event->stream || event->stream == s) return cudaSuccess;
  if (s->capture) {
    s->capture->invalid = true;
    return refuse(cudaErrorStreamCaptureIsolation,
                  "cudaStreamWaitEvent: a captured stream waits for an event from before the capture");
  }
  Operation operation;
  operation.run = [from = event->stream, position = event->position] {
    if (device().streams.contains(from) || from == &device().legacy) device_drain(from, position);
  };
  return device_submit(s, std::move(operation));
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const Lock lock;
  const CUstream_st* s = device_stream(stream);
  if (!s) return refuse(cudaErrorInvalidResourceHandle, "cudaStreamIsCapturing: no such stream");
  *status = !s->capture           ? cudaStreamCaptureStatusNone
            : s->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                  : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Lock lock;
  if (device_error() != cudaSuccess) return device_error();
  CUstream_st* s = device_stream(stream);
  if (!s || !stream) return refuse(cudaErrorStreamCaptureUnsupported, "the legacy stream cannot be captured");
  if (s->capture) return refuse(cudaErrorInvalidValue, "cudaStreamBeginCapture: the stream is being captured already");
  s->capture = new CUgraph_st;
  s->capture->origin = s;
  s->joined = true;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Lock lock;
  *graph = nullptr;
  CUstream_st* s = device_stream(stream);
  if (!s || !s->capture) return refuse(cudaErrorInvalidValue, "cudaStreamEndCapture: the stream is not being captured");
  CUgraph_st* capture = s->capture;
  if (capture->origin != s)
    return refuse(cudaErrorStreamCaptureUnmatched, "cudaStreamEndCapture: the capture began in another stream");
  bool joined = true;
  for (CUstream_st* other : device().streams) {
    if (other->capture != capture) continue;
    joined = joined && other->joined;
    other->capture = nullptr;
  }
  if (capture->invalid || !joined) {
    const bool invalid = capture->invalid;
    delete capture;
    return invalid
               ? refuse(cudaErrorStreamCaptureInvalidated, "the capture was invalidated")
               : refuse(cudaErrorStreamCaptureUnjoined, "the capture has work that its first stream does not wait for");
  }
  *graph = capture;
  return cudaSuccess;
}

// --- events ---------------------------------------------------------------------------------------------------------

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  const Lock lock;
  if (device_error() != cudaSuccess) return device_error();
  *event = new CUevent_st;
  (*event)->timing = !(flags & cudaEventDisableTiming);
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Lock lock;
  if (event && event->stream && device().streams.contains(event->stream)) device_drain(event->stream, event->position);
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Lock lock;
  CUstream_st* s = device_stream(stream);
  if (!s || !event) return refuse(cudaErrorInvalidResourceHandle, "cudaEventRecord: no such stream or event");
  event->stream = s;
  event->capture = s->capture;
  if (s->capture) return device_error();
  Operation operation;
  operation.run = [event] { event->when = std::chrono::steady_clock::now(); };
  const cudaError_t result = device_submit(s, std::move(operation));
  event->position = s->submitted;
  return result;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Lock lock;
  if (!event) return refuse(cudaErrorInvalidResourceHandle, "cudaEventQuery: no such event");
  if (event->capture) return refuse(cudaErrorCapturedEvent, "cudaEventQuery: the event was recorded in a capture");
  if (const cudaError_t e = device_refuse_in_capture("cudaEventQuery")) return e;
  if (device_error() != cudaSuccess) return device_error();
  if (!event->stream || event->stream->executed >= event->position) return cudaSuccess;
  device_drain(event->stream, event->stream->executed + 1);
  return cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Lock lock;
  if (!event) return refuse(cudaErrorInvalidResourceHandle, "cudaEventSynchronize: no such event");
  if (event->capture)
    return refuse(cudaErrorCapturedEvent, "cudaEventSynchronize: the event was recorded in a capture");
  if (const cudaError_t e = device_refuse_in_capture("cudaEventSynchronize")) return e;
  return event->stream ? device_wait(event->stream, event->position) : device_error();
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  const Lock lock;
  if (!start || !end || !start->stream || !end->stream || !start->timing || !end->timing)
    return refuse(cudaErrorInvalidResourceHandle, "cudaEventElapsedTime: an event without a time");
  if (start->stream->executed < start->position || end->stream->executed < end->position) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(end->when - start->when).count();
  return device_error();
}

// --- graphs ---------------------------------------------------------------------------------------------------------

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, std::size_t* count) {
  const Lock lock;
  if (nodes) return refuse(cudaErrorNotSupported, "cudaGraphGetNodes: only the number of nodes is emulated");
  *count = graph->operations.size();
  return device_error();
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  const Lock lock;
  if (device_error() != cudaSuccess) return device_error();
  if (!graph) return refuse(cudaErrorInvalidValue, "cudaGraphInstantiate: no graph");
  *executable = new CUgraphExec_st{std::make_shared<CUgraph_st>(*graph)};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const Lock lock;
  CUstream_st* s = device_stream(stream);
  if (!s || !executable) return refuse(cudaErrorInvalidResourceHandle, "cudaGraphLaunch: no such graph or stream");
  if (s->capture) return refuse(cudaErrorStreamCaptureUnsupported, "cudaGraphLaunch into a capture is not emulated");
  ++device().counters.graph_launches;
  Operation operation;
  operation.run = [graph = executable->graph] {
    for (const Operation& o : graph->operations) execute(o);
  };
  return device_submit(s, std::move(operation));
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  const Lock lock;
  delete executable;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const Lock lock;
  delete graph;
  return cudaSuccess;
}
