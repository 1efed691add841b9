#include "tests/simt/faults.h"

#include <signal.h>

#include <cstdio>
#include <vector>

#include "tests/simt/block.h"
#include "tests/simt/memory.h"

namespace simt {
namespace {

thread_local sigjmp_buf jump;
thread_local bool jump_set = false;
thread_local std::string fault_message;

struct sigaction previous[64];

void on_fault(int signal, siginfo_t* info, void* context) {
  const void* address = info->si_addr;
  if (jump_set) {
    if (open_allocation(address)) return;
    // The signal mask is restored by the jump. What the kernel holds needs no giving back.
    jump_set = false;
    fault_message = on_stack_guard(address) ? "overflows its stack"
                    : in_arena(address)     ? "touches " + describe_address(address)
                                            : "touches an address that is neither device memory nor the kernel's own";
    before_fault_jump();
    siglongjmp(jump, 1);
  }
  if (in_arena(address)) {
    std::fprintf(stderr, "simt: host code touches device memory: %s\n", describe_address(address).c_str());
    std::fflush(stderr);
  }
  // Whoever handled the signal before does so now.
  if (previous[signal].sa_flags & SA_SIGINFO) {
    previous[signal].sa_sigaction(signal, info, context);
  } else {
    sigaction(signal, &previous[signal], nullptr);
  }
}

// A stack for the handler: a fiber's may be the one that has overflowed.
struct SignalStack {
  std::vector<char> memory = std::vector<char>(1 << 18);
  SignalStack() {
    stack_t stack = {};
    stack.ss_sp = memory.data();
    stack.ss_size = memory.size();
    sigaltstack(&stack, nullptr);
  }
  ~SignalStack() {
    stack_t stack = {};
    stack.ss_flags = SS_DISABLE;
    sigaltstack(&stack, nullptr);
  }
};

}  // namespace

void watch_faults() {
  struct sigaction action = {};
  action.sa_sigaction = &on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGSEGV, SIGBUS}) {
    // Test frameworks handle these signals too, and put their handler on top of this one.
    struct sigaction current = {};
    sigaction(signal, nullptr, &current);
    if ((current.sa_flags & SA_SIGINFO) && current.sa_sigaction == &on_fault) continue;
    previous[signal] = current;
    sigaction(signal, &action, nullptr);
  }
}

FaultScope::FaultScope() {
  watch_faults();
  thread_local SignalStack stack;
  jump_set = true;
}

FaultScope::~FaultScope() { jump_set = false; }

sigjmp_buf& FaultScope::target() const { return jump; }

const std::string& FaultScope::message() { return fault_message; }

}  // namespace simt
