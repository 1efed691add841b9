#include "models/onnx_graph.h"

#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace minidl {
namespace {

using Ints = std::vector<std::int64_t>;
using Value = std::string;  // the name of an input, an initialiser or a node's result

struct Attribute {
  const char* name;
  std::variant<std::int64_t, Ints, const char*> value;
};

// Factors that make the variance over the pixels of a channel, or over all values of a layer, unbiased: n / (n - 1).
struct Unbiasing {
  Value channel, layer;
};

class GeneratorGraph {
 public:
  GeneratorGraph(const GeneratorOptions& options, onnx::GraphProto& graph) : options_(options), graph_(graph) {}

  void build() {
    declare(*graph_.add_input(), "source", options_.image_channels, "", 1,
            "the image to translate, values in [-1, 1]: pixel / 127.5 - 1");
    declare(*graph_.add_output(), "image", options_.image_channels, "", 1, "the translation, values in [-1, 1]");
    declare(*graph_.add_output(), "heatmap", 1, "/4", 4, "where the generator looks: larger values count more");

    const Value attended = attention(encoder("source"));
    node("ReduceSum", "heatmap", {attended, ints("channel_axis", {1})}, {{"keepdims", std::int64_t{1}}});
    const auto [gamma, beta] = style(attended);
    upsampler(decoder(attended, gamma, beta));
  }

 private:
  std::int64_t ch() const { return options_.channels; }

  // An image of the graph's interface, at the network's size or a part of it.
  void declare(onnx::ValueInfoProto& info, const char* name, std::int64_t channels, const std::string& part,
               std::int64_t divisor, const char* description) const {
    info.set_name(name);
    info.set_doc_string(description);
    auto& type = *info.mutable_type()->mutable_tensor_type();
    type.set_elem_type(onnx::TensorProto::FLOAT);
    auto& shape = *type.mutable_shape();
    shape.add_dim()->set_dim_param("batch");
    shape.add_dim()->set_dim_value(channels);
    for (const char* side : {"height", "width"})
      if (options_.light)
        shape.add_dim()->set_dim_param(side + part);
      else
        shape.add_dim()->set_dim_value(options_.image_size / divisor);
  }

  // A node whose only result has its name.
  Value node(const char* op, const std::string& name, const std::vector<Value>& inputs,
             const std::vector<Attribute>& attributes = {}) {
    onnx::NodeProto& added = *graph_.add_node();
    added.set_op_type(op);
    added.set_name(name);
    for (const Value& input : inputs) added.add_input(input);
    added.add_output(name);
    for (const Attribute& a : attributes) {
      onnx::AttributeProto& to = *added.add_attribute();
      to.set_name(a.name);
      if (const auto* number = std::get_if<std::int64_t>(&a.value)) {
        to.set_type(onnx::AttributeProto::INT);
        to.set_i(*number);
      } else if (const auto* numbers = std::get_if<Ints>(&a.value)) {
        to.set_type(onnx::AttributeProto::INTS);
        to.mutable_ints()->Add(numbers->begin(), numbers->end());
      } else {
        to.set_type(onnx::AttributeProto::STRING);
        to.set_s(std::get<const char*>(a.value));
      }
    }
    return name;
  }

  // Constants are initialisers; one name stands for one constant, however often it is asked for.
  template <class T>
  Value constant(const std::string& name, const Ints& shape, const std::vector<T>& values,
                 onnx::TensorProto::DataType type) {
    if (!constants_.insert(name).second) return name;
    onnx::TensorProto& tensor = *graph_.add_initializer();
    tensor.set_name(name);
    tensor.set_data_type(type);
    tensor.mutable_dims()->Add(shape.begin(), shape.end());
    tensor.set_raw_data(values.data(), values.size() * sizeof(T));
    return name;
  }
  Value ints(const std::string& name, const Ints& values) {
    return constant(name, {static_cast<std::int64_t>(values.size())}, values, onnx::TensorProto::INT64);
  }
  Value number(const std::string& name, float value) {
    return constant(name, {}, std::vector<float>{value}, onnx::TensorProto::FLOAT);
  }
  Value repeated(const std::string& name, float value, std::int64_t count) {
    return constant(name + "_" + std::to_string(count), {count},
                    std::vector<float>(static_cast<std::size_t>(count), value), onnx::TensorProto::FLOAT);
  }

  Value pad(const std::string& name, const Value& x, std::int64_t p) {
    return node("Pad", name, {x, ints("pads_" + std::to_string(p), {0, 0, p, p, 0, 0, p, p})}, {{"mode", "reflect"}});
  }
  Value conv(const std::string& layer, const Value& x, std::int64_t kernel, std::int64_t stride = 1) {
    return node("Conv", layer, {x, layer + ".weight"},
                {{"kernel_shape", Ints{kernel, kernel}}, {"strides", Ints{stride, stride}}});
  }
  Value linear(const std::string& layer, const Value& x) {
    return node("Gemm", layer, {x, layer + ".weight"}, {{"transB", std::int64_t{1}}});
  }
  Value relu(const std::string& name, const Value& x) { return node("Relu", name, {x}); }
  // The operator's default epsilon is the network's.
  Value instance_norm(const std::string& name, const Value& x, std::int64_t channels) {
    return node("InstanceNormalization", name, {x, repeated("ones", 1, channels), repeated("zeros", 0, channels)});
  }
  Value mean(const std::string& name, const Value& x, const Ints& axes, bool keep = true) {
    return node("ReduceMean", name, {x}, {{"axes", axes}, {"keepdims", std::int64_t{keep}}});
  }
  // Columns of a matrix as channels of an image of one pixel.
  Value as_channels(const std::string& name, const Value& x) {
    return node("Unsqueeze", name, {x, ints("sides", {2, 3})});
  }
  Value upsample(const std::string& name, const Value& x) {
    const Value scales = constant("twice", {4}, std::vector<float>{1, 1, 2, 2}, onnx::TensorProto::FLOAT);
    return node("Resize", name, {x, "", scales},
                {{"mode", "nearest"}, {"coordinate_transformation_mode", "asymmetric"}, {"nearest_mode", "floor"}});
  }

  // n / (n - 1) as 1 / (1 - 1 / n), because n itself would overflow once somebody converts the model to float16.
  Unbiasing unbiasing(const std::string& prefix, const Value& x, std::int64_t channels, std::int64_t divisor) {
    const std::string in = prefix + "/channel_unbiasing", ln = prefix + "/layer_unbiasing";
    if (!options_.light) {
      const std::int64_t side = options_.image_size / divisor;
      const auto factor = [](std::int64_t n) {
        return static_cast<float>(static_cast<double>(n) / static_cast<double>(n - 1));
      };
      return {number(in, factor(side * side)), number(ln, factor(side * side * channels))};
    }
    const Value sides = node("Shape", prefix + "/sides", {x}, {{"start", std::int64_t{2}}});
    const Value sides_float =
        node("Cast", prefix + "/sides_float", {sides}, {{"to", std::int64_t{onnx::TensorProto::FLOAT}}});
    const Value parts = node("Reciprocal", prefix + "/reciprocal_sides", {sides_float});
    const Value pixel = node("ReduceProd", prefix + "/pixel", {parts}, {{"keepdims", std::int64_t{0}}});
    const Value value = node("Div", prefix + "/value",
                             {pixel, number("channels_" + std::to_string(channels), static_cast<float>(channels))});
    const auto factor = [&](const std::string& name, const Value& part) {
      return node("Reciprocal", name, {node("Sub", name + "/denominator", {number("one", 1), part})});
    };
    return {factor(in, pixel), factor(ln, value)};
  }

  // ILN and AdaILN: gamma * (rho * IN(x) + (1 - rho) * LN(x)) + beta. Both norms of a channel are affine functions of
  // x, so they become one: x centred, times a scale, plus a shift, both of which follow from the channels' moments. The
  // variance of a layer is the mean variance of its channels plus the variance of their means.
  Value layer_instance_norm(const std::string& layer, const Value& x, const Value& gamma, const Value& beta,
                            const Unbiasing& unbiasing) {
    const auto step = [&](const char* op, const char* name, const std::vector<Value>& inputs) {
      return node(op, layer + "/" + name, inputs);
    };
    const auto averaged = [&](const char* name, const Value& v, const Ints& axes) {
      return mean(layer + "/" + name, v, axes);
    };
    const Value rho = layer + ".rho", eps = number("eps", 1e-5f);
    const Value channel_mean = averaged("channel_mean", x, {2, 3});
    const Value centred = step("Sub", "centred", {x, channel_mean});
    const Value squares = step("Mul", "squares", {centred, centred});
    const Value variance = averaged("channel_variance", squares, {2, 3});
    const Value layer_mean = averaged("layer_mean", channel_mean, {1});
    const Value offset = step("Sub", "offset", {channel_mean, layer_mean});
    const Value spread = step("Mul", "spread", {offset, offset});
    const Value contribution = step("Add", "contribution", {variance, spread});
    const Value layer_variance = averaged("layer_variance", contribution, {1});
    const auto deviation = [&](const std::string& of, const Value& biased, const Value& factor) {
      const Value unbiased = node("Mul", layer + "/" + of + "_unbiased", {biased, factor});
      return node("Sqrt", layer + "/" + of + "_deviation",
                  {node("Add", layer + "/" + of + "_plus_eps", {unbiased, eps})});
    };
    const Value in = step("Div", "in_share", {rho, deviation("channel", variance, unbiasing.channel)});
    const Value rest = step("Sub", "one_minus_rho", {number("one", 1), rho});
    const Value ln = step("Div", "ln_share", {rest, deviation("layer", layer_variance, unbiasing.layer)});
    const Value scale = step("Mul", "scale", {step("Add", "shares", {in, ln}), gamma});
    const Value moved = step("Mul", "ln_offset", {ln, offset});
    const Value shift = step("Add", "shift", {step("Mul", "styled_offset", {moved, gamma}), beta});
    return node("Add", layer, {step("Mul", "scaled", {centred, scale}), shift});
  }

  // --- the network, under the names of the official nn.Sequentials
  Value encoder(Value x) {
    x = pad("DownBlock.0", x, 3);
    x = conv("DownBlock.1", x, 7);
    x = relu("DownBlock.3", instance_norm("DownBlock.2", x, ch()));
    x = conv("DownBlock.5", pad("DownBlock.4", x, 1), 3, 2);
    x = relu("DownBlock.7", instance_norm("DownBlock.6", x, 2 * ch()));
    x = conv("DownBlock.9", pad("DownBlock.8", x, 1), 3, 2);
    x = relu("DownBlock.11", instance_norm("DownBlock.10", x, 4 * ch()));
    for (std::int64_t i = 0; i < options_.residual_blocks; ++i) {
      const std::string block = "DownBlock." + std::to_string(12 + i), in = block + ".conv_block.";
      Value y = conv(in + "1", pad(in + "0", x, 1), 3);
      y = relu(in + "3", instance_norm(in + "2", y, 4 * ch()));
      y = conv(in + "5", pad(in + "4", y, 1), 3);
      x = node("Add", block, {instance_norm(in + "6", y, 4 * ch()), x});
    }
    return x;
  }

  // The features, weighted by what the two classifiers of the class activation map found to matter.
  Value attention(const Value& encoded) {
    const auto weighted = [&](const std::string& classifier) {
      const Value weight = as_channels(classifier + "/weight", classifier + ".weight");
      return node("Mul", classifier, {encoded, weight});
    };
    const Value both = node("Concat", "cam", {weighted("gap_fc"), weighted("gmp_fc")}, {{"axis", std::int64_t{1}}});
    const Value mixed =
        node("Conv", "conv1x1", {both, "conv1x1.weight", "conv1x1.bias"}, {{"kernel_shape", Ints{1, 1}}});
    return relu("attention", mixed);
  }

  // gamma and beta of every AdaILN, [batch, 4 ch, 1, 1].
  std::pair<Value, Value> style(const Value& attended) {
    Value x = options_.light ? mean("pooled", attended, {2, 3}, false)
                             : node("Flatten", "flat", {attended}, {{"axis", std::int64_t{1}}});
    x = relu("FC.1", linear("FC.0", x));
    x = relu("FC.3", linear("FC.2", x));
    const auto part = [&](const std::string& name) { return as_channels(name + "/channels", linear(name, x)); };
    return {part("gamma"), part("beta")};
  }

  Value decoder(Value x, const Value& gamma, const Value& beta) {
    const Unbiasing of_features = unbiasing("UpBlock1", x, 4 * ch(), 4);
    for (std::int64_t i = 0; i < options_.residual_blocks; ++i) {
      const std::string block = "UpBlock1_" + std::to_string(i + 1), in = block + ".";
      Value y = conv(in + "conv1", pad(in + "pad1", x, 1), 3);
      y = relu(in + "relu1", layer_instance_norm(in + "norm1", y, gamma, beta, of_features));
      y = conv(in + "conv2", pad(in + "pad2", y, 1), 3);
      x = node("Add", block, {layer_instance_norm(in + "norm2", y, gamma, beta, of_features), x});
    }
    return x;
  }

  void upsampler(Value x) {
    const auto larger = [&](int first, std::int64_t channels, std::int64_t divisor) {
      const auto layer = [&](int i) { return "UpBlock2." + std::to_string(first + i); };
      x = conv(layer(2), pad(layer(1), upsample(layer(0), x), 1), 3);
      const std::string iln = layer(3);
      x = layer_instance_norm(iln, x, iln + ".gamma", iln + ".beta", unbiasing(iln, x, channels, divisor));
      x = relu(layer(4), x);
    };
    larger(0, 2 * ch(), 2);
    larger(5, ch(), 1);
    node("Tanh", "image", {conv("UpBlock2.11", pad("UpBlock2.10", x, 3), 7)});
  }

  const GeneratorOptions& options_;
  onnx::GraphProto& graph_;
  std::set<std::string> constants_;
};

}  // namespace

void build_generator_graph(const GeneratorOptions& options, onnx::GraphProto& graph) {
  GeneratorGraph(options, graph).build();
}

}  // namespace minidl
