// The plain formats: BMP without compression, and PPM/PGM.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "core/image_formats.h"

namespace minidl {

namespace {

// What a header of a BMP says.
struct BmpHeader {
  std::int64_t width, height;
  bool bottom_up;
  std::uint32_t bits;                        // of a pixel
  std::array<std::uint32_t, 3> masks;        // of red, green and blue in a pixel; for 16 bits and more
  std::size_t palette, palette_entry_bytes;  // where the palette starts; for less than 16 bits
  std::size_t pixels;                        // where the pixels start
};

BmpHeader read_bmp_header(Bytes bytes, const std::string& name) {
  constexpr std::size_t kFileHeaderBytes = 14, kOldInfoBytes = 12, kInfoBytes = 40, kMaskBytes = 12;
  constexpr std::uint32_t kPlain = 0, kBitFields = 3;
  check_image(bytes.size() >= kFileHeaderBytes + kOldInfoBytes, name, "the BMP file is truncated");
  const std::size_t info_bytes = little32(bytes, kFileHeaderBytes);
  const bool old = info_bytes == kOldInfoBytes;
  check_image(old || (info_bytes >= kInfoBytes && info_bytes <= 124), name, "the BMP has a header of ", info_bytes,
              " bytes, which is of no known kind");
  check_image(bytes.size() >= kFileHeaderBytes + info_bytes, name, "the BMP file is truncated");

  BmpHeader h{};
  // Negative where rows run from the top.
  const std::int64_t height = old ? std::int64_t{little16(bytes, 20)} : static_cast<std::int32_t>(little32(bytes, 22));
  h.width = old ? little16(bytes, 18) : little32(bytes, 18);
  h.height = std::abs(height);
  h.bottom_up = height > 0;
  h.bits = little16(bytes, old ? 24 : 28);
  h.palette = kFileHeaderBytes + info_bytes;
  h.palette_entry_bytes = old ? 3 : 4;
  h.pixels = little32(bytes, 10);
  check_image(h.bits == 1 || h.bits == 4 || h.bits == 8 || h.bits == 16 || h.bits == 24 || h.bits == 32, name,
              "the BMP has ", h.bits, " bits a pixel, expected 1, 4, 8, 16, 24 or 32");
  const std::uint32_t compression = old ? kPlain : little32(bytes, 30);
  check_image(compression == kPlain || (compression == kBitFields && h.bits >= 16), name,
              "compressed BMP images cannot be read");
  if (compression == kBitFields) {
    constexpr std::size_t kMasks = kFileHeaderBytes + kInfoBytes;
    check_image(bytes.size() >= kMasks + kMaskBytes, name, "the BMP file is truncated");
    h.masks = {little32(bytes, kMasks), little32(bytes, kMasks + 4), little32(bytes, kMasks + 8)};
  } else {
    h.masks = h.bits == 16 ? std::array{0x7c00u, 0x3e0u, 0x1fu} : std::array{0xff0000u, 0xff00u, 0xffu};
  }
  check_image(h.masks[0] != 0 && h.masks[1] != 0 && h.masks[2] != 0, name, "the BMP has a colour without bits");
  return h;
}

// A cursor over the text of a PPM or PGM.
class PnmText {
 public:
  PnmText(Bytes bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  // The next number; skips blanks and comments before it.
  std::int64_t number() {
    while (at_ < bytes_.size() && (is_space(bytes_[at_]) || bytes_[at_] == '#')) {
      if (bytes_[at_] == '#')
        while (at_ < bytes_.size() && bytes_[at_] != '\n' && bytes_[at_] != '\r') ++at_;
      else
        ++at_;
    }
    check_image(at_ < bytes_.size(), name_, "the PPM or PGM file is truncated");
    check_image(is_digit(bytes_[at_]), name_, "the PPM or PGM file has something else where a number is expected");
    std::int64_t value = 0;
    for (; at_ < bytes_.size() && is_digit(bytes_[at_]); ++at_)
      value = std::min<std::int64_t>(value * 10 + (bytes_[at_] - '0'), std::numeric_limits<std::int32_t>::max());
    return value;
  }

  // What follows the single blank after the last number of the header.
  Bytes rest() const {
    check_image(at_ < bytes_.size() && is_space(bytes_[at_]), name_,
                "the PPM or PGM file has no blank after its header");
    return bytes_.subspan(at_ + 1);
  }

 private:
  static bool is_space(std::uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
  static bool is_digit(std::uint8_t c) { return c >= '0' && c <= '9'; }

  Bytes bytes_;
  const std::string& name_;
  std::size_t at_ = 2;  // behind "P6"
};

}  // namespace

Image decode_bmp(Bytes bytes, const std::string& name) {
  const BmpHeader h = read_bmp_header(bytes, name);
  Image image = make_rgb(h.width, h.height, bytes.size(), name);
  const std::size_t row_bits = static_cast<std::size_t>(h.width) * h.bits;
  const std::size_t stride = (row_bits + 31) / 32 * 4;
  check_image(h.pixels >= h.palette && h.pixels <= bytes.size() &&
                  stride * static_cast<std::size_t>(h.height - 1) + (row_bits + 7) / 8 <= bytes.size() - h.pixels,
              name, "the BMP file is truncated");

  // Numbers without an entry stand for their grey, as in Pillow.
  std::array<Rgb, 256> palette;
  for (std::size_t i = 0; i < palette.size(); ++i) {
    const std::size_t entry = h.palette + i * h.palette_entry_bytes;
    const std::uint8_t grey = static_cast<std::uint8_t>(i);
    palette[i] = entry + 3 <= h.pixels ? Rgb{bytes[entry + 2], bytes[entry + 1], bytes[entry]} : Rgb{grey, grey, grey};
  }
  for (int y = 0; y < image.height; ++y) {
    const std::size_t stored_row = static_cast<std::size_t>(h.bottom_up ? image.height - 1 - y : y);
    const std::uint8_t* row = bytes.data() + h.pixels + stored_row * stride;
    std::uint8_t* out = image.row(y);
    for (std::size_t x = 0; x < static_cast<std::size_t>(image.width); ++x, out += 3) {
      if (h.bits <= 8) {
        const std::size_t bit = x * h.bits;
        const unsigned number = row[bit / 8] >> (8 - h.bits - bit % 8) & ((1u << h.bits) - 1);
        out[0] = palette[number].r, out[1] = palette[number].g, out[2] = palette[number].b;
        continue;
      }
      std::uint32_t pixel = 0;
      for (std::size_t i = 0; i < h.bits / 8; ++i)
        pixel |= static_cast<std::uint32_t>(row[x * h.bits / 8 + i]) << 8 * i;
      for (std::size_t c = 0; c < 3; ++c) {
        const int shift = std::countr_zero(h.masks[c]);
        const std::uint64_t most = h.masks[c] >> shift, value = (pixel & h.masks[c]) >> shift;
        out[c] = static_cast<std::uint8_t>(value * 255 / most);
      }
    }
  }
  return image;
}

Image decode_pnm(Bytes bytes, const std::string& name) {
  const bool colour = bytes[1] == '3' || bytes[1] == '6', ascii = bytes[1] == '2' || bytes[1] == '3';
  PnmText text(bytes, name);
  const std::int64_t width = text.number(), height = text.number(), most = text.number();
  check_image(most >= 1 && most <= 65535, name, "the PPM or PGM header gives ", most,
              " as the largest value, expected 1 to 65535");
  Image image = make_rgb(width, height, bytes.size(), name);
  const Bytes binary = text.rest();
  const std::size_t values = image.pixels.size() / (colour ? 1 : 3), value_bytes = most > 255 ? 2 : 1;
  check_image(ascii || binary.size() / value_bytes >= values, name, "the PPM or PGM file is truncated");

  // Pillow reads grey of more than eight bits as numbers up to 65535 and then cuts them off at 255.
  const double scale_to = !colour && most > 255 ? 65535 : 255;
  for (std::size_t i = 0; i < values; ++i) {
    const std::int64_t value = ascii ? text.number() : most > 255 ? big16(binary, 2 * i) : binary[i];
    check_image(!ascii || value <= most, name, "the PPM or PGM file has a value of ", value, ", at most ", most,
                " is allowed");
    const double scaled = std::nearbyint(static_cast<double>(value) / static_cast<double>(most) * scale_to);
    const std::uint8_t level = static_cast<std::uint8_t>(std::min(scaled, 255.0));
    if (colour)
      image.pixels[i] = level;
    else
      std::fill_n(&image.pixels[3 * i], 3, level);
  }
  return image;
}

}  // namespace minidl
