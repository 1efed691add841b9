// What happens when a device's memory is exhausted: whoever holds memory that he does not use gives it back, and only
// if that does not help the allocation fails.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "core/check.h"
#include "kernels/backend.h"

namespace minidl {

class OutOfMemory : public Error {
 public:
  using Error::Error;
};

class MemoryHolder {
 public:
  virtual ~MemoryHolder() = default;
  virtual void trim() = 0;               // gives back what is not in use
  virtual std::size_t held() const = 0;  // bytes, in use or not
};

// Of a device; the pool of core/storage.h. It must outlive all allocations.
void set_memory_holder(DeviceType device, MemoryHolder& holder);

// What allocate(), which returns null when memory is exhausted, gives, after the holder has trimmed if need be. Throws
// OutOfMemory, saying how much was asked for, free (a sentence by `free_memory`) and held, and what to lower.
void* allocate_or_trim(DeviceType device, std::size_t bytes, const std::function<void*()>& allocate,
                       const std::function<std::string()>& free_memory);

// 34 MiB; below one, bytes.
std::string mebibytes_text(std::size_t bytes);

}  // namespace minidl
