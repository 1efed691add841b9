// The images below a folder, in the order in which the reference (torchvision's DatasetFolder without classes) numbers
// them.
//
// 1. Folders come in the order of their path as a string, the top folder first; the files of one folder come in code
//    point order ("10.png" before "2.png"). Hidden files and folders count.
// 2. An image is a file whose name ends in jpg, jpeg, png, ppm, bmp or pgm after a dot, in any case; the content is not
//    looked at.
// 3. Links to files are followed, and the folder itself may be a link; links to folders inside it are not followed.
#pragma once

#include <cstddef>
#include <filesystem>
#include <vector>

namespace minidl {

bool has_image_extension(const std::filesystem::path& file);

class ImageFolder {
 public:
  // Scans `root`. Throws Error if it is missing, is no folder, cannot be read or holds no images.
  explicit ImageFolder(std::filesystem::path root);

  const std::filesystem::path& root() const { return root_; }
  std::size_t size() const { return names_.size(); }
  // Paths of the images relative to the root, for example "cats/1.png".
  const std::vector<std::filesystem::path>& names() const { return names_; }
  std::filesystem::path file(std::size_t index) const { return root_ / names_.at(index); }

  // What a user may miss among the images, relative to the root: pictures of types that are not read (tif, webp, gif,
  // ...) and links to folders.
  const std::vector<std::filesystem::path>& unsupported() const { return unsupported_; }
  const std::vector<std::filesystem::path>& linked_folders() const { return linked_folders_; }

 private:
  void scan();

  std::filesystem::path root_;
  std::vector<std::filesystem::path> names_, unsupported_, linked_folders_;
};

}  // namespace minidl
