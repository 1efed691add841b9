// What a run shows and keeps: sheets, progress, metrics and the files of its folder.
#include "apps/sheet.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <sstream>

#include "apps/metrics_log.h"
#include "apps/progress.h"
#include "apps/run_folder.h"
#include "core/file.h"
#include "models/checkpoint.h"
#include "tests/train_runs.h"

using namespace minidl;
using Catch::Contains;
using test::read_text;
using test::write_text;
namespace fs = std::filesystem;

namespace {

constexpr int kSize = 96;
constexpr UgatitOptions kTiny{.channels = 2, .residual_blocks = 1, .image_size = kSize, .light = true};

Image image_of(int width, int height, int channels, std::vector<std::uint8_t> pixels) {
  Image image(width, height, channels);
  REQUIRE(image.pixels.size() == pixels.size());
  image.pixels = std::move(pixels);
  return image;
}

Image part(const Image& image, int top, int left) { return crop(image, top, left, kSize, kSize); }

// A single picture as the training data hands it out.
ImageBatch batch_of(int number) { return {1, kSize, kSize, 3, test::picture(kSize, kSize, number).pixels}; }

Tensor tensor_of(const ImageBatch& batch) { return images_to_tensor(batch.pixels, 1, kSize, kSize, 3); }

}  // namespace

TEST_CASE("sheet: images one below the other and side by side", "[sheet]") {
  const Image grey = image_of(2, 1, 1, {10, 20}), rgb = image_of(2, 2, 3, {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13});
  const Image column = stacked(std::vector{grey, rgb});
  CHECK((column.width == 2 && column.height == 3 && column.channels == 3));
  CHECK(column.pixels == std::vector<std::uint8_t>{10, 10, 10, 20, 20, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13});

  const Image tall = image_of(1, 2, 1, {30, 40});
  const Image row = side_by_side(std::vector{tall, rgb});
  CHECK((row.width == 3 && row.height == 2 && row.channels == 3));
  CHECK(row.pixels == std::vector<std::uint8_t>{30, 30, 30, 1, 2, 3, 4, 5, 6, 40, 40, 40, 7, 8, 9, 11, 12, 13});

  CHECK_THROWS_WITH(stacked(std::vector{grey, tall}), "stacked: an image is 1 wide, the first 2");
  CHECK_THROWS_WITH(side_by_side(std::vector{grey, tall}), "side_by_side: an image is 2 high, the first 1");
  CHECK_THROWS_AS(stacked({}), Error);
  CHECK_THROWS_AS(side_by_side({}), Error);
}

TEST_CASE("sheet: the heat map of one image of a batch, from blue to red", "[sheet]") {
  // The second image of two: cold on the left, hot on the right.
  const Tensor maps = Tensor::from_host({2, 1, 2, 2}, std::vector<float>{9, 9, 9, 9, -1, 3, -1, 3});
  const Image map = heat_map_of(maps, 8, 8, 1);
  REQUIRE((map.width == 8 && map.height == 8 && map.channels == 3));
  for (int y = 0; y < 8; ++y) {
    const std::uint8_t *left = map.row(y), *right = map.row(y) + 3 * 7;
    CHECK((left[0] == 0 && left[1] == 0 && left[2] == 128));
    CHECK((right[0] == 128 && right[1] == 0 && right[2] == 0));
  }
  const Image flat = heat_map_of(maps, 4, 4, 0);
  CHECK(std::equal(flat.row(0), flat.row(0) + 3, std::vector<std::uint8_t>{0, 0, 128}.begin()));
}

TEST_CASE("sheet: the seven rows of a column are in the reference's order", "[sheet]") {
  Random random(3);
  Ugatit model(random, kTiny);
  const ImageBatch a = batch_of(1);
  const Tensor real = tensor_of(a);
  const Column drawn = draw_column(model.genA2B, model.genB2A, real);
  REQUIRE((drawn.column.width == kSize && drawn.column.height == 7 * kSize && drawn.column.channels == 3));

  const NoGrad no_grad;
  const Generator::Output A2A = model.genB2A(real), A2B = model.genA2B(real), A2B2A = model.genB2A(A2B.image);
  const auto row = [&](int i) { return part(drawn.column, i * kSize, 0).pixels; };
  CHECK((row(0) == a.pixels));
  CHECK((row(1) == heat_map_of(A2A.heatmap(), kSize, kSize).pixels));
  CHECK((row(2) == tensor_to_image(A2A.image).pixels));
  CHECK((row(3) == heat_map_of(A2B.heatmap(), kSize, kSize).pixels));
  CHECK((row(4) == tensor_to_image(A2B.image).pixels));
  CHECK((row(5) == heat_map_of(A2B2A.heatmap(), kSize, kSize).pixels));
  CHECK((row(6) == tensor_to_image(A2B2A.image).pixels));
  CHECK((drawn.translation.pixels == row(4)));
  CHECK((row(2) != row(4)));
  CHECK((row(4) != row(6)));
}

TEST_CASE("sheet: ten columns, training images first, and each direction begins with its own domain", "[sheet]") {
  Random random(3);
  Ugatit model(random, kTiny);
  TrainingStep::Sheet images;
  for (int i = 0; i < 5; ++i) {
    images.train_a.push_back(batch_of(i));
    images.test_a.push_back(batch_of(10 + i));
    images.train_b.push_back(batch_of(20 + i));
    images.test_b.push_back(batch_of(30 + i));
  }
  const Sheets sheets = draw_sheets(model, images, DeviceType::cpu);
  const auto check_sheet = [&](const Image& sheet, int first, Generator& forward, Generator& back) {
    REQUIRE((sheet.width == 10 * kSize && sheet.height == 7 * kSize && sheet.channels == 3));
    for (int column = 0; column < 10; ++column) {
      INFO(column);
      const ImageBatch shown = batch_of(column < 5 ? first + column : first + 5 + column);
      CHECK((part(sheet, 0, column * kSize).pixels == shown.pixels));
    }
    for (int column : {2, 8}) {  // one of each half
      const ImageBatch shown = batch_of(column < 5 ? first + column : first + 5 + column);
      const Image expected = draw_column(forward, back, tensor_of(shown)).column;
      CHECK((crop(sheet, 0, column * kSize, 7 * kSize, kSize).pixels == expected.pixels));
    }
  };
  check_sheet(sheets.A2B, 0, model.genA2B, model.genB2A);
  check_sheet(sheets.B2A, 20, model.genB2A, model.genA2B);
}

TEST_CASE("progress: durations in the unit that suits them", "[progress]") {
  CHECK(duration_text(-3) == "0 s");
  CHECK(duration_text(0.4) == "0 s");
  CHECK(duration_text(59.4) == "59 s");
  CHECK(duration_text(59.6) == "1:00 min");
  CHECK(duration_text(187) == "3:07 min");
  CHECK(duration_text(3599) == "59:59 min");
  CHECK(duration_text(3599.5) == "1:00:00 h");
  CHECK(duration_text(43509) == "12:05:09 h");
  CHECK(duration_text(360'000) == "100:00:00 h");
}

TEST_CASE("progress: lines for files are few, whole, and end with the last state", "[progress]") {
  std::ostringstream out;
  Progress progress(out, false, "images", 100, 1200);
  for (int i = 101; i <= 1200; ++i) progress.update(i, ", step " + std::to_string(i));
  progress.finish();
  const std::string text = out.str();
  CHECK(text.find('\r') == std::string::npos);
  CHECK(text.find('\033') == std::string::npos);
  REQUIRE(!text.empty());
  REQUIRE(text.back() == '\n');
  CHECK(std::count(text.begin(), text.end(), '\n') <= 10);
  const std::string last = text.substr(text.rfind('\n', text.size() - 2) + 1);
  CHECK_THAT(last, Catch::StartsWith("[1200/1200] ") && Contains(" images/s, ETA 0 s, step 1200"));
  CHECK_THAT(text, Catch::StartsWith("[ 101/1200] "));

  progress.finish();
  CHECK(out.str() == text);  // nothing new to say
}

TEST_CASE("progress: a terminal's line is redrawn in place and closed at the end", "[progress]") {
  std::ostringstream out;
  Progress progress(out, true, "it", 0, 4);
  progress.update(1, "");
  progress.update(2, ", half");
  progress.finish();
  const std::string text = out.str();
  CHECK(text.front() == '\r');
  CHECK(std::count(text.begin(), text.end(), '\n') == 1);
  REQUIRE(text.back() == '\n');
  const std::string last = text.substr(text.rfind('\r'));
  CHECK_THAT(last, Catch::StartsWith("\r[2/4] |████████████            | ") && Contains(" it/s") && Contains(", half"));
}

TEST_CASE("metrics: every iteration is a line with every part of the loss", "[metrics]") {
  const test::TemporaryFolder folder;
  const fs::path file = folder.path() / "metrics.jsonl";
  MetricsLog log(file, 0);
  log.append(1, {.parts = {{"D ad", 0.25f}, {"G ad", 0.5f}}, .discriminator = 0.1f, .generator = 3}, 1e-4, 0.125);
  // Each line is in the file at once.
  const auto json = nlohmann::ordered_json::parse(read_text(file));
  CHECK(json["d_loss"].get<float>() == 0.1f);  // a float, to the bit
  CHECK(json["lr"] == 1e-4);
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  CHECK(keys == std::vector<std::string>{"iteration", "d_loss", "g_loss", "D ad", "G ad", "lr", "seconds"});
  log.append(2, {}, 1e-4, 0.125);
  CHECK(test::read_text(file).ends_with("}\n"));
  CHECK_THROWS_WITH(MetricsLog(folder.path() / "missing" / "metrics.jsonl", 0), Contains("missing/metrics.jsonl"));
}

TEST_CASE("metrics: what belongs to lost work is cut off when a run continues", "[metrics]") {
  const test::TemporaryFolder folder;
  const fs::path file = folder.path() / "metrics.jsonl";
  const std::string one = "{\"iteration\":1,\"d_loss\":2.5}\n", two = "{\"iteration\":2}\n",
                    three = "{\"iteration\":3}\n";
  const auto cut = [&](const std::string& text, std::int64_t last) {
    write_text(file, text);
    { const MetricsLog log(file, last); }
    return read_text(file);
  };
  CHECK(cut(one + two + three, 3) == one + two + three);
  CHECK(cut(one + two + three, 2) == one + two);
  CHECK(cut(one + two + three, 0) == "");
  CHECK(cut(one + two + three, 9) == one + two + three);
  CHECK(cut("", 5) == "");
  CHECK(cut(one + two.substr(0, 9), 5) == one);               // torn
  CHECK(cut(one + two.substr(0, two.size() - 1), 5) == one);  // torn just before the end of the line
  CHECK(cut(one + "not JSON\n" + three, 5) == one);
  CHECK(cut(one + "\n" + three, 5) == one);
  CHECK(cut(one + "[2]\n" + three, 5) == one);
  CHECK(cut(one + "{\"step\":2}\n" + three, 5) == one);
  CHECK(cut(one + "{\"iteration\":\"x\"}\n" + three, 5) == one);  // once threw the JSON library's own error
  CHECK(cut("\xff\xfe\n" + one, 5) == "");

  write_text(file, one + two + three);
  MetricsLog(file, 1).append(2, {}, 0, 0);
  CHECK_THAT(read_text(file), Catch::StartsWith(one + "{\"iteration\":2,\"d_loss\""));
}

TEST_CASE("run folder: files have the names that the documentation gives", "[run_folder]") {
  const RunFolder run("results", "shapes");
  CHECK(run.checkpoint(1000) == "results/shapes/model/shapes_params_0001000.safetensors");
  CHECK(run.checkpoint(12'345'678) == "results/shapes/model/shapes_params_12345678.safetensors");
  CHECK(run.latest_checkpoint() == "results/shapes/model/shapes_params_latest.safetensors");
  CHECK(run.sheet("A2B", 20) == "results/shapes/img/A2B_0000020.png");
  CHECK(run.metrics() == "results/shapes/metrics.jsonl");
}

TEST_CASE("run folder: pruning keeps the newest by number, beyond seven digits too, and other files", "[run_folder]") {
  const test::TemporaryFolder folder;
  const RunFolder run(folder.path(), "x");
  create_folders(run.root() / "model");
  for (std::int64_t step : {5, 9'999'999, 10'000'000, 123'456'789}) write_text(run.checkpoint(step), "");
  const std::vector<std::string> others = {"notes.txt",
                                           "x_params_.safetensors",
                                           "x_params_0000001.txt",
                                           "x_params_1e3.safetensors",
                                           "x_params_latest.safetensors",
                                           "y_params_0000001.safetensors"};
  for (const std::string& name : others) write_text(run.root() / "model" / name, "");
  const auto left = [&] {
    std::vector<std::string> numbered;
    for (const std::string& name : test::files_below(run.root() / "model", ""))
      if (std::find(others.begin(), others.end(), name) == others.end()) numbered.push_back(name);
    return numbered;
  };
  run.prune(4);
  CHECK(left().size() == 4);
  run.prune(2);
  CHECK(left() == std::vector<std::string>{"x_params_10000000.safetensors", "x_params_123456789.safetensors"});
  run.prune(1);
  CHECK(left() == std::vector<std::string>{"x_params_123456789.safetensors"});
  CHECK(test::files_below(run.root() / "model", "").size() == others.size() + 1);
}

TEST_CASE("run folder: the newest checkpoint is that of the most steps, whatever its name", "[run_folder]") {
  const test::TemporaryFolder folder;
  const RunFolder run(folder.path(), "x");
  std::vector<std::string> reports;
  const auto newest = [&] {
    reports.clear();
    const auto file = run.newest_checkpoint([&](const std::string& line) { reports.push_back(line); });
    return file ? file->path().filename().string() : "none";
  };
  CHECK(newest() == "none");
  create_folders(run.root() / "model");
  CHECK(newest() == "none");

  const UgatitOptions o = kTiny;
  const std::string model =
      nlohmann::json{{"image_channels", o.image_channels},   {"channels", o.channels},
                     {"residual_blocks", o.residual_blocks}, {"discriminator_depth", o.discriminator_depth},
                     {"image_size", o.image_size},           {"light", o.light}}
          .dump();
  const auto save = [&](const fs::path& file, std::int64_t step) {
    write_safetensors(file, {},
                      {{"format", "minidl-ugatit-training-1"},
                       {"model", model},
                       {"step", std::to_string(step)},
                       {"configuration", ""}});
  };
  save(run.checkpoint(10), 10);
  save(run.checkpoint(20), 20);
  CHECK(newest() == "x_params_0000020.safetensors");
  save(run.latest_checkpoint(), 15);
  CHECK(newest() == "x_params_0000020.safetensors");
  save(run.latest_checkpoint(), 25);
  CHECK(newest() == "x_params_latest.safetensors");
  save(run.checkpoint(10), 99);  // a copied file
  CHECK(newest() == "x_params_0000010.safetensors");
  CHECK(reports.empty());

  write_text(run.checkpoint(10), "torn");
  CHECK(newest() == "x_params_latest.safetensors");
  REQUIRE(reports.size() == 1);
  CHECK_THAT(reports[0], Contains("x_params_0000010.safetensors"));
  fs::remove(run.checkpoint(20));
  fs::remove(run.latest_checkpoint());
  CHECK_THROWS_WITH(newest(), Contains("--overwrite true"));
}

TEST_CASE("run folder: clearing deletes results and leaves the user's own files", "[run_folder]") {
  const test::TemporaryFolder folder;
  const RunFolder run(folder.path(), "x");
  CHECK_FALSE(run.has_results());
  run.clear();  // fine where there is nothing
  create_folders(run.root() / "model");
  write_text(run.root() / "notes.txt", "mine");
  create_folders(folder.path() / "y" / "model");
  write_text(folder.path() / "y" / "model" / "z", "another run's");
  CHECK_FALSE(run.has_results());  // an empty folder and a stranger's file

  for (const char* file : {"model/x_params_latest.safetensors", "img/A2B_0000001.png", "test/A2B/deep/a.png",
                           "deploy/A2B.safetensors", "metrics.jsonl"}) {
    INFO(file);
    create_folders((run.root() / file).parent_path());
    write_text(run.root() / file, "");
    CHECK(run.has_results());
    run.clear();
    CHECK_FALSE(run.has_results());
  }
  CHECK(test::files_below(folder.path(), "") == std::vector<std::string>{"x/notes.txt", "y/model/z"});
}
