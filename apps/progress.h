// Progress of a long run: a bar that redraws itself on a terminal, a plain line now and then elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <ostream>
#include <string>

namespace minidl {

class Progress {
 public:
  // Counts from `done` to `total`, in units such as "it" or "images". `terminal`: whether `out` redraws lines.
  Progress(std::ostream& out, bool terminal, std::string unit, std::int64_t done, std::int64_t total);

  // `done` units are finished; `text` follows the counts. Prints if it is time to.
  void update(std::int64_t done, const std::string& text);
  // The last state, for good.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;

  std::string rendered() const;
  void print();

  std::ostream& out_;
  const bool terminal_;
  const std::string unit_;
  const std::int64_t first_, total_;
  std::int64_t done_;
  std::string text_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point next_print_ = start_;
  Clock::duration interval_;
  bool pending_ = false;  // something has happened since the last print
  bool open_bar_ = false;
};

// 59 s, 3:07 min or 12:05:09 h.
std::string duration_text(double seconds);

}  // namespace minidl
