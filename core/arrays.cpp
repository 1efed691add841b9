#include "core/arrays.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/safetensors.h"
#include "core/torch_file.h"

namespace minidl {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the formats are little-endian, and so are the views of them");

struct DtypeInfo {
  Dtype dtype;
  const char* name;
  std::size_t size;
};
constexpr std::array<DtypeInfo, 8> kDtypes{{{Dtype::f32, "F32", 4},
                                            {Dtype::f64, "F64", 8},
                                            {Dtype::f16, "F16", 2},
                                            {Dtype::bf16, "BF16", 2},
                                            {Dtype::i64, "I64", 8},
                                            {Dtype::i32, "I32", 4},
                                            {Dtype::u8, "U8", 1},
                                            {Dtype::boolean, "BOOL", 1}}};

const DtypeInfo& info_of(Dtype dtype) {
  return *std::find_if(kDtypes.begin(), kDtypes.end(), [=](const DtypeInfo& d) { return d.dtype == dtype; });
}

// Copies the elements below axis `axis`, from `from` on, behind `to`.
void gather(const ArrayView& view, std::size_t element, std::size_t axis, const std::byte* from, std::byte*& to) {
  if (axis == view.shape.size()) {
    std::memcpy(to, from, element);
    to += element;
    return;
  }
  const auto stride = static_cast<std::size_t>(view.strides[axis]) * element;
  for (std::int64_t i = 0; i < view.shape[axis]; ++i)
    gather(view, element, axis + 1, from + static_cast<std::size_t>(i) * stride, to);
}

float from_half(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16, fraction = bits & 0x3ff;
  if (exponent == 0) {  // zero and the subnormal numbers
    const float value = std::ldexp(static_cast<float>(fraction), -24);
    return sign ? -value : value;
  }
  const std::uint32_t widened = exponent == 31 ? 255 : static_cast<std::uint32_t>(exponent - 15 + 127);
  return std::bit_cast<float>(sign | widened << 23 | fraction << 13);
}

float from_bfloat16(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

template <class T, class F>
std::span<const float> converted(std::span<const std::byte> bytes, std::vector<float>& scratch, F convert) {
  scratch.resize(bytes.size() / sizeof(T));
  for (std::size_t i = 0; i < scratch.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    scratch[i] = convert(value);
  }
  return scratch;
}

}  // namespace

std::size_t size_of(Dtype dtype) { return info_of(dtype).size; }
const char* name_of(Dtype dtype) { return info_of(dtype).name; }

std::optional<std::uint64_t> byte_count(std::size_t element, std::span<const std::int64_t> shape) {
  std::uint64_t bytes = element;
  for (std::int64_t extent : shape) {
    const std::uint64_t n = static_cast<std::uint64_t>(extent);
    if (extent < 0 || (n != 0 && bytes > (std::uint64_t{1} << 62) / n)) return std::nullopt;
    bytes *= n;
  }
  return bytes;
}

std::span<const std::byte> row_major(const ArrayView& view, std::vector<std::byte>& scratch) {
  if (view.strides.empty()) return view.bytes;
  const std::size_t element = size_of(view.dtype);
  scratch.resize(byte_count(element, view.shape).value());
  std::byte* to = scratch.data();
  if (!scratch.empty()) gather(view, element, 0, view.bytes.data(), to);
  return scratch;
}

std::unique_ptr<ArrayFile> open_array_file(const std::filesystem::path& file) {
  if (is_torch_file(file)) return std::make_unique<TorchFile>(file);
  if (is_safetensors_file(file)) return std::make_unique<SafetensorsFile>(file);
  throw CheckpointError(file.string() + " begins neither as a safetensors file nor as PyTorch's do");
}

std::span<const float> floats_of(const ArrayFile& file, const std::string& name, std::vector<float>& scratch) {
  const ArrayView& view = file.at(name);
  file.check_intact(name);
  std::vector<std::byte> ordered;
  const std::span<const std::byte> bytes = row_major(view, ordered);
  switch (view.dtype) {
    case Dtype::f32:
      if (ordered.empty() && reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(float) == 0)
        return {reinterpret_cast<const float*>(bytes.data()), bytes.size() / sizeof(float)};
      return converted<float>(bytes, scratch, [](float x) { return x; });
    case Dtype::f64:
      return converted<double>(bytes, scratch, [](double x) { return static_cast<float>(x); });
    case Dtype::f16:
      return converted<std::uint16_t>(bytes, scratch, from_half);
    case Dtype::bf16:
      return converted<std::uint16_t>(bytes, scratch, from_bfloat16);
    default:
      throw CheckpointError(concat_text(file.path().string(), " holds ", name, " as ", name_of(view.dtype),
                                        ", expected F32, F64, F16 or BF16"));
  }
}

std::string quoted(const std::string& name) {
  constexpr std::size_t kShown = 100;
  const std::string shown = name.size() > kShown ? name.substr(0, kShown) + "..." : name;
  return nlohmann::json(shown).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

std::string grouped(std::uint64_t number) {
  const std::string digits = std::to_string(number);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

}  // namespace minidl
