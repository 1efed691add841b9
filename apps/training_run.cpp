#include "apps/training_run.h"

#include <unistd.h>

#include <chrono>
#include <iomanip>
#include <iostream>
#include <random>
#include <sstream>

#include "apps/command_line.h"
#include "apps/device.h"
#include "apps/interrupt.h"
#include "apps/metrics_log.h"
#include "apps/progress.h"
#include "apps/run_folder.h"
#include "apps/sheet.h"
#include "apps/training_data.h"
#include "apps/training_setup.h"
#include "core/file.h"
#include "core/image_uploads.h"
#include "models/checkpoint.h"

namespace minidl {
namespace {

using Clock = std::chrono::steady_clock;

// The loader's state in a checkpoint, and back.
ProgramState to_program_state(const TrainingDataState& state) {
  const auto numbers = state.numbers();
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(numbers.data());
  return {{"random", state.random}, {"loader", {bytes, bytes + sizeof numbers}}};
}

TrainingDataState from_program_state(const ProgramState& state, const std::string& file) {
  check(state.count("random") && state.count("loader"), file, " lacks the state of the loader; it cannot be resumed");
  const std::vector<std::uint8_t>& bytes = state.at("loader");
  std::vector<std::int64_t> numbers(bytes.size() / sizeof(std::int64_t));
  std::memcpy(numbers.data(), bytes.data(), numbers.size() * sizeof(std::int64_t));
  return TrainingDataState::restore(state.at("random"), numbers);
}

std::int64_t chosen_seed(std::int64_t seed) { return seed >= 0 ? seed : std::int64_t{std::random_device{}()}; }

void report_unread(const ImageFolder& folder) {
  for (const auto& file : folder.unsupported())
    warn(concat_text((folder.root() / file).string(), " is of a type that is not read and is left out"));
  for (const auto& link : folder.linked_folders())
    warn(concat_text((folder.root() / link).string(), " is a linked folder and is left out, as in the reference"));
}

// One call of --phase train.
class TrainingRun {
 public:
  explicit TrainingRun(const TrainCommand& command)
      : folder_(command.options.result_dir, command.options.name()),
        images_(dataset_folder(command.options)),
        device_(choose_device(command.options.device)),
        threads_(use_threads(command.options.threads)) {
    for (const ImageFolder* images : {&images_.train_a, &images_.train_b, &images_.test_a, &images_.test_b})
      report_unread(*images);
    // Before anything is deleted.
    use_precision(device_, command.options.precision);
    check(!command.options.cuda_graph || backend_of(device_).can_record(),
          "--cuda_graph needs a GPU; this run is on the ", backend_of(device_).name());
    start(command);
    std::cout << run_summary(options_, *model_, folder_, device_, threads_) << std::flush;
  }

  int run() {
    if (step_ >= options_.iteration) {
      std::cout << "already trained for " << step_ << " iterations; a larger --iteration continues\n";
      return 0;
    }
    create_folders(folder_.root() / "model");
    create_folders(folder_.root() / "img");
    MetricsLog metrics(folder_.metrics(), step_);
    TrainingData data(images_,
                      {.batch_size = options_.batch_size,
                       .image_size = static_cast<int>(options_.img_size),
                       .channels = static_cast<int>(options_.img_ch),
                       .print_freq = options_.print_freq,
                       .first_step = step_ + 1,
                       .last_step = options_.iteration,
                       .threads = 2,
                       .capacity = 4},
                      data_state_);
    Progress progress(std::cout, isatty(STDOUT_FILENO), "it", step_, options_.iteration);
    install_interrupt_handler();
    ImageUploads uploads(device_);
    std::unique_ptr<Iteration> before;  // begun, and not finished
    const auto finish_before = [&] {
      if (before) finish(*before, metrics, progress);
      before.reset();
    };
    const auto next_images = [&] {
      try {
        return sent_images(data, uploads);
      } catch (const Error&) {  // a broken image stops the run; what was learnt until then is kept
        finish_before();
        if (step_ > 0 && saved_latest_ != step_) save_latest();
        throw;
      }
    };
    finished_ = Clock::now();
    std::optional<TrainingStep> images = next_images();
    while (images && !interrupted()) {
      const Tensor real_A = uploads.receive(), real_B = uploads.receive();
      Iteration now{std::move(*images), trainer_->begin_step(real_A, real_B), trainer_->lr()};
      finish_before();
      // The device computes meanwhile, unless somebody wants to see what this iteration has made of the networks.
      if (now.losses.ready() || is_looked_at(now.images)) {
        finish(now, metrics, progress);
      } else {
        before = std::make_unique<Iteration>(std::move(now));
      }
      if (!interrupted()) images = next_images();
    }
    finish_before();
    if (saved_latest_ != step_) save_latest();
    progress.finish();
    if (interrupted() && step_ < options_.iteration) {
      std::cout << "interrupted; iteration " << step_ << " is saved and --resume true continues\n";
      return kInterruptedExit;
    }
    std::cout << "done: " << options_.iteration << " iterations; see " << (folder_.root() / "img").string() << '\n';
    return 0;
  }

 private:
  void start(const TrainCommand& command) {
    const TrainOptions& o = command.options;
    const std::string given = !o.resume_from.empty() ? o.resume_from : o.init_from;
    std::unique_ptr<ArrayFile> own, file;
    if (o.resume) {
      own = folder_.newest_checkpoint(warn);
      if (!own)
        std::cout << "there is no checkpoint in " << folder_.root().string()
                  << (given.empty() ? "; beginning anew\n" : "; beginning with " + given + "\n");
    }
    if (own) return resume(command, *own);
    if (!given.empty()) file = open_array_file(given);
    if (o.overwrite) {
      check(!file || !folder_.contains(given), "--overwrite would delete ", given,
            ", from which the run is to begin; move it elsewhere first");
    } else if (!o.resume) {
      // The official program keeps its checkpoints in the same place: its results are not in the way of its own.
      check(file && folder_.contains(given) ? !folder_.has_checkpoints() : !folder_.has_results(),
            "there are results of an earlier run in ", folder_.root().string(),
            "; continue it with --resume true, or delete it with --overwrite true");
    }
    if (!file)
      begin(command);
    else if (!o.resume_from.empty() && checkpoint_info(*file).kind == CheckpointInfo::Kind::training)
      resume(command, *file);
    else
      begin_with(command, *file);
    if (o.overwrite) folder_.clear();  // now that nothing can be wrong with the file and the flags
  }

  void begin(const TrainCommand& command) {
    options_ = command.options;
    options_.seed = chosen_seed(options_.seed);
    set_up_convolutions(device_, options_, nullptr);
    Random random(static_cast<std::uint64_t>(options_.seed));
    build(random);
    data_state_ = TrainingDataState::first(images_, random);
  }

  // With the networks of a file that holds no more, or of which no more is wanted.
  void begin_with(const TrainCommand& command, const ArrayFile& file) {
    const CheckpointInfo info = checkpoint_info(file);
    const bool resumed = !command.options.resume_from.empty();
    check(info.kind != CheckpointInfo::Kind::generator, file.path().string(),
          " holds one generator; training needs all six networks");
    check(!resumed || info.step >= 0, file.path().string(),
          " does not say how long it was trained: rename it to something like ",
          folder_.checkpoint(100'000).stem().string(), file.path().extension().string(),
          ", or begin at iteration 0 with --init_from");
    require_networks(file, info);
    TrainCommand with_networks = command;
    std::vector<std::string> notes;
    with_networks.options = options_with_networks(info, command, notes);
    const std::string foreign = foreign_arrays(file, info);
    if (info.kind == CheckpointInfo::Kind::networks && !foreign.empty()) notes.push_back("not used: " + foreign);
    for (const std::string& note : notes) std::cout << note << '\n';
    begin(with_networks);
    load_networks(file, *model_);
    if (resumed) {
      trainer_->restore(info.step, 0);
      step_ = info.step;
      std::cout << "continuing from " << file.path().string() << ", iteration " << step_
                << "; it holds the networks only, so Adam's moments and the order of the images start afresh\n";
    } else {
      std::cout << "beginning with the networks of " << file.path().string() << '\n';
    }
  }

  void resume(const TrainCommand& command, const ArrayFile& file) {
    const CheckpointInfo info = checkpoint_info(file);
    const auto stored = nlohmann::json::parse(info.configuration, nullptr, /*allow_exceptions=*/false);
    check(stored.is_object(), file.path().string(), " holds no configuration of train_ugatit");
    require_networks(file, info);
    std::vector<std::string> notes;
    options_ = merged_options(train_options_from_json(stored), command, notes);
    for (const std::string& note : notes) std::cout << note << '\n';
    set_up_convolutions(device_, options_, &file);
    Random random = Random::blank();
    build(random);
    load_training_state(file, *model_, *trainer_);
    data_state_ = from_program_state(load_program_state(file), file.path().string());
    step_ = saved_latest_ = info.step;
    if (file.path() != folder_.latest_checkpoint()) saved_latest_ = -1;
    std::cout << "continuing from " << file.path().string() << ", iteration " << step_ << '\n';
  }

  void build(Random& random) {
    model_ = std::make_unique<Ugatit>(random, options_.model());
    move_to(*model_, device_);
    trainer_ = std::make_unique<UgatitTrainer>(*model_, options_.training());
    if (options_.cuda_graph) trainer_->record_iterations();
  }

  // An iteration that the device has been asked for.
  struct Iteration {
    TrainingStep images;
    PendingLosses losses;
    double lr;
  };

  // Images that travel to the device while it computes; nullopt after the last iteration.
  static std::optional<TrainingStep> sent_images(TrainingData& data, ImageUploads& uploads) {
    std::optional<TrainingStep> images = data.next();
    if (images)
      for (const ImageBatch* batch : {&images->a, &images->b})
        uploads.send(batch->pixels, batch->n, batch->height, batch->width, batch->channels);
    return images;
  }

  // Whether the networks are read after an iteration, and so the next one must not have begun.
  bool is_looked_at(const TrainingStep& images) const {
    return images.sheet || images.step % options_.save_freq == 0 || images.step % options_.latest_freq == 0;
  }

  // Waits for the losses of an iteration, checks and logs them, and writes what is due.
  void finish(Iteration& iteration, MetricsLog& metrics, Progress& progress) {
    const TrainingStep& images = iteration.images;
    const UgatitLosses losses = iteration.losses.get();
    const double seconds = std::chrono::duration<double>(Clock::now() - finished_).count();
    const std::string broken = losses.first_not_finite();
    if (!broken.empty()) {
      progress.finish();
      fail("iteration ", images.step, ": ", broken,
           " is not finite, so training has stopped; nothing was overwritten, ",
           "and --resume true continues from the last checkpoint (a lower --lr may help)");
    }
    metrics.append(images.step, losses, iteration.lr, seconds);
    if (images.sheet) write_sheets(images.step, *images.sheet);
    step_ = images.step;
    data_state_ = images.state_after;
    if (step_ % options_.save_freq == 0) save_numbered();
    if (step_ % options_.latest_freq == 0 && saved_latest_ != step_) save_latest();
    progress.update(step_, losses_text(losses));
    finished_ = Clock::now();
  }

  void write_sheets(std::int64_t step, const TrainingStep::Sheet& images) {
    set_training(*model_, false);
    const Sheets sheets = draw_sheets(*model_, images, device_);
    set_training(*model_, true);
    write_file(folder_.sheet("A2B", step), encode_png(sheets.A2B));
    write_file(folder_.sheet("B2A", step), encode_png(sheets.B2A));
  }

  void save(const std::filesystem::path& file) {
    save_training_checkpoint(file, *model_, *trainer_, to_json(options_).dump(), to_program_state(data_state_),
                             backend_of(device_).conv_choices());
  }

  void save_numbered() {
    save(folder_.checkpoint(step_));
    if (options_.keep > 0) folder_.prune(options_.keep);
  }

  void save_latest() {
    save(folder_.latest_checkpoint());
    saved_latest_ = step_;
  }

  static std::string losses_text(const UgatitLosses& losses) {
    std::ostringstream text;
    text << std::fixed << std::setprecision(4) << ", d_loss " << losses.discriminator << ", g_loss "
         << losses.generator;
    return text.str();
  }

  RunFolder folder_;
  TrainingFolders images_;
  DeviceType device_;
  int threads_;
  TrainOptions options_;
  std::unique_ptr<Ugatit> model_;
  std::unique_ptr<UgatitTrainer> trainer_;
  TrainingDataState data_state_;
  std::int64_t step_ = 0;
  Clock::time_point finished_;      // when the iteration before was
  std::int64_t saved_latest_ = -1;  // step of the latest checkpoint on disk, if known
};

}  // namespace

int train(const TrainCommand& command) { return TrainingRun(command).run(); }

}  // namespace minidl
