// What the programs do with a file of arrays, whatever its format.
#pragma once

#include <vector>

#include "core/arrays.h"
#include "models/checkpoint.h"
#include "models/checkpoint_conversion.h"
#include "tests/fuzz/input.h"

namespace fuzz {

// Opens the bytes with `open`, a function of a path that yields an ArrayFile, and reads all that it offers.
template <class Open>
void use_checkpoint(std::span<const std::uint8_t> bytes, Open open) {
  const MemoryFile memory(bytes);
  const AllocationLimit limit((std::size_t{1} << 20) + 64 * bytes.size());
  survives([&] {
    const auto file = open(memory.path());
    std::vector<float> scratch;
    for (const std::string& name : file->names()) survives([&] { minidl::floats_of(*file, name, scratch); });
    minidl::description_of(*file);
    survives([&] { minidl::require_networks(*file, minidl::checkpoint_info(*file)); });
    survives([&] { minidl::load_program_state(*file); });
    minidl::load_generator(*file, "A2B");
  });
}

}  // namespace fuzz
