// The algorithms of convolutions: the fixed rule, and what is worth measuring (kernels/conv_choices.h).
#pragma once

#include <optional>
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
  products,        // conv_1x1.h
  bf16,            // oneDNN's direct one with both operands rounded to bfloat16, results in our layout
  bf16_any,        // in the layout that oneDNN prefers; results are reordered
};

// Whether the processor multiplies matrices of bfloat16 in tile registers (Intel AMX). It then has no fast kernels of
// other kinds for them.
bool has_tiles();

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

// The algorithm that a choice names; the ruled one if this processor, or the precision, lacks that.
ConvAlgorithm chosen_algorithm(const ConvChoice& choice);

}  // namespace minidl::cpu
