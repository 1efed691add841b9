// Batches taken together and apart.
#include "core/ops.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::StartsWith;

namespace {

using In = const std::vector<Tensor>&;
using Numbers = const std::vector<Values>&;

std::vector<Shape> sample_shapes(std::int64_t n) { return {{n, 3, 5, 7}, {n, 16, 4, 3}, {n, 24, 1, 1}, {n, 13}, {n}}; }

}  // namespace

TEST_CASE("concat_samples puts one batch behind the other", "[samples]") {
  for (const DeviceType device : test_devices())
    for (std::size_t i = 0; i < sample_shapes(1).size(); ++i) {
      const Shape a = sample_shapes(2)[i], b = sample_shapes(3)[i];
      INFO(a << " and " << b);
      check_operation(
          {random_tensor(a, device, 1), random_tensor(b, device, 2)},
          [](In in) { return concat_samples(in[0], in[1]); },
          [](Numbers in) {
            Values y = in[0];
            y.insert(y.end(), in[1].begin(), in[1].end());
            return y;
          });
    }
}

TEST_CASE("slice_samples takes whole samples", "[samples]") {
  for (const DeviceType device : test_devices())
    for (const Shape& shape : sample_shapes(4))
      for (const auto& [begin, count] : {std::pair{0, 4}, {0, 1}, {1, 2}, {3, 1}}) {
        INFO(shape << " from " << begin << ", " << count);
        const auto sample = shape.size() / 4;
        check_operation(
            {random_tensor(shape, device, 1)},
            [begin = begin, count = count](In in) { return slice_samples(in[0], begin, count); },
            [begin = begin, count = count, sample](Numbers in) {
              return Values(in[0].begin() + begin * sample, in[0].begin() + (begin + count) * sample);
            });
      }
}

TEST_CASE("a batch that was put together and taken apart has the gradients of its parts", "[samples]") {
  for (const DeviceType device : test_devices()) {
    Tensor a = random_tensor({1, 16, 3, 3}, device, 1), b = random_tensor({2, 16, 3, 3}, device, 2);
    a.set_requires_grad(true);
    b.set_requires_grad(true);
    const Tensor both = concat_samples(a, b);
    (2.0f * mean(slice_samples(both, 0, 1)) + 5.0f * mean(slice_samples(both, 1, 2))).backward();
    for (const float value : a.grad().to_host()) CHECK(value == Approx(2.0 / 144));
    for (const float value : b.grad().to_host()) CHECK(value == Approx(5.0 / 288));
  }
}

TEST_CASE("samples refuse what does not fit, by name", "[samples]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = random_tensor({2, 16, 3, 5}, device, 1);
    for (const Tensor& wrong :
         {random_tensor({2, 16, 3, 4}, device, 1), random_tensor({2, 16}, device, 1),
          random_plain({2, 16, 3, 5}, device, 1), Tensor::empty({0, 16, 3, 5}, device), Tensor()}) {
      CHECK_THAT(error_of([&] { concat_samples(x, wrong); }), StartsWith("concat_samples: "));
      CHECK_THAT(error_of([&] { concat_samples(wrong, x); }), StartsWith("concat_samples: "));
    }
    CHECK_THAT(error_of([&] { slice_samples(x, 1, 2); }), StartsWith("slice_samples: "));
    CHECK_THAT(error_of([&] { slice_samples(x, -1, 1); }), StartsWith("slice_samples: "));
    CHECK_THAT(error_of([&] { slice_samples(x, 0, 0); }), StartsWith("slice_samples: "));
    CHECK_THAT(error_of([&] { slice_samples(Tensor(), 0, 1); }), StartsWith("slice_samples: "));
  }
}
