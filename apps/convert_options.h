// The flags of convert_checkpoint.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace minidl {

struct ConvertOptions {
  std::string input;
  std::string output;  // empty with info
  bool info = false;
  std::string direction;      // A2B or B2A: that generator alone; empty: all networks
  std::int64_t img_size = 0;  // 0: what the file says
};

// Throws UsageError; nullopt if only --help or --version was asked for.
std::optional<ConvertOptions> parse_convert_command(int argc, const char* const* argv);

}  // namespace minidl
