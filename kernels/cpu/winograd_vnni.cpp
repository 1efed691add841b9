// Compiled for AVX512-VNNI: runs only where the processor has it.
#include <immintrin.h>

#include <cstring>
#include <utility>

#include "kernels/cpu/winograd_int16.h"

namespace minidl::cpu {
namespace {

constexpr std::int64_t L = kInt16Lanes;
constexpr float kNorm = 32767;
// Norms whose squares may have left the range of float32, or its precision.
constexpr float kLeast = 1e-30f, kMost = 1e30f;
// Rows of a product that are multiplied at a time.
constexpr int kRows = 14;
// Rows that are read ahead: of a product's right operand, of both operands of a correlation.
constexpr int kAhead = 8, kRowsAhead = 16;

bool in_range(__m512 squares) {
  return _mm512_cmp_ps_mask(squares, _mm512_set1_ps(kLeast), _CMP_GE_OQ) == 0xffff &&
         _mm512_cmp_ps_mask(squares, _mm512_set1_ps(kMost), _CMP_LE_OQ) == 0xffff;
}

// How vectors become integers and their products floats again. Vectors that are not finite make products that are not.
struct Scale {
  __m512 down, up;

  explicit Scale(__m512 norm)
      : down(_mm512_maskz_div_ps(_mm512_cmp_ps_mask(norm, _mm512_setzero_ps(), _CMP_NEQ_UQ), _mm512_set1_ps(kNorm),
                                 norm)),
        up(_mm512_mul_ps(norm, _mm512_set1_ps(1 / kNorm))) {}

  // For vectors of `count` elements, given the sums of their squares, which may have left the range; most() is the
  // greatest absolute values, from which follow norms that are too large rather than too small.
  template <class Most>
  static Scale of(__m512 squares, std::int64_t count, Most most) {
    if (in_range(squares)) return Scale(_mm512_sqrt_ps(squares));
    const __m512 bound = _mm512_mul_ps(most(), _mm512_sqrt_ps(_mm512_set1_ps(static_cast<float>(count))));
    const __mmask16 nan = _mm512_cmp_ps_mask(squares, squares, _CMP_UNORD_Q);
    return Scale(_mm512_mask_mov_ps(bound, nan, squares));
  }
  __m512i rounded(__m512 v) const { return _mm512_cvtps_epi32(_mm512_mul_ps(v, down)); }
};

// The greatest absolute values of `count` vectors, lane by lane.
__m512 most_of(const float* from, std::int64_t step, std::int64_t count) {
  __m512 most = _mm512_setzero_ps();
  for (std::int64_t i = 0; i < count; ++i) most = _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(from + i * step)), most);
  return most;
}

// The sums of the squares of `count` vectors, lane by lane.
__m512 squares_of(const float* from, std::int64_t step, std::int64_t count) {
  __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
  const auto add = [&](__m512& sum, std::int64_t i) {
    const __m512 v = _mm512_loadu_ps(from + i * step);
    sum = _mm512_fmadd_ps(v, v, sum);
  };
  std::int64_t i = 0;
  for (; i + 1 < count; i += 2) add(even, i), add(odd, i + 1);
  if (i < count) add(even, i);
  return _mm512_add_ps(even, odd);
}

void round_rows(const float* from, std::int64_t from_block, std::int64_t tiles, std::int64_t blocks, std::int16_t* to,
                std::int64_t to_block, float* scales) {
  for (std::int64_t t = 0; t < tiles; ++t, from += L, to += L) {
    const __m512 squares = _mm512_set1_ps(_mm512_reduce_add_ps(squares_of(from, from_block, blocks)));
    const Scale scale = Scale::of(
        squares, blocks * L, [&] { return _mm512_set1_ps(_mm512_reduce_max_ps(most_of(from, from_block, blocks))); });
    for (std::int64_t b = 0; b < blocks; ++b)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + b * to_block),
                          _mm512_cvtepi32_epi16(scale.rounded(_mm512_loadu_ps(from + b * from_block))));
    scales[t] = _mm512_cvtss_f32(scale.up);
  }
}

void round_columns(const float* from, std::int64_t from_row, std::int64_t rows, std::int32_t* to, std::int64_t to_row,
                   float* scales) {
  const Scale scale = Scale::of(squares_of(from, from_row, rows), rows, [&] { return most_of(from, from_row, rows); });
  const __m512i lower = _mm512_set1_epi32(0xffff);
  for (std::int64_t r = 0; r < rows; r += 2, to += to_row) {
    const __m512i first = scale.rounded(_mm512_loadu_ps(from + r * from_row));
    const __m512i second =
        r + 1 < rows ? scale.rounded(_mm512_loadu_ps(from + (r + 1) * from_row)) : _mm512_setzero_si512();
    _mm512_storeu_si512(to, _mm512_or_si512(_mm512_and_si512(first, lower), _mm512_slli_epi32(second, 16)));
  }
  _mm512_storeu_ps(scales, scale.up);
}

// f(i) for i in [0, kCount), each a constant: accumulators that are indexed by constants stay in registers.
template <int kCount, class F>
[[gnu::always_inline]] inline void unrolled(F f) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, i>{}), ...);
  }
  (std::make_integer_sequence<int, kCount>{});
}

// Adds to each lane the two products of a pair of 16-bit integers. g++ 12 copies accumulators around its own function.
[[gnu::always_inline]] inline void add_products(__m512i& sum, __m512i a, __m512i b) {
  asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
}

// R x V accumulators: adds to each the products of pairs, left(r) in every lane and right(v), for `count` steps.
template <int R, int V>
struct Accumulators {
  __m512i sum[R][V];

  Accumulators() {
    unrolled<R>([&](auto r) { unrolled<V>([&](auto v) { sum[r][v] = _mm512_setzero_si512(); }); });
  }
  template <class Left, class Right>
  [[gnu::always_inline]] void add(Left left, Right right) {
    __m512i factor[V];
    unrolled<V>([&](auto v) __attribute__((always_inline)) { factor[v] = _mm512_loadu_si512(right(v)); });
    unrolled<R>([&](auto r) __attribute__((always_inline)) {
      std::int32_t pair;
      std::memcpy(&pair, left(r), sizeof pair);
      const __m512i value = _mm512_set1_epi32(pair);
      unrolled<V>([&](auto v) __attribute__((always_inline)) { add_products(sum[r][v], value, factor[v]); });
    });
  }
};

// Rows [first, first + R), which are turn `turn` of `turns`. Each turn reads its part of the next product's operand.
template <int R, int V>
void multiply_rows(const Int16Product& p, std::int64_t first, std::int64_t turn, std::int64_t turns) {
  Accumulators<R, V> sums;
  const std::int16_t* left = p.left + first * L;
  const std::int32_t* right = p.right;
  const std::int64_t step = V * L / turns;
  const std::int32_t* next = p.next + turn * p.depth_blocks * (L / 2) * step;
  for (std::int64_t block = 0; block < p.depth_blocks; ++block, left += p.left_block)
    for (int c = 0; c < L; c += 2, right += V * L, next += step) {
      for (int v = 0; v < V; ++v) __builtin_prefetch(right + (kAhead * V + v) * L);
      __builtin_prefetch(next, 0, 2);
      sums.add([&](int r) { return left + r * L + c; }, [&](int v) { return right + v * L; });
    }
  unrolled<V>([&](auto v) __attribute__((always_inline)) {
    const __m512 column_scale = _mm512_loadu_ps(p.right_scales + v * L);
    unrolled<R>([&](auto r) __attribute__((always_inline)) {
      const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums.sum[r][v]), column_scale);
      _mm512_storeu_ps(p.result + v * p.result_block + (first + r) * L,
                       _mm512_mul_ps(scaled, _mm512_set1_ps(p.left_scales[first + r])));
    });
  });
}

template <int V, int... R>
void multiply_some(const Int16Product& p, std::int64_t turn, std::int64_t turns, std::integer_sequence<int, R...>) {
  const std::int64_t first = turn * p.tiles / turns, rows = (turn + 1) * p.tiles / turns - first;
  (void)((rows == R + 1 && (multiply_rows<R + 1, V>(p, first, turn, turns), true)) || ...);
}

// In turns of nearly equal numbers of tiles.
void multiply(const Int16Product& p) {
  const std::int64_t turns = (p.tiles + kRows - 1) / kRows;
  for (std::int64_t turn = 0; turn < turns; ++turn) {
    constexpr std::make_integer_sequence<int, kRows> kCounts;
    if (p.vectors == 2)
      multiply_some<2>(p, turn, turns, kCounts);
    else
      multiply_some<1>(p, turn, turns, kCounts);
  }
}

// V blocks of k and every block of c, half of whose channels are summed at a time.
template <int V>
void correlate_blocks(const Int16Correlation& p, std::int64_t block) {
  constexpr int R = L / 2;
  for (std::int64_t row = 0; row < p.left_blocks * L; row += R) {
    Accumulators<R, V> sums;
    const std::int32_t *left = p.left + row / L * p.left_block + row % L, *right = p.right + block * p.right_block;
    for (std::int64_t t = 0; t < p.pairs; ++t, left += L, right += L) {
      for (int v = 0; v < V; ++v) __builtin_prefetch(right + v * p.right_block + kRowsAhead * L);
      __builtin_prefetch(left + kRowsAhead * L);
      sums.add([&](int r) { return left + r; }, [&](int v) { return right + v * p.right_block; });
    }
    unrolled<V>([&](auto v) __attribute__((always_inline)) {
      const __m512 column_scale = _mm512_loadu_ps(p.right_scales + (block + v) * L);
      unrolled<R>([&](auto r) __attribute__((always_inline)) {
        float* at = p.result + (row + r) * p.result_row + (block + v) * L;
        const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums.sum[r][v]), column_scale);
        const __m512 before = p.add ? _mm512_loadu_ps(at) : _mm512_setzero_ps();
        _mm512_storeu_ps(at, _mm512_fmadd_ps(scaled, _mm512_set1_ps(p.left_scales[row + r]), before));
      });
    });
  }
}

void correlate(const Int16Correlation& p) {
  std::int64_t block = 0;
  for (; block + 2 <= p.right_blocks; block += 2) correlate_blocks<2>(p, block);
  for (; block < p.right_blocks; ++block) correlate_blocks<1>(p, block);
}

}  // namespace

const WinogradInt16 kWinogradVnni = {round_rows, round_columns, multiply, correlate};

}  // namespace minidl::cpu
