#include "models/checkpoint_conversion.h"

#include <algorithm>
#include <iomanip>
#include <sstream>

#include "core/safetensors.h"
#include "core/torch_file.h"
#include "models/checkpoint.h"
#include "models/state_shapes.h"

namespace minidl {
namespace {

using Kind = CheckpointInfo::Kind;

// Yields a source's arrays one at a time.
class Reader {
 public:
  explicit Reader(const ArrayFile& source) : source_(source) {}

  StateDict dict(const std::string& network, const std::string& prefix, const std::vector<NamedShape>& shapes) {
    StateDict dict{network, {}};
    for (const NamedShape& entry : shapes) {
      const std::string name = prefix + entry.name;
      dict.entries.push_back({entry.name, source_.at(name).dtype, entry.shape, [this, name] {
                                source_.check_intact(name);
                                return row_major(source_.at(name), scratch_);
                              }});
    }
    return dict;
  }

 private:
  const ArrayFile& source_;
  std::vector<std::byte> scratch_;
};

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t extent : shape) text += (text.empty() ? "" : " x ") + std::to_string(extent);
  return text.empty() ? "scalar" : text;
}

std::string model_text(const UgatitOptions& o, const CheckpointInfo& info) {
  return concat_text(o.light ? "light" : "full", " model, ch ", o.channels, ", n_res ", o.residual_blocks,
                     info.kind == Kind::generator ? "" : concat_text(", n_dis ", o.discriminator_depth), ", ",
                     o.image_channels == 1 ? "grey" : "colour", " images of ",
                     info.size_known ? concat_text(o.image_size, " x ", o.image_size) : "any size");
}

std::string kind_text(const CheckpointInfo& info) {
  if (info.kind == Kind::training) return "training checkpoint: networks, Adam's moments, random state";
  if (info.kind == Kind::networks) return "networks, without an optimiser's state";
  return "one generator" + (info.direction.empty() ? "" : ", " + info.direction);
}

// Of the source that `info` describes, the dicts that a file like `result` holds.
std::vector<StateDict> dicts_of(const ArrayFile& source, const CheckpointInfo& info, const CheckpointInfo& result,
                                Reader& reader) {
  std::vector<StateDict> dicts;
  if (result.kind == Kind::generator) {
    const std::string prefix = generator_prefix(info, result.direction);
    const std::vector<NamedShape> shapes = state_shapes(info.options.generator());
    require_state(source, prefix, shapes);
    dicts.push_back(reader.dict("", prefix, shapes));
  } else {
    require_networks(source, info);
    for (const NetworkShapes& network : network_shapes(info.options))
      dicts.push_back(reader.dict(network.name, network.name + ".", network.entries));
  }
  return dicts;
}

}  // namespace

std::string convert_checkpoint(const ArrayFile& source, const CheckpointInfo& info, const std::string& direction,
                               const std::filesystem::path& target, const GeneratorWriter& onnx) {
  if (!info.direction.empty() && !direction.empty() && info.direction != direction)
    throw CheckpointError(
        concat_text(source.path().string(), " holds the generator ", info.direction, " only, not ", direction));
  CheckpointInfo result = info;
  if (!direction.empty()) result.direction = direction;
  const bool whole = direction.empty() && info.kind != Kind::generator;
  const std::string format = target.extension().string();
  if (format == ".onnx") {
    check(onnx != nullptr, "cannot write ", target.string(), ": nothing that writes ONNX was given");
    if (result.direction.empty()) result.direction = "A2B";
    std::optional<Generator> generator = load_generator(source, info, result.direction);
    onnx(target, generator.value(), result.direction, std::max<std::int64_t>(info.step, 0));
    return whole ? "all but the generator " + result.direction : "";
  }

  result.kind = whole ? Kind::networks : Kind::generator;
  Reader reader(source);
  std::vector<StateDict> dicts = dicts_of(source, info, result, reader);
  if (format == ".pt" || format == ".pth") {
    write_torch_file(target, dicts, metadata_of(result));
  } else if (format == ".safetensors") {
    std::vector<ArrayEntry> entries;
    for (StateDict& dict : dicts)
      for (ArrayEntry& entry : dict.entries) {
        if (!dict.name.empty()) entry.name = dict.name + "." + entry.name;
        entries.push_back(std::move(entry));
      }
    write_safetensors(target, entries, metadata_of(result));
  } else {
    fail("cannot write ", target.string(),
         ": its name must end in .safetensors, .pt, .pth or .onnx, which says the format");
  }
  if (!whole) return "";
  return info.kind == Kind::training ? "Adam's moments and the random state, which only a training checkpoint holds"
                                     : foreign_arrays(source, info);
}

std::string description_of(const ArrayFile& file) {
  std::ostringstream out;
  const auto row = [&](const char* name, const std::string& text) {
    out << "  " << std::left << std::setw(10) << name << text << '\n';
  };
  out << file.path().string() << '\n';
  row("format", file.format() + ", " + grouped(file.size()) + " bytes");
  try {
    const CheckpointInfo info = checkpoint_info(file);
    row("holds", kind_text(info));
    row("model", model_text(info.options, info));
    row("step", info.step < 0 ? "not known" : std::to_string(info.step));
    require_networks(file, info);
    if (info.kind == Kind::networks && !foreign_arrays(file, info).empty()) row("besides", foreign_arrays(file, info));
  } catch (const CheckpointError& error) {
    row("problem", error.what());
  }
  std::size_t widest = 0;
  for (const std::string& name : file.names()) widest = std::max(widest, name.size());
  out << file.names().size() << " arrays\n";
  for (const std::string& name : file.names()) {
    out << "  " << std::left << std::setw(static_cast<int>(widest)) << name << "  ";
    try {
      const ArrayView& view = file.at(name);
      out << std::setw(4) << name_of(view.dtype) << "  " << shape_text(view.shape) << '\n';
    } catch (const CheckpointError&) {
      out << "of a type that is not supported\n";
    }
  }
  return out.str();
}

}  // namespace minidl
