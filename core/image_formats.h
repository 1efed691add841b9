// The decoders behind decode_image, one per file format, and what they share. Private to the image_*.cpp files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/image.h"

namespace minidl {

using Bytes = std::span<const std::uint8_t>;

// Each expects bytes that begin with its format's signature, yields RGB, and throws ImageError.
Image decode_jpeg(Bytes bytes, const std::string& name);
Image decode_png(Bytes bytes, const std::string& name);
Image decode_bmp(Bytes bytes, const std::string& name);
Image decode_pnm(Bytes bytes, const std::string& name);

// As check, but throws ImageError with the image's name in front.
template <class... Parts>
void check_image(bool ok, const std::string& name, const Parts&... parts) {
  if (!ok) [[unlikely]]
    throw ImageError(concat_text(name, ": ", parts...));
}

// An RGB image of the size that a header claims, after checking that the size is sane for a file of `file_bytes` bytes.
Image make_rgb(std::int64_t width, std::int64_t height, std::size_t file_bytes, const std::string& name);

// Unsigned integers at an offset that the caller has checked.
constexpr std::uint32_t little16(Bytes b, std::size_t at) { return b[at] | b[at + 1] << 8; }
constexpr std::uint32_t little32(Bytes b, std::size_t at) { return little16(b, at) | little16(b, at + 2) << 16; }
constexpr std::uint32_t big16(Bytes b, std::size_t at) { return b[at] << 8 | b[at + 1]; }
constexpr std::uint32_t big32(Bytes b, std::size_t at) { return big16(b, at) << 16 | big16(b, at + 2); }

}  // namespace minidl
