#include "kernels/cpu/winograd_kernels.inc"

namespace minidl::cpu {

const WinogradKernels kWinogradAvx2 = Winograd<8, 6>::kernels();

}  // namespace minidl::cpu
