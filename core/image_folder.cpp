#include "core/image_folder.h"

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/check.h"

namespace minidl {
namespace fs = std::filesystem;
namespace {

constexpr std::array<std::string_view, 6> kImages = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm"};
constexpr std::array<std::string_view, 14> kOtherPictures = {".tif",  ".tiff", ".webp", ".gif", ".heic",
                                                             ".heif", ".avif", ".jfif", ".jp2", ".jxl",
                                                             ".tga",  ".pbm",  ".exr",  ".psd"};

bool ends_in(const fs::path& file, std::span<const std::string_view> endings) {
  std::string name = file.filename().string();
  for (char& c : name)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return std::any_of(endings.begin(), endings.end(), [&](std::string_view ending) { return name.ends_with(ending); });
}

// UTF-8 bytes sort as the code points do; fs::path's own comparison would go component by component.
bool by_code_point(const fs::path& a, const fs::path& b) { return a.native() < b.native(); }

std::string counted(std::size_t count, const char* one, const char* many) {
  return std::to_string(count) + ' ' + (count == 1 ? one : many);
}

}  // namespace

bool has_image_extension(const fs::path& file) { return ends_in(file, kImages); }

ImageFolder::ImageFolder(fs::path root) : root_(std::move(root)) {
  std::error_code error;
  const fs::file_status status = fs::status(root_, error);
  if (!fs::exists(status)) {
    check(status.type() == fs::file_type::not_found, "image folder ", root_, " cannot be read: ", error.message());
    check(!fs::is_symlink(fs::symlink_status(root_, error)), "image folder ", root_,
          " is a link to a folder that does not exist: correct the link");
    fail("image folder ", root_, " does not exist: create it and put images into it, or correct the path");
  }
  check(fs::is_directory(status), "image folder ", root_, " is a file: expected a folder of images");
  scan();
  if (!names_.empty()) return;
  const std::string expected = "expected files that end in .jpg, .jpeg, .png, .ppm, .bmp or .pgm";
  if (!unsupported_.empty())
    fail("image folder ", root_, " holds no images that can be read, only ",
         counted(unsupported_.size(), "file of an unsupported type", "files of unsupported types"), ", for example ",
         unsupported_.front(), ": ", expected, ", so convert them first");
  if (!linked_folders_.empty())
    fail("image folder ", root_, " holds no images, only ", counted(linked_folders_.size(), "link", "links"),
         " to folders, for example ", linked_folders_.front(),
         ", which are not followed: copy the images or link the files themselves");
  fail("image folder ", root_, " holds no images: ", expected);
}

void ImageFolder::scan() {
  // The reference sorts all folders by their whole path, so "a-b" comes between "a" and "a/b": collect first, then
  // list.
  std::vector<std::pair<fs::path, std::vector<fs::path>>> folders;
  std::vector<fs::path> waiting = {fs::path()};
  while (!waiting.empty()) {
    const fs::path folder = std::move(waiting.back());
    waiting.pop_back();
    std::error_code error;
    fs::directory_iterator entry(root_ / folder, error);
    auto& files = folders.emplace_back(folder, std::vector<fs::path>()).second;
    for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
      const fs::path name = folder / entry->path().filename();
      std::error_code dangling;
      const fs::file_status status = entry->status(dangling);
      if (fs::is_directory(status)) {
        (entry->is_symlink(dangling) ? linked_folders_ : waiting).push_back(name);
      } else if (fs::is_regular_file(status) || !fs::exists(status)) {
        // A link to nowhere stays in the list: reading it fails by name, where leaving it out would renumber the
        // images.
        files.push_back(name);
      }
    }
    check(!error, "image folder ", root_ / folder, " cannot be read: ", error.message());
  }
  std::sort(folders.begin(), folders.end(),
            [](const auto& a, const auto& b) { return by_code_point(a.first, b.first); });
  for (auto& [folder, files] : folders) {
    std::sort(files.begin(), files.end(), by_code_point);
    for (fs::path& file : files) {
      if (has_image_extension(file))
        names_.push_back(std::move(file));
      else if (ends_in(file, kOtherPictures))
        unsupported_.push_back(std::move(file));
    }
  }
  std::sort(linked_folders_.begin(), linked_folders_.end(), by_code_point);
}

}  // namespace minidl
