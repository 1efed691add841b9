// PyTorch's CPU random generator, bit for bit (AVX2 code paths): a seed here draws what torch.manual_seed draws there.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace minidl {

class Random {
 public:
  explicit Random(std::uint64_t seed) { manual_seed(seed); }
  // Stands for "no initial weights": layers made with it leave theirs uninitialised, for a checkpoint to fill.
  static Random blank();
  bool is_blank() const { return blank_; }

  // Only the low 32 bits of the seed count. Drops the cached normal value.
  void manual_seed(std::uint64_t seed);

  std::uint32_t u32();
  std::uint64_t u64();  // the first of two draws is the high word
  std::int64_t random_i64() { return static_cast<std::int64_t>(u64() & 0x7fff'ffff'ffff'ffff); }
  // Uniform in [low, high).
  std::int64_t randint(std::int64_t low, std::int64_t high);
  float rand();  // uniform in [0, 1)
  // torch.Tensor.uniform_(a, b): bounds are rounded to float first.
  void fill_uniform(std::span<float> values, double a, double b);
  // torch.Tensor.normal_(): below 16 values pairs from the double-precision path, of which one may stay cached in the
  // generator for a later call; from 16 on, blocks of 16 in single precision.
  void fill_normal(std::span<float> values);
  std::vector<std::int64_t> randperm(std::int64_t n);

  // The generator as bytes, for checkpoints. set_state throws Error for bytes that are no state.
  std::vector<std::uint8_t> state() const;
  void set_state(std::span<const std::uint8_t> bytes);

 private:
  static constexpr std::size_t kWords = 624;

  void refill();
  double uniform_double() { return static_cast<double>(u64() & ((std::uint64_t{1} << 53) - 1)) * 0x1p-53; }

  std::array<std::uint32_t, kWords> words_{};
  std::uint32_t next_ = kWords;
  std::optional<double> cached_normal_;
  bool blank_ = false;
};

// Scales to unit length, x / max(||x||, 1e-12), as torch.nn.functional.normalize does.
void normalize(std::span<float> values);

}  // namespace minidl
