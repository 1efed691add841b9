#include "tests/simt/access.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "tests/simt/block.h"
#include "tests/simt/memory.h"
#include "tests/simt/symbols.h"

extern "C" char __executable_start, __data_start, __start_simt_indices, __stop_simt_indices;

namespace simt {
namespace {

constexpr int kWord = 4;  // bytes that share a record

// Who touched a word last, in order of time: the stretch of a block between two barriers (numbered through the life of
// the process), the thread and the number of its warp's barriers. Readers may be several.
struct Record {
  std::uint32_t interval = 0;
  std::uint16_t thread = 0;
  std::uint8_t warp_barriers = 0;  // wraps around
  enum : std::uint8_t { one, lanes, warps } threads = one;
};

struct Cell {
  Record read, write;
};
static_assert(sizeof(Cell) == 16);

// A range of memory whose accesses are known, and its records.
struct Region {
  const char *begin = nullptr, *end = nullptr;
  Cell* cells = nullptr;
  bool shared = false;
};

bool watching = false;  // a thread of a kernel runs
bool in_atomic = false;
bool acquired = false;  // the block has passed an atomic operation, which may order it after other blocks
std::uint32_t interval = 1, block_begin = 1, launch_begin = 1;
int thread = 0;
std::array<std::uint8_t, 32> warp_barriers;
const char *parameters_begin = nullptr, *parameters_end = nullptr;
Traffic current_traffic;

constexpr std::size_t kCached = 1024;
std::array<Region, kCached> device_cache, variable_cache;  // by page, by 64 bytes

// Records of the arena, at the same offsets times four; untouched pages cost nothing.
Cell* arena_cells() {
  static Cell* const cells = [] {
    void* memory = mmap(nullptr, arena_bytes() / kWord * sizeof(Cell), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("simt: no addresses for the records of device memory");
    return static_cast<Cell*>(memory);
  }();
  return cells;
}

// Of all __shared__ and __device__ variables, by address.
const std::vector<Region>& variable_regions() {
  static const std::vector<Region> regions = [] {
    std::vector<Region> result;
    const auto add = [&](const std::vector<DeviceVariable>& variables, bool shared) {
      for (const DeviceVariable& v : variables)
        result.push_back({v.address, v.address + v.bytes, new Cell[(v.bytes + kWord - 1) / kWord], shared});
    };
    add(shared_variables(), true);
    add(global_variables(), false);
    std::sort(result.begin(), result.end(), [](const Region& a, const Region& b) { return a.begin < b.begin; });
    return result;
  }();
  return regions;
}

std::string describe(const Region& region, const char* address) {
  for (const auto* variables : {&shared_variables(), &global_variables()})
    for (const DeviceVariable& v : *variables)
      if (v.address == region.begin)
        return "byte " + std::to_string(address - v.address) + " of the " + std::to_string(v.bytes) +
               (region.shared ? " of shared " : " of device variable ") + v.name;
  return describe_address(address);
}

[[noreturn]] void report(cudaError_t error, bool write, std::size_t bytes, const std::string& what) {
  watching = false;
  std::ostringstream text;
  text << (write ? "writes " : "reads ") << bytes << " bytes at " << what;
  abandon(error, text.str());
}

bool contains(const Region& region, const char* p, std::size_t bytes) {
  return p >= region.begin && p + bytes <= region.end;
}

// The region of an address in the arena; its cells pointer is that of its first byte.
const Region& device_region(const char* p, std::size_t bytes, bool write) {
  Region& cached = device_cache[reinterpret_cast<std::uintptr_t>(p) / 4096 % kCached];
  if (contains(cached, p, bytes)) return cached;
  const Allocation* a = allocation_at(p);
  if (!a || p + bytes > a->address + a->bytes)
    report(cudaErrorIllegalAddress, write, bytes, describe_address(p) + ", out of bounds");
  cached = {a->address, a->address + a->bytes, arena_cells() + (a->address - arena_begin()) / kWord, false};
  return cached;
}

// The region of an address that is none of the arena's, or null if it needs no watching.
const Region* other_region(const char* p, std::size_t bytes, bool write) {
  if (on_own_stack(p)) return nullptr;
  Region& cached = variable_cache[reinterpret_cast<std::uintptr_t>(p) / 64 % kCached];
  if (contains(cached, p, bytes)) return &cached;
  const auto& regions = variable_regions();
  auto next = std::upper_bound(regions.begin(), regions.end(), p,
                               [](const char* address, const Region& r) { return address < r.begin; });
  if (next != regions.begin()) {
    const Region& r = *std::prev(next);
    if (contains(r, p, bytes)) return &(cached = r);
    if (p < r.end + 64) report(cudaErrorIllegalAddress, write, bytes, describe(r, p) + ", out of bounds");
  }
  if (next != regions.end() && p >= next->begin - 64)
    report(cudaErrorIllegalAddress, write, bytes, describe(*next, p) + ", out of bounds");
  const bool constant = p >= &__executable_start && p < &__data_start;
  const bool parameter = p >= parameters_begin && p + bytes <= parameters_end;
  if ((constant || parameter) && !write) return nullptr;
  report(cudaErrorIllegalAddress, write, bytes, "an address that is neither device memory nor the kernel's own");
}

bool ordered(const Record& r, bool shared) {
  if (r.interval < interval) return shared || r.interval < launch_begin || r.interval >= block_begin || acquired;
  if (r.threads == Record::warps) return false;
  if (r.threads == Record::one && r.thread == thread) return true;
  return r.thread / 32 == thread / 32 && r.warp_barriers != warp_barriers[static_cast<std::size_t>(thread / 32)];
}

[[noreturn]] void report_race(const Region& region, const char* p, std::size_t bytes, bool write, const Record& r,
                              bool by_write) {
  std::string other = "another block";
  if (r.interval >= block_begin) other = r.threads == Record::one ? "thread " + thread_text(r.thread) : "other threads";
  report(cudaErrorLaunchFailure, write, bytes,
         describe(region, p) + ", a data race: " + other + (by_write ? " wrote" : " read") +
             " there with no barrier in between");
}

void note_read(const Region& region, Cell& cell, const char* p, std::size_t bytes) {
  if (!ordered(cell.write, region.shared)) report_race(region, p, bytes, false, cell.write, true);
  Record& r = cell.read;
  const auto epoch = warp_barriers[static_cast<std::size_t>(thread / 32)];
  if (r.interval < interval && !region.shared && r.interval < launch_begin) current_traffic.unique_read += kWord;
  if (r.interval == interval) {
    if (r.threads == Record::warps || (r.threads == Record::one && r.thread == thread)) {
      r.warp_barriers = epoch;
      return;
    }
    if (r.thread / 32 != thread / 32) {
      r.threads = Record::warps;
      return;
    }
    if (r.warp_barriers == epoch) {
      r.threads = Record::lanes;
      return;
    }
  }
  r = {interval, static_cast<std::uint16_t>(thread), epoch, Record::one};
}

void note_write(const Region& region, Cell& cell, const char* p, std::size_t bytes) {
  if (!ordered(cell.write, region.shared)) report_race(region, p, bytes, true, cell.write, true);
  if (!ordered(cell.read, region.shared)) report_race(region, p, bytes, true, cell.read, false);
  if (!region.shared && cell.write.interval < launch_begin) current_traffic.unique_written += kWord;
  cell.write = {interval, static_cast<std::uint16_t>(thread), warp_barriers[static_cast<std::size_t>(thread / 32)],
                Record::one};
}

// As in_arena, which is a call.
bool is_global(const char* p) {
  static const char* const begin = arena_begin();
  return static_cast<std::size_t>(p - begin) < arena_bytes();
}

bool poisoned(const char* p) {
  std::uint32_t word;
  std::memcpy(&word, p, sizeof word);
  return word == kPoison;
}

void access(const void* address, std::size_t bytes, bool write, bool aligned) {
  if (!watching || !in_kernel()) return;
  const char* p = static_cast<const char*>(address);
  if (p >= &__start_simt_indices && p < &__stop_simt_indices && !write) return;
  const Region* region = is_global(p) ? &device_region(p, bytes, write) : other_region(p, bytes, write);
  if (!region) return;
  if (aligned && reinterpret_cast<std::uintptr_t>(p) % bytes != 0)
    report(cudaErrorMisalignedAddress, write, bytes, describe(*region, p) + ", which is misaligned");
  if (!region->shared) (write ? current_traffic.bytes_written : current_traffic.bytes_read) += bytes;
  if (bytes < kWord || reinterpret_cast<std::uintptr_t>(p) % kWord != 0) return;
  const std::size_t words = bytes / kWord;
  if (!write) {
    // Structures may have unwritten padding: of 8 bytes both words count, of a vector each.
    std::size_t count = 0;
    for (std::size_t i = 0; i < words; ++i) count += poisoned(p + i * kWord);
    if (count == words || (bytes == 16 && count > 0))
      report(cudaErrorLaunchFailure, write, bytes, describe(*region, p) + ", which nothing has written");
  }
  if (in_atomic) return;
  // Addresses of words are relative to the region, which begins at a multiple of a word if it is as large as one.
  Cell* cell = region->cells + (p - region->begin) / kWord;
  for (std::size_t i = 0; i < words; ++i) {
    if (write)
      note_write(*region, cell[i], p + i * kWord, bytes);
    else
      note_read(*region, cell[i], p + i * kWord, bytes);
  }
}

}  // namespace

void begin_launch(const Call& call) {
  parameters_begin = reinterpret_cast<const char*>(&call);
  parameters_end = parameters_begin + call.size();
  launch_begin = ++interval;
  current_traffic = {};
}

void begin_block() {
  block_begin = ++interval;
  acquired = false;
  warp_barriers.fill(0);
}

void end_launch() { watching = in_atomic = false; }

void note_thread(int t) {
  thread = t;
  watching = true;
}

void pause_checks() { watching = false; }

void note_block_barrier() { ++interval; }
void note_warp_barrier(int warp) { ++warp_barriers[static_cast<std::size_t>(warp)]; }

const Traffic& traffic() { return current_traffic; }

void forget_allocations() { device_cache.fill({}); }

void begin_atomic() { in_atomic = true; }

void end_atomic() {
  in_atomic = false;
  acquired = true;
}

}  // namespace simt

// --- what the instrumentation calls ---------------------------------------------------------------------------------

extern "C" {

#define SIMT_ACCESS(bytes)                                                             \
  void __tsan_read##bytes(void* p) { simt::access(p, bytes, false, true); }            \
  void __tsan_write##bytes(void* p) { simt::access(p, bytes, true, true); }            \
  void __tsan_unaligned_read##bytes(void* p) { simt::access(p, bytes, false, false); } \
  void __tsan_unaligned_write##bytes(void* p) { simt::access(p, bytes, true, false); } \
  void __tsan_volatile_read##bytes(void* p) { simt::access(p, bytes, false, true); }   \
  void __tsan_volatile_write##bytes(void* p) { simt::access(p, bytes, true, true); }
SIMT_ACCESS(1)
SIMT_ACCESS(2)
SIMT_ACCESS(4)
SIMT_ACCESS(8)
SIMT_ACCESS(16)
#undef SIMT_ACCESS
void __tsan_read_range(void* p, unsigned long bytes) { simt::access(p, bytes, false, false); }
void __tsan_write_range(void* p, unsigned long bytes) { simt::access(p, bytes, true, false); }
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}

// Atomics of the host code in these files.
#define SIMT_ATOMIC(bits, T)                                                                                        \
  T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }           \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }           \
  T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); } \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* expected, T v, int, int) {                    \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                  \
  }
SIMT_ATOMIC(8, unsigned char)
SIMT_ATOMIC(32, unsigned)
SIMT_ATOMIC(64, unsigned long)
#undef SIMT_ATOMIC

}  // extern "C"
