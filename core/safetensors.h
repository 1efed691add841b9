// The safetensors format: named arrays behind a JSON header (https://github.com/huggingface/safetensors). Any file of
// that format can be read, and its own library reads ours.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/arrays.h"

namespace minidl {

// Writes the arrays in order; the file appears whole or not at all. The first array begins at a multiple of 64 bytes,
// the others follow without gaps. Throws FileError if it cannot be written, and Error for a name that occurs twice or
// is "__metadata__", text that is not UTF-8, an impossible shape, or data of another size than the shape's.
void write_safetensors(const std::filesystem::path& file, std::span<const ArrayEntry> entries,
                       const ArrayMetadata& metadata);

// Whether a file begins as one of the format does. Throws FileError if it cannot be read.
bool is_safetensors_file(const std::filesystem::path& file);

// A file opened for reading. Arrays that it holds at an address that does not suit their type are copied.
class SafetensorsFile : public ArrayFile {
 public:
  template <class T>
  struct Array {
    std::vector<std::int64_t> shape;
    std::span<const T> values;
  };

  // Checks the whole header: names, shapes, and that the arrays fill the file exactly. Throws CheckpointError, or
  // FileError if the file cannot be read.
  explicit SafetensorsFile(const std::filesystem::path& file);

  bool contains(const std::string& name) const override { return views_.contains(name) || unsupported_.contains(name); }
  const ArrayView& at(const std::string& name) const override;
  std::string format() const override { return "safetensors"; }
  // Throw CheckpointError if the array is missing or not F32 (I64).
  Array<float> floats(const std::string& name) const { return values<float>(name, Dtype::f32); }
  Array<std::int64_t> int64s(const std::string& name) const { return values<std::int64_t>(name, Dtype::i64); }

 private:
  void parse();
  template <class T>
  Array<T> values(const std::string& name, Dtype dtype) const;

  std::map<std::string, ArrayView> views_;
  std::vector<std::vector<std::byte>> copies_;      // of what the file holds at unsuitable addresses
  std::map<std::string, std::string> unsupported_;  // names and types of the arrays that cannot be read
};

}  // namespace minidl
