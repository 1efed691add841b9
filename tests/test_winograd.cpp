// Our Winograd kernels, called directly, against plain loops in double precision.
#include "kernels/cpu/winograd.h"

#include <omp.h>

#include <numeric>

#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using cpu::WinogradProducts;

namespace {

// Memory that is aligned as a backend's.
class Floats {
 public:
  explicit Floats(std::int64_t size) : size_(size), data_(static_cast<float*>(backend().allocate(bytes()))) {
    std::fill_n(data_, size_, NAN);  // what a kernel does not write shows
  }
  Floats(const std::vector<float>& values) : Floats(static_cast<std::int64_t>(values.size())) {
    std::copy(values.begin(), values.end(), data_);
  }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
  ~Floats() { backend().deallocate(data_); }

  float* data() { return data_; }
  std::vector<float> values() const { return {data_, data_ + size_}; }

 private:
  static Backend& backend() { return backend_of(DeviceType::cpu); }
  std::size_t bytes() const { return static_cast<std::size_t>(size_) * sizeof(float); }

  std::int64_t size_;
  float* data_;
};

struct Results {
  std::vector<std::vector<float>> all;  // y, gx, gw, gbias
};

struct Operands {
  std::vector<float> x, w, bias, gy;

  explicit Operands(const ConvDims& d)
      : x(normal_values(d.in.size(), 1)),
        w(normal_values(d.out.c * d.in.c * d.kernel * d.kernel, 2)),
        bias(normal_values(d.out.c, 3)),
        gy(normal_values(d.out.size(), 4)) {}
};

Results computed(const ConvDims& d, const Operands& o, WinogradProducts products = WinogradProducts::float32) {
  Floats x(o.x), w(o.w), bias(o.bias), gy(o.gy);
  Floats y(d.out.size()), gx(d.in.size()), gw(static_cast<std::int64_t>(o.w.size())), gbias(d.out.c);
  cpu::winograd_forward(d, x.data(), w.data(), bias.data(), y.data(), nullptr, products);
  cpu::winograd_backward_data(d, gy.data(), w.data(), gx.data(), products);
  cpu::winograd_backward_weights(d, x.data(), gy.data(), gw.data(), gbias.data(), products);
  return {{y.values(), gx.values(), gw.values(), gbias.values()}};
}

// By the definition of a cross-correlation: every product of a pixel, a weight and an output's gradient.
std::vector<std::vector<double>> defined(const ConvDims& d, const Operands& o) {
  std::vector<double> y(o.gy.size()), gx(o.x.size()), gw(o.w.size()), gbias(o.bias.size());
  for (std::int64_t n = 0; n < d.out.n; ++n)
    for (std::int64_t k = 0; k < d.out.c; ++k)
      for (std::int64_t oy = 0; oy < d.out.h; ++oy)
        for (std::int64_t ox = 0; ox < d.out.w; ++ox) {
          const auto out = static_cast<std::size_t>(d.out.index(n, k, oy, ox));
          y[out] = o.bias[static_cast<std::size_t>(k)];
          gbias[static_cast<std::size_t>(k)] += o.gy[out];
          for (std::int64_t tap = 0; tap < d.kernel * d.kernel; ++tap) {
            const std::int64_t iy = oy * d.stride + tap / d.kernel - d.padding;
            const std::int64_t ix = ox * d.stride + tap % d.kernel - d.padding;
            if (iy < 0 || iy >= d.in.h || ix < 0 || ix >= d.in.w) continue;
            for (std::int64_t c = 0; c < d.in.c; ++c) {
              const auto in = static_cast<std::size_t>(d.in.index(n, c, iy, ix));
              const auto weight = static_cast<std::size_t>((k * d.in.c + c) * d.kernel * d.kernel + tap);
              y[out] += static_cast<double>(o.x[in]) * o.w[weight];
              gx[in] += static_cast<double>(o.gy[out]) * o.w[weight];
              gw[weight] += static_cast<double>(o.x[in]) * o.gy[out];
            }
          }
        }
  return {y, gx, gw, gbias};
}

// Blocks whose kernels this processor runs.
std::vector<std::int64_t> blocks() {
  return backend_of(DeviceType::cpu).channel_block(16) == 16 ? std::vector<std::int64_t>{8, 16}
                                                             : std::vector<std::int64_t>{8};
}

struct Kernel {
  std::int64_t size, stride;
};
constexpr Kernel kKernels[] = {{3, 1}, {4, 1}, {4, 2}, {3, 2}};  // that Winograd's algorithm serves

ConvDims dims(std::int64_t n, std::int64_t in, std::int64_t out, std::int64_t h, std::int64_t w, std::int64_t padding,
              std::int64_t block, Kernel kernel = {3, 1}) {
  const auto size = [&](std::int64_t pixels) { return (pixels + 2 * padding - kernel.size) / kernel.stride + 1; };
  return {{n, in, h, w, block}, {n, out, size(h), size(w), block}, kernel.size, kernel.stride, padding};
}

struct Case {
  std::int64_t n, in, out, h, w, padding;
};
const Case kCases[] = {
    {1, 16, 16, 6, 6, 0},      // one tile
    {1, 16, 16, 3, 3, 0},      // one pixel of it
    {1, 16, 32, 5, 5, 0},      //
    {1, 32, 16, 5, 5, 1},      //
    {2, 16, 16, 1, 2, 1},      // less than a kernel
    {1, 16, 16, 1, 1, 2},      //
    {3, 16, 48, 7, 11, 1},     // panels of two vectors and one of one
    {1, 48, 80, 19, 23, 0},    //
    {1, 64, 32, 18, 18, 0},    // whole tiles
    {2, 32, 64, 39, 9, 2},     // several strips of rows
    {1, 16, 16, 70, 68, 1},    // strips of several rows
    {3, 32, 16, 45, 42, 0},    //
    {1, 272, 16, 9, 10, 0},    // many channels: few tiles in a group
    {1, 16, 16, 4, 4, 0},      // one pixel of a 4x4 kernel
    {2, 48, 32, 12, 24, 0},    // whole tiles with stride 2
    {1, 48, 112, 35, 13, 1},   // fewer input channels than output ones; strips with stride 2
    {2, 16, 16, 186, 184, 0},  // gradients of the weight in several pieces, some of which divide a sample
};

// Whether products of integers can be tested here; false, saying so, where the processor lacks them.
bool int16_or_skip() {
  if (cpu::winograd_serves(dims(1, 16, 16, 9, 9, 1, 16), WinogradProducts::int16)) return true;
  WARN("skipped: products of 16-bit integers need a processor with AVX512-VNNI");
  return false;
}

// The relative error that rounding to 16-bit integers makes of normally distributed values, and a fifth more. Elements
// are off by a uniformly distributed part of a unit, 1 / 32767 of their vector's norm: products of two vectors by
// sqrt(2 / 12) / 32767 of the product of the norms, which is sqrt(length) times the product itself. The transforms of
// F(4x4, 3x3) enlarge errors 4.8 times: the root of sum over points of |A|^2 |B|^2 |G|^2, over that of the definition.
double rounding_error(std::int64_t length) {
  return 1.2 * 4.8 * std::sqrt(2. / 12 * static_cast<double>(length)) / 32767;
}

// F(4x4, 3x3)'s matrices A, B and G as rows of points: polynomials at 0, +-0.625, +-1.5 and infinity.
struct Matrices {
  double a[6][4], b[6][6] = {}, g[6][3];

  Matrices() {
    constexpr double kAt[] = {0, 0.625, -0.625, 1.5, -1.5};
    for (int p = 0; p < 6; ++p) {
      double derivative = 1;
      b[p][0] = 1;
      for (int q = 0; q < 5; ++q) {
        if (q == p) continue;
        if (p < 5) derivative *= kAt[p] - kAt[q];
        for (int i = 5; i >= 0; --i) b[p][i] = (i > 0 ? b[p][i - 1] : 0) - kAt[q] * b[p][i];  // times x - kAt[q]
      }
      for (int i = 0; i < 4; ++i) a[p][i] = p < 5 ? std::pow(kAt[p], i) : i == 3;
      for (int i = 0; i < 3; ++i) g[p][i] = (p < 5 ? std::pow(kAt[p], i) : i == 2) / derivative;
    }
  }
};

// Squares at the points of a window whose elements are value(row, column), and of the matrix's own elements, summed
// over the rows and columns that are `inside`: what an error of 1 at a point adds to the squares of the window.
struct Squares {
  double values[36], parts[36];

  template <int size, class Value, class Inside>
  Squares(const double (&m)[6][size], Value value, Inside inside) {
    for (int p = 0; p < 36; ++p) {
      double sum = 0, part = 0;
      for (int y = 0; y < size; ++y)
        for (int x = 0; x < size; ++x)
          if (inside(y, x)) {
            const double factor = m[p / 6][y] * m[p % 6][x];
            sum += factor * value(y, x);
            part += factor * factor;
          }
      values[p] = sum * sum, parts[p] = part;
    }
  }
};

// The norms of the errors that rounding to 16-bit integers is expected to make in y, gx and gw. An element is off by a
// uniformly distributed part of a unit, 1 / 32767 of its vector's norm; so a product of two vectors is off by
// sqrt(2 / 12) / 32767 of the product of their norms, and independent errors add up as their squares do.
std::vector<double> rounding_errors(const ConvDims& d, const Operands& o) {
  const Matrices m;
  const auto anywhere = [](int, int) { return true; };
  double weights[36] = {}, inputs[36] = {}, outputs[36] = {}, taps[36], y = 0, gx = 0, gw = 0;
  for (std::size_t kernel = 0; kernel < o.w.size(); kernel += 9) {
    const Squares s(
        m.g, [&](int r, int c) { return o.w[kernel + static_cast<std::size_t>(r * 3 + c)]; }, anywhere);
    for (int p = 0; p < 36; ++p) weights[p] += s.values[p], taps[p] = s.parts[p];
  }
  std::int64_t tiles = 0;
  for (std::int64_t n = 0; n < d.in.n; ++n)
    for (std::int64_t top = 0; top < d.out.h; top += 4)
      for (std::int64_t left = 0; left < d.out.w; left += 4, ++tiles) {
        double input[36] = {}, output[36] = {};
        const auto add = [&](const auto& matrix, const ImageDims& image, const std::vector<float>& values,
                             std::int64_t first_y, std::int64_t first_x, double* sums, double* parts) {
          const auto inside = [&](int r, int c) {
            return first_y + r >= 0 && first_y + r < image.h && first_x + c >= 0 && first_x + c < image.w;
          };
          for (std::int64_t c = 0; c < image.c; ++c) {
            const auto value = [&](int r, int column) {
              return values[static_cast<std::size_t>(image.index(n, c, first_y + r, first_x + column))];
            };
            const Squares s(matrix, value, inside);
            for (int p = 0; p < 36; ++p) sums[p] += s.values[p], parts[p] = s.parts[p];
          }
        };
        double input_parts[36], output_parts[36];
        add(m.b, d.in, o.x, top - d.padding, left - d.padding, input, input_parts);
        add(m.a, d.out, o.gy, top, left, output, output_parts);
        for (int p = 0; p < 36; ++p) {
          y += weights[p] * input[p] * output_parts[p];
          gx += weights[p] * output[p] * input_parts[p];
          inputs[p] += input[p], outputs[p] += output[p];
        }
      }
  // Vectors of at most 256 tiles, which have equal shares of the squares.
  for (int p = 0; p < 36; ++p) gw += inputs[p] * outputs[p] * taps[p] / std::ceil(static_cast<double>(tiles) / 256);
  std::vector<double> norms;
  for (const double squares : {y, gx, gw}) norms.push_back(std::sqrt(2. / 12 * squares) / 32767);
  return norms;
}

double norm(const std::vector<double>& values) {
  return std::sqrt(std::inner_product(values.begin(), values.end(), values.begin(), 0.));
}

}  // namespace

TEST_CASE("Winograd: every pass equals its definition", "[winograd]") {
  for (const std::int64_t block : blocks())
    for (const Kernel kernel : kKernels)
      for (const Case& c : kCases) {
        if (std::min(c.h, c.w) + 2 * c.padding < kernel.size) continue;
        const ConvDims d = dims(c.n, c.in, c.out, c.h, c.w, c.padding, block, kernel);
        INFO(c.n << "x" << c.in << "x" << c.h << "x" << c.w << " to " << c.out << ", padding " << c.padding
                 << ", block " << block << ", kernel " << kernel.size << ", stride " << kernel.stride);
        if (!cpu::winograd_serves(
                d, WinogradProducts::float32)) {  // a 4x4 kernel of stride 2 that leaves a row or column over
          CHECK((kernel.size == 4 && kernel.stride == 2 && (c.h % 2 == 1 || c.w % 2 == 1)));
          continue;
        }
        const Operands operands(d);
        const Results results = computed(d, operands);
        const auto expected = defined(d, operands);
        const double most = kernel.stride == 1 ? 3e-6 : 5e-6;  // four times as many terms at a point
        for (std::size_t i = 0; i < 4; ++i) {
          INFO("result " << i);
          CHECK(relative_error(results.all[i], expected[i]) <= most);
        }
      }
}

TEST_CASE("Winograd: the number of threads does not change a bit", "[winograd]") {
  const int threads = omp_get_max_threads();
  for (const auto products : {WinogradProducts::float32, WinogradProducts::int16})
    for (const std::int64_t block : blocks())
      for (const ConvDims& d : {dims(2, 64, 48, 66, 66, 0, block), dims(1, 32, 32, 35, 70, 1, block),
                                dims(1, 32, 80, 34, 35, 0, block), dims(2, 32, 80, 34, 35, 0, block, {4, 1}),
                                dims(2, 32, 48, 66, 62, 0, block, {4, 2}), dims(1, 32, 96, 65, 66, 1, block, {3, 2})}) {
        if (!cpu::winograd_serves(d, products)) continue;  // integers: 3x3 kernels, and a processor that has them
        const Operands operands(d);
        omp_set_num_threads(1);
        const Results one = computed(d, operands, products);
        for (const int many : {2, 3, 5}) {
          omp_set_num_threads(many);
          const Results results = computed(d, operands, products);
          for (std::size_t i = 0; i < 4; ++i) CHECK(same_bits(results.all[i], one.all[i]));
        }
      }
  omp_set_num_threads(threads);
}

TEST_CASE("Winograd in 16-bit integers: every pass is as near to its definition as they are fine", "[winograd]") {
  if (!int16_or_skip()) return;
  for (const Case& c : kCases) {
    const ConvDims d = dims(c.n, c.in, c.out, c.h, c.w, c.padding, 16);
    INFO(c.n << "x" << c.in << "x" << c.h << "x" << c.w << " to " << c.out << ", padding " << c.padding);
    const Operands operands(d);
    const Results results = computed(d, operands, WinogradProducts::int16);
    const auto expected = defined(d, operands);
    const std::vector<double> errors = rounding_errors(d, operands);
    for (std::size_t i = 0; i < 3; ++i) {
      INFO("result " << i);
      // What is expected, and a fifth more for chance.
      CHECK(relative_error(results.all[i], expected[i]) <= 1.2 * errors[i] / norm(expected[i]));
    }
    CHECK(relative_error(results.all[3], expected[3]) <= 3e-6);
    CHECK(relative_error(results.all[0], expected[0]) > 1e-5);  // it does round
  }
}

TEST_CASE("Winograd in 16-bit integers: magnitudes that differ from tile to tile, or leave float32's squares, keep it",
          "[winograd]") {
  if (!int16_or_skip()) return;
  const ConvDims d = dims(1, 32, 48, 24, 24, 0, 16);
  const auto check_scaled = [&](float x, float w, float gy, double slack) {
    Operands operands(d);
    for (float& value : operands.x) value *= x;
    for (float& value : operands.w) value *= w;
    for (float& value : operands.gy) value *= gy;
    std::fill(operands.bias.begin(), operands.bias.end(), 0.f);
    const Results results = computed(d, operands, WinogradProducts::int16);
    const auto expected = defined(d, operands);
    const std::int64_t lengths[] = {32, 48, 36};
    for (std::size_t i = 0; i < 3; ++i) {
      INFO("result " << i << " with x times " << x << ", w times " << w << ", gy times " << gy);
      CHECK(relative_error(results.all[i], expected[i]) <= slack * rounding_error(lengths[i]));
    }
  };
  check_scaled(1, 1, 1, 1);
  check_scaled(1e3f, 1e-4f, 1e-9f, 1);
  // Scales then follow from greatest elements, here up to 4 times the root of the mean square.
  check_scaled(1e-22f, 1e6f, 1e18f, 4);
  check_scaled(1e19f, 1e-17f, 1e-15f, 4);

  // Each row of tiles ten times as large as the one above: a tile's own error counts.
  Operands operands(d);
  std::fill(operands.bias.begin(), operands.bias.end(), 0.f);
  for (std::int64_t c = 0; c < d.in.c; ++c)
    for (std::int64_t y = 0; y < d.in.h; ++y)
      for (std::int64_t x = 0; x < d.in.w; ++x)
        operands.x[static_cast<std::size_t>(d.in.index(0, c, y, x))] *= std::pow(10.f, static_cast<float>(y / 6));
  const Results results = computed(d, operands, WinogradProducts::int16);
  const auto expected = defined(d, operands);
  for (std::int64_t top = 0; top < d.out.h; top += 4) {
    std::vector<float> part;
    std::vector<double> expected_part;
    for (std::int64_t c = 0; c < d.out.c; ++c)
      for (std::int64_t y = top; y < std::min(top + 4, d.out.h); ++y)
        for (std::int64_t x = 0; x < d.out.w; ++x) {
          const auto at = static_cast<std::size_t>(d.out.index(0, c, y, x));
          part.push_back(results.all[0][at]);
          expected_part.push_back(expected[0][at]);
        }
    INFO("output rows from " << top);
    CHECK(relative_error(part, expected_part) <= 2 * rounding_error(32));  // windows of unequal rows
  }
}

TEST_CASE("Winograd in 16-bit integers: zeros stay zero, and nothing hides a NaN or an infinity", "[winograd]") {
  if (!int16_or_skip()) return;
  const ConvDims d = dims(1, 32, 32, 14, 14, 0, 16);
  Operands operands(d);
  std::fill(operands.x.begin(), operands.x.end(), 0.f);
  const Results zero = computed(d, operands, WinogradProducts::int16);
  for (std::int64_t c = 0; c < d.out.c; ++c)
    CHECK(zero.all[0][static_cast<std::size_t>(d.out.index(0, c, 5, 5))] == operands.bias[static_cast<std::size_t>(c)]);
  CHECK(zero.all[2] == std::vector<float>(operands.w.size()));
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    INFO(bad);
    Operands broken(d);
    broken.x[static_cast<std::size_t>(d.in.index(0, 7, 6, 6))] = bad;
    broken.gy[static_cast<std::size_t>(d.out.index(0, 7, 6, 6))] = bad;
    const Results results = computed(d, broken, WinogradProducts::int16);
    for (std::int64_t c = 0; c < d.out.c; ++c) {
      CHECK_FALSE(std::isfinite(results.all[0][static_cast<std::size_t>(d.out.index(0, c, 5, 5))]));
      CHECK_FALSE(std::isfinite(results.all[1][static_cast<std::size_t>(d.in.index(0, c, 6, 6))]));
      CHECK_FALSE(std::isfinite(results.all[2][static_cast<std::size_t>((c * d.in.c + 7) * 9 + 4)]));
    }
    CHECK(std::isfinite(results.all[0][static_cast<std::size_t>(d.out.index(0, 0, 11, 11))]));
  }
}

TEST_CASE("Winograd serves some kernels and strides between images in equal blocks", "[winograd]") {
  for (const Kernel kernel : kKernels)
    CHECK(cpu::winograd_serves(dims(1, 16, 16, 10, 10, 1, 8, kernel), WinogradProducts::float32));
  const auto changed = [&](auto change) {
    ConvDims d = dims(1, 16, 16, 9, 9, 1, 8);
    change(d);
    return cpu::winograd_serves(d, WinogradProducts::float32);
  };
  CHECK_FALSE(changed([](ConvDims& d) { d.kernel = 5; }));
  CHECK_FALSE(changed([](ConvDims& d) { d.kernel = 7; }));
  CHECK_FALSE(changed([](ConvDims& d) { d.stride = 3; }));
  CHECK_FALSE(changed([](ConvDims& d) { d.in.block = d.out.block = 1; }));
  CHECK_FALSE(changed([](ConvDims& d) { d.out.block = 16; }));
  // Pixels that no kernel reaches must get a gradient of zero; these lie beyond the last window.
  CHECK_FALSE(cpu::winograd_serves(dims(1, 16, 16, 11, 10, 0, 8, {4, 2}), WinogradProducts::float32));
  // Integers serve one kernel, in blocks of 16.
  CHECK_FALSE(cpu::winograd_serves(dims(1, 16, 16, 9, 9, 1, 8), WinogradProducts::int16));
  for (const Kernel kernel : {Kernel{4, 1}, Kernel{4, 2}, Kernel{3, 2}})
    CHECK_FALSE(cpu::winograd_serves(dims(1, 16, 16, 10, 10, 1, 16, kernel), WinogradProducts::int16));
}
