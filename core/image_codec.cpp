#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <string_view>
#include <utility>

#include "core/image.h"
#include "core/image_formats.h"

namespace minidl {

namespace {

constexpr std::string_view kPngSignature = "\x89PNG\r\n\x1a\n";
constexpr const char* kReadable = "only JPEG, PNG, uncompressed BMP, PPM and PGM images can be read";

bool starts_with(Bytes bytes, std::string_view prefix, std::size_t at = 0) {
  return bytes.size() >= at + prefix.size() &&
         std::equal(prefix.begin(), prefix.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at),
                    [](char a, std::uint8_t b) { return static_cast<std::uint8_t>(a) == b; });
}

// The name of a format that we recognise in order to say that we don't read it; empty if it is none of those.
std::string_view unsupported_format(Bytes bytes) {
  using namespace std::string_view_literals;
  if (starts_with(bytes, "GIF8")) return "a GIF";
  if (starts_with(bytes, "II*\0"sv) || starts_with(bytes, "MM\0*"sv)) return "a TIFF";
  if (starts_with(bytes, "RIFF") && starts_with(bytes, "WEBP", 8)) return "a WebP";
  if (starts_with(bytes, "P1") || starts_with(bytes, "P4")) return "a PBM";
  return {};
}

// Orientation in a TIFF directory, the payload of an EXIF segment.
int tiff_orientation(Bytes tiff) {
  using namespace std::string_view_literals;
  const bool little = starts_with(tiff, "II*\0"sv);
  if (tiff.size() < 8 || (!little && !starts_with(tiff, "MM\0*"sv))) return 1;
  const auto u16 = [&](std::size_t at) { return little ? little16(tiff, at) : big16(tiff, at); };
  const std::size_t directory = little ? little32(tiff, 4) : big32(tiff, 4);
  if (directory > tiff.size() - 2) return 1;
  constexpr std::size_t kEntryBytes = 12;
  constexpr std::uint32_t kOrientationTag = 0x0112, kShortType = 3;
  const std::size_t entries = std::min<std::size_t>(u16(directory), (tiff.size() - directory - 2) / kEntryBytes);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + i * kEntryBytes;
    if (u16(entry) != kOrientationTag) continue;
    const std::uint32_t value = u16(entry + 8);
    return u16(entry + 2) == kShortType && value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

}  // namespace

Image make_rgb(std::int64_t width, std::int64_t height, std::size_t file_bytes, const std::string& name) {
  check_image(width > 0 && height > 0, name, "the header claims an empty image, ", width, " x ", height, " pixels");
  check_image(width <= kMaxPixels && height <= kMaxPixels && width * height <= kMaxPixels, name, "the header claims ",
              width, " x ", height, " pixels, but images of more than ", kMaxPixels, " pixels are refused");
  // Deflate packs at most 1032 bytes of 8 one-bit pixels into one; the other formats pack less in practice.
  constexpr std::int64_t kMostPixelsPerByte = 1032 * 8;
  check_image(width * height / kMostPixelsPerByte <= static_cast<std::int64_t>(file_bytes), name, "the header claims ",
              width, " x ", height, " pixels, which cannot be in a file of ", file_bytes, " bytes");
  return Image(static_cast<int>(width), static_cast<int>(height), 3);
}

Image decode_image(std::span<const std::uint8_t> bytes, const std::string& name) {
  check_image(!bytes.empty(), name, "the file is empty, expected an image");
  if (starts_with(bytes, "\xff\xd8\xff")) return decode_jpeg(bytes, name);
  if (starts_with(bytes, kPngSignature)) return decode_png(bytes, name);
  if (starts_with(bytes, "BM")) return decode_bmp(bytes, name);
  for (const char* signature : {"P2", "P3", "P5", "P6"})
    if (starts_with(bytes, signature)) return decode_pnm(bytes, name);
  const std::string_view format = unsupported_format(bytes);
  check_image(format.empty(), name, "the file is ", format, " image, but ", kReadable);
  throw ImageError(concat_text(name, ": the file is not an image that we know, ", kReadable));
}

Image read_image(const std::filesystem::path& file) {
  // Opening a folder succeeds on Linux, and only reading it fails.
  std::ifstream in(file, std::ios::binary);
  std::error_code ignored;
  check_image(in.is_open() && !std::filesystem::is_directory(file, ignored), file.string(),
              "the file cannot be opened, expected a readable image");
  const std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  check_image(!in.bad(), file.string(), "reading the file failed");
  return decode_image(bytes, file.string());
}

int exif_orientation(std::span<const std::uint8_t> bytes) {
  using namespace std::string_view_literals;
  if (!starts_with(bytes, "\xff\xd8")) return 1;
  constexpr std::uint8_t kApp1 = 0xe1, kStartOfScan = 0xda;
  constexpr std::string_view kExif = "Exif\0\0"sv;
  for (std::size_t at = 2; at + 4 <= bytes.size() && bytes[at] == 0xff;) {
    const std::uint8_t marker = bytes[at + 1];
    if (marker == 0xff) {  // padding before a marker
      ++at;
      continue;
    }
    const std::size_t length = big16(bytes, at + 2);
    if (marker == kStartOfScan || length < 2 || at + 2 + length > bytes.size()) break;
    const Bytes segment = bytes.subspan(at + 4, length - 2);
    if (marker == kApp1 && starts_with(segment, kExif)) return tiff_orientation(segment.subspan(kExif.size()));
    at += 2 + length;
  }
  return 1;
}

Image apply_orientation(const Image& image, int orientation) {
  check(orientation >= 1 && orientation <= 8, "apply_orientation: expected an EXIF orientation of 1 to 8, got ",
        orientation);
  // The eight are the combinations of exchanging the axes and then mirroring either source axis.
  struct Turn {
    bool swap_axes, mirror_x, mirror_y;
  };
  constexpr std::array<Turn, 8> kTurns = {{{false, false, false},
                                           {false, true, false},
                                           {false, true, true},
                                           {false, false, true},
                                           {true, false, false},
                                           {true, false, true},
                                           {true, true, true},
                                           {true, true, false}}};
  const Turn turn = kTurns[static_cast<std::size_t>(orientation - 1)];
  Image upright(turn.swap_axes ? image.height : image.width, turn.swap_axes ? image.width : image.height,
                image.channels);
  for (int y = 0; y < upright.height; ++y)
    for (int x = 0; x < upright.width; ++x) {
      int source_x = turn.swap_axes ? y : x, source_y = turn.swap_axes ? x : y;
      if (turn.mirror_x) source_x = image.width - 1 - source_x;
      if (turn.mirror_y) source_y = image.height - 1 - source_y;
      std::copy_n(image.row(source_y) + source_x * image.channels, image.channels, upright.row(y) + x * image.channels);
    }
  return upright;
}

}  // namespace minidl
