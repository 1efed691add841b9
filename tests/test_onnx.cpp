// Exported models: what the file holds, by ONNX's own parser, checker and shape inference; what they compute, by ONNX
// Runtime.
#include <onnx/checker.h>
#include <onnx/shape_inference/implementation.h>

#include <bit>
#include <regex>
#include <set>

#include "core/ops.h"
#include "core/version.h"
#include "models/checkpoint.h"
#include "models/onnx_export.h"
#include "tests/golden.h"
#include "tests/test_util.h"
#include "tests/train_runs.h"

using namespace minidl;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

constexpr GeneratorOptions kLight{.channels = 3, .residual_blocks = 2, .image_size = 32, .light = true};
constexpr GeneratorOptions kFull{.channels = 2, .residual_blocks = 1, .image_size = 16};
constexpr GeneratorOptions kGrey{
    .image_channels = 1, .channels = 2, .residual_blocks = 1, .image_size = 20, .light = true};

// A generator whose norms are unlike those of a fresh one, so that each of their parts matters.
Generator seasoned_generator(const GeneratorOptions& options, unsigned seed) {
  Random random(seed);
  Generator generator(random, options);
  for (const StateEntry& entry : state_of(generator)) {
    std::vector<float> values = entry.tensor->to_host();
    const std::vector<float> noise = test::normal_values(entry.tensor->size(), ++seed);
    for (std::size_t i = 0; i < values.size(); ++i)
      if (entry.name.ends_with(".rho"))
        values[i] = std::min(1.0f, std::abs(0.5f * noise[i]));
      else if (entry.name.ends_with(".gamma") || entry.name.ends_with(".beta"))
        values[i] += 0.5f * noise[i];
      else if (entry.name == "gamma.weight" || entry.name == "beta.weight")
        values[i] *= 8;
    entry.tensor->copy_from_host(values);
  }
  return generator;
}

onnx::ModelProto parsed(const fs::path& file) {
  onnx::ModelProto model;
  std::ifstream in(file, std::ios::binary);
  if (!model.ParseFromIstream(&in)) throw std::runtime_error("no protobuf message: " + file.string());
  return model;
}

std::string text_of(const onnx::TensorShapeProto& shape) {
  std::string text;
  for (const auto& dim : shape.dim())
    text += (text.empty() ? "" : ", ") + (dim.has_dim_value() ? std::to_string(dim.dim_value()) : dim.dim_param());
  return text;
}
std::string text_of(const Shape& shape) {
  std::string text;
  for (const std::int64_t extent : shape.extents()) text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return text;
}
std::string shape_of(const onnx::ValueInfoProto& info) { return text_of(info.type().tensor_type().shape()); }

std::map<std::string, std::string> metadata_of(const onnx::ModelProto& model) {
  std::map<std::string, std::string> metadata;
  for (const auto& entry : model.metadata_props()) metadata[entry.key()] = entry.value();
  return metadata;
}

std::string bytes_of(const Tensor& tensor) {
  const std::vector<float> values = tensor.to_host();
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

// --- ONNX Runtime

// A Python that has it: MINIDL_ONNX_PYTHON, else that of scripts/install-onnxruntime. Says why the test is skipped and
// returns nothing where there is none.
std::optional<std::string> python_or_skip() {
  const char* chosen = std::getenv("MINIDL_ONNX_PYTHON");
  const std::string python = chosen ? chosen : MINIDL_SOURCE_DIR "/build/onnx-venv/bin/python";
  if (!fs::exists(python)) {
    WARN("skipped: no Python with ONNX Runtime at " << python << "; scripts/install-onnxruntime makes it");
    return std::nullopt;
  }
  const test::Outcome tried = test::run(python, {"-c", "import numpy, onnx, onnxruntime, PIL"});
  if (tried.exit_code == 0) return python;
  WARN("skipped: " << python << " lacks onnx, onnxruntime, numpy or pillow: " << tried.err);
  return std::nullopt;
}

std::vector<float> floats_of(const fs::path& file) {
  const std::vector<std::uint8_t> bytes = read_file(file);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

void check_close(const std::vector<float>& ours, const std::vector<float>& theirs) {
  REQUIRE(ours.size() == theirs.size());
  double difference = 0, square = 0, worst = 0, largest = 1;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const double d = std::abs(static_cast<double>(ours[i]) - theirs[i]);
    difference += d * d;
    square += static_cast<double>(ours[i]) * ours[i];
    worst = d <= worst ? worst : d;  // keeps NaN
    largest = std::max(largest, static_cast<double>(std::abs(ours[i])));
  }
  CHECK(std::sqrt(difference / square) <= 1e-4);
  CHECK(worst / largest <= 1e-4);
}

// Runs a model on random images of each shape, beside the generator that it was exported from.
void check_runtime(const std::string& python, const fs::path& model, Generator& generator,
                   const std::vector<Shape>& shapes) {
  const test::TemporaryFolder folder;
  const NoGrad no_grad;
  std::vector<std::string> arguments{MINIDL_SOURCE_DIR "/tests/run_onnx.py", model.string(), folder.path().string()};
  std::vector<Generator::Output> outputs;
  for (const Shape& shape : shapes) {
    const Tensor source = test::random_tensor(shape, DeviceType::cpu, 5, 0, 0.5f);
    arguments.push_back(std::regex_replace(text_of(shape), std::regex(", "), "x"));
    test::write_text(folder / (arguments.back() + ".source"), bytes_of(source));
    outputs.push_back(generator(source));
  }
  const test::Outcome outcome = test::run(python, arguments);
  INFO(outcome);
  REQUIRE(outcome.exit_code == 0);
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    INFO("input " << shapes[i]);
    check_close(outputs[i].image.to_host(), floats_of(folder / (arguments[3 + i] + ".image")));
    check_close(outputs[i].heatmap().to_host(), floats_of(folder / (arguments[3 + i] + ".heatmap")));
  }
}

}  // namespace

TEST_CASE("onnx: the file passes the checker and holds every tensor of the generator to the bit") {
  const GeneratorOptions options = GENERATE(kLight, kFull, kGrey);
  const test::TemporaryFolder folder;
  Generator generator = seasoned_generator(options, 1);
  write_onnx(folder / "a.onnx", generator, "A2B", 7);
  CHECK(test::files_below(folder.path(), "") == std::vector<std::string>{"a.onnx"});
  const onnx::ModelProto model = parsed(folder / "a.onnx");
  onnx::checker::check_model(model);

  std::map<std::string, const onnx::TensorProto*> initialisers;
  for (const onnx::TensorProto& tensor : model.graph().initializer()) {
    CHECK(initialisers.emplace(tensor.name(), &tensor).second);
    CHECK(tensor.has_raw_data());
  }
  for (const StateEntry& entry : state_of(generator)) {
    INFO(entry.name);
    REQUIRE(initialisers.contains(entry.name));
    const onnx::TensorProto& tensor = *initialisers.at(entry.name);
    CHECK(tensor.data_type() == onnx::TensorProto::FLOAT);
    CHECK(std::vector<std::int64_t>(tensor.dims().begin(), tensor.dims().end()) == entry.tensor->shape().extents());
    CHECK(tensor.raw_data() == bytes_of(*entry.tensor));
  }

  // Nothing is there in vain.
  std::set<std::string> used{"image", "heatmap"}, unused{"source"};
  for (const auto& [name, tensor] : initialisers) unused.insert(name);
  for (const onnx::NodeProto& node : model.graph().node()) {
    CHECK(node.domain().empty());
    CHECK(node.name() == node.output(0));
    unused.insert(node.name());
    used.insert(node.input().begin(), node.input().end());
  }
  for (const std::string& name : used) unused.erase(name);
  CHECK(unused == std::set<std::string>{});
}

TEST_CASE("onnx: every shape that can be inferred is that of the generator's outputs") {
  struct Case {
    GeneratorOptions options;
    Shape source;
  };
  const Case c = GENERATE(Case{kLight, {1, 3, 32, 32}}, Case{kLight, {3, 3, 40, 24}}, Case{kFull, {2, 3, 16, 16}},
                          Case{kGrey, {1, 1, 20, 20}});
  const test::TemporaryFolder folder;
  Generator generator = seasoned_generator(c.options, 2);
  write_onnx(folder / "a.onnx", generator, "B2A", 0);
  onnx::ModelProto model = parsed(folder / "a.onnx");
  onnx::GraphProto& graph = *model.mutable_graph();
  for (int i = 0; i < 4; ++i)
    graph.mutable_input(0)->mutable_type()->mutable_tensor_type()->mutable_shape()->mutable_dim(i)->set_dim_value(
        c.source[i]);
  for (auto& output : *graph.mutable_output()) output.mutable_type()->mutable_tensor_type()->clear_shape();
  onnx::shape_inference::InferShapes(model, onnx::OpSchemaRegistry::Instance(), {true, 1, true});

  const NoGrad no_grad;
  const Generator::Output out = generator(test::random_tensor(c.source, DeviceType::cpu, 3));
  CHECK(shape_of(graph.output(0)) == text_of(out.image.shape()));
  CHECK(shape_of(graph.output(1)) == text_of(out.heatmap().shape()));
  for (const auto& value : graph.value_info()) {
    INFO(value.name());
    CHECK(value.type().tensor_type().has_shape());
  }
}

TEST_CASE("onnx: names and metadata tell a user what the model is") {
  const test::TemporaryFolder folder;
  Generator light = seasoned_generator(kLight, 1), full = seasoned_generator(kFull, 1),
            grey = seasoned_generator(kGrey, 1);
  write_onnx(folder / "light.onnx", light, "A2B", 12);
  write_onnx(folder / "full.onnx", full, "B2A", 0);
  write_onnx(folder / "grey.onnx", grey, "B2A", 0);

  const onnx::ModelProto model = parsed(folder / "light.onnx");
  CHECK(model.ir_version() == 8);
  REQUIRE(model.opset_import_size() == 1);
  CHECK(model.opset_import(0).version() == 17);
  CHECK(model.producer_name() == "libminidl");
  CHECK(model.producer_version() == kVersion);
  CHECK(model.model_version() == 12);
  CHECK(model.graph().name() == "generator_A2B");
  for (const char* text : {"U-GAT-IT generator A2B", "domain A", "domain B", "RGB", "[-1, 1]", "multiples of 4",
                           "trained at 32", "12 iterations"})
    CHECK_THAT(model.doc_string(), Contains(text));
  CHECK(metadata_of(model) == std::map<std::string, std::string>{{"direction", "A2B"},
                                                                 {"iterations", "12"},
                                                                 {"ch", "3"},
                                                                 {"n_res", "2"},
                                                                 {"img_ch", "3"},
                                                                 {"img_size", "32"},
                                                                 {"light", "true"},
                                                                 {"input_range", "[-1, 1]"},
                                                                 {"layout", "RGB NCHW"}});
  const auto interface_of = [](const onnx::ModelProto& m) {
    std::vector<std::string> lines;
    for (const auto* values : {&m.graph().input(), &m.graph().output()})
      for (const auto& value : *values) lines.push_back(value.name() + ": " + shape_of(value));
    return lines;
  };
  CHECK(interface_of(model) == std::vector<std::string>{"source: batch, 3, height, width",
                                                        "image: batch, 3, height, width",
                                                        "heatmap: batch, 1, height/4, width/4"});
  const onnx::ModelProto fixed = parsed(folder / "full.onnx");
  CHECK(interface_of(fixed) ==
        std::vector<std::string>{"source: batch, 3, 16, 16", "image: batch, 3, 16, 16", "heatmap: batch, 1, 4, 4"});
  CHECK(metadata_of(fixed).at("light") == "false");
  CHECK_THAT(fixed.doc_string(), Contains("height and width 16"));
  const onnx::ModelProto one_channel = parsed(folder / "grey.onnx");
  CHECK(metadata_of(one_channel).at("layout") == "grey NCHW");
  CHECK(interface_of(one_channel)[0] == "source: batch, 1, height, width");

  CHECK_THROWS_WITH(write_onnx(folder / "x.onnx", light, "A", 0), Contains("A2B or B2A, not A"));
  CHECK_FALSE(fs::exists(folder / "x.onnx"));
}

TEST_CASE("onnx: tensors of a model that is too large for one message lie in a file beside it") {
  const test::TemporaryFolder folder;
  Generator old = seasoned_generator(kLight, 3), generator = seasoned_generator(kFull, 4);
  write_onnx(folder / "a.onnx", old, "A2B", 1, 0);
  write_onnx(folder / "a.onnx", generator, "A2B", 2, 0);  // replaces both
  CHECK(test::files_below(folder.path(), "") == std::vector<std::string>{"a.onnx", "a.onnx.data"});
  onnx::checker::check_model((folder / "a.onnx").string());

  const onnx::ModelProto model = parsed(folder / "a.onnx");
  const std::string data = test::read_text(folder / "a.onnx.data");
  std::map<std::string, std::string> found;
  std::size_t end = 0;
  for (const onnx::TensorProto& tensor : model.graph().initializer()) {
    if (tensor.data_location() != onnx::TensorProto::EXTERNAL) continue;
    INFO(tensor.name());
    CHECK_FALSE(tensor.has_raw_data());
    std::map<std::string, std::string> place;
    for (const auto& entry : tensor.external_data()) place[entry.key()] = entry.value();
    CHECK(place.at("location") == "a.onnx.data");
    const std::size_t offset = std::stoull(place.at("offset")), length = std::stoull(place.at("length"));
    CHECK(offset % 4096 == 0);
    CHECK(offset >= end);
    end = offset + length;
    REQUIRE(end <= data.size());
    found[tensor.name()] = data.substr(offset, length);
  }
  CHECK(end == data.size());
  for (const StateEntry& entry : state_of(generator)) {
    INFO(entry.name);
    CHECK(found.at(entry.name) == bytes_of(*entry.tensor));
  }

  // The limit is the bytes of the tensors.
  std::int64_t bytes = 0;
  for (const StateEntry& entry : state_of(generator)) bytes += 4 * entry.tensor->size();
  write_onnx(folder / "within.onnx", generator, "A2B", 2, bytes);
  CHECK_FALSE(fs::exists(folder / "within.onnx.data"));
  write_onnx(folder / "beyond.onnx", generator, "A2B", 2, bytes - 1);
  CHECK(fs::exists(folder / "beyond.onnx.data"));
}

TEST_CASE("onnx: what cannot be written is said, and the model that was there stays") {
  const test::TemporaryFolder folder;
  Generator generator = seasoned_generator(kLight, 5);
  CHECK_THROWS_WITH(write_onnx(folder / "no" / "a.onnx", generator, "A2B", 1), Contains("no/a.onnx"));
  write_onnx(folder / "a.onnx", generator, "A2B", 1, 0);
  const std::string before = test::read_text(folder / "a.onnx");
  fs::remove(folder / "a.onnx.data");
  create_folders(folder / "a.onnx.data");
  CHECK_THROWS_WITH(write_onnx(folder / "a.onnx", generator, "A2B", 2, 0),
                    Contains("a.onnx.data") && Contains("folder"));
  CHECK(test::read_text(folder / "a.onnx") == before);
  CHECK(test::files_below(folder.path(), ".partial").empty());
}

TEST_CASE("train_ugatit: deploy writes ONNX models, and none that is cut off by a full disk", "[program]") {
  const test::TrainRun run;
  REQUIRE(run.train("--iteration 1").exit_code == 0);
  const test::Outcome deployed = run.run("--phase deploy");
  INFO(deployed);
  REQUIRE(deployed.exit_code == 0);
  const fs::path deploy = run.results() / "deploy";
  for (const std::string direction : {"A2B", "B2A"}) {
    CHECK_THAT(deployed.out, Contains("wrote results/shapes/deploy/" + direction + ".onnx\n"));
    const onnx::ModelProto model = parsed(deploy / (direction + ".onnx"));
    CHECK(metadata_of(model).at("direction") == direction);
    CHECK(metadata_of(model).at("iterations") == "1");
    const SafetensorsFile own(deploy / (direction + ".safetensors"));
    std::size_t found = 0;
    for (const onnx::TensorProto& tensor : model.graph().initializer()) {
      const auto names = own.names();
      if (std::find(names.begin(), names.end(), tensor.name()) == names.end()) continue;
      const auto bytes = own.at(tensor.name()).bytes;
      CHECK(tensor.raw_data() == std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
      ++found;
    }
    CHECK(found == own.names().size());
  }

  const std::string before = test::read_text(deploy / "A2B.onnx");
  const std::uint64_t room = fs::file_size(deploy / "A2B.safetensors") + 100;
  REQUIRE(room < before.size());
  const test::Outcome full = run.run("--phase deploy", {.file_limit = room});
  INFO(full);
  CHECK(full.exit_code == 1);
  CHECK_THAT(full.err, Contains("cannot write results/shapes/deploy/A2B.onnx") && Contains("free some space"));
  CHECK(test::read_text(deploy / "A2B.onnx") == before);
  CHECK(test::files_below(deploy, ".partial").empty());
}

TEST_CASE("convert_checkpoint: an official checkpoint becomes the ONNX model of either generator", "[program]") {
  const test::TemporaryFolder folder;
  const fs::path official = golden::path("light_ch4_96/params_legacy_0000000.pt");
  const auto arrays = open_array_file(official);
  const auto convert = [&](const std::string& flags) {
    return test::run("convert_checkpoint", test::words(official.string() + " a.onnx" + flags),
                     {.folder = folder.path()});
  };
  for (const std::string direction : {"A2B", "B2A"}) {
    const test::Outcome converted = convert(direction == "A2B" ? "" : " --direction B2A");
    INFO(converted);
    REQUIRE(converted.exit_code == 0);
    CHECK_THAT(converted.out, Contains("wrote a.onnx"));
    CHECK((converted.out.find("left out: all but the generator A2B") != std::string::npos) == (direction == "A2B"));
    const onnx::ModelProto model = parsed(folder / "a.onnx");
    onnx::checker::check_model(model);
    CHECK(metadata_of(model).at("direction") == direction);
    std::size_t found = 0;
    for (const onnx::TensorProto& tensor : model.graph().initializer()) {
      const std::string name = "gen" + direction + "." + tensor.name();
      if (!arrays->contains(name)) continue;
      std::vector<std::byte> scratch;
      const auto bytes = row_major(arrays->at(name), scratch);
      CHECK(tensor.raw_data() == std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
      ++found;
    }
    const auto names = arrays->names();
    CHECK(found == static_cast<std::size_t>(std::count_if(names.begin(), names.end(), [&](const std::string& name) {
            return name.starts_with("gen" + direction + ".");
          })));
    CHECK(found > 0);
  }
}

TEST_CASE("onnx: ONNX Runtime computes what the generator computes", "[python]") {
  const auto python = python_or_skip();
  if (!python) return;
  struct Case {
    GeneratorOptions options;
    std::vector<Shape> sources;
  };
  const Case c =
      GENERATE(Case{kLight, {{1, 3, 32, 32}, {3, 3, 32, 32}, {1, 3, 16, 16}, {2, 3, 52, 36}}},
               Case{kFull, {{1, 3, 16, 16}, {3, 3, 16, 16}}}, Case{kGrey, {{1, 1, 20, 20}, {3, 1, 20, 28}}},
               Case{{.channels = 16, .residual_blocks = 4, .image_size = 96, .light = true}, {{1, 3, 96, 96}}},
               Case{{.channels = 8, .residual_blocks = 4, .image_size = 64}, {{1, 3, 64, 64}, {3, 3, 64, 64}}});
  const test::TemporaryFolder folder;
  Generator generator = seasoned_generator(c.options, 6);
  for (const std::int64_t limit : {kOnnxInlineBytes, std::int64_t{0}}) {
    write_onnx(folder / "a.onnx", generator, "A2B", 3, limit);
    check_runtime(*python, folder / "a.onnx", generator, c.sources);
  }
}

TEST_CASE("docs/onnx.md: its example translates a photo as translate_images does", "[python][program]") {
  const auto python = python_or_skip();
  if (!python) return;
  const std::string document = test::read_text(MINIDL_SOURCE_DIR "/docs/onnx.md");
  const std::size_t begin = document.find("```python\n") + 10, end = document.find("```\n", begin);
  REQUIRE(end != std::string::npos);
  const test::TrainRun run;
  REQUIRE(run.train("--iteration 2").exit_code == 0);
  REQUIRE(run.run("--phase deploy").exit_code == 0);
  const fs::path deploy = run.results() / "deploy";
  write_file(deploy / "photo.jpg", encode_jpeg(test::picture(150, 110, 4)));
  test::write_text(deploy / "example.py", document.substr(begin, end - begin));

  const test::Outcome example = test::run(*python, {"example.py"}, {.folder = deploy});
  INFO(example);
  REQUIRE(example.exit_code == 0);
  const test::Outcome ours =
      test::run("translate_images", test::words("--checkpoint A2B.safetensors photo.jpg ours.png"), {.folder = deploy});
  INFO(ours);
  REQUIRE(ours.exit_code == 0);
  const Image a = decode_image(read_file(deploy / "translated.png"), "translated.png"),
              b = decode_image(read_file(deploy / "ours.png"), "ours.png");
  REQUIRE(a.pixels.size() == b.pixels.size());
  int worst = 0;
  for (std::size_t i = 0; i < a.pixels.size(); ++i) worst = std::max(worst, std::abs(a.pixels[i] - b.pixels[i]));
  CHECK(worst <= 1);
  const auto [low, high] = std::minmax_element(b.pixels.begin(), b.pixels.end());
  CHECK(*high - *low > 50);  // there is something to compare
}
