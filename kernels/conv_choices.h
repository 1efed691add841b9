// Which algorithm computes each convolution: the one by a fixed rule or, with benchmark on, the one that was measured
// to be the fastest (Backend::set_benchmark). The bookkeeping of every backend.
#pragma once

#include <map>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "kernels/backend.h"

namespace minidl {

// The choices of one backend. Algorithm is its own name for them, copyable. Safe to use from several threads, all of
// which see the same choice for a use.
template <class Algorithm>
class ConvChoices {
 public:
  // The algorithm for a use, by rule() or measure() where it is still to be found out.
  template <class Rule, class Measure>
  Algorithm algorithm(const ConvUse& use, Rule rule, Measure measure) {
    std::unique_lock lock(mutex_);
    auto& choices = benchmark_ ? measured_ : ruled_;
    if (const auto found = choices.find(use); found != choices.end()) return found->second;
    if (!benchmark_) return ruled_.emplace(use, rule()).first->second;
    lock.unlock();  // another thread may measure the same use meanwhile; the first to be done decides
    Algorithm fastest = measure();
    lock.lock();
    return measured_.emplace(use, std::move(fastest)).first->second;
  }

  void set_benchmark(bool on) {
    const std::lock_guard lock(mutex_);
    benchmark_ = on;
    if (!on) measured_.clear();
  }

  // What was measured, by name_of(algorithm).
  template <class NameOf>
  std::vector<ConvChoice> measured(NameOf name_of) const {
    const std::lock_guard lock(mutex_);
    std::vector<ConvChoice> choices;
    for (const auto& [use, algorithm] : measured_) choices.push_back({use, name_of(algorithm)});
    return choices;
  }

  // Takes over what was measured elsewhere; named(choice) is the algorithm, or what serves instead.
  template <class Named>
  void replace(std::span<const ConvChoice> choices, Named named) {
    const std::lock_guard lock(mutex_);
    if (!benchmark_) return;
    measured_.clear();
    for (const ConvChoice& choice : choices) measured_.emplace(choice.use, named(choice));
  }

 private:
  mutable std::mutex mutex_;
  bool benchmark_ = false;
  std::map<ConvUse, Algorithm> ruled_, measured_;
};

}  // namespace minidl
