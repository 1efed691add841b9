#include "models/checkpoint.h"

#include <charconv>
#include <cstring>

#include "core/check.h"
#include "models/conv_choices_text.h"
#include "models/state_shapes.h"

namespace minidl {
namespace {

constexpr const char* kStatePrefix = "state.";
const std::string kMomentPrefix = "adam.";
constexpr const char* kAdamStep = "adam_step";
constexpr const char* kConvChoices = "conv_choices";

// Fetches tensors to host memory one at a time while a file is written.
class Fetcher {
 public:
  ArrayEntry entry(std::string name, const Tensor& tensor) {
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
      const std::string name = names.at(adam->parameters()[i]);
      moments.push_back({name + ".exp_avg", adam->exp_avg()[i]});
      moments.push_back({name + ".exp_avg_sq", adam->exp_avg_sq()[i]});
    }
  return moments;
}

// Into a tensor of the size that the file has been found to hold.
void load_tensor(const ArrayFile& file, const std::string& name, const Tensor& tensor) {
  std::vector<float> scratch;
  tensor.copy_from_host(floats_of(file, name, scratch));
}

void load_state(const ArrayFile& file, Module auto& module, const std::string& prefix) {
  for (const StateEntry& entry : state_of(module)) load_tensor(file, prefix + entry.name, *entry.tensor);
}

}  // namespace

void save_training_checkpoint(const std::filesystem::path& file, Ugatit& model, UgatitTrainer& trainer,
                              const std::string& configuration, const ProgramState& state,
                              std::span<const ConvChoice> choices) {
  Fetcher fetcher;
  std::vector<ArrayEntry> entries;
  for (const StateEntry& e : state_of(model)) entries.push_back(fetcher.entry(e.name, *e.tensor));
  for (const Moment& m : moments_of(model, trainer)) entries.push_back(fetcher.entry(kMomentPrefix + m.name, m.tensor));
  for (const auto& [key, bytes] : state)
    entries.push_back({kStatePrefix + key, Dtype::u8, {static_cast<std::int64_t>(bytes.size())}, [&bytes = bytes] {
                         return std::as_bytes(std::span(bytes));
                       }});
  ArrayMetadata metadata = metadata_of({.kind = CheckpointInfo::Kind::training,
                                        .options = model.options,
                                        .step = trainer.steps(),
                                        .configuration = configuration});
  metadata[kAdamStep] = std::to_string(trainer.adam_steps());
  if (!choices.empty()) metadata[kConvChoices] = conv_choices_text(choices);
  write_safetensors(file, entries, metadata);
}

void load_networks(const ArrayFile& file, Ugatit& model) {
  const CheckpointInfo::Kind kind = checkpoint_info(file).kind;
  if (kind == CheckpointInfo::Kind::generator)
    throw CheckpointError(file.path().string() + " holds one generator; this needs all six networks");
  require_networks(file, {.kind = kind, .options = model.options});
  load_state(file, model, "");
}

void load_training_state(const ArrayFile& file, Ugatit& model, UgatitTrainer& trainer) {
  const CheckpointInfo info = checkpoint_info(file);
  load_networks(file, model);
  const std::vector<Moment> moments = moments_of(model, trainer);
  std::vector<NamedShape> expected;
  for (const Moment& m : moments) expected.push_back({m.name, m.tensor.shape().extents()});
  require_state(file, kMomentPrefix, expected);
  for (const Moment& m : moments) load_tensor(file, kMomentPrefix + m.name, m.tensor);
  // Until optimisers could begin later than a run, checkpoints did not say.
  std::int64_t adam_steps = info.step;
  if (const auto found = file.metadata().find(kAdamStep); found != file.metadata().end()) {
    const auto [end, error] =
        std::from_chars(found->second.data(), found->second.data() + found->second.size(), adam_steps);
    if (error != std::errc() || *end != '\0' || adam_steps < 0 || adam_steps > info.step)
      throw CheckpointError(file.path().string() + " is damaged: its " + kAdamStep + " is impossible");
  }
  trainer.restore(info.step, adam_steps);
}

ProgramState load_program_state(const ArrayFile& file) {
  ProgramState state;
  for (const std::string& name : file.names()) {
    if (!name.starts_with(kStatePrefix)) continue;
    const auto bytes = file.at(name).bytes;
    const auto* begin = reinterpret_cast<const std::uint8_t*>(bytes.data());
    state[name.substr(std::strlen(kStatePrefix))] = {begin, begin + bytes.size()};
  }
  return state;
}

std::vector<ConvChoice> load_conv_choices(const ArrayFile& file, const Backend& backend) {
  const auto found = file.metadata().find(kConvChoices);
  if (found == file.metadata().end()) return {};
  auto choices = conv_choices_from_text(found->second, backend);
  if (!choices) throw CheckpointError(file.path().string() + " is damaged: its " + kConvChoices + " are malformed");
  return std::move(*choices);
}

void save_generator(const std::filesystem::path& file, Generator& generator, const UgatitOptions& options,
                    const std::string& direction, std::int64_t step) {
  Fetcher fetcher;
  std::vector<ArrayEntry> entries;
  for (const StateEntry& e : state_of(generator)) entries.push_back(fetcher.entry(e.name, *e.tensor));
  write_safetensors(
      file, entries,
      metadata_of({.kind = CheckpointInfo::Kind::generator, .options = options, .step = step, .direction = direction}));
}

std::optional<Generator> load_generator(const ArrayFile& file, const CheckpointInfo& info,
                                        const std::string& direction) {
  if (!info.direction.empty() && info.direction != direction) return std::nullopt;
  const std::string prefix = generator_prefix(info, direction);
  require_state(file, prefix, state_shapes(info.options.generator()));
  Random random = Random::blank();
  Generator generator(random, info.options.generator());
  load_state(file, generator, prefix);
  return generator;
}

std::int64_t training_checkpoint_bytes(Ugatit& model) {
  std::int64_t values = 0;
  for (const StateEntry& e : state_of(model)) values += e.tensor->size();
  return 4 * (values + 2 * parameter_count(model));
}

}  // namespace minidl
