// What the tests of train_ugatit share: tiny runs on tiny data sets, and what such a run left behind.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/image.h"
#include "core/safetensors.h"
#include "tests/program.h"

namespace test {

// A picture of its own for every number: smooth, so that files of it stay small.
inline minidl::Image picture(int width, int height, int number) {
  minidl::Image image(width, height, 3);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c)
        image.row(y)[3 * x + c] = static_cast<std::uint8_t>(40 * number + (c + 2) * x + (number % 5) * y + 60 * c);
  return image;
}

inline void write_text(const std::filesystem::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary) << text;
}

inline std::string read_text(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Names of the files below a folder that end in `ending`, sorted.
inline std::vector<std::string> files_below(const std::filesystem::path& folder, const std::string& ending) {
  std::vector<std::string> names;
  if (!std::filesystem::exists(folder)) return names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (entry.is_regular_file() && entry.path().native().ends_with(ending))
      names.push_back(entry.path().lexically_relative(folder).string());
  std::sort(names.begin(), names.end());
  return names;
}

// The arrays of a safetensors file and its step, in a form that compares.
inline std::map<std::string, std::vector<std::byte>> contents(const std::filesystem::path& file) {
  const minidl::SafetensorsFile checkpoint(file);
  std::map<std::string, std::vector<std::byte>> arrays;
  for (const std::string& name : checkpoint.names()) {
    const auto bytes = checkpoint.at(name).bytes;
    arrays[name] = {bytes.begin(), bytes.end()};
  }
  const std::string& step = checkpoint.metadata().at("step");
  const auto* text = reinterpret_cast<const std::byte*>(step.data());
  arrays["step"] = {text, text + step.size()};
  return arrays;
}

// The folder of a user: a data set of two domains and the results of training on it.
class TrainRun {
 public:
  static constexpr int kTrainA = 3, kTrainB = 5;

  TrainRun() {
    const auto write = [&](const char* folder, int images) {
      minidl::create_folders(dataset() / folder);
      for (int i = 0; i < images; ++i)
        minidl::write_file(dataset() / folder / (std::to_string(i) + ".png"),
                           minidl::encode_png(picture(20 + i, 16, (folder[5] - 'A') * 8 + i)));
    };
    write("trainA", kTrainA);
    write("trainB", kTrainB);
    write("testA", 2);
    write("testB", 1);
  }

  std::filesystem::path folder() const { return folder_.path(); }
  std::filesystem::path dataset() const { return folder() / "dataset" / "shapes"; }
  std::filesystem::path results() const { return folder() / "results" / "shapes"; }
  std::filesystem::path metrics_file() const { return results() / "metrics.jsonl"; }
  // `which` is a number of seven digits, or "latest".
  std::filesystem::path checkpoint(const std::string& which) const {
    return results() / "model" / ("shapes_params_" + which + ".safetensors");
  }
  std::vector<std::string> checkpoints() const { return files_below(results() / "model", ".safetensors"); }

  // The program with --dataset and `flags`, in the user's folder.
  Program start(const std::string& flags, ProgramOptions options = {}) const {
    options.folder = folder();
    return Program("train_ugatit", words("--dataset shapes " + flags), options);
  }
  Outcome run(const std::string& flags, const ProgramOptions& options = {}) const {
    return start(flags, options).wait();
  }
  // The same with a tiny network, which a resumed run has from its checkpoint.
  Outcome train(const std::string& flags) const { return run(kTiny + flags); }

  static inline const std::string kTiny = "--light True --ch 2 --n_res 1 --img_size 96 --threads 2 --seed 7 ";

  // The lines of metrics.jsonl without the time, which differs between runs.
  std::vector<nlohmann::json> metrics() const {
    std::vector<nlohmann::json> lines;
    std::ifstream in(metrics_file());
    for (std::string line; std::getline(in, line) && !in.eof();) {
      lines.push_back(nlohmann::json::parse(line));
      lines.back().erase("seconds");
    }
    return lines;
  }

  std::map<std::string, std::vector<std::uint8_t>> sheets() const {
    std::map<std::string, std::vector<std::uint8_t>> sheets;
    for (const std::string& name : files_below(results() / "img", ".png"))
      sheets[name] = minidl::read_file(results() / "img" / name);
    return sheets;
  }

 private:
  TemporaryFolder folder_;
};

}  // namespace test
