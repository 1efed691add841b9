// Trained generators as ONNX models, for ONNX Runtime, OpenVINO, TensorRT, browsers and phones. See docs/onnx.md.
//
// The model (opset 17, IR version 8, float32 throughout)
//   input   source   [batch, C, height, width]      the image to translate, RGB (grey if C is 1) in [-1, 1], NCHW
//   output  image    [batch, C, height, width]      the translation, likewise in [-1, 1]
//   output  heatmap  [batch, 1, height/4, width/4]  where the generator looks: the sum of its attention features, >= 0
// The batch is free. Height and width of a light model are free too (multiples of 4, at least 16); those of a full
// model are its image size. Every tensor of the generator's state is an initialiser under its official name
// ("DownBlock.1.weight"), in its official shape and with its bits; nodes are named by the layer of the official network
// that they compute. Metadata says what the model is: "direction", "iterations", "ch", "n_res", "img_ch", "img_size",
// "light" as train_ugatit's flags, "input_range" and "layout"; the producer is libminidl with its version.
//
// The target minidl_onnx, apart from libminidl, so that only programs that export need protobuf.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "models/generator.h"

namespace minidl {

// A protobuf message ends at 2 GiB; this leaves room for the graph.
inline constexpr std::int64_t kOnnxInlineBytes = 2'000'000'000;

// Whether this build can write ONNX at all (CMake option MINIDL_ONNX).
bool can_write_onnx();

// Writes the generator of a direction ("A2B" or "B2A") after `step` iterations. A model whose tensors take more than
// `max_inline_bytes` keeps them in a second file beside the first, named after it with ".data" added, which it refers
// to by that name: the two move together. Either file appears whole; an export that is interrupted while it replaces
// one of two files never leaves a graph beside the tensors of another. Throws FileError, and Error for another
// direction or in a build without ONNX.
void write_onnx(const std::filesystem::path& file, Generator& generator, const std::string& direction,
                std::int64_t step, std::int64_t max_inline_bytes = kOnnxInlineBytes);

}  // namespace minidl
