// Which images of a folder a batch is made of: the draws of one PyTorch DataLoader (sampler and the reference's random
// transforms), in PyTorch's order.
//
// 1. A pass over the folder begins when its first batch is asked for: it draws a base seed that nobody uses and, for
//    training, the seed of the pass's permutation. Delivering a batch draws nothing but the pictures' transforms.
// 2. The last batch of a pass may be short; it is delivered, never filled up.
#pragma once

#include <cstdint>
#include <vector>

#include "core/random.h"

namespace minidl {

// One image of a batch: the file's index, and for training whether to mirror it and the top left corner of the crop.
struct Pick {
  std::int64_t index = 0;
  bool flip = false;
  int row = 0;
  int column = 0;

  bool operator==(const Pick&) const = default;
};

struct FolderSamplerOptions {
  std::int64_t files = 0;
  std::int64_t batch_size = 1;
  bool shuffle_and_augment = true;  // false: in order, no flip, no crop, as the reference's test loaders
};

class FolderSampler {
 public:
  static constexpr int kCropMargin = 30;  // images are resized to the crop's size plus this; offsets are 0 .. 30

  // Where a pass stands. `position` counts the images delivered; once it equals the number of files, the next batch
  // begins a new pass (so does the first). The permutation follows from its seed.
  struct State {
    std::int64_t order_seed = 0;
    std::int64_t position = 0;

    bool operator==(const State&) const = default;
  };

  // Throws Error unless there are files and the batch size is positive.
  explicit FolderSampler(FolderSamplerOptions options);

  // The next batch, in the order of delivery; all draws come from `random`.
  std::vector<Pick> next(Random& random);

  State state() const { return {order_seed_, position_}; }
  // Throws Error if the state cannot belong to a folder of this many files.
  void set_state(const State& state);

 private:
  void set_order(std::int64_t seed);

  FolderSamplerOptions options_;
  std::int64_t order_seed_ = 0;
  std::int64_t position_;
  std::vector<std::int64_t> order_;
};

}  // namespace minidl
