// convert_checkpoint, and the other programs on official checkpoints, run as a user would.
#include <algorithm>
#include <catch2/catch.hpp>

#include "core/torch_file.h"
#include "models/checkpoint.h"
#include "models/checkpoint_conversion.h"
#include "tests/golden.h"
#include "tests/test_util.h"
#include "tests/train_runs.h"

using namespace minidl;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

// A folder with official checkpoints: the six networks of ch 4 as the reference saved them before zip files, and small
// ones (ch 1) that PyTorch 2.15 wrote.
struct Setting {
  test::TrainRun run;

  Setting() {
    fs::copy(golden::path("light_ch4_96/params_legacy_0000000.pt"), path("shapes_params_0000003.pt"));
    fs::copy(golden::path("torch/six_wrapped_215.pt"), path("six.pt"));
    fs::copy(golden::path("torch/generator_215.pt"), path("generator.pt"));
  }
  fs::path path(const std::string& name) const { return run.folder() / name; }
  test::Outcome program(const std::string& name, const std::string& arguments,
                        std::optional<std::uint64_t> file_limit = std::nullopt) const {
    return test::run(name, test::words(arguments), {.folder = run.folder(), .file_limit = file_limit});
  }
  test::Outcome convert(const std::string& arguments) const { return program("convert_checkpoint", arguments); }
};

// Every array of both, to the bit, element types included.
void check_same_arrays(const fs::path& a, const fs::path& b, const std::string& prefix_of_b = "") {
  const auto first = open_array_file(a), second = open_array_file(b);
  std::size_t count = 0;
  for (const std::string& name : second->names()) {
    if (!name.starts_with(prefix_of_b)) continue;
    const std::string own = name.substr(prefix_of_b.size());
    INFO(a << " " << own);
    REQUIRE(first->contains(own));
    const ArrayView &x = first->at(own), &y = second->at(name);
    std::vector<std::byte> scratch_x, scratch_y;
    const auto bytes_x = row_major(x, scratch_x), bytes_y = row_major(y, scratch_y);
    CHECK((x.dtype == y.dtype && x.shape == y.shape));
    CHECK(std::equal(bytes_x.begin(), bytes_x.end(), bytes_y.begin(), bytes_y.end()));
    ++count;
  }
  CHECK(count == first->names().size());
  CHECK(count > 0);
}

// A copy of a file's networks with changes, as another .pt.
void write_changed(const fs::path& from, const fs::path& to,
                   const std::function<void(std::vector<StateDict>&)>& change) {
  const auto source = open_array_file(from);
  std::vector<StateDict> dicts;
  for (const std::string& name : source->names()) {
    const std::size_t dot = name.find('.');
    if (dicts.empty() || dicts.back().name != name.substr(0, dot)) dicts.push_back({name.substr(0, dot), {}});
    const ArrayView& view = source->at(name);
    dicts.back().entries.push_back({name.substr(dot + 1), view.dtype, view.shape, [&view] { return view.bytes; }});
  }
  change(dicts);
  write_torch_file(to, dicts, {});
}

ArrayEntry& entry_of(std::vector<StateDict>& dicts, const std::string& network, const std::string& name) {
  for (StateDict& dict : dicts)
    for (ArrayEntry& entry : dict.entries)
      if (dict.name == network && entry.name == name) return entry;
  throw std::runtime_error("no entry " + name);
}

}  // namespace

TEST_CASE("convert_checkpoint: there and back again is the same to the bit") {
  const Setting s;
  const auto there = s.convert("shapes_params_0000003.pt a.safetensors --img_size 96");
  INFO(there);
  CHECK(there.exit_code == 0);
  CHECK(there.out == "wrote a.safetensors\n");
  CHECK(s.convert("a.safetensors b.pt").exit_code == 0);
  CHECK(s.convert("b.pt c.safetensors").exit_code == 0);
  check_same_arrays(s.path("a.safetensors"), golden::path("light_ch4_96/weights_0.safetensors"));
  check_same_arrays(s.path("b.pt"), s.path("a.safetensors"));
  CHECK(read_file(s.path("a.safetensors")) == read_file(s.path("c.safetensors")));
  // Size and step travel along, although the file's name no longer says the step.
  const CheckpointInfo info = checkpoint_info(*open_array_file(s.path("b.pt")));
  CHECK(info.kind == CheckpointInfo::Kind::networks);
  CHECK(info.step == 3);
  CHECK(info.size_known);
  CHECK(info.options.image_size == 96);
  CHECK((info.options.light && info.options.channels == 4 && info.options.residual_blocks == 4));
  CHECK(info.options.discriminator_depth == 6);
}

TEST_CASE("convert_checkpoint: half precision stays half precision") {
  const Setting s;
  write_changed(s.path("six.pt"), s.path("half.pt"), [](std::vector<StateDict>& dicts) {
    static std::vector<std::byte> zeros(1 << 20, std::byte{0x3c});
    for (StateDict& dict : dicts)
      for (ArrayEntry& entry : dict.entries) {
        entry.dtype = Dtype::f16;
        entry.data = [size = byte_count(2, entry.shape).value()] { return std::span(zeros).first(size); };
      }
  });
  CHECK(s.convert("half.pt half.safetensors").exit_code == 0);
  CHECK(s.convert("half.safetensors again.pt").exit_code == 0);
  check_same_arrays(s.path("half.safetensors"), s.path("half.pt"));
  check_same_arrays(s.path("again.pt"), s.path("half.pt"));
  auto generator = load_generator(*open_array_file(s.path("half.pt")), "A2B");
  REQUIRE(generator.has_value());
  CHECK(state_of(*generator)[0].tensor->to_host()[0] == 1.05859375f);  // 0x3c3c
}

TEST_CASE("convert_checkpoint: one generator, with its direction") {
  const Setting s;
  CHECK(s.convert("six.pt B2A.pt --direction B2A").exit_code == 0);
  check_same_arrays(s.path("B2A.pt"), s.path("six.pt"), "genB2A.");
  check_same_arrays(s.path("B2A.pt"), s.path("generator.pt"));
  CHECK(checkpoint_info(*open_array_file(s.path("B2A.pt"))).direction == "B2A");
  const auto other = s.convert("B2A.pt A2B.safetensors --direction A2B");
  CHECK(other.exit_code == 1);
  CHECK(other.err == "convert_checkpoint: B2A.pt holds the generator B2A only, not A2B\n");
  // A generator whose direction nobody knows serves as either.
  CHECK(s.convert("generator.pt x.safetensors").exit_code == 0);
  CHECK(checkpoint_info(*open_array_file(s.path("x.safetensors"))).direction == "");
  CHECK(s.convert("generator.pt x.pth --direction A2B").exit_code == 0);
  CHECK(checkpoint_info(*open_array_file(s.path("x.pth"))).direction == "A2B");
}

TEST_CASE("convert_checkpoint: a training checkpoint gives its networks and says what stays behind") {
  const Setting s;
  REQUIRE(s.run.train("--iteration 1 --print_freq 5").exit_code == 0);
  const fs::path trained = s.run.checkpoint("latest");
  const auto outcome = s.convert(trained.string() + " trained.pt");
  INFO(outcome);
  CHECK(outcome.exit_code == 0);
  CHECK_THAT(outcome.out, Contains("left out: Adam's moments"));
  const auto ours = open_array_file(trained), converted = open_array_file(s.path("trained.pt"));
  for (const std::string& name : ours->names()) {
    const bool network = name.starts_with("gen") || name.starts_with("dis");
    CHECK(converted->contains(name) == network);
    if (network)
      CHECK(std::equal(ours->at(name).bytes.begin(), ours->at(name).bytes.end(), converted->at(name).bytes.begin(),
                       converted->at(name).bytes.end()));
  }
}

TEST_CASE("convert_checkpoint --info says what a file holds, whatever it is") {
  const Setting s;
  const auto six = s.convert("--info shapes_params_0000003.pt");
  CHECK(six.exit_code == 0);
  CHECK_THAT(six.out, Contains("PyTorch, format before 1.6, 2,219,966 bytes") && Contains("networks, without") &&
                          Contains("light model, ch 4, n_res 4, n_dis 6, colour images of any size") &&
                          Contains("step      3\n") && Contains("212 arrays") && !Contains("problem"));
  CHECK_THAT(six.out, Contains("disLA.model.1.weight_orig") && Contains("F32   4 x 3 x 4 x 4"));
  CHECK_THAT(s.convert("--info generator.pt").out, Contains("PyTorch, zip format") && Contains("one generator"));
  fs::copy(golden::path("torch/kinds_215.pt"), s.path("kinds.pt"));
  const auto kinds = s.convert("--info kinds.pt");
  CHECK(kinds.exit_code == 0);
  CHECK_THAT(kinds.out, Contains("is no checkpoint of U-GAT-IT") && Contains("BF16  9") && Contains("scalar"));
}

TEST_CASE("convert_checkpoint: what it cannot do is one sentence, and OUT stays as it was") {
  const Setting s;
  test::write_text(s.path("out.pt"), "old");
  const auto refused = [&](const std::string& arguments, std::optional<std::uint64_t> limit = std::nullopt) {
    const auto outcome = s.program("convert_checkpoint", arguments, limit);
    INFO(arguments << outcome);
    CHECK(outcome.exit_code != 0);
    CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
    CHECK(read_file(s.path("out.pt")).size() == 3);
    return outcome.err;
  };
  CHECK_THAT(refused("missing.pt out.pt"), Contains("cannot read missing.pt"));
  CHECK_THAT(refused("six.pt six.pt"), Contains("six.pt is the file to read"));
  CHECK_THAT(refused("six.pt out.ckpt"), Contains("must end in .safetensors, .pt, .pth or .onnx"));
  CHECK_THAT(refused("six.pt"), Contains("a file to read and one to write"));
  CHECK_THAT(refused("six.pt out.pt --img_size 30"), Contains("--img_size must be a multiple of 4"));
  CHECK_THAT(refused("six.pt out.pt", 100'000), Contains("out.pt") && Contains("free some space"));
  CHECK_THAT(refused("dataset out.pt"), Contains("it is a folder"));
  write_changed(s.path("six.pt"), s.path("odd.pt"), [](std::vector<StateDict>& dicts) {
    entry_of(dicts, "genB2A", "FC.2.weight").name = "FC.3.weight";
    entry_of(dicts, "genB2A", "UpBlock2.8.rho").shape = {1};
  });
  CHECK_THAT(refused("odd.pt out.pt"),
             Contains("odd.pt lacks genB2A.FC.2.weight; genB2A.UpBlock2.8.rho has shape [1], expected [1, 1, 1, 1]; "
                      "holds what such a model has not: genB2A.FC.3.weight"));
  // Of all networks at once.
  write_changed(s.path("six.pt"), s.path("two.pt"), [](std::vector<StateDict>& dicts) {
    entry_of(dicts, "genA2B", "FC.2.weight").name = "FC.3.weight";
    entry_of(dicts, "disLB", "conv1x1.bias").name = "bias";
  });
  CHECK_THAT(refused("two.pt out.pt"), Contains("two.pt lacks genA2B.FC.2.weight, disLB.conv1x1.bias; "
                                                "holds what such a model has not: genA2B.FC.3.weight, disLB.bias"));
  test::write_text(s.path("page.pt"), "<html>no such file</html>");
  CHECK_THAT(refused("page.pt out.pt"), Contains("page.pt begins neither as a safetensors file nor as PyTorch's do"));
  write_changed(s.path("six.pt"), s.path("five.pt"), [](std::vector<StateDict>& dicts) { dicts.pop_back(); });
  CHECK_THAT(refused("five.pt out.pt"), Contains("five.pt lacks the network disLB"));
  // But one generator of it is whole.
  CHECK(s.convert("five.pt A2B.pt --direction A2B").exit_code == 0);
}

TEST_CASE("a library without ONNX says so when it is to convert to it") {
  const Setting s;
  const auto six = open_array_file(s.path("six.pt"));
  CHECK_THAT(test::error_of([&] { convert_checkpoint(*six, checkpoint_info(*six), "", s.path("x.onnx")); }),
             Contains("x.onnx: nothing that writes ONNX was given"));
}

TEST_CASE("translate_images reads official checkpoints, of six networks and of one") {
  const Setting s;
  write_file(s.path("in.png"), encode_png(test::picture(96, 96, 1)));
  REQUIRE(s.convert("shapes_params_0000003.pt a.safetensors --img_size 96").exit_code == 0);
  const auto translate = [&](const std::string& arguments) {
    const auto outcome = s.program("translate_images", arguments);
    INFO(outcome);
    CHECK(outcome.exit_code == 0);
    return outcome;
  };
  translate("--checkpoint a.safetensors in.png ours.png");
  const auto official = translate("--checkpoint shapes_params_0000003.pt --size 96 in.png theirs.png");
  CHECK_THAT(official.out, !Contains("taking"));
  CHECK(read_file(s.path("ours.png")) == read_file(s.path("theirs.png")));

  const auto guessed = translate("--checkpoint six.pt --direction B2A in.png six.png");
  CHECK_THAT(guessed.out, Contains("six.pt does not say for which image size its light model was trained; taking 256, "
                                   "--size says otherwise"));
  CHECK(read_image(s.path("six.png")).width == 256);
  translate("--checkpoint generator.pt in.png one.png");
  CHECK(read_file(s.path("six.png")) == read_file(s.path("one.png")));
}

TEST_CASE("translate_images takes the size of a full model from an official checkpoint") {
  const Setting s;
  Random random(5);
  const UgatitOptions options{.channels = 1, .residual_blocks = 2, .image_size = 48, .light = false};
  Generator generator(random, options.generator());
  std::vector<StateDict> dict{{"", {}}};
  std::vector<std::vector<float>> values;
  for (const StateEntry& entry : state_of(generator)) values.push_back(entry.tensor->to_host());
  const auto state = state_of(generator);
  for (std::size_t i = 0; i < state.size(); ++i)
    dict[0].entries.push_back({"module." + state[i].name, Dtype::f32, state[i].tensor->shape().extents(),
                               [&, i] { return std::as_bytes(std::span(values[i])); }});
  write_torch_file(s.path("full.pt"), dict, {});
  write_file(s.path("in.png"), encode_png(test::picture(96, 96, 1)));
  const auto outcome = s.program("translate_images", "--checkpoint full.pt in.png out.png");
  INFO(outcome);
  CHECK(outcome.exit_code == 0);
  CHECK(read_image(s.path("out.png")).width == 48);
  CHECK_THAT(outcome.out, !Contains("taking"));
}

TEST_CASE("train_ugatit --resume_from an official checkpoint: its step, its networks, Adam afresh") {
  const Setting s;
  fs::copy(s.path("shapes_params_0000003.pt"), s.path("shapes_params_0000500.pt"));
  const std::string flags =
      "--resume_from shapes_params_0000500.pt --img_size 96 --threads 2 --seed 7 --iteration 502 --decay_flag False ";
  const auto trained = s.run.run(flags);
  INFO(trained);
  REQUIRE(trained.exit_code == 0);
  CHECK_THAT(trained.out, Contains("continuing from shapes_params_0000500.pt, iteration 500; it holds the networks "
                                   "only, so Adam's moments and the order of the images start afresh"));
  const auto metrics = s.run.metrics();
  REQUIRE(metrics.size() == 2);
  CHECK(metrics[0]["iteration"] == 501);
  const auto saved = open_array_file(s.run.checkpoint("latest"));
  CHECK(checkpoint_info(*saved).step == 502);
  CHECK(saved->metadata().at("adam_step") == "2");
  // Adam's first steps move a weight by about the learning rate each. Counted as the 501st after moments of 0, the
  // first would move it ten times as far.
  const auto before = open_array_file(s.path("shapes_params_0000500.pt"));
  std::vector<float> a, b;
  double furthest = 0;
  for (const std::string& name : before->names()) {
    if (name.ends_with("weight_u") || name.ends_with("weight_v")) continue;
    const auto x = floats_of(*before, name, a), y = floats_of(*saved, name, b);
    for (std::size_t i = 0; i < x.size(); ++i) furthest = std::max(furthest, std::abs(double{x[i]} - y[i]));
  }
  CHECK(furthest > 1e-4);
  CHECK(furthest < 2.5e-4);

  // Stopped and continued, it has the bits of a run that was not.
  const auto whole = test::contents(s.run.checkpoint("latest"));
  CHECK(s.run.run(flags + "--save_freq 501 --overwrite true").exit_code == 0);
  fs::remove(s.run.checkpoint("latest"));
  const auto resumed = s.run.run("--resume true --threads 2");
  INFO(resumed);
  CHECK(resumed.exit_code == 0);
  CHECK_THAT(resumed.out, Contains("iteration 501"));
  CHECK((test::contents(s.run.checkpoint("latest")) == whole));
}

TEST_CASE("train_ugatit --resume_from one of our own checkpoints continues it to the bit, elsewhere") {
  const Setting s;
  REQUIRE(s.run.train("--iteration 4 --print_freq 9 --save_freq 2").exit_code == 0);
  const auto whole = test::contents(s.run.checkpoint("latest"));
  const auto outcome =
      s.run.run("--resume_from " + s.run.checkpoint("0000002").string() + " --result_dir elsewhere --threads 2");
  INFO(outcome);
  REQUIRE(outcome.exit_code == 0);
  CHECK((test::contents(s.path("elsewhere/shapes/model/shapes_params_latest.safetensors")) == whole));
}

TEST_CASE("train_ugatit --init_from takes the networks alone and begins at iteration 1") {
  const Setting s;
  const auto outcome =
      s.run.run("--init_from shapes_params_0000003.pt --img_size 96 --threads 2 --seed 7 --iteration 1 --lr 0");
  INFO(outcome);
  REQUIRE(outcome.exit_code == 0);
  CHECK_THAT(outcome.out, Contains("beginning with the networks of shapes_params_0000003.pt"));
  CHECK(s.run.metrics().at(0)["iteration"] == 1);
  const auto saved = open_array_file(s.run.checkpoint("latest")),
             official = open_array_file(s.path("shapes_params_0000003.pt"));
  std::vector<float> a, b;
  for (const std::string& name : official->names()) {
    if (name.ends_with("weight_u") || name.ends_with("weight_v")) continue;  // renewed whatever the rate
    const auto x = floats_of(*official, name, a), y = floats_of(*saved, name, b);
    CHECK(std::equal(x.begin(), x.end(), y.begin(), y.end()));
  }
  // With --resume true the run's own checkpoint goes first: such a command can be repeated until the run is done.
  const auto again = s.run.run("--init_from shapes_params_0000003.pt --resume true --iteration 2 --threads 2");
  INFO(again);
  CHECK(again.exit_code == 0);
  CHECK_THAT(again.out, Contains("continuing from") && Contains("iteration 1") && !Contains("beginning with"));
}

TEST_CASE("train_ugatit: official checkpoints that it cannot begin with are one sentence, and nothing is lost") {
  const Setting s;
  const auto refused = [&](const std::string& flags) {
    const auto outcome = s.run.run("--img_size 96 --iteration 5 --threads 2 " + flags);
    INFO(flags << outcome);
    CHECK(outcome.exit_code != 0);
    CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
    CHECK_FALSE(fs::exists(s.run.metrics_file()));
    return outcome.err;
  };
  CHECK_THAT(refused("--resume_from six.pt"),
             Contains("six.pt does not say how long it was trained") && Contains("shapes_params_0100000.pt"));
  CHECK_THAT(refused("--init_from generator.pt"), Contains("generator.pt holds one generator"));
  CHECK_THAT(refused("--init_from six.pt --ch 64"), Contains("--ch: 64 instead of the checkpoint's 1"));
  CHECK_THAT(refused("--init_from six.pt --light False"), Contains("--light: false"));
  CHECK_THAT(refused("--init_from six.pt --resume_from six.pt"), Contains("give one of them"));
  CHECK_THAT(refused("--init_from six.pt --phase test"), Contains("takes --resume_from"));
  create_folders(s.run.results() / "model");
  fs::copy(s.path("shapes_params_0000003.pt"), s.run.results() / "model");
  const std::string inside = "results/shapes/model/shapes_params_0000003.pt";
  CHECK_THAT(refused("--resume_from " + inside + " --overwrite true"), Contains("--overwrite would delete " + inside));
  CHECK(fs::exists(s.path(inside)));
  // In the official program's own folder its run goes on.
  const auto outcome = s.run.run("--img_size 96 --iteration 4 --threads 2 --resume_from " + inside);
  INFO(outcome);
  CHECK(outcome.exit_code == 0);
  CHECK(fs::exists(s.path(inside)));
  // From then on it has checkpoints of ours, which come first.
  CHECK_THAT(s.run.run("--img_size 96 --resume_from " + inside).err, Contains("--resume true"));
  // Nothing is deleted for a file that turns out not to do.
  CHECK(s.run.run("--init_from generator.pt --overwrite true").exit_code == 1);
  CHECK(s.run.run("--resume_from " + s.path("shapes_params_0000003.pt").string() + " --ch 5 --overwrite true")
            .exit_code == 1);
  CHECK(fs::exists(s.run.checkpoint("latest")));
}

TEST_CASE("train_ugatit --phase test and deploy take an official checkpoint") {
  const Setting s;
  const auto tested = s.run.run("--phase test --resume_from shapes_params_0000003.pt --img_size 96 --threads 2");
  INFO(tested);
  CHECK(tested.exit_code == 0);
  CHECK(fs::exists(s.run.results() / "test" / "A2B_1.png"));
  const auto deployed = s.run.run("--phase deploy --resume_from six.pt");
  INFO(deployed);
  CHECK(deployed.exit_code == 0);
  CHECK_THAT(deployed.out, Contains("taking 256"));
  check_same_arrays(s.run.results() / "deploy" / "B2A.safetensors", s.path("six.pt"), "genB2A.");
}
