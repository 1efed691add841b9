// Files, written so that a crash, a full disk or a second process never leaves half of one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "core/check.h"

namespace minidl {

// A file or folder that cannot be read or written; the message names it, the system's reason and what to do.
class FileError : public Error {
 public:
  using Error::Error;
};

// A file that appears under its name only when it is complete: written as "<target>.partial" beside it, flushed to the
// disk, then renamed over the target. Without commit() the target stays as it was and the partial file goes.
class AtomicFile {
 public:
  // Throws FileError if the folder cannot be written.
  explicit AtomicFile(std::filesystem::path target);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // Throws FileError, for one when the disk is full.
  void write(std::span<const std::byte> bytes);
  void commit();

 private:
  [[noreturn]] void fail_writing() const;

  std::filesystem::path target_, partial_;
  int descriptor_ = -1;
};

// A whole file at once, through AtomicFile. Throws FileError.
void write_file(const std::filesystem::path& file, std::span<const std::uint8_t> bytes);
// Throws FileError.
std::vector<std::uint8_t> read_file(const std::filesystem::path& file);
// Makes a folder and those above it; fine if it exists. Throws FileError.
void create_folders(const std::filesystem::path& folder);

// A file's bytes, mapped read-only.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& file);  // throws FileError
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace minidl
