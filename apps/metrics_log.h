// metrics.jsonl: one JSON object per iteration.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>

#include "models/ugatit.h"

namespace minidl {

class MetricsLog {
 public:
  // Opens the file for appending, after cutting it back to the lines of iterations up to `last`, in place: what comes
  // later, a torn last line included, belongs to work that was lost. Throws Error if the file cannot be written.
  MetricsLog(std::filesystem::path file, std::int64_t last);

  // Appends a line and hands it to the system at once, so that a killed process loses none. Throws Error when the disk
  // is full.
  void append(std::int64_t iteration, const UgatitLosses& losses, double lr, double seconds);

 private:
  std::filesystem::path file_;
  std::ofstream out_;
};

}  // namespace minidl
