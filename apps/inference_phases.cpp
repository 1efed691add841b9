// The phases of train_ugatit that use a trained model: test and deploy.
#include <unistd.h>
#include <iostream>
#include <set>

#include "apps/command_line.h"
#include "apps/device.h"
#include "apps/interrupt.h"
#include "apps/progress.h"
#include "apps/sheet.h"
#include "apps/training_data.h"
#include "apps/training_run.h"
#include "apps/training_setup.h"
#include "core/file.h"
#include "models/checkpoint.h"
#include "models/onnx_export.h"

namespace minidl {
namespace {

namespace fs = std::filesystem;

// The run's model as its newest checkpoint has it, in evaluation mode.
struct TrainedModel {
  std::int64_t step;
  std::unique_ptr<Ugatit> model;
  std::unique_ptr<ArrayFile> file;
  TrainOptions options;  // of the run, with the flags given anew

  TrainedModel(const RunFolder& folder, const TrainCommand& command)
      : file(require_checkpoint(folder, command.options)), options(command.options) {
    CheckpointInfo info = checkpoint_info(*file);
    check(info.kind != CheckpointInfo::Kind::generator, file->path().string(),
          " holds one generator; this needs a checkpoint of a training");
    require_networks(*file, info);
    std::vector<std::string> notes;
    const auto stored = nlohmann::json::parse(info.configuration, nullptr, /*allow_exceptions=*/false);
    if (info.kind == CheckpointInfo::Kind::networks) {
      options = options_with_networks(info, command, notes);
      info.options = options.model();
      for (const std::string& note : notes) std::cout << note << '\n';
    } else if (stored.is_object()) {
      options = merged_options(train_options_from_json(stored), command, notes);
    }
    Random random = Random::blank();
    model = std::make_unique<Ugatit>(random, info.options);
    load_networks(*file, *model);
    set_training(*model, false);
    step = info.step;
    std::cout << "using " << file->path().string() << (step >= 0 ? concat_text(", iteration ", step) : "") << '\n';
  }
};

// Where the translation of a test image goes: its relative path with the extension .png, or .png added where that would
// meet another image's.
fs::path translation_path(const fs::path& folder, const fs::path& name, std::set<fs::path>& taken) {
  fs::path path = folder / name;
  path.replace_extension(".png");
  if (!taken.insert(path).second) path = folder / (name.string() + ".png"), taken.insert(path);
  return path;
}

void test_direction(const std::string& direction, Generator& forward, Generator& back, const ImageFolder& images,
                    const UgatitOptions& options, const RunFolder& folder, DeviceType device, Progress& progress,
                    std::int64_t& done) {
  const int size = static_cast<int>(options.image_size), channels = static_cast<int>(options.image_channels);
  std::size_t next = 0;
  OrderedPipeline<ImageBatch> loader(
      {.threads = 1, .capacity = 4}, [&]() -> std::optional<OrderedPipeline<ImageBatch>::Job> {
        if (next == images.size()) return std::nullopt;
        return [&, file = images.file(next++)] { return load_resized(file, size, channels); };
      });
  std::set<fs::path> taken;
  for (std::size_t i = 0; i < images.size() && !interrupted(); ++i) {
    const ImageBatch image = *loader.next();
    const Column column = draw_column(
        forward, back, images_to_tensor(image.pixels, image.n, image.height, image.width, image.channels, device));
    write_file(folder.test() / concat_text(direction, "_", i + 1, ".png"), encode_png(column.column));
    const fs::path translation = translation_path(folder.test() / direction, images.names()[i], taken);
    create_folders(translation.parent_path());
    write_file(translation, encode_png(column.translation));
    progress.update(++done, "");
  }
}

}  // namespace

int test(const TrainCommand& command) {
  const TrainOptions& o = command.options;
  const fs::path dataset = dataset_folder(o);
  const ImageFolder test_a(dataset / "testA"), test_b(dataset / "testB");
  const RunFolder folder(o.result_dir, o.name());
  const DeviceType device = choose_device(o.device);
  use_threads(o.threads);
  TrainedModel trained(folder, command);
  set_up_convolutions(device, trained.options, trained.file.get());
  move_to(*trained.model, device);
  create_folders(folder.test());
  install_interrupt_handler();
  Ugatit& model = *trained.model;
  std::int64_t done = 0;
  Progress progress(std::cout, isatty(STDOUT_FILENO), "images", 0,
                    static_cast<std::int64_t>(test_a.size() + test_b.size()));
  test_direction("A2B", model.genA2B, model.genB2A, test_a, model.options, folder, device, progress, done);
  test_direction("B2A", model.genB2A, model.genA2B, test_b, model.options, folder, device, progress, done);
  progress.finish();
  if (interrupted()) return kInterruptedExit;
  std::cout << "done: strips and translations are in " << folder.test().string() << '\n';
  return 0;
}

int deploy(const TrainCommand& command) {
  const RunFolder folder(command.options.result_dir, command.options.name());
  TrainedModel trained(folder, command);
  create_folders(folder.deploy());
  Ugatit& model = *trained.model;
  for (auto [direction, generator] : {std::pair("A2B", &model.genA2B), std::pair("B2A", &model.genB2A)}) {
    const fs::path file = folder.deploy() / concat_text(direction, ".safetensors");
    save_generator(file, *generator, model.options, direction, trained.step);
    std::cout << "wrote " << file.string() << '\n';
    if (!can_write_onnx()) continue;
    const fs::path onnx = folder.deploy() / concat_text(direction, ".onnx");
    write_onnx(onnx, *generator, direction, trained.step);
    std::cout << "wrote " << onnx.string() << '\n';
  }
  if (!can_write_onnx()) std::cout << "no ONNX models: this build of libminidl has no ONNX (MINIDL_ONNX)\n";
  return 0;
}

}  // namespace minidl
