// Images against Pillow and OpenCV (tests/golden/formats, tests/golden/jpeg), worked numbers, and hostile files.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/image.h"
#include "tests/temporary_folder.h"

using namespace minidl;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

using Buffer = std::vector<std::uint8_t>;

fs::path golden_path(const std::string& name) { return fs::path(MINIDL_GOLDEN_DIR) / name; }

Buffer read_bytes(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  REQUIRE(in.is_open());
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

Buffer format_bytes(const std::string& name) { return read_bytes(golden_path("formats/" + name)); }

// Images of tests/golden/formats that have an expectation, in order.
std::vector<fs::path> format_samples() {
  std::vector<fs::path> samples;
  for (const auto& entry : fs::directory_iterator(golden_path("formats"))) {
    const std::string extension = entry.path().extension().string();
    if (extension != ".expected" && extension != ".md" && extension != ".floats" && entry.path().stem() != "refused")
      samples.push_back(entry.path());
  }
  std::sort(samples.begin(), samples.end());
  return samples;
}

Image image_of(int width, int height, int channels, Buffer pixels) {
  Image image(width, height, channels);
  REQUIRE(image.pixels.size() == pixels.size());
  image.pixels = std::move(pixels);
  return image;
}

Image grey_sample() {
  const Buffer file = format_bytes("binary_grey.pgm");
  return image_of(21, 13, 1, {file.end() - 21 * 13, file.end()});
}

Buffer as_buffer(const std::string& text) { return {text.begin(), text.end()}; }

// Whether the bytes decode; anything but success or an ImageError that names the image fails the test.
bool decodes(const Buffer& bytes) {
  // A copy of exactly this size lets the sanitizers see a read past the end.
  const std::unique_ptr<std::uint8_t[]> exact(new std::uint8_t[bytes.size()]);
  std::copy(bytes.begin(), bytes.end(), exact.get());
  try {
    const Image image = decode_image({exact.get(), bytes.size()}, "the-name");
    CHECK(image.pixels.size() == static_cast<std::size_t>(image.width) * image.height * 3);
    return true;
  } catch (const ImageError& error) {
    CHECK_THAT(error.what(), Catch::Matchers::StartsWith("the-name: "));
    return false;
  }
}

void put_big32(Buffer& bytes, std::size_t at, std::uint32_t value) {
  for (std::size_t i = 0; i < 4; ++i) bytes[at + i] = static_cast<std::uint8_t>(value >> (24 - 8 * i));
}

// Changes the size in a PNG's header and mends its checksum, bit by bit.
void set_png_size(Buffer& png, std::uint32_t width, std::uint32_t height) {
  put_big32(png, 16, width);
  put_big32(png, 20, height);
  std::uint32_t crc = ~0u;
  for (std::size_t i = 12; i < 29; ++i)
    for (int bit = 0; bit < 8; ++bit) {
      const bool odd = (crc ^ png[i] >> bit) & 1;
      crc = odd ? crc >> 1 ^ 0xedb88320u : crc >> 1;
    }
  put_big32(png, 29, ~crc);
}

Buffer jpeg_with_exif(const std::string& tiff) {
  const std::string payload = std::string("Exif\0\0", 6) + tiff;
  const auto length = static_cast<char>(payload.size() + 2);
  return as_buffer(std::string("\xff\xd8\xff\xe1\0", 5) + length + payload + "\xff\xda");
}

struct Folder : test::TemporaryFolder {
  fs::path write(const std::string& name, const Buffer& bytes) const {
    std::ofstream(path() / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return path() / name;
  }
};

}  // namespace

TEST_CASE("JPEG files decode to Pillow's bits", "[image]") {
  int compared = 0;
  for (const auto& entry : fs::directory_iterator(golden_path("jpeg"))) {
    if (entry.path().extension() != ".jpg") continue;
    INFO(entry.path());
    const Image image = read_image(entry.path());
    const Image expected = read_image(golden_path("jpeg/" + entry.path().stem().string() + "_decoded.png"));
    CHECK(image.width == expected.width);
    CHECK(image.height == expected.height);
    CHECK(image.pixels == expected.pixels);
    ++compared;
  }
  CHECK(compared == 20);
}

TEST_CASE("Every format decodes to what Pillow makes of it", "[image]") {
  const std::vector<fs::path> samples = format_samples();
  CHECK(samples.size() == 54);
  for (const fs::path& sample : samples) {
    INFO(sample);
    std::string expectation = sample.filename().string() + ".expected";
    std::replace(expectation.begin(), expectation.end() - 9, '.', '_');
    const Image image = read_image(sample);
    CHECK(image.channels == 3);
    CHECK(image.pixels == format_bytes(expectation));
  }
  const Image tall = read_image(golden_path("formats/grey1_interlaced_1x5.png"));
  CHECK(tall.width == 1);
  CHECK(tall.height == 5);
}

TEST_CASE("The content of a file decides its format", "[image]") {
  const Folder folder;
  const Image png = read_image(folder.write("photo.jpg", format_bytes("rgb8.png")));
  CHECK(png.pixels == format_bytes("rgb8_png.expected"));

  const fs::path text = folder.write("text.jpg", as_buffer("this is not a picture\n"));
  CHECK_THROWS_AS(read_image(text), ImageError);
  CHECK_THROWS_WITH(read_image(text), Contains("text.jpg") && Contains("not an image"));
  CHECK_THROWS_AS(read_image(folder.write("empty.png", {})), ImageError);
  CHECK_THROWS_WITH(read_image(folder.path() / "empty.png"), Contains("empty.png") && Contains("empty"));
  CHECK_THROWS_AS(read_image(folder.path() / "missing.png"), ImageError);
  CHECK_THROWS_WITH(read_image(folder.path() / "missing.png"), Contains("missing.png") && Contains("cannot be opened"));
  CHECK_THROWS_AS(read_image(folder.path()), ImageError);

  CHECK_THROWS_WITH(decode_image(format_bytes("refused.gif"), "x"), Contains("x: ") && Contains("a GIF image"));
  CHECK_THROWS_WITH(decode_image(format_bytes("refused.tif"), "x"), Contains("a TIFF image"));
  CHECK_THROWS_WITH(decode_image(format_bytes("refused.webp"), "x"), Contains("a WebP image"));
  CHECK_THROWS_WITH(decode_image(as_buffer("P4 8 1\n\x01"), "x"), Contains("a PBM image"));
}

TEST_CASE("A truncated file is refused, never filled up", "[image]") {
  for (const fs::path& sample : format_samples()) {
    INFO(sample);
    const Buffer whole = read_bytes(sample);
    const bool ascii = sample.stem().string().starts_with("ascii");
    // What is not needed: a JPEG's end marker, the padding of a BMP's last row, the blank and a digit that end a text.
    const std::size_t tail = sample.extension() == ".jpg" || sample.extension() == ".bmp" ? 4 : ascii ? 5 : 1;
    for (std::size_t size = 0; size < whole.size(); ++size) {
      const bool decoded = decodes({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)});
      if (decoded && size + tail <= whole.size()) FAIL("decoded the first " << size << " of " << whole.size());
    }
  }
  for (const char* name : {"178x218_420.jpg", "178x218_420_progressive.jpg", "97x61_444.jpg"}) {
    Buffer half = read_bytes(golden_path(std::string("jpeg/") + name));
    half.resize(half.size() / 2);
    CHECK_THROWS_WITH(decode_image(half, name), Contains(name) && Contains("Premature end"));
  }
}

TEST_CASE("A damaged file gives an image or an ImageError", "[image]") {
  std::mt19937 random(1);
  std::vector<fs::path> samples = format_samples();
  for (const char* name : {"jpeg/33x17_420.jpg", "jpeg/33x17_420_progressive.jpg", "jpeg/33x17_grey.jpg"})
    samples.push_back(golden_path(name));
  for (const fs::path& sample : samples) {
    INFO(sample);
    const Buffer whole = read_bytes(sample);
    for (int trial = 0; trial < 60; ++trial) {
      Buffer damaged = whole;
      for (std::uint32_t changes = 1 + random() % 4; changes > 0; --changes) {
        // Half of the changes hit the header, where they do most harm.
        const std::size_t range = random() % 2 ? damaged.size() : std::min<std::size_t>(damaged.size(), 64);
        damaged[random() % range] = static_cast<std::uint8_t>(random());
      }
      decodes(damaged);
    }
  }
  for (const char* signature : {"\xff\xd8\xff", "\x89PNG\r\n\x1a\n", "BM", "P3 ", "P6\n", ""}) {
    Buffer noise = as_buffer(signature);
    for (int i = 0; i < 500; ++i) noise.push_back(static_cast<std::uint8_t>(random()));
    CHECK_FALSE(decodes(noise));
  }
}

TEST_CASE("A damaged PNG is noticed by its checksums", "[image]") {
  Buffer png = format_bytes("rgb8.png");
  png[png.size() / 2] ^= 1;
  CHECK_THROWS_WITH(decode_image(png, "x"), Contains("checksum of its IDAT"));
}

TEST_CASE("Headers that claim absurd sizes are refused before anything is allocated", "[image]") {
  Buffer png = format_bytes("rgb8.png");
  set_png_size(png, 21, 13);
  CHECK(png == format_bytes("rgb8.png"));
  Buffer bmp = format_bytes("rgb24.bmp"), jpeg = format_bytes("oriented.jpg");
  const std::string frame = "\xff\xc0";
  const auto size_in_jpeg = std::search(jpeg.begin(), jpeg.end(), frame.begin(), frame.end(),
                                        [](auto a, char b) { return a == static_cast<std::uint8_t>(b); }) +
                            5;
  for (const std::uint8_t high : {std::uint8_t{0xff}, std::uint8_t{0x2f}}) {
    // 65280 x 65280 is too much for anyone, 12032 x 12032 only for files as small as these.
    const std::uint32_t side = high * 256u;
    const std::string text = std::to_string(side);
    set_png_size(png, side, side);
    for (const std::size_t at : {18u, 22u}) bmp[at] = static_cast<std::uint8_t>(side), bmp[at + 1] = high;
    for (const int i : {0, 2}) size_in_jpeg[i] = high, size_in_jpeg[i + 1] = static_cast<std::uint8_t>(side);
    for (const Buffer& bytes : {png, bmp, jpeg, as_buffer("P6 " + text + " " + text + " 255\nabc"),
                                as_buffer("P3 " + text + " " + text + " 255\n1 2 3")})
      CHECK_THROWS_WITH(decode_image(bytes, "x"), Contains("x: the header claims " + text + " x " + text));
  }
  CHECK_THROWS_WITH(decode_image(as_buffer("P6 99999999999999999999 1 255\nabc"), "x"), Contains("claims"));
  CHECK_THROWS_WITH(decode_image(as_buffer("P6 0 5 255\nabc"), "x"), Contains("claims an empty image"));
  CHECK_THROWS_WITH(decode_image(as_buffer("P5 5 5 0\nabc"), "x"), Contains("largest value"));
  CHECK_THROWS_WITH(decode_image(as_buffer("P3 1 1 9\n1 2 10"), "x"), Contains("value of 10"));
  set_png_size(png, 0, 13);
  CHECK_THROWS_AS(decode_image(png, "x"), ImageError);
}

TEST_CASE("Compressed data far longer than the picture is refused", "[image]") {
  Buffer png = encode_png(Image(2000, 2000, 1));
  CHECK(decode_image(png, "x").pixels == Buffer(2000 * 2000 * 3));
  set_png_size(png, 1, 1);
  CHECK_THROWS_AS(decode_image(png, "x"), ImageError);
}

TEST_CASE("PNG files hold the same pixels", "[image]") {
  std::mt19937 random(2);
  for (const int channels : {1, 3})
    for (const auto& [width, height] : {std::pair{1, 1}, {1, 7}, {31, 2}, {64, 48}}) {
      Image image(width, height, channels);
      for (std::size_t i = 0; i < image.pixels.size(); ++i)
        image.pixels[i] = static_cast<std::uint8_t>(i * 3 + random() % 40);
      const Image read = decode_image(encode_png(image), "x");
      CHECK(read.width == width);
      CHECK(read.height == height);
      for (std::size_t i = 0; i < read.pixels.size(); ++i)
        REQUIRE(read.pixels[i] == image.pixels[channels == 1 ? i / 3 : i]);
    }
  CHECK_THROWS_AS(encode_png(Image()), ImageError);
}

TEST_CASE("JPEG files hold nearly the same pixels", "[image]") {
  const auto largest_error = [](const Image& image, int quality) {
    const Image read = decode_image(encode_jpeg(image, quality), "x");
    REQUIRE(read.width == image.width);
    REQUIRE(read.height == image.height);
    int largest = 0;
    for (std::size_t i = 0; i < read.pixels.size(); ++i)
      largest = std::max(largest, std::abs(read.pixels[i] - image.pixels[image.channels == 1 ? i / 3 : i]));
    return largest;
  };
  for (const int channels : {1, 3}) {
    Image smooth(53, 37, channels);
    for (int y = 0; y < smooth.height; ++y)
      for (int x = 0; x < smooth.width; ++x)
        for (int c = 0; c < channels; ++c)
          smooth.row(y)[x * channels + c] =
              static_cast<std::uint8_t>(std::lround(128 + 60 * std::sin(x * 0.1 + c) + 50 * std::cos(y * 0.1)));
    CHECK(largest_error(smooth, 95) <= 8);
    CHECK(largest_error(smooth, 10) > 8);
    CHECK(encode_jpeg(smooth, 10).size() < encode_jpeg(smooth).size());
    CHECK_THROWS_WITH(encode_jpeg(smooth, 0), Contains("quality"));
  }
  CHECK_THROWS_AS(encode_jpeg(Image()), ImageError);
  CHECK_THROWS_WITH(encode_jpeg(Image(70000, 1, 1)), Contains("70000 x 1"));
}

TEST_CASE("The EXIF orientation is found in both byte orders", "[image]") {
  CHECK(exif_orientation(format_bytes("oriented.jpg")) == 6);
  CHECK(exif_orientation(format_bytes("cmyk.jpg")) == 1);
  CHECK(exif_orientation(format_bytes("rgb8.png")) == 1);
  CHECK(exif_orientation({}) == 1);

  const std::string little("II*\0\x8\0\0\0\x1\0\x12\x1\x3\0\x1\0\0\0\x5\0\0\0", 22);
  const std::string big("MM\0*\0\0\0\x8\0\x1\x1\x12\0\x3\0\0\0\x1\0\x8\0\0", 22);
  CHECK(exif_orientation(jpeg_with_exif(little)) == 5);
  CHECK(exif_orientation(jpeg_with_exif(big)) == 8);

  for (const std::string& tiff : {little, big}) {
    for (std::size_t size = 0; size < tiff.size(); ++size)
      CHECK(exif_orientation(jpeg_with_exif(tiff.substr(0, size))) == 1);
    for (std::size_t i = 0; i < tiff.size(); ++i)
      for (int value = 0; value < 256; ++value) {
        std::string damaged = tiff;
        damaged[i] = static_cast<char>(value);
        const int orientation = exif_orientation(jpeg_with_exif(damaged));
        REQUIRE((orientation >= 1 && orientation <= 8));
      }
  }
  std::string directory_at_the_end_of_memory = little;
  directory_at_the_end_of_memory.replace(4, 4, "\xff\xff\xff\xff");
  CHECK(exif_orientation(jpeg_with_exif(directory_at_the_end_of_memory)) == 1);
}

TEST_CASE("apply_orientation turns an image as Pillow's exif_transpose", "[image]") {
  const Image image = image_of(3, 2, 1, {0, 1, 2, 3, 4, 5});
  const std::vector<Buffer> expected = {{0, 1, 2, 3, 4, 5}, {2, 1, 0, 5, 4, 3}, {5, 4, 3, 2, 1, 0}, {3, 4, 5, 0, 1, 2},
                                        {0, 3, 1, 4, 2, 5}, {3, 0, 4, 1, 5, 2}, {5, 2, 4, 1, 3, 0}, {2, 5, 1, 4, 0, 3}};
  for (int orientation = 1; orientation <= 8; ++orientation) {
    INFO(orientation);
    const Image turned = apply_orientation(image, orientation);
    CHECK(turned.width == (orientation < 5 ? 3 : 2));
    CHECK(turned.height == (orientation < 5 ? 2 : 3));
    CHECK(turned.pixels == expected[static_cast<std::size_t>(orientation - 1)]);
  }
  CHECK(apply_orientation(image_of(1, 2, 3, {1, 2, 3, 4, 5, 6}), 8).pixels == Buffer{1, 2, 3, 4, 5, 6});
  CHECK(apply_orientation(image_of(1, 2, 3, {1, 2, 3, 4, 5, 6}), 6).pixels == Buffer{4, 5, 6, 1, 2, 3});
  CHECK_THROWS_AS(apply_orientation(image, 0), Error);
  CHECK_THROWS_AS(apply_orientation(image, 9), Error);
}

TEST_CASE("flip_horizontal, crop and to_grey", "[image]") {
  const Image image = image_of(3, 2, 3, {1, 2, 3, 4, 5, 6, 7, 8, 9, 255, 0, 0, 0, 255, 0, 0, 0, 255});
  CHECK(flip_horizontal(image).pixels == Buffer{7, 8, 9, 4, 5, 6, 1, 2, 3, 0, 0, 255, 0, 255, 0, 255, 0, 0});
  CHECK(crop(image, 1, 1, 1, 2).pixels == Buffer{0, 255, 0, 0, 0, 255});
  CHECK(crop(image, 0, 2, 2, 1).pixels == Buffer{7, 8, 9, 0, 0, 255});
  CHECK(crop(image, 0, 0, 2, 3).pixels == image.pixels);
  constexpr int kMost = std::numeric_limits<int>::max();
  for (const auto& [top, left, height, width] : std::vector<std::array<int, 4>>{
           {0, 0, 3, 1}, {0, 0, 1, 4}, {1, 0, 2, 1}, {-1, 0, 1, 1}, {0, 0, 0, 1}, {0, kMost, 1, 1}, {0, 1, 1, kMost}})
    CHECK_THROWS_AS(crop(image, top, left, height, width), Error);
  // 0.299, 0.587 and 0.114 of 255, rounded.
  CHECK(to_grey(image).pixels == Buffer{2, 5, 8, 76, 150, 29});
  CHECK(to_grey(to_grey(image)).pixels == to_grey(image).pixels);
}

TEST_CASE("resize_bilinear gives Pillow's bits", "[image]") {
  CHECK(resize_bilinear(image_of(3, 1, 1, {0, 100, 255}), 5, 1).pixels == Buffer{0, 40, 100, 193, 255});
  CHECK(resize_bilinear(image_of(1, 5, 1, {0, 100, 255, 7, 60}), 1, 3).pixels == Buffer{43, 165, 37});
  const Image image = read_image(golden_path("formats/binary_rgb.ppm"));
  for (const auto& [width, height] : {std::pair{40, 9}, {5, 31}, {21, 30}, {64, 13}, {3, 2}}) {
    INFO(width << " x " << height);
    const std::string name = "resized_" + std::to_string(width) + "x" + std::to_string(height) + ".expected";
    const Image resized = resize_bilinear(image, width, height);
    CHECK(resized.width == width);
    CHECK(resized.height == height);
    CHECK(resized.pixels == format_bytes(name));
  }
  CHECK(resize_bilinear(image, 21, 13).pixels == image.pixels);
  CHECK_THROWS_AS(resize_bilinear(image, 0, 5), Error);
  CHECK_THROWS_AS(resize_bilinear(Image(), 5, 5), Error);
}

TEST_CASE("enlarge_linear gives OpenCV's bits", "[image]") {
  const Image small = image_of(2, 2, 1, {10, 200, 90, 33});
  const Image large = enlarge_linear(small, 8, 8);
  const auto row = [&](int y) { return Buffer(large.row(y), large.row(y) + 8); };
  CHECK(row(0) == Buffer{10, 10, 34, 81, 129, 176, 200, 200});
  CHECK(row(1) == row(0));
  CHECK(row(2) == Buffer{20, 20, 40, 80, 119, 159, 179, 179});
  CHECK(row(5) == Buffer{80, 80, 77, 70, 64, 57, 54, 54});
  CHECK(row(6) == Buffer{90, 90, 83, 69, 54, 40, 33, 33});
  CHECK(row(7) == Buffer{90, 90, 83, 68, 54, 40, 33, 33});
  for (const auto& [width, height] : {std::pair{84, 52}, {33, 40}, {21, 52}, {10, 7}}) {
    INFO(width << " x " << height);
    const std::string name = "enlarged_" + std::to_string(width) + "x" + std::to_string(height) + ".expected";
    CHECK(enlarge_linear(grey_sample(), width, height).pixels == format_bytes(name));
  }
  CHECK(enlarge_linear(grey_sample(), 21, 13).pixels == grey_sample().pixels);
  CHECK_THROWS_AS(enlarge_linear(Image(2, 2, 3), 4, 4), Error);
  CHECK_THROWS_AS(enlarge_linear(small, 4, 0), Error);
}

TEST_CASE("jet gives OpenCV's colours", "[image]") {
  const Buffer expected = format_bytes("jet.expected");
  REQUIRE(expected.size() == 768);
  for (std::size_t level = 0; level < 256; ++level) {
    INFO(level);
    const Rgb colour = jet(static_cast<std::uint8_t>(level));
    CHECK(colour.r == expected[3 * level]);
    CHECK(colour.g == expected[3 * level + 1]);
    CHECK(colour.b == expected[3 * level + 2]);
  }
}

TEST_CASE("heat_map_image gives the reference's picture", "[image]") {
  const Buffer bytes = format_bytes("heat_8x6.floats");
  std::vector<float> map(bytes.size() / sizeof(float));
  std::memcpy(map.data(), bytes.data(), bytes.size());
  const Image heat = heat_map_image(map, 6, 8, 32, 24);
  CHECK(heat.width == 32);
  CHECK(heat.height == 24);
  CHECK(heat.channels == 3);
  CHECK(heat.pixels == format_bytes("heat_32x24.expected"));

  Buffer expected;
  for (const int level : {0, 127, 255, 145}) {
    const Rgb colour = jet(static_cast<std::uint8_t>(level));
    expected.insert(expected.end(), {colour.r, colour.g, colour.b});
  }
  CHECK(heat_map_image(std::vector{-1.5f, 0.25f, 2.0f, 0.5f}, 2, 2, 2, 2).pixels == expected);

  const Buffer lowest = {0, 0, 128};
  for (const float value : {0.7f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    CHECK(heat_map_image(std::vector{value}, 1, 1, 1, 1).pixels == lowest);
  CHECK_THROWS_AS(heat_map_image(map, 5, 8, 32, 24), Error);
}
