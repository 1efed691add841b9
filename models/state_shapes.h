// What the networks' state dicts hold, known without building them: a file is compared with this before anything is
// allocated for what it claims to be.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/arrays.h"
#include "models/ugatit.h"

namespace minidl {

struct NamedShape {
  std::string name;
  std::vector<std::int64_t> shape;
};

// The official names and shapes, in the order of state_of (layers/module.h).
std::vector<NamedShape> state_shapes(const GeneratorOptions& options);
std::vector<NamedShape> state_shapes(const DiscriminatorOptions& options);

// The six networks: "genA2B", ..., each with its entries.
struct NetworkShapes {
  std::string name;
  std::vector<NamedShape> entries;
};
std::vector<NetworkShapes> network_shapes(const UgatitOptions& options);

// Throws CheckpointError unless the file holds exactly these arrays among those whose names begin with `prefix`, which
// the expected names lack. The message names the missing, the unexpected and those of another shape.
void require_state(const ArrayFile& file, const std::string& prefix, const std::vector<NamedShape>& expected);
// The same for several networks at once, each with the prefix "<name>.".
void require_states(const ArrayFile& file, const std::vector<NetworkShapes>& networks);

}  // namespace minidl
