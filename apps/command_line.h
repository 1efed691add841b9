// Command lines as users of the reference write them, over cxxopts: booleans may stand alone or be followed by true or
// false in any case, a misspelt flag is answered with the nearest one, a value out of range with the range.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/check.h"

namespace cxxopts {
class Options;
}

namespace minidl {

// A command line that cannot be obeyed. Programs print the message and exit with kUsageExit.
class UsageError : public Error {
 public:
  using Error::Error;
};

inline constexpr int kErrorExit = 1;
inline constexpr int kUsageExit = 2;
inline constexpr int kInterruptedExit = 130;

// Inclusive limits of a number.
struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
};

class CommandLine {
 public:
  CommandLine(const std::string& program, const std::string& purpose);
  ~CommandLine();

  // Each flag writes its value into `target`, whose present value is the default. Targets must outlive parse().
  void flag(const std::string& name, bool& target, const std::string& help);
  void flag(const std::string& name, std::int64_t& target, const std::string& help, Range range = {});
  void flag(const std::string& name, double& target, const std::string& help, Range range = {});
  void flag(const std::string& name, std::string& target, const std::string& help,
            std::initializer_list<std::string> choices = {});
  // What stands on the command line outside of flags; without this call there may be nothing.
  void positional(std::vector<std::string>& target, const std::string& usage);

  // Parses; false if --help or --version was asked for and answered on stdout. Throws UsageError.
  bool parse(int argc, const char* const* argv);
  // True if the flag stood on the command line.
  bool given(const std::string& name) const { return given_.count(name) > 0; }

 private:
  template <class T>
  void number_flag(const std::string& name, T& target, const std::string& help, Range range);
  std::vector<std::string> with_joined_booleans(int argc, const char* const* argv) const;
  [[noreturn]] void fail_unknown(const std::string& flag) const;

  std::string program_;
  std::unique_ptr<cxxopts::Options> options_;
  std::set<std::string> names_, booleans_, given_;
  std::vector<std::string>* positional_ = nullptr;
  std::vector<std::function<void()>> checks_;  // run after parsing; those of numbers read them
};

// Runs a program's body: errors become one sentence on stderr and an exit code.
//
// First restarts the process once with a short GOMP_SPINCOUNT, unless the user has set a waiting policy, and with huge
// pages for malloc, unless the user has set GLIBC_TUNABLES: oneDNN's working memory comes from there. By default a
// thread that waits for another spins for milliseconds; on a machine that runs anything else besides, the other thread
// is then waiting for that very core, and a small step takes ten times as long. Both variables are read only when the
// process is loaded, hence the restart.
int run_program(const std::string& program, char** argv, const std::function<int()>& body);

}  // namespace minidl
