// A call stack that can be left in the middle of a function and taken up again later, on the same OS thread.
#pragma once

#include <cstddef>

namespace simt {

class Fiber {
 public:
  // The stack of the calling OS thread.
  Fiber();
  // A stack of its own, on which `body` runs at the first switch to it; body never returns.
  explicit Fiber(void (*body)());
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Leaves this fiber, which is the running one, and goes on where `to` was left.
  void switch_to(Fiber& to);
  // Gives up whatever ran on this stack; the next switch to it starts body anew.
  void restart();
  // For a longjmp out of `from` to this fiber: before and after it.
  void before_jump_here();
  static void after_jump();

  bool contains(const void* address) const;  // whether the address is on this stack
  bool guards(const void* address) const;    // whether it is just below, where an overflow ends up

 private:
  [[noreturn]] static void enter();

  void* stack_pointer_ = nullptr;  // where it was left
  void (*body_)() = nullptr;
  char* mapping_ = nullptr;  // a guard page, then the stack
  std::size_t color_ = 0;    // lines of the cache that are left free at its top
  const void* bottom_ = nullptr;
  std::size_t size_ = 0;
  void* fake_stack_ = nullptr;  // AddressSanitizer's
};

}  // namespace simt
