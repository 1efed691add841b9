// own_layer: an operation and a layer that the library does not have, outside of it: PReLU, a leaky ReLU whose slope is
// learnt. Learns a slope of 0.25 back from pairs of inputs and outputs.
#include <minidl/minidl.h>

#include <iostream>

using namespace minidl;

// y = x where x > 0, else slope * x; slope has one element. On the CPU, whose memory a program may touch.
Tensor prelu(const Tensor& x, const Tensor& slope) {
  check(x.device() == DeviceType::cpu && slope.size() == 1, "prelu: expected CPU tensors and one slope, got ",
        slope.shape());
  Tensor y = empty_like(x);
  for (std::int64_t i = 0; i < x.size(); ++i)
    y.data()[i] = x.data()[i] > 0 ? x.data()[i] : slope.data()[0] * x.data()[i];
  return record("prelu", y, {x, slope}, [x, slope](const Tensor& gy, const Needs&) -> Grads {
    Tensor gx = empty_like(x), gslope = Tensor::full(slope.shape(), 0);
    for (std::int64_t i = 0; i < x.size(); ++i) {
      const bool positive = x.data()[i] > 0;
      gx.data()[i] = positive ? gy.data()[i] : slope.data()[0] * gy.data()[i];
      if (!positive) gslope.data()[0] += x.data()[i] * gy.data()[i];
    }
    return {gx, gslope};
  });
}

struct PReLU {
  Parameter slope{Tensor::full({1}, 0.5f)};

  Tensor operator()(const Tensor& x) const { return prelu(x, slope); }
  void visit(Visitor& f) { f("slope", slope); }
};

int main() {
  Random random(1);
  Sequential network;
  network.add("prelu", PReLU());
  Adam adam(parameters_of(network), {.lr = 0.01});
  std::vector<float> values(256);
  for (int i = 0; i < 200; ++i) {
    random.fill_normal(values);
    const Tensor x = Tensor::from_host({16, 16}, values);
    adam.zero_grad();
    l1_loss(network(x), leaky_relu(x, 0.25f)).backward();
    adam.step();
  }
  std::cout << "learnt slope: " << parameters_of(network)[0]->tensor().item() << '\n';
}
