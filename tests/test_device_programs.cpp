// The programs on a GPU, where there is one: beside the CPU, and handing work over to it and back.
#include "tests/test_util.h"
#include "tests/train_runs.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::Contains;

namespace {

bool has_gpu() { return test_devices().size() > 1; }

// Every loss of every iteration.
std::vector<std::pair<std::string, double>> losses(const TrainRun& run) {
  std::vector<std::pair<std::string, double>> values;
  for (const auto& line : run.metrics())
    for (const auto& [name, value] : line.items()) values.emplace_back(name, value.get<double>());
  return values;
}

void check_close_losses(const TrainRun& a, const TrainRun& b) {
  const auto left = losses(a), right = losses(b);
  REQUIRE(left.size() == right.size());
  for (std::size_t i = 0; i < left.size(); ++i) {
    INFO(left[i].first);
    CHECK(left[i].first == right[i].first);
    CHECK(left[i].second == Approx(right[i].second).epsilon(1e-4));
  }
}

}  // namespace

TEST_CASE("a run that moves between devices has the losses of one that stays", "[device][program]") {
  if (!has_gpu()) return;
  const TrainRun moving, staying;
  REQUIRE(moving.train("--iteration 1 --device cuda").exit_code == 0);
  REQUIRE(moving.run("--resume true --iteration 2 --device cpu").exit_code == 0);
  REQUIRE(moving.run("--resume true --iteration 3 --device cuda").exit_code == 0);
  REQUIRE(staying.train("--iteration 3 --device cpu").exit_code == 0);
  check_close_losses(moving, staying);
}

TEST_CASE("train_ugatit: --cuda_graph changes no loss, and resumes exactly", "[device][program]") {
  if (!has_gpu()) return;
  const TrainRun plain, recorded, resumed;
  REQUIRE(plain.train("--iteration 3 --print_freq 2 --device cuda").exit_code == 0);
  const Outcome outcome = recorded.train("--iteration 3 --print_freq 2 --device cuda --cuda_graph True");
  INFO(outcome);
  REQUIRE(outcome.exit_code == 0);
  CHECK_THAT(outcome.out, Contains("iterations recorded"));
  CHECK(recorded.metrics() == plain.metrics());
  CHECK(recorded.sheets() == plain.sheets());
  REQUIRE(resumed.train("--iteration 2 --print_freq 2 --device cuda --cuda_graph True").exit_code == 0);
  REQUIRE(resumed.run("--resume true --iteration 3 --device cuda").exit_code == 0);
  CHECK(resumed.metrics() == plain.metrics());
}

TEST_CASE("train_ugatit: --cuda_graph on the CPU is refused in one sentence, and nothing is deleted",
          "[device][program]") {
  const TrainRun run;
  REQUIRE(run.train("--iteration 1 --device cpu").exit_code == 0);
  const auto before = contents(run.checkpoint("latest"));
  const Outcome outcome = run.train("--iteration 1 --overwrite true --device cpu --cuda_graph True");
  INFO(outcome);
  CHECK(outcome.exit_code == 1);
  CHECK_THAT(outcome.err, Contains("--cuda_graph needs a GPU"));
  CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
  CHECK(contents(run.checkpoint("latest")) == before);
}

TEST_CASE("translations of both devices are alike", "[device][program]") {
  if (!has_gpu()) return;
  const TrainRun run;
  REQUIRE(run.train("--iteration 1 --device cpu").exit_code == 0);
  ProgramOptions options;
  options.folder = run.folder();
  for (const char* device : {"cpu", "cuda"}) {
    const Outcome outcome = Program("translate_images",
                                    words("--checkpoint " + run.checkpoint("latest").string() + " --device " + device +
                                          " --heatmap dataset/shapes/testA out_" + device),
                                    options)
                                .wait();
    INFO(outcome);
    REQUIRE(outcome.exit_code == 0);
  }
  const auto names = files_below(run.folder() / "out_cpu", ".png");
  CHECK(names.size() == 4);
  CHECK(files_below(run.folder() / "out_cuda", ".png") == names);
  for (const std::string& name : names) {
    const Image a = decode_image(read_file(run.folder() / "out_cpu" / name), name),
                b = decode_image(read_file(run.folder() / "out_cuda" / name), name);
    REQUIRE(a.pixels.size() == b.pixels.size());
    int most = 0;
    for (std::size_t i = 0; i < a.pixels.size(); ++i)
      most = std::max(most, std::abs(static_cast<int>(a.pixels[i]) - static_cast<int>(b.pixels[i])));
    CHECK(most <= (name.find("heatmap") == std::string::npos ? 1 : 8));  // a colour map is steep
  }
}

TEST_CASE("bench_ugatit: the first losses are those of the CPU, recorded or not", "[device][program]") {
  const std::string tiny = "--light --ch 2 --n_res 1 --n_dis 4 --img_size 24 ";
  const Outcome cpu = run("bench_ugatit", words(tiny + "--device cpu"));
  INFO(cpu);
  REQUIRE(cpu.exit_code == 0);
  const auto expected = nlohmann::json::parse(cpu.out);
  CHECK(expected["device"] == "CPU");
  if (!has_gpu()) return;
  for (const char* more : {"", " --cuda_graph True"}) {
    const Outcome gpu = run("bench_ugatit", words(tiny + "--device cuda" + more));
    INFO(gpu);
    REQUIRE(gpu.exit_code == 0);
    const auto ready = nlohmann::json::parse(gpu.out);
    CHECK(ready["device"] != "CPU");
    REQUIRE(ready["losses"].size() == expected["losses"].size());
    for (const auto& [name, loss] : expected["losses"].items()) {
      INFO(name);
      CHECK(ready["losses"][name].get<double>() == Approx(loss.get<double>()).epsilon(1e-4));
    }
  }
}

TEST_CASE("bench_ugatit: --cuda_graph on the CPU is refused in one sentence", "[device][program]") {
  const Outcome outcome = run("bench_ugatit", words("--device cpu --cuda_graph True"));
  INFO(outcome);
  CHECK(outcome.exit_code == 1);
  CHECK_THAT(outcome.err, Contains("--cuda_graph needs a GPU"));
  CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
}
