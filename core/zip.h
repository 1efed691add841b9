// Zip archives as PyTorch's files are: entries stored as they are, at addresses where they can be used in place. What a
// library would add is compression, and what we need, views of a mapped file and aligned entries, none of Debian's
// offers. Archives and entries may exceed 4 GiB (zip64).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"

namespace minidl {

// The entries of an archive in memory, which must outlive this.
class ZipReader {
 public:
  // Whether bytes begin as an archive does.
  static bool recognises(std::span<const std::byte> bytes);

  // Checks the directory: every entry lies inside the archive and no name occurs twice. Throws CheckpointError, whose
  // message is to follow the file's name.
  explicit ZipReader(std::span<const std::byte> archive);

  std::vector<std::string> names() const;
  bool contains(const std::string& name) const { return entries_.contains(name); }
  // The entry's bytes, once found to have the checksum that the directory states. Throws CheckpointError if it is
  // missing, compressed or damaged.
  std::span<const std::byte> read(const std::string& name) const;
  // The same without the checksum.
  std::span<const std::byte> view(const std::string& name) const;

 private:
  struct Entry {
    std::uint16_t method = 0;
    std::uint32_t checksum = 0;
    std::uint64_t header = 0, size = 0;  // of the local header, and of the data behind it
  };

  struct Directory {
    std::uint64_t begin = 0, size = 0, entries = 0;
  };
  Directory find_directory() const;

  std::span<const std::byte> archive_;
  std::map<std::string, Entry> entries_;
};

// Writes an archive, through AtomicFile: it appears whole or not at all.
class ZipWriter {
 public:
  // The data of every entry begins at a multiple of this.
  static constexpr std::size_t kAlignment = 64;
  // The first size or offset that needs zip64.
  static constexpr std::uint64_t kZip64 = 0xffff'ffff;

  // `zip64_from` is lowered by tests, which cannot write gigabytes. Throws FileError.
  explicit ZipWriter(std::filesystem::path file, std::uint64_t zip64_from = kZip64)
      : out_(std::move(file)), zip64_from_(zip64_from) {}

  // Throws FileError if it cannot be written.
  void add(const std::string& name, std::span<const std::byte> data);
  void add(const std::string& name, std::string_view text) { add(name, std::as_bytes(std::span(text))); }
  // Writes the directory and puts the file in its place. Nothing may be added after it.
  void commit();

 private:
  void write(std::string_view bytes);

  AtomicFile out_;
  std::uint64_t zip64_from_;
  std::uint64_t position_ = 0, entries_ = 0;
  std::string directory_;
};

}  // namespace minidl
