#include "kernels/cuda/operands.h"

#include <algorithm>

#include "kernels/cuda/loops.h"

namespace minidl::gpu {
namespace {

__device__ Bf16 rounded(float value) {
  const unsigned bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<Bf16>(bits >> 16 | 0x40u);
  return static_cast<Bf16>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

__device__ float widened(Bf16 value) { return __uint_as_float(static_cast<unsigned>(value) << 16); }

// Four elements a thread and step, all that remain by the first threads.
__device__ void round_all(std::int64_t size, const float* x, Bf16* y) {
  const std::int64_t quads = size / 4;
  for (std::int64_t i = first_index(); i < quads; i += index_stride()) {
    const float4 in = reinterpret_cast<const float4*>(x)[i];
    reinterpret_cast<ushort4*>(y)[i] = make_ushort4(rounded(in.x), rounded(in.y), rounded(in.z), rounded(in.w));
  }
  for (std::int64_t i = quads * 4 + first_index(); i < size; i += index_stride()) y[i] = rounded(x[i]);
}

__global__ void round_kernel(std::int64_t a_size, const float* a, Bf16* rounded_a, std::int64_t b_size, const float* b,
                             Bf16* rounded_b) {
  round_all(a_size, a, rounded_a);
  round_all(b_size, b, rounded_b);
}

// Element i of a row-major matrix belongs to the bias's element i % cols; where four neighbours are taken at once, cols
// is a multiple of four.
__device__ float4 four_of(const float* bias, std::int64_t quad, std::int64_t cols) {
  return bias ? reinterpret_cast<const float4*>(bias)[quad % (cols / 4)] : make_float4(0, 0, 0, 0);
}

// Four elements a thread and step for the first `quads`, then one.
__global__ void widen_kernel(std::int64_t size, std::int64_t quads, std::int64_t cols, const Bf16* x, const float* bias,
                             float* y) {
  for (std::int64_t i = first_index(); i < quads; i += index_stride()) {
    const ushort4 in = reinterpret_cast<const ushort4*>(x)[i];
    const float4 b = four_of(bias, i, cols);
    reinterpret_cast<float4*>(y)[i] =
        make_float4(widened(in.x) + b.x, widened(in.y) + b.y, widened(in.z) + b.z, widened(in.w) + b.w);
  }
  for (std::int64_t i = quads * 4 + first_index(); i < size; i += index_stride())
    y[i] = widened(x[i]) + (bias ? bias[i % cols] : 0.0f);
}

__global__ void add_bias_kernel(std::int64_t size, std::int64_t quads, std::int64_t cols, const float* bias, float* y) {
  for (std::int64_t i = first_index(); i < quads; i += index_stride()) {
    const float4 in = reinterpret_cast<const float4*>(y)[i], b = four_of(bias, i, cols);
    reinterpret_cast<float4*>(y)[i] = make_float4(in.x + b.x, in.y + b.y, in.z + b.z, in.w + b.w);
  }
  for (std::int64_t i = quads * 4 + first_index(); i < size; i += index_stride()) y[i] += bias[i % cols];
}

constexpr int kRowLanes = kThreads / kWarp;
constexpr std::int64_t kPiece = 16;        // rows that a thread adds in float before it goes on in double
constexpr std::int64_t kMostSlices = 128;  // of the rows

constexpr int kTickets = 1 << 14;
__device__ unsigned tickets[kTickets];  // of 32 columns each

// A block sums 32 columns, a lane of each warp one, over a slice of the rows, of which each warp takes every eighth;
// the last of a column adds the slices up. partial (slices, cols).
__global__ void sum_slices(std::int64_t rows, std::int64_t cols, const float* x, double* partial, float* result) {
  __shared__ double sums[kRowLanes][kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const std::int64_t col = static_cast<std::int64_t>(blockIdx.x) * kWarp + lane;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.y) * kRowLanes;
  double sum = 0;
  if (col < cols)
    for (std::int64_t begin = blockIdx.y * kRowLanes + warp; begin < rows; begin += step * kPiece) {
      float piece = 0;
      for (std::int64_t i = 0, row = begin; i < kPiece && row < rows; ++i, row += step) piece += x[row * cols + col];
      sum += piece;
    }
  sums[warp][lane] = sum;
  __syncthreads();
  const bool leads = warp == 0 && col < cols;
  if (leads)
    for (int other = 1; other < kRowLanes; ++other) sum += sums[other][lane];
  if (gridDim.y > 1) {
    if (leads) partial[blockIdx.y * cols + col] = sum;
    if (!is_last_block(tickets + blockIdx.x, gridDim.y)) return;
    sum = 0;
    if (leads)
      for (std::int64_t slice = 0; slice < gridDim.y; ++slice) sum += partial[slice * cols + col];
  }
  if (leads) result[col] = static_cast<float>(sum);
}

std::int64_t slices_of(std::int64_t rows) {
  return std::clamp<std::int64_t>(rows / (kRowLanes * kPiece), 1, kMostSlices);
}

bool aligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % sizeof(float4) == 0; }

// Groups of four elements that can be taken at once.
std::int64_t quads_of(std::int64_t size, std::int64_t cols, const float* bias, const float* y) {
  return aligned(y) && aligned(bias) && (!bias || cols % 4 == 0) ? size / 4 : 0;
}

}  // namespace

void round_to_bf16(std::int64_t a_size, const float* a, Bf16* rounded_a, std::int64_t b_size, const float* b,
                   Bf16* rounded_b) {
  launch("round_to_bf16", round_kernel, blocks_for(ceil_div(std::max(a_size, b_size), 4)), kThreads, 0, a_size, a,
         rounded_a, b_size, b, rounded_b);
}

void widen_from_bf16(std::int64_t rows, std::int64_t cols, const Bf16* x, const float* bias, float* y) {
  const std::int64_t size = rows * cols, quads = quads_of(size, cols, bias, y);
  launch("widen_from_bf16", widen_kernel, blocks_for(quads > 0 ? quads : size), kThreads, 0, size, quads, cols, x, bias,
         y);
}

void add_bias(std::int64_t rows, std::int64_t cols, const float* bias, float* y) {
  const std::int64_t size = rows * cols, quads = quads_of(size, cols, bias, y);
  launch("add_bias", add_bias_kernel, blocks_for(quads > 0 ? quads : size), kThreads, 0, size, quads, cols, bias, y);
}

std::size_t workspace_of_sum_rows(std::int64_t rows, std::int64_t cols) {
  return static_cast<std::size_t>(slices_of(rows) * cols) * sizeof(double);
}

void sum_rows(std::int64_t rows, std::int64_t cols, const float* x, float* sums) {
  const std::int64_t slices = slices_of(rows);
  auto* partial = static_cast<double*>(workspace(workspace_of_sum_rows(rows, cols)));
  const dim3 grid(static_cast<unsigned>(ceil_div(cols, kWarp)), static_cast<unsigned>(slices));
  check(grid.x <= kTickets, "cuda: sums of ", cols, " columns; at most ", kTickets * kWarp, " are possible");
  launch("sum_rows", sum_slices, grid, kThreads, 0, rows, cols, x, partial, sums);
}

}  // namespace minidl::gpu
