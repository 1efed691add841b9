// PyTorch's files of state dicts (torch.save), without Python: the zip format and the one before it (torch < 1.6). See
// docs/checkpoints.md for what is read and what is refused.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/arrays.h"
#include "core/zip.h"

namespace minidl {

// Whether a file begins as torch.save's do. Throws FileError if it cannot be read.
bool is_torch_file(const std::filesystem::path& file);

// A dict of tensors, or of such dicts, in which the names are joined with dots: "genA2B.gamma.weight". The prefix
// "module." of a network that was saved inside DataParallel is dropped. Storages may be shared, tensors strided.
// Metadata is what write_torch_file has left there.
class TorchFile : public ArrayFile {
 public:
  // Reads everything but the storages, runs nothing. Throws CheckpointError, or FileError if the file cannot be read.
  explicit TorchFile(const std::filesystem::path& file);

  bool contains(const std::string& name) const override { return tensors_.contains(name); }
  const ArrayView& at(const std::string& name) const override;
  void check_intact(const std::string& name) const override;
  std::string format() const override { return zip_ ? "PyTorch, zip format" : "PyTorch, format before 1.6"; }

 private:
  class Reader;

  struct Tensor {
    ArrayView view;
    std::string entry;  // of the archive, that holds its storage
  };

  std::optional<ZipReader> zip_;
  std::map<std::string, Tensor> tensors_;
};

// The entries of one network; the name is empty if the file is to hold nothing else.
struct StateDict {
  std::string name;
  std::vector<ArrayEntry> entries;
};

// Writes what torch.load(file, weights_only=True) of PyTorch 1.13 and later reads as a dict of state dicts, or as the
// one state dict without a name: zip format, each tensor with its own storage on the CPU. Metadata goes into an entry
// of its own, which torch.load does not look at. The file appears whole or not at all. Throws FileError if it cannot be
// written.
void write_torch_file(const std::filesystem::path& file, std::span<const StateDict> dicts,
                      const ArrayMetadata& metadata);

}  // namespace minidl
