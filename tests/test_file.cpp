// Files appear whole or not at all, whatever goes wrong; failures say where, why and what to do.
#include "core/file.h"
#include "tests/temporary_folder.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>

using namespace minidl;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

// Its name checks spaces and umlauts on the way.
struct Folder : test::TemporaryFolder {
  Folder() : TemporaryFolder("minidl file äö ") {}
  std::size_t files() const { return std::distance(fs::directory_iterator(path()), fs::directory_iterator()); }
};

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

void put(const fs::path& file, const std::string& text) { std::ofstream(file, std::ios::binary) << text; }

std::string content(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  REQUIRE(in.good());
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_text(const fs::path& file, const std::string& text) {
  AtomicFile out(file);
  out.write(bytes_of(text));
  out.commit();
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const FileError& error) {
    return error.what();
  }
  return "no FileError";
}

// The same in a child process, which may restrict itself first.
std::string error_in_child(const std::function<void()>& action) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const std::string error = error_of(action);
    const bool told = ::write(ends[1], error.data(), error.size()) == static_cast<ssize_t>(error.size());
    _exit(told ? 0 : 1);
  }
  close(ends[1]);
  std::string error;
  char buffer[4096];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;) error.append(buffer, static_cast<std::size_t>(n));
  close(ends[0]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == 0);
  return error;
}

// Files of this process may not grow beyond this.
void limit_file_size(rlim_t bytes) {
  signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{bytes, bytes};
  if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(2);
}

}  // namespace

TEST_CASE("an atomic file appears with its commit and replaces the old one", "[file]") {
  const Folder folder;
  const fs::path target = folder / "model.bin";
  put(target, "old and longer than the new one");
  {
    AtomicFile out(target);
    out.write(bytes_of("new "));
    out.write({});
    out.write(bytes_of("content"));
    CHECK(content(target) == "old and longer than the new one");
    CHECK(content(folder / "model.bin.partial") == "new content");
    out.commit();
    CHECK(content(target) == "new content");
  }
  CHECK(content(target) == "new content");
  CHECK(folder.files() == 1);
}

TEST_CASE("an atomic file without a commit leaves the target and no trace", "[file]") {
  const Folder folder;
  const fs::path target = folder / "model.bin";
  SECTION("old target") {
    put(target, "old");
    { AtomicFile(target).write(bytes_of("new")); }
    CHECK(content(target) == "old");
    CHECK(folder.files() == 1);
  }
  SECTION("no target") {
    { AtomicFile(target).write(bytes_of("new")); }
    CHECK(folder.files() == 0);
  }
}

TEST_CASE("a partial file that a killed process left is written over", "[file]") {
  const Folder folder;
  put(folder / "model.bin.partial", "the remains of something far longer");
  write_text(folder / "model.bin", "new");
  CHECK(content(folder / "model.bin") == "new");
  CHECK(folder.files() == 1);
}

TEST_CASE("a file name without a folder is one of the working directory", "[file]") {
  const Folder folder;
  CHECK(error_in_child([&] {
          fs::current_path(folder.path());
          write_text("plain", "content");
        }) == "no FileError");
  CHECK(content(folder / "plain") == "content");
}

TEST_CASE("a full disk is named, with advice, and the old file survives", "[file]") {
  const Folder folder;
  const fs::path target = folder / "model.bin";
  put(target, "old");
  std::string error;
  SECTION("the first byte already") {
    fs::create_symlink("/dev/full", folder / "model.bin.partial");
    error = error_of([&] { write_text(target, "new"); });
    CHECK_THAT(error, Contains("No space left on device"));
  }
  SECTION("in the middle of a write") {
    error = error_in_child([&] {
      limit_file_size(10'000);
      write_text(target, std::string(20'000, 'x'));
    });
  }
  SECTION("in a later write") {
    error = error_in_child([&] {
      limit_file_size(10'000);
      AtomicFile out(target);
      for (int i = 0; i < 100; ++i) out.write(bytes_of(std::string(999, 'x')));
      out.commit();
    });
  }
  CHECK_THAT(error, Contains("cannot write " + target.string() + ": ") && Contains("free some space"));
  CHECK(content(target) == "old");
  CHECK(folder.files() == 1);
}

TEST_CASE("a file that just fits is not an error", "[file]") {
  const Folder folder;
  CHECK(error_in_child([&] {
          limit_file_size(10'000);
          write_text(folder / "model.bin", std::string(10'000, 'x'));
        }) == "no FileError");
  CHECK(fs::file_size(folder / "model.bin") == 10'000);
}

TEST_CASE("places that cannot be written are named with the reason", "[file]") {
  const Folder folder;
  put(folder / "plain", "kept");
  const auto error = [&](const std::string& name) { return error_of([&] { write_text(folder / name, "x"); }); };
  CHECK_THAT(error("missing/model.bin"), Contains((folder / "missing/model.bin").string()) &&
                                             Contains("No such file or directory") && Contains("check the path"));
  CHECK_THAT(error("plain/model.bin"), Contains("Not a directory") && Contains("check the path"));
  CHECK(content(folder / "plain") == "kept");
  fs::create_directory(folder / "taken");
  CHECK_THAT(error("taken"), Contains((folder / "taken").string()) && Contains("it is a folder"));
  CHECK(folder.files() == 2);
}

TEST_CASE("a target that becomes a folder meanwhile is an error of the commit", "[file]") {
  const Folder folder;
  AtomicFile out(folder / "model.bin");
  out.write(bytes_of("x"));
  fs::create_directory(folder / "model.bin");
  CHECK_THAT(error_of([&] { out.commit(); }), Contains("Is a directory"));
  CHECK(folder.files() == 1);
}

TEST_CASE("a folder without permission is named, with advice", "[file]") {
  const Folder folder;
  fs::permissions(folder.path(), fs::perms(0555));
  const std::string error = error_in_child([&] {
    constexpr uid_t kNobody = 65534;
    if (geteuid() == 0 && setuid(kNobody) != 0) _exit(2);
    write_text(folder / "model.bin", "x");
  });
  fs::permissions(folder.path(), fs::perms(0755));
  CHECK_THAT(error, Contains("Permission denied") && Contains("check the permissions of the folder"));
  CHECK(folder.files() == 0);
}

TEST_CASE("whole files are written and read back", "[file]") {
  const Folder folder;
  std::vector<std::uint8_t> bytes(300'000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * i >> 3);
  write_file(folder / "a", bytes);
  const std::string text = content(folder / "a");
  CHECK(std::equal(text.begin(), text.end(), bytes.begin(), bytes.end(),
                   [](char c, std::uint8_t b) { return static_cast<std::uint8_t>(c) == b; }));
  CHECK(read_file(folder / "a") == bytes);
  write_file(folder / "a", {});
  CHECK(read_file(folder / "a").empty());
}

TEST_CASE("what cannot be read is named with the reason", "[file]") {
  const Folder folder;
  REQUIRE(mkfifo((folder / "pipe").c_str(), 0600) == 0);
  const std::function<void(const fs::path&)> readers[] = {[](const fs::path& file) { read_file(file); },
                                                          [](const fs::path& file) { MappedFile mapped(file); }};
  for (const auto& read : readers) {
    const auto error = [&](const fs::path& file) { return error_of([&] { read(file); }); };
    CHECK_THAT(error(folder / "missing"), Contains("cannot read " + (folder / "missing").string()) &&
                                              Contains("No such file or directory") && Contains("check the path"));
    CHECK_THAT(error(folder.path()), Contains("it is a folder"));
    CHECK_THAT(error(folder / "pipe"), Contains("it is no regular file"));
    CHECK_THAT(error("/dev/zero"), Contains("it is no regular file"));
  }
}

TEST_CASE("a mapped file shows the bytes of the file it opened", "[file]") {
  const Folder folder;
  put(folder / "a", "first");
  const auto text_of = [](const MappedFile& file) {
    return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  };
  const MappedFile first(folder / "a");
  CHECK(text_of(first) == "first");
  write_text(folder / "a", "second one");
  CHECK(text_of(first) == "first");
  CHECK(text_of(MappedFile(folder / "a")) == "second one");
  put(folder / "empty", "");
  CHECK(MappedFile(folder / "empty").bytes().empty());
}

TEST_CASE("folders are made with those above them, or the obstacle is named", "[file]") {
  const Folder folder;
  create_folders(folder / "a/b c/ü");
  CHECK(fs::is_directory(folder / "a/b c/ü"));
  CHECK_NOTHROW(create_folders(folder / "a/b c/ü"));
  put(folder / "plain", "kept");
  for (const std::string name : {"plain", "plain/below"})
    CHECK_THAT(error_of([&] { create_folders(folder / name); }),
               Contains("cannot make the folder " + (folder / name).string()) && Contains("Not a directory"));
  CHECK(content(folder / "plain") == "kept");
}

TEST_CASE("free space is what the file system reports", "[file]") {
  const Folder folder;
  const std::uint64_t before = free_space(folder.path());
  CHECK(before == Approx(static_cast<double>(fs::space(folder.path()).available)).epsilon(0.05));
  CHECK_THAT(error_of([&] { free_space(folder / "missing"); }),
             Contains((folder / "missing").string()) && Contains("No such file or directory"));
}
