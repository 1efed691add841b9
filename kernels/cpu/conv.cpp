// Convolution, by oneDNN or our own kernels. A primitive is made once per use and algorithm and kept. Images stay in
// our layout wherever oneDNN has a vectorised kernel for it; where it has not (a planar side that meets a blocked one,
// as for RGB), images are reordered. Weights are plain for their owners and reordered for the primitive. conv_choice.h
// says which algorithm computes what.
#include <algorithm>
#include <chrono>
#include <map>
#include <tuple>

#include "kernels/cpu/conv_1x1.h"
#include "kernels/cpu/conv_narrow.h"
#include "kernels/cpu/conv_primitives.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/prepared.h"
#include "kernels/cpu/winograd.h"

namespace minidl {
namespace {

using namespace cpu;

template <class Conv>
struct Plan {
  typename Conv::PrimitiveDesc desc;
  typename Conv::Primitive primitive;

  explicit Plan(const typename Conv::PrimitiveDesc& d) : desc(d), primitive(d) {}
};

template <class Conv>
Plan<Conv> make_plan(const ConvUse& use, ConvAlgorithm algorithm) {
  const auto desc = primitive_desc<Conv>(use, algorithm);
  check(desc.has_value(), "oneDNN has no implementation of this convolution");
  return Plan<Conv>(*desc);
}

// The plan for a use, made on first use. Kept per thread: oneDNN's primitives share a scratchpad within a thread.
template <class Conv>
const Plan<Conv>& cached(const ConvUse& use, ConvAlgorithm algorithm) {
  thread_local std::map<std::pair<ConvUse, ConvAlgorithm>, Plan<Conv>> plans;
  auto found = plans.find({use, algorithm});
  if (found == plans.end()) found = plans.emplace(std::pair(use, algorithm), make_plan<Conv>(use, algorithm)).first;
  return found->second;
}

// The shortest of a few runs in seconds, after one that warms up. Long runs need fewer repetitions to be told apart.
template <class F>
double shortest(F run) {
  using Clock = std::chrono::steady_clock;
  run();
  double best = 0, total = 0;
  for (int i = 0; i < 5 && (i < 2 || total < 0.1); ++i) {
    const auto start = Clock::now();
    run();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = i == 0 ? seconds : std::min(best, seconds);
    total += seconds;
  }
  return best;
}

// Computes a use by the algorithm that `choices` has for it. Measuring runs the candidates on the very operands: each
// overwrites the result. `own` runs an algorithm of ours, `run` a plan of oneDNN.
template <class Conv, class Own, class Run>
void convolve(const char* operation, ConvChoices<ConvAlgorithm>& choices, const ConvUse& use, Own own, Run run) {
  guarded(operation, [&] {
    const auto fastest = [&] {
      const std::vector<ConvAlgorithm> all = candidates(use);
      if (all.size() == 1) return all[0];
      const auto seconds = [&](ConvAlgorithm candidate) {
        if (is_own(candidate)) return shortest([&] { own(candidate); });
        const Plan<Conv> plan = make_plan<Conv>(use, candidate);  // not kept: most are not chosen
        return shortest([&] { run(plan); });
      };
      std::pair<double, ConvAlgorithm> best{seconds(all[0]), all[0]};
      for (std::size_t i = 1; i < all.size(); ++i) best = std::min(best, std::pair(seconds(all[i]), all[i]));
      return best.second;
    };
    const ConvAlgorithm algorithm = choices.algorithm(
        use, [&] { return ruled_algorithm(use); }, fastest);
    if (is_own(algorithm))
      own(algorithm);
    else
      run(cached<Conv>(use, algorithm));
  });
}

using Arguments = std::unordered_map<int, dnnl::memory>;

// Tell the operands of a primitive apart.
struct X;
struct W;
struct Y;

}  // namespace

std::vector<ConvChoice> CpuBackend::conv_choices() const { return conv_choices_.measured(name_of); }
void CpuBackend::set_conv_choices(std::span<const ConvChoice> choices) {
  guarded("choices of convolution algorithms", [&] { conv_choices_.replace(choices, chosen_algorithm); });
}

void CpuBackend::conv_forward(const ConvDims& d, const float* x, const float* w, const float* bias, float* y,
                              PreparedWeights* prepared) {
  const ConvUse use{ConvPass::forward, d, bias != nullptr, precision_};
  const ConvDescs ours(d, use.bias);
  const auto own = [&](ConvAlgorithm algorithm) {
    if (const auto products = winograd_products(algorithm))
      winograd_forward(d, x, w, bias, y, prepared, *products);
    else
      narrow_forward(d, x, w, bias, y);
  };
  const auto execute = [&](const auto& plan, const dnnl::memory& weights) {
    Operand<X> in(ours.x, plan.desc.src_desc(), x);
    Operand<Y> out(ours.y, plan.desc.dst_desc(), y);
    Arguments arguments{{DNNL_ARG_SRC, in.read().memory()}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, out.memory()}};
    if (bias) arguments.emplace(DNNL_ARG_BIAS, memory_of(ours.bias, bias));
    plan.primitive.execute(stream(), arguments);
    out.write_back();
  };
  if (!prepared)
    return convolve<ForwardConv>("conv2d", conv_choices_, use, own, [&](const Plan<ForwardConv>& plan) {
      Operand<W> weights(ours.w, plan.desc.weights_desc(), w);
      execute(plan, weights.read().memory());
    });
  convolve<InferenceConv>("conv2d", conv_choices_, use, own, [&](const Plan<InferenceConv>& plan) {
    const Desc wanted = plan.desc.weights_desc();
    if (ours.w == wanted) return execute(plan, memory_of(ours.w, w));
    const auto kept = reordered_weight(*prepared, ours.w, wanted, w);
    execute(plan, kept->memory());
  });
}

void CpuBackend::conv_backward_data(const ConvDims& d, const float* gy, const float* w, float* gx) {
  const ConvUse use{ConvPass::backward_data, d, false, precision_};
  const ConvDescs ours(d, false);
  convolve<BackwardDataConv>(
      "conv2d, gradient of the input", conv_choices_, use,
      [&](ConvAlgorithm algorithm) {
        if (const auto products = winograd_products(algorithm))
          winograd_backward_data(d, gy, w, gx, *products);
        else if (narrow_output(d))
          narrow_backward_data(d, gy, w, gx);
        else
          narrow_input_backward_data(d, gy, w, gx);
      },
      [&](const Plan<BackwardDataConv>& plan) {
        Operand<X> out(ours.x, plan.desc.diff_src_desc(), gx);
        Operand<W> weights(ours.w, plan.desc.weights_desc(), w);
        Operand<Y> in(ours.y, plan.desc.diff_dst_desc(), gy);
        plan.primitive.execute(stream(), {{DNNL_ARG_DIFF_DST, in.read().memory()},
                                          {DNNL_ARG_WEIGHTS, weights.read().memory()},
                                          {DNNL_ARG_DIFF_SRC, out.memory()}});
        out.write_back();
      });
}

void CpuBackend::conv_backward_weights(const ConvDims& d, const float* x, const float* gy, float* gw, float* gbias) {
  const ConvUse use{ConvPass::backward_weights, d, gbias != nullptr, precision_};
  const ConvDescs ours(d, use.bias);
  convolve<BackwardWeightsConv>(
      "conv2d, gradient of the weight", conv_choices_, use,
      [&](ConvAlgorithm algorithm) {
        if (const auto products = winograd_products(algorithm))
          winograd_backward_weights(d, x, gy, gw, gbias, *products);
        else if (algorithm == ConvAlgorithm::products)
          products_backward_weights(d, x, gy, gw, gbias);
        else
          narrow_backward_weights(d, x, gy, gw, gbias);
      },
      [&](const Plan<BackwardWeightsConv>& plan) {
        Operand<X> in(ours.x, plan.desc.src_desc(), x);
        Operand<Y> gradient(ours.y, plan.desc.diff_dst_desc(), gy);
        Operand<W> out(ours.w, plan.desc.diff_weights_desc(), gw);
        Arguments arguments{{DNNL_ARG_SRC, in.read().memory()},
                            {DNNL_ARG_DIFF_DST, gradient.read().memory()},
                            {DNNL_ARG_DIFF_WEIGHTS, out.memory()}};
        if (gbias) arguments.emplace(DNNL_ARG_DIFF_BIAS, memory_of(ours.bias, gbias));
        plan.primitive.execute(stream(), arguments);
        out.write_back();
      });
}

}  // namespace minidl
