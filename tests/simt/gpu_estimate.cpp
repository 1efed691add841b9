// gpu_estimate: what a training iteration asks of a GPU, operation by operation, and the least time that a roofline
// gives it there. Prints Markdown.
//
// Runs on the emulated device, twice. A light model on small images is executed, except for what cuDNN and cuBLAS
// compute, and every byte that an own kernel loads or stores is counted: so much more than the fewest each operation
// moves. Then the model in question runs dry, for launches, floating-point operations and the fewest bytes.
//
// The model of time: an own kernel moves the fewest bytes times the ratio that was counted, a library's call the
// fewest, and computes as much as the direct algorithm; each takes the longer of bytes / bandwidth and operations /
// peak, and a fixed time to start. A library's call counts as one kernel, and no cache helps.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <map>
#include <set>
#include <utility>

#include "apps/command_line.h"
#include "apps/op_profile.h"
#include "layers/module.h"
#include "models/ugatit.h"
#include "tests/simt/memory.h"
#include "tests/simt/simt.h"

namespace {

using namespace minidl;

// An H100 SXM as its maker describes it.
constexpr double kBandwidth = 3.35e12;  // bytes a second
constexpr double kStart = 3e-6;         // seconds, each kernel asked for by the host
constexpr double kGraphStart = 1e-6;    // seconds, from one kernel of a graph to the next; assumed

// Of the executed model: enough for all kernels to be those of a larger one.
constexpr std::int64_t kSampleChannels = 32;

double peak_of(Precision precision) {  // dense
  return precision == Precision::fp32 ? 67e12 : precision == Precision::tf32 ? 495e12 : 990e12;
}

struct Options {
  UgatitOptions model{.light = true};
  std::int64_t batch_size = 1;
  std::string precision = "fp32";
  std::int64_t sample_size = 96;
};

const std::set<std::string> kLibraries{"cudnnBackendExecute", "cublasGemmEx"};

// What the calls of one operation of the contract did.
struct Work {
  double own = 0, vendor = 0, copies = 0;      // launches; vendor: of cuDNN and cuBLAS
  double own_bytes = 0, fewest_own_bytes = 0;  // of own kernels and copies; 0 of fewest where a library is called, too
  double vendor_bytes = 0, flops = 0;          // the fewest
  double seconds = 0;                          // without starts

  void add(const Work& o) {
    own += o.own, vendor += o.vendor, copies += o.copies;
    own_bytes += o.own_bytes, fewest_own_bytes += o.fewest_own_bytes;
    vendor_bytes += o.vendor_bytes, flops += o.flops, seconds += o.seconds;
  }
  double launches() const { return own + vendor + copies; }
  // Bytes that own kernels move, to the fewest of the operation.
  double ratio() const {
    const double fewest = fewest_own_bytes > 0 ? fewest_own_bytes : vendor_bytes;
    return fewest > 0 ? own_bytes / fewest : 1;
  }
};
using Works = std::map<std::string, Work>;

// Compares the emulated device's counters before and after each operation.
class WorkProfile final : public OpProfile {
 public:
  // sample: of a run that was executed, or null in such a run.
  WorkProfile(Precision precision, const Works* sample) : precision_(precision), sample_(sample) {}

  void begin() override { before_ = simt::counters(); }
  void add(const std::string& op, const std::string&, double, double flops, double bytes) override {
    const simt::Counters after = simt::counters();
    Work work;
    for (const auto& [name, kernel] : after.kernels) {
      const auto known = before_.kernels.find(name);
      const simt::KernelCounters earlier = known == before_.kernels.end() ? simt::KernelCounters() : known->second;
      (kLibraries.contains(name) ? work.vendor : work.own) += static_cast<double>(kernel.launches - earlier.launches);
      work.own_bytes +=
          static_cast<double>(kernel.bytes_read + kernel.bytes_written - earlier.bytes_read - earlier.bytes_written);
    }
    work.copies = static_cast<double>(after.copies + after.sets - before_.copies - before_.sets);
    if (work.vendor > 0) {
      if (precision_ == Precision::bf16) bytes /= 2;  // cuDNN's tensors are of that type then
      work.vendor_bytes = bytes, work.flops = flops;
    } else {
      work.fewest_own_bytes = bytes;
    }
    if (work.own == 0) work.own_bytes = work.fewest_own_bytes;  // a copy moves what it must
    if (work.own > 0 && sample_) work.own_bytes = bytes * (sample_->contains(op) ? sample_->at(op).ratio() : 1);
    work.seconds =
        work.own_bytes / kBandwidth + std::max(work.vendor_bytes / kBandwidth, work.flops / peak_of(precision_));
    works_[op].add(work);
  }

  const Works& works() const { return works_; }

 private:
  Precision precision_;
  const Works* sample_;
  simt::Counters before_;
  Works works_;
};

void print_row(const std::string& op, const Work& w) {
  const auto number = [](double value, const char* format) {
    char text[64] = "";
    if (value > 0) std::snprintf(text, sizeof text, format, value);
    return std::string(text);
  };
  std::cout << "| " << op << " | " << number(w.own, "%.0f") << " | " << number(w.vendor, "%.0f") << " | "
            << number(w.copies, "%.0f") << " | " << number(w.own_bytes / 1e6, "%.1f") << " | "
            << number(w.fewest_own_bytes > 0 && w.own > 0 ? w.ratio() : 0, "%.2f") << " | "
            << number(w.vendor_bytes / 1e6, "%.1f") << " | " << number(w.flops / 1e9, "%.1f") << " | "
            << number(1e3 * w.seconds, "%.3f") << " | " << number(1e3 * (w.seconds + w.launches() * kStart), "%.3f")
            << " |\n";
}

Precision precision_of(const Options& o) {
  return o.precision == "fp32" ? Precision::fp32 : o.precision == "tf32" ? Precision::tf32 : Precision::bf16;
}

void print(const Options& o, const Works& works) {
  std::vector<std::pair<std::string, Work>> rows(works.begin(), works.end());
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) {
    return a.second.seconds + a.second.launches() * kStart > b.second.seconds + b.second.launches() * kStart;
  });
  Work all;
  double own_alone = 0;  // bytes of operations without a library's call
  for (const auto& [op, work] : rows) {
    all.add(work);
    if (work.vendor == 0) own_alone += work.own_bytes;
  }
  std::cout << "ESTIMATE, not measured: one training iteration, " << (o.model.light ? "light" : "full") << " model, ch "
            << o.model.channels << ", " << o.model.image_size << "x" << o.model.image_size << ", batch " << o.batch_size
            << ", " << o.precision << ", on an H100 (" << kBandwidth / 1e12 << " TB/s, "
            << peak_of(precision_of(o)) / 1e12 << " TFLOP/s).\n\n"
            << "| operation | own kernels | library calls | copies | own MB | of fewest | library MB | GFLOP | ms | ms "
               "with starts |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
  for (const auto& [op, work] : rows) print_row(op, work);
  const double ratio = own_alone / std::exchange(all.fewest_own_bytes, 0);
  print_row("all", all);
  std::cout.flush();
  std::printf(
      "\nOwn kernels move %.2f times the fewest bytes. %.0f launches: %.2f ms, of which %.2f ms are work and %.1f us\n"
      "each start; in a graph, at %.1f us, %.2f ms.\n",
      ratio, all.launches(), 1e3 * (all.seconds + all.launches() * kStart), 1e3 * all.seconds, 1e6 * kStart,
      1e6 * kGraphStart, 1e3 * (all.seconds + all.launches() * kGraphStart));
}

// What an iteration does, executed or, given a sample of that, dry.
Works works_of(const UgatitOptions& options, std::int64_t batch, Precision precision, const Works* sample) {
  Backend& device = backend_of(DeviceType::cuda);
  simt::set_dry_run(sample != nullptr);
  Random random = sample ? Random::blank() : Random(1);
  Ugatit model(random, options);
  move_to(model, DeviceType::cuda);
  UgatitTrainer trainer(model, {});
  const Shape shape{batch, options.image_channels, options.image_size, options.image_size};
  const Tensor image = Tensor::full(shape, 0.5f, DeviceType::cuda);
  WorkProfile profile(precision, sample);
  const auto watched = timed_backend(device, profile);
  const ReplacedBackend replaced(DeviceType::cuda, *watched);
  trainer.step(image, image);
  return profile.works();
}

void estimate(const Options& o) {
  backend_of(DeviceType::cuda).set_precision(precision_of(o));
  simt::set_device_memory(std::size_t{80} << 30);
  simt::set_execution(simt::Execution::eager);  // so that a call's work is counted when the call returns
  simt::set_skip_libraries(true);
  const simt::DeviceAccess access;  // opened once rather than for each operation
  UgatitOptions small = o.model;
  small.light = true;
  small.image_size = o.sample_size;
  small.channels = std::min(kSampleChannels, o.model.channels);
  const Works sample = works_of(small, 1, precision_of(o), nullptr);
  print(o, works_of(o.model, o.batch_size, precision_of(o), &sample));
}

}  // namespace

int main(int argc, char** argv) {
  return run_program("gpu_estimate", argv, [&] {
    Options o;
    CommandLine line("gpu_estimate", "Estimates the time of a training iteration of U-GAT-IT on an H100.");
    line.flag("light", o.model.light, "the light model");
    line.flag("ch", o.model.channels, "base channels", {1, 1024});
    line.flag("img_size", o.model.image_size, "side of the images in pixels, a multiple of 4", {1, 8192});
    line.flag("batch_size", o.batch_size, "images of each domain per iteration", {1, 1024});
    line.flag("precision", o.precision, "fp32, tf32 or bf16", {"fp32", "tf32", "bf16"});
    line.flag("sample_size", o.sample_size, "side of the images on which own kernels' bytes are counted", {96, 8192});
    if (!line.parse(argc, argv)) return 0;
    estimate(o);
    return 0;
  });
}
