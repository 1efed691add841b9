#include "models/ugatit.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/check.h"

namespace minidl {
namespace {

template <class... Modules>
std::vector<Parameter*> parameters_of_all(Modules&... modules) {
  std::vector<Parameter*> all;
  for (const auto& list : {parameters_of(modules)...}) all.insert(all.end(), list.begin(), list.end());
  return all;
}

// The samples [begin, begin + count) of what a network made of a batch.
Generator::Output slice(const Generator::Output& out, std::int64_t begin, std::int64_t count) {
  return {slice_samples(out.image, begin, count), slice_samples(out.cam_logit, begin, count),
          slice_samples(out.attended, begin, count)};
}

Discriminator::Output slice(const Discriminator::Output& out, std::int64_t begin, std::int64_t count) {
  return {slice_samples(out.logits, begin, count), slice_samples(out.cam_logit, begin, count),
          slice_samples(out.attended, begin, count)};
}

// The spectra of both discriminators of a domain, computed together.
struct DomainSpectra {
  std::vector<Spectrum> all;
  std::size_t of_global;

  DomainSpectra(Discriminator& global, Discriminator& local, const Calls& calls = {}) {
    std::vector<SpectralWeight> weights = global.spectral_weights();
    of_global = weights.size();
    for (const SpectralWeight& weight : local.spectral_weights()) weights.push_back(weight);
    all = spectra(weights, global.training(), calls);
  }
  std::span<const Spectrum> global() const { return std::span(all).first(of_global); }
  std::span<const Spectrum> local() const { return std::span(all).subspan(of_global); }
};

constexpr std::int64_t kValues = 32;  // losses of an iteration

}  // namespace

GeneratorOptions UgatitOptions::generator() const {
  return {.image_channels = image_channels,
          .channels = channels,
          .residual_blocks = residual_blocks,
          .image_size = image_size,
          .light = light};
}

DiscriminatorOptions UgatitOptions::global_discriminator() const {
  return {.image_channels = image_channels, .channels = channels, .layers = discriminator_depth + 1};
}

DiscriminatorOptions UgatitOptions::local_discriminator() const {
  return {.image_channels = image_channels, .channels = channels, .layers = discriminator_depth - 1};
}

Ugatit::Ugatit(Random& random, const UgatitOptions& o)
    : options(o),
      genA2B(random, o.generator()),
      genB2A(random, o.generator()),
      disGA(random, o.global_discriminator()),
      disGB(random, o.global_discriminator()),
      disLA(random, o.local_discriminator()),
      disLB(random, o.local_discriminator()) {
  const std::int64_t smallest = Discriminator::smallest_image(o.discriminator_depth + 1);
  check(o.image_size >= smallest, "U-GAT-IT: images of ", o.image_size, " pixels are too small for n_dis ",
        o.discriminator_depth, ", which needs at least ", smallest);
}

void Ugatit::visit(Visitor& f) {
  f("genA2B", genA2B), f("genB2A", genB2A);
  f("disGA", disGA), f("disGB", disGB), f("disLA", disLA), f("disLB", disLB);
}

std::string UgatitLosses::first_not_finite() const {
  for (const auto& [name, value] : parts)
    if (!std::isfinite(value)) return name;
  if (!std::isfinite(discriminator)) return "Discriminator_loss";
  if (!std::isfinite(generator)) return "Generator_loss";
  return "";
}

UgatitTrainer::UgatitTrainer(Ugatit& model, const UgatitTrainingOptions& options)
    : model_(model),
      options_(options),
      generator_adam_(parameters_of_all(model.genA2B, model.genB2A),
                      {.lr = options.lr, .beta1 = 0.5, .beta2 = 0.999, .weight_decay = options.weight_decay}),
      discriminator_adam_(parameters_of_all(model.disGA, model.disGB, model.disLA, model.disLB),
                          generator_adam_.options()),
      discriminator_parameters_(discriminator_adam_.parameters()) {}

void UgatitTrainer::restore(std::int64_t steps, std::int64_t adam_steps) {
  generator_adam_.set_lr(options_.lr);
  discriminator_adam_.set_lr(options_.lr);
  // Nothing changes in the first half, nor once the rate is 0.
  for (std::int64_t step = options_.iterations / 2 + 1; step <= steps && lr() > 0; ++step) decay_learning_rate(step);
  generator_adam_.set_step_count(adam_steps);
  discriminator_adam_.set_step_count(adam_steps);
  steps_ = steps;
}

void UgatitTrainer::decay_learning_rate(std::int64_t step) {
  const std::int64_t half = options_.iterations / 2;
  if (!options_.decay_lr || half == 0 || step <= half) return;
  // Repeated subtraction, so that rounding accumulates as in the reference, which however goes below 0.
  const double lr = std::max(0.0, this->lr() - options_.lr / static_cast<double>(half));
  generator_adam_.set_lr(lr);
  discriminator_adam_.set_lr(lr);
}

PendingLosses UgatitTrainer::begin_step(const Tensor& real_A, const Tensor& real_B) {
  const double lr_before = lr();
  const std::int64_t adam_steps_before = adam_steps();
  try {
    decay_learning_rate(steps() + 1);
    generator_adam_.advance();
    discriminator_adam_.advance();
    if (recording_ && !observer) {
      repeat(real_A, real_B);
    } else {
      recorded_.reset();  // its losses are not those that are collected
      compute(real_A, real_B);
    }
    PendingLosses losses = collect();
    ++steps_;
    return losses;
  } catch (...) {
    for (Adam* adam : {&generator_adam_, &discriminator_adam_}) {
      adam->set_lr(lr_before);
      adam->set_step_count(adam_steps_before);
    }
    throw;
  }
}

// The recorded iteration reads its images where it found them when it was recorded.
void UgatitTrainer::repeat(const Tensor& real_A, const Tensor& real_B) {
  if (!recorded_ || recorded_A_.shape() != real_A.shape() || recorded_B_.shape() != real_B.shape()) {
    recorded_.reset();
    recorded_A_ = empty_like(real_A);
    recorded_B_ = empty_like(real_B);
    recorded_ = std::make_unique<RecordedWork>(real_A.device(), [this] { compute(recorded_A_, recorded_B_); });
  }
  for (const auto& [to, from] : {std::pair(recorded_A_, real_A), std::pair(recorded_B_, real_B)})
    backend_of(to.device()).copy(to.data(), from.data(), static_cast<std::size_t>(to.size()) * sizeof(float));
  recorded_->run();
  generator_adam_.changed();
  discriminator_adam_.changed();
}

void UgatitTrainer::compute(const Tensor& real_A, const Tensor& real_B) {
  parts_.clear();
  used_values_ = 0;
  values_ = Tensor::empty_plain({kValues}, real_A.device());
  // The generators do not change during the discriminators' step, so both steps share these translations.
  const Generator::Output A2B = generate("fake_A2B", model_.genA2B, real_A);
  const Generator::Output B2A = generate("fake_B2A", model_.genB2A, real_B);
  discriminator_step(real_A, real_B, A2B.image.detach(), B2A.image.detach());
  generator_step(real_A, real_B, A2B, B2A);
}

void UgatitTrainer::discriminator_step(const Tensor& real_A, const Tensor& real_B, const Tensor& fake_A2B,
                                       const Tensor& fake_B2A) {
  discriminator_adam_.zero_grad();
  train_discriminators("A", model_.disGA, model_.disLA, real_A, fake_B2A);
  train_discriminators("B", model_.disGB, model_.disLB, real_B, fake_A2B);
  observe("D_backward", {});
  discriminator_adam_.update();
  discriminator_adam_.zero_grad();  // their memory serves the generators' step
}

// Real should be judged 1, fake 0, by the patch logits and by the map's logits. The reference judges real first, then
// fake: two calls, with a power iteration before each, that share their convolutions here.
void UgatitTrainer::train_discriminators(const std::string& domain, Discriminator& global, Discriminator& local,
                                         const Tensor& real, const Tensor& fake) {
  const std::int64_t reals = real.shape()[0], fakes = fake.shape()[0];
  const Tensor both = concat_samples(real, fake);
  const DomainSpectra spectra(global, local, {reals, fakes});
  const auto train = [&](const std::string& name, Discriminator& discriminator, std::span<const Spectrum> its_spectra) {
    const Discriminator::Output out = discriminator(both, its_spectra);
    if (observer) {
      observe_output("D_real_" + name, slice(out, 0, reals));
      observe_output("D_fake_" + name, slice(out, reals, fakes));
    }
    const auto cost = [&](const Tensor& x, std::int64_t begin, std::int64_t count, float target) {
      return Cost{
          .loss = Loss::mse, .x = x, .begin = begin, .count = count, .target = target, .weight = options_.adv_weight};
    };
    backward(evaluate({{"D_ad_loss_" + name, cost(out.logits, 0, reals, 1)},
                       {"D_ad_loss_" + name, cost(out.logits, reals, fakes, 0)},
                       {"D_ad_cam_loss_" + name, cost(out.cam_logit, 0, reals, 1)},
                       {"D_ad_cam_loss_" + name, cost(out.cam_logit, reals, fakes, 0)}}));
  };
  train("G" + domain, global, spectra.global());
  train("L" + domain, local, spectra.local());
}

// The loss is a sum whose terms meet only in the two fakes. Each term is differentiated as soon as it is known, up to
// the fakes, and the fakes' own graphs last: the same gradients, with the memory of one network at a time.
void UgatitTrainer::generator_step(const Tensor& real_A, const Tensor& real_B, const Generator::Output& A2B,
                                   const Generator::Output& B2A) {
  const Frozen frozen(discriminator_parameters_);
  generator_adam_.zero_grad();
  Tensor fake_A2B = A2B.image.detach(), fake_B2A = B2A.image.detach();
  fake_A2B.set_requires_grad(true);
  fake_B2A.set_requires_grad(true);

  fool_discriminators("A", model_.disGA, model_.disLA, fake_B2A);
  fool_discriminators("B", model_.disGB, model_.disLB, fake_A2B);

  // Through one generator as one batch: the way back of a fake, which should be the real image again, and a real image
  // of the generator's target domain, which it should leave alone and, by its map's logits, know from its source
  // domain.
  const auto back_and_same = [&](const std::string& domain, Generator& generator, const char* back_name,
                                 const Tensor& fake, const char* same_name, const Tensor& real) {
    const std::int64_t fakes = fake.shape()[0], reals = real.shape()[0];
    const Generator::Output both = generator(concat_samples(fake, real));
    if (observer) {
      observe_output(back_name, slice(both, 0, fakes));
      observe_output(same_name, slice(both, fakes, reals));
    }
    const auto like_real = [&](std::int64_t begin, std::int64_t count, float weight) {
      return Cost{.loss = Loss::l1, .x = both.image, .begin = begin, .count = count, .targets = real, .weight = weight};
    };
    backward(evaluate({{"G_recon_loss_" + domain, like_real(0, fakes, options_.cycle_weight)},
                       {"G_identity_loss_" + domain, like_real(fakes, reals, options_.identity_weight)},
                       {"G_cam_loss_" + domain,
                        {.loss = Loss::bce,
                         .x = both.cam_logit,
                         .begin = fakes,
                         .count = reals,
                         .target = 0,
                         .weight = options_.cam_weight}}}));
  };
  back_and_same("A", model_.genB2A, "fake_A2B2A", fake_A2B, "fake_A2A", real_A);
  back_and_same("B", model_.genA2B, "fake_B2A2B", fake_B2A, "fake_B2B", real_B);

  const auto translation = [&](const std::string& domain, const Generator::Output& out, const Tensor& fake) {
    Cotangents cotangents =
        evaluate({{"G_cam_loss_" + domain,
                   {.loss = Loss::bce, .x = out.cam_logit, .target = 1, .weight = options_.cam_weight}}});
    cotangents.emplace_back(out.image, fake.grad());
    backward(cotangents);
  };
  translation("A", B2A, fake_B2A);
  translation("B", A2B, fake_A2B);

  observe("G_backward", {});
  generator_adam_.update();
  generator_adam_.zero_grad();
}

// Fakes should be judged 1.
void UgatitTrainer::fool_discriminators(const std::string& domain, Discriminator& global, Discriminator& local,
                                        const Tensor& fake) {
  const DomainSpectra spectra(global, local);
  const auto fool = [&](const std::string& name, Discriminator& discriminator, std::span<const Spectrum> its_spectra) {
    const Discriminator::Output out = discriminator(fake, its_spectra);
    if (observer) observe_output("G_" + name, out);
    const auto cost = [&](const Tensor& x) {
      return Cost{.loss = Loss::mse, .x = x, .target = 1, .weight = options_.adv_weight};
    };
    backward(evaluate({{"G_ad_loss_" + name, cost(out.logits)}, {"G_ad_cam_loss_" + name, cost(out.cam_logit)}}));
  };
  fool("G" + domain, global, spectra.global());
  fool("L" + domain, local, spectra.local());
}

Generator::Output UgatitTrainer::generate(const char* name, Generator& generator, const Tensor& image) {
  Generator::Output out = generator(image);
  if (observer) observe_output(name, out);
  return out;
}

void UgatitTrainer::observe_output(const std::string& name, const Generator::Output& out) const {
  observe(name, out.image);
  observe(name + "_cam_logit", out.cam_logit);
  observe(name + "_heatmap", out.heatmap());
}

void UgatitTrainer::observe_output(const std::string& name, const Discriminator::Output& out) const {
  observe(name + "_logit", out.logits);
  observe(name + "_cam_logit", out.cam_logit);
  observe(name + "_heatmap", out.heatmap());
}

Cotangents UgatitTrainer::evaluate(const std::vector<std::pair<std::string, Cost>>& costs) {
  std::vector<Cost> list;
  for (const auto& [name, cost] : costs) {
    auto part = std::find_if(parts_.begin(), parts_.end(), [&](const auto& p) { return p.first == name; });
    if (part == parts_.end()) part = parts_.insert(parts_.end(), {name, {}});
    part->second.push_back(used_values_ + static_cast<std::int64_t>(list.size()));
    list.push_back(cost);
  }
  const std::int64_t first = std::exchange(used_values_, used_values_ + static_cast<std::int64_t>(list.size()));
  return evaluate_costs(list, values_, first);
}

PendingLosses UgatitTrainer::collect() const {
  PendingLosses losses;
  losses.options_ = options_;
  losses.parts_ = parts_;
  losses.values_.resize(static_cast<std::size_t>(used_values_));
  const Download all{losses.values_.data(), values_.data(), losses.values_.size() * sizeof(float)};
  losses.download_ = backend_of(values_.device()).begin_download({&all, 1});
  return losses;
}

UgatitLosses PendingLosses::get() {
  download_->wait();
  UgatitLosses losses;
  for (const auto& [name, summands] : parts_) {
    float sum = 0;
    for (const std::int64_t i : summands) sum += values_[static_cast<std::size_t>(i)];
    losses.parts.emplace_back(name, sum);
  }
  const auto value = [&](const std::string& name) {
    const auto found = std::find_if(losses.parts.begin(), losses.parts.end(), [&](auto& p) { return p.first == name; });
    check(found != losses.parts.end(), "U-GAT-IT: no loss is called ", name);
    return found->second;
  };
  const auto& o = options_;
  const auto adversarial = [&](const std::string& player, const std::string& domain) {
    return value(player + "_ad_loss_G" + domain) + value(player + "_ad_cam_loss_G" + domain) +
           value(player + "_ad_loss_L" + domain) + value(player + "_ad_cam_loss_L" + domain);
  };
  const auto generator = [&](const std::string& domain) {
    return o.adv_weight * adversarial("G", domain) + o.cycle_weight * value("G_recon_loss_" + domain) +
           o.identity_weight * value("G_identity_loss_" + domain) + o.cam_weight * value("G_cam_loss_" + domain);
  };
  losses.discriminator = o.adv_weight * adversarial("D", "A") + o.adv_weight * adversarial("D", "B");
  losses.generator = generator("A") + generator("B");
  return losses;
}

}  // namespace minidl
