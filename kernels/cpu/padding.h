// Reflection padding, row by row. A row of a run is `w * block` contiguous floats in every layout.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/loops.h"

namespace minidl::cpu {

// The inner position that position i mirrors, i counted from the first inner one.
inline std::int64_t reflect(std::int64_t i, std::int64_t size) {
  return i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i;
}

// Fills `pad` pixels on either side of the `width` inner pixels from `inner` on; a pixel is `block` floats.
inline void mirror_ends(float* inner, std::int64_t width, std::int64_t block, std::int64_t pad) {
  for (std::int64_t p = 1; p <= pad; ++p) {
    std::copy_n(inner + p * block, block, inner - p * block);
    std::copy_n(inner + (width - 1 - p) * block, block, inner + (width - 1 + p) * block);
  }
}

// Writes y, an image of dimensions d padded by `pad`, from map(run, begin, end, to), which computes the floats [begin,
// end) of a run without padding into to + begin and on.
template <class Map>
void write_padded(const ImageDims& d, std::int64_t pad, float* y, Map map) {
  const Runs runs(d);
  if (pad == 0) {
    runs.for_segments([&](std::int64_t run, std::int64_t, std::int64_t begin, std::int64_t end) {
      map(run, begin, end, y + run * runs.length);
    });
    return;
  }
  const std::int64_t row = d.w * d.block, rows = d.h + 2 * pad, row_out = row + 2 * pad * d.block;
  parallel_for(runs.count * rows, row_out, [&](std::int64_t i) {
    const std::int64_t begin = reflect(i % rows - pad, d.h) * row;
    float* inner = y + i * row_out + pad * d.block;
    map(i / rows, begin, begin + row, inner - begin);
    mirror_ends(inner, d.w, d.block, pad);
  });
}

// The padded positions that mirror the inner position i (0-based), itself first: at most three.
struct Mirrors {
  std::int64_t at[3];
  int count = 0;

  Mirrors(std::int64_t i, std::int64_t size, std::int64_t pad) {
    at[count++] = i + pad;
    if (i >= 1 && i <= pad) at[count++] = pad - i;
    if (i <= size - 2 && size - 1 - i <= pad) at[count++] = pad + 2 * (size - 1) - i;
  }
};

inline void add_floats(std::int64_t count, const float* from, float* to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] += from[i];
}

// to = row `y` of a run's gradient, with the padding of the run `gy` folded back into it.
inline void fold_row(const ImageDims& d, std::int64_t pad, const float* gy, std::int64_t y, float* to) {
  const std::int64_t row = d.w * d.block, row_out = row + 2 * pad * d.block;
  const Mirrors rows(y, d.h, pad);
  for (int r = 0; r < rows.count; ++r) {
    const float* from = gy + rows.at[r] * row_out;
    if (r == 0)
      std::copy_n(from + pad * d.block, row, to);
    else
      add_floats(row, from + pad * d.block, to);
    for (std::int64_t p = 0; p < pad; ++p) {
      add_floats(d.block, from + p * d.block, to + (pad - p) * d.block);
      add_floats(d.block, from + (pad + d.w + p) * d.block, to + (d.w - 2 - p) * d.block);
    }
  }
}

}  // namespace minidl::cpu
