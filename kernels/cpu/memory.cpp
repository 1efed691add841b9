// Memory, layout conversion, and what follows from the processor: the channel block and the precisions.
#include <sys/mman.h>
#include <unistd.h>

#include <dnnl.hpp>

#include <chrono>
#include <cstdlib>
#include <cstring>

#include "core/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/loops.h"
#include "kernels/memory_holder.h"

namespace minidl {

using namespace cpu;

namespace {

// Whether oneDNN uses all of an instruction set. Ask it rather than the processor: ONEDNN_MAX_CPU_ISA may lower what
// its kernels, and so its layouts, use. The numbers of the sets are their bits, not an order.
bool uses(dnnl::cpu_isa isa) {
  const auto bits = static_cast<unsigned>(isa);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & bits) == bits;
}

class HostBuffer final : public UploadBuffer {
 public:
  explicit HostBuffer(void* memory) : memory_(memory) {}
  void fill(const void* host, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(memory_, host, bytes);
  }
  void read(const std::function<void(const void*)>& use) override { use(memory_); }

 private:
  void* memory_;
};

class DoneDownload final : public PendingDownload {
 public:
  bool ready() const override { return true; }
  void wait() override {}
};

}  // namespace

CpuBackend::CpuBackend() {
#if defined(__x86_64__)
  check(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"),
        "this build needs a processor with AVX2 and FMA (Intel Haswell, AMD Zen or newer)");
#endif
  lanes_ = uses(dnnl::cpu_isa::avx512_core) ? 16 : 8;
}

void CpuBackend::set_precision(Precision precision) {
  check(precision != Precision::tf32, "--precision tf32 needs a GPU; use --precision fp32");
  check(precision == Precision::fp32 || uses(dnnl::cpu_isa::avx512_core_bf16),
        "--precision bf16 needs a processor with AVX512-BF16 (Intel Cooper Lake and Sapphire Rapids, AMD Zen 4 or "
        "newer); "
        "this one has none: use --precision fp32");
  precision_ = precision;
}

void* cpu::allocate_pages(std::size_t bytes) {
  constexpr std::size_t kHugePage = 1u << 21;
  void* memory = allocate_or_trim(
      DeviceType::cpu, bytes,
      [&] {
        void* aligned = nullptr;
        const int error = posix_memalign(&aligned, bytes >= kHugePage ? kHugePage : 64, bytes);
        return error == 0 ? aligned : nullptr;
      },
      [] {
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        return concat_text(mebibytes_text(static_cast<std::size_t>(sysconf(_SC_AVPHYS_PAGES)) * page), " of ",
                           mebibytes_text(static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * page));
      });
#if defined(__linux__)
  // Huge pages save most of the page faults of a program's first pass and most misses of the TLB, where the system
  // grants them on request only.
  if (bytes >= kHugePage) madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return memory;
}

void cpu::free_pages(void* memory) { std::free(memory); }

void* CpuBackend::allocate(std::size_t bytes) { return allocate_pages(bytes); }

void CpuBackend::deallocate(void* memory) { free_pages(memory); }

void CpuBackend::copy(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

std::unique_ptr<UploadBuffer> CpuBackend::upload_buffer(void* memory) { return std::make_unique<HostBuffer>(memory); }

std::unique_ptr<PendingDownload> CpuBackend::begin_download(std::span<const Download> pieces) {
  for (const Download& piece : pieces) copy(piece.host, piece.device, piece.bytes);
  return std::make_unique<DoneDownload>();
}

double CpuBackend::measure(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void CpuBackend::begin_recording() { fail("the CPU cannot record operations"); }

std::unique_ptr<Recording> CpuBackend::end_recording() { fail("the CPU cannot record operations"); }

namespace {

// f(image offset, plain offset, pixels) for each channel of an image; consecutive pixels are `block` floats apart.
template <class F>
void for_channels(const ImageDims& d, F f) {
  parallel_for(d.n * d.c, d.pixels(), [&](std::int64_t i) {
    const std::int64_t n = i / d.c, c = i % d.c;
    f(d.index(n, c, 0, 0), i * d.pixels(), d.pixels());
  });
}

}  // namespace

void CpuBackend::image_to_plain(const ImageDims& d, const float* image, float* plain) {
  for_channels(d, [&](std::int64_t from, std::int64_t to, std::int64_t pixels) {
    for (std::int64_t p = 0; p < pixels; ++p) plain[to + p] = image[from + p * d.block];
  });
}

void CpuBackend::plain_to_image(const ImageDims& d, const float* plain, float* image) {
  for_channels(d, [&](std::int64_t to, std::int64_t from, std::int64_t pixels) {
    for (std::int64_t p = 0; p < pixels; ++p) image[to + p * d.block] = plain[from + p];
  });
}

void CpuBackend::bytes_to_image(const ImageDims& d, const std::uint8_t* bytes, float* image) {
  for_channels(d, [&](std::int64_t to, std::int64_t plain, std::int64_t pixels) {
    const std::int64_t n = plain / (d.c * pixels), c = plain / pixels % d.c;
    const std::uint8_t* from = bytes + n * d.c * pixels + c;
    for (std::int64_t p = 0; p < pixels; ++p)
      image[to + p * d.block] = (static_cast<float>(from[p * d.c]) / 255.0f - 0.5f) / 0.5f;
  });
}

Backend& cpu_backend() {
  static CpuBackend backend;
  return backend;
}

}  // namespace minidl
