// What translate_images will read and write, settled before any work begins.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "apps/translate_options.h"

namespace minidl {

struct TranslationItem {
  std::filesystem::path input;
  std::filesystem::path output;   // the translation
  std::filesystem::path heatmap;  // empty unless asked for
  std::filesystem::path strip;    // empty unless asked for
};

struct TranslationPlan {
  std::vector<TranslationItem> items;
  std::vector<std::filesystem::path> unsupported;     // found in folders, of a format that cannot be read
  std::vector<std::filesystem::path> linked_folders;  // found in folders and not followed
};

// The extension of a file name in small letters, with its dot.
std::string lower_extension(const std::filesystem::path& file);

// Lists the inputs, folders recursively, and names the outputs: structure and names kept, extension by format. Throws
// Error if an input does not exist, two outputs would be the same file, or an output would replace an input.
TranslationPlan plan_translation(const TranslateOptions& options);

}  // namespace minidl
