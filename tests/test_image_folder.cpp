#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/image_folder.h"
#include "tests/temporary_folder.h"

using namespace minidl;
namespace fs = std::filesystem;

namespace {

struct TempFolder : test::TemporaryFolder {
  TempFolder() : TemporaryFolder("minidl image folder ") {}
  void add(const fs::path& name) const {
    fs::create_directories((path() / name).parent_path());
    REQUIRE(std::ofstream(path() / name).put('x'));
  }
};

std::vector<std::string> names(const std::vector<fs::path>& paths) {
  std::vector<std::string> result;
  for (const fs::path& path : paths) result.push_back(path.string());
  return result;
}

std::string message_of(const fs::path& folder) {
  try {
    ImageFolder images(folder);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

using Names = std::vector<std::string>;
using Catch::Matchers::Contains;

}  // namespace

TEST_CASE("image folder: the reference's order of files", "[image_folder]") {
  TempFolder folder;
  for (const char* name : {"a/b/q.bmp", "b.png", "2.png", "a-b/y.jpeg", "10.png", "a/x.JPG", ".h.png", "A/z.png"})
    folder.add(name);
  const ImageFolder images(folder.path());
  CHECK(names(images.names()) ==
        Names{".h.png", "10.png", "2.png", "b.png", "A/z.png", "a/x.JPG", "a-b/y.jpeg", "a/b/q.bmp"});
  CHECK(images.size() == 8);
  CHECK(images.file(4) == folder / "A/z.png");
  CHECK(fs::exists(images.file(7)));
}

TEST_CASE("image folder: extensions in any case, everything else left out", "[image_folder]") {
  TempFolder folder;
  for (const char* name : {"1.jpg", "2.JPEG", "3.Png", "4.pPm", "5.bmp", "6.PGM", ".png", "notes.txt", "png",
                           "7.png.txt", "8.jpg~", "Thumbs.db", "x.TIF", "y.webp", "sub/z.gif"})
    folder.add(name);
  fs::create_directory(folder / "folder.png");
  const ImageFolder images(folder.path());
  CHECK(names(images.names()) == Names{".png", "1.jpg", "2.JPEG", "3.Png", "4.pPm", "5.bmp", "6.PGM"});
  CHECK(names(images.unsupported()) == Names{"x.TIF", "y.webp", "sub/z.gif"});
  CHECK(images.linked_folders().empty());
}

TEST_CASE("image folder: names with spaces and umlauts, sorted by code point", "[image_folder]") {
  TempFolder folder;
  for (const char* name : {"Ärger/größe 2.png", "z.png", "ein Bild.png", "ö.png", "日本.png"}) folder.add(name);
  const ImageFolder images(folder.path());
  CHECK(names(images.names()) == Names{"ein Bild.png", "z.png", "ö.png", "日本.png", "Ärger/größe 2.png"});
  for (std::size_t i = 0; i < images.size(); ++i) CHECK(fs::exists(images.file(i)));
}

TEST_CASE("image folder: links", "[image_folder]") {
  TempFolder folder;
  folder.add("elsewhere/1.png");
  folder.add("elsewhere/sub/2.png");
  fs::create_directory_symlink("elsewhere", folder / "trainA");

  SECTION("the folder itself may be a link") {
    CHECK(names(ImageFolder(folder / "trainA").names()) == Names{"1.png", "sub/2.png"});
    CHECK(names(ImageFolder(folder / "trainA/").names()) == Names{"1.png", "sub/2.png"});
  }
  SECTION("links to folders inside are named, not followed; not even in a circle") {
    fs::create_directory_symlink("..", folder / "elsewhere/sub/up");
    const ImageFolder images(folder / "elsewhere");
    CHECK(names(images.names()) == Names{"1.png", "sub/2.png"});
    CHECK(names(images.linked_folders()) == Names{"sub/up"});
  }
  SECTION("links to files are followed; one to nowhere keeps its place") {
    fs::create_directory(folder / "links");
    fs::create_symlink("../elsewhere/1.png", folder / "links/b.png");
    fs::create_symlink("../elsewhere/nothing.png", folder / "links/a.png");
    CHECK(names(ImageFolder(folder / "links").names()) == Names{"a.png", "b.png"});
  }
  SECTION("only linked folders") {
    fs::create_directory(folder / "links");
    fs::create_directory_symlink("../elsewhere", folder / "links/more");
    CHECK_THAT(message_of(folder / "links"), Contains("\"more\"") && Contains("not followed"));
  }
  SECTION("the folder is a link to nowhere") {
    fs::create_directory_symlink("nothing", folder / "broken");
    CHECK_THAT(message_of(folder / "broken"), Contains("broken") && Contains("link"));
  }
}

TEST_CASE("image folder: a folder without images is an error that says what was found", "[image_folder]") {
  TempFolder folder;
  CHECK_THAT(message_of(folder / "trainA"), Contains((folder / "trainA").string()) && Contains("does not exist"));
  folder.add("file.png");
  CHECK_THAT(message_of(folder / "file.png"), Contains("is a file"));
  fs::create_directories(folder / "empty/sub");
  CHECK_THAT(message_of(folder / "empty"),
             Contains((folder / "empty").string()) && Contains("holds no images: expected"));
  folder.add("scans/b.tiff");
  folder.add("scans/a.tif");
  folder.add("scans/notes.txt");
  CHECK_THAT(message_of(folder / "scans"),
             Contains("only 2 files of unsupported types") && Contains("\"a.tif\"") && Contains("convert"));
  folder.add("one/a.webp");
  CHECK_THAT(message_of(folder / "one"), Contains("only 1 file of an unsupported type"));
}
