#include <cstdio>
#include <limits>

#include "tests/fuzz/input.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MINIDL_HAS_HOOKS 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define MINIDL_HAS_HOOKS 1
#endif

#ifdef MINIDL_HAS_HOOKS
// GCC's runtime has it, but not the header that Clang has for it, sanitizer/allocator_interface.h.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void*, std::size_t),
                                                         void (*free_hook)(const volatile void*));
#endif

namespace fuzz {
namespace {

constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
thread_local std::size_t limit = kNone;

#ifdef MINIDL_HAS_HOOKS
void on_allocation(const volatile void*, std::size_t size) {
  if (size <= limit) return;
  const std::size_t justified = limit;
  limit = kNone;  // for what the messages allocate
  std::fprintf(stderr, "an allocation of %zu bytes, although the input justifies at most %zu\n", size, justified);
  std::abort();
}
void on_release(const volatile void*) {}
const int installed = __sanitizer_install_malloc_and_free_hooks(on_allocation, on_release);
#endif

}  // namespace

AllocationLimit::AllocationLimit(std::size_t bytes) { limit = bytes; }
AllocationLimit::~AllocationLimit() { limit = kNone; }

}  // namespace fuzz
