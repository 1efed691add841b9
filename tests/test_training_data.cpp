#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "apps/training_data.h"
#include "core/check.h"
#include "core/image.h"
#include "tests/temporary_folder.h"

using namespace minidl;
namespace fs = std::filesystem;

namespace {

constexpr int kSize = 96;
constexpr std::uint64_t kInitialWeightDraws = 544'312;  // of the light networks with ch 4, size 96, n_res 4

// What the reference drew after seed 42 and the initial weights: file, F for flipped, row and column of the crop; one
// line per step, A and B.
constexpr const char* kSteps = R"(
  0 - 15 5     100 - 16 3
  100 - 1 30   10 - 30 25
  101 F 26 1   103 - 25 7
  10 F 24 1    0 - 12 25
  102 F 17 23  101 - 3 27
  1 - 18 17    102 - 23 27
  101 F 13 26  1 - 13 16
  1 - 27 10    102 - 25 29
  102 - 7 3    100 F 21 11
  100 - 24 18  101 F 3 24
  101 F 12 0   1 - 18 1
  0 F 16 22    100 F 25 28
  1 F 14 23    101 F 19 29
  0 F 11 4     103 - 15 10
  102 F 22 16  0 F 25 2
  10 - 5 19    102 F 27 9
  101 F 5 3    100 - 27 29
  1 F 15 11    0 F 5 18
  100 - 17 18  103 - 17 4
  101 - 27 30  102 - 23 17)";
constexpr const char* kSheet10A = "10 F 14 16  0 - 18 1  100 - 15 4  10 - 29 16  102 F 3 4";
constexpr const char* kSheet10B = "1 - 16 21  10 - 28 10  0 F 30 28  103 - 9 3  10 F 3 11";
constexpr const char* kSheet20A = "1 - 9 21  0 F 7 28  10 F 23 16  102 - 29 26  100 F 8 14";
constexpr const char* kSheet20B = "1 - 20 13  10 - 25 16  101 - 8 9  103 F 19 25  10 - 0 12";
constexpr std::uint32_t kDrawAfterwards = 1358316794;

fs::path golden() { return fs::path(MINIDL_GOLDEN_DIR) / "replay_light_ch4_96"; }
fs::path golden_dataset() { return golden() / "dataset" / "shapes_png"; }

Random after_initial_weights() {
  Random random(42);
  for (std::uint64_t i = 0; i < kInitialWeightDraws; ++i) random.u32();
  return random;
}

TrainingDataOptions options(std::int64_t last_step) {
  return {.image_size = kSize, .print_freq = 10, .last_step = last_step, .threads = 2};
}

TrainingDataState first_state(const fs::path& dataset = golden_dataset()) {
  return TrainingDataState::first(TrainingFolders(dataset), after_initial_weights());
}

// All steps with the golden data set, or those after `state`.
std::vector<TrainingStep> run(const TrainingDataOptions& o, const TrainingDataState& state = first_state()) {
  TrainingData data(TrainingFolders(golden_dataset()), o, state);
  std::vector<TrainingStep> steps;
  while (auto step = data.next()) steps.push_back(std::move(*step));
  return steps;
}

struct NamedPick {
  std::string name;
  bool flip;
  int row, column;
};

std::vector<NamedPick> parse(const std::string& text) {
  std::istringstream in(text);
  std::vector<NamedPick> picks;
  for (std::string name, flip; in >> name >> flip;) {
    NamedPick& pick = picks.emplace_back(NamedPick{name, flip == "F", 0, 0});
    in >> pick.row >> pick.column;
  }
  return picks;
}

ImageBatch batch_of(const std::vector<Image>& images) {
  ImageBatch batch{static_cast<int>(images.size()), kSize, kSize, images.front().channels, {}};
  for (const Image& image : images) batch.pixels.insert(batch.pixels.end(), image.pixels.begin(), image.pixels.end());
  return batch;
}

ImageBatch training_images(const std::string& folder, const std::vector<NamedPick>& picks, bool grey = false) {
  std::vector<Image> images;
  for (const NamedPick& pick : picks) {
    Image image = read_image(golden_dataset() / folder / (pick.name + ".png"));
    if (grey) image = to_grey(image);
    if (pick.flip) image = flip_horizontal(image);
    images.push_back(crop(resize_bilinear(image, kSize + 30, kSize + 30), pick.row, pick.column, kSize, kSize));
  }
  return batch_of(images);
}

void check_sheet(const std::vector<ImageBatch>& images, const std::string& folder, const char* expected) {
  const auto picks = parse(expected);
  REQUIRE(images.size() == picks.size());
  for (std::size_t i = 0; i < picks.size(); ++i) CHECK(images[i] == training_images(folder, {picks[i]}));
}

// Picture `column` of the top row of a sheet that the reference wrote: the real image.
ImageBatch top_row(const Image& sheet, int column) { return batch_of({crop(sheet, 0, column * kSize, kSize, kSize)}); }

bool equal(const TrainingStep& a, const TrainingStep& b) {
  const auto same_sheet = [](const TrainingStep::Sheet& x, const TrainingStep::Sheet& y) {
    return x.train_a == y.train_a && x.train_b == y.train_b && x.test_a == y.test_a && x.test_b == y.test_b;
  };
  return a.step == b.step && a.a == b.a && a.b == b.b && a.state_after == b.state_after &&
         a.sheet.has_value() == b.sheet.has_value() && (!a.sheet || same_sheet(*a.sheet, *b.sheet));
}

// A copy of the golden data set that may be changed.
struct DatasetCopy : test::TemporaryFolder {
  DatasetCopy() : TemporaryFolder("minidl dataset ") {
    fs::copy(golden_dataset(), path(), fs::copy_options::recursive);
  }
};

using Catch::Matchers::Contains;

}  // namespace

TEST_CASE("training data: the reference's images, flips and crops of seed 42", "[training_data]") {
  const auto steps = run(options(20));
  const auto picks = parse(kSteps);
  REQUIRE(steps.size() == 20);
  REQUIRE(picks.size() == 40);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    CAPTURE(i + 1);
    CHECK(steps[i].step == static_cast<std::int64_t>(i + 1));
    CHECK(steps[i].a == training_images("trainA", {picks[2 * i]}));
    CHECK(steps[i].b == training_images("trainB", {picks[2 * i + 1]}));
    CHECK(steps[i].sheet.has_value() == (i == 9 || i == 19));
  }
  check_sheet(steps[9].sheet->train_a, "trainA", kSheet10A);
  check_sheet(steps[9].sheet->train_b, "trainB", kSheet10B);
  check_sheet(steps[19].sheet->train_a, "trainA", kSheet20A);
  check_sheet(steps[19].sheet->train_b, "trainB", kSheet20B);

  Random random(0);
  random.set_state(steps[19].state_after.random);
  CHECK(random.u32() == kDrawAfterwards);
}

TEST_CASE("training data: the real images of the sheets that the reference wrote", "[training_data]") {
  const auto steps = run(options(20));
  for (const TrainingStep& step : {steps.at(9), steps.at(19)}) {
    const std::string name = "_00000" + std::to_string(step.step) + ".png";
    const Image a = read_image(golden() / "results/shapes_png/img" / ("A2B" + name));
    const Image b = read_image(golden() / "results/shapes_png/img" / ("B2A" + name));
    for (int i = 0; i < TrainingData::kSheetImages; ++i) {
      CAPTURE(name, i);
      CHECK(step.sheet->train_a.at(i) == top_row(a, i));
      CHECK(step.sheet->train_b.at(i) == top_row(b, i));
      CHECK(step.sheet->test_a.at(i) == top_row(a, TrainingData::kSheetImages + i));
      CHECK(step.sheet->test_b.at(i) == top_row(b, TrainingData::kSheetImages + i));
    }
  }
}

TEST_CASE("training data: the test images go round across sheets", "[training_data]") {
  const auto steps = run(options(20));
  const auto& first = steps[9].sheet->test_a;
  const auto& second = steps[19].sheet->test_a;
  REQUIRE(first[0].pixels != first[1].pixels);
  for (int i = 0; i < TrainingData::kSheetImages; ++i) {
    CHECK(first[i] == first[i % 2]);
    CHECK(second[i] == first[(i + 1) % 2]);
  }
}

TEST_CASE("training data: batches of four, the last one short", "[training_data]") {
  auto o = options(2);
  o.batch_size = 4;
  const auto steps = run(o);
  REQUIRE(steps.size() == 2);
  CHECK(steps[0].a == training_images("trainA", parse("0 - 15 5  100 - 21 28  101 - 11 16  10 F 24 1")));
  CHECK(steps[0].b == training_images("trainB", parse("0 F 26 1  10 - 25 7  103 F 24 1  102 - 12 25")));
  CHECK(steps[1].a == training_images("trainA", parse("102 F 17 23  1 - 3 27")));
  CHECK(steps[1].b.n == 3);
}

TEST_CASE("training data: a sheet consumes whole batches and shows the first image of each", "[training_data]") {
  auto o = options(3);
  o.batch_size = 2;
  const auto without = run(o);
  o.print_freq = 2;
  o.last_step = 2;
  const auto with = run(o);
  CHECK(equal(without[0], with[0]));
  const std::size_t pixels = std::size_t{kSize} * kSize * 3;
  const auto& shown = with[1].sheet->train_a;
  REQUIRE(shown.size() == 5);
  // The step after step 2 and the first batch of the sheet draw alike.
  CHECK(shown[0].n == 1);
  CHECK(std::equal(shown[0].pixels.begin(), shown[0].pixels.end(), without[2].a.pixels.begin(),
                   without[2].a.pixels.begin() + pixels));
  // Two steps and five sheet batches of 2 out of 6 files: one batch into the third pass.
  CHECK(with[1].state_after.folders[0].sampler.position == 2);
}

TEST_CASE("training data: grey images", "[training_data]") {
  auto o = options(4);
  o.channels = 1;
  const auto steps = run(o);
  const auto picks = parse(kSteps);
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(steps[i].a.channels == 1);
    CHECK(steps[i].a == training_images("trainA", {picks[2 * i]}, true));
  }
}

TEST_CASE("training data: the number of threads and the capacity change nothing", "[training_data]") {
  auto o = options(22);
  o.threads = 1;
  o.capacity = 1;
  const auto expected = run(o);
  for (int threads : {2, 7}) {
    o.threads = threads;
    o.capacity = 2 * threads;
    const auto steps = run(o);
    REQUIRE(steps.size() == expected.size());
    for (std::size_t i = 0; i < steps.size(); ++i) CHECK(equal(steps[i], expected[i]));
  }
}

TEST_CASE("training data: a resumed run gets the images of the never-stopped one", "[training_data]") {
  constexpr std::int64_t kLast = 24;
  const auto expected = run(options(kLast));
  // In the middle of a pass, at the end of one of A (6, 12) and of B (7), before and after a sheet, at the end.
  for (std::int64_t stop : {1, 6, 7, 9, 10, 12, 20, 23, 24}) {
    CAPTURE(stop);
    const TrainingDataState& saved = expected[static_cast<std::size_t>(stop - 1)].state_after;
    auto o = options(kLast);
    o.first_step = stop + 1;
    const auto state = TrainingDataState::restore(saved.random, saved.numbers());
    CHECK(state == saved);
    const auto steps = run(o, state);
    REQUIRE(steps.size() == static_cast<std::size_t>(kLast - stop));
    for (std::size_t i = 0; i < steps.size(); ++i) CHECK(equal(steps[i], expected[static_cast<std::size_t>(stop) + i]));
  }
}

TEST_CASE("training data: a file that is no image stops training in its step, by name", "[training_data]") {
  const DatasetCopy copy;
  const fs::path broken = copy.path() / "trainB" / "10.png";  // drawn in step 2
  REQUIRE(std::ofstream(broken) << "not a picture at all");
  auto o = options(20);
  o.threads = 3;
  TrainingData data(TrainingFolders(copy.path()), o, first_state(copy.path()));
  CHECK(data.next()->step == 1);
  CHECK_THROWS_WITH(data.next(), Contains("10.png"));
}

TEST_CASE("training data: resuming with another number of files is refused", "[training_data]") {
  const DatasetCopy copy;
  const auto state = first_state(copy.path());
  fs::copy_file(copy.path() / "trainB/0.png", copy.path() / "trainB/new.png");
  const TrainingFolders changed(copy.path());
  CHECK_THROWS_WITH(TrainingData(changed, options(20), state), Contains("trainB") && Contains("8") && Contains("7"));
}

TEST_CASE("training data: damaged states and wrong options are refused", "[training_data]") {
  const auto state = first_state();
  const TrainingFolders folders(golden_dataset());
  const auto numbers = state.numbers();
  CHECK_THROWS_AS(TrainingDataState::restore(state.random, std::span(numbers).first(11)), Error);

  auto damaged = state;
  damaged.folders[2].sampler.position = 3;  // of 2 files
  CHECK_THROWS_AS(TrainingData(folders, options(20), damaged), Error);
  damaged = state;
  damaged.random.pop_back();
  CHECK_THROWS_AS(TrainingData(folders, options(20), damaged), Error);

  for (const auto& change : std::vector<void (*)(TrainingDataOptions&)>{
           [](TrainingDataOptions& o) { o.batch_size = 0; }, [](TrainingDataOptions& o) { o.image_size = 0; },
           [](TrainingDataOptions& o) { o.channels = 2; }, [](TrainingDataOptions& o) { o.print_freq = 0; },
           [](TrainingDataOptions& o) { o.threads = 0; }}) {
    auto o = options(20);
    change(o);
    CHECK_THROWS_AS(TrainingData(folders, o, state), Error);
  }
}

TEST_CASE("training data: a data set that is missing a folder", "[training_data]") {
  const DatasetCopy copy;
  CHECK_THROWS_WITH(TrainingFolders(copy.path() / "nothing"), Contains("nothing") && Contains("trainA"));
  fs::remove_all(copy.path() / "testB");
  CHECK_THROWS_WITH(TrainingFolders(copy.path()), Contains("testB") && Contains("does not exist"));
}

TEST_CASE("training data: the data set may be a link", "[training_data]") {
  const DatasetCopy copy;
  fs::create_directory(copy.path() / "linked");
  for (const char* name : {"trainA", "trainB", "testA", "testB"})
    fs::create_directory_symlink(fs::path("..") / name, copy.path() / "linked" / name);
  TrainingData data(TrainingFolders(copy.path() / "linked"), options(1), first_state(copy.path()));
  CHECK(data.next()->a == training_images("trainA", {parse(kSteps).front()}));
}
