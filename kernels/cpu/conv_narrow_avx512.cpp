// Compiled for AVX-512: runs only where the processor has it.
#include "kernels/cpu/conv_narrow_kernels.inc"

namespace minidl::cpu {

const NarrowKernels kNarrowAvx512[kMostNarrow] = {Narrow<16, 24, 1>::kernels(), Narrow<16, 24, 2>::kernels(),
                                                  Narrow<16, 24, 3>::kernels(), Narrow<16, 24, 4>::kernels()};

}  // namespace minidl::cpu
