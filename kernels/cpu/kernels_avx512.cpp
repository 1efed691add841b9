// Compiled for AVX-512: runs only where the processor has it.
#include "kernels/cpu/conv_narrow_kernels.inc"
#include "kernels/cpu/products.inc"
#include "kernels/cpu/winograd_kernels.inc"

namespace minidl::cpu {

const NarrowKernels kNarrowAvx512[kMostNarrow] = {Narrow<16, 24, 1>::kernels(), Narrow<16, 24, 2>::kernels(),
                                                  Narrow<16, 24, 3>::kernels(), Narrow<16, 24, 4>::kernels()};
const ProductKernels kProductsAvx512 = Products<16, 14>::kernels();
const WinogradSet kWinogradAvx512 = winograd_set<16>();

}  // namespace minidl::cpu
