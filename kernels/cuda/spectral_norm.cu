// Spectral norm by power iteration, of all matrices of a list in two launches: the matrices are read once for W^T u and
// once for W v. Blocks are dealt to the matrices by their sizes, so that small ones cost next to nothing beside large
// ones.
#include <algorithm>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/lanes.h"
#include "kernels/cuda/loops.h"

namespace minidl {
namespace {

using namespace gpu;

constexpr int kMostMatrices = 64;  // of a launch

// W^T u: a block takes kThreads * V columns and kSplitRows rows, float within kPieceRows of them, double across.
constexpr int kSplitRows = 64, kPieceRows = 16;
// W v: a block takes kGroupRows rows and kPartColumns columns.
constexpr int kGroupRows = 8, kPartColumns = 4096;
constexpr int kChunk = 4096;  // W / sigma: floats of a block

constexpr int kTickets = 1 << 14;
__device__ unsigned tickets[kTickets];

struct Matrix {
  SpectralMatrix m;
  bool four;         // four columns at a time
  int first_ticket;  // one for each strip of columns
  float* raw;        // (cols): W^T u
  float* partial;    // (splits, cols): its parts by rows
  double* squares;   // (strips): sums of squares of raw
  double* products;  // (parts, rows): W v by parts of the columns

  __host__ __device__ int strip_columns() const { return kThreads * (four ? 4 : 1); }
  __host__ __device__ int strips() const { return static_cast<int>(ceil_div(m.cols, strip_columns())); }
  __host__ __device__ int splits() const { return static_cast<int>(ceil_div(m.rows, kSplitRows)); }
  __host__ __device__ int groups() const { return static_cast<int>(ceil_div(m.rows, kGroupRows)); }
  __host__ __device__ int parts() const { return static_cast<int>(ceil_div(m.cols, kPartColumns)); }
};

struct Batch {
  int count = 0;
  int first_block[kMostMatrices];
  Matrix matrices[kMostMatrices];

  // Deals blocks_of(matrix) blocks to each matrix; returns their number.
  template <class F>
  unsigned deal(F blocks_of) {
    std::int64_t blocks = 0;
    for (int i = 0; i < count; ++i) {
      first_block[i] = static_cast<int>(blocks);
      blocks += blocks_of(matrices[i]);
    }
    return static_cast<unsigned>(blocks);
  }
};

// raw = W^T u for one strip of columns, from the rows of one split; the block that comes last adds the splits up.
template <int V>
__device__ void multiply_strip(const Matrix& w, int strip, int split) {
  const SpectralMatrix& m = w.m;
  const std::int64_t column = (std::int64_t{strip} * kThreads + threadIdx.x) * V;
  const bool active = column < m.cols;
  const std::int64_t begin = std::int64_t{split} * kSplitRows, end = min(m.rows, begin + kSplitRows);
  double totals[V] = {};
  if (active)
    for (std::int64_t piece = begin; piece < end; piece += kPieceRows) {
      float sums[V] = {};
#pragma unroll
      for (int k = 0; k < kPieceRows; ++k) {
        if (piece + k >= end) continue;
        const Lanes<V> row = load<V>(m.w + (piece + k) * m.cols + column);
        const float factor = m.kept_u[piece + k];
        for (int i = 0; i < V; ++i) sums[i] += factor * row.v[i];
      }
      for (int i = 0; i < V; ++i) totals[i] += sums[i];
    }
  const int splits = w.splits();
  if (splits > 1) {
    if (active)
      for (int i = 0; i < V; ++i) w.partial[split * m.cols + column + i] = static_cast<float>(totals[i]);
    if (!is_last_block(tickets + w.first_ticket + strip, static_cast<unsigned>(splits))) return;
    for (double& total : totals) total = 0;
    if (active)
      for (std::int64_t s = 0; s < splits; ++s) {
        const Lanes<V> part = load<V>(w.partial + s * m.cols + column);
        for (int i = 0; i < V; ++i) totals[i] += part.v[i];
      }
  }
  double square = 0;
  if (active)
    for (int i = 0; i < V; ++i) {
      w.raw[column + i] = static_cast<float>(totals[i]);
      square += totals[i] * totals[i];
    }
  square = block_sum(square);
  if (threadIdx.x == 0) w.squares[strip] = square;
}

__global__ void transposed_product_kernel(const __grid_constant__ Batch batch) {
  const int block = static_cast<int>(blockIdx.x), i = piece_of(batch.first_block, batch.count, block);
  const Matrix w = batch.matrices[i];
  const int index = block - batch.first_block[i], strip = index % w.strips(), split = index / w.strips();
  if (w.four)
    multiply_strip<4>(w, strip, split);
  else
    multiply_strip<1>(w, strip, split);
}

__device__ double inverse_norm(double square) { return 1 / max(sqrt(square), 1e-12); }

// The thread's share of the products of a group's rows with v over one part of the columns, few enough for float. With
// iterate, v is the normalised raw, which the first group keeps.
template <int V>
__device__ void multiply_rows(const Matrix& w, int group, int part, bool iterate, float inverse,
                              float (&sums)[kGroupRows]) {
  const SpectralMatrix& m = w.m;
  const std::int64_t row = std::int64_t{group} * kGroupRows, begin = std::int64_t{part} * kPartColumns;
  const std::int64_t end = min(m.cols, begin + kPartColumns);
  for (std::int64_t column = begin + threadIdx.x * V; column < end; column += kThreads * V) {
    Lanes<V> v = load<V>((iterate ? w.raw : m.kept_v) + column);
    if (iterate) {
      for (int i = 0; i < V; ++i) v.v[i] = __fmul_rn(v.v[i], inverse);
      if (group == 0) {
        store<V>(m.kept_v + column, v);
        store<V>(m.v + column, v);
      }
    }
#pragma unroll
    for (int r = 0; r < kGroupRows; ++r) {
      if (row + r >= m.rows) continue;
      const Lanes<V> values = load<V>(m.w + (row + r) * m.cols + column);
      for (int i = 0; i < V; ++i) sums[r] += v.v[i] * values.v[i];
    }
  }
}

// u and sigma from W v. One block.
__device__ void finish(const Matrix& w, bool iterate) {
  const SpectralMatrix& m = w.m;
  const int parts = w.parts();
  double square = 0;
  for (std::int64_t r = threadIdx.x; r < m.rows; r += kThreads) {
    double product = 0;
    for (int part = 0; part < parts; ++part) product += w.products[part * m.rows + r];
    w.products[r] = product;  // read again by this thread only
    square += product * product;
  }
  const double inverse = iterate ? inverse_norm(block_sum(square)) : 0;
  double sigma = 0;
  for (std::int64_t r = threadIdx.x; r < m.rows; r += kThreads) {
    const double product = w.products[r];
    if (iterate) m.u[r] = m.kept_u[r] = static_cast<float>(product * inverse);
    sigma += m.kept_u[r] * product;
  }
  sigma = block_sum(sigma);
  if (threadIdx.x == 0) m.sigma[0] = static_cast<float>(sigma);
}

__global__ void product_kernel(const __grid_constant__ Batch batch, bool iterate) {
  __shared__ double shared[kGroupRows][kThreads / kWarp];
  const int block = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const int i = piece_of(batch.first_block, batch.count, block);
  const Matrix w = batch.matrices[i];
  const int index = block - batch.first_block[i], part = index % w.parts(), group = index / w.parts();
  float inverse = 0;
  if (iterate) {
    double square = 0;
    for (int strip = thread; strip < w.strips(); strip += kThreads) square += w.squares[strip];
    inverse = static_cast<float>(inverse_norm(block_sum(square)));
  }
  float sums[kGroupRows] = {};
  if (w.four)
    multiply_rows<4>(w, group, part, iterate, inverse, sums);
  else
    multiply_rows<1>(w, group, part, iterate, inverse, sums);
  for (int r = 0; r < kGroupRows; ++r) {
    const double sum = warp_sum(static_cast<double>(sums[r]));
    if (thread % kWarp == 0) shared[r][thread / kWarp] = sum;
  }
  __syncthreads();
  const std::int64_t row = std::int64_t{group} * kGroupRows + thread;
  if (thread < kGroupRows && row < w.m.rows) {
    double total = 0;
    for (const double sum : shared[thread]) total += sum;
    w.products[part * w.m.rows + row] = total;
  }
  if (is_last_block(tickets + w.first_ticket, static_cast<unsigned>(w.groups() * w.parts()))) finish(w, iterate);
}

__global__ void divide_kernel(const __grid_constant__ Batch batch) {
  const int block = static_cast<int>(blockIdx.x), i = piece_of(batch.first_block, batch.count, block);
  const SpectralMatrix m = batch.matrices[i].m;
  const std::int64_t begin = std::int64_t{block - batch.first_block[i]} * kChunk;
  const std::int64_t end = min(m.rows * m.cols, begin + kChunk);
  const float sigma = m.sigma[0];
  const std::int64_t rest = fit_vectors(m.w, m.wn) ? end - (end - begin) % 4 : begin;
  for (std::int64_t at = begin + 4 * threadIdx.x; at < rest; at += 4 * kThreads) {
    Lanes<4> values = load<4>(m.w + at);
    for (float& value : values.v) value = __fdiv_rn(value, sigma);
    store<4>(m.wn + at, values);
  }
  for (std::int64_t at = rest + threadIdx.x; at < end; at += kThreads) m.wn[at] = __fdiv_rn(m.w[at], sigma);
}

// What a matrix needs of the workspace, in bytes, a multiple of 16.
std::int64_t working_bytes(const Matrix& w) {
  const std::int64_t floats = w.m.cols * (1 + (w.splits() > 1 ? w.splits() : 0));
  return (floats + 3) / 4 * 16 + (w.strips() + w.parts() * w.m.rows + 1) / 2 * 16;
}

void lay_out(Matrix& w, std::byte* memory) {
  const std::int64_t floats = w.m.cols * (1 + (w.splits() > 1 ? w.splits() : 0));
  w.raw = reinterpret_cast<float*>(memory);
  w.partial = w.raw + w.m.cols;
  w.squares = reinterpret_cast<double*>(memory + (floats + 3) / 4 * 16);
  w.products = w.squares + w.strips();
}

// The power iteration of no more matrices than a launch takes.
void normalize(bool iterate, std::span<const SpectralMatrix> matrices) {
  Batch batch;
  std::int64_t bytes = 0, ticket = 0;
  for (const SpectralMatrix& m : matrices) {
    Matrix& w = batch.matrices[batch.count++];
    w = {
        m,      m.cols % 4 == 0 && fit_vectors(m.w, m.kept_v, m.v), static_cast<int>(ticket), nullptr, nullptr, nullptr,
        nullptr};
    ticket += w.strips();
    bytes += working_bytes(w);
    check(ticket <= kTickets, "cuda: spectral norm of matrices of too many columns, ", m.cols, " the last");
  }
  auto* memory = static_cast<std::byte*>(workspace(static_cast<std::size_t>(bytes)));
  for (int i = 0; i < batch.count; ++i) {
    lay_out(batch.matrices[i], memory);
    memory += working_bytes(batch.matrices[i]);
  }
  if (iterate) {
    const unsigned blocks = batch.deal([](const Matrix& w) { return std::int64_t{w.strips()} * w.splits(); });
    launch("W^T u of spectral norm", transposed_product_kernel, blocks, kThreads, 0, batch);
  }
  const unsigned blocks = batch.deal([](const Matrix& w) { return std::int64_t{w.groups()} * w.parts(); });
  launch("W v of spectral norm", product_kernel, blocks, kThreads, 0, batch, iterate);
  const unsigned chunks =
      batch.deal([](const Matrix& w) { return w.m.wn ? ceil_div(w.m.rows * w.m.cols, kChunk) : 0; });
  if (chunks > 0) launch("the division of spectral norm", divide_kernel, chunks, kThreads, 0, batch);
}

// --- gradients: a block takes a strip of columns and kStripRows rows of one matrix ----------------------------------

constexpr int kStripRows = 8;
constexpr int kMostProducts = 128;  // of a launch

struct Strips {
  std::int64_t rows, cols;
  unsigned count;  // side by side

  Strips(int lanes, std::int64_t rows, std::int64_t cols)
      : rows(rows), cols(cols), count(static_cast<unsigned>(ceil_div(cols, std::int64_t{kThreads} * lanes))) {}

  unsigned blocks() const { return count * static_cast<unsigned>(ceil_div(rows, kStripRows)); }
  template <int V>
  __device__ std::int64_t column() const {
    return (std::int64_t{blockIdx.x % count} * kThreads + threadIdx.x) * V;
  }
  __device__ std::int64_t row() const { return std::int64_t{blockIdx.x / count} * kStripRows; }
};

// How gwn . W and sigma enter the gradient.
struct Factors {
  float inverse, product;  // 1 / sigma, gwn . W / sigma^2
};

// partial: one double for each block.
template <int V>
__global__ void dot_kernel(Strips strips, const float* a, const float* b, const float* sigma, double* partial,
                           Factors* factors) {
  const std::int64_t column = strips.column<V>(), top = strips.row();
  float sum = 0;
  if (column < strips.cols)
#pragma unroll
    for (int r = 0; r < kStripRows; ++r) {
      if (top + r >= strips.rows) continue;
      const std::int64_t at = (top + r) * strips.cols + column;
      const Lanes<V> left = load<V>(a + at), right = load<V>(b + at);
      for (int i = 0; i < V; ++i) sum += left.v[i] * right.v[i];
    }
  const double total = block_sum(static_cast<double>(sum));
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
  if (!is_last_block(tickets, gridDim.x)) return;
  double all = 0;
  for (unsigned i = threadIdx.x; i < gridDim.x; i += kThreads) all += partial[i];
  all = block_sum(all);
  const double s = sigma[0];
  if (threadIdx.x == 0) *factors = {static_cast<float>(1 / s), static_cast<float>(all / (s * s))};
}

template <int V>
__global__ void weight_gradient_kernel(Strips strips, const float* u, const float* v, const float* gwn,
                                       const Factors* factors, float* gw) {
  const std::int64_t column = strips.column<V>(), top = strips.row();
  if (column >= strips.cols) return;
  const Factors f = *factors;
  Lanes<V> right, values[kStripRows];
  for (int i = 0; i < V; ++i) right.v[i] = v[column + i];
#pragma unroll
  for (int r = 0; r < kStripRows; ++r)
    if (top + r < strips.rows) values[r] = load<V>(gwn + (top + r) * strips.cols + column);
#pragma unroll
  for (int r = 0; r < kStripRows; ++r) {
    if (top + r >= strips.rows) continue;
    const float row_factor = f.product * u[top + r];
    for (int i = 0; i < V; ++i) values[r].v[i] = values[r].v[i] * f.inverse - row_factor * right.v[i];
    store<V>(gw + (top + r) * strips.cols + column, values[r]);
  }
}

struct Products {
  int count;
  OuterProduct products[kMostProducts];
};

// A block takes a strip of columns and kOuterRows rows, whose factors its threads share. The launch bounds keep the compiler
// from spilling for more blocks of a multiprocessor.
constexpr int kOuterRows = 16;

template <int V>
__global__ void __launch_bounds__(kThreads, V == 1 ? 2 : 1)
    outer_products_kernel(Strips strips, const __grid_constant__ Products list, float* gw) {
  __shared__ float factors[kMostProducts][kOuterRows];
  const std::int64_t column = strips.column<V>(), top = std::int64_t{blockIdx.x / strips.count} * kOuterRows;
  const int rows = static_cast<int>(min(std::int64_t{kOuterRows}, strips.rows - top));
  for (int i = static_cast<int>(threadIdx.x); i < list.count * rows; i += kThreads) {
    const OuterProduct product = list.products[i / rows];
    factors[i / rows][i % rows] = product.factor[0] * product.u[top + i % rows];
  }
  __syncthreads();
  if (column >= strips.cols) return;
  Lanes<V> values[kOuterRows];
#pragma unroll
  for (int r = 0; r < kOuterRows; ++r)
    if (r < rows) values[r] = load<V>(gw + (top + r) * strips.cols + column);
  for (int p = 0; p < list.count; ++p) {
    Lanes<V> right;
    for (int i = 0; i < V; ++i) right.v[i] = list.products[p].v[column + i];
#pragma unroll
    for (int r = 0; r < kOuterRows; ++r) {
      if (r >= rows) continue;
      for (int i = 0; i < V; ++i) values[r].v[i] += factors[p][r] * right.v[i];
    }
  }
#pragma unroll
  for (int r = 0; r < kOuterRows; ++r)
    if (r < rows) store<V>(gw + (top + r) * strips.cols + column, values[r]);
}

}  // namespace

void CudaBackend::spectral_norm_forward(bool iterate, std::span<const SpectralMatrix> matrices) {
  for (std::size_t begin = 0; begin < matrices.size(); begin += kMostMatrices)
    normalize(iterate, matrices.subspan(begin, std::min<std::size_t>(kMostMatrices, matrices.size() - begin)));
}

void CudaBackend::spectral_norm_backward(std::int64_t rows, std::int64_t cols, const float* w, const float* u,
                                         const float* v, const float* sigma, const float* gwn, float* gw) {
  with_vectors(cols % 4 == 0 && fit_vectors(w, gwn, gw), [&]<class Vector>() {
    constexpr int V = kWidth<Vector>;
    const Strips strips(V, rows, cols);
    auto* partial = static_cast<double*>(workspace(strips.blocks() * sizeof(double) + sizeof(Factors)));
    auto* factors = reinterpret_cast<Factors*>(partial + strips.blocks());
    launch("the product of spectral norm's gradient", dot_kernel<V>, strips.blocks(), kThreads, 0, strips, gwn, w,
           sigma, partial, factors);
    launch("spectral norm's gradient", weight_gradient_kernel<V>, strips.blocks(), kThreads, 0, strips, u, v, gwn,
           factors, gw);
  });
}

void CudaBackend::add_outer_products(std::int64_t rows, std::int64_t cols, std::span<const OuterProduct> products,
                                     float* gw) {
  with_vectors(cols % 4 == 0 && fit_vectors(gw), [&]<class Vector>() {
    constexpr int V = kWidth<Vector>;
    const Strips strips(V, rows, cols);
    for (std::size_t begin = 0; begin < products.size(); begin += kMostProducts) {
      const auto part = products.subspan(begin, std::min<std::size_t>(kMostProducts, products.size() - begin));
      Products list;
      list.count = static_cast<int>(part.size());
      std::copy(part.begin(), part.end(), list.products);
      const unsigned blocks = strips.count * static_cast<unsigned>(ceil_div(rows, kOuterRows));
      launch("outer products", outer_products_kernel<V>, blocks, kThreads, 0, strips, list, gw);
    }
  });
}

}  // namespace minidl
