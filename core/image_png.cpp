// PNG through stb_image, stb_image_write and zlib. stb_image trusts checksums and lets compressed data grow without
// bound, so the file's chunks are checked here first, and it is handed only those that make up the picture.
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string_view>

#include "core/image_formats.h"

namespace {

// The most that stb_image may grow a buffer to; set before each call.
thread_local std::size_t stb_buffer_limit = 0;

void* bounded_realloc(void* old, std::size_t size) {
  return size <= stb_buffer_limit ? std::realloc(old, size) : nullptr;
}

// stb_image_write's hook: `size` bytes in zlib's format, in memory for free(); null where there is none. Of filtered
// pixels only runs are worth a search: a general one takes several times as long and finds nothing more in a
// photograph.
unsigned char* deflated(unsigned char* data, int size, int* compressed_size, int /*quality*/) {
  z_stream stream{};
  constexpr int kWindowBits = 15, kMemoryLevel = 9;
  if (deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, kWindowBits, kMemoryLevel, Z_RLE) != Z_OK) return nullptr;
  const uLong bound = deflateBound(&stream, static_cast<uLong>(size));
  auto* out = static_cast<unsigned char*>(std::malloc(bound));
  stream.next_in = data;
  stream.avail_in = static_cast<uInt>(size);
  stream.next_out = out;
  stream.avail_out = static_cast<uInt>(bound);
  const bool done = out != nullptr && deflate(&stream, Z_FINISH) == Z_STREAM_END;
  *compressed_size = static_cast<int>(stream.total_out);
  deflateEnd(&stream);
  if (done) return out;
  std::free(out);
  return nullptr;
}

}  // namespace

#define STBI_MALLOC(size) std::malloc(size)
#define STBI_REALLOC(old, size) bounded_realloc(old, size)
#define STBI_FREE(old) std::free(old)
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#include <stb_image.h>
#define STBIW_ZLIB_COMPRESS deflated
#define STBI_WRITE_NO_STDIO
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>

namespace minidl {

namespace {

constexpr std::size_t kSignatureBytes = 8, kChunkHeaderBytes = 8, kChecksumBytes = 4, kHeaderChunkBytes = 13;

// The CRC-32 of the PNG specification (ISO 3309).
std::uint32_t checksum(Bytes bytes) {
  static const std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> t{};
    for (std::uint32_t i = 0; i < t.size(); ++i) {
      t[i] = i;
      for (int bit = 0; bit < 8; ++bit) t[i] = t[i] & 1 ? 0xedb88320u ^ t[i] >> 1 : t[i] >> 1;
    }
    return t;
  }();
  std::uint32_t crc = ~0u;
  for (const std::uint8_t byte : bytes) crc = table[(crc ^ byte) & 0xff] ^ crc >> 8;
  return ~crc;
}

// A PNG that holds only the critical chunks of `bytes`, whose checksums and lengths have been verified. A palette is
// filled up to 256 colours with the greys of the missing numbers, as Pillow does, so that every number has a colour.
std::vector<std::uint8_t> critical_chunks(Bytes bytes, const std::string& name) {
  std::vector<std::uint8_t> kept(bytes.begin(), bytes.begin() + kSignatureBytes);
  const auto keep = [&](Bytes part) { kept.insert(kept.end(), part.begin(), part.end()); };
  std::string_view type;
  for (std::size_t at = kSignatureBytes; type != "IEND";) {
    const std::size_t left = bytes.size() - at;
    const bool complete =
        left >= kChunkHeaderBytes + kChecksumBytes && big32(bytes, at) <= left - kChunkHeaderBytes - kChecksumBytes;
    check_image(complete, name, "the PNG file is truncated");
    const std::size_t length = big32(bytes, at);
    type = {reinterpret_cast<const char*>(bytes.data()) + at + 4, 4};
    check_image((type == "IHDR") == (at == kSignatureBytes) && (type != "IHDR" || length == kHeaderChunkBytes), name,
                "the PNG file does not begin with one header chunk");
    const Bytes chunk = bytes.subspan(at, kChunkHeaderBytes + length + kChecksumBytes);
    at += chunk.size();
    const bool critical = (static_cast<std::uint8_t>(type[0]) & 0x20) == 0;
    if (!critical) continue;
    check_image(type == "IHDR" || type == "PLTE" || type == "IDAT" || type == "IEND", name,
                "the PNG file has a critical chunk of unknown type");
    check_image(checksum(chunk.subspan(4, 4 + length)) == big32(chunk, kChunkHeaderBytes + length), name,
                "the PNG file is broken, the checksum of its ", type, " chunk does not match");
    if (type != "PLTE") {
      // stb_image copies from no buffer to no buffer for an empty first piece of data, which is undefined.
      if (type != "IDAT" || length > 0) keep(chunk);
      continue;
    }
    check_image(length % 3 == 0 && length <= 768, name, "the PNG palette has ", length,
                " bytes, expected three for each of at most 256 colours");
    keep(std::array<std::uint8_t, 8>{0, 0, 3, 0, 'P', 'L', 'T', 'E'});
    keep(chunk.subspan(kChunkHeaderBytes, length));
    for (std::size_t i = length; i < 768; ++i) kept.push_back(static_cast<std::uint8_t>(i / 3));
    keep(chunk.last(kChecksumBytes));
  }
  return kept;
}

}  // namespace

Image decode_png(Bytes bytes, const std::string& name) {
  const std::vector<std::uint8_t> png = critical_chunks(bytes, name);
  check_image(png.size() <= std::numeric_limits<int>::max(), name, "the PNG file has ", png.size(),
              " bytes, more than can be decoded");
  const Bytes header = Bytes(png).subspan(kSignatureBytes + kChunkHeaderBytes, kHeaderChunkBytes);
  const unsigned depth = header[8], colour = header[9];
  enum { kGrey = 0, kPalette = 3 };
  check_image(depth >= 8 || colour == kGrey || colour == kPalette, name, "the PNG header asks for ", depth,
              " bits a colour, expected 8 or 16");
  Image image = make_rgb(big32(header, 0), big32(header, 4), bytes.size(), name);

  constexpr std::size_t kMostBytesPerPixel = 8, kSlack = 1 << 16;
  stb_buffer_limit = 2 * (image.pixels.size() / 3 * kMostBytesPerPixel + png.size()) + kSlack;
  int width = 0, height = 0, channels = 0;
  const auto release = [](void* pixels) { stbi_image_free(pixels); };
  const auto check_decoded = [&](const void* pixels) {
    // stb_image knows no reason for a reserved kind of deflate block.
    const char* reason = stbi_failure_reason();
    check_image(pixels != nullptr, name, "the PNG data is broken (", reason ? reason : "bad block", ")");
  };
  if (depth == 16 && colour == kGrey) {
    const std::unique_ptr<std::uint16_t, decltype(release)> grey(
        stbi_load_16_from_memory(png.data(), static_cast<int>(png.size()), &width, &height, &channels, STBI_grey));
    check_decoded(grey.get());
    for (std::size_t i = 0; i < image.pixels.size(); ++i)
      image.pixels[i] = static_cast<std::uint8_t>(std::min<int>(grey.get()[i / 3], 255));
  } else {
    const std::unique_ptr<std::uint8_t, decltype(release)> rgb(
        stbi_load_from_memory(png.data(), static_cast<int>(png.size()), &width, &height, &channels, STBI_rgb));
    check_decoded(rgb.get());
    std::copy_n(rgb.get(), image.pixels.size(), image.pixels.begin());
  }
  return image;
}

std::vector<std::uint8_t> encode_png(const Image& image) {
  const std::string name = "encode_png";
  check_image(image.width > 0 && image.height > 0, name, "the image is empty");
  check_image(static_cast<std::int64_t>(image.width) * image.height <= kMaxPixels, name, "an image of ", image.width,
              " x ", image.height, " pixels is too large to encode, at most ", kMaxPixels, " are allowed");
  std::vector<std::uint8_t> file;
  const auto append = [](void* context, void* data, int size) {
    const std::uint8_t* bytes = static_cast<const std::uint8_t*>(data);
    static_cast<std::vector<std::uint8_t>*>(context)->assign(bytes, bytes + size);
  };
  const int done = stbi_write_png_to_func(append, &file, image.width, image.height, image.channels, image.pixels.data(),
                                          image.width * image.channels);
  check_image(done != 0, name, "out of memory");
  return file;
}

}  // namespace minidl
