// Device memory: an arena of its own, out of bounds for everything but the operations of the device.
//
//  - Every allocation starts at a multiple of kAlignment, as cudaMalloc's do, and ends near a guard page. The bytes
//    between are canaries, checked when memory is freed and when the host waits for the device.
//  - Fresh memory is full of kPoison. Freed addresses are not used again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace simt {

inline constexpr std::size_t kAlignment = 256;
// What memory that nothing has written is full of: NaN, as float and as two of them that make a double. Arithmetic on
// it gives it again, so what is computed from it is known too.
inline constexpr std::uint32_t kPoison = 0xfff8dead;
// memory may be any shared or device memory; writes whole and parts of words.
void poison(char* memory, std::size_t bytes);
bool is_poison(const char* memory, std::size_t bytes);

struct Allocation {
  char* address;
  std::size_t bytes;
  int number;         // counts cudaMalloc
  bool open = false;  // may be touched now
};

// Null when `limit` bytes would be exceeded.
void* allocate_device(std::size_t bytes);
// Empty, or what is wrong with the pointer or the bytes behind the allocation.
std::string free_device(void* memory);
void set_device_limit(std::size_t bytes);
std::size_t device_bytes_free();
std::size_t device_bytes_total();

char* arena_begin();
std::size_t arena_bytes();
bool in_arena(const void* address);
// The live allocation that contains the address or ends there, or null; valid until it is freed.
const Allocation* allocation_at(const void* address);
// What a wrong address is near to, for messages.
std::string describe_address(const void* address);
// Empty, or which allocation has been written behind its end.
std::string check_canaries();

// Pinned host memory.
void* allocate_pinned(std::size_t bytes);
bool free_pinned(void* memory);
bool is_pinned(const void* memory, std::size_t bytes);

// Opens the allocation that contains the address. False if that is open already, or there is none, or no DeviceAccess
// lives.
bool open_allocation(const void* address);

// While one lives, allocations are opened when they are needed: a fault of an operation does so and goes on. That is
// cheaper than to open all of them for each operation.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

}  // namespace simt
