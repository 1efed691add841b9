#include "kernels/cuda/transfers.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/cuda/context.h"

namespace minidl::gpu {
namespace {

constexpr std::size_t kSlotBytes = std::size_t{4} << 20, kSlots = 4;

std::byte* page_locked() {
  void* memory = nullptr;
  check_status(cudaMallocHost(&memory, kSlotBytes), "allocating pinned memory");
  return static_cast<std::byte*>(memory);
}

void begin_copy(void* to, const Download& piece, cudaStream_t stream) {
  check_status(cudaMemcpyAsync(to, piece.device, piece.bytes, cudaMemcpyDeviceToHost, stream), "a download");
}

class Done final : public PendingDownload {
 public:
  bool ready() const override { return true; }
  void wait() override {}
};

}  // namespace

Event::Event() { check_status(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "making an event"); }
Event::~Event() {
  if (event_) cudaEventDestroy(event_);
}
Event::Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}

void Event::record(cudaStream_t stream) { check_status(cudaEventRecord(event_, stream), "recording an event"); }
void Event::hold(cudaStream_t stream) const {
  check_status(cudaStreamWaitEvent(stream, event_, 0), "letting a stream wait");
}
void Event::wait() const { check_status(cudaEventSynchronize(event_), "waiting for the device"); }
bool Event::has_happened() const {
  const cudaError_t status = cudaEventQuery(event_);
  if (status == cudaErrorNotReady) return false;
  check_status(status, "asking for an event");
  return true;
}

Staging::Staging(cudaStream_t stream) : stream_(stream) {
  for (std::size_t i = 0; i < kSlots; ++i) slots_.push_back({page_locked(), Event()});
}

void Staging::upload(void* device, const void* host, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  auto* to = static_cast<std::byte*>(device);
  auto* from = static_cast<const std::byte*>(host);
  for (std::size_t done = 0; done < bytes; done += kSlotBytes) {
    const std::size_t count = std::min(kSlotBytes, bytes - done);
    Slot& slot = slots_[next_];
    next_ = (next_ + 1) % slots_.size();
    slot.read.wait();
    std::memcpy(slot.memory, from + done, count);
    check_status(cudaMemcpyAsync(to + done, slot.memory, count, cudaMemcpyHostToDevice, stream_), "an upload");
    slot.read.record(stream_);
  }
}

StagedBuffer::StagedBuffer(cudaStream_t stream, Staging& staging, void* memory)
    : stream_(stream), staging_(staging), memory_(memory) {
  used_.record(stream_);  // the memory's former owner may have asked for reads and writes
}

StagedBuffer::~StagedBuffer() {
  try {
    filled_.hold(stream_);  // the memory's next owner comes after the last filling
  } catch (const Error&) {
    // The device has failed; whoever uses it next is told.
  }
}

void StagedBuffer::fill(const void* host, std::size_t bytes) {
  used_.hold(staging_.stream());
  staging_.upload(memory_, host, bytes);
  filled_.record(staging_.stream());
}

void StagedBuffer::read(const std::function<void(const void*)>& use) {
  filled_.hold(stream_);
  use(memory_);
  used_.record(stream_);
}

class Landings::Landed final : public PendingDownload {
 public:
  Landed(Landings& landings, Place place, std::span<const Download> pieces)
      : landings_(landings), place_(std::move(place)), pieces_(pieces.begin(), pieces.end()) {}
  // The stream writes to the place for its next owner after it has done so for this one.
  ~Landed() override { landings_.give(std::move(place_)); }

  void start(cudaStream_t stream) {
    std::byte* to = place_.memory;
    for (const Download& piece : pieces_) {
      begin_copy(to, piece, stream);
      to += piece.bytes;
    }
    place_.arrived.record(stream);
  }
  bool ready() const override { return taken_ || place_.arrived.has_happened(); }
  void wait() override {
    if (taken_) return;
    place_.arrived.wait();
    const std::byte* from = place_.memory;
    for (const Download& piece : pieces_) {
      if (piece.bytes > 0) std::memcpy(piece.host, from, piece.bytes);
      from += piece.bytes;
    }
    taken_ = true;
  }

 private:
  Landings& landings_;
  Place place_;
  std::vector<Download> pieces_;
  bool taken_ = false;
};

std::unique_ptr<PendingDownload> Landings::begin(cudaStream_t stream, std::span<const Download> pieces) {
  std::size_t bytes = 0;
  for (const Download& piece : pieces) bytes += piece.bytes;
  if (bytes > kSlotBytes) {  // straight into the caller's memory
    for (const Download& piece : pieces) begin_copy(piece.host, piece, stream);
    check_status(cudaStreamSynchronize(stream), "waiting for the device");
    return std::make_unique<Done>();
  }
  auto landed = std::make_unique<Landed>(*this, take(), pieces);
  landed->start(stream);
  return landed;
}

Landings::Place Landings::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      Place place = std::move(free_.back());
      free_.pop_back();
      return place;
    }
  }
  return {page_locked(), Event()};
}

void Landings::give(Place place) {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(place));
}

}  // namespace minidl::gpu
