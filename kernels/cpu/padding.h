// Reflection padding of a row of pixels.
#pragma once

#include <algorithm>
#include <cstdint>

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

}  // namespace minidl::cpu
