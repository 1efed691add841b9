// Files and folders. What is written appears whole or not at all: neither a crash nor a full disk leaves half a file
// under its name.
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
// disk, then renamed over the target. Without commit() the target stays as it was and the partial file goes; one that a
// killed process has left is written over. One writer per target at a time.
class AtomicFile {
 public:
  // Throws FileError if the target's folder cannot be written or the target is a folder itself.
  explicit AtomicFile(std::filesystem::path target);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // Appends. Throws FileError, for one when the disk is full.
  void write(std::span<const std::byte> bytes);
  // Waits until what was written is on the disk, as commit() does first. Throws FileError.
  void flush();
  // Puts the file in the target's place, for good even if the power fails next. Throws FileError; some file systems
  // report a full disk only here. Nothing may be written after it.
  void commit();

 private:
  [[noreturn]] void fail_writing() const;

  std::filesystem::path target_, partial_;
  int descriptor_ = -1;
};

// A whole file at once, through AtomicFile. Throws FileError.
void write_file(const std::filesystem::path& file, std::span<const std::uint8_t> bytes);
// A whole regular file. Throws FileError.
std::vector<std::uint8_t> read_file(const std::filesystem::path& file);
// Makes a folder and those above it; fine if it exists. Throws FileError.
void create_folders(const std::filesystem::path& folder);
// The bytes that may still be written to the file system of an existing file or folder. Throws FileError.
std::uint64_t free_space(const std::filesystem::path& place);

// A regular file's bytes, mapped read-only: read from the disk as they are touched. They are those of the file as it
// was opened even if an AtomicFile replaces it, but it must not be cut short in place meanwhile.
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
