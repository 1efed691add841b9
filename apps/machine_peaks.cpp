#include "apps/machine_peaks.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

#include <omp.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace minidl {
namespace {

constexpr double kSeconds = 0.3;           // of every measurement
constexpr std::int64_t kRounds = 200'000;  // less than a millisecond: shorter than the system's time slices
// Multiply-adds under way at once: enough for two units of latency 5, few enough for the 16 registers of AVX2.
constexpr int kChains = 12;

// The shortest of as many runs as fit into kSeconds: anything else that runs only slows them.
template <class F>
double best_seconds(F f) {
  using Seconds = std::chrono::duration<double>;
  const auto begin = std::chrono::steady_clock::now();
  double best = INFINITY;
  for (auto start = begin; Seconds(start - begin).count() < kSeconds;) {
    f();
    const auto end = std::chrono::steady_clock::now();
    best = std::min(best, Seconds(end - start).count());
    start = end;
  }
  return best;
}

// kRounds rounds of kChains multiply-adds; the result depends on each of them, so that none can be left out.
#if defined(__x86_64__)
[[gnu::target("avx512f")]] float multiply_add_avx512(float start) {
  const __m512 factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(start);
  __m512 chain[kChains];
  for (int k = 0; k < kChains; ++k) chain[k] = _mm512_set1_ps(start + static_cast<float>(k));
  for (std::int64_t i = 0; i < kRounds; ++i)
    for (int k = 0; k < kChains; ++k) chain[k] = _mm512_fmadd_ps(chain[k], factor, term);
  float sum = 0;
  for (int k = 0; k < kChains; ++k) {
    float lanes[16];
    _mm512_storeu_ps(lanes, chain[k]);
    for (float lane : lanes) sum += lane;
  }
  return sum;
}

[[gnu::target("avx2,fma")]] float multiply_add_avx2(float start) {
  const __m256 factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(start);
  __m256 chain[kChains];
  for (int k = 0; k < kChains; ++k) chain[k] = _mm256_set1_ps(start + static_cast<float>(k));
  for (std::int64_t i = 0; i < kRounds; ++i)
    for (int k = 0; k < kChains; ++k) chain[k] = _mm256_fmadd_ps(chain[k], factor, term);
  float sum = 0;
  for (int k = 0; k < kChains; ++k) {
    float lanes[8];
    _mm256_storeu_ps(lanes, chain[k]);
    for (float lane : lanes) sum += lane;
  }
  return sum;
}
#endif

float multiply_add_scalar(float start) {
  float chain[kChains];
  for (int k = 0; k < kChains; ++k) chain[k] = start + static_cast<float>(k);
  for (std::int64_t i = 0; i < kRounds; ++i)
    for (int k = 0; k < kChains; ++k) chain[k] = std::fma(chain[k], 0.999f, start);
  float sum = 0;
  for (int k = 0; k < kChains; ++k) sum += chain[k];
  return sum;
}

struct MultiplyAdd {
  float (*run)(float start);
  int lanes;
  const char* name;
};

MultiplyAdd widest_multiply_add() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return {multiply_add_avx512, 16, "AVX-512"};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {multiply_add_avx2, 8, "AVX2"};
#endif
  return {multiply_add_scalar, 1, "scalar"};
}

// Every thread takes its own best time while all of them compute, so that one that is interrupted does not count for
// the others. More threads than cores would each find a core of their own at times.
double flops_per_second(const MultiplyAdd& kernel) {
  const int threads = std::min(omp_get_max_threads(), omp_get_num_procs());
  double total = 0;
#pragma omp parallel for schedule(static, 1) num_threads(threads) reduction(+ : total)
  for (int i = 0; i < threads; ++i) {
    volatile float start = 0.5f, result = 0;  // unknown to the compiler, and of use to it
    const double seconds = best_seconds([&] { result = kernel.run(start); });
    total += 2.0 * kChains * kernel.lanes * static_cast<double>(kRounds) / seconds;
  }
  return total;
}

double bytes_per_second() {
  constexpr std::int64_t kSize = std::int64_t{256} << 20, kPiece = std::int64_t{1} << 22;
  const auto from = std::make_unique_for_overwrite<char[]>(kSize), to = std::make_unique_for_overwrite<char[]>(kSize);
  // Written by the threads that will use it: memory belongs to the processor that first touches it.
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < kSize; i += kPiece) {
    std::memset(from.get() + i, 1, kPiece);
    std::memset(to.get() + i, 0, kPiece);
  }
  const double seconds = best_seconds([&] {
#pragma omp parallel for schedule(static)
    for (std::int64_t i = 0; i < kSize; i += kPiece) std::memcpy(to.get() + i, from.get() + i, kPiece);
  });
  return 2.0 * kSize / seconds;
}

}  // namespace

MachinePeaks measure_machine() {
  const MultiplyAdd kernel = widest_multiply_add();
  return {.flops = flops_per_second(kernel), .bytes = bytes_per_second(), .vectors = kernel.name};
}

}  // namespace minidl
