// Kernels by themselves, where operations do not lead them: odd sizes, unaligned memory, long lists. Those of every
// device against those of the CPU on planar images, whose results the tests of the operations hold against definitions,
// and against double precision.
#include <algorithm>
#include <array>

#include "kernels/backend.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;

namespace {

// Floats on a device, `offset` floats behind an aligned address.
class DeviceFloats {
 public:
  DeviceFloats(Backend& backend, const std::vector<float>& values, std::size_t offset = 0)
      : backend_(backend),
        size_(values.size()),
        memory_(static_cast<float*>(backend.allocate((values.size() + offset + 1) * sizeof(float)))),
        data_(memory_ + offset) {
    if (size_ > 0) backend.upload(data_, values.data(), size_ * sizeof(float));
  }
  DeviceFloats(Backend& backend, std::int64_t size, std::size_t offset = 0)
      : DeviceFloats(backend, std::vector<float>(static_cast<std::size_t>(size), NAN), offset) {}
  DeviceFloats(DeviceFloats&& other) noexcept
      : backend_(other.backend_),
        size_(other.size_),
        memory_(std::exchange(other.memory_, nullptr)),
        data_(other.data_) {}
  ~DeviceFloats() {
    if (memory_) backend_.deallocate(memory_);
  }

  float* data() const { return data_; }
  std::vector<float> to_host() const {
    std::vector<float> values(size_);
    if (size_ > 0) backend_.download(values.data(), data_, size_ * sizeof(float));
    return values;
  }

 private:
  Backend& backend_;
  std::size_t size_;
  float *memory_, *data_;
};

// Images of one device, given and taken as plain values.
struct Images {
  Backend& backend;
  bool planar;
  std::size_t offset;

  ImageDims dims(const Nchw& d) const { return {d.n, d.c, d.h, d.w, planar ? 1 : backend.channel_block(d.c)}; }
  DeviceFloats make(const Nchw& d, const std::vector<float>& plain) const {
    const DeviceFloats from(backend, plain);
    DeviceFloats image(backend, d.size(), offset);
    backend.plain_to_image(dims(d), from.data(), image.data());
    return image;
  }
  std::vector<float> take(const Nchw& d, const DeviceFloats& image) const {
    const DeviceFloats plain(backend, d.size());
    backend.image_to_plain(dims(d), image.data(), plain.data());
    return plain.to_host();
  }
};

Nchw padded(const Nchw& d, std::int64_t pad) { return {d.n, d.c, d.h + 2 * pad, d.w + 2 * pad}; }

using Results = std::vector<std::vector<float>>;

void check_close(const Results& results, const Results& expected, double tolerance) {
  REQUIRE(results.size() == expected.size());
  for (std::size_t i = 0; i < results.size(); ++i) {
    INFO("result " << i);
    CHECK(relative_error(results[i], expected[i]) <= tolerance);
  }
}

enum class Style { none, shared, per_sample };

struct NormCase {
  Nchw d;
  Style style;
  bool relu, residual;
  std::int64_t pad;
};

// y, the statistics, gx and the gradients of the style.
Results run_norm(const Images& images, const NormCase& c) {
  Backend& backend = images.backend;
  const Nchw &d = c.d, out = padded(d, c.pad);
  const NormSpec spec{images.dims(d), 1e-5f, c.relu, c.style == Style::per_sample, c.pad};
  const std::int64_t styles = c.style == Style::per_sample ? d.n * d.c : d.c;
  std::vector<float> rho_values = normal_values(d.c, 3, 0.5f, 0.1f);
  const DeviceFloats x = images.make(d, normal_values(d.size(), 1, 0.5f, 2)),
                     gy = images.make(out, normal_values(out.size(), 2)), rho(backend, rho_values),
                     gamma(backend, normal_values(styles, 4, 1, 0.5f)), beta(backend, normal_values(styles, 5)),
                     residual = images.make(d, normal_values(d.size(), 6));
  const DeviceFloats y(backend, out.size(), images.offset), stats(backend, spec.stats_size()),
      gx(backend, d.size(), images.offset), grho(backend, d.c), ggamma(backend, styles), gbeta(backend, styles);
  const bool styled = c.style != Style::none;
  const auto if_styled = [&](const DeviceFloats& values) { return styled ? values.data() : nullptr; };
  backend.norm_forward(spec, x.data(), if_styled(rho), if_styled(gamma), if_styled(beta),
                       c.residual ? residual.data() : nullptr, y.data(), stats.data());
  backend.norm_backward(spec, x.data(), if_styled(rho), if_styled(gamma), if_styled(beta), stats.data(), gy.data(),
                        gx.data(), if_styled(grho), if_styled(ggamma), if_styled(gbeta));
  std::vector<float> kept = stats.to_host();
  if (!styled) kept.resize(static_cast<std::size_t>(2 * d.n * d.c));
  Results results{images.take(out, y), kept, images.take(d, gx)};
  if (styled)
    for (const auto* gradient : {&grho, &ggamma, &gbeta}) results.push_back(gradient->to_host());
  return results;
}

// Means far from 0 with a standard deviation of 1, a constant channel, and a first pixel that is far from the others.
std::vector<float> hard_channels(std::int64_t pixels) {
  std::vector<float> values;
  for (const float mean : {1e4f, -3e4f, 1000.1f, 0.0f}) {
    std::vector<float> channel =
        mean == 1000.1f ? std::vector<float>(static_cast<std::size_t>(pixels), mean) : normal_values(pixels, 7, mean);
    if (mean == 0) channel[0] = 500;
    values.insert(values.end(), channel.begin(), channel.end());
  }
  return values;
}

double dot(const Values& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < b.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// W x, or W^T x.
Values product(std::int64_t rows, std::int64_t cols, const std::vector<float>& w, const Values& x, bool transposed) {
  Values y(static_cast<std::size_t>(transposed ? cols : rows));
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c)
      y[static_cast<std::size_t>(transposed ? c : r)] +=
          w[static_cast<std::size_t>(r * cols + c)] * x[static_cast<std::size_t>(transposed ? r : c)];
  return y;
}

Values normalized(Values values) {
  double square = 0;
  for (const double value : values) square += value * value;
  for (double& value : values) value /= std::max(std::sqrt(square), 1e-12);
  return values;
}

const std::int64_t kMatrices[][2] = {{1, 1},   {1, 2049},   {3, 5},    {33, 31},  {257, 33},
                                     {64, 48}, {130, 1032}, {65, 257}, {9, 9000}, {2048, 4}};

}  // namespace

TEST_CASE("norms of every size equal those of planar images on the CPU", "[kernels]") {
  const Images expected{backend_of(DeviceType::cpu), true, 0};
  const Nchw sizes[] = {{1, 1, 257, 3}, {3, 1, 7, 1},    {3, 3, 31, 33},  {2, 33, 5, 7}, {1, 36, 17, 9},
                        {1, 257, 9, 3}, {1, 2048, 2, 3}, {2, 64, 40, 33}, {3, 4, 70, 71}};
  for (const DeviceType device : test_devices())
    for (const Nchw& d : sizes)
      for (const Style style : {Style::none, Style::shared, Style::per_sample})
        for (const std::int64_t pad : {0, 1, 2}) {
          if (pad >= std::min(d.h, d.w)) continue;
          const bool odd = (d.c + pad) % 2 == 1;
          const NormCase c{d, style, odd, pad != 1, pad};
          for (const std::size_t offset : {0, 1}) {
            INFO(d.shape() << ", style " << static_cast<int>(style) << ", pad " << pad << ", offset " << offset);
            check_close(run_norm({backend_of(device), false, offset}, c), run_norm(expected, c), 1e-5);
          }
        }
}

TEST_CASE("norms of very many samples equal those of the CPU", "[kernels]") {
  const NormCase c{{4200, 1, 1, 3}, Style::per_sample, false, false, 0};
  for (const DeviceType device : test_devices())
    check_close(run_norm({backend_of(device), false, 0}, c), run_norm({backend_of(DeviceType::cpu), true, 0}, c), 1e-5);
}

TEST_CASE("an instance norm of one pixel is zero at any number of channels", "[kernels]") {
  for (const DeviceType device : test_devices())
    for (const std::int64_t channels : {3, 257, 2048}) {
      const Results results =
          run_norm({backend_of(device), false, 0}, {{3, channels, 1, 1}, Style::none, true, false, 0});
      for (const float y : results[0]) REQUIRE(y == 0.0f);
      // The terms that cancel are of the size of 1 / sqrt(eps) = 316.
      for (const float gx : results[2]) REQUIRE(std::abs(gx) <= 1e-4f);
    }
}

TEST_CASE("statistics of a norm are accurate where means are far from zero", "[kernels]") {
  const Nchw d{1, 4, 67, 63};
  const std::vector<float> x = hard_channels(d.h * d.w);
  for (const DeviceType device : test_devices()) {
    const Images images{backend_of(device), false, 0};
    const NormSpec spec{images.dims(d)};
    const DeviceFloats image = images.make(d, x), y(images.backend, d.size()), stats(images.backend, spec.stats_size());
    images.backend.norm_forward(spec, image.data(), nullptr, nullptr, nullptr, nullptr, y.data(), stats.data());
    const std::vector<float> kept = stats.to_host(), values = images.take(d, y);
    for (std::int64_t c = 0; c < 4; ++c) {
      const auto pixels = static_cast<std::size_t>(d.h * d.w), begin = static_cast<std::size_t>(c) * pixels;
      double mean = 0, square = 0;
      for (std::size_t i = begin; i < begin + pixels; ++i) mean += x[i] / static_cast<double>(pixels);
      for (std::size_t i = begin; i < begin + pixels; ++i) square += (x[i] - mean) * (x[i] - mean);
      const double rstd = 1 / std::sqrt(square / static_cast<double>(pixels) + 1e-5f);
      const float rounded = static_cast<float>(mean);
      CHECK(std::abs(kept[static_cast<std::size_t>(c)] - mean) <= std::abs(std::nextafter(rounded, 1e9f) - rounded));
      CHECK(std::abs(kept[static_cast<std::size_t>(4 + c)] / rstd - 1) <= 1e-6);
    }
    for (std::int64_t i = 0; i < d.h * d.w; ++i) REQUIRE(values[d.at(0, 2, i / d.w, i % d.w)] == 0.0f);
  }
}

TEST_CASE("division of samples at every size equals that of planar images on the CPU", "[kernels]") {
  const Nchw sizes[] = {{3, 1, 9, 7}, {3, 3, 31, 33}, {4, 33, 5, 7}, {3, 257, 3, 3}, {3, 2048, 1, 1}, {5, 64, 20, 33}};
  const auto run = [](const Images& images, const Nchw& d, float slope, std::int64_t pad, bool biased, bool divided) {
    Backend& backend = images.backend;
    const Nchw out = padded(d, pad);
    const std::int64_t groups[] = {1, d.n - 2, 1};
    const DivisionSpec spec{images.dims(d), groups, slope, pad};
    const DeviceFloats x = images.make(d, normal_values(d.size(), 1)), bias(backend, normal_values(d.c, 2)),
                       gy = images.make(out, normal_values(out.size(), 3)),
                       divisor(backend, std::vector<float>{0.5f, 3, 1.7f}), y(backend, out.size(), images.offset),
                       gx(backend, d.size(), images.offset), gdivisor(backend, 3), gbias(backend, d.c);
    const float *bias_data = biased ? bias.data() : nullptr, *divisor_data = divided ? divisor.data() : nullptr;
    backend.divide_samples_forward(spec, divisor_data, bias_data, x.data(), y.data());
    backend.divide_samples_backward(spec, divisor_data, bias_data, y.data(), gy.data(), gx.data(),
                                    divided ? gdivisor.data() : nullptr, gbias.data());
    Results results{images.take(out, y), images.take(d, gx), gbias.to_host()};
    if (divided) results.push_back(gdivisor.to_host());
    // Without the sums the rest is the same; in place as well.
    const DeviceFloats alone(backend, d.size(), images.offset);
    backend.divide_samples_backward(spec, divisor_data, bias_data, y.data(), gy.data(), alone.data(), nullptr, nullptr);
    CHECK(same_bits(images.take(d, alone), results[1]));
    if (pad == 0) {
      backend.divide_samples_forward(spec, divisor_data, bias_data, x.data(), x.data());
      CHECK(same_bits(images.take(d, x), results[0]));
    }
    return results;
  };
  for (const DeviceType device : test_devices())
    for (const Nchw& d : sizes)
      for (const float slope : {1.0f, 0.2f, 0.0f})
        for (const std::int64_t pad : {0, 1, 2})
          for (const std::size_t offset : {0, 1}) {
            if (pad >= std::min(d.h, d.w)) continue;
            INFO(d.shape() << ", slope " << slope << ", pad " << pad << ", offset " << offset);
            const bool biased = pad != 1, divided = slope > 0;
            check_close(run({backend_of(device), false, offset}, d, slope, pad, biased, divided),
                        run({backend_of(DeviceType::cpu), true, 0}, d, slope, pad, biased, divided), 5e-6);
          }
}

TEST_CASE("spectral norm of a long list of matrices equals its definition", "[kernels]") {
  const auto unit = [](std::int64_t size, unsigned seed) {
    const std::vector<float> values = normal_values(size, seed);
    const Values scaled = normalized(Values(values.begin(), values.end()));
    return std::vector<float>(scaled.begin(), scaled.end());
  };
  for (const DeviceType device : test_devices())
    for (const bool iterate : {true, false}) {
      Backend& backend = backend_of(device);
      struct Memory {
        DeviceFloats w, kept_u, kept_v, u, v, sigma, wn;
      };
      std::vector<Memory> memory;
      std::vector<SpectralMatrix> matrices;
      for (unsigned i = 0; matrices.size() < 70; ++i) {
        const auto [rows, cols] = kMatrices[i % std::size(kMatrices)];
        if (i >= 2 * std::size(kMatrices) && rows * cols > 100) continue;
        const std::size_t offset = i < std::size(kMatrices) ? 0 : 1;
        memory.push_back({DeviceFloats(backend, normal_values(rows * cols, i, 0.1f), offset),
                          DeviceFloats(backend, unit(rows, i + 100)),
                          DeviceFloats(backend, unit(cols, i + 200), offset), DeviceFloats(backend, rows),
                          DeviceFloats(backend, cols, offset), DeviceFloats(backend, 1),
                          DeviceFloats(backend, rows * cols, offset)});
        const Memory& m = memory.back();
        matrices.push_back({rows, cols, m.w.data(), m.kept_u.data(), m.kept_v.data(), m.u.data(), m.v.data(),
                            m.sigma.data(), i % 3 == 0 ? nullptr : m.wn.data()});
      }
      Results u_before, v_before;
      for (const Memory& m : memory) {
        u_before.push_back(m.kept_u.to_host());
        v_before.push_back(m.kept_v.to_host());
      }
      backend.spectral_norm_forward(iterate, matrices);
      for (std::size_t i = 0; i < matrices.size(); ++i) {
        const std::int64_t rows = matrices[i].rows, cols = matrices[i].cols;
        INFO(rows << " x " << cols << (iterate ? "" : ", evaluation"));
        const std::vector<float> w = memory[i].w.to_host();
        Values u(u_before[i].begin(), u_before[i].end()), v(v_before[i].begin(), v_before[i].end());
        if (iterate) {
          v = normalized(product(rows, cols, w, u, true));
          u = normalized(product(rows, cols, w, v, false));
        }
        const std::vector<float> new_u = memory[i].kept_u.to_host(), new_v = memory[i].kept_v.to_host();
        CHECK(relative_error(new_u, u) <= 1e-6);
        CHECK(relative_error(new_v, v) <= 1e-6);
        if (iterate) {
          CHECK(same_bits(memory[i].u.to_host(), new_u));
          CHECK(same_bits(memory[i].v.to_host(), new_v));
        } else {
          CHECK(same_bits(new_u, u_before[i]));
          CHECK(std::isnan(memory[i].u.to_host()[0]));
        }
        const Values products = product(rows, cols, w, v, false);
        const double sigma = dot(products, std::vector<float>(u.begin(), u.end()));
        const double length = std::sqrt(dot(Values(w.begin(), w.end()), w));  // sigma may be a sum that cancels
        const float result = memory[i].sigma.to_host()[0];
        CHECK(std::abs(result - sigma) <= (iterate ? 1e-6 * sigma : 1e-7 * length));
        if (!matrices[i].wn) continue;
        const std::vector<float> wn = memory[i].wn.to_host();
        for (std::size_t k = 0; k < w.size(); ++k) REQUIRE(wn[k] == w[k] / result);
      }
    }
}

TEST_CASE("gradients of spectral norm and sums of outer products equal their definition", "[kernels]") {
  for (const DeviceType device : test_devices())
    for (const auto& [rows, cols] : kMatrices)
      for (const std::size_t offset : {0, 1}) {
        INFO(rows << " x " << cols << ", offset " << offset);
        Backend& backend = backend_of(device);
        const std::int64_t size = rows * cols;
        const std::vector<float> w = normal_values(size, 1), g = normal_values(size, 2), u = normal_values(rows, 3),
                                 v = normal_values(cols, 4);
        const DeviceFloats dw(backend, w, offset), dg(backend, g, offset), du(backend, u), dv(backend, v, offset),
            sigma(backend, std::vector<float>{1.3f}), gw(backend, size, offset);
        backend.spectral_norm_backward(rows, cols, dw.data(), du.data(), dv.data(), sigma.data(), dg.data(), gw.data());
        const double s = 1.3f, factor = dot(Values(g.begin(), g.end()), w) / (s * s);
        Values expected(static_cast<std::size_t>(size));
        for (std::int64_t r = 0; r < rows; ++r)
          for (std::int64_t c = 0; c < cols; ++c) {
            const auto at = static_cast<std::size_t>(r * cols + c);
            expected[at] = g[at] / s - factor * u[static_cast<std::size_t>(r)] * v[static_cast<std::size_t>(c)];
          }
        CHECK(relative_error(gw.to_host(), expected) <= 2e-6);

        const std::vector<OuterProduct> products(size > 5000 ? 3 : 130, {sigma.data(), du.data(), dv.data()});
        const DeviceFloats sum(backend, g, offset);
        backend.add_outer_products(rows, cols, products, sum.data());
        for (std::int64_t r = 0; r < rows; ++r)
          for (std::int64_t c = 0; c < cols; ++c) {
            const auto at = static_cast<std::size_t>(r * cols + c);
            expected[at] = g[at] + static_cast<double>(products.size()) * s * u[static_cast<std::size_t>(r)] *
                                       v[static_cast<std::size_t>(c)];
          }
        CHECK(relative_error(sum.to_host(), expected) <= 3e-6);
      }
}

TEST_CASE("Adam over hundreds of tensors equals the CPU's to the bit", "[kernels]") {
  const AdamSettings settings{0.9, 0.999, 1e-8, 1e-4};
  constexpr std::int64_t kSizes[] = {1, 3, 4, 31, 33, 257, 4095, 4096, 4097, 0};
  // The tensors lie behind each other, most of them unaligned; after some the next begins at a multiple of 16 bytes.
  std::vector<std::pair<std::int64_t, std::int64_t>> pieces;  // begin, size
  std::int64_t total = 0;
  for (std::size_t i = 0; i < 600; ++i) {
    pieces.emplace_back(total, i < 20 ? kSizes[i % 10] : kSizes[i % 5]);
    total += pieces.back().second;
    if (i % 3 == 0) total = (total + 3) / 4 * 4;
  }
  std::vector<float> values = normal_values(total, 1, 0.5f), squares = normal_values(total, 4, 0, 0.01f);
  for (float& square : squares) square = std::abs(square);
  values[200] = NAN;
  const auto run = [&](DeviceType device) {
    Backend& backend = backend_of(device);
    const DeviceFloats value(backend, values), grad(backend, normal_values(total, 2)),
        exp_avg(backend, normal_values(total, 3, 0, 0.1f)), exp_avg_sq(backend, squares),
        rates(backend, std::vector<float>{-1e-3f, 0.3f});
    std::vector<AdamTensor> tensors;
    for (const auto& [begin, size] : pieces)
      tensors.push_back({value.data() + begin, grad.data() + begin, exp_avg.data() + begin, exp_avg_sq.data() + begin,
                         size, tensors.size() % 3 == 0});
    for (int step = 0; step < 2; ++step)
      backend.adam(settings, reinterpret_cast<const AdamRates*>(rates.data()), tensors);
    return Results{value.to_host(), exp_avg.to_host(), exp_avg_sq.to_host()};
  };
  const Results expected = run(DeviceType::cpu);
  for (const DeviceType device : test_devices()) {
    const Results results = run(device);
    for (std::size_t i = 0; i < results.size(); ++i)
      for (std::size_t k = 0; k < results[i].size(); ++k)  // the bits of a NaN may differ
        REQUIRE((results[i][k] == expected[i][k] || (std::isnan(results[i][k]) && std::isnan(expected[i][k]))));
  }
}

TEST_CASE("losses of a long list are those of each alone, to the bit", "[kernels]") {
  for (const DeviceType device : test_devices()) {
    Backend& backend = backend_of(device);
    const Loss kinds[] = {Loss::mean, Loss::mse, Loss::l1, Loss::bce, Loss::none};
    const std::int64_t most = 9001;
    const std::vector<float> x = normal_values(most, 1), t = normal_values(most, 2);
    const DeviceFloats input(backend, x), targets(backend, t);
    constexpr int kTerms = 40;
    std::vector<DeviceFloats> gradients, alone;
    const DeviceFloats values(backend, kTerms), value(backend, 1);
    std::vector<LossTerm> terms;
    for (std::size_t i = 0; i < kTerms; ++i) {
      const std::int64_t size = i % 7 == 0 ? most : static_cast<std::int64_t>(1 + 13 * i);
      gradients.emplace_back(backend, size, i % 2), alone.emplace_back(backend, size, i % 2);
      const Loss kind = kinds[i % 5];
      terms.push_back({kind, size, input.data(), kind == Loss::l1 ? targets.data() : nullptr, 0.5f,
                       static_cast<float>(i), nullptr, values.data() + i, gradients[i].data()});
    }
    backend.losses(terms);
    const std::vector<float> all = values.to_host();
    for (std::size_t i = 0; i < kTerms; ++i) {
      LossTerm term = terms[i];
      term.value = value.data(), term.gx = alone[i].data();
      backend.losses({&term, 1});
      CHECK(same_bits(value.to_host(), {all[i]}));
      CHECK(same_bits(alone[i].to_host(), gradients[i].to_host()));
    }
  }
}

TEST_CASE("a long list of sums, of any number of terms, is right and in place", "[kernels]") {
  for (const DeviceType device : test_devices()) {
    Backend& backend = backend_of(device);
    std::vector<DeviceFloats> memory;
    std::vector<Sum> sums;
    std::vector<std::vector<float>> expected;
    for (unsigned i = 0; i < 150; ++i) {
      const std::int64_t size = i % 10 == 0 ? 9001 : i % 10 == 1 ? 0 : 1 + 7 * i;
      std::vector<float> total(static_cast<std::size_t>(size));
      Sum sum{size, {}, nullptr};
      for (unsigned term = 0; term < 1 + i % 6; ++term) {
        const std::vector<float> values = normal_values(size, 10 * i + term);
        for (std::size_t k = 0; k < values.size(); ++k) total[k] = term == 0 ? values[k] : total[k] + values[k];
        memory.emplace_back(backend, values, (i + term) % 3 == 0 ? 1 : 0);
        sum.terms.push_back(memory.back().data());
      }
      sum.y = memory.back().data();  // in place of the last term
      sums.push_back(sum);
      expected.push_back(total);
    }
    backend.add(sums);
    std::size_t last = 0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
      last += sums[i].terms.size();
      CHECK(same_bits(memory[last - 1].to_host(), expected[i]));
    }
  }
}
