#include "models/checkpoint_info.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/check.h"
#include "models/state_shapes.h"

namespace minidl {
namespace {

using Kind = CheckpointInfo::Kind;

constexpr const char* kFormats = "minidl-ugatit-";
constexpr const char* kTrainingFormat = "minidl-ugatit-training-1";
constexpr const char* kNetworksFormat = "minidl-ugatit-networks-1";
constexpr const char* kGeneratorFormat = "minidl-ugatit-generator-1";
constexpr const char* kNetworks[] = {"genA2B.", "genB2A.", "disGA.", "disGB.", "disLA.", "disLB."};
constexpr const char* kFirstWeight = "DownBlock.1.weight";
constexpr std::int64_t kMaxStep = 1'000'000'000;  // no run gets there
constexpr std::int64_t kMaxBlocks = 256;

nlohmann::json to_json(const UgatitOptions& o) {
  return {{"image_channels", o.image_channels},   {"channels", o.channels},
          {"residual_blocks", o.residual_blocks}, {"discriminator_depth", o.discriminator_depth},
          {"image_size", o.image_size},           {"light", o.light}};
}

UgatitOptions options_from_json(const nlohmann::json& json) {
  UgatitOptions o;
  json.at("image_channels").get_to(o.image_channels);
  json.at("channels").get_to(o.channels);
  json.at("residual_blocks").get_to(o.residual_blocks);
  json.at("discriminator_depth").get_to(o.discriminator_depth);
  json.at("image_size").get_to(o.image_size);
  json.at("light").get_to(o.light);
  return o;
}

bool within(std::int64_t number, std::int64_t low, std::int64_t high) { return number >= low && number <= high; }

bool possible(const UgatitOptions& o) {
  return within(o.image_channels, 1, 3) && within(o.channels, 1, 4096) && within(o.residual_blocks, 1, kMaxBlocks) &&
         within(o.discriminator_depth, 4, 16) && within(o.image_size, 16, 65536);
}

// NAME_params_0100000.pt: 100000.
std::int64_t step_of(const std::filesystem::path& file) {
  constexpr std::string_view kMark = "params_";
  const std::string stem = file.stem().string();
  const std::size_t digits = stem.find_last_not_of("0123456789") + 1;
  const std::string_view before = std::string_view(stem).substr(0, digits);
  if (digits == stem.size() || stem.size() - digits > 9 || !before.ends_with(kMark)) return -1;
  if (before.size() > kMark.size() && before[before.size() - kMark.size() - 1] != '_') return -1;
  return std::stoll(stem.substr(digits));
}

// The options that the shapes tell; what they do not agree with is found by whoever compares them all.
CheckpointInfo info_from_shapes(const ArrayFile& file) {
  CheckpointInfo info;
  info.step = step_of(file.path());
  const auto holds = [&](const std::string& prefix) {
    return std::any_of(file.names().begin(), file.names().end(),
                       [&](const std::string& name) { return name.starts_with(prefix); });
  };
  std::string prefix;
  if (file.contains(kFirstWeight)) {
    info.kind = Kind::generator;
  } else {
    info.kind = Kind::networks;
    prefix = holds("genA2B.") || !holds("genB2A.") ? "genA2B." : "genB2A.";
    if (!holds(prefix))
      throw CheckpointError(file.path().string() +
                            " is no checkpoint of U-GAT-IT: it holds neither the networks genA2B, genB2A, ... nor a "
                            "generator with its DownBlock.1.weight");
  }
  const auto shape_of = [&](const std::string& name, std::size_t rank) {
    const auto& shape = file.at(prefix + name).shape;
    if (shape.size() != rank)
      throw CheckpointError(concat_text(file.path().string(), " is of another model: ", prefix, name, " has ",
                                        shape.size(), " axes, expected ", rank));
    return shape;
  };
  UgatitOptions& o = info.options;
  const auto first = shape_of(kFirstWeight, 4), style = shape_of("FC.0.weight", 2);
  o.channels = first[0];
  o.image_channels = first[1];
  o.residual_blocks = 0;
  while (o.residual_blocks < kMaxBlocks &&
         file.contains(prefix + "DownBlock." + std::to_string(12 + o.residual_blocks) + ".conv_block.1.weight"))
    ++o.residual_blocks;
  if (holds("disGA.")) {
    o.discriminator_depth = 0;
    while (o.discriminator_depth <= 16 &&
           file.contains("disGA.model." + std::to_string(3 * o.discriminator_depth + 1) + ".weight_orig"))
      ++o.discriminator_depth;
  }
  if (possible(o)) {
    // A full model's first linear layer sees every pixel of the features, a fourth of the image's side.
    const std::int64_t wide = 4 * o.channels, pixels = style[1] / wide;
    std::int64_t side = 1;
    while (side <= 65536 / 4 && side * side < pixels) ++side;
    o.light = style[1] == wide;
    info.size_known = !o.light;
    if (!o.light) o.image_size = 4 * side;
  }
  if (!possible(o))
    throw CheckpointError(concat_text(file.path().string(), " is of another model: its shapes tell of ", o.channels,
                                      " base channels, ", o.residual_blocks, " residual blocks, n_dis ",
                                      o.discriminator_depth, ", images of ", o.image_size, " pixels in ",
                                      o.image_channels, " channels, which make no U-GAT-IT"));
  return info;
}

}  // namespace

CheckpointInfo checkpoint_info(const ArrayFile& file) {
  const ArrayMetadata& metadata = file.metadata();
  const auto text = [&](const char* key) -> std::optional<std::string> {
    const auto found = metadata.find(key);
    return found == metadata.end() ? std::nullopt : std::optional(found->second);
  };
  const auto value = [&](const char* key) {
    const auto found = text(key);
    if (!found)
      throw CheckpointError(file.path().string() + " is no checkpoint of U-GAT-IT: its metadata lacks '" + key + "'");
    return *found;
  };
  const std::string format = text("format").value_or("");
  if (!format.starts_with(kFormats)) return info_from_shapes(file);
  CheckpointInfo info;
  if (format == kTrainingFormat)
    info.kind = Kind::training;
  else if (format == kNetworksFormat)
    info.kind = Kind::networks;
  else if (format == kGeneratorFormat)
    info.kind = Kind::generator;
  else
    throw CheckpointError(file.path().string() + " is of a format that this version does not know: " + format);
  try {
    info.options = options_from_json(nlohmann::json::parse(value("model")));
    info.step =
        info.kind == Kind::training || text("step") ? nlohmann::json::parse(value("step")).get<std::int64_t>() : -1;
  } catch (const nlohmann::json::exception&) {
    throw CheckpointError(file.path().string() + " is damaged: its metadata is malformed");
  }
  if (!possible(info.options) || !within(info.step, text("step") ? 0 : -1, kMaxStep))
    throw CheckpointError(file.path().string() + " is damaged: its metadata describes an impossible model");
  if (info.kind == Kind::training) info.configuration = value("configuration");
  if (info.kind == Kind::generator) info.direction = value("direction");
  return info;
}

ArrayMetadata metadata_of(const CheckpointInfo& info) {
  ArrayMetadata metadata{{"format", info.kind == Kind::training   ? kTrainingFormat
                                    : info.kind == Kind::networks ? kNetworksFormat
                                                                  : kGeneratorFormat},
                         {"model", to_json(info.options).dump()}};
  if (info.step >= 0) metadata["step"] = std::to_string(info.step);
  if (info.kind == Kind::generator) metadata["direction"] = info.direction;
  if (info.kind == Kind::training) metadata["configuration"] = info.configuration;
  return metadata;
}

void require_networks(const ArrayFile& file, const CheckpointInfo& info) {
  if (info.kind == Kind::generator) return require_state(file, "", state_shapes(info.options.generator()));
  const std::vector<NetworkShapes> networks = network_shapes(info.options);
  for (const NetworkShapes& network : networks) {
    const bool any = std::any_of(file.names().begin(), file.names().end(),
                                 [&](const std::string& name) { return name.starts_with(network.name + "."); });
    if (!any) throw CheckpointError(file.path().string() + " lacks the network " + network.name);
  }
  require_states(file, networks);
}

std::string foreign_arrays(const ArrayFile& file, const CheckpointInfo& info) {
  if (info.kind == Kind::generator) return "";  // any other name is an error
  std::size_t count = 0;
  std::string first;
  for (const std::string& name : file.names()) {
    if (std::any_of(std::begin(kNetworks), std::end(kNetworks), [&](auto* n) { return name.starts_with(n); })) continue;
    if (count++ == 0) first = name;
  }
  return count == 0 ? "" : concat_text(count, count == 1 ? " array, " : " arrays, such as ", first);
}

std::string generator_prefix(const CheckpointInfo& info, const std::string& direction) {
  return info.kind == Kind::generator ? "" : "gen" + direction + ".";
}

}  // namespace minidl
