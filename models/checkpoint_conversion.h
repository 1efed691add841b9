// Networks from one file format to another, bit for bit, without building them.
#pragma once

#include <filesystem>
#include <string>

#include "models/checkpoint_info.h"

namespace minidl {

// Writes the networks of `source`, or the generator of `direction` alone if one is given, in the format that the
// extension of `target` names: .safetensors, or .pt or .pth as the official program saves them. Element types stay as
// they are. Optimisers and program state stay behind; `info` is what checkpoint_info says, with a better image size
// where the caller knows one. Throws CheckpointError if the source does not hold the networks, FileError if the target
// cannot be written, Error for another extension.
void convert_checkpoint(const ArrayFile& source, const CheckpointInfo& info, const std::string& direction,
                        const std::filesystem::path& target);

// What a file holds, for a user: kind, model, step, and a line for every array. Says so where it is no checkpoint of
// U-GAT-IT.
std::string description_of(const ArrayFile& file);

}  // namespace minidl
