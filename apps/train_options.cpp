#include "apps/train_options.h"

#include <filesystem>
#include <optional>

#include "apps/command_line.h"

namespace minidl {
namespace {

constexpr double kMany = 1e15;  // more than any count

// Where a flag's value may come from when a run is resumed.
enum class Kind {
  network,  // fixed by the checkpoint
  run,      // stored; may be given anew
  call,     // belongs to one call and is not stored
};

// The one list of flags. f(name, kind, field, help, limits or choices).
template <class Options, class F>
void for_each_flag(Options& o, F f) {
  using Words = std::initializer_list<std::string>;
  f("phase", Kind::call, o.phase, "what to do: train, test or deploy", Words{"train", "test", "deploy"});
  f("dataset", Kind::call, o.dataset, "a folder name under dataset/, or a path, with trainA, trainB, testA, testB",
    Words{});
  f("result_dir", Kind::call, o.result_dir, "where results go, in a folder named after the data set", Words{});
  f("device", Kind::call, o.device, "where to compute", Words{"auto", "cpu", "cuda"});
  f("light", Kind::network, o.light, "the light model: ten million parameters a generator, any image size", Range{});
  f("ch", Kind::network, o.ch, "base channels", Range{1, 1024});
  f("n_res", Kind::network, o.n_res, "residual blocks", Range{1, 64});
  f("n_dis", Kind::network, o.n_dis, "depth of the discriminators: global n_dis + 1 layers, local n_dis - 1",
    Range{4, 10});
  f("img_size", Kind::network, o.img_size, "side of the images in pixels, a multiple of 4", Range{1, 8192});
  f("img_ch", Kind::network, o.img_ch, "channels of the images: 3, or 1 for grey", Range{1, 3});
  f("iteration", Kind::run, o.iteration, "iterations to train in all", Range{1, kMany});
  f("batch_size", Kind::run, o.batch_size, "images of each domain per iteration", Range{1, 1024});
  f("decay_flag", Kind::run, o.decay_flag, "let the learning rate fall to 0 over the second half", Range{});
  f("lr", Kind::run, o.lr, "learning rate", Range{0, 1});
  f("weight_decay", Kind::run, o.weight_decay, "L2 weight decay", Range{0, 1});
  f("adv_weight", Kind::run, o.adv_weight, "weight of the adversarial losses", Range{0, 1e9});
  f("cycle_weight", Kind::run, o.cycle_weight, "weight of the cycle losses", Range{0, 1e9});
  f("identity_weight", Kind::run, o.identity_weight, "weight of the identity losses", Range{0, 1e9});
  f("cam_weight", Kind::run, o.cam_weight, "weight of the class activation map losses", Range{0, 1e9});
  f("print_freq", Kind::run, o.print_freq, "iterations between sheets of images", Range{1, kMany});
  f("save_freq", Kind::run, o.save_freq, "iterations between numbered checkpoints", Range{1, kMany});
  f("latest_freq", Kind::run, o.latest_freq, "iterations between saves of the latest checkpoint", Range{1, kMany});
  f("keep", Kind::run, o.keep, "numbered checkpoints to keep; 0 keeps all", Range{0, kMany});
  f("resume", Kind::call, o.resume, "continue from the newest checkpoint of the run", Range{});
  f("resume_from", Kind::call, o.resume_from,
    "continue from this checkpoint, ours or the official program's .pt; one of the run's own goes first with --resume",
    Words{});
  f("init_from", Kind::call, o.init_from, "begin at iteration 0 with the networks of this checkpoint; likewise",
    Words{});
  f("overwrite", Kind::call, o.overwrite, "delete the results of an earlier run of the same name first", Range{});
  f("seed", Kind::run, o.seed, "replays torch.manual_seed(seed) of the reference; -1 chooses one and records it",
    Range{-1, 9.2e18});
  f("threads", Kind::call, o.threads, "threads to compute with; 0 takes every core", Range{0, 1024});
  f("benchmark_flag", Kind::run, o.benchmark_flag,
    "measure which algorithm is fastest for each convolution, instead of a fixed rule", Range{});
  f("precision", Kind::run, o.precision,
    "fp32, or tf32 (GPU) or bf16 to round the operands of convolutions to that format where it is faster",
    Words{"fp32", "tf32", "bf16"});
  f("cuda_graph", Kind::call, o.cuda_graph, "let the GPU record an iteration and repeat it by itself", Range{});
}

std::string checkpoint_text(const nlohmann::json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

}  // namespace

UgatitOptions TrainOptions::model() const {
  return {.image_channels = img_ch,
          .channels = ch,
          .residual_blocks = n_res,
          .discriminator_depth = n_dis,
          .image_size = img_size,
          .light = light};
}

UgatitTrainingOptions TrainOptions::training() const {
  return {.lr = lr,
          .weight_decay = weight_decay,
          .adv_weight = static_cast<float>(adv_weight),
          .cycle_weight = static_cast<float>(cycle_weight),
          .identity_weight = static_cast<float>(identity_weight),
          .cam_weight = static_cast<float>(cam_weight),
          .decay_lr = decay_flag,
          .iterations = iteration};
}

std::string TrainOptions::name() const {
  std::filesystem::path path = std::filesystem::path(dataset).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // "photos/"
  if (path == "." || path == ".." || path.empty()) path = std::filesystem::absolute(dataset).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

namespace {

// Throws UsageError unless the networks take images of --img_size.
void check_size(const TrainOptions& o) {
  if (o.img_size % 4 != 0)
    throw UsageError(concat_text("--img_size must be a multiple of 4, not ", o.img_size, "; the nearest are ",
                                 o.img_size / 4 * 4, " and ", o.img_size / 4 * 4 + 4));
  const std::int64_t smallest = Discriminator::smallest_image(o.n_dis + 1);
  if (o.img_size < smallest)
    throw UsageError(concat_text("--img_size ", o.img_size, " is too small for the discriminators; with --n_dis ",
                                 o.n_dis, " it must be at least ", smallest));
}

}  // namespace

std::optional<TrainCommand> parse_train_command(int argc, const char* const* argv) {
  TrainCommand command;
  TrainOptions& o = command.options;
  CommandLine line("train_ugatit", "Trains U-GAT-IT, unpaired image-to-image translation, on two folders of images.");
  for_each_flag(o, [&](const char* name, Kind, auto& field, const char* help, const auto& limits) {
    if constexpr (std::is_same_v<decltype(field), bool&>)
      line.flag(name, field, help);
    else
      line.flag(name, field, help, limits);
  });
  if (!line.parse(argc, argv)) return std::nullopt;
  for_each_flag(o, [&](const char* name, Kind, auto&, const char*, const auto&) {
    if (line.given(name)) command.given.insert(name);
  });
  if (o.img_ch == 2) throw UsageError("--img_ch must be 3 (colour) or 1 (grey), not 2");
  if (o.resume_from.empty() && o.init_from.empty()) check_size(o);  // else the networks are not known yet
  if (o.resume && o.overwrite)
    throw UsageError("--resume continues a run and --overwrite deletes it: give one of them");
  if (!o.resume_from.empty() && !o.init_from.empty())
    throw UsageError("--resume_from continues a training and --init_from begins one: give one of them");
  if (o.phase != "train" && !o.init_from.empty())
    throw UsageError("--init_from begins a training; --phase " + o.phase + " takes --resume_from");
  return command;
}

nlohmann::json to_json(const TrainOptions& options) {
  nlohmann::json json;
  for_each_flag(options, [&](const char* name, Kind kind, const auto& field, const char*, const auto&) {
    if (kind != Kind::call) json[name] = field;
  });
  return json;
}

TrainOptions train_options_from_json(const nlohmann::json& json) {
  TrainOptions options;
  for_each_flag(options, [&](const char* name, Kind kind, auto& field, const char*, const auto&) {
    if (kind != Kind::call && json.contains(name)) json.at(name).get_to(field);
  });
  return options;
}

TrainOptions merged_options(const TrainOptions& stored, const TrainCommand& command, std::vector<std::string>& notes) {
  const nlohmann::json before = to_json(stored), wanted = to_json(command.options);
  nlohmann::json merged = before;
  for_each_flag(stored, [&](const char* name, Kind kind, const auto&, const char*, const auto&) {
    if (kind == Kind::call || !command.given.count(name) || wanted[name] == before[name]) return;
    const std::string change = concat_text("--", name, ": ", checkpoint_text(wanted[name]),
                                           " instead of the checkpoint's ", checkpoint_text(before[name]));
    check(kind != Kind::network, change,
          " would be another network; leave the flag out, or train anew with --overwrite true");
    if (std::string(name) == "seed") {
      notes.push_back("--seed: ignored, a resumed run continues its own random numbers");
      return;
    }
    merged[name] = wanted[name];
    notes.push_back(change);
  });
  TrainOptions result = command.options;  // for what is not stored
  for_each_flag(result, [&](const char* name, Kind kind, auto& field, const char*, const auto&) {
    if (kind != Kind::call) merged.at(name).get_to(field);
  });
  return result;
}

TrainOptions options_with_networks(const CheckpointInfo& networks, const TrainCommand& command,
                                   std::vector<std::string>& notes) {
  const UgatitOptions& n = networks.options;
  TrainOptions fixed = command.options;
  fixed.light = n.light;
  fixed.ch = n.channels;
  fixed.n_res = n.residual_blocks;
  fixed.n_dis = n.discriminator_depth;
  fixed.img_ch = n.image_channels;
  if (!n.light || !command.given.count("img_size")) {
    fixed.img_size = n.image_size;
    if (!networks.size_known)
      notes.push_back(
          concat_text("the checkpoint does not say for which image size its light model was trained; taking ",
                      n.image_size, ", --img_size says otherwise"));
  }
  TrainOptions options = merged_options(fixed, command, notes);
  check_size(options);
  return options;
}

}  // namespace minidl
