// U-GAT-IT: two generators, four discriminators, and the training iteration that plays them against each other.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/adam.h"
#include "core/recorded_work.h"
#include "models/discriminator.h"
#include "models/generator.h"

namespace minidl {

struct UgatitOptions {
  std::int64_t image_channels = 3;
  std::int64_t channels = 64;
  std::int64_t residual_blocks = 4;
  std::int64_t discriminator_depth = 6;  // --n_dis: the global discriminators have one layer more, the local one less
  std::int64_t image_size = 256;
  bool light = false;

  GeneratorOptions generator() const;
  DiscriminatorOptions global_discriminator() const;
  DiscriminatorOptions local_discriminator() const;
};

// The six networks under their official names. Initial weights are drawn in the official order.
struct Ugatit {
  UgatitOptions options;
  Generator genA2B, genB2A;
  Discriminator disGA, disGB, disLA, disLB;

  Ugatit(Random& random, const UgatitOptions& options);
  void visit(Visitor& f);
};

struct UgatitTrainingOptions {
  double lr = 1e-4;
  double weight_decay = 1e-4;
  float adv_weight = 1;
  float cycle_weight = 10;
  float identity_weight = 10;
  float cam_weight = 1000;
  bool decay_lr = true;
  std::int64_t iterations = 1'000'000;  // the learning rate falls to 0 over their second half
};

// Every part of both losses, each a float, under the names of the reference.
struct UgatitLosses {
  std::vector<std::pair<std::string, float>> parts;
  float discriminator = 0;  // weighted sums, in the reference's order
  float generator = 0;

  // The name of the first part that is infinite or NaN, or empty.
  std::string first_not_finite() const;
};

// The losses of an iteration that the device may still be computing.
class PendingLosses {
 public:
  bool ready() const { return download_->ready(); }  // whether get() returns at once
  UgatitLosses get();                                // waits; throws Error if the device has failed

 private:
  friend class UgatitTrainer;
  UgatitTrainingOptions options_;
  std::vector<float> values_;  // written by the download
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> parts_;
  std::unique_ptr<PendingDownload> download_;
};

class UgatitTrainer {
 public:
  // The model must outlive the trainer.
  UgatitTrainer(Ugatit& model, const UgatitTrainingOptions& options);
  UgatitTrainer(const UgatitTrainer&) = delete;  // a recorded iteration refers to its trainer
  UgatitTrainer& operator=(const UgatitTrainer&) = delete;

  // One iteration on a batch of each domain, [N, C, S, S] in [-1, 1]; the batches may differ in N. Updates every
  // network. The learning rate is lowered first where it is due.
  UgatitLosses step(const Tensor& real_A, const Tensor& real_B) { return begin_step(real_A, real_B).get(); }
  // The same without waiting for the device, which computes while the host goes on: the next iteration may begin before
  // the losses of this one are known.
  PendingLosses begin_step(const Tensor& real_A, const Tensor& real_B);

  // Iterations made, and those that both optimisers have made: fewer if the networks were trained elsewhere before.
  std::int64_t steps() const { return steps_; }
  std::int64_t adam_steps() const { return generator_adam_.step_count(); }
  double lr() const { return generator_adam_.lr(); }
  // Continues after `steps` iterations, at the learning rate that the options give there, `adam_steps` of them by these
  // optimisers. Their moments are set through them.
  void restore(std::int64_t steps, std::int64_t adam_steps);
  Adam& generator_adam() { return generator_adam_; }
  Adam& discriminator_adam() { return discriminator_adam_; }

  // Lets the device record an iteration and repeat it (RecordedWork), which saves the host's time for each operation.
  // The first step throws Error on a device that cannot. Not while an observer is set.
  void record_iterations() { recording_ = true; }

  // If set, called with every intermediate result of an iteration under the name it has in the reference ("fake_A2B",
  // "D_real_GA_logit", ...), and with "D_backward" and "G_backward" (no tensor) once the gradients of a step are
  // complete.
  std::function<void(std::string_view name, const Tensor& value)> observer;

 private:
  void decay_learning_rate(std::int64_t step);
  void repeat(const Tensor& real_A, const Tensor& real_B);
  void compute(const Tensor& real_A, const Tensor& real_B);
  void discriminator_step(const Tensor& real_A, const Tensor& real_B, const Tensor& fake_A2B, const Tensor& fake_B2A);
  void generator_step(const Tensor& real_A, const Tensor& real_B, const Generator::Output& A2B,
                      const Generator::Output& B2A);
  PendingLosses collect() const;

  Generator::Output generate(const char* name, Generator& generator, const Tensor& image);
  void observe_output(const std::string& name, const Generator::Output& out) const;
  void observe_output(const std::string& name, const Discriminator::Output& out) const;
  void train_discriminators(const std::string& domain, Discriminator& global, Discriminator& local, const Tensor& real,
                            const Tensor& fake);
  void fool_discriminators(const std::string& domain, Discriminator& global, Discriminator& local, const Tensor& fake);
  // Costs that are, or are summands of, the parts that are named with them.
  Cotangents evaluate(const std::vector<std::pair<std::string, Cost>>& costs);
  void observe(std::string_view name, const Tensor& value) const {
    if (observer) observer(name, value);
  }

  Ugatit& model_;
  UgatitTrainingOptions options_;
  Adam generator_adam_, discriminator_adam_;
  std::int64_t steps_ = 0;
  std::vector<Parameter*> discriminator_parameters_;
  // Of the iteration under way: all losses, and those of them whose sum is a part.
  Tensor values_;
  std::int64_t used_values_ = 0;
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> parts_;
  bool recording_ = false;
  Tensor recorded_A_, recorded_B_;
  std::unique_ptr<RecordedWork> recorded_;
};

}  // namespace minidl
