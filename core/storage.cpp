#include "core/storage.h"

#include <algorithm>
#include <bit>
#include <map>
#include <mutex>
#include <vector>

#include "core/check.h"
#include "kernels/memory_holder.h"

namespace minidl {
namespace {

// Sizes are rounded up to eight classes per power of two: at most an eighth is wasted, and near sizes share buffers. Not so
// where every access is checked, because what is behind the last element must then be nobody's.
std::size_t size_class(std::size_t bytes) {
#if defined(MINIDL_SIMT) || defined(__SANITIZE_ADDRESS__)
  return std::max<std::size_t>(bytes, 1);
#else
  constexpr std::size_t kSmallest = 256;
  if (bytes <= kSmallest) return kSmallest;
  const std::size_t step = std::bit_floor(bytes) / 8;
  return (bytes + step - 1) / step * step;
#endif
}

}  // namespace

// Buffers that nobody uses, by size class; guarded by the mutex of their pool.
class FreeBuffers {
 public:
  explicit FreeBuffers(DeviceType device) : device(device) {}
  ~FreeBuffers();

  const DeviceType device;
  std::map<std::size_t, std::vector<void*>> by_size;
};

namespace {

class Pool final : public MemoryHolder {
 public:
  explicit Pool(DeviceType device) : device_(device), common_(std::make_shared<FreeBuffers>(device)) {
    set_memory_holder(device, *this);
  }

  const std::shared_ptr<FreeBuffers>& common() const { return common_; }

  void* take(FreeBuffers& from, std::size_t bytes) {
    void* memory = kept(from, bytes);
    const bool fresh = memory == nullptr;
    if (fresh) memory = backend_of(device_).allocate(bytes);  // which may trim this pool
    const std::lock_guard lock(mutex_);
    if (fresh) {
      stats_.held += bytes;
      ++stats_.device_allocations;
    }
    stats_.in_use += bytes;
    stats_.peak_in_use = std::max(stats_.peak_in_use, stats_.in_use);
    return memory;
  }

  void give(FreeBuffers& to, void* memory, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    to.by_size[bytes].push_back(memory);
    stats_.in_use -= bytes;
  }

  void give_all(const FreeBuffers& from) {
    const std::lock_guard lock(mutex_);
    for (const auto& [bytes, buffers] : from.by_size) {
      auto& all = common_->by_size[bytes];
      all.insert(all.end(), buffers.begin(), buffers.end());
    }
  }

  void trim() override {
    const std::lock_guard lock(mutex_);
    for (auto& [bytes, buffers] : common_->by_size) {
      for (void* memory : buffers) backend_of(device_).deallocate(memory);
      stats_.held -= bytes * buffers.size();
      buffers.clear();
    }
  }

  std::size_t held() const override { return stats().held; }

  PoolStats stats() const {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  // A buffer that nobody uses, or null.
  void* kept(FreeBuffers& from, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto found = from.by_size.find(bytes);
    if (found == from.by_size.end() || found->second.empty()) return nullptr;
    void* memory = found->second.back();
    found->second.pop_back();
    return memory;
  }

  DeviceType device_;
  mutable std::mutex mutex_;
  std::shared_ptr<FreeBuffers> common_;
  PoolStats stats_;
};

// Never destroyed: tensors of static lifetime may outlive any other static object.
Pool& pool(DeviceType device) {
  static Pool* const pools[] = {new Pool(DeviceType::cpu), new Pool(DeviceType::cuda)};
  return *pools[static_cast<int>(device)];
}

// The private memory that this thread draws from, innermost last.
thread_local std::vector<std::shared_ptr<FreeBuffers>> scopes;

std::shared_ptr<FreeBuffers> free_buffers(DeviceType device) {
  for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope)
    if ((*scope)->device == device) return *scope;
  return pool(device).common();
}

}  // namespace

FreeBuffers::~FreeBuffers() { pool(device).give_all(*this); }

PrivateMemory::PrivateMemory(DeviceType device) : buffers_(std::make_shared<FreeBuffers>(device)) {}

PrivateMemory::Scope::Scope(const PrivateMemory& memory) { scopes.push_back(memory.buffers_); }
PrivateMemory::Scope::~Scope() { scopes.pop_back(); }

Storage::Buffer::Buffer(DeviceType device, std::size_t bytes)
    : device(device),
      bytes(size_class(bytes)),
      home(free_buffers(device)),
      memory(pool(device).take(*home, this->bytes)) {}

Storage::Buffer::~Buffer() { pool(device).give(*home, memory, bytes); }

Storage::Storage(DeviceType device, std::size_t bytes) : buffer_(std::make_shared<Buffer>(device, bytes)) {}

PoolStats pool_stats(DeviceType device) { return pool(device).stats(); }

void trim_pool(DeviceType device) { pool(device).trim(); }

}  // namespace minidl
