#include "models/checkpoint.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "models/conv_choices_text.h"

namespace minidl {
namespace {

constexpr const char* kTrainingFormat = "minidl-ugatit-training-1";
constexpr const char* kGeneratorFormat = "minidl-ugatit-generator-1";
constexpr const char* kStatePrefix = "state.";
constexpr const char* kConvChoices = "conv_choices";
constexpr std::int64_t kMaxStep = 1'000'000'000;  // no run gets there

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

// Fetches tensors to host memory one at a time while a file is written.
class Fetcher {
 public:
  SafetensorsEntry entry(std::string name, const Tensor& tensor) {
    return {std::move(name), Dtype::f32, tensor.shape().extents(), [this, tensor = tensor.detach()] {
              values_ = tensor.to_host();
              return std::as_bytes(std::span(values_));
            }};
  }

 private:
  std::vector<float> values_;
};

struct Moment {
  std::string name;
  Tensor tensor;
};

// The moments of both optimisers under the names of their parameters.
std::vector<Moment> moments_of(Ugatit& model, UgatitTrainer& trainer) {
  std::map<const Parameter*, std::string> names;
  class Namer : public Visitor {
   public:
    explicit Namer(std::map<const Parameter*, std::string>& names) : names_(names) {}

   protected:
    void parameter(const std::string& name, Parameter& p) override { names_[&p] = name; }

   private:
    std::map<const Parameter*, std::string>& names_;
  } namer(names);
  model.visit(namer);
  std::vector<Moment> moments;
  for (Adam* adam : {&trainer.generator_adam(), &trainer.discriminator_adam()})
    for (std::size_t i = 0; i < adam->parameters().size(); ++i) {
      const std::string name = "adam." + names.at(adam->parameters()[i]);
      moments.push_back({name + ".exp_avg", adam->exp_avg()[i]});
      moments.push_back({name + ".exp_avg_sq", adam->exp_avg_sq()[i]});
    }
  return moments;
}

void load_tensor(const SafetensorsFile& file, const std::string& name, const Tensor& tensor) {
  const auto values = file.floats(name);
  if (values.shape != tensor.shape().extents())
    throw CheckpointError(concat_text(file.path().string(), " is of another model: ", name, " has shape ",
                                      Shape(values.shape), ", expected ", tensor.shape()));
  tensor.copy_from_host(values.values);
}

void load_state(const SafetensorsFile& file, Module auto& module, const std::string& prefix) {
  for (const StateEntry& entry : state_of(module)) load_tensor(file, prefix + entry.name, *entry.tensor);
}

}  // namespace

CheckpointInfo checkpoint_info(const SafetensorsFile& file) {
  const SafetensorsMetadata& metadata = file.metadata();
  const auto value = [&](const char* key) {
    const auto found = metadata.find(key);
    if (found == metadata.end())
      throw CheckpointError(file.path().string() + " is no checkpoint of U-GAT-IT: its metadata lacks '" + key + "'");
    return found->second;
  };
  CheckpointInfo info;
  const std::string format = value("format");
  if (format != kTrainingFormat && format != kGeneratorFormat)
    throw CheckpointError(file.path().string() + " is of a format that this version does not know: " + format);
  info.kind = format == kTrainingFormat ? CheckpointInfo::Kind::training : CheckpointInfo::Kind::generator;
  try {
    info.options = options_from_json(nlohmann::json::parse(value("model")));
    info.step = nlohmann::json::parse(value("step")).get<std::int64_t>();
  } catch (const nlohmann::json::exception&) {
    throw CheckpointError(file.path().string() + " is damaged: its metadata is malformed");
  }
  const UgatitOptions& o = info.options;
  const auto within = [](std::int64_t number, std::int64_t low, std::int64_t high) {
    return number >= low && number <= high;
  };
  if (!within(o.image_channels, 1, 3) || !within(o.channels, 1, 4096) || !within(o.residual_blocks, 1, 256) ||
      !within(o.discriminator_depth, 4, 16) || !within(o.image_size, 16, 65536) || !within(info.step, 0, kMaxStep))
    throw CheckpointError(file.path().string() + " is damaged: its metadata describes an impossible model");
  if (info.kind == CheckpointInfo::Kind::training)
    info.configuration = value("configuration");
  else
    info.direction = value("direction");
  return info;
}

void save_training_checkpoint(const std::filesystem::path& file, Ugatit& model, UgatitTrainer& trainer,
                              const std::string& configuration, const ProgramState& state,
                              std::span<const ConvChoice> choices) {
  Fetcher fetcher;
  std::vector<SafetensorsEntry> entries;
  for (const StateEntry& e : state_of(model)) entries.push_back(fetcher.entry(e.name, *e.tensor));
  for (const Moment& m : moments_of(model, trainer)) entries.push_back(fetcher.entry(m.name, m.tensor));
  for (const auto& [key, bytes] : state)
    entries.push_back({kStatePrefix + key, Dtype::u8, {static_cast<std::int64_t>(bytes.size())}, [&bytes = bytes] {
                         return std::as_bytes(std::span(bytes));
                       }});
  SafetensorsMetadata metadata{{"format", kTrainingFormat},
                               {"model", to_json(model.options).dump()},
                               {"step", std::to_string(trainer.steps())},
                               {"configuration", configuration}};
  if (!choices.empty()) metadata[kConvChoices] = conv_choices_text(choices);
  write_safetensors(file, entries, metadata);
}

void load_networks(const SafetensorsFile& file, Ugatit& model) { load_state(file, model, ""); }

void load_training_state(const SafetensorsFile& file, Ugatit& model, UgatitTrainer& trainer) {
  load_networks(file, model);
  for (const Moment& m : moments_of(model, trainer)) load_tensor(file, m.name, m.tensor);
  trainer.restore(checkpoint_info(file).step);
}

ProgramState load_program_state(const SafetensorsFile& file) {
  ProgramState state;
  for (const std::string& name : file.names()) {
    if (!name.starts_with(kStatePrefix)) continue;
    const auto bytes = file.at(name).bytes;
    const auto* begin = reinterpret_cast<const std::uint8_t*>(bytes.data());
    state[name.substr(std::strlen(kStatePrefix))] = {begin, begin + bytes.size()};
  }
  return state;
}

std::vector<ConvChoice> load_conv_choices(const SafetensorsFile& file, const Backend& backend) {
  const auto found = file.metadata().find(kConvChoices);
  if (found == file.metadata().end()) return {};
  auto choices = conv_choices_from_text(found->second, backend);
  if (!choices) throw CheckpointError(file.path().string() + " is damaged: its " + kConvChoices + " are malformed");
  return std::move(*choices);
}

void save_generator(const std::filesystem::path& file, Generator& generator, const UgatitOptions& options,
                    const std::string& direction, std::int64_t step) {
  Fetcher fetcher;
  std::vector<SafetensorsEntry> entries;
  for (const StateEntry& e : state_of(generator)) entries.push_back(fetcher.entry(e.name, *e.tensor));
  write_safetensors(file, entries,
                    {{"format", kGeneratorFormat},
                     {"model", to_json(options).dump()},
                     {"step", std::to_string(step)},
                     {"direction", direction}});
}

std::optional<Generator> load_generator(const SafetensorsFile& file, const std::string& direction) {
  const CheckpointInfo info = checkpoint_info(file);
  const bool single = info.kind == CheckpointInfo::Kind::generator;
  if (single && info.direction != direction) return std::nullopt;
  Random random = Random::blank();
  Generator generator(random, info.options.generator());
  load_state(file, generator, single ? "" : "gen" + direction + ".");
  return generator;
}

std::int64_t training_checkpoint_bytes(Ugatit& model) {
  std::int64_t values = 0;
  for (const StateEntry& e : state_of(model)) values += e.tensor->size();
  return 4 * (values + 2 * parameter_count(model));
}

}  // namespace minidl
