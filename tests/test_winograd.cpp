// Our Winograd kernels, called directly, against plain loops in double precision.
#include "kernels/cpu/winograd.h"

#include <omp.h>

#include "tests/test_util.h"

using namespace minidl;
using namespace test;

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
        w(normal_values(d.out.c * d.in.c * 9, 2)),
        bias(normal_values(d.out.c, 3)),
        gy(normal_values(d.out.size(), 4)) {}
};

Results computed(const ConvDims& d, const Operands& o) {
  Floats x(o.x), w(o.w), bias(o.bias), gy(o.gy);
  Floats y(d.out.size()), gx(d.in.size()), gw(static_cast<std::int64_t>(o.w.size())), gbias(d.out.c);
  cpu::winograd_forward(d, x.data(), w.data(), bias.data(), y.data(), nullptr);
  cpu::winograd_backward_data(d, gy.data(), w.data(), gx.data());
  cpu::winograd_backward_weights(d, x.data(), gy.data(), gw.data(), gbias.data());
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
          for (std::int64_t tap = 0; tap < 9; ++tap) {
            const std::int64_t iy = oy + tap / 3 - d.padding, ix = ox + tap % 3 - d.padding;
            if (iy < 0 || iy >= d.in.h || ix < 0 || ix >= d.in.w) continue;
            for (std::int64_t c = 0; c < d.in.c; ++c) {
              const auto in = static_cast<std::size_t>(d.in.index(n, c, iy, ix));
              const auto weight = static_cast<std::size_t>((k * d.in.c + c) * 9 + tap);
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

ConvDims dims(std::int64_t n, std::int64_t in, std::int64_t out, std::int64_t h, std::int64_t w, std::int64_t padding,
              std::int64_t block) {
  return {{n, in, h, w, block}, {n, out, h + 2 * padding - 2, w + 2 * padding - 2, block}, 3, 1, padding};
}

}  // namespace

TEST_CASE("Winograd: every pass equals its definition", "[winograd]") {
  struct Case {
    std::int64_t n, in, out, h, w, padding;
  };
  const Case cases[] = {
      {1, 16, 16, 6, 6, 0},    // one tile
      {1, 16, 16, 3, 3, 0},    // one pixel of it
      {1, 16, 32, 5, 5, 0},    //
      {1, 32, 16, 5, 5, 1},    //
      {2, 16, 16, 1, 2, 1},    // less than a kernel
      {1, 16, 16, 1, 1, 2},    //
      {3, 16, 48, 7, 11, 1},   // panels of two vectors and one of one
      {1, 48, 80, 19, 23, 0},  //
      {1, 64, 32, 18, 18, 0},  // whole tiles
      {2, 32, 64, 39, 9, 2},   // several strips of rows
      {1, 16, 16, 70, 68, 1},  // more tiles than a piece, strips of several rows
      {3, 32, 16, 45, 42, 0},  // pieces that begin within a sample
      {1, 272, 16, 9, 10, 0},  // many channels: few tiles in a group
  };
  for (const std::int64_t block : blocks())
    for (const Case& c : cases) {
      const ConvDims d = dims(c.n, c.in, c.out, c.h, c.w, c.padding, block);
      INFO(c.n << "x" << c.in << "x" << c.h << "x" << c.w << " to " << c.out << ", padding " << c.padding << ", block "
               << block);
      REQUIRE(cpu::winograd_serves(d));
      const Operands operands(d);
      const Results results = computed(d, operands);
      const auto expected = defined(d, operands);
      for (std::size_t i = 0; i < 4; ++i) {
        INFO("result " << i);
        CHECK(relative_error(results.all[i], expected[i]) <= 3e-6);
      }
    }
}

TEST_CASE("Winograd: the number of threads does not change a bit", "[winograd]") {
  const int threads = omp_get_max_threads();
  for (const std::int64_t block : blocks())
    for (const ConvDims& d : {dims(2, 64, 48, 66, 66, 0, block), dims(1, 32, 32, 35, 70, 1, block)}) {
      const Operands operands(d);
      omp_set_num_threads(1);
      const Results one = computed(d, operands);
      for (const int many : {2, 3, 5}) {
        omp_set_num_threads(many);
        const Results results = computed(d, operands);
        for (std::size_t i = 0; i < 4; ++i) CHECK(same_bits(results.all[i], one.all[i]));
      }
    }
  omp_set_num_threads(threads);
}

TEST_CASE("Winograd serves 3x3 kernels of stride 1 between images in equal blocks", "[winograd]") {
  const ConvDims good = dims(1, 16, 16, 9, 9, 1, 8);
  CHECK(cpu::winograd_serves(good));
  const auto changed = [&](auto change) {
    ConvDims d = good;
    change(d);
    return cpu::winograd_serves(d);
  };
  CHECK_FALSE(changed([](ConvDims& d) { d.kernel = 4; }));
  CHECK_FALSE(changed([](ConvDims& d) { d.stride = 2; }));
  CHECK_FALSE(changed([](ConvDims& d) { d.in.block = d.out.block = 1; }));
  CHECK_FALSE(changed([](ConvDims& d) { d.out.block = 16; }));
}
