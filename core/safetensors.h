// The safetensors format: named arrays behind a JSON header (https://github.com/huggingface/safetensors). Any file of
// that format can be read, and its own library reads ours.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/file.h"

namespace minidl {

// A file that is no checkpoint, is damaged, or does not fit; the message names it.
class CheckpointError : public Error {
 public:
  using Error::Error;
};

// F32, F64, F16, BF16, I64, I32, U8 and BOOL (a byte, 0 or 1) of the format.
enum class Dtype { f32, f64, f16, bf16, i64, i32, u8, boolean };
// Bytes of one element.
std::size_t size_of(Dtype dtype);

// An array to be written, row-major. `data` is called once, when its turn comes, and yields exactly the array's bytes,
// which must stay valid until the next call: arrays on a device are fetched one at a time.
struct SafetensorsEntry {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<std::int64_t> shape;
  std::function<std::span<const std::byte>()> data;
};

using SafetensorsMetadata = std::map<std::string, std::string>;

// Writes the arrays in order; the file appears whole or not at all. The first array begins at a multiple of 64 bytes,
// the others follow without gaps. Throws FileError if it cannot be written, and Error for a name that occurs twice or
// is "__metadata__", text that is not UTF-8, an impossible shape, or data of another size than the shape's.
void write_safetensors(const std::filesystem::path& file, std::span<const SafetensorsEntry> entries,
                       const SafetensorsMetadata& metadata);

// A file opened for reading. Its bytes are mapped, not loaded, except for arrays that the file holds at an address that
// does not suit their type: those are copied. What the object hands out lives as long as the object.
class SafetensorsFile {
 public:
  struct View {
    Dtype dtype = Dtype::f32;
    std::vector<std::int64_t> shape;
    std::span<const std::byte> bytes;  // row-major
  };
  template <class T>
  struct Array {
    std::vector<std::int64_t> shape;
    std::span<const T> values;
  };

  // Checks the whole header: names, shapes, and that the arrays fill the file exactly. Throws CheckpointError, or
  // FileError if the file cannot be read.
  explicit SafetensorsFile(const std::filesystem::path& file);

  const std::filesystem::path& path() const { return path_; }
  const SafetensorsMetadata& metadata() const { return metadata_; }
  const std::vector<std::string>& names() const { return names_; }  // in the order of their data
  bool contains(const std::string& name) const { return views_.contains(name) || unsupported_.contains(name); }
  // Throws CheckpointError if the array is missing or of a type that Dtype lacks.
  const View& at(const std::string& name) const;
  // Throw CheckpointError if the array is missing or not F32 (I64).
  Array<float> floats(const std::string& name) const { return values<float>(name, Dtype::f32); }
  Array<std::int64_t> int64s(const std::string& name) const { return values<std::int64_t>(name, Dtype::i64); }

 private:
  void parse();
  template <class T>
  Array<T> values(const std::string& name, Dtype dtype) const;

  std::filesystem::path path_;
  MappedFile file_;
  SafetensorsMetadata metadata_;
  std::vector<std::string> names_;
  std::map<std::string, View> views_;
  std::vector<std::vector<std::byte>> copies_;      // of what the file holds at unsuitable addresses
  std::map<std::string, std::string> unsupported_;  // names and types of the arrays that cannot be read
};

}  // namespace minidl
