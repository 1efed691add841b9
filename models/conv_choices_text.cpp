#include "models/conv_choices_text.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/check.h"

namespace minidl {
namespace {

using Json = nlohmann::json;

constexpr const char* kPasses[] = {"forward", "backward_data", "backward_weights"};
constexpr const char* kPrecisions[] = {"fp32", "tf32", "bf16"};
constexpr std::int64_t kMostOfAnything = 1 << 24;  // channels, pixels of a side, ...

Json image_json(const ImageDims& d) { return {d.n, d.c, d.h, d.w}; }

std::int64_t number(const Json& json, std::int64_t least) {
  const auto value = json.get<std::int64_t>();
  check(value >= least && value <= kMostOfAnything, "out of range");
  return value;
}

ImageDims image_from(const Json& json, const Backend& backend) {
  const auto extent = [&](std::size_t i) { return number(json.at(i), 1); };
  ImageDims d{extent(0), extent(1), extent(2), extent(3)};
  d.block = backend.channel_block(d.c);
  return d;
}

// The value whose name the text is.
template <class Enum, std::size_t N>
Enum named(const char* const (&names)[N], const std::string& text) {
  const auto found = std::find(std::begin(names), std::end(names), text);
  check(found != std::end(names), "unknown name");
  return static_cast<Enum>(found - names);
}

ConvChoice choice_from(const Json& json, const Backend& backend) {
  ConvUse use;
  use.pass = named<ConvPass>(kPasses, json.at("pass"));
  use.dims = {image_from(json.at("in"), backend), image_from(json.at("out"), backend), number(json.at("kernel"), 1),
              number(json.at("stride"), 1), number(json.at("padding"), 0)};
  const ConvDims& d = use.dims;
  const auto fits = [&](std::int64_t in, std::int64_t out) {
    return in + 2 * d.padding >= d.kernel && out == (in + 2 * d.padding - d.kernel) / d.stride + 1;
  };
  check(d.in.n == d.out.n && fits(d.in.h, d.out.h) && fits(d.in.w, d.out.w), "not a convolution");
  json.at("bias").get_to(use.bias);
  use.precision = named<Precision>(kPrecisions, json.at("precision"));
  return {use, json.at("algorithm").get<std::string>()};
}

}  // namespace

std::string conv_choices_text(std::span<const ConvChoice> choices) {
  Json json = Json::array();
  for (const auto& [use, algorithm] : choices)
    json.push_back({{"pass", kPasses[static_cast<int>(use.pass)]},
                    {"in", image_json(use.dims.in)},
                    {"out", image_json(use.dims.out)},
                    {"kernel", use.dims.kernel},
                    {"stride", use.dims.stride},
                    {"padding", use.dims.padding},
                    {"bias", use.bias},
                    {"precision", kPrecisions[static_cast<int>(use.precision)]},
                    {"algorithm", algorithm}});
  return json.dump();
}

std::optional<std::vector<ConvChoice>> conv_choices_from_text(const std::string& text, const Backend& backend) try {
  const Json json = Json::parse(text);
  if (!json.is_array()) return std::nullopt;
  std::vector<ConvChoice> choices;
  for (const Json& entry : json) choices.push_back(choice_from(entry, backend));
  return choices;
} catch (const Json::exception&) {
  return std::nullopt;
} catch (const Error&) {
  return std::nullopt;
}

}  // namespace minidl
