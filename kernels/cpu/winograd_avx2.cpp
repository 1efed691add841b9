#include "kernels/cpu/winograd_kernels.inc"

namespace minidl::cpu {

const WinogradSet kWinogradAvx2 = winograd_set<8, 6>();

}  // namespace minidl::cpu
