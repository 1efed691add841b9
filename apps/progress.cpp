#include "apps/progress.h"

#include <cmath>
#include <iomanip>
#include <sstream>

namespace minidl {
namespace {

using namespace std::chrono_literals;

constexpr auto kBarInterval = 100ms;
// Plain lines go to files that people read later: soon at first, then ever more rarely, up to this.
constexpr auto kFirstLineInterval = 2s;
constexpr auto kLastLineInterval = 60s;
constexpr int kBarWidth = 24;

}  // namespace

std::string duration_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(std::max(0.0, seconds)));
  std::ostringstream out;
  out << std::setfill('0');
  if (whole < 60)
    out << whole << " s";
  else if (whole < 3600)
    out << whole / 60 << ':' << std::setw(2) << whole % 60 << " min";
  else
    out << whole / 3600 << ':' << std::setw(2) << whole / 60 % 60 << ':' << std::setw(2) << whole % 60 << " h";
  return out.str();
}

Progress::Progress(std::ostream& out, bool terminal, std::string unit, std::int64_t done, std::int64_t total)
    : out_(out),
      terminal_(terminal),
      unit_(std::move(unit)),
      first_(done),
      total_(total),
      done_(done),
      interval_(terminal ? Clock::duration(kBarInterval) : Clock::duration(kFirstLineInterval)) {}

std::string Progress::rendered() const {
  const double elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
  const double rate = static_cast<double>(done_ - first_) / std::max(elapsed, 1e-9);
  const auto digits = static_cast<int>(std::to_string(total_).size());
  std::ostringstream line;
  line << '[' << std::setw(digits) << done_ << '/' << total_ << ']';
  if (terminal_) {
    const auto filled = static_cast<int>(kBarWidth * done_ / std::max<std::int64_t>(total_, 1));
    line << " |";
    for (int i = 0; i < kBarWidth; ++i) line << (i < filled ? "█" : " ");
    line << '|';
  }
  line << std::fixed << std::setprecision(rate < 10 ? 2 : 1) << ' ' << rate << ' ' << unit_ << "/s";
  if (rate > 0) line << ", ETA " << duration_text(static_cast<double>(total_ - done_) / rate);
  line << text_;
  return line.str();
}

void Progress::print() {
  if (terminal_)
    out_ << '\r' << rendered() << "\033[K" << std::flush;
  else
    out_ << rendered() << std::endl;
  open_bar_ = terminal_;
  pending_ = false;
  next_print_ = Clock::now() + interval_;
  if (!terminal_) interval_ = std::min<Clock::duration>(interval_ * 2, kLastLineInterval);
}

void Progress::update(std::int64_t done, const std::string& text) {
  done_ = done;
  text_ = text;
  pending_ = true;
  if (Clock::now() >= next_print_) print();
}

void Progress::finish() {
  if (pending_ || (terminal_ && !open_bar_)) print();
  if (open_bar_) out_ << std::endl;
  open_bar_ = false;
}

}  // namespace minidl
