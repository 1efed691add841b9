#include "tests/simt/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "tests/simt/access.h"
#include "tests/simt/settings.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace simt {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kArena = std::size_t{1} << 40;  // of addresses, not of memory

std::size_t pages(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// Tells allocations from the pages around them by a flag that has no other meaning here. What differs in it is never
// merged by the kernel, so that opening and closing the memory of many allocations neither splits nor merges mappings.
void set_apart(void* memory, std::size_t bytes, bool allocation) {
  madvise(memory, bytes, allocation ? MADV_DODUMP : MADV_DONTDUMP);
}

struct Arena {
  char* begin = nullptr;
  char* next = nullptr;
  std::size_t limit = std::size_t{8} << 30;
  std::size_t used = 0;
  int allocations = 0;
  int accesses = 0;                            // DeviceAccess that live
  std::vector<char*> opened;                   // since the first of them began
  std::map<const char*, Allocation> live;      // by address
  std::map<const char*, Allocation> released;  // so that messages can tell
  std::map<const char*, std::size_t> pinned;
};

Arena& arena() {
  static Arena& instance = *[] {
    Arena* a = new Arena;  // never destroyed: streams may be in use until the very end
    void* memory = mmap(nullptr, kArena, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("simt: no addresses for device memory");
    set_apart(memory, kArena, false);
    a->begin = a->next = static_cast<char*>(memory);
    return a;
  }();
  return instance;
}

// An allocation's pages and where in them it starts: as near to their end as alignment allows.
char* first_page(const Allocation& a) {
  return reinterpret_cast<char*>(reinterpret_cast<std::uintptr_t>(a.address) & ~(kPage - 1));
}
std::size_t page_bytes(const Allocation& a) {
  return pages(static_cast<std::size_t>(a.address - first_page(a)) + a.bytes);
}

void protect(const Allocation& a, int protection) {
  if (mprotect(first_page(a), page_bytes(a), protection) != 0)
    throw std::runtime_error("simt: mprotect failed; perhaps there are more allocations than vm.max_map_count allows");
}

bool canaries_intact(const Allocation& a) {
  char* end = a.address + a.bytes;
  return is_poison(first_page(a), static_cast<std::size_t>(a.address - first_page(a))) &&
         is_poison(end, page_bytes(a) - static_cast<std::size_t>(end - first_page(a)));
}

std::string name_of(const Allocation& a) {
  std::ostringstream text;
  text << "allocation " << a.number << " of " << a.bytes << " bytes";
  return text.str();
}

// Lets AddressSanitizer, if there, know which bytes may be touched.
void watch(const Allocation& a, bool on) {
#ifdef __SANITIZE_ADDRESS__
  char* first = first_page(a);
  if (on) {
    ASAN_POISON_MEMORY_REGION(first, page_bytes(a));
    ASAN_UNPOISON_MEMORY_REGION(a.address, a.bytes);
  } else {
    ASAN_UNPOISON_MEMORY_REGION(first, page_bytes(a));
  }
#else
  static_cast<void>(a), static_cast<void>(on);
#endif
}

}  // namespace

void poison(char* memory, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += sizeof kPoison)
    std::memcpy(memory + i, &kPoison, std::min(bytes - i, sizeof kPoison));
}

__attribute__((no_sanitize("address"))) bool is_poison(const char* memory, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) {
    // The pattern begins at every multiple of 4, where allocations and variables of 4 bytes or more begin.
    const auto expected = static_cast<char>(kPoison >> (8 * (reinterpret_cast<std::uintptr_t>(memory + i) % 4)));
    if (memory[i] != expected) return false;
  }
  return true;
}

char* arena_begin() { return arena().begin; }
std::size_t arena_bytes() { return kArena; }

void* allocate_device(std::size_t bytes) {
  Arena& a = arena();
  if (bytes > a.limit - a.used) return nullptr;
  const std::size_t aligned = (std::max<std::size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  const std::size_t size = pages(aligned);
  if (a.next + size + kPage > a.begin + kArena) return nullptr;
  const Allocation allocation{a.next + size - aligned, bytes, a.allocations++, a.accesses > 0};
  a.next += size + kPage;  // the guard
  set_apart(first_page(allocation), size, true);
  protect(allocation, PROT_READ | PROT_WRITE);
  if (dry_run()) {  // of memory that nobody will read only the canaries matter
    poison(first_page(allocation), kPage);
    poison(first_page(allocation) + size - kPage, kPage);
  } else {
    poison(first_page(allocation), size);
  }
  watch(allocation, true);
  if (allocation.open)
    a.opened.push_back(allocation.address);
  else
    protect(allocation, PROT_NONE);
  a.used += bytes;
  a.live.emplace(allocation.address, allocation);
  return allocation.address;
}

std::string free_device(void* memory) {
  Arena& a = arena();
  const auto found = a.live.find(static_cast<char*>(memory));
  if (found == a.live.end()) return "cudaFree of " + describe_address(memory);
  const Allocation allocation = found->second;
  protect(allocation, PROT_READ | PROT_WRITE);
  watch(allocation, false);
  const bool intact = canaries_intact(allocation);
  madvise(first_page(allocation), page_bytes(allocation), MADV_DONTNEED);
  protect(allocation, PROT_NONE);
  set_apart(first_page(allocation), page_bytes(allocation), false);
  forget_allocations();
  a.used -= allocation.bytes;
  a.live.erase(found);
  a.released.emplace(allocation.address, allocation);
  return intact ? "" : "a kernel has written beyond " + name_of(allocation);
}

void set_device_limit(std::size_t bytes) { arena().limit = std::max(bytes, arena().used); }
std::size_t device_bytes_free() { return arena().limit - arena().used; }
std::size_t device_bytes_total() { return arena().limit; }

bool in_arena(const void* address) {
  const char* p = static_cast<const char*>(address);
  return p >= arena().begin && p < arena().begin + kArena;
}

const Allocation* allocation_at(const void* address) {
  const char* p = static_cast<const char*>(address);
  auto next = arena().live.upper_bound(p);
  if (next == arena().live.begin()) return nullptr;
  const Allocation& candidate = std::prev(next)->second;
  return p <= candidate.address + candidate.bytes ? &candidate : nullptr;
}

std::string describe_address(const void* address) {
  std::ostringstream text;
  const char* p = static_cast<const char*>(address);
  if (!in_arena(address)) {
    text << "address " << address << ", which is not device memory";
    return text.str();
  }
  const Arena& a = arena();
  const auto before = [&](const std::map<const char*, Allocation>& map) -> const Allocation* {
    const auto next = map.upper_bound(p);
    return next == map.begin() ? nullptr : &std::prev(next)->second;
  };
  const Allocation* live = before(a.live);
  const Allocation* released = before(a.released);
  if (released && (!live || released->address > live->address) && p < released->address + released->bytes) {
    text << "byte " << p - released->address << " of " << name_of(*released) << ", which has been freed";
  } else if (live) {
    text << "byte " << p - live->address << " of " << name_of(*live);
  } else {
    text << "address " << address << ", where no allocation is";
  }
  return text.str();
}

std::string check_canaries() {
  const DeviceAccess access;
  for (const auto& [address, allocation] : arena().live) {
    open_allocation(address);
    if (!canaries_intact(allocation)) return "a kernel has written beyond " + name_of(allocation);
  }
  return "";
}

void* allocate_pinned(std::size_t bytes) {
  void* memory = std::aligned_alloc(kPage, pages(std::max<std::size_t>(bytes, 1)));
  if (memory) arena().pinned.emplace(static_cast<char*>(memory), bytes);
  return memory;
}

bool free_pinned(void* memory) {
  if (arena().pinned.erase(static_cast<char*>(memory)) == 0) return false;
  std::free(memory);
  return true;
}

bool is_pinned(const void* memory, std::size_t bytes) {
  const char* p = static_cast<const char*>(memory);
  const auto next = arena().pinned.upper_bound(p);
  if (next == arena().pinned.begin()) return false;
  const auto& [begin, size] = *std::prev(next);
  return p + bytes <= begin + size;
}

bool open_allocation(const void* address) {
  Arena& a = arena();
  if (a.accesses == 0 || !in_arena(address)) return false;
  auto next = a.live.upper_bound(static_cast<const char*>(address));
  if (next == a.live.begin()) return false;
  Allocation& allocation = std::prev(next)->second;
  if (allocation.open || address >= first_page(allocation) + page_bytes(allocation)) return false;
  protect(allocation, PROT_READ | PROT_WRITE);
  allocation.open = true;
  a.opened.push_back(allocation.address);
  return true;
}

DeviceAccess::DeviceAccess() { ++arena().accesses; }

DeviceAccess::~DeviceAccess() {
  Arena& a = arena();
  if (--a.accesses > 0) return;
  for (const char* address : a.opened)
    if (const auto found = a.live.find(address); found != a.live.end()) {
      protect(found->second, PROT_NONE);
      found->second.open = false;
    }
  a.opened.clear();
}

}  // namespace simt
