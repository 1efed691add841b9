// bench_ugatit: libminidl's side of scripts/bench and scripts/gpu_check.
//
// Makes a model and images from a fixed seed and, if a folder is named, leaves both there, so that other programs can
// compute the same numbers. Then prints one line of JSON with what it has computed, and from there on answers every
// line of stdin: "step" in mode train and "forward N" in mode inference by doing that once and printing the seconds it
// took on the device, "memory" by the bytes that the pool has taken from the device.
#include <cstddef>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "apps/command_line.h"
#include "apps/device.h"
#include "core/autograd.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "core/version.h"
#include "models/checkpoint.h"

namespace {

using namespace minidl;

constexpr std::uint64_t kSeed = 1;

struct Options {
  std::string mode = "train";
  std::string folder;
  UgatitOptions model;
  std::int64_t batch_size = 1;
  std::int64_t threads = 0;
  std::string device_name = "auto", precision = "fp32";
  bool cuda_graph = false, benchmark_flag = false;

  DeviceType device = DeviceType::cpu;  // that device_name stands for
};

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

void write_tensors(const std::filesystem::path& file, const std::vector<NamedTensor>& tensors) {
  std::vector<float> values;  // of the tensor being written
  std::vector<ArrayEntry> entries;
  for (const auto& [name, tensor] : tensors)
    entries.push_back({name, Dtype::f32, tensor.shape().extents(), [&values, tensor = tensor.detach()] {
                         values = tensor.to_host();
                         return std::as_bytes(std::span(values));
                       }});
  write_safetensors(file, entries, {});
}

std::vector<float> random_pixels(Random& random, const UgatitOptions& model, std::int64_t batch_size) {
  std::vector<float> values(
      static_cast<std::size_t>(batch_size * model.image_channels * model.image_size * model.image_size));
  random.fill_uniform(values, -1, 1);
  return values;
}

Shape images_shape(const UgatitOptions& model, std::int64_t batch_size) {
  return {batch_size, model.image_channels, model.image_size, model.image_size};
}

// Runs `measure` for each line of stdin and prints the seconds it returns, until stdin ends.
template <class F>
void answer_requests(const Options& options, nlohmann::json ready, F&& measure) {
  ready["version"] = kVersion;
  ready["device"] = backend_of(options.device).name();
  std::cout << ready.dump() << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    if (line == "memory")
      std::cout << pool_stats(options.device).held << std::endl;
    else
      std::cout << measure(line) << std::endl;
  }
}

[[noreturn]] void fail_unknown(const std::string& request) {
  throw Error("there is no measurement called '" + request + "'");
}

void serve_training(const Options& options) {
  Random random(kSeed);
  Ugatit model(random, options.model);
  move_to(model, options.device);
  UgatitTrainer trainer(model, {});
  const auto images = [&] {
    return Tensor::from_host(images_shape(options.model, options.batch_size),
                             random_pixels(random, options.model, options.batch_size), options.device);
  };
  const Tensor real_A = images(), real_B = images();
  if (!options.folder.empty()) {
    const std::filesystem::path folder = options.folder;
    std::vector<NamedTensor> weights;
    for (const StateEntry& entry : state_of(model)) weights.push_back({entry.name, *entry.tensor});
    write_tensors(folder / "weights.safetensors", weights);
    write_tensors(folder / "images.safetensors", {{"real_A", real_A}, {"real_B", real_B}});
  }
  if (options.cuda_graph) trainer.record_iterations();

  const UgatitLosses losses = trainer.step(real_A, real_B);
  nlohmann::json values{{"Discriminator_loss", losses.discriminator}, {"Generator_loss", losses.generator}};
  for (const auto& [name, value] : losses.parts) values[name] = value;
  answer_requests(options, {{"losses", values}}, [&](const std::string& request) {
    if (request != "step") fail_unknown(request);
    return backend_of(options.device).measure([&] { trainer.step(real_A, real_B); });
  });
}

void serve_inference(const Options& options) {
  const NoGrad no_grad;
  Random random(kSeed);
  Generator generator(random, options.model.generator());
  move_to(generator, options.device);
  const std::vector<float> pixels = random_pixels(random, options.model, options.batch_size);
  // The first `n` images; all batches begin with the same ones.
  const auto images = [&](std::int64_t n) {
    const Shape shape = images_shape(options.model, n);
    return Tensor::from_host(shape, std::span(pixels).first(static_cast<std::size_t>(shape.size())), options.device);
  };
  const Tensor all = images(options.batch_size);
  if (!options.folder.empty()) {
    const std::filesystem::path folder = options.folder;
    save_generator(folder / "generator.safetensors", generator, options.model, "A2B", 0);
    write_tensors(folder / "images.safetensors", {{"real_A", all}, {"fake_B", generator(all).image}});
  }

  Tensor batch = all;
  answer_requests(options, nlohmann::json::object(), [&](const std::string& request) {
    std::istringstream words(request);
    std::string word;
    std::int64_t n = 0;
    if (!(words >> word >> n) || word != "forward" || n < 1 || n > options.batch_size) fail_unknown(request);
    if (batch.shape()[0] != n) batch = images(n);
    generator(batch);  // threads that have slept may wake on one core together, and take a while to part
    return backend_of(options.device).measure([&] { generator(batch); });
  });
}

}  // namespace

int main(int argc, char** argv) {
  return run_program("bench_ugatit", argv, [&] {
    Options o;
    CommandLine line("bench_ugatit", "Measures training iterations or forward passes on request; see scripts/bench.");
    line.flag("mode", o.mode, "what to measure", {"train", "inference"});
    line.flag("folder", o.folder,
              "where to leave weights and images, an existing folder; without it they are not written");
    line.flag("light", o.model.light, "the light model");
    line.flag("ch", o.model.channels, "base channels", {1, 1024});
    line.flag("n_res", o.model.residual_blocks, "residual blocks", {1, 64});
    line.flag("n_dis", o.model.discriminator_depth, "depth of the discriminators", {4, 10});
    line.flag("img_size", o.model.image_size, "side of the images in pixels, a multiple of 4", {16, 8192});
    line.flag("batch_size", o.batch_size, "images of a domain; in mode inference, the most that are asked for",
              {1, 1024});
    line.flag("threads", o.threads, "threads to compute with; 0 takes every core", {0, 1024});
    line.flag("device", o.device_name, "where to compute", {"auto", "cpu", "cuda"});
    line.flag("precision", o.precision, "how convolutions and linear layers multiply", {"fp32", "tf32", "bf16"});
    line.flag("benchmark_flag", o.benchmark_flag, "measure which algorithm is fastest for each convolution");
    line.flag("cuda_graph", o.cuda_graph, "mode train: let the GPU record an iteration and repeat it by itself");
    if (!line.parse(argc, argv)) return 0;
    use_threads(o.threads);
    o.device = choose_device(o.device_name);
    use_precision(o.device, o.precision);
    backend_of(o.device).set_benchmark(o.benchmark_flag);
    check(!o.cuda_graph || backend_of(o.device).can_record(), "--cuda_graph needs a GPU; the device is the ",
          backend_of(o.device).name());
    if (o.mode == "train")
      serve_training(o);
    else
      serve_inference(o);
    return 0;
  });
}
