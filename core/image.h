// Images in host memory: decoding, encoding, resizing and colour maps, to the bit as the reference's libraries do them
// (Pillow for decoding and resizing, OpenCV for heat maps). Everything here is a pure function and safe to call from
// several threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/check.h"

namespace minidl {

// Eight-bit pixels, row by row, channels interleaved (H, W, C). channels is 1 (grey) or 3 (RGB).
struct Image {
  int width = 0;
  int height = 0;
  int channels = 3;
  std::vector<std::uint8_t> pixels;

  Image() = default;
  Image(int width, int height, int channels)
      : width(width), height(height), channels(channels), pixels(static_cast<std::size_t>(width) * height * channels) {}
  std::uint8_t* row(int y) { return pixels.data() + static_cast<std::size_t>(y) * width * channels; }
  const std::uint8_t* row(int y) const { return pixels.data() + static_cast<std::size_t>(y) * width * channels; }
};

// A file or buffer that is not a readable image; the message names it.
class ImageError : public Error {
 public:
  using Error::Error;
};

// Decodes by content, whatever the name's extension: JPEG through libjpeg-turbo (default settings, as Pillow), PNG
// through stb_image, BMP (uncompressed) and PPM/PGM (binary and ASCII) by small readers of our own. Always yields RGB:
// grey is replicated, alpha and palette transparency are dropped (not blended), 16-bit colour keeps the high byte (PNG)
// or is scaled (PPM), 16-bit grey is clamped to 255, CMYK JPEG is converted, EXIF rotation is ignored: all as Pillow's
// Image.open(...).convert("RGB"). Refuses truncated files, images of more than kMaxPixels, and headers that claim far
// more pixels than the file can hold, before allocating for them. `name` is only used in messages. Throws ImageError.
inline constexpr std::int64_t kMaxPixels = 178'956'970;  // Pillow refuses an image of more than twice this as a bomb
Image decode_image(std::span<const std::uint8_t> bytes, const std::string& name);
// Reads the file and decodes it. Throws ImageError, also when the file cannot be read.
Image read_image(const std::filesystem::path& file);

// EXIF orientation tag (1..8) of a JPEG; 1 if there is none or the metadata is broken. Never throws. The training
// reader ignores it, as the reference does.
int exif_orientation(std::span<const std::uint8_t> bytes);
// The image turned upright according to an EXIF orientation (Pillow's ImageOps.exif_transpose). Throws Error unless
// orientation is 1..8.
Image apply_orientation(const Image& image, int orientation);

// Encoders return the file's bytes; writing them safely is core/file.h's job. Grey images give grey files. JPEG is
// libjpeg's default of 4:2:0 chroma, as Pillow's; quality is 1..100. Throw ImageError for an empty image, one too large
// for the format, or a quality out of range.
std::vector<std::uint8_t> encode_png(const Image& image);
std::vector<std::uint8_t> encode_jpeg(const Image& image, int quality = 95);

// Left-right mirror image.
Image flip_horizontal(const Image& image);
// The given rectangle. Throws Error unless it is not empty and lies inside the image.
Image crop(const Image& image, int top, int left, int height, int width);
// ITU-R 601 luma with Pillow's fixed-point rounding, (19595 R + 38470 G + 7471 B + 32768) >> 16; a grey image is
// returned as it is.
Image to_grey(const Image& image);

// Pillow's Image.resize(..., BILINEAR): a triangle filter that widens when shrinking; bit-exact. Throws Error for an
// empty image or size.
Image resize_bilinear(const Image& image, int width, int height);

// OpenCV's resize(..., INTER_LINEAR) of an 8-bit single-channel image; bit-exact. Throws Error for an empty image or
// size, or an image that is not grey.
Image enlarge_linear(const Image& grey, int width, int height);

// The colour of a grey level in OpenCV's COLORMAP_JET, as {R, G, B}.
struct Rgb {
  std::uint8_t r, g, b;
};
Rgb jet(std::uint8_t level);

// The reference's heat map picture: `map` (h rows of w floats) shifted and scaled to 0..255, enlarged to width x
// height, coloured with JET. A constant map is (0, 0, 128) everywhere, and NaN counts as the lowest level. Throws Error
// unless map has h * w values.
Image heat_map_image(std::span<const float> map, int h, int w, int width, int height);

}  // namespace minidl
