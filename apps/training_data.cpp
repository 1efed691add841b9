#include "apps/training_data.h"

#include <utility>

#include "core/check.h"
#include "core/image.h"

namespace minidl {
namespace {

const std::filesystem::path& checked_dataset(const std::filesystem::path& dataset) {
  check(std::filesystem::is_directory(dataset), "data set ", dataset,
        " is not a folder: expected one that holds the folders trainA, trainB, testA and testB");
  return dataset;
}

using Folder = TrainingDataState::Folder;

FolderSampler resumed(const ImageFolder& folder, const Folder& state, FolderSamplerOptions options) {
  options.files = static_cast<std::int64_t>(folder.size());
  check(options.files == state.files, "image folder ", folder.root(), " holds ", options.files,
        " images, but the run to be continued was stopped with ", state.files,
        ": restore the data set or start a new run");
  FolderSampler sampler(options);
  sampler.set_state(state.sampler);
  return sampler;
}

Random restored(std::span<const std::uint8_t> state) {
  Random random(0);
  random.set_state(state);
  return random;
}

TrainingDataOptions checked(TrainingDataOptions options) {
  check(options.image_size > 0, "training data: the image size must be positive, got ", options.image_size);
  check(options.channels == 1 || options.channels == 3, "training data: images have 1 or 3 channels, not ",
        options.channels);
  check(options.print_freq > 0, "training data: print_freq must be positive, got ", options.print_freq);
  return options;
}

Image read(const std::filesystem::path& file, int channels) {
  Image image = read_image(file);
  return channels == 1 ? to_grey(image) : image;
}

ImageBatch empty_batch(std::size_t n, int size, int channels) {
  return {.n = static_cast<int>(n), .height = size, .width = size, .channels = channels, .pixels = {}};
}

}  // namespace

TrainingFolders::TrainingFolders(const std::filesystem::path& dataset)
    : train_a(checked_dataset(dataset) / "trainA"),
      train_b(dataset / "trainB"),
      test_a(dataset / "testA"),
      test_b(dataset / "testB") {}

ImageBatch load_resized(const std::filesystem::path& file, int size, int channels) {
  ImageBatch batch = empty_batch(1, size, channels);
  batch.pixels = resize_bilinear(read(file, channels), size, size).pixels;
  return batch;
}

TrainingDataState TrainingDataState::first(const TrainingFolders& folders, const Random& random) {
  const auto untouched = [](const ImageFolder& images) {
    const auto files = static_cast<std::int64_t>(images.size());
    return Folder{files, FolderSampler({.files = files}).state()};
  };
  return {.random = random.state(),
          .folders = {untouched(folders.train_a), untouched(folders.train_b), untouched(folders.test_a),
                      untouched(folders.test_b)}};
}

std::array<std::int64_t, TrainingDataState::kNumbers> TrainingDataState::numbers() const {
  std::array<std::int64_t, kNumbers> numbers;
  auto out = numbers.begin();
  for (const Folder& folder : folders)
    for (std::int64_t number : {folder.files, folder.sampler.order_seed, folder.sampler.position}) *out++ = number;
  return numbers;
}

TrainingDataState TrainingDataState::restore(std::vector<std::uint8_t> random, std::span<const std::int64_t> numbers) {
  check(numbers.size() == kNumbers, "training data state: expected ", kNumbers, " numbers, got ", numbers.size());
  TrainingDataState state{.random = std::move(random), .folders = {}};
  for (std::size_t i = 0; i < state.folders.size(); ++i)
    state.folders[i] = {numbers[3 * i], {numbers[3 * i + 1], numbers[3 * i + 2]}};
  return state;
}

// The draws of one step.
struct TrainingData::Drawn {
  struct Pair {
    std::vector<Pick> a, b;
  };

  std::int64_t step = 0;
  Pair batch;
  std::vector<Pair> sheet_training, sheet_test;
  TrainingDataState state_after;
};

TrainingData::TrainingData(TrainingFolders folders, TrainingDataOptions options, const TrainingDataState& state)
    : folders_(std::move(folders)),
      options_(checked(options)),
      next_step_(options.first_step),
      random_(restored(state.random)),
      train_a_(resumed(folders_.train_a, state.folders[0], {.batch_size = options.batch_size})),
      train_b_(resumed(folders_.train_b, state.folders[1], {.batch_size = options.batch_size})),
      test_a_(resumed(folders_.test_a, state.folders[2], {.shuffle_and_augment = false})),
      test_b_(resumed(folders_.test_b, state.folders[3], {.shuffle_and_augment = false})),
      pipeline_({.threads = options.threads, .capacity = options.capacity}, [this]() -> std::optional<Pipeline::Job> {
        if (next_step_ > options_.last_step) return std::nullopt;
        return [this, drawn = draw()] { return load(drawn); };
      }) {}

TrainingData::Drawn TrainingData::draw() {
  // Braces evaluate from left to right: A draws before B.
  const auto training = [this] { return Drawn::Pair{train_a_.next(random_), train_b_.next(random_)}; };
  const auto test = [this] { return Drawn::Pair{test_a_.next(random_), test_b_.next(random_)}; };
  Drawn drawn{.step = next_step_++, .batch = training(), .sheet_training = {}, .sheet_test = {}, .state_after = {}};
  if (drawn.step % options_.print_freq == 0) {
    for (int i = 0; i < kSheetImages; ++i) drawn.sheet_training.push_back(training());
    for (int i = 0; i < kSheetImages; ++i) drawn.sheet_test.push_back(test());
  }
  drawn.state_after = state();
  return drawn;
}

TrainingDataState TrainingData::state() const {
  const auto folder = [](const ImageFolder& images, const FolderSampler& sampler) {
    return Folder{static_cast<std::int64_t>(images.size()), sampler.state()};
  };
  return {.random = random_.state(),
          .folders = {folder(folders_.train_a, train_a_), folder(folders_.train_b, train_b_),
                      folder(folders_.test_a, test_a_), folder(folders_.test_b, test_b_)}};
}

ImageBatch TrainingData::load_training(const ImageFolder& folder, std::span<const Pick> picks) const {
  const int size = options_.image_size, resized = size + FolderSampler::kCropMargin;
  ImageBatch batch = empty_batch(picks.size(), size, options_.channels);
  for (const Pick& pick : picks) {
    Image image = read(folder.file(static_cast<std::size_t>(pick.index)), options_.channels);
    if (pick.flip) image = flip_horizontal(image);
    image = crop(resize_bilinear(image, resized, resized), pick.row, pick.column, size, size);
    batch.pixels.insert(batch.pixels.end(), image.pixels.begin(), image.pixels.end());
  }
  return batch;
}

TrainingStep TrainingData::load(const Drawn& drawn) const {
  TrainingStep step{.step = drawn.step,
                    .a = load_training(folders_.train_a, drawn.batch.a),
                    .b = load_training(folders_.train_b, drawn.batch.b),
                    .sheet = std::nullopt,
                    .state_after = drawn.state_after};
  if (drawn.sheet_training.empty()) return step;
  const auto load_test = [this](const ImageFolder& folder, const std::vector<Pick>& picks) {
    return load_resized(folder.file(static_cast<std::size_t>(picks.front().index)), options_.image_size,
                        options_.channels);
  };
  TrainingStep::Sheet& sheet = step.sheet.emplace();
  for (const auto& [a, b] : drawn.sheet_training) {
    // A sheet shows the first image of each batch.
    sheet.train_a.push_back(load_training(folders_.train_a, std::span(a).first(1)));
    sheet.train_b.push_back(load_training(folders_.train_b, std::span(b).first(1)));
  }
  for (const auto& [a, b] : drawn.sheet_test) {
    sheet.test_a.push_back(load_test(folders_.test_a, a));
    sheet.test_b.push_back(load_test(folders_.test_b, b));
  }
  return step;
}

}  // namespace minidl
