// Vector and thread helpers of the CPU kernels.
//
// Work is divided by the data's size alone, never by the number of threads, so results do not depend on it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/backend.h"

namespace minidl::cpu {

// Eight floats, loaded and stored at any alignment.
using Vec [[gnu::vector_size(32)]] = float;
inline constexpr std::int64_t kLanes = 8;

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline Vec load_partial(const float* p, std::int64_t count) {
  Vec v = {};
  std::memcpy(&v, p, static_cast<std::size_t>(count) * sizeof(float));
  return v;
}
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline void store_partial(float* p, Vec v, std::int64_t count) {
  std::memcpy(p, &v, static_cast<std::size_t>(count) * sizeof(float));
}
inline Vec broadcast(float value) { return Vec{} + value; }

// Floats that one thread handles at a time: large enough to hide the scheduling, small enough to balance.
inline constexpr std::int64_t kChunk = 1 << 14;
// Work below this many floats is not worth waking another thread for.
inline constexpr std::int64_t kWorthSharing = 2 * kChunk;

// f(i) for i in [0, count), each about `floats` floats of work, spread over the cores.
template <class F>
void parallel_for(std::int64_t count, std::int64_t floats, F f) {
#pragma omp parallel for schedule(static) if (count > 1 && count * floats >= kWorthSharing)
  for (std::int64_t i = 0; i < count; ++i) f(i);
}

// f(begin, end) over [0, size) in chunks of kChunk.
template <class F>
void parallel_chunks(std::int64_t size, F f) {
  parallel_for((size + kChunk - 1) / kChunk, kChunk,
               [&](std::int64_t i) { f(i * kChunk, std::min(size, (i + 1) * kChunk)); });
}

// y[i] = f(i) for i in [0, size), in parallel; y may alias what f reads at i.
template <class F>
void map_floats(std::int64_t size, float* y, F f) {
  parallel_chunks(size, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) y[i] = f(i);
  });
}

// Uninitialised memory, aligned to a cache line; large blocks in huge pages where the system grants them.
void* allocate_pages(std::size_t bytes);
void free_pages(void* memory);

// Memory of allocate_pages that only grows.
template <class T>
class GrowingBuffer {
 public:
  GrowingBuffer() = default;
  GrowingBuffer(const GrowingBuffer&) = delete;
  GrowingBuffer& operator=(const GrowingBuffer&) = delete;
  ~GrowingBuffer() { release(); }

  T* at_least(std::int64_t count) {
    if (count > size_) {
      release();
      data_ = static_cast<T*>(allocate_pages(static_cast<std::size_t>(count) * sizeof(T)));
      size_ = count;
    }
    return data_;
  }

 private:
  void release() {
    free_pages(std::exchange(data_, nullptr));
    size_ = 0;
  }

  T* data_ = nullptr;
  std::int64_t size_ = 0;
};

// Working memory that is kept for the next call on this thread. Each Tag is a buffer of its own.
template <class T, class Tag>
T* scratch(std::int64_t count) {
  thread_local GrowingBuffer<T> buffer;
  return buffer.at_least(count);
}

// Sum of f(i) over [0, size): float within short pieces, double across them, in a fixed order.
template <class F>
double sum_of(std::int64_t size, F f) {
  struct Partials;
  constexpr std::int64_t kPiece = 256;
  const std::int64_t chunks = (size + kChunk - 1) / kChunk;
  double* partial = scratch<double, Partials>(chunks);
  parallel_for(chunks, kChunk, [&](std::int64_t chunk) {
    double total = 0;
    const std::int64_t end = std::min(size, (chunk + 1) * kChunk);
    for (std::int64_t begin = chunk * kChunk; begin < end; begin += kPiece) {
      float lanes[kLanes] = {};
      const std::int64_t stop = std::min(end, begin + kPiece);
      std::int64_t i = begin;
      for (; i + kLanes <= stop; i += kLanes)
        for (std::int64_t k = 0; k < kLanes; ++k) lanes[k] += f(i + k);
      for (; i < stop; ++i) lanes[0] += f(i);
      for (float lane : lanes) total += lane;
    }
    partial[chunk] = total;
  });
  double total = 0;
  for (std::int64_t i = 0; i < chunks; ++i) total += partial[i];
  return total;
}

// An image seen as runs: the contiguous floats of one sample and one channel block, pixel after pixel. Runs are cut
// into segments, the unit of parallel work. Channel `run * block + lane` (counted through the batch) is lane `lane` of
// a run.
struct Runs {
  std::int64_t block;     // channels of a run
  std::int64_t count;     // n * c / block
  std::int64_t length;    // floats of a run
  std::int64_t segments;  // per run

  explicit Runs(const ImageDims& d)
      : block(d.block),
        count(d.n * d.c / d.block),
        length(d.pixels() * d.block),
        segments((length + kChunk - 1) / kChunk) {}

  // f(run, segment, begin, end) with begin and end relative to the run, in parallel.
  template <class F>
  void for_segments(F f) const {
    parallel_for(count * segments, std::min(length, kChunk), [&](std::int64_t i) {
      const std::int64_t segment = i % segments;
      f(i / segments, segment, segment * kChunk, std::min(length, (segment + 1) * kChunk));
    });
  }
};

// Per-channel coefficients of a run as vectors: the lanes of a block, or one value everywhere when planar (K = 0).
template <int K>
struct Lanes {
  static constexpr int kVectors = K == 0 ? 1 : K;
  Vec v[kVectors];

  explicit Lanes(const float* channels) {
    for (int k = 0; k < kVectors; ++k) v[k] = K == 0 ? broadcast(channels[0]) : load(channels + k * kLanes);
  }
};

// y[i] = f(at, k) for the floats [begin, end) of a run, where at(p) loads the matching floats of p and k is the vector
// within the block. K = block / 8, or 0 when planar.
template <int K, class F>
void map_lanes(std::int64_t begin, std::int64_t end, float* y, F f) {
  constexpr int kVectors = Lanes<K>::kVectors;
  std::int64_t i = begin;
  for (; i + kVectors * kLanes <= end; i += kVectors * kLanes)
    for (int k = 0; k < kVectors; ++k) {
      const std::int64_t at = i + k * kLanes;
      store(y + at, f([at](const float* p) { return load(p + at); }, k));
    }
  if (i < end) {
    const std::int64_t rest = end - i;
    store_partial(y + i, f([i, rest](const float* p) { return load_partial(p + i, rest); }, 0), rest);
  }
}

template <int S>
struct Terms {
  Vec v[S];
};

// sums[s * block + lane] = sum over the floats [begin, end) of a run of f(at, k)[s], S sums at once: float within short
// pieces, double across them.
template <int K, int S, class F>
void sum_lanes(std::int64_t begin, std::int64_t end, double* sums, F f) {
  constexpr int kVectors = Lanes<K>::kVectors;
  constexpr std::int64_t kBlock = K == 0 ? 1 : K * kLanes;
  constexpr std::int64_t kPiece = 128 * kVectors * kLanes;
  std::fill(sums, sums + S * kBlock, 0.0);
  for (std::int64_t piece = begin; piece < end; piece += kPiece) {
    Vec total[S][kVectors] = {};
    const std::int64_t stop = std::min(end, piece + kPiece);
    std::int64_t i = piece;
    for (; i + kVectors * kLanes <= stop; i += kVectors * kLanes)
      for (int k = 0; k < kVectors; ++k) {
        const std::int64_t at = i + k * kLanes;
        const auto terms = f([at](const float* p) { return load(p + at); }, k);
        for (int s = 0; s < S; ++s) total[s][k] += terms.v[s];
      }
    if (i < stop) {
      const std::int64_t rest = stop - i;
      const auto terms = f([i, rest](const float* p) { return load_partial(p + i, rest); }, 0);
      for (int s = 0; s < S; ++s)
        for (std::int64_t lane = 0; lane < rest; ++lane) total[s][0][lane] += terms.v[s][lane];
    }
    for (int s = 0; s < S; ++s)
      for (int k = 0; k < kVectors; ++k)
        for (std::int64_t lane = 0; lane < kLanes; ++lane)
          sums[s * kBlock + (K == 0 ? 0 : k * kLanes + lane)] += total[s][k][lane];
  }
}

// f.template operator()<K>() for the block of an image buffer: 1 (planar), 8 or 16.
template <class F>
void dispatch_block(std::int64_t block, F f) {
  if (block == 1)
    f.template operator()<0>();
  else if (block == 8)
    f.template operator()<1>();
  else
    f.template operator()<2>();
}

}  // namespace minidl::cpu
