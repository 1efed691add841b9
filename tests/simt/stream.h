// Streams, events and graphs: queues of operations, run in order when the host waits, or at once.
#pragma once

#include <cuda_runtime.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/simt/simt.h"

namespace simt {

struct Operation {
  enum class Kind { kernel, library, copy, set, marker } kind = Kind::marker;
  std::string name;
  std::function<void()> run;                         // throws Fault
  std::uint64_t blocks = 0, threads = 0, bytes = 0;  // for the counters
};

}  // namespace simt

// A capture under way and, when it has ended, its result.
struct CUgraph_st {
  std::vector<simt::Operation> operations;  // in an order that respects all dependencies
  bool invalid = false;
  CUstream_st* origin = nullptr;
};

struct CUgraphExec_st {
  std::shared_ptr<const CUgraph_st> graph;
};

struct CUstream_st {
  bool blocking = true;  // waits for the legacy stream
  std::deque<simt::Operation> queue;
  std::uint64_t submitted = 0, executed = 0;
  CUgraph_st* capture = nullptr;
  bool joined = true;  // of a stream that was pulled into another's capture: whether that one waits for its latest work
};

struct CUevent_st {
  bool timing = true;
  CUstream_st* stream = nullptr;  // that it was recorded in; null: never
  std::uint64_t position = 0;     // of the stream's operations, that come before it
  CUgraph_st* capture = nullptr;  // that it was recorded in
  std::chrono::steady_clock::time_point when;
};

namespace simt {

// The state of the device; all of it under one lock. Functions that begin with the word `device_` expect it to be held.
class Lock {
 public:
  Lock();
  ~Lock();
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
};

// The error that has made the device unusable, or success.
cudaError_t device_error();
cudaError_t device_fail(cudaError_t error, const std::string& message);

// Null for a stream that does not exist; the legacy stream for 0.
CUstream_st* device_stream(cudaStream_t stream);
// Executes, records or queues.
cudaError_t device_submit(CUstream_st* stream, Operation operation);
// Executes what is queued in one stream up to a position, or everything everywhere.
cudaError_t device_drain(CUstream_st* stream, std::uint64_t position);
// The same for a host that waits, which is counted.
cudaError_t device_wait(CUstream_st* stream, std::uint64_t position);
cudaError_t device_drain_all();
// Whether any stream is being captured, in which case `call` is refused and the captures are invalidated.
cudaError_t device_refuse_in_capture(const char* call);

}  // namespace simt
