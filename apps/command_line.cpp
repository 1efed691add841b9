#include "apps/command_line.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cxxopts.hpp>
#include <iostream>
#include <numeric>

#include "core/version.h"

namespace minidl {
namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

bool is_boolean(const std::string& word) { return lower(word) == "true" || lower(word) == "false"; }

// Levenshtein distance.
std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replace = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({replace, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

std::string number_text(double value) { return concat_text(value); }

template <class T>
std::string default_text(const T& value) {
  return concat_text(value);
}

// cxxopts shows defaults as it is given them; it must also parse them.
std::string default_text(const bool& value) { return value ? "true" : "false"; }

template <class T>
void check_range(const std::string& name, T value, Range range) {
  const double number = static_cast<double>(value);
  if (number >= range.min && number <= range.max) return;
  const bool above = std::isfinite(range.min), below = std::isfinite(range.max);
  throw UsageError(concat_text("--", name, " must be ",
                               above && below ? "between "
                               : above        ? "at least "
                                              : "at most ",
                               above ? number_text(range.min) : "", above && below ? " and " : "",
                               below ? number_text(range.max) : "", ", not ", value));
}

}  // namespace

CommandLine::CommandLine(const std::string& program, const std::string& purpose)
    : program_(program), options_(std::make_unique<cxxopts::Options>(program, purpose)) {
  options_->set_width(110);
  options_->add_options()("help", "show this text")("version", "show the version");
  names_ = booleans_ = {"help", "version"};
}

CommandLine::~CommandLine() = default;

void CommandLine::flag(const std::string& name, bool& target, const std::string& help) {
  names_.insert(name);
  booleans_.insert(name);
  // The library shows a default of true, but not one of false.
  options_->add_options()(name, target ? help : help + " (default: false)",
                          cxxopts::value<bool>(target)->default_value(default_text(target))->implicit_value("true"));
}

template <class T>
void CommandLine::number_flag(const std::string& name, T& target, const std::string& help, Range range) {
  names_.insert(name);
  const auto text = std::make_shared<std::string>();
  options_->add_options()(name, help, cxxopts::value<std::string>(*text)->default_value(default_text(target)));
  // Read here, because the library's message does not name the flag.
  checks_.push_back([=, &target] {
    const char* end = text->data() + text->size();
    const auto [stop, error] = std::from_chars(text->data(), end, target);
    if (stop != end || error != std::errc())
      throw UsageError(concat_text("--", name, " must be a ", std::is_integral_v<T> ? "whole number" : "number",
                                   error == std::errc::result_out_of_range
                                       ? concat_text(", and '", *text, "' is out of range")
                                       : concat_text(", not '", *text, "'")));
    check_range(name, target, range);
  });
}

void CommandLine::flag(const std::string& name, std::int64_t& target, const std::string& help, Range range) {
  number_flag(name, target, help, range);
}

void CommandLine::flag(const std::string& name, double& target, const std::string& help, Range range) {
  number_flag(name, target, help, range);
}

void CommandLine::flag(const std::string& name, std::string& target, const std::string& help,
                       std::initializer_list<std::string> choices) {
  names_.insert(name);
  const auto value = cxxopts::value<std::string>(target);
  std::string words;  // as the completions for shells read them
  for (const std::string& choice : choices)
    if (!choice.empty()) words += (words.empty() ? "" : "|") + choice;
  options_->add_options()(name, help, target.empty() ? value : value->default_value(target), words);
  if (choices.size() == 0) return;
  checks_.push_back([name, &target, choices = std::vector<std::string>(choices)] {
    if (std::find(choices.begin(), choices.end(), target) != choices.end()) return;
    std::string list;
    for (const std::string& choice : choices) list += (list.empty() ? "" : ", ") + choice;
    throw UsageError(concat_text("--", name, " must be one of ", list, ", not '", target, "'"));
  });
}

void CommandLine::positional(std::vector<std::string>& target, const std::string& usage) {
  positional_ = &target;
  options_->custom_help("[OPTION...] " + usage);  // positional_help shows only with names for the words
}

// A path has at most 4096 bytes. cxxopts matches words with std::regex, whose recursion some ten thousand characters
// take beyond the end of the stack.
constexpr std::size_t kMaxWord = 8192;

// cxxopts takes a boolean's value only as --flag=value.
std::vector<std::string> CommandLine::with_joined_booleans(int argc, const char* const* argv) const {
  std::vector<std::string> words;
  for (int i = 0; i < argc; ++i) {
    std::string word = argv[i];
    if (word.size() > kMaxWord)
      throw UsageError(concat_text("a word of ", word.size(), " characters, '", word.substr(0, 20),
                                   "...', is longer than any flag or path; see ", program_, " --help"));
    if (word == "--") {
      words.insert(words.end(), argv + i, argv + argc);
      break;
    }
    const std::size_t equals = word.find('=');
    const std::string name =
        word.starts_with("--") ? word.substr(2, equals == std::string::npos ? equals : equals - 2) : "";
    if (booleans_.count(name)) {
      if (equals != std::string::npos) {
        const std::string value = word.substr(equals + 1);
        if (!is_boolean(value)) throw UsageError(concat_text("--", name, " is true or false, not '", value, "'"));
        word = "--" + name + "=" + lower(value);
      } else if (i + 1 < argc && is_boolean(argv[i + 1])) {
        word += "=" + lower(argv[++i]);
      }
    }
    words.push_back(std::move(word));
  }
  return words;
}

void CommandLine::fail_unknown(const std::string& flag) const {
  const auto nearest = std::min_element(names_.begin(), names_.end(), [&](const auto& a, const auto& b) {
    return edit_distance(flag, a) < edit_distance(flag, b);
  });
  const bool near = edit_distance(flag, *nearest) <= std::max<std::size_t>(2, flag.size() / 3);
  throw UsageError(concat_text("there is no flag --", flag, near ? "; did you mean --" + *nearest + "?" : "",
                               near ? "" : concat_text("; see ", program_, " --help")));
}

bool CommandLine::parse(int argc, const char* const* argv) {
  const std::vector<std::string> words = with_joined_booleans(argc, argv);
  std::vector<const char*> pointers;
  for (const std::string& word : words) pointers.push_back(word.c_str());
  // Unknown flags are looked for first, so that the answer can name the nearest.
  for (std::size_t i = 1; i < words.size() && words[i] != "--"; ++i) {
    if (!words[i].starts_with("--")) continue;
    const std::string name = words[i].substr(2, words[i].find('=') - 2);
    if (!names_.count(name)) fail_unknown(name);
    if (booleans_.count(name) || words[i].find('=') != std::string::npos) continue;
    if (i + 1 == words.size() || words[i + 1].starts_with("--")) throw UsageError("--" + name + " needs a value");
    ++i;  // its value, which may look like anything
  }
  try {
    const auto result = options_->parse(static_cast<int>(pointers.size()), pointers.data());
    if (result.count("help")) {
      std::cout << options_->help();
      return false;
    }
    if (result.count("version")) {
      std::cout << program_ << " " << kVersion << '\n';
      return false;
    }
    for (const std::string& name : names_)
      if (result.count(name)) given_.insert(name);
    if (positional_)
      *positional_ = result.unmatched();
    else if (!result.unmatched().empty())
      throw UsageError(concat_text("'", result.unmatched().front(), "' belongs to no flag; see ", program_, " --help"));
  } catch (const cxxopts::exceptions::exception& error) {
    throw UsageError(std::string(error.what()) + "; see " + program_ + " --help");
  }
  for (const auto& run_check : checks_) run_check();
  return true;
}

int run_program(const std::string& program, char** argv, const std::function<int()>& body) {
  const bool spins = !std::getenv("GOMP_SPINCOUNT") && !std::getenv("OMP_WAIT_POLICY");
  const bool small_pages = !std::getenv("GLIBC_TUNABLES");
  if (spins) setenv("GOMP_SPINCOUNT", "10000", 1);
  if (small_pages) setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1", 1);
  if (spins || small_pages) execv("/proc/self/exe", argv);  // returns only where there is no /proc: we run as we are
  try {
    return body();
  } catch (const UsageError& error) {
    std::cerr << program << ": " << error.what() << '\n';
    return kUsageExit;
  } catch (const std::bad_alloc&) {
    std::cerr << program << ": out of memory; lower --batch_size, --img_size or --ch\n";
  } catch (const std::exception& error) {
    std::cerr << program << ": " << error.what() << '\n';
  }
  return kErrorExit;
}

}  // namespace minidl
