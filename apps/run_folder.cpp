#include "apps/run_folder.h"

#include <algorithm>
#include <cstdio>

#include "core/check.h"
#include "core/safetensors.h"
#include "models/checkpoint.h"

namespace minidl {
namespace {

namespace fs = std::filesystem;

constexpr const char* kExtension = ".safetensors";

std::string seven_digits(std::int64_t step) {
  char text[24];
  std::snprintf(text, sizeof text, "%07lld", static_cast<long long>(step));
  return text;
}

}  // namespace

RunFolder::RunFolder(const fs::path& result_dir, std::string name) : root_(result_dir / name), name_(std::move(name)) {}

fs::path RunFolder::checkpoint(std::int64_t step) const {
  return root_ / "model" / (name_ + "_params_" + seven_digits(step) + kExtension);
}

fs::path RunFolder::latest_checkpoint() const { return root_ / "model" / (name_ + "_params_latest" + kExtension); }

fs::path RunFolder::sheet(const std::string& direction, std::int64_t step) const {
  return root_ / "img" / (direction + "_" + seven_digits(step) + ".png");
}

bool RunFolder::has_results() const {
  std::error_code ignored;
  for (const char* folder : {"model", "img", "test", "deploy"})
    if (fs::is_directory(root_ / folder, ignored) && !fs::is_empty(root_ / folder, ignored)) return true;
  return fs::exists(metrics(), ignored);
}

bool RunFolder::has_checkpoints() const {
  std::error_code ignored;
  return fs::exists(latest_checkpoint(), ignored) || !numbered_checkpoints().empty();
}

bool RunFolder::contains(const fs::path& file) const {
  std::error_code ignored;
  const fs::path inside = fs::weakly_canonical(file, ignored).lexically_relative(fs::weakly_canonical(root_, ignored));
  return !inside.empty() && *inside.begin() != "..";
}

void RunFolder::clear() const {
  std::error_code error;
  for (const char* entry : {"model", "img", "test", "deploy", "metrics.jsonl"}) {
    fs::remove_all(root_ / entry, error);
    check(!error, "cannot delete ", (root_ / entry).string(), ": ", error.message());
  }
}

std::vector<fs::path> RunFolder::numbered_checkpoints() const {
  std::vector<fs::path> files;
  std::error_code ignored;
  const std::string prefix = name_ + "_params_";
  for (const auto& entry : fs::directory_iterator(root_ / "model", ignored)) {
    const std::string stem = entry.path().stem().string();
    if (entry.path().extension() == kExtension && stem.starts_with(prefix) && stem.size() > prefix.size() &&
        stem.find_first_not_of("0123456789", prefix.size()) == std::string::npos)
      files.push_back(entry.path());
  }
  // Numbers of more than seven digits are longer; within a length, text order is number order.
  std::sort(files.begin(), files.end(), [](const fs::path& a, const fs::path& b) {
    return std::make_pair(a.native().size(), a.native()) < std::make_pair(b.native().size(), b.native());
  });
  return files;
}

void RunFolder::prune(std::int64_t keep) const {
  std::vector<fs::path> files = numbered_checkpoints();
  std::error_code ignored;
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < files.size(); ++i) fs::remove(files[i], ignored);
}

std::unique_ptr<ArrayFile> RunFolder::newest_checkpoint(const std::function<void(const std::string&)>& report) const {
  // Names are only names: a file's step is what it says itself.
  std::vector<fs::path> files = numbered_checkpoints();
  std::error_code ignored;
  if (fs::exists(latest_checkpoint(), ignored)) files.push_back(latest_checkpoint());
  std::unique_ptr<ArrayFile> newest;
  std::int64_t newest_step = -1;
  for (const fs::path& path : files) {
    try {
      auto file = std::make_unique<SafetensorsFile>(path);
      const CheckpointInfo info = checkpoint_info(*file);
      if (info.kind != CheckpointInfo::Kind::training) {
        report(concat_text("skipping ", path.string(), ", which is no checkpoint of a training"));
        continue;
      }
      if (info.step < newest_step) continue;
      newest_step = info.step;
      newest = std::move(file);
    } catch (const Error& error) {
      report(concat_text("skipping a damaged checkpoint: ", error.what()));
    }
  }
  check(newest || files.empty(), "no file in ", (root_ / "model").string(),
        " is a training checkpoint that can be read; restore one, or train anew with --overwrite true");
  return newest;
}

}  // namespace minidl
