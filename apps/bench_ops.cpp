// bench_ops: what a training iteration, or a translation, spends its time on, operation by operation, beside what the
// machine could do. Prints Markdown.
#include <chrono>
#include <functional>
#include <iostream>
#include <memory>
#include <vector>

#include "apps/command_line.h"
#include "apps/device.h"
#include "apps/machine_peaks.h"
#include "apps/op_profile.h"
#include "apps/profile_table.h"
#include "core/autograd.h"
#include "models/ugatit.h"

namespace {

using namespace minidl;

struct Options {
  UgatitOptions model{.light = true};
  std::int64_t batch_size = 1, threads = 0, iterations = 3;
  bool inference = false, by_op = false;
  std::string precision = "fp32";
};

Tensor random_images(Random& random, const Options& o) {
  const Shape shape{o.batch_size, o.model.image_channels, o.model.image_size, o.model.image_size};
  std::vector<float> values(static_cast<std::size_t>(shape.size()));
  random.fill_uniform(values, -1, 1);
  return Tensor::from_host(shape, values);
}

// One iteration of what is to be measured, with everything it needs.
std::function<void()> workload(const Options& o) {
  Random random(1);
  if (o.inference) {
    const auto generator = std::make_shared<Generator>(random, o.model.generator());
    return [generator, images = random_images(random, o)] {
      const NoGrad no_grad;
      (*generator)(images);
    };
  }
  const auto model = std::make_shared<Ugatit>(random, o.model);
  const auto trainer = std::make_shared<UgatitTrainer>(*model, UgatitTrainingOptions{});
  const Tensor A = random_images(random, o), B = random_images(random, o);
  return [model, trainer, A, B] { trainer->step(A, B); };
}

void bench(const Options& o) {
  const int threads = use_threads(o.threads);
  use_precision(DeviceType::cpu, o.precision);
  const MachinePeaks peaks = measure_machine();
  const std::function<void()> iterate = workload(o);

  OpProfile profile;
  const auto timed = timed_backend(backend_of(DeviceType::cpu), profile);
  const ReplacedBackend replaced(DeviceType::cpu, *timed);
  iterate();  // fills the memory pool and the plans of the convolutions
  profile.clear();
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t i = 0; i < o.iterations; ++i) iterate();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  std::cout
      << (o.inference ? "One translation" : "One training iteration") << ", mean of " << o.iterations << ": "
      << (o.model.light ? "light" : "full") << " model, ch " << o.model.channels << ", " << o.model.image_size << "x"
      << o.model.image_size << ", batch " << o.batch_size << ", " << threads << (threads == 1 ? " thread" : " threads")
      << ", " << o.precision << ".\n\n"
      << "Measured peaks: " << static_cast<std::int64_t>(peaks.flops / 1e9) << " GFLOP/s (" << peaks.vectors
      << " multiply-adds), " << static_cast<std::int64_t>(peaks.bytes / 1e9) << " GB/s (copy of 256 MiB).\n"
      << "GFLOP/s are those of the direct algorithm, GB/s those of the fewest bytes that must move; a faster\n"
      << "algorithm or data that is in the cache may pass a peak. \"other\" is time outside of the operations.\n\n"
      << profile_table(o.by_op ? summed_over_shapes(profile.records()) : profile.records(), o.iterations, seconds,
                       peaks);
}

}  // namespace

int main(int argc, char** argv) {
  return run_program("bench_ops", argv, [&] {
    Options o;
    CommandLine line("bench_ops", "Times every operation of a training iteration of U-GAT-IT on random images.");
    line.flag("light", o.model.light, "the light model");
    line.flag("ch", o.model.channels, "base channels", {1, 1024});
    line.flag("img_size", o.model.image_size, "side of the images in pixels, a multiple of 4", {1, 8192});
    line.flag("batch_size", o.batch_size, "images of each domain per iteration", {1, 1024});
    line.flag("threads", o.threads, "threads to compute with; 0 takes every core", {0, 1024});
    line.flag("precision", o.precision, "fp32, or bf16 to round the operands of convolutions where it is faster",
              {"fp32", "bf16"});
    line.flag("iterations", o.iterations, "iterations to measure, after one that is not", {1, 1000000});
    line.flag("inference", o.inference, "measure a generator's translation of a batch instead");
    line.flag("by_op", o.by_op, "one row per operation instead of one per shape");
    if (!line.parse(argc, argv)) return 0;
    bench(o);
    return 0;
  });
}
