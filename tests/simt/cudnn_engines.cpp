#include "tests/simt/cudnn_engines.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "tests/simt/simt.h"

namespace simt::dnn {
namespace {

enum Index : std::int64_t { kDirect, kPlanar, kTensorCore, kAtomic, kHalf, kCompiled, kCoarse };

const Engine kEngines[] = {
    {kDirect, {CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP}, false, 0, 0},
    {kPlanar, {}, false, 4, 0},  // reorders images and weight in its workspace
    {kTensorCore, {CUDNN_NUMERICAL_NOTE_TENSOR_CORE}, false, 2, 8},
    {kAtomic, {CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC}, false, 0, 0},
    {kHalf, {CUDNN_NUMERICAL_NOTE_TENSOR_CORE, CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS}, false, 0, 7},
    {kCompiled, {}, true, 2, 0},
    {kCoarse, {CUDNN_NUMERICAL_NOTE_WINOGRAD, CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13}, false, 0, 0},
};

Rounding rounding_of(const Engine& engine, const Operation& operation) {
  if (operation.type == CUDNN_DATA_BFLOAT16 || engine.index == kHalf) return Rounding::bf16;
  return engine.index == kTensorCore ? Rounding::tf32 : Rounding::none;
}

// An operand as floats: itself where it is exact, else a copy.
class Floats {
 public:
  Floats(const Tensor& tensor, cudnnDataType_t type, Rounding rounding, void* data, bool read)
      : data_(data), type_(type), size_(static_cast<std::size_t>(tensor.extent())) {
    if (type == CUDNN_DATA_FLOAT && (rounding == Rounding::none || !read)) return;
    copy_.resize(size_);
    if (!read) return;
    for (std::size_t i = 0; i < size_; ++i)
      copy_[i] = type == CUDNN_DATA_FLOAT ? rounded(static_cast<const float*>(data)[i], rounding)
                                          : from_bf16(static_cast<const std::uint16_t*>(data)[i]);
  }
  float* data() { return copy_.empty() ? static_cast<float*>(data_) : copy_.data(); }
  std::size_t size() const { return size_; }
  void write_back() {
    if (type_ == CUDNN_DATA_BFLOAT16)
      std::transform(copy_.begin(), copy_.end(), static_cast<std::uint16_t*>(data_), to_bf16);
  }

 private:
  void* data_;
  cudnnDataType_t type_;
  std::size_t size_;
  std::vector<float> copy_;
};

std::size_t bytes_of(const Tensor& tensor, cudnnDataType_t type) {
  return static_cast<std::size_t>(tensor.extent()) * (type == CUDNN_DATA_BFLOAT16 ? 2 : 4);
}

}  // namespace

const Engine* engine_at(std::int64_t index) {
  const auto found = std::find_if(std::begin(kEngines), std::end(kEngines),
                                  [&](const Engine& engine) { return engine.index == index; });
  return found == std::end(kEngines) ? nullptr : found;
}

const std::vector<Proposal>& proposals(cudnnBackendHeurMode_t mode) {
  static const std::vector<Proposal> guesses{{kAtomic, -1},    {kHalf, -1},  {kCompiled, 1}, {kCoarse, -1},
                                             {kTensorCore, 1}, {kPlanar, 2}, {kPlanar, 2},   {kTensorCore, 0},
                                             {kPlanar, 0},     {kDirect, -1}};
  static const std::vector<Proposal> fallback{{kDirect, -1}, {kPlanar, -1}};
  return mode == CUDNN_HEUR_MODE_A ? guesses : fallback;
}

std::size_t workspace_bytes(const Engine& engine, const Operation& o) {
  const Convolution& c = o.convolution;
  const std::size_t weight = bytes_of(c.w, o.type);
  switch (engine.index) {
    case kPlanar:
      return weight + bytes_of(c.x, o.type) + bytes_of(c.y, o.type) + 16;
    case kTensorCore:
      return c.w.strides[1] == 1 || c.w.sizes[2] * c.w.sizes[3] == 1 ? 0 : weight + 1;
    default:
      return 0;
  }
}

void compute(const Engine& engine, const Operation& o, void* x, void* w, void* y, void* workspace) {
  struct Operand {
    const char* what;
    const Tensor& tensor;
    void* data;
    bool written;
  };
  const Convolution& c = o.convolution;
  const std::array<Operand, 3> operands{{{"x of a convolution", c.x, x, c.pass == ConvPass::backward_data},
                                         {"w of a convolution", c.w, w, c.pass == ConvPass::backward_weights},
                                         {"y of a convolution", c.y, y, c.pass == ConvPass::forward}}};
  const std::size_t reserved = workspace_bytes(engine, o);
  if (reserved > 0) require_device(workspace, reserved, "the workspace of a convolution");
  struct Range {
    const char *begin, *end;
  };
  std::vector<Range> taken;
  const auto take = [&](const void* data, std::size_t bytes, const char* what) {
    const auto* begin = static_cast<const char*>(data);
    for (const Range& other : taken)
      if (begin < other.end && other.begin < begin + bytes)
        throw Fault(cudaErrorInvalidValue, std::string(what) + " overlaps another operand");
    taken.push_back({begin, begin + bytes});
  };
  for (const Operand& operand : operands) {
    require_device(operand.data, bytes_of(operand.tensor, o.type), operand.what);
    take(operand.data, bytes_of(operand.tensor, o.type), operand.what);
  }
  if (reserved > 0) take(workspace, reserved, "the workspace of a convolution");

  std::memset(workspace, 0xff, reserved);  // whatever was kept there is gone
  if (skips_libraries()) {
    for (const Operand& operand : operands)
      if (operand.written) std::memset(operand.data, 0, bytes_of(operand.tensor, o.type));
    return;
  }
  const auto floats = [&](const Operand& operand) {
    return Floats(operand.tensor, o.type, rounding_of(engine, o), operand.data, !operand.written);
  };
  std::array<Floats, 3> values{floats(operands[0]), floats(operands[1]), floats(operands[2])};
  convolve(c, values[0].data(), values[1].data(), values[2].data());

  Floats& result = values[c.pass == ConvPass::backward_data ? 0 : c.pass == ConvPass::backward_weights ? 1 : 2];
  if (engine.index == kAtomic || engine.index == kCoarse) {  // another rounding each time, and too much of it
    static int runs = 0;
    const float factor = 1 + 1e-3f * static_cast<float>(++runs % 7);
    for (std::size_t i = 0; i < result.size(); ++i) result.data()[i] *= factor;
  }
  result.write_back();
}

}  // namespace simt::dnn
