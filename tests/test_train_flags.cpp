// The command line of train_ugatit, and runs of every kind of model through all phases.
#include <algorithm>
#include <catch2/catch.hpp>
#include <regex>
#include <string>
#include <vector>

#include "apps/command_line.h"
#include "apps/train_options.h"
#include "core/version.h"
#include "models/checkpoint.h"
#include "tests/train_runs.h"

using namespace minidl;
using Catch::Matchers::Contains;
using test::TrainRun;
namespace fs = std::filesystem;

namespace {

TrainCommand parsed(const std::string& line) {
  const std::vector<std::string> words = test::words("train_ugatit " + line);
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  return parse_train_command(static_cast<int>(argv.size()), argv.data()).value();
}

std::string usage_error(const std::string& line) {
  try {
    parsed(line);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

// Checks that a command line is refused in one sentence that holds `message`, by the parser and by the program.
void refused(const std::string& line, const std::string& message) {
  INFO(line);
  CHECK_THAT(usage_error(line), Contains(message));
  const test::Outcome outcome = TrainRun().run(line);
  INFO(outcome);
  CHECK(outcome.exit_code == 2);
  CHECK(outcome.out.empty());
  CHECK_THAT(outcome.err, Catch::Matchers::StartsWith("train_ugatit: ") && Contains(message));
  CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
}

}  // namespace

TEST_CASE("train_ugatit: defaults are the reference's") {
  const TrainOptions o = parsed("").options;
  CHECK(o.phase == "train");
  CHECK_FALSE(o.light);
  CHECK(o.dataset == "YOUR_DATASET_NAME");
  CHECK(o.iteration == 1'000'000);
  CHECK(o.batch_size == 1);
  CHECK(o.print_freq == 1000);
  CHECK(o.save_freq == 100'000);
  CHECK(o.decay_flag);
  CHECK(o.lr == 0.0001);
  CHECK(o.weight_decay == 0.0001);
  CHECK(o.adv_weight == 1);
  CHECK(o.cycle_weight == 10);
  CHECK(o.identity_weight == 10);
  CHECK(o.cam_weight == 1000);
  CHECK(o.ch == 64);
  CHECK(o.n_res == 4);
  CHECK(o.n_dis == 6);
  CHECK(o.img_size == 256);
  CHECK(o.img_ch == 3);
  CHECK(o.result_dir == "results");
  CHECK(o.device == "auto");
  CHECK_FALSE(o.benchmark_flag);
  CHECK(o.precision == "fp32");
  CHECK_FALSE(o.resume);
}

TEST_CASE("train_ugatit: booleans in every spelling") {
  for (const char* yes : {"--light True", "--light true", "--light TRUE", "--light=true", "--light=True", "--light"}) {
    INFO(yes);
    CHECK(parsed(yes).options.light);
    const TrainCommand followed = parsed(std::string(yes) + " --ch 8");
    CHECK(followed.options.light);
    CHECK(followed.options.ch == 8);
  }
  for (const char* no : {"--decay_flag False", "--decay_flag false", "--decay_flag FALSE", "--decay_flag=False"}) {
    INFO(no);
    CHECK_FALSE(parsed(no).options.decay_flag);
  }
  const TrainOptions o = parsed("--light True --save_freq 500 --dataset data48778 --print_freq 200").options;
  CHECK(o.light);
  CHECK(o.save_freq == 500);
  CHECK(o.dataset == "data48778");
  CHECK(o.print_freq == 200);
  CHECK_THAT(usage_error("--light yes"), Contains("'yes' belongs to no flag"));
  CHECK_THAT(usage_error("--light=1"), Contains("--light is true or false, not '1'"));
}

TEST_CASE("train_ugatit: a run is named after the last component of --dataset") {
  for (const char* path :
       {"shapes", "shapes/", "data/shapes", "/data/shapes//", "./shapes", "x/../shapes", "shapes/."}) {
    INFO(path);
    CHECK(parsed(std::string("--dataset ") + path).options.name() == "shapes");
  }
  CHECK(parsed("--dataset .").options.name() == fs::current_path().filename().string());
}

TEST_CASE("train_ugatit: a wrong command line is refused with what to do about it") {
  refused("--iterations 5", "did you mean --iteration?");
  refused("--img-size 96", "did you mean --img_size?");
  refused("--xyzzy 5", "there is no flag --xyzzy; see train_ugatit --help");
  refused("--img_size 60", "--img_size 60 is too small");
  refused("--img_size 92", "at least 96");
  refused("--img_size 98", "multiple of 4, not 98; the nearest are 96 and 100");
  refused("--img_size 0", "--img_size must be between 1 and");
  refused("--n_dis 7 --img_size 128", "at least 192");
  refused("--img_ch 2", "--img_ch must be 3 (colour) or 1 (grey), not 2");
  refused("--ch 0", "--ch must be between 1 and 1024, not 0");
  refused("--ch -3", "not -3");
  refused("--lr -0.1", "--lr must be between 0 and 1, not -0.1");
  refused("--lr nan", "--lr must be between 0 and 1, not nan");
  refused("--batch_size 0", "--batch_size must be between 1 and");
  refused("--iteration 0", "--iteration must be between 1 and");
  refused("--print_freq 0", "--print_freq must be between 1 and");
  refused("--threads -1", "--threads must be between 0 and");
  refused("--phase tset", "--phase must be one of train, test, deploy, not 'tset'");
  refused("--precision fp16", "--precision must be one of fp32, tf32, bf16, not 'fp16'");
  refused("--device gpu", "--device must be one of auto, cpu, cuda, not 'gpu'");
  refused("--ch", "--ch needs a value");
  refused("--ch --light", "--ch needs a value");
  refused("shapes2", "'shapes2' belongs to no flag");
}

TEST_CASE("train_ugatit: a value that is no number is refused with the name of its flag") {
  refused("--seed 18446744073709551616", "--seed must be a whole number, and '18446744073709551616' is out of range");
  refused("--ch eight", "--ch must be a whole number, not 'eight'");
  refused("--ch 4.5", "--ch must be a whole number, not '4.5'");
  refused("--lr fast", "--lr must be a number, not 'fast'");
  refused("--lr= --ch 4", "--lr must be a number, not ''");
}

TEST_CASE("train_ugatit: --help shows every flag with its default, --version the version") {
  const test::Outcome help = test::run("train_ugatit", {"--help"});
  CHECK(help.exit_code == 0);
  CHECK(help.err.empty());
  const std::vector<std::pair<std::string, std::string>> flags = {{"phase", "train"},
                                                                  {"dataset", "YOUR_DATASET_NAME"},
                                                                  {"result_dir", "results"},
                                                                  {"device", "auto"},
                                                                  {"light", "false"},
                                                                  {"ch", "64"},
                                                                  {"n_res", "4"},
                                                                  {"n_dis", "6"},
                                                                  {"img_size", "256"},
                                                                  {"img_ch", "3"},
                                                                  {"iteration", "1000000"},
                                                                  {"batch_size", "1"},
                                                                  {"decay_flag", "true"},
                                                                  {"lr", "0.0001"},
                                                                  {"weight_decay", "0.0001"},
                                                                  {"adv_weight", "1"},
                                                                  {"cycle_weight", "10"},
                                                                  {"identity_weight", "10"},
                                                                  {"cam_weight", "1000"},
                                                                  {"print_freq", "1000"},
                                                                  {"save_freq", "100000"},
                                                                  {"latest_freq", "1000"},
                                                                  {"keep", "0"},
                                                                  {"resume", "false"},
                                                                  {"overwrite", "false"},
                                                                  {"seed", "-1"},
                                                                  {"threads", "0"},
                                                                  {"benchmark_flag", "false"},
                                                                  {"precision", "fp32"}};
  // One line a flag, however they are broken.
  const std::string text =
      std::regex_replace(std::regex_replace(help.out, std::regex("\n {7,}"), " "), std::regex(" +"), " ");
  for (const auto& [flag, value] : flags) {
    INFO(flag);
    const std::size_t begin = text.find("\n --" + flag + " ");
    REQUIRE(begin != std::string::npos);
    CHECK_THAT(text.substr(begin, text.find('\n', begin + 1) - begin), Contains("(default: " + value + ")"));
  }
  CHECK_THAT(help.out, Contains("--help") && Contains("--version"));
  const test::Outcome version = test::run("train_ugatit", {"--version"});
  CHECK(version.exit_code == 0);
  CHECK(version.out == std::string("train_ugatit ") + kVersion + "\n");
}

TEST_CASE("train_ugatit: the summary says what will be trained") {
  const TrainRun run;
  test::Program program = run.start("--light True --img_size 96 --seed 3");  // more than a test has time for
  REQUIRE(program.wait_until(
      [&] { return program.out().find("checkpoints") != std::string::npos && program.out().ends_with('\n'); }));
  for (const char* text : {"light model", "dataset/shapes", "results/shapes", "96 x 96", "ch 64", "1000000 iterations",
                           "10.59 million a generator", "53.13 million and 3.29 million a discriminator",
                           "seed            3", "memory", "checkpoints"})
    CHECK_THAT(program.out(), Contains(text));
}

TEST_CASE("train_ugatit: every kind of model trains, tests and deploys") {
  struct Kind {
    const char *flags, *what;
    bool light;
    int channels, size;
  };
  const Kind kind = GENERATE(Kind{"--light True --ch 3 --n_res 2 --img_size 96", "light", true, 3, 96},
                             Kind{"--light False --ch 2 --n_res 1 --img_size 96", "full", false, 3, 96},
                             Kind{"--light --ch 2 --n_res 1 --img_size 100 --img_ch 1", "light", true, 1, 100},
                             Kind{"--light --ch 2 --n_res 1 --img_size 48 --n_dis 5", "light", true, 3, 48});
  INFO(kind.flags);
  const TrainRun run;
  create_folders(run.dataset() / "testA" / "mehr");
  write_file(run.dataset() / "testA" / "mehr" / "Bär 1.JPG", encode_jpeg(test::picture(30, 20, 9)));
  const std::string where = "--result_dir out ";
  const fs::path results = run.folder() / "out" / "shapes";
  const test::Outcome untrained = run.run(where + "--phase test");
  CHECK(untrained.exit_code == 1);
  CHECK_THAT(untrained.err, Contains("there is no checkpoint in out/shapes/model; train first"));

  const test::Outcome trained = run.run(where + kind.flags + " --iteration 2 --print_freq 2 --batch_size 2");
  INFO(trained);
  REQUIRE(trained.exit_code == 0);
  CHECK_THAT(trained.out, Contains(std::string(kind.what) + " model"));
  const Image sheet = read_image(results / "img" / "A2B_0000002.png");
  CHECK(sheet.width == 10 * kind.size);
  CHECK(sheet.height == 7 * kind.size);

  const test::Outcome tested = run.run(where + "--phase test");
  INFO(tested);
  REQUIRE(tested.exit_code == 0);
  CHECK(test::files_below(results / "test", "") ==
        std::vector<std::string>{"A2B/0.png", "A2B/1.png", "A2B/mehr/Bär 1.png", "A2B_1.png", "A2B_2.png", "A2B_3.png",
                                 "B2A/0.png", "B2A_1.png"});
  const Image strip = read_image(results / "test" / "A2B_3.png");
  CHECK(strip.width == kind.size);
  CHECK(strip.height == 7 * kind.size);
  const Image translation = read_image(results / "test" / "A2B" / "mehr" / "Bär 1.png");
  CHECK(translation.pixels == crop(strip, 4 * kind.size, 0, kind.size, kind.size).pixels);

  const test::Outcome deployed = run.run(where + "--phase deploy");
  INFO(deployed);
  REQUIRE(deployed.exit_code == 0);
  const auto training = test::contents(results / "model" / "shapes_params_latest.safetensors");
  for (const std::string direction : {"A2B", "B2A"}) {
    const fs::path file = results / "deploy" / (direction + ".safetensors");
    const CheckpointInfo info = checkpoint_info(SafetensorsFile(file));
    CHECK(info.kind == CheckpointInfo::Kind::generator);
    CHECK(info.direction == direction);
    CHECK(info.step == 2);
    CHECK(info.options.light == kind.light);
    CHECK(info.options.image_channels == kind.channels);
    CHECK(info.options.image_size == kind.size);
    for (const auto& [name, bytes] : test::contents(file))
      if (name != "step") CHECK(bytes == training.at("gen" + direction + "." + name));
  }
}
