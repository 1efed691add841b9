// Images of every format that is decoded.
#include "core/image.h"

#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::uint8_t> bytes(data, size);
  // Deflate makes 1032 bytes of one at best, eight pixels a byte, and a pixel may take eight bytes while it is decoded.
  const fuzz::AllocationLimit limit((std::size_t{1} << 20) + std::size_t{8} * 8 * 1032 * size);
  const int orientation = minidl::exif_orientation(bytes);
  fuzz::survives([&] { minidl::apply_orientation(minidl::decode_image(bytes, "input"), orientation); });
  return 0;
}
