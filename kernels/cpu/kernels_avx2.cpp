// Compiled for what the whole library needs: AVX2 on x86-64.
#include "kernels/cpu/conv_narrow_kernels.inc"
#include "kernels/cpu/products.inc"
#include "kernels/cpu/winograd_kernels.inc"

namespace minidl::cpu {

const NarrowKernels kNarrowAvx2[kMostNarrow] = {Narrow<8, 12, 1>::kernels(), Narrow<8, 12, 2>::kernels(),
                                                Narrow<8, 12, 3>::kernels(), Narrow<8, 12, 4>::kernels()};
const ProductKernels kProductsAvx2 = Products<8, 6>::kernels();
const WinogradSet kWinogradAvx2 = winograd_set<8>();

}  // namespace minidl::cpu
