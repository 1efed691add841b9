// The safetensors format, against files made byte by byte here and one that the format's own library wrote.
#include "core/safetensors.h"
#include "tests/temporary_folder.h"

#include <stdlib.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <tuple>

using namespace minidl;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

struct Folder : test::TemporaryFolder {
  // A file of exactly these bytes.
  fs::path put(const std::string& bytes) const {
    std::ofstream(path() / "file", std::ios::binary | std::ios::trunc) << bytes;
    return path() / "file";
  }
};

std::string content(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  REQUIRE(in.good());
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string little_endian(std::uint64_t number) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(number >> (8 * i) & 255);
  return bytes;
}

std::string framed(const std::string& header, const std::string& data) {
  return little_endian(header.size()) + header + data;
}

// A file with one U8 array "x" of four bytes, with what is given in place of the parts of its description.
struct Description {
  std::string dtype = R"("U8")", shape = "[4]", offsets = "[0,4]";
  std::string text() const {
    return R"({"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
  }
};

std::string error_of(const fs::path& file) {
  try {
    SafetensorsFile{file};
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "no CheckpointError";
}

template <class T>
ArrayEntry entry(const std::string& name, Dtype dtype, const std::vector<std::int64_t>& shape,
                 const std::vector<T>& values) {
  return {name, dtype, shape, [&values] { return std::as_bytes(std::span(values)); }};
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string bytes_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

TEST_CASE("a file made by hand is read as the format says", "[safetensors]") {
  const Folder folder;
  const std::vector<float> floats{1.5f, -0.0f, INFINITY, 3e-42f, 5, 6};
  const std::vector<std::int64_t> ints{-1, std::numeric_limits<std::int64_t>::max()};
  // The header's order is not that of the data.
  const SafetensorsFile file(folder.put(framed(
      R"({"late":{"dtype":"I64","shape":[2],"data_offsets":[24,40]},"__metadata__":{"step":"7","ü":"\"\n"},)"
      R"("early":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"none":{"dtype":"F32","shape":[5,0],"data_offsets":[24,24]},)"
      R"("scalar":{"dtype":"BOOL","shape":[],"data_offsets":[40,41],"more":1}}   )",
      bytes_of(floats) + bytes_of(ints) + '\1')));
  CHECK(file.path() == folder / "file");
  CHECK(file.names() == std::vector<std::string>{"early", "none", "late", "scalar"});
  CHECK(file.metadata() == ArrayMetadata{{"step", "7"}, {"ü", "\"\n"}});
  CHECK(file.contains("early"));
  CHECK_FALSE(file.contains("__metadata__"));
  CHECK(file.floats("early").shape == std::vector<std::int64_t>{2, 3});
  CHECK(bytes_of(std::as_bytes(file.floats("early").values)) == bytes_of(floats));
  const auto late = file.int64s("late");
  CHECK(std::vector<std::int64_t>(late.values.begin(), late.values.end()) == ints);
  CHECK(file.floats("none").values.empty());
  CHECK(file.floats("none").shape == std::vector<std::int64_t>{5, 0});
  CHECK(file.at("scalar").dtype == Dtype::boolean);
  CHECK(file.at("scalar").shape.empty());
  CHECK(bytes_of(file.at("scalar").bytes) == "\1");
  CHECK_THROWS_WITH(file.at("missing"), (folder / "file").string() + " lacks missing");
  CHECK_THROWS_WITH(file.floats("late"), (folder / "file").string() + " holds late as I64, expected F32");
  CHECK_THROWS_AS(file.int64s("early"), CheckpointError);
}

TEST_CASE("the smallest files are files", "[safetensors]") {
  const Folder folder;
  CHECK(SafetensorsFile(folder.put(framed("{}", ""))).names().empty());
  write_safetensors(folder / "file", {}, {});
  CHECK(SafetensorsFile(folder / "file").names().empty());
}

TEST_CASE("every type has the format's size", "[safetensors]") {
  const Folder folder;
  const std::vector<std::tuple<std::string, Dtype, std::size_t>> types{
      {"F32", Dtype::f32, 4}, {"F64", Dtype::f64, 8}, {"F16", Dtype::f16, 2}, {"BF16", Dtype::bf16, 2},
      {"I64", Dtype::i64, 8}, {"I32", Dtype::i32, 4}, {"U8", Dtype::u8, 1},   {"BOOL", Dtype::boolean, 1}};
  for (const auto& [name, dtype, size] : types) {
    CHECK(size_of(dtype) == size);
    const std::string data(3 * size, 'x');
    const Description x{concat_text('"', name, '"'), "[3]", concat_text("[0,", data.size(), "]")};
    const SafetensorsFile file(folder.put(framed(R"({"x":)" + x.text() + "}", data)));
    CHECK(file.at("x").dtype == dtype);
    CHECK(file.at("x").bytes.size() == data.size());
  }
}

TEST_CASE("an array of another type is refused when it is asked for, the others are read", "[safetensors]") {
  const Folder folder;
  const SafetensorsFile file(folder.put(framed(R"({"odd":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]},"x":)" +
                                                   Description{.offsets = "[3,7]"}.text() + "}",
                                               "abcwxyz")));
  CHECK(file.names() == std::vector<std::string>{"odd", "x"});
  CHECK(file.contains("odd"));
  CHECK(bytes_of(file.at("x").bytes) == "wxyz");
  CHECK_THROWS_WITH(file.at("odd"),
                    (folder / "file").string() + " holds odd as \"F8_E4M3\", a type that is not supported");
  CHECK_THROWS_AS(file.floats("odd"), CheckpointError);
}

TEST_CASE("arrays at odd addresses are read all the same", "[safetensors]") {
  const Folder folder;
  const std::vector<float> floats{1, 2, 3};
  const std::vector<std::int64_t> ints{-4, 5};
  for (std::size_t padding = 0; padding < 8; ++padding) {
    const SafetensorsFile file(folder.put(framed(R"({"f":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},)"
                                                 R"("i":{"dtype":"I64","shape":[2],"data_offsets":[12,28]}})" +
                                                     std::string(padding, ' '),
                                                 bytes_of(floats) + bytes_of(ints))));
    const auto f = file.floats("f");
    const auto i = file.int64s("i");
    CHECK(std::vector<float>(f.values.begin(), f.values.end()) == floats);
    CHECK(std::vector<std::int64_t>(i.values.begin(), i.values.end()) == ints);
    CHECK(reinterpret_cast<std::uintptr_t>(i.values.data()) % sizeof(std::int64_t) == 0);
  }
}

TEST_CASE("a file of the format's own library is read, and written again with the same arrays", "[safetensors]") {
  const fs::path golden = fs::path(MINIDL_GOLDEN_DIR) / "light_ch4_96" / "eval.safetensors";
  const SafetensorsFile file(golden);
  REQUIRE(file.contains("fake_A2B"));
  const auto image = file.floats("fake_A2B");
  CHECK(image.shape == std::vector<std::int64_t>{1, 3, 96, 96});
  REQUIRE(image.values.size() == 3 * 96 * 96);
  // A generator ends in a tanh.
  CHECK(std::all_of(image.values.begin(), image.values.end(), [](float v) { return std::abs(v) < 1; }));

  const Folder folder;
  std::vector<ArrayEntry> entries;
  for (const std::string& name : file.names())
    entries.push_back({name, file.at(name).dtype, file.at(name).shape, [&file, name] { return file.at(name).bytes; }});
  write_safetensors(folder / "copy", entries, file.metadata());
  const SafetensorsFile copy(folder / "copy");
  CHECK(copy.names() == file.names());
  for (const std::string& name : file.names()) {
    CHECK(copy.at(name).shape == file.at(name).shape);
    CHECK(bytes_of(copy.at(name).bytes) == bytes_of(file.at(name).bytes));
  }
}

TEST_CASE("a written file has the format's layout to the byte", "[safetensors]") {
  const Folder folder;
  const std::vector<float> weights{1, -2};
  const std::vector<std::uint8_t> state{7, 8, 9};
  write_safetensors(folder / "file",
                    std::vector{entry("w", Dtype::f32, {2, 1}, weights), entry("s", Dtype::u8, {3}, state)},
                    {{"a", "ä"}});
  std::string header = R"({"__metadata__":{"a":"ä"},"w":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
                       R"("s":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}})";
  header.resize(192 - 8, ' ');
  CHECK(content(folder / "file") == framed(header, bytes_of(weights) + bytes_of(state)));
}

TEST_CASE("the data of an entry is fetched once, in order, when its turn comes", "[safetensors]") {
  const Folder folder;
  std::vector<int> turns;
  std::vector<float> buffer;
  std::vector<ArrayEntry> entries;
  for (int i = 0; i < 5; ++i)
    entries.push_back({concat_text("t", i), Dtype::f32, {i}, [&turns, &buffer, i] {
                         turns.push_back(i);
                         buffer.assign(static_cast<std::size_t>(i), static_cast<float>(i));
                         return std::as_bytes(std::span(buffer));
                       }});
  write_safetensors(folder / "file", entries, {});
  CHECK(turns == std::vector<int>{0, 1, 2, 3, 4});
  const SafetensorsFile file(folder / "file");
  for (int i = 0; i < 5; ++i) {
    const auto array = file.floats(concat_text("t", i));
    CHECK(std::vector<float>(array.values.begin(), array.values.end()) == std::vector<float>(i, i));
  }
}

TEST_CASE("what cannot be written leaves the old file", "[safetensors]") {
  const Folder folder;
  const std::vector<float> values{1, 2};
  write_safetensors(folder / "file", std::vector{entry("old", Dtype::f32, {2}, values)}, {});
  const std::string before = content(folder / "file");
  const auto error = [&](std::vector<ArrayEntry> entries, const ArrayMetadata& metadata = {}) {
    try {
      write_safetensors(folder / "file", entries, metadata);
    } catch (const Error& refusal) {
      return std::string(refusal.what());
    }
    return std::string("no Error");
  };
  const auto good = entry("good", Dtype::f32, {2}, values);
  CHECK_THAT(error({good, entry("bad", Dtype::f32, {3}, values)}),
             Contains((folder / "file").string()) && Contains("bad yields 8 bytes, expected 12"));
  CHECK_THAT(error({entry("bad", Dtype::f32, {-2}, values)}), Contains("bad has an impossible shape"));
  CHECK_THAT(error({entry("bad", Dtype::f32, {1l << 40, 1l << 40}, values)}), Contains("bad has an impossible shape"));
  CHECK_THAT(error({good, good}), Contains("the name good is taken"));
  CHECK_THAT(error({entry("__metadata__", Dtype::f32, {2}, values)}), Contains("is taken"));
  CHECK_THAT(error({entry("\xff", Dtype::f32, {2}, values)}), Contains("is not UTF-8"));
  CHECK_THAT(error({good}, {{"path", "caf\xe9"}}), Contains("is not UTF-8"));
  CHECK_THROWS_WITH(
      write_safetensors(
          folder / "file",
          std::vector<ArrayEntry>{good,
                                  {"lost",
                                   Dtype::f32,
                                   {2},
                                   []() -> std::span<const std::byte> { throw std::runtime_error("device lost"); }}},
          {}),
      "device lost");
  CHECK(content(folder / "file") == before);
  CHECK_FALSE(fs::exists(folder / "file.partial"));
  CHECK_THROWS_AS(write_safetensors(folder / "missing" / "file", std::vector{good}, {}), FileError);
}

TEST_CASE("a file that is none of the format is called so", "[safetensors]") {
  const Folder folder;
  for (const std::string& bytes :
       {std::string(), std::string("{}"), std::string("1234567"), std::string("<!DOCTYPE html><html></html>"),
        std::string("PK\3\4\0\0\10\10\0\0\0\0\0\0\0\0", 16), std::string(100, '\0'), std::string(100, '\xff'),
        little_endian(100'000'001) + "{", little_endian(4) + "[{}]", little_endian(1) + "{"})
    CHECK_THAT(error_of(folder.put(bytes)), Contains((folder / "file").string() + " is not a safetensors file"));
  CHECK_THROWS_AS(SafetensorsFile(folder / "missing"), FileError);
  CHECK_THROWS_AS(SafetensorsFile(fs::temp_directory_path()), FileError);
}

TEST_CASE("a truncated file says what it should have had", "[safetensors]") {
  const Folder folder;
  const std::vector<float> values(2'000'000 / 4);
  write_safetensors(folder / "whole", std::vector{entry("x", Dtype::f32, {500'000}, values)}, {});
  const std::string whole = content(folder / "whole");
  REQUIRE(whole.size() == 2'000'128);
  CHECK(error_of(folder.put(whole.substr(0, 1'000'000))) ==
        (folder / "file").string() + " is truncated: the header promises 2,000,128 bytes, the file has 1,000,000");
  CHECK(error_of(folder.put(whole.substr(0, 60))) ==
        (folder / "file").string() + " is truncated: its header alone has 120 bytes, the file has 60");
  CHECK_THAT(error_of(folder.put(whole + "tail")), Contains("the last 4 bytes belong to no array"));
}

TEST_CASE("a malformed header is named with its fault", "[safetensors]") {
  const Folder folder;
  const auto error = [&](const std::string& header, const std::string& data = "data") {
    return error_of(folder.put(framed(header, data)));
  };
  const auto array_error = [&](const Description& x) { return error(R"({"x":)" + x.text() + "}"); };
  REQUIRE(array_error({}) == "no CheckpointError");

  CHECK_THAT(error(R"({"x":)"), Contains((folder / "file").string() + " is malformed: ") && Contains("JSON"));
  CHECK_THAT(error(R"({"x":)" + Description().text() + "} x"), Contains("JSON"));
  CHECK_THAT(error("{\"\xff\":" + Description().text() + "}"), Contains("JSON"));
  CHECK_THAT(error(R"({"x":)" + std::string(1'000'000, '[')), Contains("nested too deeply"));
  CHECK_THAT(error(R"({"x":)" + std::string(20, '[') + std::string(20, ']') + "}"), Contains("nested too deeply"));
  CHECK_THAT(error(R"({"x":)" + Description().text() + R"(,"x":)" + Description().text() + "}"),
             Contains("a name occurs twice"));

  for (const std::string value : {"null", "1", "[]", R"("x")"})
    CHECK_THAT(error(R"({"x":)" + value + "}"), Contains("\"x\" has no valid dtype"));
  CHECK_THAT(error(R"({"x":{"shape":[4],"data_offsets":[0,4]}})"), Contains("no valid dtype"));
  CHECK_THAT(error(R"({"x":{"dtype":"U8","data_offsets":[0,4]}})"), Contains("no valid shape"));
  CHECK_THAT(error(R"({"x":{"dtype":"U8","shape":[4]}})"), Contains("no valid data_offsets"));
  CHECK_THAT(array_error({.dtype = "8"}), Contains("no valid dtype"));

  for (const std::string shape :
       {"[-4]", "[4.0]", R"(["4"])", "[[4]]", "[18446744073709551616]", "[9223372036854775808]"})
    CHECK_THAT(array_error({.shape = shape}), Contains("\"x\" has a shape or an offset that is not a whole number"));
  for (const std::string shape : {"4", "{}", "null"})
    CHECK_THAT(array_error({.shape = shape}), Contains("no valid shape"));
  // The last two wrap round to 4 and 0 in 64 bits.
  for (const std::string shape :
       {"[3]", "[5]", "[2,3]", "[]", "[0]", "[4,4611686018427387905]", "[4294967296,4294967296]"})
    CHECK_THAT(array_error({.shape = shape}), Contains("the shape of \"x\" does not match its 4 bytes"));

  for (const std::string offsets : {"[]", "[0]", "[0,4,4]"})
    CHECK_THAT(array_error({.offsets = offsets}), Contains("expected 2"));
  for (const std::string offsets : {"[-1,3]", "[0,4.0]", "[0,null]"})
    CHECK_THAT(array_error({.offsets = offsets}), Contains("not a whole number"));
  CHECK_THAT(array_error({.offsets = "[4,0]"}), Contains("ends before it begins"));
  CHECK_THAT(array_error({.shape = "[3]", .offsets = "[1,4]"}), Contains("overlap or leave a gap"));
  CHECK_THAT(array_error({.shape = "[3]", .offsets = "[0,3]"}), Contains("the last 1 bytes belong to no array"));
  CHECK_THAT(array_error({.offsets = "[0,5]"}), Contains("is truncated"));
  CHECK_THAT(array_error({.shape = "[9223372036854775807]", .offsets = "[0,9223372036854775807]"}),
             Contains("is truncated"));

  const std::string other = R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"x":)";
  CHECK_THAT(error(other + Description{.shape = "[3]", .offsets = "[1,4]"}.text() + "}"), Contains("overlap or leave"));
  CHECK_THAT(error(other + Description{.shape = "[1]", .offsets = "[3,4]"}.text() + "}"), Contains("overlap or leave"));
  CHECK(error(other + Description{.shape = "[2]", .offsets = "[2,4]"}.text() + "}") == "no CheckpointError");

  for (const std::string metadata : {"1", "null", "[]", R"({"a":1})", R"({"a":{"b":"c"}})"})
    CHECK_THAT(error(R"({"__metadata__":)" + metadata + "}", ""), Contains("its metadata is not a map of texts"));
}

TEST_CASE("a hostile name cannot take over a message", "[safetensors]") {
  const Folder folder;
  const std::string error =
      error_of(folder.put(framed(R"({"\u001b[2J\n)" + std::string(10'000, 'x') + R"(":{}})", "")));
  CHECK_THAT(error, Contains("has no valid dtype"));
  CHECK(error.find_first_of("\x1b\n") == std::string::npos);
  CHECK(error.size() < 1000);
}

TEST_CASE("no damage to a file does anything but a clear error or a different array", "[safetensors]") {
  const Folder folder;
  const std::vector<float> weights{1, 2, 3, 4, 5, 6};
  const std::vector<std::uint8_t> state{7, 8, 9};
  write_safetensors(folder / "whole",
                    std::vector{entry("w", Dtype::f32, {2, 3}, weights), entry("s", Dtype::u8, {3}, state)},
                    {{"format", "test"}});
  const std::string whole = content(folder / "whole");
  const std::size_t header_end = whole.size() - 27;

  // Whatever opens must be usable: every byte it hands out is read.
  const auto try_to_read = [&](const std::string& bytes) {
    std::size_t sum = 0;
    try {
      const SafetensorsFile file(folder.put(bytes));
      for (const std::string& name : file.names()) {
        try {
          for (std::byte b : file.at(name).bytes) sum += static_cast<std::size_t>(b);
          for (float v : file.floats(name).values) sum += v > 0;
        } catch (const CheckpointError& error) {
          CHECK_THAT(error.what(), Contains((folder / "file").string() + " "));
        }
      }
    } catch (const CheckpointError& error) {
      CHECK_THAT(error.what(), Contains((folder / "file").string() + " "));
      return false;
    }
    return sum > 0;
  };
  REQUIRE(try_to_read(whole));

  for (std::size_t size = 0; size < whole.size(); ++size) CHECK_FALSE(try_to_read(whole.substr(0, size)));

  std::size_t refused = 0;
  for (std::size_t at = 0; at < header_end; ++at)
    for (const unsigned flip : {0x01u, 0x02u, 0x04u, 0x08u, 0x10u, 0x20u, 0x40u, 0x80u, 0xffu}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(static_cast<unsigned char>(bytes[at]) ^ flip);
      refused += !try_to_read(bytes);
    }
  CHECK(refused > 1000);

  std::mt19937 random(1);
  const std::string pieces = "{}[]\",:0123456789-.eE \\u";
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = whole;
    for (int edits = 1 + random() % 3; edits > 0; --edits) {
      const std::size_t at = 8 + random() % (header_end - 8);
      if (random() % 3 == 0)
        bytes.erase(at, 1 + random() % 4);
      else
        bytes.insert(at, 1, pieces[random() % pieces.size()]);
    }
    if (random() % 2) bytes.replace(0, 8, little_endian(bytes.size() - 27 - 8));
    try_to_read(bytes);
  }
}
