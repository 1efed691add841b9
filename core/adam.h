// Adam (Kingma and Ba, 2015) as torch.optim.Adam computes it, L2 weight decay added to the gradient.
#pragma once

#include <vector>

#include "core/tensor.h"

namespace minidl {

struct AdamOptions {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
};

class Adam {
 public:
  // The parameters must outlive the optimiser and stay where they are. Throws Error if there are none, one is
  // undefined, they are on several devices, or two share their values.
  Adam(std::vector<Parameter*> parameters, AdamOptions options);

  // Updates every parameter, and its moments, in place from its gradient. Throws Error if one has none, or has been
  // replaced since.
  void step();
  // The two halves of a step, for iterations that a device has recorded and replays (Backend::begin_recording): the
  // count, and the rates that follow from it, are the host's and move before every replay; the update is what is
  // recorded.
  void advance();
  void update();
  // To be called when a device has repeated a recorded update: what was derived from the old values is void.
  void changed();
  void zero_grad();

  double lr() const { return options_.lr; }
  void set_lr(double lr) { options_.lr = lr; }
  const AdamOptions& options() const { return options_; }

  // --- state, for checkpoints: moments in the order of the parameters, zero before the first step ---
  std::int64_t step_count() const { return step_count_; }
  void set_step_count(std::int64_t count) { step_count_ = count; }
  const std::vector<Parameter*>& parameters() const { return parameters_; }
  const std::vector<Tensor>& exp_avg() const { return exp_avg_; }
  const std::vector<Tensor>& exp_avg_sq() const { return exp_avg_sq_; }

 private:
  void collect_gradients();
  void update_collected();
  Backend& backend() const;

  std::vector<Parameter*> parameters_;
  AdamOptions options_;
  std::int64_t step_count_ = 0;
  std::vector<Tensor> exp_avg_, exp_avg_sq_;
  Storage rates_;                 // one AdamRates
  std::vector<AdamTensor> list_;  // reused by every step
};

}  // namespace minidl
