#include "apps/training_setup.h"

#include <algorithm>
#include <iomanip>
#include <iostream>
#include <sstream>

#include "apps/device.h"
#include "core/check.h"
#include "core/file.h"
#include "models/checkpoint.h"

namespace minidl {

namespace fs = std::filesystem;

fs::path dataset_folder(const TrainOptions& options) {
  std::error_code ignored;
  const fs::path named = fs::path("dataset") / options.dataset;
  if (fs::is_directory(named, ignored)) return named;
  check(fs::is_directory(options.dataset, ignored), "there is no data set '", options.dataset, "': neither ",
        named.string(), " nor ", options.dataset,
        " is a folder; give --dataset a folder that holds trainA, trainB, testA and testB");
  return options.dataset;
}

namespace {

// The folder itself or the nearest one above it that exists.
fs::path existing_parent(fs::path folder) {
  std::error_code ignored;
  folder = fs::absolute(folder);
  while (folder.has_relative_path() && !fs::exists(folder, ignored)) folder = folder.parent_path();
  return folder;
}

}  // namespace

std::unique_ptr<ArrayFile> require_checkpoint(const RunFolder& folder, const TrainOptions& options) {
  if (!options.resume_from.empty()) return open_array_file(options.resume_from);
  auto file = folder.newest_checkpoint(warn);
  check(file != nullptr, "there is no checkpoint in ", (folder.root() / "model").string(),
        "; train first, with the same --dataset and --result_dir");
  return file;
}

void set_up_convolutions(DeviceType device, const TrainOptions& options, const ArrayFile* checkpoint) {
  Backend& backend = backend_of(device);
  use_precision(device, options.precision);
  backend.set_benchmark(false);  // forgets
  if (!options.benchmark_flag) return;
  backend.set_benchmark(true);
  if (!checkpoint) return;
  const std::vector<ConvChoice> stored = load_conv_choices(*checkpoint, backend);
  backend.set_conv_choices(stored);
  const std::vector<ConvChoice> taken = backend.conv_choices();
  const auto lacking = std::count_if(stored.begin(), stored.end(), [&](const ConvChoice& choice) {
    return std::find(taken.begin(), taken.end(), choice) == taken.end();
  });
  if (lacking > 0)
    warn(concat_text("of the checkpoint's ", stored.size(), " choices of convolution algorithms this device lacks ",
                     lacking, "; the fixed rule replaces them"));
}

void warn(const std::string& line) { std::cerr << "train_ugatit: " << line << std::endl; }

double training_memory(const TrainOptions& o, std::int64_t parameters) {
  // Both constants are fitted to the peak resident memory of light runs at ch 32 and 64, 128 and 256 pixels.
  // Weights, two moments, the discriminators' gradients, and the copies that convolutions make.
  constexpr double kPerParameter = 22.0;
  // What two translations and a third network keep for backward, per pixel and base channel.
  constexpr double kPerPixelChannel = 267.0;
  const double pixels = static_cast<double>(o.img_size * o.img_size * o.batch_size * o.ch);
  return kPerParameter * static_cast<double>(parameters) +
         kPerPixelChannel * pixels * (0.85 + 0.0375 * static_cast<double>(o.n_res));
}

std::string bytes_text(double bytes) {
  std::ostringstream out;
  const bool large = bytes >= 1024.0 * 1024 * 1024;
  out << std::fixed << std::setprecision(large ? 1 : 0) << bytes / (large ? 1024.0 * 1024 * 1024 : 1024.0 * 1024)
      << (large ? " GiB" : " MiB");
  return out.str();
}

std::string run_summary(const TrainOptions& o, Ugatit& model, const RunFolder& folder, DeviceType device, int threads) {
  std::ostringstream out;
  const auto millions = [](std::int64_t count) {
    std::ostringstream text;
    text << std::fixed << std::setprecision(2) << static_cast<double>(count) / 1e6 << " million";
    return text.str();
  };
  const auto row = [&](const char* name, const auto&... values) {
    out << "  " << std::left << std::setw(16) << name;
    (out << ... << values) << '\n';
  };
  const std::int64_t generator = parameter_count(model.genA2B), all = parameter_count(model);
  out << "U-GAT-IT, " << (o.light ? "light" : "full") << " model\n";
  row("data set", dataset_folder(o).string());
  row("results", folder.root().string());
  row("images", o.img_size, " x ", o.img_size, ", ", o.img_ch == 1 ? "grey" : "colour", ", batches of ", o.batch_size);
  row("networks", "ch ", o.ch, ", n_res ", o.n_res, ", n_dis ", o.n_dis);
  row("parameters", millions(generator), " a generator, ", millions(parameter_count(model.disGA)), " and ",
      millions(parameter_count(model.disLA)), " a discriminator, ", millions(all), " in all");
  row("training", o.iteration, " iterations, learning rate ", o.lr, o.decay_flag ? " falling over the second half" : "",
      ", weight decay ", o.weight_decay);
  row("loss weights", "adversarial ", o.adv_weight, ", cycle ", o.cycle_weight, ", identity ", o.identity_weight,
      ", map ", o.cam_weight);
  row("seed", o.seed);
  row("device", backend_of(device).name(),
      device == DeviceType::cpu ? concat_text(", ", threads, threads == 1 ? " thread" : " threads") : "",
      o.precision == "bf16"   ? ", bfloat16 convolutions where faster"
      : o.precision == "tf32" ? ", TF32 convolutions where faster"
                              : "",
      o.cuda_graph ? ", iterations recorded" : "", o.benchmark_flag ? ", fastest algorithms measured" : "");
  if (device == DeviceType::cpu) row("memory", "about ", bytes_text(training_memory(o, all)));
  const double file = static_cast<double>(training_checkpoint_bytes(model));
  row("checkpoints", bytes_text(file), " each, ",
      o.keep > 0 ? concat_text("the newest ", o.keep, " and")
                 : concat_text("one every ", o.save_freq, " iterations and"),
      " the latest; ", bytes_text(static_cast<double>(free_space(existing_parent(folder.root())))), " are free");
  return out.str();
}

}  // namespace minidl
