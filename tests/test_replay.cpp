// train_ugatit --seed 42 against a run of the reference itself after torch.manual_seed(42): its log, the sheets it drew
// while it trained, and its test phase.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/image.h"
#include "kernels/backend.h"
#include "tests/bf16.h"
#include "tests/program.h"

using namespace minidl;
namespace fs = std::filesystem;

namespace {

constexpr int kSize = 96;
constexpr int kIterations = 20;

fs::path golden() { return fs::path(MINIDL_GOLDEN_DIR) / "replay_light_ch4_96"; }
fs::path golden_results() { return golden() / "results" / "shapes_png"; }

struct Losses {
  double d_loss, g_loss;
};

// Lines such as "[    1/   20] time: 0.5363 d_loss: 7.44188261, g_loss: 3648.90966797".
std::vector<Losses> logged_losses(const fs::path& log) {
  std::ifstream in(log);
  std::vector<Losses> losses;
  for (std::string line; std::getline(in, line);) {
    Losses l{};
    if (std::sscanf(line.c_str(), "[%*d/%*d] time: %*f d_loss: %lf, g_loss: %lf", &l.d_loss, &l.g_loss) == 2)
      losses.push_back(l);
  }
  return losses;
}

std::vector<Losses> metric_losses(const fs::path& metrics) {
  std::ifstream in(metrics);
  std::vector<Losses> losses;
  for (std::string line; std::getline(in, line);) {
    const auto json = nlohmann::json::parse(line);
    losses.push_back({json.at("d_loss"), json.at("g_loss")});
  }
  return losses;
}

// Share of the values of row `row` (of seven) that are within `levels` of each other.
double share_within(const Image& a, const Image& b, int row, int levels) {
  const std::size_t values = static_cast<std::size_t>(kSize) * a.width * a.channels;
  std::size_t within = 0;
  for (std::size_t i = row * values; i < (row + 1) * values; ++i)
    within += std::abs(a.pixels[i] - b.pixels[i]) <= levels;
  return static_cast<double>(within) / static_cast<double>(values);
}

// Rows of a strip: a real image, then map and picture by turns.
void check_strips(const fs::path& ours, const fs::path& expected, int columns) {
  INFO(ours.filename());
  const Image a = read_image(ours), b = read_image(expected);
  REQUIRE(b.width == columns * kSize);
  REQUIRE(b.height == 7 * kSize);
  REQUIRE(a.width == b.width);
  REQUIRE(a.height == b.height);
  CHECK(share_within(a, b, 0, 0) == 1.0);
  for (int row = 1; row < 7; ++row) {
    INFO("row " << row);
    const bool heat_map = row % 2 == 1;
    CHECK(share_within(a, b, row, heat_map ? 12 : 2) >= 0.999);
  }
}

// The run of the reference with further flags; `results` is the folder for --result_dir.
test::Outcome replay(const fs::path& results, const std::string& flags) {
  std::vector<std::string> arguments = test::words("--light True --ch 4 --img_size 96 --dataset");
  arguments.push_back((golden() / "dataset" / "shapes_png").string());
  arguments.insert(arguments.end(), {"--result_dir", results});
  for (const std::string& word : test::words(flags)) arguments.push_back(word);
  return test::run("train_ugatit", arguments);
}

const std::string kTraining = "--iteration 20 --print_freq 10 --save_freq 10 --seed 42 ";

void check_losses(const std::vector<Losses>& losses, const std::vector<Losses>& expected, double tolerance) {
  REQUIRE(expected.size() == kIterations);
  REQUIRE(losses.size() == kIterations);
  for (int i = 0; i < kIterations; ++i) {
    INFO("iteration " << i + 1);
    CHECK(std::abs(losses[i].d_loss - expected[i].d_loss) <= tolerance * expected[i].d_loss);
    CHECK(std::abs(losses[i].g_loss - expected[i].g_loss) <= tolerance * expected[i].g_loss);
  }
}

}  // namespace

TEST_CASE("a run with the reference's seed is the reference's run") {
  const test::TemporaryFolder results;
  const test::Outcome trained = replay(results.path(), kTraining);
  INFO(trained);
  REQUIRE(trained.exit_code == 0);
  const fs::path run = results.path() / "shapes_png";

  check_losses(metric_losses(run / "metrics.jsonl"), logged_losses(golden() / "train.log"), 1e-3);
  for (const char* sheet : {"A2B_0000010.png", "B2A_0000010.png", "A2B_0000020.png", "B2A_0000020.png"})
    check_strips(run / "img" / sheet, golden_results() / "img" / sheet, 10);
  for (const char* checkpoint : {"0000010", "0000020", "latest"})
    CHECK(fs::exists(run / "model" / (std::string("shapes_png_params_") + checkpoint + ".safetensors")));

  const test::Outcome tested = replay(results.path(), "--phase test");
  INFO(tested);
  REQUIRE(tested.exit_code == 0);
  for (const std::string direction : {"A2B", "B2A"})
    for (int i = 1; i <= 2; ++i) {
      const std::string strip = direction + "_" + std::to_string(i) + ".png";
      check_strips(run / "test" / strip, golden_results() / "test" / strip, 1);
      // The test images are named 0.png and 1.png.
      const Image translation = read_image(run / "test" / direction / (std::to_string(i - 1) + ".png"));
      CHECK(translation.pixels == crop(read_image(run / "test" / strip), 4 * kSize, 0, kSize, kSize).pixels);
    }
}

TEST_CASE("the reference's run in bf16 has the reference's losses within 2 %") {
  if (!test::programs_have_bf16()) return;
  const test::TemporaryFolder results;
  const test::Outcome trained = replay(results.path(), kTraining + "--precision bf16");
  INFO(trained);
  REQUIRE(trained.exit_code == 0);
  CHECK_THAT(trained.out, Catch::Contains("bfloat16"));
  const std::vector<Losses> losses = metric_losses(results.path() / "shapes_png" / "metrics.jsonl");
  const std::vector<Losses> expected = logged_losses(golden() / "train.log");
  check_losses(losses, expected, 2e-2);
  // Float32 agrees a hundred times better: convolutions did round, on every processor those of the discriminators.
  CHECK(std::abs(losses[0].d_loss - expected[0].d_loss) > 1e-5 * expected[0].d_loss);
}
