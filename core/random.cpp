#include "core/random.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <numeric>
#include <utility>

#include "core/check.h"

namespace minidl {
namespace {

// Single-precision logarithm, sine and cosine by the Cephes polynomials, rounded as PyTorch's vectorised code rounds
// them.
float log_float(float u) {
  int exponent = 0;
  const float mantissa = std::frexp(u, &exponent);
  float e = static_cast<float>(exponent), x;
  if (mantissa < 0.707106781186547524f) {
    e -= 1.0f;
    x = (mantissa - 1.0f) + mantissa;
  } else {
    x = mantissa - 1.0f;
  }
  const float z = x * x;
  float y = 7.0376836292e-2f;
  for (const float c : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
                        2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f})
    y = std::fma(y, x, c);
  y = y * x;
  y = std::fma(y, z, e * -2.12194440e-4f);
  y = y - z * 0.5f;
  x = x + y;
  return std::fma(e, 0.693359375f, x);
}

struct SinCos {
  float sin, cos;
};

SinCos sincos_float(float t) {  // t >= 0
  int octant = static_cast<int>(t * 1.27323954473516f);
  octant = (octant + 1) & ~1;
  const float y = static_cast<float>(octant);
  float x = std::fma(y, -0.78515625f, t);
  x = std::fma(y, -2.4187564849853515625e-4f, x);
  x = std::fma(y, -3.77489497744594108e-8f, x);
  const float z = x * x;
  float c = 2.443315711809948e-5f;
  c = std::fma(c, z, -1.388731625493765e-3f);
  c = std::fma(c, z, 4.166664568298827e-2f);
  c = c * z;
  c = std::fma(c, z, -(z * 0.5f));
  c = c + 1.0f;
  float s = -1.9515295891e-4f;
  s = std::fma(s, z, 8.3321608736e-3f);
  s = std::fma(s, z, -1.6666654611e-1f);
  s = s * z;
  s = std::fma(s, x, x);
  if (octant & 2) std::swap(s, c);
  if (octant & 4) s = -s;
  if (((octant - 2) & 4) == 0) c = -c;
  return {s, c};
}

// Turns 16 uniform values into 16 normal ones (Box-Muller): cosines first, sines in the second half.
void normal_block(float* d) {
  for (int j = 0; j < 8; ++j) {
    const float radius = std::sqrt(-2.0f * log_float(1.0f - d[j]));
    const auto [sin, cos] = sincos_float(2.0f * std::numbers::pi_v<float> * d[j + 8]);
    d[j] = radius * cos;
    d[j + 8] = radius * sin;
  }
}

}  // namespace

Random Random::blank() {
  Random random(0);
  random.blank_ = true;
  return random;
}

void Random::manual_seed(std::uint64_t seed) {
  words_[0] = static_cast<std::uint32_t>(seed);
  for (std::uint32_t i = 1; i < kWords; ++i) words_[i] = 1812433253u * (words_[i - 1] ^ (words_[i - 1] >> 30)) + i;
  next_ = kWords;
  cached_normal_.reset();
}

void Random::refill() {
  for (std::size_t i = 0; i < kWords; ++i) {
    const std::uint32_t y = (words_[i] & 0x8000'0000u) | (words_[(i + 1) % kWords] & 0x7fff'ffffu);
    words_[i] = words_[(i + 397) % kWords] ^ (y >> 1) ^ (y & 1 ? 0x9908'b0dfu : 0u);
  }
  next_ = 0;
}

std::uint32_t Random::u32() {
  if (next_ == kWords) refill();
  std::uint32_t y = words_[next_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c'5680u;
  y ^= (y << 15) & 0xefc6'0000u;
  return y ^ (y >> 18);
}

std::uint64_t Random::u64() {
  const std::uint64_t high = u32();
  return high << 32 | u32();
}

std::int64_t Random::randint(std::int64_t low, std::int64_t high) {
  check(low < high, "randint: the range [", low, ", ", high, ") is empty");
  const std::uint64_t range = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
  return low + static_cast<std::int64_t>((range >> 32 ? u64() : u32()) % range);
}

float Random::rand() { return static_cast<float>(u32() & 0xff'ffffu) * 0x1p-24f; }

void Random::fill_uniform(std::span<float> values, double a, double b) {
  const float low = static_cast<float>(a), width = static_cast<float>(b) - low;
  for (float& value : values) value = std::fma(rand(), width, low);
}

void Random::fill_normal(std::span<float> values) {
  constexpr std::size_t kBlock = 16;
  if (values.size() < kBlock) {
    for (float& value : values) {
      if (cached_normal_) {
        value = static_cast<float>(*std::exchange(cached_normal_, std::nullopt));
        continue;
      }
      const double u1 = uniform_double(), u2 = uniform_double();
      const double radius = std::sqrt(-2.0 * std::log1p(-u2)), angle = 2.0 * std::numbers::pi * u1;
      value = static_cast<float>(radius * std::cos(angle));
      cached_normal_ = radius * std::sin(angle);
    }
    return;
  }
  fill_uniform(values, 0, 1);
  for (std::size_t i = 0; i + kBlock <= values.size(); i += kBlock) normal_block(&values[i]);
  if (values.size() % kBlock != 0) {
    const auto last = values.last(kBlock);
    fill_uniform(last, 0, 1);
    normal_block(last.data());
  }
}

std::vector<std::int64_t> Random::randperm(std::int64_t n) {
  check(n >= 0, "randperm: ", n, " is negative");
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  // From here on PyTorch takes 64-bit draws, lest the remainder be uneven.
  const bool wide = n >= 0xffff'ffff / 20;
  for (std::int64_t i = 0; i + 1 < n; ++i) {
    const std::uint64_t draw = wide ? u64() : u32();
    const auto z = static_cast<std::int64_t>(draw % static_cast<std::uint64_t>(n - i));
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(i + z)]);
  }
  return order;
}

// Layout: 624 words, the position, a flag, the cached normal.
std::vector<std::uint8_t> Random::state() const {
  std::vector<std::uint8_t> bytes(kWords * 4 + 4 + 4 + 8);
  const std::uint32_t has_normal = cached_normal_.has_value();
  const double normal = cached_normal_.value_or(0.0);
  std::uint8_t* to = bytes.data();
  const auto put = [&to](const void* from, std::size_t size) { std::memcpy(std::exchange(to, to + size), from, size); };
  put(words_.data(), kWords * 4), put(&next_, 4), put(&has_normal, 4), put(&normal, 8);
  return bytes;
}

void Random::set_state(std::span<const std::uint8_t> bytes) {
  check(bytes.size() == state().size(), "random state: expected ", state().size(), " bytes, got ", bytes.size());
  std::uint32_t next = 0, has_normal = 0;
  double normal = 0;
  std::memcpy(&next, bytes.data() + kWords * 4, 4);
  std::memcpy(&has_normal, bytes.data() + kWords * 4 + 4, 4);
  std::memcpy(&normal, bytes.data() + kWords * 4 + 8, 8);
  check(next <= kWords && has_normal <= 1, "random state: the position ", next, " is out of range");
  std::memcpy(words_.data(), bytes.data(), kWords * 4);
  next_ = next;
  cached_normal_ = has_normal ? std::optional(normal) : std::nullopt;
}

void normalize(std::span<float> values) {
  // Eight lanes and their tail, summed in PyTorch's order.
  constexpr std::size_t kLanes = 8;
  float lanes[kLanes] = {};
  std::size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes)
    for (std::size_t k = 0; k < kLanes; ++k) lanes[k] = std::fma(values[i + k], values[i + k], lanes[k]);
  float square = lanes[0];
  for (std::size_t k = 1; k < kLanes; ++k) square += lanes[k];
  if (i + 4 <= values.size())
    for (const std::size_t end = i + 4; i < end; ++i) square += values[i] * values[i];
  for (; i < values.size(); ++i) square = std::fma(values[i], values[i], square);
  const float length = std::max(std::sqrt(square), 1e-12f);
  for (float& value : values) value /= length;
}

}  // namespace minidl
