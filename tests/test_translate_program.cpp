// translate_images, run as a user would.
#include <catch2/catch.hpp>

#include <algorithm>

#include "apps/sheet.h"
#include "apps/training_data.h"
#include "core/file.h"
#include "models/checkpoint.h"
#include "tests/train_runs.h"

using namespace minidl;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

constexpr UgatitOptions kTiny{.channels = 4, .residual_blocks = 1, .image_size = 96, .light = true};

// A folder with a checkpoint of a tiny model that nobody has trained.
struct Setting {
  test::TemporaryFolder folder;
  Random random{7};
  Ugatit model;
  UgatitTrainer trainer;

  explicit Setting(const UgatitOptions& options = kTiny) : model(random, options), trainer(model, {}) {
    set_training(model, false);
    save_training_checkpoint(path("model.safetensors"), model, trainer, "{}", {});
    save_generator(path("B2A.safetensors"), model.genB2A, options, "B2A", 5);
  }
  fs::path path(const std::string& name) const { return folder.path() / name; }

  test::Outcome translate(const std::string& arguments) const {
    return test::run("translate_images", test::words("--checkpoint model.safetensors " + arguments),
                     {.folder = folder.path()});
  }
  void write_image(const std::string& name, int width, int height, unsigned number = 1) const {
    create_folders(path(name).parent_path());
    write_file(path(name), encode_png(test::picture(width, height, number)));
  }
  Image expected(Generator& generator, const std::string& name, int size = 96) const {
    const NoGrad no_grad;
    const ImageBatch image = load_resized(path(name), size, 3);
    return tensor_to_image(generator(images_to_tensor(image.pixels, 1, size, size, 3)).image);
  }
};

// How many values differ by more than one level.
std::size_t differences(const Image& a, const Image& b) {
  REQUIRE(a.pixels.size() == b.pixels.size());
  std::size_t count = 0;
  for (std::size_t i = 0; i < a.pixels.size(); ++i) count += std::abs(a.pixels[i] - b.pixels[i]) > 1;
  return count;
}

}  // namespace

TEST_CASE("translate_images: one image to a file is what the generator makes of it") {
  Setting s;
  s.write_image("in.png", 120, 80);
  const auto outcome = s.translate("in.png out.png");
  INFO(outcome);
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.err == "");
  CHECK((read_image(s.path("out.png")).pixels == s.expected(s.model.genA2B, "in.png").pixels));

  CHECK(s.translate("--direction B2A in.png back.png").exit_code == 0);
  CHECK((read_image(s.path("back.png")).pixels == s.expected(s.model.genB2A, "in.png").pixels));
  CHECK(s.translate("--size 128 in.png large.png").exit_code == 0);
  CHECK((read_image(s.path("large.png")).pixels == s.expected(s.model.genA2B, "in.png", 128).pixels));
}

TEST_CASE("translate_images: folders keep their structure and batches change nothing") {
  Setting s;
  s.write_image("in/a.png", 50, 60, 1);
  s.write_image("in/deep er/ü.png", 96, 96, 2);
  s.write_image("in/deep er/c.png", 30, 40, 3);
  s.write_image("single.png", 33, 44, 4);
  test::write_text(s.path("in/old.tif"), "II*");
  const auto outcome = s.translate("in single.png out");
  INFO(outcome);
  CHECK(outcome.exit_code == 0);
  CHECK_THAT(outcome.err, Contains("old.tif"));
  CHECK(test::files_below(s.path("out"), "") ==
        std::vector<std::string>{"a.png", "deep er/c.png", "deep er/ü.png", "single.png"});
  CHECK(s.translate("--batch_size 3 in single.png batched").exit_code == 0);
  for (const std::string& name : test::files_below(s.path("out"), ""))
    CHECK(differences(read_image(s.path("out/" + name)), read_image(s.path("batched/" + name))) == 0);
}

TEST_CASE("translate_images: a deployed generator knows its direction") {
  Setting s;
  s.write_image("in.png", 64, 64);
  const auto translate = [&](const std::string& flags) {
    return test::run("translate_images", test::words("--checkpoint B2A.safetensors " + flags),
                     {.folder = s.folder.path()});
  };
  CHECK(translate("in.png out.png").exit_code == 0);
  CHECK((read_image(s.path("out.png")).pixels == s.expected(s.model.genB2A, "in.png").pixels));
  CHECK(translate("--strip --heatmap in.png strip.png").exit_code == 0);
  CHECK(read_image(s.path("strip_strip.png")).height == 3 * 96);
  const auto wrong = translate("--direction A2B in.png wrong.png");
  CHECK(wrong.exit_code == 1);
  CHECK_THAT(wrong.err, Contains("B2A only"));
  CHECK_FALSE(fs::exists(s.path("wrong.png")));
}

TEST_CASE("translate_images: native size is the image's own, whatever it is") {
  Setting s;
  for (const auto& [width, height] : {std::pair(97, 61), std::pair(33, 17), std::pair(1, 1), std::pair(96, 100)}) {
    s.write_image("in.png", width, height);
    const auto outcome = s.translate("--size native --heatmap --strip in.png out.png");
    INFO(width << " x " << height << ": " << outcome);
    CHECK(outcome.exit_code == 0);
    const Image out = read_image(s.path("out.png")), heat = read_image(s.path("out_heatmap.png")),
                strip = read_image(s.path("out_strip.png"));
    CHECK((out.width == width && out.height == height));
    CHECK((heat.width == width && heat.height == height));
    CHECK((strip.width == width && strip.height == 7 * height));
  }
  UgatitOptions full = kTiny;
  full.light = false;
  Setting f(full);
  f.write_image("in.png", 50, 50);
  CHECK_THAT(f.translate("--size native in.png out.png").err, Contains("only takes images of 96 x 96"));
  CHECK_THAT(f.translate("--size 128 in.png out.png").err, Contains("only takes images of 96 x 96"));
  CHECK(f.translate("in.png out.png").exit_code == 0);
}

TEST_CASE("translate_images: size of the source, JPEG and orientation") {
  Setting s;
  s.write_image("in.png", 70, 41);
  CHECK(s.translate("--keep_size --format jpg in.png out").exit_code == 0);
  const Image jpeg = read_image(s.path("out.jpg"));
  CHECK((jpeg.width == 70 && jpeg.height == 41));
  CHECK(read_file(s.path("out.jpg"))[0] == 0xff);

  // tests/golden/formats/oriented.jpg carries an orientation that swaps its sides.
  const fs::path oriented = fs::path(MINIDL_GOLDEN_DIR) / "formats" / "oriented.jpg";
  const Image stored = read_image(oriented);
  REQUIRE(stored.width != stored.height);
  const int orientation = exif_orientation(read_file(oriented));
  REQUIRE(orientation >= 5);
  CHECK(s.translate("--keep_size " + oriented.string() + " upright.png").exit_code == 0);
  const Image upright = read_image(s.path("upright.png"));
  CHECK((upright.width == stored.height && upright.height == stored.width));
}

TEST_CASE("translate_images: a broken image is reported and skipped, the rest is done") {
  Setting s;
  s.write_image("in/good.png", 40, 40);
  test::write_text(s.path("in/text.jpg"), "this is no picture");
  const auto png = encode_png(test::picture(40, 40, 2));
  write_file(s.path("in/cut.png"), std::span(png).first(png.size() / 2));
  const auto outcome = s.translate("in out");
  INFO(outcome);
  CHECK(outcome.exit_code == 1);
  CHECK_THAT(outcome.err, Contains("text.jpg") && Contains("cut.png"));
  CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 2);
  CHECK(test::files_below(s.path("out"), "") == std::vector<std::string>{"good.png"});
}

TEST_CASE("translate_images: what cannot work is said before any work") {
  Setting s;
  s.write_image("a/x.png", 20, 20);
  s.write_image("b/x.png", 20, 20);
  s.write_image("c/x.png", 20, 20);
  write_file(s.path("c/x.jpg"), encode_jpeg(test::picture(20, 20, 3)));
  test::write_text(s.path("file"), "");
  test::write_text(s.path("not.safetensors"), "PK\x03\x04 a zip, say");
  fs::copy_file(s.path("model.safetensors"), s.path("cut.safetensors"));
  fs::resize_file(s.path("cut.safetensors"), fs::file_size(s.path("cut.safetensors")) / 2);
  struct Case {
    std::string checkpoint, arguments, message;
    int exit_code = 1;
  };
  for (const Case& c : std::vector<Case>{{"model", "a b out", "would both be written to"},
                                         {"model", "c out", "would both be written to"},
                                         {"model", "a a/out", "lies inside the input folder"},
                                         {"model", "a/x.png a/x.png", "would replace an input"},
                                         {"model", "missing.png out.png", "there is no file or folder missing.png"},
                                         {"model", "a file", "is a file; several images need a folder"},
                                         {"model", "a/x.png out.gif", "results are .png or .jpg"},
                                         {"model", "a/x.png file/out.png", "cannot make the folder"},
                                         {"model", "--dirction A2B a out", "did you mean --direction?", 2},
                                         {"model", "--size 97 a out", "multiple of 4", 2},
                                         {"model", "--direction A2A a out", "must be one of", 2},
                                         {"model", "--device cuda a out", "cuda"},
                                         {"model", "out", "at least one INPUT and an OUTPUT", 2},
                                         {"none", "a out", "cannot read none.safetensors"},
                                         {"cut", "a out", "truncated"},
                                         {"not", "a out", "not a safetensors file"}}) {
    const auto outcome =
        test::run("translate_images", test::words("--checkpoint " + c.checkpoint + ".safetensors " + c.arguments),
                  {.folder = s.folder.path()});
    INFO(c.checkpoint << " " << c.arguments << ": " << outcome);
    CHECK(outcome.exit_code == c.exit_code);
    CHECK_THAT(outcome.err, Contains(c.message));
    CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
    CHECK_FALSE(fs::exists(s.path("out")));
    CHECK(test::files_below(s.folder.path(), ".partial").empty());
  }
}

TEST_CASE("translate_images: Ctrl-C finishes what is under way") {
  Setting s;
  for (unsigned i = 0; i < 60; ++i) s.write_image(concat_text("in/", i, ".png"), 64, 64, i);
  test::Program program("translate_images", test::words("--checkpoint model.safetensors --size 512 in out"),
                        {.folder = s.folder.path()});
  REQUIRE(program.wait_until([&] { return !test::files_below(s.path("out"), ".png").empty(); }));
  program.send(SIGINT);
  const auto outcome = program.wait();
  INFO(outcome);
  CHECK(outcome.exit_code == 130);
  CHECK(test::files_below(s.path("out"), ".partial").empty());
  for (const std::string& name : test::files_below(s.path("out"), ""))
    CHECK(read_image(s.path("out/" + name)).width == 512);
}
