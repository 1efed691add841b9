// Runs of train_ugatit: stopping in every way and resuming, and what the flags do.
#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "apps/train_options.h"
#include "models/checkpoint.h"
#include "tests/bf16.h"
#include "tests/golden.h"
#include "tests/train_runs.h"

using namespace minidl;
using Catch::Matchers::Contains;
using test::TrainRun;
namespace fs = std::filesystem;

namespace {

// Everything that a run leaves, except the times.
void check_same_results(const TrainRun& a, const TrainRun& b) {
  CHECK(a.checkpoints() == b.checkpoints());
  CHECK(test::contents(a.checkpoint("latest")) == test::contents(b.checkpoint("latest")));
  CHECK(a.metrics() == b.metrics());
  CHECK(a.sheets() == b.sheets());
  CHECK(test::files_below(b.folder(), ".partial").empty());
}

// Writes a file again with what `change` makes of its arrays and metadata.
template <class Change>
void rewrite(const fs::path& file, Change change) {
  std::vector<ArrayEntry> entries;
  std::map<std::string, std::vector<std::byte>> bytes;
  ArrayMetadata metadata;
  {
    const SafetensorsFile original(file);
    metadata = original.metadata();
    for (const std::string& name : original.names()) {
      const auto& view = original.at(name);
      bytes[name] = {view.bytes.begin(), view.bytes.end()};
      entries.push_back(
          {name, view.dtype, view.shape, [&bytes, name] { return std::span<const std::byte>(bytes.at(name)); }});
    }
  }
  change(bytes, metadata);
  write_safetensors(file, entries, metadata);
}

// Sets one value of a checkpoint.
void poison(const fs::path& file, const std::string& array, float value) {
  rewrite(file, [&](auto& bytes, auto&) { std::memcpy(bytes.at(array).data(), &value, sizeof value); });
}

}  // namespace

TEST_CASE("train_ugatit: a run stopped and resumed is the run that never stopped") {
  // Batches of 2 from 3 and 5 images, so that short batches occur, and sheets, before and after the stop.
  const std::string flags = "--batch_size 2 --print_freq 2 --save_freq 4 --decay_flag false ";
  const TrainRun straight, stopped;
  REQUIRE(straight.train(flags + "--iteration 5").exit_code == 0);
  REQUIRE(straight.metrics().size() == 5);
  CHECK(straight.checkpoints() ==
        std::vector<std::string>{"shapes_params_0000004.safetensors", "shapes_params_latest.safetensors"});
  CHECK(straight.sheets().size() == 4);

  REQUIRE(stopped.train(flags + "--iteration 3").exit_code == 0);
  const test::Outcome resumed = stopped.run("--threads 2 --resume True --iteration 5");
  INFO(resumed);
  REQUIRE(resumed.exit_code == 0);
  CHECK_THAT(resumed.out, Contains("--iteration: 5 instead of the checkpoint's 3"));
  check_same_results(straight, stopped);

  const test::Outcome nothing_left = stopped.run("--resume True");
  CHECK(nothing_left.exit_code == 0);
  CHECK_THAT(nothing_left.out, Contains("already trained for 5 iterations"));
  check_same_results(straight, stopped);
}

TEST_CASE("train_ugatit: with --benchmark_flag the measured algorithms are stored, and resuming is exact") {
  // Measuring a second time may choose otherwise, so the run that was stopped is a copy of the one that was not, and
  // the checkpoint follows the first sheet, whose single images are measured apart from the batches of training.
  const std::string flags = "--batch_size 2 --print_freq 3 --save_freq 4 --latest_freq 100 --iteration 6 ";
  const TrainRun straight, stopped;
  const test::Outcome trained = straight.train(flags + "--benchmark_flag True");
  INFO(trained);
  REQUIRE(trained.exit_code == 0);
  const auto choices = [](const fs::path& file) { return SafetensorsFile(file).metadata().at("conv_choices"); };
  create_folders(stopped.results() / "model");
  fs::copy_file(straight.checkpoint("0000004"), stopped.checkpoint("0000004"));
  create_folders(stopped.results() / "img");
  for (const char* sheet : {"A2B_0000003.png", "B2A_0000003.png"})
    fs::copy_file(straight.results() / "img" / sheet, stopped.results() / "img" / sheet);
  std::ofstream(stopped.metrics_file()) << test::read_text(straight.metrics_file());
  const test::Outcome resumed = stopped.run("--threads 2 --resume True");
  INFO(resumed);
  REQUIRE(resumed.exit_code == 0);
  CHECK(resumed.err.empty());
  check_same_results(straight, stopped);
  CHECK(choices(stopped.checkpoint("latest")) == choices(straight.checkpoint("latest")));

  SECTION("choices that the processor lacks are said to be replaced") {
    const fs::path file = stopped.checkpoint("latest");
    auto renamed = nlohmann::json::parse(choices(file));
    renamed.at(0).at("algorithm") = "fpga";
    rewrite(file, [&](auto&, ArrayMetadata& metadata) { metadata["conv_choices"] = renamed.dump(); });
    const test::Outcome replaced = stopped.run("--resume True --iteration 7");
    INFO(replaced);
    CHECK(replaced.exit_code == 0);
    CHECK_THAT(replaced.err, Contains("this device lacks 1; the fixed rule replaces them"));
    CHECK(std::count(replaced.err.begin(), replaced.err.end(), '\n') == 1);
    rewrite(file, [&](auto&, ArrayMetadata& metadata) { metadata["conv_choices"] = "{"; });
    const test::Outcome damaged = stopped.run("--resume True --iteration 8");
    CHECK(damaged.exit_code == 1);
    CHECK_THAT(damaged.err, Contains("its conv_choices are malformed"));
  }
  SECTION("turned off, nothing is stored") {
    const test::Outcome off = stopped.run("--resume True --iteration 7 --benchmark_flag False");
    INFO(off);
    CHECK(off.exit_code == 0);
    CHECK_THAT(off.out, Contains("--benchmark_flag: false instead of the checkpoint's true"));
    CHECK_FALSE(SafetensorsFile(stopped.checkpoint("latest")).metadata().contains("conv_choices"));
  }
}

TEST_CASE("train_ugatit: Ctrl-C and kill leave a run that resumes exactly") {
  const std::string flags = "--iteration 16 --print_freq 7 --save_freq 10 ";
  const TrainRun straight;
  REQUIRE(straight.train(flags).exit_code == 0);

  SECTION("Ctrl-C finishes the iteration and saves") {
    const TrainRun run;
    test::Program program = run.start(TrainRun::kTiny + flags);
    REQUIRE(program.wait_until([&] { return run.metrics().size() >= 3; }));
    program.send(SIGINT);
    const test::Outcome stopped = program.wait();
    INFO(stopped);
    REQUIRE(stopped.exit_code == 130);
    const std::size_t steps = run.metrics().size();
    CHECK_THAT(stopped.out, Contains("interrupted; iteration " + std::to_string(steps) + " is saved"));
    CHECK(SafetensorsFile(run.checkpoint("latest")).metadata().at("step") == std::to_string(steps));
    const test::Outcome resumed = run.run("--threads 2 --resume True");
    INFO(resumed);
    REQUIRE(resumed.exit_code == 0);
    CHECK_THAT(resumed.out, Contains("continuing from") && Contains("iteration " + std::to_string(steps) + "\n"));
    check_same_results(straight, run);
  }

  SECTION("kill -9 at any moment") {
    const TrainRun run;
    std::mt19937 engine(5);
    std::size_t longest = 0;
    int killed = 0;  // a fast machine may come to the end before
    for (int kills = 0; kills < 4; ++kills) {
      test::Program program = run.start(TrainRun::kTiny + flags + "--latest_freq 1 --resume True");
      program.wait_until([&] { return run.metrics().size() > longest + 1; });
      std::this_thread::sleep_for(std::chrono::milliseconds(engine() % 100));
      program.send(SIGKILL);
      killed += program.wait().signal == SIGKILL;
      longest = run.metrics().size();
    }
    CHECK(killed >= 2);
    const test::Outcome resumed = run.train(flags + "--latest_freq 1 --resume True");
    INFO(resumed);
    REQUIRE(resumed.exit_code == 0);
    check_same_results(straight, run);
  }
}

TEST_CASE("train_ugatit: a second Ctrl-C exits at once, without saving") {
  const TrainRun run;
  // An iteration takes seconds.
  test::Program program = run.start("--light --ch 24 --n_res 1 --img_size 256");
  REQUIRE(program.wait_until([&] { return program.handles(SIGINT); }));
  program.send(SIGINT);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  program.send(SIGINT);
  CHECK(program.wait().exit_code == 130);
  CHECK(run.checkpoints().empty());
}

TEST_CASE("train_ugatit: a damaged newest checkpoint is named and the one before it continues") {
  const TrainRun run;
  REQUIRE(run.train("--iteration 4 --save_freq 2 --print_freq 100").exit_code == 0);
  const auto expected = test::contents(run.checkpoint("latest"));
  const auto metrics = run.metrics();
  fs::resize_file(run.checkpoint("latest"), fs::file_size(run.checkpoint("latest")) - 1);
  test::write_text(run.checkpoint("0000004"), "This is not a checkpoint.");
  std::ofstream(run.metrics_file(), std::ios::app) << "{\"iteration\": 5, \"d_l";  // as a kill may leave it
  const test::Outcome resumed = run.run("--threads 2 --resume True");
  INFO(resumed);
  REQUIRE(resumed.exit_code == 0);
  CHECK_THAT(resumed.err, Contains("damaged") && Contains("params_latest") && Contains("params_0000004"));
  CHECK(std::count(resumed.err.begin(), resumed.err.end(), '\n') == 2);
  CHECK_THAT(resumed.out, Contains("params_0000002.safetensors, iteration 2"));
  CHECK(test::contents(run.checkpoint("latest")) == expected);
  CHECK(test::contents(run.checkpoint("0000004")) == expected);
  CHECK(run.metrics() == metrics);
}

TEST_CASE("train_ugatit: --keep prunes old numbered checkpoints") {
  const TrainRun run;
  REQUIRE(run.train("--iteration 5 --save_freq 1 --keep 2").exit_code == 0);
  CHECK(run.checkpoints() == std::vector<std::string>{"shapes_params_0000004.safetensors",
                                                      "shapes_params_0000005.safetensors",
                                                      "shapes_params_latest.safetensors"});
}

TEST_CASE("train_ugatit: a new run does not mix with an old one") {
  const TrainRun run;
  REQUIRE(run.train("--iteration 2 --print_freq 2 --save_freq 1").exit_code == 0);
  const auto before = test::contents(run.checkpoint("latest"));

  const test::Outcome refused = run.train("--iteration 1");
  CHECK(refused.exit_code == 1);
  CHECK_THAT(refused.err, Contains("results/shapes") && Contains("--resume true") && Contains("--overwrite true"));
  CHECK(test::contents(run.checkpoint("latest")) == before);
  CHECK(run.metrics().size() == 2);

  test::write_text(run.results() / "notes.txt", "mine");
  const test::Outcome both = run.train("--resume --overwrite");
  CHECK(both.exit_code == 2);
  REQUIRE(run.train("--iteration 1 --overwrite True").exit_code == 0);
  CHECK(run.metrics().size() == 1);
  CHECK(run.sheets().empty());
  CHECK(run.checkpoints() == std::vector<std::string>{"shapes_params_latest.safetensors"});
  CHECK(test::read_text(run.results() / "notes.txt") == "mine");
}

TEST_CASE("train_ugatit: flags given anew win over the checkpoint's, except those of the network") {
  const TrainRun run;
  REQUIRE(run.train("--iteration 2 --decay_flag false").exit_code == 0);
  const test::Outcome resumed = run.run("--resume --iteration 3 --lr 0.0002 --print_freq 3 --seed 9 --n_res 1");
  INFO(resumed);
  REQUIRE(resumed.exit_code == 0);
  CHECK_THAT(resumed.out, Contains("--iteration: 3 instead of the checkpoint's 2\n"));
  CHECK_THAT(resumed.out, Contains("--lr: 0.0002 instead of the checkpoint's 0.0001\n"));
  CHECK_THAT(resumed.out, Contains("--print_freq: 3 instead of the checkpoint's 1000\n"));
  CHECK_THAT(resumed.out, Contains("--seed: ignored"));
  CHECK_THAT(resumed.out, !Contains("--n_res: "));
  CHECK(run.metrics().at(1).at("lr") == 1e-4);
  CHECK(run.metrics().at(2).at("lr") == 2e-4);
  CHECK(run.sheets().size() == 2);

  const auto before = test::contents(run.checkpoint("latest"));
  for (const char* flag : {"--light false", "--ch 3", "--n_res 2", "--n_dis 5", "--img_size 100", "--img_ch 1"}) {
    INFO(flag);
    const test::Outcome refused = run.run(std::string("--resume --iteration 4 ") + flag);
    CHECK(refused.exit_code == 1);
    CHECK_THAT(refused.err, Contains(std::string(flag).substr(0, std::string(flag).find(' '))) &&
                                Contains("would be another network"));
  }
  CHECK(test::contents(run.checkpoint("latest")) == before);
}

TEST_CASE("train_ugatit: a run keeps its precision, and may be given another aloud") {
  if (!test::programs_have_bf16()) return;
  const TrainRun straight, stopped;
  const std::string flags = "--print_freq 100 --decay_flag false ";
  REQUIRE(straight.train(flags + "--iteration 3 --precision bf16").exit_code == 0);
  REQUIRE(stopped.train(flags + "--iteration 2 --precision bf16").exit_code == 0);
  const test::Outcome kept = stopped.run("--threads 2 --resume True --iteration 3");
  INFO(kept);
  REQUIRE(kept.exit_code == 0);
  CHECK_THAT(kept.out, !Contains("--precision:") && Contains("bfloat16 convolutions"));
  check_same_results(straight, stopped);
  // The same checkpoint on a processor that lacks it.
  const test::ProgramOptions lacking{.environment = {{"ONEDNN_MAX_CPU_ISA", "AVX2"}}};
  const test::Outcome refused = stopped.run("--resume True --iteration 4", lacking);
  CHECK(refused.exit_code == 1);
  CHECK_THAT(refused.err, Contains("use --precision fp32"));
  const test::Outcome changed = stopped.run("--resume True --iteration 4 --precision fp32", lacking);
  INFO(changed);
  CHECK(changed.exit_code == 0);
  CHECK_THAT(changed.out, Contains("--precision: fp32 instead of the checkpoint's bf16"));
}

TEST_CASE("train_ugatit: a loss that is not finite stops the run by its name") {
  const TrainRun run;
  REQUIRE(run.train("--iteration 1 --save_freq 1").exit_code == 0);
  const auto stops_with = [&](const std::string& flags, const std::string& part) {
    const test::Outcome stopped = run.run(flags);
    INFO(stopped);
    CHECK(stopped.exit_code == 1);
    CHECK_THAT(stopped.err, Contains(part + " is not finite"));
    CHECK(std::count(stopped.err.begin(), stopped.err.end(), '\n') == 1);
  };
  SECTION("a weight of a discriminator") {
    poison(run.checkpoint("latest"), "disLB.conv.weight_orig", INFINITY);
    const auto before = test::contents(run.checkpoint("latest"));
    const std::string numbered = test::read_text(run.checkpoint("0000001"));
    stops_with("--resume --iteration 3 --latest_freq 1 --save_freq 1", "iteration 2: D_ad_loss_LB");
    CHECK(test::contents(run.checkpoint("latest")) == before);
    CHECK(test::read_text(run.checkpoint("0000001")) == numbered);
    CHECK(run.checkpoints().size() == 2);
    CHECK(run.metrics().size() == 1);
  }
  SECTION("a weight of a generator") {
    poison(run.checkpoint("latest"), "genB2A.UpBlock2.11.weight", NAN);
    stops_with("--resume --iteration 3", "iteration 2: D_ad_loss_GA");
  }
}

TEST_CASE("train_ugatit: does not wait for threads that OpenMP withholds") {
  const TrainRun run;
  for (const auto& [variable, value] : {std::pair("OMP_THREAD_LIMIT", "1"), std::pair("OMP_DYNAMIC", "true")}) {
    const test::Outcome outcome =
        run.run(TrainRun::kTiny + "--iteration 1 --overwrite true", {.environment = {{variable, value}}});
    INFO(variable << outcome);
    CHECK(outcome.exit_code == 0);
    CHECK_THAT(outcome.out, Contains(variable == std::string("OMP_DYNAMIC") ? "CPU, 2 threads" : "CPU, 1 thread"));
  }
}

TEST_CASE("train_ugatit: metrics.jsonl holds every part of the loss of every iteration") {
  const TrainRun run;
  REQUIRE(run.train("--iteration 4 --lr 0.001 --adv_weight 2 --cycle_weight 3 --identity_weight 5 --cam_weight 7")
              .exit_code == 0);
  std::ifstream golden(golden::path("light_ch4_96/losses.json"));
  const auto reference = nlohmann::json::parse(golden);
  std::ifstream in(run.metrics_file());
  int iteration = 0;
  double lr = 0.001;
  for (std::string line; std::getline(in, line);) {
    const auto json = nlohmann::json::parse(line);
    CHECK(json.at("iteration") == ++iteration);
    CHECK(json.at("seconds").get<double>() > 0);
    if (iteration > 2) lr -= 0.001 / 2;
    CHECK(json.at("lr").get<double>() == Approx(lr).margin(1e-9));
    double d_loss = 0, g_loss = 0;
    for (const auto& [name, ignored] : reference.at("losses").at(0).items()) {
      if (name.ends_with("_loss")) continue;  // the two sums
      INFO(name);
      REQUIRE(json.contains(name));
      const double value = json.at(name);
      if (name.starts_with("D_"))
        d_loss += 2 * value;
      else if (name.starts_with("G_ad"))
        g_loss += 2 * value;
      else
        g_loss += (name.starts_with("G_recon") ? 3 : name.starts_with("G_identity") ? 5 : 7) * value;
    }
    CHECK(json.at("d_loss").get<double>() == Approx(d_loss).epsilon(1e-5));
    CHECK(json.at("g_loss").get<double>() == Approx(g_loss).epsilon(1e-5));
    CHECK(json.size() == reference.at("losses").at(0).size() + 3);
  }
  CHECK(iteration == 4);
}
