#include "models/state_shapes.h"

#include <algorithm>
#include <set>

#include "core/check.h"

namespace minidl {
namespace {

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t extent : shape) text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return "[" + text + "]";
}

// "a, b, c and 4 more".
std::string listed(const std::vector<std::string>& items) {
  constexpr std::size_t kShown = 4;
  std::string text;
  for (std::size_t i = 0; i < std::min(items.size(), kShown); ++i) text += (i > 0 ? ", " : "") + items[i];
  return items.size() > kShown ? concat_text(text, " and ", items.size() - kShown, " more") : text;
}

// What a file holds beside what it should hold.
class Comparison {
 public:
  explicit Comparison(const ArrayFile& file) : file_(file) {}

  void add(const std::string& prefix, const std::vector<NamedShape>& expected) {
    std::set<std::string> names;
    std::uint64_t elements = 0;
    for (const NamedShape& entry : expected) {
      const std::string name = prefix + entry.name;
      names.insert(name);
      elements += byte_count(1, entry.shape).value();
      if (!file_.contains(name))
        missing_.push_back(name);
      else if (const auto& shape = file_.at(name).shape; shape != entry.shape)
        differing_.push_back(
            concat_text(name, " has shape ", shape_text(shape), ", expected ", shape_text(entry.shape)));
    }
    for (const std::string& name : file_.names())
      if (name.starts_with(prefix) && !names.contains(name)) unexpected_.push_back(name);
    most_elements_ = std::max(most_elements_, elements);
  }

  void require_equal() const {
    std::string faults;
    const auto fault = [&](const std::string& what, const std::vector<std::string>& items) {
      if (!items.empty()) faults += (faults.empty() ? "" : "; ") + what + listed(items);
    };
    fault("lacks ", missing_);
    fault("", differing_);
    fault("holds what such a model has not: ", unexpected_);
    if (!faults.empty())
      throw CheckpointError(
          concat_text(file_.path().string(), missing_.empty() ? " is of another model: " : " ", faults));
    // Names may share their bytes, which costs nothing in the file.
    constexpr std::uint64_t kSmallestElement = 2;
    if (most_elements_ > file_.size() / kSmallestElement)
      throw CheckpointError(concat_text(file_.path().string(), " is damaged: it is too small for the ",
                                        grouped(most_elements_), " values of a network"));
  }

 private:
  const ArrayFile& file_;
  std::vector<std::string> missing_, unexpected_, differing_;
  std::uint64_t most_elements_ = 0;  // of one call of add
};

}  // namespace

std::vector<NamedShape> state_shapes(const GeneratorOptions& o) {
  std::vector<NamedShape> all;
  const std::int64_t ch = o.channels, wide = 4 * ch;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
    all.push_back({name, std::move(shape)});
  };
  const auto conv = [&](const std::string& name, std::int64_t in, std::int64_t out, std::int64_t kernel) {
    add(name + ".weight", {out, in, kernel, kernel});
  };
  const auto iln = [&](const std::string& name, std::int64_t channels) {
    for (const char* part : {".rho", ".gamma", ".beta"}) add(name + part, {1, channels, 1, 1});
  };
  conv("DownBlock.1", o.image_channels, ch, 7);
  conv("DownBlock.5", ch, 2 * ch, 3);
  conv("DownBlock.9", 2 * ch, wide, 3);
  for (std::int64_t i = 0; i < o.residual_blocks; ++i)
    for (const char* part : {".conv_block.1", ".conv_block.5"})
      conv("DownBlock." + std::to_string(12 + i) + part, wide, wide, 3);
  add("gap_fc.weight", {1, wide});
  add("gmp_fc.weight", {1, wide});
  conv("conv1x1", 2 * wide, wide, 1);
  add("conv1x1.bias", {wide});
  add("FC.0.weight", {wide, o.light ? wide : (o.image_size / 4) * (o.image_size / 4) * wide});
  for (const char* name : {"FC.2.weight", "gamma.weight", "beta.weight"}) add(name, {wide, wide});
  for (std::int64_t i = 1; i <= o.residual_blocks; ++i)
    for (const char* part : {"1", "2"}) {
      const std::string block = "UpBlock1_" + std::to_string(i);
      conv(block + ".conv" + part, wide, wide, 3);
      add(block + ".norm" + part + ".rho", {1, wide, 1, 1});
    }
  conv("UpBlock2.2", wide, 2 * ch, 3);
  iln("UpBlock2.3", 2 * ch);
  conv("UpBlock2.7", 2 * ch, ch, 3);
  iln("UpBlock2.8", ch);
  conv("UpBlock2.11", ch, o.image_channels, 7);
  return all;
}

std::vector<NamedShape> state_shapes(const DiscriminatorOptions& o) {
  std::vector<NamedShape> all;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
    all.push_back({name, std::move(shape)});
  };
  const auto spectral = [&](const std::string& name, const std::vector<std::int64_t>& shape) {
    std::int64_t columns = 1;
    for (std::size_t axis = 1; axis < shape.size(); ++axis) columns *= shape[axis];
    add(name + ".weight_orig", shape);
    add(name + ".weight_u", {shape[0]});
    add(name + ".weight_v", {columns});
  };
  std::int64_t in = o.image_channels, out = o.channels;
  for (std::int64_t i = 0; i < o.layers - 1; ++i) {
    const std::string name = "model." + std::to_string(3 * i + 1);
    add(name + ".bias", {out});
    spectral(name, {out, in, 4, 4});
    in = out;
    out *= 2;
  }
  spectral("gap_fc", {1, in});
  spectral("gmp_fc", {1, in});
  add("conv1x1.weight", {in, 2 * in, 1, 1});
  add("conv1x1.bias", {in});
  spectral("conv", {1, in, 4, 4});
  return all;
}

std::vector<NetworkShapes> network_shapes(const UgatitOptions& o) {
  return {{"genA2B", state_shapes(o.generator())},           {"genB2A", state_shapes(o.generator())},
          {"disGA", state_shapes(o.global_discriminator())}, {"disGB", state_shapes(o.global_discriminator())},
          {"disLA", state_shapes(o.local_discriminator())},  {"disLB", state_shapes(o.local_discriminator())}};
}

void require_state(const ArrayFile& file, const std::string& prefix, const std::vector<NamedShape>& expected) {
  Comparison comparison(file);
  comparison.add(prefix, expected);
  comparison.require_equal();
}

void require_states(const ArrayFile& file, const std::vector<NetworkShapes>& networks) {
  Comparison comparison(file);
  for (const NetworkShapes& network : networks) comparison.add(network.name + ".", network.entries);
  comparison.require_equal();
}

}  // namespace minidl
