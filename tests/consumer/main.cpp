// Fits a convolution to another one, with everything that a user of the library touches: layers, losses, Adam, files.
#include <minidl/minidl.h>

#include <iostream>

int main() {
  using namespace minidl;
  Random random(3);
  const Conv2d target(random, 3, 4, {.kernel = 3, .padding = 1, .bias = true});
  Conv2d learner(random, 3, 4, {.kernel = 3, .padding = 1, .bias = true});
  Adam adam(parameters_of(learner), {.lr = 0.02});
  std::vector<float> values(2 * 3 * 8 * 8);
  float first = 0, last = 0;
  for (int step = 0; step < 100; ++step) {
    random.fill_uniform(values, -1, 1);
    const Tensor x = Tensor::from_host({2, 3, 8, 8}, values);
    const Tensor wanted = [&] {
      const NoGrad no_grad;
      return target(x);
    }();
    adam.zero_grad();
    const Tensor loss = l1_loss(learner(x), wanted);
    loss.backward();
    adam.step();
    (step == 0 ? first : last) = loss.item();
  }
  std::cout << "libminidl " << kVersion << ": loss from " << first << " to " << last << '\n';
  return last < 0.1f * first ? 0 : 1;
}
