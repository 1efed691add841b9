// translate_images, run as a user would.
#include <catch2/catch.hpp>

#include <algorithm>

#include "apps/sheet.h"
#include "apps/training_data.h"
#include "core/file.h"
#include "core/version.h"
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

  test::Outcome translate(const std::string& arguments) const { return run(test::words(arguments)); }
  test::Outcome run(std::vector<std::string> arguments, test::ProgramOptions run_options = {}) const {
    arguments.insert(arguments.begin(), {"--checkpoint", "model.safetensors"});
    run_options.folder = folder.path();
    return test::run("translate_images", arguments, run_options);
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

bool is_png(const fs::path& file) { return read_file(file).at(1) == 'P'; }
bool is_jpeg(const fs::path& file) { return read_file(file).at(0) == 0xff; }

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

TEST_CASE("translate_images: --precision bf16 makes almost the same image, or is refused") {
  Setting s({.channels = 16, .residual_blocks = 1, .image_size = 96, .light = true});
  s.write_image("in.png", 96, 96);
  const auto lacking =
      s.run({"--precision", "bf16", "in.png", "out.png"}, {.environment = {{"ONEDNN_MAX_CPU_ISA", "AVX2"}}});
  CHECK(lacking.exit_code == 1);
  CHECK_THAT(lacking.err, Contains("--precision bf16 needs a processor with AVX512-BF16"));
  CHECK(std::count(lacking.err.begin(), lacking.err.end(), '\n') == 1);
  CHECK_FALSE(fs::exists(s.path("out.png")));

  const auto rounded = s.translate("--precision bf16 in.png out.png");
  INFO(rounded);
  if (rounded.exit_code != 0) {
    CHECK(rounded.err == lacking.err);
    WARN("skipped: " << rounded.err);
    return;
  }
  const Image exact = s.expected(s.model.genA2B, "in.png"), image = read_image(s.path("out.png"));
  REQUIRE(image.pixels.size() == exact.pixels.size());
  CHECK(image.pixels != exact.pixels);
  double difference = 0;
  for (std::size_t i = 0; i < exact.pixels.size(); ++i) difference += std::abs(image.pixels[i] - exact.pixels[i]);
  CHECK(difference / static_cast<double>(exact.pixels.size()) < 2);  // levels
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

  // Orientation 6: the camera was turned, so that the first column of the picture is the last row of the file.
  const fs::path oriented = fs::path(MINIDL_GOLDEN_DIR) / "formats" / "oriented.jpg";
  const Image stored = read_image(oriented);
  REQUIRE(stored.width != stored.height);
  Image upright(stored.height, stored.width, 3);
  for (int y = 0; y < upright.height; ++y)
    for (int x = 0; x < upright.width; ++x)
      std::copy_n(stored.row(stored.height - 1 - x) + 3 * y, 3, upright.row(y) + 3 * x);
  write_file(s.path("upright.png"), encode_png(upright));
  CHECK(s.translate("--keep_size " + oriented.string() + " turned.png").exit_code == 0);
  CHECK(s.translate("--keep_size upright.png expected.png").exit_code == 0);
  const Image turned = read_image(s.path("turned.png"));
  CHECK((turned.width == upright.width && turned.height == upright.height));
  CHECK((turned.pixels == read_image(s.path("expected.png")).pixels));
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
  s.write_image("d/x.png", 20, 20);
  s.write_image("d/x_heatmap.png", 20, 20);
  create_folders(s.path("empty"));
  create_folders(s.path("folder.safetensors"));
  test::write_text(s.path("file"), "");
  test::write_text(s.path("not.safetensors"), "GIF89a, say: no checkpoint");
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
                                         {"not", "a out", "neither as a safetensors"}}) {
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

TEST_CASE("translate_images: the heat map lies over the image, and the strip is the reference's column") {
  Setting s;
  s.write_image("in.png", 120, 80);
  const Image source = resize_bilinear(read_image(s.path("in.png")), 96, 96);
  const Tensor real = images_to_tensor(source.pixels, 1, 96, 96, 3);
  const NoGrad no_grad;
  const auto rows = [](const Image& column, int first, int count) {
    return crop(column, 96 * first, 0, 96 * count, 96).pixels;
  };

  REQUIRE(s.translate("--heatmap --strip True in.png out.png").exit_code == 0);
  const Image strip = draw_column(s.model.genA2B, s.model.genB2A, real).column;
  CHECK((read_image(s.path("out_strip.png")).pixels == strip.pixels));
  const Image heat = heat_map_of(s.model.genA2B(real).heatmap(), 96, 96), over = read_image(s.path("out_heatmap.png"));
  REQUIRE(over.pixels.size() == heat.pixels.size());
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < heat.pixels.size(); ++i)
    wrong += over.pixels[i] != (source.pixels[i] + heat.pixels[i] + 1) / 2;
  CHECK(wrong == 0);

  REQUIRE(s.translate("--strip --direction B2A in.png back.png").exit_code == 0);
  const Image back = draw_column(s.model.genB2A, s.model.genA2B, real).column;
  CHECK((read_image(s.path("back_strip.png")).pixels == back.pixels));

  // A deployed generator cannot draw the rows of the other one.
  REQUIRE(s.translate("--checkpoint B2A.safetensors --strip in.png single.png").exit_code == 0);
  const Image single = read_image(s.path("single_strip.png"));
  REQUIRE(single.height == 3 * 96);
  CHECK((rows(single, 0, 1) == rows(back, 0, 1)));
  CHECK((rows(single, 1, 2) == rows(back, 3, 2)));
}

TEST_CASE("translate_images: a native image is padded with its edges and cut back, in batches too") {
  Setting s;
  s.write_image("in/a.png", 97, 61, 1);
  s.write_image("in/b.png", 98, 63, 2);  // padded, of one size with the first
  s.write_image("in/c.png", 100, 64, 3);
  s.write_image("in/d.png", 5, 3, 4);
  s.write_image("in/e.png", 97, 61, 5);
  REQUIRE(s.translate("--size native in single").exit_code == 0);
  REQUIRE(s.translate("--size native --batch_size 4 in batched").exit_code == 0);
  const NoGrad no_grad;
  for (const std::string name : {"a.png", "b.png", "c.png", "d.png", "e.png"}) {
    INFO(name);
    const Image source = read_image(s.path("in/" + name));
    const int width = std::max(16, (source.width + 3) / 4 * 4), height = std::max(16, (source.height + 3) / 4 * 4);
    Image padded(width, height, 3);
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x)
        std::copy_n(source.row(std::min(y, source.height - 1)) + 3 * std::min(x, source.width - 1), 3,
                    padded.row(y) + 3 * x);
    const Tensor fake = s.model.genA2B(images_to_tensor(padded.pixels, 1, height, width, 3)).image;
    const Image expected = crop(tensor_to_image(fake), 0, 0, source.height, source.width);
    CHECK((read_image(s.path("single/" + name)).pixels == expected.pixels));
    CHECK(differences(read_image(s.path("batched/" + name)), expected) == 0);
  }
}

TEST_CASE("translate_images: names with spaces, umlauts, no extension, or like flags") {
  Setting s;
  for (const char* name : {"zwei Wörter.PNG", "--odd.png", "plain"}) s.write_image(name, 30, 40);
  const auto outcome = s.run({"--direction", "A2B", "--", "zwei Wörter.PNG", "--odd.png", "plain", "größer als/1"});
  INFO(outcome);
  CHECK(outcome.exit_code == 0);
  CHECK(test::files_below(s.path("größer als"), "") ==
        std::vector<std::string>{"1/--odd.png", "1/plain.png", "1/zwei Wörter.png"});
  CHECK(s.run({"zwei Wörter.PNG", "neues Bild.png"}).exit_code == 0);
  CHECK((read_image(s.path("neues Bild.png")).pixels == s.expected(s.model.genA2B, "plain").pixels));
}

TEST_CASE("translate_images: OUTPUT's extension, in any case, or --format decides the format") {
  Setting s;
  s.write_image("in.png", 30, 40);
  const auto written = [&](const std::string& arguments, const std::string& file) {
    INFO(arguments);
    const auto outcome = s.translate(arguments);
    INFO(outcome);
    CHECK(outcome.exit_code == 0);
    REQUIRE(fs::exists(s.path(file)));
    return s.path(file);
  };
  CHECK(is_jpeg(written("in.png a.jpg", "a.jpg")));
  CHECK(is_jpeg(written("in.png b.JPEG", "b.JPEG")));
  CHECK(is_jpeg(written("--format jpg in.png c.jpeg", "c.jpeg")));
  CHECK(is_jpeg(written("--format jpg in.png folder/", "folder/in.jpg")));
  CHECK(is_png(written("a.jpg d", "d.png")));
  CHECK(is_png(written("a.jpg folder/", "folder/a.png")));
  CHECK(is_png(written("a.jpg e.PNG", "e.PNG")));
  // The same once more: a result may be replaced.
  CHECK(is_png(written("a.jpg folder", "folder/a.png")));
}

TEST_CASE("translate_images: an OUTPUT named .Png is a PNG, not a JPEG") {
  Setting s;
  s.write_image("in.png", 30, 40);
  REQUIRE(s.translate("in.png out.Png").exit_code == 0);
  CHECK(is_png(s.path("out.Png")));
}

TEST_CASE("translate_images: a linked folder inside an input is named, not silently left out") {
  Setting s;
  s.write_image("in/a.png", 30, 40);
  s.write_image("elsewhere/b.png", 30, 40);
  fs::create_directory_symlink(s.path("elsewhere"), s.path("in/link"));
  fs::create_directory_symlink(s.path("in"), s.path("input"));
  const auto outcome = s.translate("input out");
  INFO(outcome);
  CHECK(outcome.exit_code == 0);
  CHECK(outcome.err == "translate_images: input/link is a linked folder and is left out\n");
  CHECK(test::files_below(s.path("out"), "") == std::vector<std::string>{"a.png"});
}

TEST_CASE("translate_images: nothing but broken images") {
  Setting s;
  create_folders(s.path("in"));
  test::write_text(s.path("in/text.jpg"), "this is no picture");
  test::write_text(s.path("picture.tif"), "II*");
  for (const std::string arguments : {"in/text.jpg out.png", "in out", "picture.tif out.png"}) {
    const auto outcome = s.translate(arguments);
    INFO(arguments << ": " << outcome);
    CHECK(outcome.exit_code == 1);
    CHECK_THAT(outcome.err, Contains(arguments.starts_with("in") ? "text.jpg" : "picture.tif"));
    CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
    CHECK_THAT(outcome.out, Contains("0 of 1 images translated"));
    CHECK(test::files_below(s.path("out"), "").empty());
    CHECK_FALSE(fs::exists(s.path("out.png")));
  }
}

TEST_CASE("translate_images: a result that cannot be written is reported, the others are written") {
  Setting s;
  s.write_image("in/a.png", 30, 40, 1);
  s.write_image("in/b.png", 30, 40, 2);
  create_folders(s.path("out/a.png"));
  const auto outcome = s.translate("in out");
  INFO(outcome);
  CHECK(outcome.exit_code == 1);
  CHECK_THAT(outcome.err, Contains("out/a.png"));
  CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
  CHECK(test::files_below(s.path("out"), "") == std::vector<std::string>{"b.png"});

  // A full disk keeps what was there before.
  const auto before = read_file(s.path("out/b.png"));
  const auto full = s.run(test::words("--size 512 in/b.png out"), {.file_limit = 1000});
  INFO(full);
  CHECK(full.exit_code == 1);
  CHECK_THAT(full.err, Contains("out/b.png"));
  CHECK(read_file(s.path("out/b.png")) == before);
  CHECK(test::files_below(s.path("out"), ".partial").empty());
}

TEST_CASE("translate_images: a grey model turns colour into grey") {
  UgatitOptions grey = kTiny;
  grey.image_channels = 1;
  Setting s(grey);
  s.write_image("in.png", 70, 50);
  const auto outcome = s.translate("--heatmap --strip in.png out.png");
  INFO(outcome);
  REQUIRE(outcome.exit_code == 0);
  const NoGrad no_grad;
  const Image source = resize_bilinear(to_grey(read_image(s.path("in.png"))), 96, 96);
  const Image expected = tensor_to_image(s.model.genA2B(images_to_tensor(source.pixels, 1, 96, 96, 1)).image);
  REQUIRE(expected.channels == 1);
  const Image out = read_image(s.path("out.png"));  // as every image that is read, in three channels
  REQUIRE(out.pixels.size() == 3 * expected.pixels.size());
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < out.pixels.size(); ++i) wrong += out.pixels[i] != expected.pixels[i / 3];
  CHECK(wrong == 0);
  CHECK(read_image(s.path("out_strip.png")).height == 7 * 96);
  CHECK(read_image(s.path("out_heatmap.png")).height == 96);
}

TEST_CASE("translate_images: the usage line of --help says where inputs and output stand") {
  CHECK_THAT(test::run("translate_images", {"--help"}).out, Contains("translate_images [OPTION...] INPUT... OUTPUT\n"));
}

TEST_CASE("translate_images: --help, --version and an empty command line") {
  const auto help = test::run("translate_images", {"--help"});
  CHECK(help.exit_code == 0);
  CHECK(help.err.empty());
  for (const char* text : {"--checkpoint", "--direction", "--size", "--heatmap", "--strip", "--keep_size", "--format",
                           "--batch_size", "--threads", "--device", "--help", "--version"})
    CHECK_THAT(help.out, Contains(text));
  CHECK_THAT(help.out, !Contains("(default: \"\")"));
  const auto version = test::run("translate_images", {"--version"});
  CHECK(version.exit_code == 0);
  CHECK(version.out == std::string("translate_images ") + kVersion + "\n");
  const auto nothing = test::run("translate_images", {});
  CHECK(nothing.exit_code == 2);
  CHECK_THAT(nothing.err, Contains("--checkpoint is missing"));
  CHECK(nothing.out.empty());
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
