#include "tests/simt/cudnn_node.h"

#include <algorithm>
#include <iterator>

namespace simt::dnn {
namespace {

constexpr Attribute kAttributes[] = {
    {CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_TYPE_INT64, 1, 1},
    {CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_TYPE_DATA_TYPE, 1, 1},
    {CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_TYPE_INT64, 1, 1},
    {CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_TYPE_INT64, 4, 4},
    {CUDNN_ATTR_TENSOR_STRIDES, CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_TYPE_INT64, 4, 4},

    {CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_TYPE_INT64, 1, 1},
    {CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_TYPE_DATA_TYPE, 1, 1},
    {CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_TYPE_CONVOLUTION_MODE, 1, 1},
    {CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_TYPE_INT64, 2, 2},
    {CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_TYPE_INT64, 2, 2},
    {CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_TYPE_INT64, 2, 2},
    {CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_TYPE_INT64, 2, 2},

    {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
     CUDNN_TYPE_FLOAT, 1, 1},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
     CUDNN_TYPE_FLOAT, 1, 1},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1},

    {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
     CUDNN_TYPE_FLOAT, 1, 1},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
     CUDNN_TYPE_FLOAT, 1, 1},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1},

    {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
     CUDNN_TYPE_FLOAT, 1, 1},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA, CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
     CUDNN_TYPE_FLOAT, 1, 1},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
     CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1},
    {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY, CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
     CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1},

    {CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_TYPE_HANDLE, 1, 1},
    {CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1},

    {CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1},
    {CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_TYPE_HEUR_MODE, 1, 1},
    {CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, 0, false},

    {CUDNN_ATTR_ENGINE_OPERATION_GRAPH, CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1},
    {CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_TYPE_INT64, 1, 1},
    {CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_TYPE_NUMERICAL_NOTE, 0, 0, false},
    {CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_TYPE_BEHAVIOR_NOTE, 0, 0, false},

    {CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, CUDNN_TYPE_KNOB_TYPE, 1, 1},
    {CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, CUDNN_TYPE_INT64, 1, 1},

    {CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1},
    {CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, 44},

    {CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_TYPE_HANDLE, 1, 1},
    {CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
     1},
    {CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_TYPE_INT64, 0, 0, false},

    {CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_TYPE_INT64, 3, 3},
    {CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_TYPE_VOID_PTR, 3, 3},
    {CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_TYPE_VOID_PTR, 1, 1},
};

Extents extents(const std::vector<std::int64_t>& numbers) { return {numbers[0], numbers[1], numbers[2], numbers[3]}; }

// Sizes and strides such that elements fill memory without gaps and each has a place of its own.
Tensor tensor_of(const Node& node) {
  const Tensor t{extents(node.numbers(CUDNN_ATTR_TENSOR_DIMENSIONS)), extents(node.numbers(CUDNN_ATTR_TENSOR_STRIDES))};
  std::vector<std::pair<std::int64_t, std::int64_t>> axes;
  std::int64_t elements = 1;
  for (std::size_t i = 0; i < 4; ++i) {
    require(t.sizes[i] >= 1 && t.strides[i] >= 1, CUDNN_STATUS_BAD_PARAM,
            "a size or stride of a tensor is less than 1");
    elements *= t.sizes[i];
    if (t.sizes[i] > 1) axes.emplace_back(t.strides[i], t.sizes[i]);
  }
  std::sort(axes.begin(), axes.end());
  std::int64_t expected = 1;
  for (const auto& [stride, size] : axes) {
    require(stride == expected, CUDNN_STATUS_NOT_SUPPORTED_LAYOUT, "the strides of a tensor leave gaps or overlap");
    expected *= size;
  }
  require(t.extent() == elements, CUDNN_STATUS_NOT_SUPPORTED_LAYOUT, "the strides of a tensor leave gaps or overlap");
  return t;
}

// The layouts that engines take: images channels-last, weights either way.
void require_channels_last(const Tensor& t) {
  require(t.strides[1] == 1 || t.sizes[1] == 1, CUDNN_STATUS_NOT_SUPPORTED_LAYOUT, "an image is not channels-last");
}

Convolution convolution_of(ConvPass pass, const Node& conv, const Tensor& x, const Tensor& w, const Tensor& y) {
  require(conv.number(CUDNN_ATTR_CONVOLUTION_COMP_TYPE) == CUDNN_DATA_FLOAT &&
              conv.number(CUDNN_ATTR_CONVOLUTION_CONV_MODE) == CUDNN_CROSS_CORRELATION &&
              conv.number(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS) == 2,
          CUDNN_STATUS_NOT_SUPPORTED, "only two-dimensional cross-correlations that add in float are emulated");
  const auto& before = conv.numbers(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS);
  const auto& after = conv.numbers(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS);
  const auto& strides = conv.numbers(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES);
  require(conv.numbers(CUDNN_ATTR_CONVOLUTION_DILATIONS) == std::vector<std::int64_t>{1, 1}, CUDNN_STATUS_NOT_SUPPORTED,
          "dilated convolutions are not emulated");
  require(before == after, CUDNN_STATUS_NOT_SUPPORTED, "the paddings of a convolution differ");
  bool fits = x.sizes[0] == y.sizes[0] && x.sizes[1] == w.sizes[1] && w.sizes[0] == y.sizes[1];
  for (std::size_t i = 0; i < 2; ++i) {
    require(strides[i] >= 1 && before[i] >= 0, CUDNN_STATUS_BAD_PARAM, "a stride or padding is negative");
    const std::int64_t room = x.sizes[i + 2] + before[i] + after[i] - w.sizes[i + 2];
    fits = fits && room >= 0 && y.sizes[i + 2] == room / strides[i] + 1;
  }
  require(fits, CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "the tensors of a convolution do not fit together");
  return {pass, x, w, y, {strides[0], strides[1]}, {before[0], before[1]}};
}

}  // namespace

const Attribute* attribute_of(cudnnBackendDescriptorType_t owner, cudnnBackendAttributeName_t name) {
  const auto found = std::find_if(std::begin(kAttributes), std::end(kAttributes),
                                  [&](const Attribute& a) { return a.owner == owner && a.name == name; });
  return found == std::end(kAttributes) ? nullptr : found;
}

void require_complete(const Node& node) {
  for (const Attribute& a : kAttributes)
    if (a.owner == node.type && a.least > 0)
      require(node.values.contains(a.name), CUDNN_STATUS_BAD_PARAM,
              "attribute " + std::to_string(a.name) + " of a descriptor is missing");
  if (node.type == CUDNN_BACKEND_TENSOR_DESCRIPTOR) {
    tensor_of(node);
    const std::int64_t alignment = node.number(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
    require(alignment >= 2 && (alignment & (alignment - 1)) == 0, CUDNN_STATUS_BAD_PARAM,
            "the alignment of a tensor is no power of two");
  }
}

Operation operation_of(const Node& node) {
  cudnnBackendAttributeName_t alpha{}, beta{}, conv{}, names[3] = {};
  ConvPass pass = ConvPass::forward;
  switch (node.type) {
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
      alpha = CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, beta = CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA;
      conv = CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC;
      names[0] = CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, names[1] = CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W;
      names[2] = CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y;
      break;
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
      pass = ConvPass::backward_data;
      alpha = CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, beta = CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA;
      conv = CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC;
      names[0] = CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, names[1] = CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W;
      names[2] = CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY;
      break;
    default:
      pass = ConvPass::backward_weights;
      alpha = CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA;
      beta = CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA;
      conv = CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC;
      names[0] = CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
      names[1] = CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW;
      names[2] = CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY;
  }
  require(node.values.at(alpha).floats.at(0) == 1 && node.values.at(beta).floats.at(0) == 0, CUDNN_STATUS_NOT_SUPPORTED,
          "only the factors 1 and 0 are emulated");
  const Node &x = node.node(names[0]), &w = node.node(names[1]), &y = node.node(names[2]);
  const auto type = static_cast<cudnnDataType_t>(x.number(CUDNN_ATTR_TENSOR_DATA_TYPE));
  for (const Node* tensor : {&w, &y})
    require(tensor->number(CUDNN_ATTR_TENSOR_DATA_TYPE) == type, CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE,
            "the tensors of a convolution are of different types");
  const Tensor tensors[] = {tensor_of(x), tensor_of(w), tensor_of(y)};
  require_channels_last(tensors[0]);
  require_channels_last(tensors[2]);
  const std::int64_t ids[] = {x.number(CUDNN_ATTR_TENSOR_UNIQUE_ID), w.number(CUDNN_ATTR_TENSOR_UNIQUE_ID),
                              y.number(CUDNN_ATTR_TENSOR_UNIQUE_ID)};
  require(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], CUDNN_STATUS_BAD_PARAM,
          "two tensors of an operation have the same name");
  std::int64_t alignment = 2;
  for (const Node* tensor : {&x, &w, &y})
    alignment = std::max(alignment, tensor->number(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT));
  return {convolution_of(pass, node.node(conv), tensors[0], tensors[1], tensors[2]),
          type,
          alignment,
          ids[0],
          ids[1],
          ids[2]};
}

const cudnnContext* handle_of(const Node& node, cudnnBackendAttributeName_t name) {
  return static_cast<const cudnnContext*>(node.values.at(name).pointers.at(0));
}

}  // namespace simt::dnn
