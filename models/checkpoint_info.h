// What a file of networks is: one of our own or an official checkpoint, of which size and shape.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/arrays.h"
#include "models/ugatit.h"

namespace minidl {

struct CheckpointInfo {
  enum class Kind {
    training,   // ours: networks, optimisers and the program's state
    networks,   // several networks, "genA2B.<entry>", ..., as the official program saves them
    generator,  // one generator, under its own names
  };

  Kind kind = Kind::training;
  UgatitOptions options;
  bool size_known = true;          // else options.image_size is the official program's 256: a light model takes any
  std::int64_t step = 0;           // -1: not known
  std::string direction = {};      // of a generator: "A2B", "B2A", or empty where the file does not say
  std::string configuration = {};  // of a training checkpoint: the program's own text
};

// Metadata of ours says what a file is; without it the shapes of the arrays do, and a name such as
// selfie2anime_params_0100000.pt says the step. Throws CheckpointError if the file is no checkpoint of U-GAT-IT.
CheckpointInfo checkpoint_info(const ArrayFile& file);

// Metadata from which checkpoint_info reads the same; `configuration` apart.
ArrayMetadata metadata_of(const CheckpointInfo& info);

// Throws CheckpointError unless the file holds the six networks whole, and of those of a generator file that one.
// Nothing is allocated for them.
void require_networks(const ArrayFile& file, const CheckpointInfo& info);

// What arrays of the file belong to no network, for a user: "12 arrays, such as x"; empty if all do.
std::string foreign_arrays(const ArrayFile& file, const CheckpointInfo& info);

// The prefix that a generator's names have in a file: "genA2B.", or none in a file of one.
std::string generator_prefix(const CheckpointInfo& info, const std::string& direction);

}  // namespace minidl
