// scripts/gpu_check, the command for machines with a GPU: on the emulated device, and with stand-ins for what it calls.
#include <catch2/catch.hpp>

#include <fstream>
#include <sstream>

#include "tests/program.h"

using namespace test;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

const fs::path kScript = fs::path(MINIDL_GOLDEN_DIR).parent_path().parent_path() / "scripts/gpu_check";

void write_text(const fs::path& file, const std::string& text) { std::ofstream(file, std::ios::binary) << text; }

std::string text_of(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

void write_script(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  write_text(file, "#!/bin/sh\n" + text);
  fs::permissions(file, fs::perms::owner_all);
}

// A machine on which everything that gpu_check calls is a stand-in: a build with two tests, a benchmark whose step
// number n takes n seconds, a GPU, compute-sanitizer, a Python without PyTorch.
class Machine {
 public:
  Machine() {
    write_script(build() / "bin/minidl_tests", "exit 0\n");
    write_script(build() / "bin/bench_ugatit",
                 "echo \"$@\" >>" + (path() / "measured").string() +
                     "\necho '{}'\nn=0\nwhile read request; do\n"
                     "  case $request in step) n=$((n + 1)); echo $n;; memory) echo 3145728;; esac\ndone\n");
    write_text(
        build() / "CTestTestfile.cmake",
        "add_test(\"the sound one\" /bin/true)\nadd_test(\"golden: three training iterations, light\" /bin/true)\n");
    write_script(
        path() / "tools/nvidia-smi",
        "case $3 in *=name) echo Rays 9000;; *driver*) echo 999.1;; *compute_cap) echo 9.0;; *) echo 512;; esac\n");
    write_script(path() / "tools/compute-sanitizer", "shift 4\nexec \"$@\"\n");
  }

  fs::path path() const { return folder_.path(); }
  fs::path build() const { return path() / "build"; }
  // What follows the flags that name the stand-ins.
  Outcome check(const std::string& more = "") const {
    ProgramOptions options;
    options.environment["PATH"] = (path() / "tools").string() + ":" + std::getenv("PATH");
    options.environment["CUDA_VISIBLE_DEVICES"] = "0";
    return run(
        kScript,
        words("--build " + build().string() + " --folder " + (path() / "out").string() + " --python false " + more),
        options);
  }
  std::string report() const { return text_of(path() / "out/report.md"); }

 private:
  TemporaryFolder folder_;
};

}  // namespace

TEST_CASE("gpu_check: runs every stage, names the machine and says how long iterations take", "[gpu_check]") {
  const Machine machine;
  const Outcome outcome = machine.check();
  INFO(outcome);
  REQUIRE(outcome.exit_code == 0);
  const std::string report = machine.report();
  CHECK(outcome.out == report);
  CHECK_THAT(report, Contains("GPU: Rays 9000, compute capability 9.0, 512 MiB, driver 999.1"));
  CHECK_THAT(report, Contains("| tests | passed |") && Contains("| golden | passed |") &&
                         Contains("| sanitizer | passed |") && Contains("| times | passed |") &&
                         Contains("| pytorch | skipped |"));
  // The first five steps warm up; the next twenty take 6 to 25 seconds.
  for (const char* row : {"| light | fp32 | False |", "| light | tf32 | True |", "| full | bf16 | True |"})
    CHECK_THAT(report, Contains(row + std::string(" 15500.00 | 6000.00 – 25000.00 | 3 | 0 |")));
  const std::string measured = text_of(machine.path() / "measured");
  CHECK(std::count(measured.begin(), measured.end(), '\n') == 12);
  CHECK_THAT(measured, Contains("--light --device cuda --precision tf32 --cuda_graph True\n") &&
                           Contains("\n--device cuda --precision bf16 --cuda_graph False\n"));
}

TEST_CASE("gpu_check: what fails is reported, the rest is done, and the exit code tells", "[gpu_check]") {
  const Machine machine;
  std::ofstream(machine.build() / "CTestTestfile.cmake", std::ios::app) << "add_test(\"the broken one\" /bin/false)\n";
  write_script(machine.path() / "tools/compute-sanitizer",
               "if [ $2 = racecheck ]; then echo '========= RACECHECK SUMMARY: 1 hazard'; exit 99; fi\n");
  const std::string bench = text_of(machine.build() / "bin/bench_ugatit");
  write_script(machine.build() / "bin/bench_ugatit",
               "case $* in *light*bf16*True*) echo out of memory >&2; exit 1;; esac\n" + bench);
  const Outcome outcome = machine.check();
  INFO(outcome);
  CHECK(outcome.exit_code == 1);
  const std::string report = machine.report();
  CHECK_THAT(report, Contains("| tests | FAILED |") && Contains("1 passed, 1 failed") &&
                         Contains("- FAILED: the broken one (Failed)"));
  CHECK_THAT(report, Contains("| golden | passed |"));
  CHECK_THAT(report, Contains("| sanitizer | FAILED |") && Contains("| memcheck | no errors |") &&
                         Contains("| racecheck | FAILED: RACECHECK SUMMARY: 1 hazard |"));
  CHECK_THAT(report, Contains("| light | bf16 | True | FAILED: out of memory |") &&
                         Contains("| full | bf16 | True | 15500.00 |"));
}

TEST_CASE("gpu_check: a test that does not exist is a failure", "[gpu_check]") {
  const Machine machine;
  write_text(machine.build() / "CTestTestfile.cmake", "");
  const Outcome outcome = machine.check("--only golden");
  INFO(outcome);
  CHECK(outcome.exit_code == 1);
  CHECK_THAT(machine.report(), Contains("| golden | FAILED |"));
}

TEST_CASE("gpu_check: without a build nothing else is tried", "[gpu_check]") {
  const Machine machine;
  fs::remove(machine.build() / "bin/bench_ugatit");
  const Outcome outcome = machine.check();
  INFO(outcome);
  CHECK(outcome.exit_code == 1);
  CHECK_THAT(machine.report(), Contains("| build | FAILED |") && Contains("| times | skipped |"));
}

TEST_CASE("gpu_check: what it cannot do it says in one sentence", "[gpu_check]") {
  const Machine machine;
  const auto refused = [&](const std::string& flags, int code, const std::string& why) {
    const Outcome outcome = machine.check(flags);
    INFO(flags << '\n' << outcome);
    CHECK(outcome.exit_code == code);
    CHECK_THAT(outcome.err, Contains(why));
    CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
    CHECK_FALSE(fs::exists(machine.path() / "out"));
  };
  refused("--onyl times", 2, "there is no option '--onyl'");
  refused("--only time", 2, "there is no stage 'time'");
  refused("--only times --build nowhere", 2, "there is no build in ");
  refused("--only", 2, "--only needs a value");
  write_script(machine.path() / "tools/nvidia-smi", "echo No devices were found; exit 6\n");
  refused("", 1, "no GPU can be used here: No devices were found");
}

TEST_CASE("gpu_check: the emulated device is checked from one end to the other", "[gpu_check]") {
  const TemporaryFolder folder;
  const fs::path build = fs::path(MINIDL_BIN_DIR).parent_path();
  const Outcome outcome = run(kScript,
                              words("--emulate --build " + build.string() + " --folder " + folder.path().string() +
                                    " --only build,tests,golden,times"),
                              {.environment = {{"CUDA_VISIBLE_DEVICES", "0"}}});
  INFO(outcome);
  REQUIRE(outcome.exit_code == 0);
  const std::string report = text_of(folder.path() / "report.md");
  CHECK_THAT(report, Contains("# Emulated GPU check") && Contains("| tests | passed |") &&
                         Contains("| golden | passed |") && Contains("2 rows, 0 of them failed"));
  CHECK_THAT(report, !Contains("FAILED"));
}
