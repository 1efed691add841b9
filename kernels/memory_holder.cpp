#include "kernels/memory_holder.h"

#include <atomic>

namespace minidl {
namespace {

std::atomic<MemoryHolder*> holders[2];

std::atomic<MemoryHolder*>& holder_of(DeviceType device) { return holders[static_cast<int>(device)]; }

}  // namespace

void set_memory_holder(DeviceType device, MemoryHolder& holder) { holder_of(device) = &holder; }

void* allocate_or_trim(DeviceType device, std::size_t bytes, const std::function<void*()>& allocate,
                       const std::function<std::string()>& free_memory) {
  if (void* memory = allocate()) return memory;
  MemoryHolder* const holder = holder_of(device);
  if (holder) {
    holder->trim();  // buffers of other sizes may make room
    if (void* memory = allocate()) return memory;
  }
  throw OutOfMemory(concat_text(device == DeviceType::cuda ? "cuda: " : "", "out of memory: ", mebibytes_text(bytes),
                                " asked for, ", free_memory(), " free, ", mebibytes_text(holder ? holder->held() : 0),
                                " held by libminidl's pool; lower --batch_size, the image size or --ch"));
}

std::string mebibytes_text(std::size_t bytes) {
  return bytes < (1u << 20) ? concat_text(bytes, " bytes") : concat_text(bytes >> 20, " MiB");
}

}  // namespace minidl
