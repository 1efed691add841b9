// Compiled for AVX-512: runs only where the processor has it.
#include "kernels/cpu/winograd_kernels.inc"

namespace minidl::cpu {

const WinogradSet kWinogradAvx512 = winograd_set<16, 14>();

}  // namespace minidl::cpu
