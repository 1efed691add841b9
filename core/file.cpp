#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#if __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>
#endif
#ifndef ASAN_POISON_MEMORY_REGION  // these do nothing in builds without AddressSanitizer
#define ASAN_POISON_MEMORY_REGION(address, size) (static_cast<void>(address), static_cast<void>(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) (static_cast<void>(address), static_cast<void>(size))
#endif

namespace minidl {
namespace {

namespace fs = std::filesystem;

const char* advice(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return "; free some space and try again";
    case EACCES:
    case EPERM:
    case EROFS:
      return "; check the permissions of the folder";
    case ENOENT:
    case ENOTDIR:
      return "; check the path";
    default:
      return "";
  }
}

[[noreturn]] void fail_with(const char* action, const fs::path& file, int error) {
  throw FileError(concat_text("cannot ", action, " ", file.string(), ": ", std::strerror(error), advice(error)));
}

// A descriptor that closes itself.
struct Descriptor {
  int value;

  // Without O_NONBLOCK opening a named pipe would wait for its other end.
  Descriptor(const fs::path& file, int flags) : value(::open(file.c_str(), flags | O_CLOEXEC | O_NONBLOCK)) {}
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

// The size of an open regular file.
std::size_t regular_size(const Descriptor& file, const fs::path& name) {
  struct stat info {};
  if (::fstat(file.value, &info) != 0) fail_with("read", name, errno);
  if (!S_ISREG(info.st_mode))
    throw FileError(concat_text("cannot read ", name.string(), ": it is ",
                                S_ISDIR(info.st_mode) ? "a folder" : "no regular file", "; name a file"));
  return static_cast<std::size_t>(info.st_size);
}

// What is mapped behind a file's end, up to that of the page.
std::size_t rest_of_page(std::size_t size) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return (page - size % page) % page;
}

}  // namespace

AtomicFile::AtomicFile(fs::path target) : target_(std::move(target)), partial_(target_.string() + ".partial") {
  std::error_code ignored;
  if (fs::is_directory(target_, ignored))
    throw FileError(
        concat_text("cannot write ", target_.string(), ": it is a folder; remove it or choose another name"));
  descriptor_ = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail_with("write", target_, errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(partial_.c_str());
}

void AtomicFile::fail_writing() const { fail_with("write", target_, errno); }

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), std::min<std::size_t>(bytes.size(), 1u << 30));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_writing();
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void AtomicFile::flush() {
  if (::fsync(descriptor_) != 0) fail_writing();
}

void AtomicFile::commit() {
  flush();
  if (::close(std::exchange(descriptor_, -1)) != 0 || ::rename(partial_.c_str(), target_.c_str()) != 0) {
    const int error = errno;
    ::unlink(partial_.c_str());
    fail_with("write", target_, error);
  }
  // The new name must survive a power cut too; a file system that cannot sync a folder is no reason to fail.
  const Descriptor folder(target_.has_parent_path() ? target_.parent_path() : ".", O_RDONLY | O_DIRECTORY);
  if (folder.value >= 0) ::fsync(folder.value);
}

void write_file(const fs::path& file, std::span<const std::uint8_t> bytes) {
  AtomicFile out(file);
  out.write(std::as_bytes(bytes));
  out.commit();
}

std::vector<std::uint8_t> read_file(const fs::path& file) {
  const Descriptor in(file, O_RDONLY);
  if (in.value < 0) fail_with("read", file, errno);
  std::vector<std::uint8_t> bytes(regular_size(in, file));
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::read(in.value, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_with("read", file, errno);
    if (count == 0) break;  // it has become shorter meanwhile
    done += static_cast<std::size_t>(count);
  }
  bytes.resize(done);
  return bytes;
}

void create_folders(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail_with("make the folder", folder, error.value());
}

std::uint64_t free_space(const fs::path& place) {
  std::error_code error;
  const fs::space_info space = fs::space(place, error);
  if (error) fail_with("measure the free space of", place, error.value());
  return space.available;
}

MappedFile::MappedFile(const fs::path& file) {
  const Descriptor in(file, O_RDONLY);
  if (in.value < 0) fail_with("read", file, errno);
  const std::size_t size = regular_size(in, file);
  if (size == 0) return;
  void* memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, in.value, 0);
  if (memory == MAP_FAILED) fail_with("read", file, errno);
  bytes_ = {static_cast<const std::byte*>(memory), size};
  ASAN_POISON_MEMORY_REGION(bytes_.data() + size, rest_of_page(size));
}

MappedFile::~MappedFile() {
  if (bytes_.empty()) return;
  ASAN_UNPOISON_MEMORY_REGION(bytes_.data() + bytes_.size(), rest_of_page(bytes_.size()));
  ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace minidl
