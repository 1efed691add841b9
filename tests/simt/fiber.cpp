#include "tests/simt/fiber.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdint>
#include <stdexcept>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// void simt_switch(void** save, void* load): keeps the registers that a call preserves on the stack, stores the stack
// pointer in *save and goes on at `load`, a stack pointer that was stored in the same way.
extern "C" void simt_switch(void** save, void* load);
#if defined(__x86_64__)
asm(R"(
  .text
  .globl simt_switch
  .type simt_switch, @function
simt_switch:
  endbr64
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size simt_switch, .-simt_switch
)");
constexpr int kSavedRegisters = 6;
#elif defined(__aarch64__)
asm(R"(
  .text
  .globl simt_switch
  .type simt_switch, %function
simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
  .size simt_switch, .-simt_switch
)");
#else
#error "the emulation switches stacks on x86-64 and AArch64 only"
#endif

namespace simt {
namespace {

constexpr std::size_t kGuard = 1 << 16;
constexpr std::size_t kStack = 1 << 18;  // parameters by value take up to 32 KB of it

thread_local Fiber* running = nullptr;  // the one being switched to

}  // namespace

Fiber::Fiber() {
  pthread_attr_t attributes;
  void* address = nullptr;
  if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
    pthread_attr_getstack(&attributes, &address, &size_);
    pthread_attr_destroy(&attributes);
  }
  bottom_ = address;
}

Fiber::Fiber(void (*body)()) : body_(body), size_(kStack) {
  void* memory = mmap(nullptr, kGuard + kStack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(static_cast<char*>(memory) + kGuard, kStack, PROT_READ | PROT_WRITE) != 0)
    throw std::runtime_error("simt: no memory for the stack of a thread");
  mapping_ = static_cast<char*>(memory);
  bottom_ = mapping_ + kGuard;
  static std::size_t stacks = 0;
  color_ = stacks++ * 5 % 64;
  restart();
}

Fiber::~Fiber() {
  if (mapping_) munmap(mapping_, kGuard + kStack);
}

void Fiber::restart() {
  fake_stack_ = nullptr;
#ifdef __SANITIZE_ADDRESS__
  ASAN_UNPOISON_MEMORY_REGION(mapping_ + kGuard, kStack);  // of the frames that were given up
#endif
  // Not at the same offset in every stack: the tops of many would compete for the same few lines of the cache.
  void** top = reinterpret_cast<void**>(mapping_ + kGuard + kStack - color_ * 64) - 2;
#if defined(__x86_64__)
  // As after a call: the stack is 8 bytes off a multiple of 16 when enter() begins.
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&Fiber::enter);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
#elif defined(__aarch64__)
  top -= 20;
  for (int i = 0; i < 20; ++i) top[i] = nullptr;
  top[11] = reinterpret_cast<void*>(&Fiber::enter);
#endif
  stack_pointer_ = top;
}

void Fiber::enter() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  running->body_();
  __builtin_trap();
}

void Fiber::switch_to(Fiber& to) {
  running = &to;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&fake_stack_, to.bottom_, to.size_);
#endif
  simt_switch(&stack_pointer_, to.stack_pointer_);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
}

void Fiber::before_jump_here() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(nullptr, bottom_, size_);
#endif
}

void Fiber::after_jump() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

bool Fiber::contains(const void* address) const {
  const char* a = static_cast<const char*>(address);
  const char* bottom = static_cast<const char*>(bottom_);
  return a >= bottom && a < bottom + size_;
}

bool Fiber::guards(const void* address) const {
  const char* a = static_cast<const char*>(address);
  return mapping_ && a >= mapping_ && a < mapping_ + kGuard;
}

}  // namespace simt
