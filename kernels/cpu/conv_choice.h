// By which algorithm a convolution is computed: by a fixed rule, or by measurement (Backend::set_benchmark).
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/winograd.h"

namespace minidl::cpu {

enum class ConvAlgorithm {
  direct,          // oneDNN's, on images in our layout
  direct_any,      // in the layout that oneDNN prefers; images are reordered
  direct_planar,   // in planar layout; images are reordered
  winograd,        // winograd.h
  winograd_int16,  // the same with operands rounded to 16-bit integers, for Precision::bf16
  narrow,          // conv_narrow.h
  bf16,            // oneDNN's direct one with both operands rounded to bfloat16, results in our layout
  bf16_any,        // in the layout that oneDNN prefers; results are reordered
};

// Whether our kernels compute it, rather than a primitive of oneDNN.
bool is_own(ConvAlgorithm algorithm);

// How our Winograd kernels multiply for an algorithm of theirs; nullopt for others.
std::optional<WinogradProducts> winograd_products(ConvAlgorithm algorithm);

// The name of an algorithm in a ConvChoice, and back.
const char* name_of(ConvAlgorithm algorithm);
std::optional<ConvAlgorithm> algorithm_named(std::string_view name);

// The algorithm by the fixed rule: a function of the use and of what oneDNN has on this processor.
ConvAlgorithm ruled_algorithm(const ConvUse& use);

// Every algorithm worth measuring for a use; never empty.
std::vector<ConvAlgorithm> candidates(const ConvUse& use);

// The choices of one backend. Safe to use from several threads, all of which see the same choice for a use.
class ConvChoices {
 public:
  // The algorithm for a use; `measure` names the fastest of some candidates where that is still to be found out.
  using Measure = std::function<ConvAlgorithm(const std::vector<ConvAlgorithm>& candidates)>;
  ConvAlgorithm algorithm(const ConvUse& use, const Measure& measure);

  void set_benchmark(bool on);
  std::vector<ConvChoice> measured() const;
  void replace(std::span<const ConvChoice> choices);

 private:
  mutable std::mutex mutex_;
  bool benchmark_ = false;
  std::map<ConvUse, ConvAlgorithm> ruled_, measured_;
};

}  // namespace minidl::cpu
