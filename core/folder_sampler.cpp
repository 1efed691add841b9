#include "core/folder_sampler.h"

#include <algorithm>
#include <numeric>

#include "core/check.h"

namespace minidl {

FolderSampler::FolderSampler(FolderSamplerOptions options)
    : options_(options),
      position_(options.files),
      order_(static_cast<std::size_t>(std::max<std::int64_t>(options.files, 0))) {
  check(options.files > 0, "FolderSampler: expected at least one file, got ", options.files);
  check(options.batch_size > 0, "FolderSampler: the batch size must be positive, got ", options.batch_size);
  std::iota(order_.begin(), order_.end(), 0);
}

void FolderSampler::set_order(std::int64_t seed) {
  order_seed_ = seed;
  order_ = Random(static_cast<std::uint64_t>(seed)).randperm(options_.files);
}

std::vector<Pick> FolderSampler::next(Random& random) {
  if (position_ == options_.files) {
    random.random_i64();
    if (options_.shuffle_and_augment) set_order(random.random_i64());
    position_ = 0;
  }
  std::vector<Pick> batch(static_cast<std::size_t>(std::min(options_.batch_size, options_.files - position_)));
  for (Pick& pick : batch) {
    pick.index = order_[static_cast<std::size_t>(position_++)];
    if (!options_.shuffle_and_augment) continue;
    pick.flip = random.rand() < 0.5f;
    pick.row = static_cast<int>(random.randint(0, kCropMargin + 1));
    pick.column = static_cast<int>(random.randint(0, kCropMargin + 1));
  }
  return batch;
}

void FolderSampler::set_state(const State& state) {
  check(state.position >= 0 && state.position <= options_.files, "FolderSampler: position ", state.position,
        " does not fit a folder of ", options_.files, " files");
  position_ = state.position;
  if (options_.shuffle_and_augment) set_order(state.order_seed);
}

}  // namespace minidl
