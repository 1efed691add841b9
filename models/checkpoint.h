// Models in files: training checkpoints and single generators, as safetensors.
//
// A training checkpoint holds every tensor of the six networks under its official name prefixed by the network
// ("genA2B.DownBlock.1.weight", ...), the Adam moments as "<name>.exp_avg" and "<name>.exp_avg_sq" behind "adam.", and
// what else the program keeps ("state.<key>", bytes). A generator file holds one generator under its official names.
// Metadata says which, and what the networks' options are. See docs/checkpoint-format.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "kernels/backend.h"
#include "models/ugatit.h"

namespace minidl {

// Bytes that a program stores beside the networks, by key.
using ProgramState = std::map<std::string, std::vector<std::uint8_t>>;

struct CheckpointInfo {
  enum class Kind { training, generator } kind = Kind::training;
  UgatitOptions options;
  std::int64_t step = 0;
  std::string direction;      // of a generator: "A2B" or "B2A"
  std::string configuration;  // of a training checkpoint: the program's own text
};

// Reads what a file is from its metadata. Throws CheckpointError if it is none of ours.
CheckpointInfo checkpoint_info(const SafetensorsFile& file);

// Writes everything that resuming needs; the file appears whole or not at all. Throws FileError. The choices are those
// of the backend, none without benchmark.
void save_training_checkpoint(const std::filesystem::path& file, Ugatit& model, UgatitTrainer& trainer,
                              const std::string& configuration, const ProgramState& state,
                              std::span<const ConvChoice> choices = {});
// Restores networks, moments and step in place. Throws CheckpointError naming the first tensor that is missing or has
// another shape.
void load_networks(const SafetensorsFile& file, Ugatit& model);
void load_training_state(const SafetensorsFile& file, Ugatit& model, UgatitTrainer& trainer);
ProgramState load_program_state(const SafetensorsFile& file);
// The choices that a training checkpoint holds, in this backend's layout of images.
std::vector<ConvChoice> load_conv_choices(const SafetensorsFile& file, const Backend& backend);

void save_generator(const std::filesystem::path& file, Generator& generator, const UgatitOptions& options,
                    const std::string& direction, std::int64_t step);
// The generator of a direction, from either kind of file; nullopt if the file does not hold that direction.
std::optional<Generator> load_generator(const SafetensorsFile& file, const std::string& direction);

// Size of a training checkpoint's tensors in bytes, for the summary of a run.
std::int64_t training_checkpoint_bytes(Ugatit& model);

}  // namespace minidl
