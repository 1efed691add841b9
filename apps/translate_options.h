// The flags of translate_images.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace minidl {

struct TranslateOptions {
  std::string checkpoint;
  std::string direction;  // A2B or B2A; empty: A2B, or the only one that the file holds
  std::string size;       // a number, "native", or empty for the trained size
  bool heatmap = false;
  bool strip = false;
  bool keep_size = false;
  std::string format;  // png or jpg; empty: by the name of OUTPUT, else png
  std::int64_t batch_size = 1;
  std::int64_t threads = 0;
  std::string device = "auto";
  std::string precision = "fp32";
  std::vector<std::string> inputs;
  std::string output;
};

// Throws UsageError; nullopt if only --help or --version was asked for.
std::optional<TranslateOptions> parse_translate_command(int argc, const char* const* argv);

}  // namespace minidl
