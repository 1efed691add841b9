// The options of simt.h, as the parts of the emulation read them.
#pragma once

#include <cstdint>

#include "tests/simt/simt.h"

namespace simt {

std::uint64_t schedule_seed();
Execution execution();
bool dry_run();

}  // namespace simt
