#include "apps/training_setup.h"

#include <algorithm>
#include <iomanip>
#include <iostream>
#include <sstream>

#include "core/check.h"
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

std::unique_ptr<SafetensorsFile> require_checkpoint(const RunFolder& folder) {
  auto file = folder.newest_checkpoint(warn);
  check(file != nullptr, "there is no checkpoint in ", (folder.root() / "model").string(),
        "; train first, with the same --dataset and --result_dir");
  return file;
}

void warn(const std::string& line) { std::cerr << "train_ugatit: " << line << std::endl; }

double training_memory(const TrainOptions& o, std::int64_t parameters) {
  // Weights and two moments stay; gradients of one optimiser at a time are at most the discriminators'.
  const double states = 4.0 * 4.0 * static_cast<double>(parameters);
  // What two generators keep for backward while a third network runs, per pixel and base channel; measured.
  constexpr double kPerPixelChannel = 215.0;
  const double pixels = static_cast<double>(o.img_size * o.img_size * o.batch_size * o.ch);
  return states + kPerPixelChannel * pixels * (0.7 + 0.075 * static_cast<double>(o.n_res));
}

std::string bytes_text(double bytes) {
  std::ostringstream out;
  const bool large = bytes >= 1024.0 * 1024 * 1024;
  out << std::fixed << std::setprecision(large ? 1 : 0) << bytes / (large ? 1024.0 * 1024 * 1024 : 1024.0 * 1024)
      << (large ? " GiB" : " MiB");
  return out.str();
}

std::string run_summary(const TrainOptions& o, Ugatit& model, const RunFolder& folder, int threads) {
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
  row("loss weights", "adversarial ", o.adv_weight, ", cycle ", o.cycle_weight, ", identity ", o.identity_weight, ", map ",
      o.cam_weight);
  row("seed", o.seed);
  row("device", "CPU, ", threads, threads == 1 ? " thread" : " threads");
  row("memory", "about ", bytes_text(training_memory(o, all)));
  const double file = static_cast<double>(training_checkpoint_bytes(model));
  row("checkpoints", bytes_text(file), " each, ",
      o.keep > 0 ? concat_text("the newest ", o.keep, " and") : concat_text("one every ", o.save_freq, " iterations and"),
      " the latest");
  return out.str();
}

}  // namespace minidl
