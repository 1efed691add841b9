// What train_ugatit makes of unusual and of broken input.
#include <algorithm>
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "models/ugatit.h"
#include "tests/golden.h"
#include "tests/train_runs.h"

using namespace minidl;
using Catch::Matchers::Contains;
using test::TrainRun;
namespace fs = std::filesystem;

namespace {

// One sentence on stderr that holds all of `parts`, exit code 1, and no half-written file.
void check_failure(const test::Outcome& outcome, const TrainRun& run, const std::vector<std::string>& parts) {
  INFO(outcome);
  CHECK(outcome.exit_code == 1);
  CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
  CHECK(outcome.err.starts_with("train_ugatit: "));
  for (const std::string& part : parts) CHECK_THAT(outcome.err, Contains(part));
  CHECK(test::files_below(run.folder(), ".partial").empty());
}

// Copies an image of tests/golden/formats, of which all must be trained on, under a new name.
void copy_format(const TrainRun& run, const std::string& format, const fs::path& name) {
  create_folders((run.dataset() / name).parent_path());
  write_file(run.dataset() / name, read_file(golden::path("formats") / format));
}

std::vector<std::uint8_t> cut(std::vector<std::uint8_t> bytes) {
  bytes.resize(bytes.size() * 2 / 3);
  return bytes;
}

std::vector<std::uint8_t> text_bytes(const std::string& text) { return {text.begin(), text.end()}; }

// A PNG whose header says 60000 x 60000 pixels, without any.
std::vector<std::uint8_t> gigapixel_png() {
  std::vector<std::uint8_t> bytes = encode_png(test::picture(1, 1, 0));
  for (std::size_t at : {16u, 20u})
    bytes[at] = bytes[at + 1] = 0, bytes[at + 2] = 60000 >> 8, bytes[at + 3] = 60000 & 255;
  // The checksum of the header, so that only the size is wrong.
  std::uint32_t crc = 0xffffffffu;
  for (std::size_t i = 12; i < 29; ++i) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0u);
  }
  for (std::size_t i = 0; i < 4; ++i) bytes[29 + i] = static_cast<std::uint8_t>(~crc >> (24 - 8 * i));
  return bytes;
}

}  // namespace

TEST_CASE("train_ugatit: images of every kind, odd names and linked folders work") {
  const TrainRun run;
  fs::remove_all(run.dataset() / "trainA");
  const std::vector<std::string> formats = {"rgb8_1x1.png", "grey8.png",      "grey16.png",     "palette8.png",
                                            "palette1.png", "greyalpha8.png", "rgba8.png",      "rgb16.png",
                                            "cmyk.jpg",     "ascii_rgb.ppm",  "ascii_grey.pgm", "rgb24.bmp"};
  for (std::size_t i = 0; i < formats.size(); ++i)
    copy_format(run, formats[i], "trainA/" + std::to_string(i) + fs::path(formats[i]).extension().string());
  copy_format(run, "rgb8.png", "trainA/größer und schöner/ein Bild, naß.PNG");
  copy_format(run, "rgb8.png", "trainA/really a.jpg");
  // Domain B is somewhere else and linked.
  fs::rename(run.dataset() / "trainB", run.folder() / "elsewhere");
  fs::create_directory_symlink(run.folder() / "elsewhere", run.dataset() / "trainB");
  fs::rename(run.dataset(), run.folder() / "a data set");
  fs::create_directory_symlink(run.folder() / "a data set", run.dataset());
  const int images = static_cast<int>(formats.size()) + 2;
  const test::Outcome outcome = run.train("--batch_size 4 --iteration 4");
  INFO(outcome);
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.err.empty());
  REQUIRE(images <= 4 * 4);  // so that every image was used
  CHECK(run.metrics().size() == 4);
}

TEST_CASE("train_ugatit: pictures of other types and linked folders inside are named and left out") {
  const TrainRun run;
  copy_format(run, "refused.tif", "trainA/scan.tif");
  fs::create_directory_symlink(run.dataset() / "testA", run.dataset() / "trainB" / "more");
  const test::Outcome outcome = run.train("--iteration 1");
  INFO(outcome);
  CHECK(outcome.exit_code == 0);
  CHECK_THAT(outcome.err, Contains("trainA/scan.tif is of a type that is not read and is left out\n"));
  CHECK_THAT(outcome.err, Contains("trainB/more is a linked folder and is left out"));
}

TEST_CASE("train_ugatit: a data set that is missing or empty") {
  const TrainRun run;
  SECTION("missing") {
    check_failure(run.run("--dataset shades"), run, {"'shades'", "dataset/shades", "trainA, trainB, testA and testB"});
  }
  SECTION("a folder missing") {
    fs::remove_all(run.dataset() / "testB");
    check_failure(run.train(""), run, {"dataset/shapes/testB", "does not exist"});
  }
  SECTION("a folder empty") {
    fs::remove_all(run.dataset() / "trainB");
    create_folders(run.dataset() / "trainB");
    check_failure(run.train(""), run, {"dataset/shapes/trainB", "holds no images", ".jpg"});
  }
  SECTION("a file in a folder's place") {
    fs::remove_all(run.dataset() / "trainA");
    test::write_text(run.dataset() / "trainA", "");
    check_failure(run.train(""), run, {"dataset/shapes/trainA", "is a file"});
  }
  CHECK_FALSE(fs::exists(run.results()));
}

TEST_CASE("train_ugatit: a broken image stops training by its name, and what was learnt is kept") {
  struct Broken {
    const char* name;
    std::vector<std::uint8_t> bytes;
  };
  const Image image = test::picture(40, 30, 1);
  const Broken broken =
      GENERATE_COPY(Broken{"letter.jpg", text_bytes("Dear reader,\nthis is no picture.\n")}, Broken{"empty.png", {}},
                    Broken{"cut.png", cut(encode_png(image))}, Broken{"cut.jpg", cut(encode_jpeg(image))},
                    Broken{"huge.png", gigapixel_png()}, Broken{"huge.ppm", text_bytes("P6\n60000 60000\n255\n")});
  INFO(broken.name);
  const TrainRun run;
  // Seven iterations use each of the six images.
  write_file(run.dataset() / "trainB" / broken.name, broken.bytes);
  const test::Outcome outcome = run.train("--iteration 7");
  check_failure(outcome, run, {"dataset/shapes/trainB/" + std::string(broken.name)});
  const std::size_t steps = run.metrics().size();
  CHECK(steps < 6);
  REQUIRE((steps == 0) == run.checkpoints().empty());
  if (steps == 0) return;
  CHECK(SafetensorsFile(run.checkpoint("latest")).metadata().at("step") == std::to_string(steps));
  write_file(run.dataset() / "trainB" / broken.name, encode_png(image));
  CHECK(run.run("--threads 2 --resume True").exit_code == 0);
  CHECK(run.metrics().size() == 7);
}

TEST_CASE("train_ugatit: a GPU that is not there") {
  const TrainRun run;
  const test::ProgramOptions hidden{.environment = {{"CUDA_VISIBLE_DEVICES", ""}}};
  check_failure(run.run(TrainRun::kTiny + "--device cuda", hidden), run, {"cuda", "cpu"});
  CHECK_FALSE(fs::exists(run.results()));
}

TEST_CASE("train_ugatit: --resume with nothing but unreadable checkpoints does not begin anew over them") {
  const TrainRun run;
  REQUIRE(run.train("--iteration 1").exit_code == 0);
  const fs::path file = run.checkpoint("latest");
  const std::string model = "results/shapes/model";
  const auto fails = [&](const std::vector<std::string>& parts) {
    const std::vector<std::uint8_t> before = read_file(file);
    const std::string metrics = test::read_text(run.metrics_file());
    for (const char* phase : {"train", "test", "deploy"}) {
      const test::Outcome outcome = run.run("--resume True --iteration 2 --phase " + std::string(phase));
      INFO(phase << ": " << outcome);
      CHECK(outcome.exit_code == 1);
      for (const std::string& part : parts) CHECK_THAT(outcome.err, Contains(part));
    }
    CHECK(read_file(file) == before);
    CHECK(test::read_text(run.metrics_file()) == metrics);
    CHECK(run.checkpoints().size() == 1);
  };
  SECTION("truncated") {
    fs::resize_file(file, fs::file_size(file) / 2);
    fails({"params_latest.safetensors", "damaged", model});
  }
  SECTION("not a checkpoint") {
    test::write_text(file, "Dear reader, this is no checkpoint.");
    fails({"params_latest.safetensors", model});
  }
  SECTION("safetensors of something else") {
    write_file(file, read_file(golden::path("light_ch4_96/weights_0.safetensors")));
    fails({"params_latest.safetensors", model});
  }
  SECTION("a generator alone") {
    REQUIRE(run.run("--phase deploy").exit_code == 0);
    write_file(file, read_file(run.results() / "deploy" / "A2B.safetensors"));
    fails({model});
  }
  SECTION("weights of another architecture") {
    const TrainRun other;
    REQUIRE(other.train("--iteration 1 --ch 3").exit_code == 0);
    // The header of one run over the arrays of the other.
    const SafetensorsFile mine(file), theirs(other.checkpoint("latest"));
    std::vector<ArrayEntry> entries;
    for (const std::string& name : theirs.names()) {
      const auto& view = theirs.at(name);
      entries.push_back({name, view.dtype, view.shape, [&view] { return view.bytes; }});
    }
    const fs::path mixed = run.folder() / "mixed";
    write_safetensors(mixed, entries, mine.metadata());
    fs::rename(mixed, file);
    fails({"params_latest.safetensors is of another model", "genA2B.", "has shape"});
  }
}

TEST_CASE("train_ugatit: --resume before the first checkpoint begins anew and says so") {
  const TrainRun run;
  const test::Outcome outcome = run.train("--iteration 1 --resume True");
  INFO(outcome);
  CHECK(outcome.exit_code == 0);
  CHECK_THAT(outcome.out, Contains("no checkpoint") && Contains("begin"));
}

TEST_CASE("train_ugatit: another number of images than the run to be continued had") {
  const TrainRun run;
  REQUIRE(run.train("--iteration 1").exit_code == 0);
  const auto before = test::contents(run.checkpoint("latest"));
  const std::string metrics = test::read_text(run.metrics_file());
  fs::remove(run.dataset() / "trainB" / "0.png");
  check_failure(run.run("--resume --iteration 2"), run, {"dataset/shapes/trainB", "4 images", "stopped with 5"});
  CHECK(test::contents(run.checkpoint("latest")) == before);
  CHECK(test::read_text(run.metrics_file()) == metrics);
}

TEST_CASE("train_ugatit: results that cannot be written") {
  const TrainRun run;
  test::write_text(run.folder() / "file", "");
  for (const std::string place : {"file/results", "/proc/results"}) {
    INFO(place);
    check_failure(run.train("--iteration 1 --result_dir " + place), run, {place, "cannot"});
  }
  SECTION("a folder in the place of metrics.jsonl") {
    create_folders(run.metrics_file() / "x");
    check_failure(run.train("--iteration 1 --resume True"), run, {"metrics.jsonl", "cannot write"});
  }
}

TEST_CASE("train_ugatit: a full disk while saving leaves the old checkpoint") {
  const TrainRun run;
  REQUIRE(run.train("--iteration 1").exit_code == 0);
  const auto before = test::contents(run.checkpoint("latest"));
  const test::Outcome outcome =
      run.run("--resume --iteration 3", {.file_limit = fs::file_size(run.checkpoint("latest")) / 2});
  check_failure(outcome, run, {"params_latest.safetensors", "cannot write", "free some space"});
  CHECK(test::contents(run.checkpoint("latest")) == before);
  CHECK(run.run("--resume --iteration 3").exit_code == 0);
  CHECK(run.metrics().size() == 3);
}
