// The language of kernels: qualifiers, indices, barriers, warp operations, atomics and intrinsics.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "simt_types.h"

#define __global__
#define __host__
#define __constant__
#define __grid_constant__
// The tags are how the emulation finds variables (symbols.h): they end up in their names.
#define __device__ __attribute__((abi_tag("simt_device")))
#define __shared__ static __attribute__((abi_tag("simt_shared")))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

// Of the running thread; set at every switch of threads. Kernels only read them. They have a section of their own, so
// that the access checks know them by their addresses.
#define SIMT_INDEX __attribute__((section("simt_indices")))
extern uint3 SIMT_INDEX threadIdx, blockIdx;
extern dim3 SIMT_INDEX blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace simt {

// Where a barrier or warp operation is written.
struct Site {
  const char* operation;
  const char* file;
  int line;
};

enum class Join { none, all, any, count, ballot };

// Waits for all threads of the block; returns what `join` makes of the threads' values.
int block_barrier(const Site& site, Join join, int value);
// Waits for the lanes of mask; returns what `join` makes of their values or, for Join::none, the value of lane
// `source`.
std::uint64_t warp_exchange(const Site& site, unsigned mask, Join join, std::uint64_t value, int source);
unsigned active_lanes();
int lane();
// Between the two, accesses belong to an atomic operation.
void begin_atomic();
void end_atomic();

template <class T>
std::uint64_t to_bits(T value) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) >= 4, "a shuffle moves 4 or 8 bytes");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

template <class T>
T shuffle(const Site& site, unsigned mask, T value, int source, int width, bool in_range) {
  const int self = lane();
  const int from = in_range ? (self & ~(width - 1)) + source : self;
  const std::uint64_t bits = warp_exchange(site, mask, Join::none, to_bits(value), from);
  T result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

}  // namespace simt

#define SIMT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define SIMT_HERE \
  simt::Site { __func__, file, line }

inline void __syncthreads(SIMT_SITE) { simt::block_barrier(SIMT_HERE, simt::Join::none, 0); }
inline int __syncthreads_and(int value, SIMT_SITE) { return simt::block_barrier(SIMT_HERE, simt::Join::all, value); }
inline int __syncthreads_or(int value, SIMT_SITE) { return simt::block_barrier(SIMT_HERE, simt::Join::any, value); }
inline int __syncthreads_count(int value, SIMT_SITE) {
  return simt::block_barrier(SIMT_HERE, simt::Join::count, value);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_SITE) {
  simt::warp_exchange(SIMT_HERE, mask, simt::Join::none, 0, simt::lane());
}
inline unsigned __ballot_sync(unsigned mask, int value, SIMT_SITE) {
  return static_cast<unsigned>(simt::warp_exchange(SIMT_HERE, mask, simt::Join::ballot, value != 0, 0));
}
inline int __any_sync(unsigned mask, int value, SIMT_SITE) {
  return static_cast<int>(simt::warp_exchange(SIMT_HERE, mask, simt::Join::any, value != 0, 0));
}
inline int __all_sync(unsigned mask, int value, SIMT_SITE) {
  return static_cast<int>(simt::warp_exchange(SIMT_HERE, mask, simt::Join::all, value != 0, 0));
}
inline unsigned __activemask() { return simt::active_lanes(); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_SITE) {
  return simt::shuffle(SIMT_HERE, mask, value, source & (width - 1), width, true);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
  const int source = (simt::lane() & (width - 1)) + static_cast<int>(delta);
  return simt::shuffle(SIMT_HERE, mask, value, source, width, source < width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
  const int source = (simt::lane() & (width - 1)) - static_cast<int>(delta);
  return simt::shuffle(SIMT_HERE, mask, value, source, width, source >= 0);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, SIMT_SITE) {
  const int source = (simt::lane() & (width - 1)) ^ lane_mask;
  return simt::shuffle(SIMT_HERE, mask, value, source, width, source < width);
}
#undef SIMT_SITE
#undef SIMT_HERE

// --- atomics, on integers only: the order of threads must not show in results --------------------------------------

namespace simt {
template <class T, class F>
T atomic(T* address, F&& f) {
  static_assert(std::is_integral_v<T> && sizeof(T) >= 4, "atomics are for integers: float sums would lose their order");
  begin_atomic();
  const T old = *address;
  *address = f(old);
  end_atomic();
  return old;
}
}  // namespace simt

template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return simt::atomic(address, [=](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicSub(T* address, std::type_identity_t<T> value) {
  return simt::atomic(address, [=](T old) { return static_cast<T>(old - value); });
}
template <class T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return simt::atomic(address, [=](T old) { return old > value ? old : value; });
}
template <class T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return simt::atomic(address, [=](T old) { return old < value ? old : value; });
}
template <class T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return simt::atomic(address, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  return simt::atomic(address, [=](T old) { return old == compare ? value : old; });
}
inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return simt::atomic(address, [=](unsigned old) { return old >= limit ? 0u : old + 1; });
}

inline void __threadfence() {}
inline void __threadfence_block() {}

// --- intrinsics -----------------------------------------------------------------------------------------------------

template <class T>
T __ldg(const T* address) {
  return *address;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((std::uint64_t{a} * b) >> 32); }

#define SIMT_MIN_MAX(T)                               \
  constexpr T min(T a, T b) { return b < a ? b : a; } \
  constexpr T max(T a, T b) { return a < b ? b : a; }
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned)
SIMT_MIN_MAX(long)
SIMT_MIN_MAX(unsigned long)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long long)
#undef SIMT_MIN_MAX
// As on the device, the other operand where one is NaN.
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }
