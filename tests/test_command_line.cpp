// Command lines: what CommandLine makes of words, what translate_images asks for, and how a resumed run merges flags.
#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/command_line.h"
#include "apps/train_options.h"
#include "apps/translate_options.h"

using namespace minidl;
using Catch::Contains;
using Words = std::vector<std::string>;

namespace {

// Calls f(argc, argv) with the program's name before the words.
template <class F>
auto with_arguments(const Words& words, F f) {
  std::vector<const char*> argv{"program"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  return f(static_cast<int>(argv.size()), argv.data());
}

// One flag of every kind.
struct Flags {
  bool off = false, on = true;
  std::int64_t count = 5;
  double rate = 0.5;
  std::string name = "plain", mode = "slow";
  Words rest;
  bool given_count = false, given_off = false;
};

Flags parsed(const Words& words, bool with_rest = true) {
  Flags f;
  CommandLine line("program", "Tests.");
  line.flag("off", f.off, "a boolean");
  line.flag("on", f.on, "a boolean");
  line.flag("count", f.count, "a whole number", {-10, 10});
  line.flag("rate", f.rate, "a number", {.min = -1});
  line.flag("name", f.name, "any text");
  line.flag("mode", f.mode, "one of two", {"slow", "fast"});
  if (with_rest) line.positional(f.rest, "FILE...");
  const bool goes_on = with_arguments(words, [&](int argc, auto argv) { return line.parse(argc, argv); });
  REQUIRE(goes_on);
  f.given_count = line.given("count");
  f.given_off = line.given("off");
  return f;
}

TrainCommand train(const Words& words) {
  return with_arguments(words, [](int argc, auto argv) { return parse_train_command(argc, argv); }).value();
}

TranslateOptions translate(Words words) {
  words.insert(words.begin(), {"--checkpoint", "model"});
  return with_arguments(words, [](int argc, auto argv) { return parse_translate_command(argc, argv); }).value();
}

}  // namespace

TEST_CASE("command line: what is not given keeps its default", "[command_line]") {
  const Flags f = parsed({});
  CHECK_FALSE(f.off);
  CHECK(f.on);
  CHECK(f.count == 5);
  CHECK(f.rate == 0.5);
  CHECK(f.name == "plain");
  CHECK(f.mode == "slow");
  CHECK(f.rest.empty());
  CHECK_FALSE(f.given_count);
  CHECK_FALSE(f.given_off);
  CHECK(parsed({"--count", "5"}).given_count);  // given, though nothing changes
  CHECK(parsed({"--off", "false"}).given_off);
}

TEST_CASE("command line: a word after a boolean is its value only if it is true or false", "[command_line]") {
  for (const char* word : {"true", "True", "TRUE", "tRuE"}) {
    const Flags f = parsed({"--off", word, "photo.png"});
    CHECK(f.off);
    CHECK(f.rest == Words{"photo.png"});
  }
  for (const char* word : {"false", "False", "FALSE"}) {
    const Flags f = parsed({"photo.png", "--on", word});
    CHECK_FALSE(f.on);
    CHECK(f.rest == Words{"photo.png"});
  }
  for (const char* word : {"yes", "1", "0", "t", "truee", "photo.png"}) {
    const Flags f = parsed({"--off", word, "--on", word});
    CHECK(f.off);
    CHECK(f.on);
    CHECK(f.rest == Words{word, word});
  }
  CHECK(parsed({"--off", "--count", "3"}).off);
  CHECK(parsed({"--off", "--count", "3"}).count == 3);
  CHECK(parsed({"--off=TRUE"}).off);
  CHECK_FALSE(parsed({"--on=False"}).on);
  CHECK_THROWS_WITH(parsed({"--on=no"}), "--on is true or false, not 'no'");
  CHECK_THROWS_WITH(parsed({"--on="}), "--on is true or false, not ''");
}

TEST_CASE("command line: of a flag given twice the last one counts", "[command_line]") {
  CHECK(parsed({"--count", "1", "--count=2"}).count == 2);
  CHECK(parsed({"--off", "--off", "false"}).off == false);
  CHECK(parsed({"--mode", "fast", "--mode", "slow"}).mode == "slow");
}

TEST_CASE("command line: values may begin with a minus or hold spaces and umlauts", "[command_line]") {
  CHECK(parsed({"--count", "-7"}).count == -7);
  CHECK(parsed({"--count=-7"}).count == -7);
  CHECK(parsed({"--rate", "-2.5e-1"}).rate == -0.25);
  CHECK(parsed({"--name", "-"}).name == "-");
  CHECK(parsed({"--name", "zwei Wörter"}).name == "zwei Wörter");
  CHECK(parsed({"--name=a=b,c"}).name == "a=b,c");
  CHECK(parsed({"zwei Wörter.png", "a,b.png"}).rest == Words{"zwei Wörter.png", "a,b.png"});
}

TEST_CASE("command line: after -- there are no flags", "[command_line]") {
  const Flags f = parsed({"--count", "3", "--", "--off", "true", "-x.png", "--cuont"});
  CHECK(f.count == 3);
  CHECK_FALSE(f.off);
  CHECK(f.rest == Words{"--off", "true", "-x.png", "--cuont"});
  CHECK(parsed({"--off", "--", "true"}).rest == Words{"true"});
}

TEST_CASE("command line: numbers outside their range or that are none", "[command_line]") {
  CHECK(parsed({"--count", "10"}).count == 10);
  CHECK(parsed({"--count", "-10"}).count == -10);
  CHECK_THROWS_WITH(parsed({"--count", "11"}), "--count must be between -10 and 10, not 11");
  CHECK_THROWS_WITH(parsed({"--count", "-11"}), "--count must be between -10 and 10, not -11");
  CHECK_THROWS_WITH(parsed({"--rate", "-2"}), "--rate must be at least -1, not -2");
  CHECK(parsed({"--rate", "1e300"}).rate == 1e300);
  CHECK_THROWS_WITH(parsed({"--rate", "nan"}), Contains("--rate must be at least -1"));
  for (const char* word : {"", "x", "3x", "3.0", "0x3", " 3", "99999999999999999999"}) {
    INFO(word);
    CHECK_THROWS_WITH(parsed({std::string("--count=") + word}), Contains("--count must be a whole number"));
  }
  CHECK_THROWS_WITH(parsed({"--mode", "Fast"}), "--mode must be one of slow, fast, not 'Fast'");
}

TEST_CASE("command line: an unknown flag is answered with the nearest one, if any is near", "[command_line]") {
  CHECK_THROWS_WITH(parsed({"--cuont", "3"}), "there is no flag --cuont; did you mean --count?");
  CHECK_THROWS_WITH(parsed({"--Count=3"}), "there is no flag --Count; did you mean --count?");
  CHECK_THROWS_WITH(parsed({"--nam"}), "there is no flag --nam; did you mean --name?");
  CHECK_THROWS_WITH(parsed({"--elaborate"}), "there is no flag --elaborate; see program --help");
  CHECK_THROWS_AS(parsed({"-c", "3"}), UsageError);
}

TEST_CASE("command line: missing values and words that belong to no flag", "[command_line]") {
  CHECK_THROWS_WITH(parsed({"--count"}), "--count needs a value");
  CHECK_THROWS_WITH(parsed({"--name", "--off"}), "--name needs a value");
  CHECK_THROWS_WITH(parsed({"--off", "stray"}, false), "'stray' belongs to no flag; see program --help");
  CHECK_THROWS_WITH(parsed({"--", "--off"}, false), Contains("'--off' belongs to no flag"));
}

TEST_CASE("command line: translate_images takes inputs and an output among its flags", "[command_line]") {
  const TranslateOptions o = translate(
      {"a.png", "--heatmap", "b c", "--strip", "True", "--batch_size", "4", "ü.png", "--size", "native", "out"});
  CHECK(o.checkpoint == "model");
  CHECK(o.inputs == Words{"a.png", "b c", "ü.png"});
  CHECK(o.output == "out");
  CHECK(o.heatmap);
  CHECK(o.strip);
  CHECK_FALSE(o.keep_size);
  CHECK(o.batch_size == 4);
  CHECK(o.size == "native");
  CHECK(o.direction.empty());
  CHECK(translate({"--", "-a.png", "--out"}).inputs == Words{"-a.png"});
  for (const char* size : {"16", "96", "128", "16384"}) CHECK(translate({"--size", size, "a", "b"}).size == size);
  for (const char* size : {"0", "12", "97", "-96", "96.0", "96px", "16388", "99999999999999999999", "Native"}) {
    INFO(size);
    CHECK_THROWS_WITH(translate({"--size", size, "a", "b"}),
                      std::string("--size must be native or a multiple of 4 from 16 to 16384, not '") + size + "'");
  }
  CHECK_THROWS_WITH(translate({"a"}), Contains("at least one INPUT and an OUTPUT"));
  CHECK_THROWS_WITH(translate({"--format", "gif", "a", "b"}), Contains("--format must be one of"));
  CHECK_THROWS_WITH(translate({"--batch_size", "0", "a", "b"}), Contains("--batch_size must be between 1 and"));
}

TEST_CASE("training options: the name of a run is the last component of its data set", "[command_line]") {
  const auto name = [](const std::string& dataset) {
    TrainOptions o;
    o.dataset = dataset;
    return o.name();
  };
  CHECK(name("x") == "x");
  CHECK(name("a/b/") == "b");
  CHECK(name("./data") == "data");
  CHECK(name("/data/Wörter mit Raum//") == "Wörter mit Raum");
  CHECK(name("a/b/..") == "a");
  CHECK(name("..") == std::filesystem::current_path().parent_path().filename());
}

TEST_CASE("training options: stored as JSON and read back", "[command_line]") {
  TrainOptions o;
  o.light = true;
  o.ch = 7;
  o.lr = 0.1 + 0.2;  // needs every digit
  o.cam_weight = 1.0 / 3;
  o.decay_flag = false;
  o.iteration = 123'456'789'012;
  o.seed = 9'007'199'254'740'993;  // no double holds it
  o.keep = 3;
  o.dataset = "elsewhere";
  o.resume = true;
  o.threads = 9;
  const nlohmann::json json = to_json(o);
  const TrainOptions back = train_options_from_json(nlohmann::json::parse(json.dump()));
  CHECK(to_json(back) == json);
  CHECK(back.light);
  CHECK(back.ch == 7);
  CHECK(back.lr == 0.1 + 0.2);
  CHECK(back.cam_weight == 1.0 / 3);
  CHECK_FALSE(back.decay_flag);
  CHECK(back.iteration == 123'456'789'012);
  CHECK(back.seed == 9'007'199'254'740'993);
  CHECK(back.keep == 3);
  // What belongs to one call of the program is not stored.
  CHECK(back.dataset == TrainOptions().dataset);
  CHECK_FALSE(back.resume);
  CHECK(back.threads == 0);
  // A checkpoint of before a flag existed has the flag's default.
  CHECK(to_json(train_options_from_json(nlohmann::json::object())) == to_json(TrainOptions()));
}

TEST_CASE("training options: flags given anew win over stored ones, except those of the network", "[command_line]") {
  TrainOptions stored;
  stored.light = true;
  stored.ch = 8;
  stored.img_size = 96;
  stored.seed = 5;
  stored.iteration = 100;
  stored.lr = 0.0002;

  std::vector<std::string> notes;
  const TrainOptions quiet = merged_options(
      stored, train({"--resume", "--light", "--lr", "0.0002", "--dataset", "d/e", "--threads", "2"}), notes);
  CHECK(notes.empty());  // the same values, given again
  CHECK(to_json(quiet) == to_json(stored));
  CHECK(quiet.resume);
  CHECK(quiet.dataset == "d/e");
  CHECK(quiet.threads == 2);

  const TrainOptions changed =
      merged_options(stored, train({"--iteration", "300", "--decay_flag", "False", "--seed", "6"}), notes);
  CHECK(notes == Words{"--iteration: 300 instead of the checkpoint's 100",
                       "--decay_flag: false instead of the checkpoint's true",
                       "--seed: ignored, a resumed run continues its own random numbers"});
  CHECK(changed.iteration == 300);
  CHECK_FALSE(changed.decay_flag);
  CHECK(changed.seed == 5);
  CHECK(changed.lr == 0.0002);
  CHECK(changed.ch == 8);

  CHECK_THROWS_WITH(merged_options(stored, train({"--ch", "16"}), notes),
                    Contains("--ch: 16 instead of the checkpoint's 8") && Contains("another network"));
  CHECK_THROWS_WITH(merged_options(stored, train({"--light", "false"}), notes),
                    Contains("--light: false instead of the checkpoint's true"));
}

TEST_CASE("words far longer than any path end in a usage error, not in the end of the stack") {
  for (const std::string& word : {"--dataset=" + std::string(120'000, 'a'), "-" + std::string(120'000, 'a'),
                                  "-a=" + std::string(120'000, 'a'), std::string(120'000, 'a')})
    CHECK_THROWS_WITH(train({word}), Contains("longer than any flag or path"));
}
