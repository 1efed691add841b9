// The safetensors format: named arrays behind a JSON header (https://github.com/huggingface/safetensors).
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

enum class Dtype { f32, f64, f16, bf16, i64, i32, u8, boolean };
std::size_t size_of(Dtype dtype);

// An array to be written. `data` is called once, when its turn comes, and yields exactly the array's bytes, which must
// stay valid until the next call: arrays on a device are fetched one at a time.
struct SafetensorsEntry {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<std::int64_t> shape;
  std::function<std::span<const std::byte>()> data;
};

using SafetensorsMetadata = std::map<std::string, std::string>;

// Writes the arrays in order; the file appears whole or not at all. Throws FileError.
void write_safetensors(const std::filesystem::path& file, std::span<const SafetensorsEntry> entries,
                       const SafetensorsMetadata& metadata);

// A file opened for reading. Its bytes are mapped, not loaded; views live as long as the object.
class SafetensorsFile {
 public:
  struct View {
    Dtype dtype = Dtype::f32;
    std::vector<std::int64_t> shape;
    std::span<const std::byte> bytes;
  };
  struct Floats {
    std::vector<std::int64_t> shape;
    std::span<const float> values;
  };

  // Checks the whole header: names, types, shapes and that the arrays fill the file exactly. Throws CheckpointError, or
  // FileError if the file cannot be read.
  explicit SafetensorsFile(const std::filesystem::path& file);

  const std::filesystem::path& path() const { return path_; }
  const SafetensorsMetadata& metadata() const { return metadata_; }
  const std::vector<std::string>& names() const { return names_; }  // in the order of their data
  bool contains(const std::string& name) const { return views_.count(name) > 0; }
  // Throws CheckpointError if the array is missing.
  const View& at(const std::string& name) const;
  // Throws CheckpointError if the array is missing or not F32.
  Floats floats(const std::string& name) const;

 private:
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw CheckpointError(concat_text(path_.string(), " ", parts...));
  }
  void parse();

  std::filesystem::path path_;
  MappedFile file_;
  SafetensorsMetadata metadata_;
  std::vector<std::string> names_;
  std::map<std::string, View> views_;
};

}  // namespace minidl
