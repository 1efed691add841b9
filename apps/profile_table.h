// A profile as a Markdown table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/machine_peaks.h"
#include "apps/op_profile.h"

namespace minidl {

// One row per record, the largest share of `seconds` first, and a row "other" for what no record accounts for. Calls
// and times are those of one of `iterations`. "of peak" is the nearer of the two peaks.
std::string profile_table(std::vector<OpRecord> records, std::int64_t iterations, double seconds,
                          const MachinePeaks& peaks);

}  // namespace minidl
