// What the machine could do at best, measured: the two lines of a roofline.
#pragma once

#include <string>

namespace minidl {

struct MachinePeaks {
  double flops = 0;     // per second: fused multiply-adds in the widest vectors, on the threads in use
  double bytes = 0;     // per second: read plus written by a copy far larger than the caches
  std::string vectors;  // "AVX-512", "AVX2"
};

// Takes about a second, and 512 MiB of memory.
MachinePeaks measure_machine();

}  // namespace minidl
