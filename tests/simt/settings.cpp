#include "tests/simt/settings.h"

#include <cstdlib>
#include <string>

namespace simt {
namespace {

struct Settings {
  Schedule schedule = Schedule::forward;
  std::uint64_t seed = 1;
  Execution execution = Execution::lazy;
  bool dry_run = false, skip_libraries = false;

  Settings() {
    const char* order = std::getenv("MINIDL_SIMT_SCHEDULE");
    const std::string text = order ? order : "";
    if (text == "reverse") schedule = Schedule::reverse;
    if (text.starts_with("shuffled")) schedule = Schedule::shuffled;
    if (text.starts_with("shuffled:")) seed = std::strtoull(text.c_str() + 9, nullptr, 10);
    const char* when = std::getenv("MINIDL_SIMT_EXECUTION");
    if (when && std::string(when) == "eager") execution = Execution::eager;
    if (when && std::string(when) == "others_first") execution = Execution::others_first;
  }
};

Settings& settings() {
  static Settings instance;
  return instance;
}

}  // namespace

void set_schedule(Schedule schedule, std::uint64_t seed) {
  settings().schedule = schedule;
  settings().seed = seed;
}
Schedule schedule() { return settings().schedule; }
std::uint64_t schedule_seed() { return settings().seed; }
void set_execution(Execution execution) { settings().execution = execution; }
Execution execution() { return settings().execution; }
void set_dry_run(bool on) { settings().dry_run = on; }
bool dry_run() { return settings().dry_run; }
void set_skip_libraries(bool on) { settings().skip_libraries = on; }
bool skips_libraries() { return settings().skip_libraries; }

}  // namespace simt
