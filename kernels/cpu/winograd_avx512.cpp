// Compiled for AVX-512: runs only where the processor has it.
#include "kernels/cpu/winograd_kernels.inc"

namespace minidl::cpu {

const WinogradKernels kWinogradAvx512 = Winograd<16, 14>::kernels();

}  // namespace minidl::cpu
