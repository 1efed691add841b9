// Every access of a kernel to memory, seen through the compiler's ThreadSanitizer instrumentation (not its library).
//
// Where the .cu files are compiled with -fsanitize=thread, each load and store calls a function of access.cpp, which
//  - counts the bytes of device memory;
//  - stops kernels that leave an allocation or a shared variable, touch host memory, read what nothing has written
//    (values full of kPoison) or make a misaligned vector access;
//  - stops data races: an access and a write of different threads to the same 4 bytes without a barrier between them,
//    or of different blocks of a launch. Narrower accesses are not watched for races.
// Otherwise these functions are called for nothing and cost little.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "tests/simt/simt.h"

namespace simt {

void begin_launch(const Call& call);
void begin_block();
void end_launch();
void note_thread(int thread);  // that runs from now on
void pause_checks();           // until then the emulation runs, not a thread
void note_block_barrier();
void note_warp_barrier(int warp);

// Of the launch that has ended last.
struct Traffic {
  std::uint64_t bytes_read = 0, bytes_written = 0;    // by all threads
  std::uint64_t unique_read = 0, unique_written = 0;  // each byte counted once, in words of 4
};
const Traffic& traffic();

// After memory has been freed.
void forget_allocations();

}  // namespace simt
