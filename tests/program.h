// Runs one of the project's programs as a user would, and says what came of it.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/temporary_folder.h"

namespace test {

struct Outcome {
  int exit_code = -1;  // -1 if a signal ended the program
  int signal = 0;
  std::string out, err;
};

inline std::ostream& operator<<(std::ostream& stream, const Outcome& o) {
  return stream << "exit code " << o.exit_code << ", signal " << o.signal << "\nstdout: " << o.out
                << "\nstderr: " << o.err;
}

// "a b  c" as three arguments.
inline std::vector<std::string> words(const std::string& text) {
  std::istringstream in(text);
  return {std::istream_iterator<std::string>(in), {}};
}

struct ProgramOptions {
  std::filesystem::path folder = ".";  // the program's working directory
  std::map<std::string, std::string> environment = {};
  std::optional<std::uint64_t> file_limit = std::nullopt;  // bytes that a file may have: beyond, writing fails as on a
                                                           // full disk
};

// A program that runs in the background with nothing to read on stdin; it dies with the object. It sees no GPU unless
// its arguments name one: its tests are about the programs, and run in the same way and as fast on every machine.
class Program {
 public:
  static constexpr std::chrono::seconds kTimeout{120};

  Program(const std::string& name, const std::vector<std::string>& arguments, const ProgramOptions& options)
      : out_(memfd_create("stdout", MFD_CLOEXEC)), err_(memfd_create("stderr", MFD_CLOEXEC)) {
    // What the child does between fork and exec must not allocate, so everything is made here.
    const std::string file = (std::filesystem::path(MINIDL_BIN_DIR) / name).string();
    std::map<std::string, std::string> environment = options.environment;
    if (std::find(arguments.begin(), arguments.end(), "cuda") == arguments.end())
      environment.emplace("CUDA_VISIBLE_DEVICES", "");
    std::vector<std::string> variables;
    for (char** variable = environ; *variable != nullptr; ++variable) {
      const std::string text = *variable;
      if (!environment.contains(text.substr(0, text.find('=')))) variables.push_back(text);
    }
    for (const auto& [key, value] : environment) variables.push_back(key + "=" + value);
    std::vector<char*> argv{const_cast<char*>(file.c_str())}, envp;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    for (const std::string& variable : variables) envp.push_back(const_cast<char*>(variable.c_str()));
    argv.push_back(nullptr);
    envp.push_back(nullptr);
    int started[2];  // closes when the program has taken the child over
    if (pipe2(started, O_CLOEXEC) != 0) throw std::runtime_error("cannot make a pipe");
    process_ = fork();
    if (process_ < 0) throw std::runtime_error("cannot fork");
    if (process_ > 0) {
      char ignored;
      close(started[1]);
      while (read(started[0], &ignored, 1) < 0 && errno == EINTR) continue;
      close(started[0]);
      return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int null = open("/dev/null", O_RDONLY);
    bool ok = chdir(options.folder.c_str()) == 0 && dup2(null, STDIN_FILENO) == STDIN_FILENO &&
              dup2(out_, STDOUT_FILENO) == STDOUT_FILENO && dup2(err_, STDERR_FILENO) == STDERR_FILENO;
    if (options.file_limit) {
      const rlimit limit{*options.file_limit, *options.file_limit};
      ::signal(SIGXFSZ, SIG_IGN);
      ok = ok && setrlimit(RLIMIT_FSIZE, &limit) == 0;
    }
    if (ok) execve(argv[0], argv.data(), envp.data());
    _exit(127);
  }
  ~Program() {
    if (!outcome_) {
      kill(process_, SIGKILL);
      waitpid(process_, nullptr, 0);
    }
    close(out_);
    close(err_);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void send(int signal) {
    if (!ended()) kill(process_, signal);
  }
  // Whether the program has a handler for the signal by now.
  bool handles(int signal) const {
    std::ifstream status("/proc/" + std::to_string(process_) + "/status");
    for (std::string line; std::getline(status, line);)
      if (line.starts_with("SigCgt:")) return std::stoull(line.substr(7), nullptr, 16) >> (signal - 1) & 1;
    return false;
  }
  std::string out() const { return text(out_); }
  std::string err() const { return text(err_); }

  // Waits until `condition` holds; false if the program ends before. Throws after kTimeout.
  bool wait_until(const std::function<bool()>& condition) {
    const auto deadline = std::chrono::steady_clock::now() + kTimeout;
    while (!condition()) {
      if (ended()) return condition();
      if (std::chrono::steady_clock::now() > deadline) give_up();
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }

  // Waits for the program's end. Throws after kTimeout.
  Outcome wait() {
    wait_until([this] { return ended(); });
    return *outcome_;
  }

 private:
  bool ended() {
    int status = 0;
    if (outcome_ || waitpid(process_, &status, WNOHANG) != process_) return outcome_.has_value();
    outcome_ = Outcome{.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1,
                       .signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0,
                       .out = out(),
                       .err = err()};
    return true;
  }

  [[noreturn]] void give_up() {
    kill(process_, SIGKILL);
    throw std::runtime_error("the program took too long; so far it wrote: " + out() + err());
  }

  static std::string text(int file) {
    struct stat info {};
    fstat(file, &info);
    std::string text(static_cast<std::size_t>(info.st_size), '\0');
    const ssize_t count = pread(file, text.data(), text.size(), 0);
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    return text;
  }

  int out_, err_;
  pid_t process_ = -1;
  std::optional<Outcome> outcome_;
};

// Runs a program to its end.
inline Outcome run(const std::string& name, const std::vector<std::string>& arguments,
                   const ProgramOptions& options = {}) {
  return Program(name, arguments, options).wait();
}

}  // namespace test
