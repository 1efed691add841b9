// Models in files: training checkpoints, networks and single generators, as safetensors; the latter two also as PyTorch
// saves them.
//
// A training checkpoint holds every tensor of the six networks under its official name prefixed by the network
// ("genA2B.DownBlock.1.weight", ...), the Adam moments as "<name>.exp_avg" and "<name>.exp_avg_sq" behind "adam.", and
// what else the program keeps ("state.<key>", bytes). A generator file holds one generator under its official names.
// What a file is, checkpoint_info says. See docs/checkpoints.md.
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
#include "models/checkpoint_info.h"

namespace minidl {

// Bytes that a program stores beside the networks, by key.
using ProgramState = std::map<std::string, std::vector<std::uint8_t>>;

// Writes everything that resuming needs; the file appears whole or not at all. Throws FileError. The choices are those
// of the backend, none without benchmark.
void save_training_checkpoint(const std::filesystem::path& file, Ugatit& model, UgatitTrainer& trainer,
                              const std::string& configuration, const ProgramState& state,
                              std::span<const ConvChoice> choices = {});
// Restores the networks in place, from a training checkpoint or a file of networks. Throws CheckpointError naming the
// tensors that are missing, of another shape or not the model's.
void load_networks(const ArrayFile& file, Ugatit& model);
// Of a training checkpoint: networks, moments and step.
void load_training_state(const ArrayFile& file, Ugatit& model, UgatitTrainer& trainer);
ProgramState load_program_state(const ArrayFile& file);
// The choices that a training checkpoint holds, in this backend's layout of images.
std::vector<ConvChoice> load_conv_choices(const ArrayFile& file, const Backend& backend);

void save_generator(const std::filesystem::path& file, Generator& generator, const UgatitOptions& options,
                    const std::string& direction, std::int64_t step);
// The generator of a direction, from any kind of file, whose checkpoint_info is given; nullopt if the file is known to
// hold the other one only. Throws CheckpointError like load_networks.
std::optional<Generator> load_generator(const ArrayFile& file, const CheckpointInfo& info,
                                        const std::string& direction);
inline std::optional<Generator> load_generator(const ArrayFile& file, const std::string& direction) {
  return load_generator(file, checkpoint_info(file), direction);
}

// Size of a training checkpoint's tensors in bytes, for the summary of a run.
std::int64_t training_checkpoint_bytes(Ugatit& model);

}  // namespace minidl
