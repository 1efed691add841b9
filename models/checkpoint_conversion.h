// Networks from one file format to another, bit for bit, without building them.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "models/checkpoint_info.h"
#include "models/generator.h"

namespace minidl {

// Writes the generator of a direction ("A2B" or "B2A") after `step` iterations, as write_onnx does.
using GeneratorWriter = std::function<void(const std::filesystem::path& target, Generator& generator,
                                           const std::string& direction, std::int64_t step)>;

// Writes the networks of `source`, or the generator of `direction` alone if one is given, in the format that the
// extension of `target` names: .safetensors; .pt or .pth as the official program saves them; or, with `onnx` to write
// it, .onnx, which holds one generator: A2B unless direction or source says otherwise. Element types stay as they are,
// except in ONNX, which has float32. `info` is what checkpoint_info says, with a better image size where the caller
// knows one. Returns what was left out though nobody asked for that, for a user: an optimiser's state, say; empty if
// nothing was. Throws CheckpointError if the source does not hold the networks, FileError if the target cannot be
// written, Error for another extension.
std::string convert_checkpoint(const ArrayFile& source, const CheckpointInfo& info, const std::string& direction,
                               const std::filesystem::path& target, const GeneratorWriter& onnx = {});

// What a file holds, for a user: kind, model, step, and a line for every array. Says so where it is no checkpoint of
// U-GAT-IT.
std::string description_of(const ArrayFile& file);

}  // namespace minidl
