// Named arrays in files: what the formats that the library reads have in common.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
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

// F32, F64, F16, BF16, I64, I32, U8 and BOOL (a byte, 0 or 1) of safetensors.
enum class Dtype { f32, f64, f16, bf16, i64, i32, u8, boolean };
// Bytes of one element.
std::size_t size_of(Dtype dtype);
// "F32".
const char* name_of(Dtype dtype);

// The bytes of `shape` elements; none if an extent is negative or no file could hold them.
std::optional<std::uint64_t> byte_count(std::size_t element, std::span<const std::int64_t> shape);

// An array to be written, row-major. `data` is called once, when its turn comes, and yields exactly the array's bytes,
// which must stay valid until the next call: arrays on a device are fetched one at a time.
struct ArrayEntry {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<std::int64_t> shape;
  std::function<std::span<const std::byte>()> data;
};

// An array in a file. Element (i, j, ...) lies i * strides[0] + j * strides[1] + ... elements behind the first, inside
// of `bytes`; these may be aligned badly. Without strides it is row-major and `bytes` are exactly its own.
struct ArrayView {
  Dtype dtype = Dtype::f32;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;
  std::span<const std::byte> bytes;
};

// The elements in row-major order: the view's own bytes, or a copy in `scratch`.
std::span<const std::byte> row_major(const ArrayView& view, std::vector<std::byte>& scratch);

using ArrayMetadata = std::map<std::string, std::string>;

// A file of named arrays, mapped and not loaded. What the object hands out lives as long as the object.
class ArrayFile {
 public:
  virtual ~ArrayFile() = default;

  const std::filesystem::path& path() const { return path_; }
  std::uint64_t size() const { return file_.bytes().size(); }  // of the file, in bytes
  const ArrayMetadata& metadata() const { return metadata_; }
  const std::vector<std::string>& names() const { return names_; }  // in the file's order
  virtual bool contains(const std::string& name) const = 0;
  // Throws CheckpointError if the array is missing or of a type that Dtype lacks.
  virtual const ArrayView& at(const std::string& name) const = 0;
  // Throws CheckpointError unless the array's bytes have the checksum that the file states, if it states any.
  virtual void check_intact(const std::string&) const {}
  // What the file is, for a user: "safetensors".
  virtual std::string format() const = 0;

 protected:
  // Throws FileError if the file cannot be read.
  explicit ArrayFile(const std::filesystem::path& file) : path_(file), file_(file) {}

  std::filesystem::path path_;
  MappedFile file_;
  ArrayMetadata metadata_;
  std::vector<std::string> names_;
};

// Opens a safetensors or PyTorch file, told apart by their first bytes. Throws FileError if it cannot be read,
// CheckpointError if it is damaged or neither.
std::unique_ptr<ArrayFile> open_array_file(const std::filesystem::path& file);

// The array as float32: F16 and BF16 are widened exactly, F64 is rounded. Its own bytes where they are floats in order,
// else a copy in `scratch`. Throws CheckpointError if the array is missing, damaged or of no floating-point type.
std::span<const float> floats_of(const ArrayFile& file, const std::string& name, std::vector<float>& scratch);

// For messages: a name out of a file, whatever it holds, and 1234567 as "1,234,567".
std::string quoted(const std::string& name);
std::string grouped(std::uint64_t number);

}  // namespace minidl
