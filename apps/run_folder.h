// The files of one training run, results/<name>/.
//
//   model/<name>_params_0001000.safetensors, model/<name>_params_latest.safetensors   checkpoints
//   img/A2B_0001000.png, img/B2A_0001000.png                                           sheets
//   metrics.jsonl                                                                      a line per iteration
//   test/A2B_1.png, ..., test/A2B/<relative path>.png                                  strips and translations
//   deploy/A2B.safetensors, deploy/B2A.safetensors                                     generators
//   deploy/A2B.onnx, deploy/B2A.onnx                                                   the same as ONNX models
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/arrays.h"

namespace minidl {

class RunFolder {
 public:
  RunFolder(const std::filesystem::path& result_dir, std::string name);

  const std::filesystem::path& root() const { return root_; }
  std::filesystem::path checkpoint(std::int64_t step) const;
  std::filesystem::path latest_checkpoint() const;
  std::filesystem::path sheet(const std::string& direction, std::int64_t step) const;
  std::filesystem::path metrics() const { return root_ / "metrics.jsonl"; }
  std::filesystem::path test() const { return root_ / "test"; }
  std::filesystem::path deploy() const { return root_ / "deploy"; }

  // Whether an earlier run has left results here.
  bool has_results() const;
  // Whether it has left checkpoints of ours.
  bool has_checkpoints() const;
  // Whether a file lies among the results, where clear() would delete it.
  bool contains(const std::filesystem::path& file) const;
  // Deletes model/, img/, test/, deploy/ and metrics.jsonl with all they hold; what else lies in the folder stays.
  void clear() const;
  // Deletes all but the newest `keep` numbered checkpoints.
  void prune(std::int64_t keep) const;

  // The checkpoint of the most steps that can be read; null if there is none. Each newer one that cannot is reported.
  std::unique_ptr<ArrayFile> newest_checkpoint(const std::function<void(const std::string&)>& report) const;

 private:
  std::vector<std::filesystem::path> numbered_checkpoints() const;  // oldest first

  std::filesystem::path root_;
  std::string name_;
};

}  // namespace minidl
