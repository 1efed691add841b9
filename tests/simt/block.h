// Runs the threads of a grid.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "tests/simt/simt.h"

namespace simt {

// Runs the call for every thread of the grid; throws Fault when the kernel does what a device would not stand.
void run_grid(const std::string& kernel, dim3 grid, dim3 block, const Call& call);

// Ends the running kernel or operation with this error; to be called on the thread that executes it.
[[noreturn]] void stop(cudaError_t error, const std::string& message);
// The same for a kernel, without exceptions, for what compilers believe not to throw. Destructors are not called.
[[noreturn]] void abandon(cudaError_t error, const std::string& message);

// Whether the calling OS thread is inside of a kernel's thread.
bool in_kernel();
// Whether the address is on the stack of the running thread, or where an overflow of it ends up.
bool on_own_stack(const void* address);
bool on_stack_guard(const void* address);
// To be called before a longjmp out of whatever runs.
void before_fault_jump();
// Position of a thread of the running block.
std::string thread_text(int thread);
// "kernel, block (1,0,0), thread (3,0,0)"
std::string running_thread();

}  // namespace simt
