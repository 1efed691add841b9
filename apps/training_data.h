// The images of a training run, drawn in the reference's order and loaded ahead in the background.
//
// 1. All random draws happen step by step in one place: training images of A and B, then, for a step with a
//    sheet, five batches of each training folder and five images of each test folder, alternating A and B. Decoding
//    draws nothing, so the number of threads changes no pixel.
// 2. Every step carries the state after its draws: a run continued from there gets the images of one never stopped.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "core/folder_sampler.h"
#include "core/image_folder.h"
#include "core/ordered_pipeline.h"
#include "core/random.h"

namespace minidl {

// Images of one size: pixels (N, H, W, C), eight bits each.
struct ImageBatch {
  int n = 0;
  int height = 0;
  int width = 0;
  int channels = 0;
  std::vector<std::uint8_t> pixels;

  bool operator==(const ImageBatch&) const = default;
};

// An image as the reference tests on it: resized to size x size. Throws Error naming the file.
ImageBatch load_resized(const std::filesystem::path& file, int size, int channels);

struct TrainingFolders {
  // The folders trainA, trainB, testA and testB of a data set. Throws Error if one is missing or holds no images.
  explicit TrainingFolders(const std::filesystem::path& dataset);

  ImageFolder train_a, train_b, test_a, test_b;
};

// What the following steps' images depend on, besides the files.
struct TrainingDataState {
  struct Folder {
    std::int64_t files = 0;
    FolderSampler::State sampler;

    bool operator==(const Folder&) const = default;
  };
  static constexpr std::size_t kNumbers = 12;

  std::vector<std::uint8_t> random;  // Random::state()
  std::array<Folder, 4> folders;     // trainA, trainB, testA, testB

  // Before the first step, with the generator as building the networks left it.
  static TrainingDataState first(const TrainingFolders& folders, const Random& random);

  // For a checkpoint, beside `random`: files, order seed and position of each folder.
  std::array<std::int64_t, kNumbers> numbers() const;
  // Throws Error unless there are kNumbers numbers.
  static TrainingDataState restore(std::vector<std::uint8_t> random, std::span<const std::int64_t> numbers);

  bool operator==(const TrainingDataState&) const = default;
};

struct TrainingStep {
  // Single images for the sheet, five of each folder.
  struct Sheet {
    std::vector<ImageBatch> train_a, train_b, test_a, test_b;
  };

  std::int64_t step = 0;
  ImageBatch a, b;
  std::optional<Sheet> sheet;  // in steps that are a multiple of print_freq
  TrainingDataState state_after;
};

struct TrainingDataOptions {
  std::int64_t batch_size = 1;
  int image_size = 256;
  int channels = 3;  // 3: RGB; 1: grey
  std::int64_t print_freq = 1000;
  std::int64_t first_step = 1;
  std::int64_t last_step = 1;
  int threads = 1;
  int capacity = 4;  // steps loaded ahead
};

class TrainingData {
 public:
  static constexpr int kSheetImages = 5;

  // Starts loading first_step .. last_step; `state` is that before first_step. Throws Error if an option is out of
  // range or a folder no longer holds as many images as the state says.
  TrainingData(TrainingFolders folders, TrainingDataOptions options, const TrainingDataState& state);

  // Waits for the next step; nullopt after last_step. Throws Error naming the file if an image cannot be read. Called
  // by one thread.
  std::optional<TrainingStep> next() { return pipeline_.next(); }

 private:
  struct Drawn;
  using Pipeline = OrderedPipeline<TrainingStep>;

  Drawn draw();
  TrainingDataState state() const;
  ImageBatch load_training(const ImageFolder& folder, std::span<const Pick> picks) const;
  TrainingStep load(const Drawn& drawn) const;

  const TrainingFolders folders_;
  const TrainingDataOptions options_;
  std::int64_t next_step_;
  Random random_;
  FolderSampler train_a_, train_b_, test_a_, test_b_;
  Pipeline pipeline_;  // last: its threads use all of the above
};

}  // namespace minidl
