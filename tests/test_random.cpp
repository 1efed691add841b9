#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <numbers>
#include <random>
#include <vector>

#include "core/check.h"
#include "core/random.h"

using namespace minidl;

namespace {

std::vector<float> normals(Random& random, std::size_t n) {
  std::vector<float> values(n);
  random.fill_normal(values);
  return values;
}

// Checks that exactly `draws` 32-bit draws were taken since the generator was seeded.
void check_draws(Random& random, std::uint32_t seed, unsigned long long draws) {
  std::mt19937 twister(seed);
  twister.discard(draws);
  CHECK(random.u32() == twister());
}

}  // namespace

TEST_CASE("random: raw draws are the standard Mersenne twister's", "[random]") {
  for (std::uint32_t seed : {0u, 1u, 42u, 4294967295u}) {
    Random random(seed);
    std::mt19937 twister(seed);
    bool equal = true;
    for (int i = 0; i < 5000; ++i) equal = equal && random.u32() == twister();
    CHECK(equal);
  }
}

TEST_CASE("random: only the low 32 bits of a seed count", "[random]") {
  CHECK(Random((std::uint64_t{1} << 32) + 42).u32() == 1608637542u);
  CHECK(Random(static_cast<std::uint64_t>(-1)).u32() == Random(4294967295u).u32());
}

TEST_CASE("random: 64-bit draws, high word first", "[random]") {
  CHECK(Random(0).u64() == 10123822223749065263u);
  CHECK(Random(42).u64() == 6909045637428952499u);
  CHECK(Random(0).random_i64() == static_cast<std::int64_t>(10123822223749065263u - (std::uint64_t{1} << 63)));
}

TEST_CASE("random: randint", "[random]") {
  Random zero(0), forty_two(42);
  for (std::int64_t expected : {18, 30, 15, 14, 27, 23}) CHECK(zero.randint(0, 31) == expected);
  for (std::int64_t expected : {19, 12, 15, 14, 9, 18}) CHECK(forty_two.randint(0, 31) == expected);
  // 2^32 - 1 values still take one draw, 2^32 values take two.
  CHECK(Random(42).randint(0, 4294967295) == 1608637542);
  CHECK(Random(42).randint(-7, 4294967289) == static_cast<std::int64_t>(6909045637428952499u % 4294967296u) - 7);
  CHECK_THROWS_AS(zero.randint(3, 3), Error);
}

TEST_CASE("random: rand", "[random]") {
  Random random(42);
  for (float expected : {0.88226926f, 0.91500396f, 0.38286376f}) CHECK(random.rand() == expected);
}

TEST_CASE("random: uniform values are fused, as the first weights of a seeded network show", "[random]") {
  const double bound = std::sqrt(3.0) * (std::sqrt(2.0 / (1.0 + std::sqrt(5.0) * std::sqrt(5.0))) / std::sqrt(147.0));
  CHECK(static_cast<float>(bound) == 0x1.51d518p-4f);
  std::vector<float> values(4);
  Random random(42);
  random.fill_uniform(values, -bound, bound);
  CHECK(values == std::vector<float>{0x1.02493p-4f, 0x1.186750p-4f, -0x1.3c9450p-6f, 0x1.36562ep-4f});
  check_draws(random, 42, 4);
}

TEST_CASE("random: randperm", "[random]") {
  CHECK(Random(0).randperm(6) == std::vector<std::int64_t>{2, 5, 3, 0, 1, 4});
  CHECK(Random(42).randperm(6) == std::vector<std::int64_t>{0, 3, 2, 4, 1, 5});
  CHECK(Random(42).randperm(10) == std::vector<std::int64_t>{2, 6, 1, 8, 4, 5, 0, 9, 3, 7});
  CHECK(Random(0).randperm(0).empty());
  CHECK(Random(0).randperm(1) == std::vector<std::int64_t>{0});
  Random random(3);
  random.randperm(1000);
  check_draws(random, 3, 999);
  CHECK_THROWS_AS(random.randperm(-1), Error);
}

TEST_CASE("random: few normals come in pairs of which one is cached", "[random]") {
  Random random(0);
  CHECK(normals(random, 3) == std::vector<float>{1.54099607f, -0.293428898f, -2.17878938f});
  check_draws(random, 0, 8);
}

TEST_CASE("random: the cached normal outlives other draws until the generator is seeded again", "[random]") {
  Random random(0);
  CHECK(normals(random, 1) == std::vector<float>{1.54099607f});
  normals(random, 17);
  random.randperm(5);
  CHECK(normals(random, 1) == std::vector<float>{-0.293428898f});

  random.manual_seed(0);
  normals(random, 1);
  random.manual_seed(0);
  CHECK(normals(random, 1) == std::vector<float>{1.54099607f});
}

TEST_CASE("random: normals in blocks of 16", "[random]") {
  Random random(0);
  const auto sixteen = normals(random, 16);
  CHECK(sixteen[0] == -1.12583983f);
  CHECK(sixteen[1] == -1.1523602f);
  CHECK(sixteen[8] == 0.322274923f);
  CHECK(sixteen[9] == -1.26333475f);
  check_draws(random, 0, 16);

  random.manual_seed(0);
  const auto seventeen = normals(random, 17);
  CHECK(seventeen[0] == -1.12583983f);
  CHECK(seventeen[1] == -1.6959312f);
  CHECK(seventeen[15] == -0.843676746f);
  CHECK(seventeen[16] == 0.931826591f);
  check_draws(random, 0, 33);
}

TEST_CASE("random: block normals against double-precision Box-Muller", "[random]") {
  constexpr std::size_t kCount = 160'000;
  Random random(5), uniform(5);
  const auto values = normals(random, kCount);
  double worst = 0;
  for (std::size_t i = 0; i < kCount; i += 16) {
    double d[16];
    for (double& x : d) x = uniform.rand();
    for (int j = 0; j < 8; ++j) {
      const double radius = std::sqrt(-2.0 * std::log(1.0 - d[j])), angle = 2.0 * std::numbers::pi * d[j + 8];
      worst = std::max(worst, std::abs(values[i + j] - radius * std::cos(angle)));
      worst = std::max(worst, std::abs(values[i + j + 8] - radius * std::sin(angle)));
    }
  }
  CHECK(worst < 2.5e-6);
}

TEST_CASE("random: a restored state continues with the same draws, cached normal included", "[random]") {
  Random random(9);
  for (int i = 0; i < 1000; ++i) random.u32();
  normals(random, 1);
  const auto state = random.state();
  Random other(1);
  normals(other, 1);
  other.set_state(state);
  CHECK(other.state() == state);
  CHECK(normals(random, 3) == normals(other, 3));
  CHECK(random.randperm(700) == other.randperm(700));
  CHECK(random.state() == other.state());
  // An empty cache is restored as empty.
  Random fresh(9);
  other.set_state(fresh.state());
  CHECK(normals(other, 1) == normals(fresh, 1));
}

TEST_CASE("random: bytes that are no state are refused and change nothing", "[random]") {
  Random random(9);
  const auto state = random.state();
  auto shorter = state, longer = state, position = state, flag = state;
  shorter.pop_back();
  longer.push_back(0);
  position[624 * 4] = 0x71;  // 625
  position[624 * 4 + 1] = 0x02;
  flag[624 * 4 + 4] = 2;
  for (const auto& bytes : {shorter, longer, position, flag, std::vector<std::uint8_t>()})
    CHECK_THROWS_AS(random.set_state(bytes), Error);
  CHECK(random.state() == state);
}

TEST_CASE("normalize: unit length for every tail of the eight-lane sum", "[random]") {
  std::mt19937 twister(2);
  for (std::size_t n = 1; n < 40; ++n) {
    std::vector<float> x(n);
    for (float& value : x) value = static_cast<float>(twister() % 2001) / 1000.0f - 1.0005f;
    auto unit = x;
    normalize(unit);
    double square = 0, worst = 0;
    for (float value : x) square += static_cast<double>(value) * value;
    for (std::size_t i = 0; i < n; ++i) worst = std::max(worst, std::abs(unit[i] - x[i] / std::sqrt(square)));
    CHECK(worst < 4e-7);
  }
  std::vector<float> zeros(3, 0.0f);
  normalize(zeros);
  CHECK(zeros == std::vector<float>(3, 0.0f));
}
