// The engines of the emulated cuDNN. All compute the same convolution; they differ in what they note about themselves,
// in how they round and in what workspace they want. Some must never be chosen by a program that wants reproducible
// float32: their results show it.
#pragma once

#include "tests/simt/cudnn_node.h"

namespace simt::dnn {

struct Engine {
  std::int64_t index;
  std::vector<cudnnBackendNumericalNote_t> notes;
  bool compiled_at_run_time;
  std::int64_t settings;  // values of its knob, CUDNN_KNOB_TYPE_TILE_SIZE, from 0; 0: it has none
  int oldest_major;       // compute capability
};

// Null if there is none.
const Engine* engine_at(std::int64_t index);

// Configurations in the order that heuristics propose them: an engine and the value of its knob, -1 for none.
struct Proposal {
  std::int64_t engine, setting;
};
const std::vector<Proposal>& proposals(cudnnBackendHeurMode_t mode);

std::size_t workspace_bytes(const Engine& engine, const Operation& operation);

// Runs when the stream does: operands are device memory, the workspace as large as workspace_bytes.
void compute(const Engine& engine, const Operation& operation, void* x, void* w, void* y, void* workspace);

}  // namespace simt::dnn
