// An emulated CUDA device: kernels and host code of the CUDA backend, compiled by a C++ compiler against
// tests/simt/include, run on the CPU, and what a GPU would only do wrong is an error with a sentence.
//
//  - The threads of a block are fibers on one OS thread, switched at barriers and warp operations only. Blocks and
//    threads run in the order of the Schedule.
//  - Device memory is an arena of its own. Host code that touches it outside of copies dies with a message.
//  - Operations are done at once or, lazily, where the host waits for them (Execution).
//  - The first error is kept: every later call returns it, as CUDA does with an illegal address; reset() forgets it.
//  - Several host threads may call the runtime; one operation runs at a time.
// This header is for tests and for the stand-ins of cuBLAS and cuDNN; the backend itself includes none of it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>

namespace simt {

// --- how it runs ----------------------------------------------------------------------------------------------------

// Order of the threads of a block and of the blocks of a grid. Environment: MINIDL_SIMT_SCHEDULE = forward | reverse |
// shuffled[:seed].
enum class Schedule { forward, reverse, shuffled };
void set_schedule(Schedule schedule, std::uint64_t seed = 1);
Schedule schedule();

// Lazy operations are queued until the host waits for them, and what comes before them alone; with others_first, all
// that the other streams can do is done before, as if the one waited for were the slowest. A missing dependency shows
// in one of the two. Environment: MINIDL_SIMT_EXECUTION = eager | lazy | others_first.
enum class Execution { eager, lazy, others_first };
void set_execution(Execution execution);

// In a dry run kernels and library calls are counted, not executed.
void set_dry_run(bool on);
// Or kernels are executed, and what library calls would compute is zero.
void set_skip_libraries(bool on);

// Bytes that cudaMalloc may hand out in all; to see what happens when memory runs out.
void set_device_memory(std::size_t bytes);
// What cudaGetDeviceProperties tells; to see what happens on an old device.
cudaDeviceProp& device_properties();

// --- errors ---------------------------------------------------------------------------------------------------------

// The sentence that explains the latest error, also written to stderr when it occurs (unless told otherwise).
std::string last_message();
void set_messages_to_stderr(bool on);
// Ends all captures, empties all streams and forgets the error. Allocations stay.
void reset();

// --- for the stand-ins of libraries ---------------------------------------------------------------------------------

// Thrown by an operation that must fail; the runtime makes it the device's error.
struct Fault : std::runtime_error {
  Fault(cudaError_t e, const std::string& message) : std::runtime_error(message), error(e) {}
  cudaError_t error;
};

// Runs `work` as an operation of the stream: now, at the next synchronisation, or at each replay of the graph that is
// being captured. Device memory may be read and written within it, and nowhere else. It owns what it uses.
cudaError_t enqueue(cudaStream_t stream, const char* name, std::function<void()> work);

// Whether the bytes are within one live allocation of device memory.
bool is_device(const void* pointer, std::size_t bytes);
// Throws Fault, naming `what`, unless they are.
void require_device(const void* pointer, std::size_t bytes, const char* what);
// Keeps `error` and its sentence as the latest message, and returns it; for calls that are refused at once.
cudaError_t refuse(cudaError_t error, const std::string& message);
bool skips_libraries();
// Whether the stream is being captured.
bool is_capturing(cudaStream_t stream);

// --- counters -------------------------------------------------------------------------------------------------------

struct KernelCounters {
  std::uint64_t launches = 0, blocks = 0, threads = 0;
  // Of device memory; with access checks only. Unique bytes count once per launch, however many threads touch them.
  std::uint64_t bytes_read = 0, bytes_written = 0, unique_read = 0, unique_written = 0;
  double seconds = 0;  // on this machine
};

struct Counters {
  std::uint64_t launches = 0;        // kernels, those of graphs included
  std::uint64_t stand_in_calls = 0;  // enqueue
  std::uint64_t graph_launches = 0;
  std::uint64_t copies = 0, copied_bytes = 0, sets = 0;
  std::uint64_t allocations = 0;                  // cudaMalloc
  std::uint64_t waits = 0;                        // times that the host waited for work that was not done
  std::map<std::string, KernelCounters> kernels;  // kernels and library calls by name
};

Counters counters();
void reset_counters();

}  // namespace simt
