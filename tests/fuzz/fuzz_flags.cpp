// Command lines, a word on each line, as each of the programs takes them.
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "apps/convert_options.h"
#include "apps/train_options.h"
#include "apps/translate_options.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::istringstream lines(std::string(reinterpret_cast<const char*>(data), size));
  std::vector<std::string> words{"program"};
  for (std::string line; std::getline(lines, line);) words.push_back(line.substr(0, line.find('\0')));
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  argv.push_back(nullptr);
  const int argc = static_cast<int>(words.size());
  std::ostringstream answer;  // of --help and --version
  auto* const out = std::cout.rdbuf(answer.rdbuf());
  const fuzz::AllocationLimit limit((std::size_t{1} << 20) + 64 * size);
  fuzz::survives([&] { minidl::parse_train_command(argc, argv.data()); });
  fuzz::survives([&] { minidl::parse_translate_command(argc, argv.data()); });
  fuzz::survives([&] { minidl::parse_convert_command(argc, argv.data()); });
  std::cout.rdbuf(out);
  return 0;
}
