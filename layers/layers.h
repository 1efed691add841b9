// The layers. Each is a struct that is called like a function; see layers/module.h for what `visit` is.
//
// Weights are initialised as PyTorch does by default (Kaiming-uniform with a = sqrt 5), drawing from the given
// generator in the order weight, bias; two layers made one after the other draw one after the other. With
// Random::blank() what would be drawn stays uninitialised.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/ops.h"
#include "core/random.h"
#include "layers/module.h"

namespace minidl {

struct ConvLayerOptions {
  std::int64_t kernel = 3;
  std::int64_t stride = 1;
  std::int64_t padding = 0;  // zeros
  bool bias = false;
  float slope = 1;  // of a leaky ReLU behind the bias; 1 for none, 0 for a ReLU
};

// torch.nn.Conv2d with a square kernel.
struct Conv2d {
  Parameter weight, bias;
  ConvOptions options;

  Conv2d(Random& random, std::int64_t in_channels, std::int64_t out_channels, ConvLayerOptions layer_options);
  Tensor operator()(const Tensor& x) const { return conv2d(x, weight, bias, options); }
  Tensor normalised(const Tensor& x, const Spectrum& spectrum, SpectralOptions spectral_options = {}) const {
    return spectral_conv2d(x, weight, bias, spectrum, options, spectral_options);
  }
  void visit(Visitor& f) { f("weight", weight), f("bias", bias); }
};

// Upsample{2, 1}, then Conv2d with kernel 3 and no bias, as one (see upsample_conv2d).
struct UpsampleConv2d {
  Parameter weight;

  UpsampleConv2d(Random& random, std::int64_t in_channels, std::int64_t out_channels)
      : weight(Conv2d(random, in_channels, out_channels, {.kernel = 3}).weight) {}
  Tensor operator()(const Tensor& x) const { return upsample_conv2d(x, weight); }
  void visit(Visitor& f) { f("weight", weight); }
};

// torch.nn.Linear.
struct Linear {
  Parameter weight, bias;
  LinearOptions options;

  Linear(Random& random, std::int64_t in_features, std::int64_t out_features, bool with_bias,
         LinearOptions linear_options = {});
  Tensor operator()(const Tensor& x) const { return linear(x, weight, bias, options); }
  Tensor normalised(const Tensor& x, const Spectrum& spectrum) const {
    return spectral_linear(x, weight, bias, spectrum);
  }
  void visit(Visitor& f) { f("weight", weight), f("bias", bias); }
};

// torch.nn.utils.spectral_norm around a Conv2d or Linear: the weight is divided by its largest singular value,
// estimated by power iteration. Each call in training mode makes one iteration, also without gradients, as PyTorch's
// does; a batch may stand for several calls (see Calls in core/ops.h).
template <class Layer>
struct SpectralNorm {
  Layer layer;
  Buffer u, v;
  bool training = true;

  // Wrap right after making the layer: u, then v are drawn next.
  SpectralNorm(Random& random, Layer wrapped) : layer(std::move(wrapped)) {
    const Tensor& weight = layer.weight;
    u = Buffer(random_direction(random, weight.shape()[0]));
    v = Buffer(random_direction(random, weight.size() / weight.shape()[0]));
  }
  Tensor operator()(const Tensor& x, const Calls& calls = {}) {
    const SpectralWeight one = spectral_weight();
    return layer.normalised(x, spectra({&one, 1}, training, calls).front());
  }
  // For networks that make the power iterations of all their layers together (see spectra in core/ops.h).
  SpectralWeight spectral_weight() { return {layer.weight, u, v}; }
  void visit(Visitor& f) {
    f("bias", layer.bias), f("weight_orig", layer.weight), f("weight_u", u), f("weight_v", v);
    f("training", training);
  }

 private:
  static Tensor random_direction(Random& random, std::int64_t size) {
    if (random.is_blank()) return Tensor::empty({size});
    std::vector<float> values(static_cast<std::size_t>(size));
    random.fill_normal(values);
    normalize(values);
    return Tensor::from_host({size}, values);
  }
};

struct ReflectionPad2d {
  std::int64_t pad = 1;
  Tensor operator()(const Tensor& x) const { return reflection_pad2d(x, pad); }
};

// Nearest neighbour.
struct Upsample {
  std::int64_t scale = 2;
  std::int64_t pad = 0;  // by reflection
  Tensor operator()(const Tensor& x) const { return upsample_nearest(x, scale, pad); }
};

struct InstanceNorm2d {
  NormOptions options;
  Tensor operator()(const Tensor& x) const { return instance_norm(x, options); }
};

// Layer-instance norm with learnt rho (starts at 0), gamma (1) and beta (0), each [1, C, 1, 1].
struct ILN {
  Parameter rho, gamma, beta;
  NormOptions options;

  explicit ILN(std::int64_t channels, NormOptions norm_options = {});
  Tensor operator()(const Tensor& x) const { return layer_instance_norm(x, rho, gamma, beta, options); }
  void visit(Visitor& f) { f("rho", rho), f("gamma", gamma), f("beta", beta); }
};

// Adaptive layer-instance norm: learnt rho (starts at 0.9); gamma and beta [N, C] come with every call.
struct AdaILN {
  Parameter rho;
  NormOptions options;

  explicit AdaILN(std::int64_t channels, NormOptions norm_options = {});
  Tensor operator()(const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& residual = {}) const {
    return layer_instance_norm(x, rho, gamma, beta, options, residual);
  }
  void visit(Visitor& f) { f("rho", rho); }
};

struct ReLU {
  Tensor operator()(const Tensor& x) const { return relu(x); }
};
struct LeakyReLU {
  float slope = 0.01f;
  Tensor operator()(const Tensor& x) const { return leaky_relu(x, slope); }
};
struct Tanh {
  Tensor operator()(const Tensor& x) const { return tanh(x); }
};
struct Sigmoid {
  Tensor operator()(const Tensor& x) const { return sigmoid(x); }
};

// Named layers, called one after the other. Only layers that own tensors need a name.
class Sequential {
 public:
  template <class Layer>
  Sequential& add(std::string name, Layer layer) {
    layers_.emplace_back(std::move(name), std::make_unique<Holder<Layer>>(std::move(layer)));
    return *this;
  }
  template <class Layer>
  Sequential& add(Layer layer) {
    static_assert(!Module<Layer>, "a layer that owns tensors needs a name");
    return add("", std::move(layer));
  }

  Tensor operator()(Tensor x) {
    for (auto& [name, layer] : layers_) x = layer->call(x);
    return x;
  }
  void visit(Visitor& f) {
    for (auto& [name, layer] : layers_) layer->visit(name, f);
  }

 private:
  struct AnyLayer {
    virtual ~AnyLayer() = default;
    virtual Tensor call(const Tensor& x) = 0;
    virtual void visit(const std::string& name, Visitor& f) = 0;
  };
  template <class Layer>
  struct Holder final : AnyLayer {
    Layer layer;

    explicit Holder(Layer l) : layer(std::move(l)) {}
    Tensor call(const Tensor& x) override { return layer(x); }
    void visit(const std::string& name, Visitor& f) override {
      if constexpr (Module<Layer>) f(name, layer);
    }
  };
  std::vector<std::pair<std::string, std::unique_ptr<AnyLayer>>> layers_;
};

}  // namespace minidl
