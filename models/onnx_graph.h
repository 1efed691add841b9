// The computation of a generator as an ONNX graph, without its tensors.
#pragma once

#include <onnx/onnx_pb.h>

#include "models/generator.h"

namespace minidl {

// Adds inputs, outputs, nodes and constants to an empty graph. Nodes refer to the tensors of the generator's state by
// their names; the caller adds those as initialisers.
void build_generator_graph(const GeneratorOptions& options, onnx::GraphProto& graph);

}  // namespace minidl
