// Tensors, layouts, the autograd engine, the memory pool.
#include <omp.h>

#include <array>
#include <thread>
#include <type_traits>

#include "core/adam.h"
#include "core/ops.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

Tensor vector_of(std::vector<float> values, DeviceType device) {
  return Tensor::from_host({static_cast<std::int64_t>(values.size())}, values, device);
}

static_assert(!std::is_copy_constructible_v<Parameter> && !std::is_copy_assignable_v<Parameter>);
static_assert(!std::is_copy_constructible_v<Buffer> && !std::is_copy_assignable_v<Buffer>);
static_assert(std::is_nothrow_move_constructible_v<Parameter> && std::is_nothrow_move_constructible_v<Buffer>);

}  // namespace

TEST_CASE("shapes", "[tensor]") {
  const Shape shape{2, 3, 5};
  CHECK(shape.rank() == 3);
  CHECK(shape.size() == 30);
  CHECK(shape == Shape(std::vector<std::int64_t>{2, 3, 5}));
  CHECK_FALSE(shape == Shape{2, 3, 5, 1});
  CHECK(Shape().size() == 1);
  CHECK((Shape{4, 0}).size() == 0);
  CHECK(concat_text(shape, Shape()) == "[2, 3, 5][]");
  CHECK_THAT(error_of([] { Shape{1, 2, 3, 4, 5}; }), StartsWith("shape: "));
  CHECK_THAT(error_of([] { Shape{2, -1}; }), StartsWith("shape: "));
}

TEST_CASE("values come back from every layout in logical order", "[tensor]") {
  for (const DeviceType device : test_devices()) {
    for (const Nchw& d : image_cases()) {
      const std::vector<float> values = normal_values(d.size(), 1);
      CHECK(same_bits(Tensor::from_host(d.shape(), values, device).to_host(), values));
      CHECK(same_bits(Tensor::plain_from_host(d.shape(), values, device).to_host(), values));
      CHECK(same_bits(Tensor::from_host(d.shape(), values, device).clone().to_host(), values));
    }
    const std::vector<float> values = normal_values(24, 1);
    for (const Shape& shape : {Shape{24}, Shape{4, 6}, Shape{2, 3, 4}})
      CHECK(same_bits(Tensor::from_host(shape, values, device).to_host(), values));
    CHECK(Tensor::full({2, 8, 3, 3}, 2.5f, device).to_host() == std::vector<float>(144, 2.5f));
    CHECK(Tensor::from_host({0, 8, 3, 3}, {}, device).to_host().empty());
    CHECK_THAT(error_of([&] { Tensor::from_host({5}, values, device); }), Contains("[5]") && Contains("24"));
    CHECK_THAT(error_of([&] { Tensor().to_host(); }), StartsWith("to_host: "));
  }
}

TEST_CASE("an image's memory is blocked as its dimensions say, plain memory is row-major", "[tensor]") {
  const Nchw d{2, 32, 3, 5};
  const std::vector<float> values = normal_values(d.size(), 1);
  const Tensor image = Tensor::from_host(d.shape(), values), plain = Tensor::plain_from_host(d.shape(), values);
  CHECK(image.block() > 1);
  CHECK(d.c % image.block() == 0);
  CHECK(plain.block() == 1);
  const ImageDims dims = image.image_dims();
  const std::int64_t b = image.block();
  for_each(d, [&](auto n, auto c, auto y, auto x) {
    const float value = values[d.at(n, c, y, x)];
    const std::int64_t at = (((n * (32 / b) + c / b) * 3 + y) * 5 + x) * b + c % b;
    REQUIRE(image.data()[at] == value);
    REQUIRE(dims.index(n, c, y, x) == at);
    REQUIRE(plain.data()[d.at(n, c, y, x)] == value);
  });
  for (const std::int64_t channels : {1, 3, 5, 20}) CHECK(Tensor::empty({1, channels, 2, 2}).block() == 1);
  CHECK(empty_like(image).block() == image.block());
  CHECK(empty_like(plain).block() == 1);
  CHECK_THAT(error_of([] { Tensor::empty({3, 4}).image_dims(); }), Contains("[3, 4]"));
}

TEST_CASE("layout conversion knows every block", "[tensor]") {
  Backend& backend = backend_of(DeviceType::cpu);
  const std::vector<float> plain = normal_values(3 * 32 * 7 * 5, 1);
  for (const std::int64_t block : {1, 8, 16, 32}) {
    const ImageDims dims{3, 32, 7, 5, block};
    std::vector<float> image(plain.size()), back(plain.size());
    backend.plain_to_image(dims, plain.data(), image.data());
    backend.image_to_plain(dims, image.data(), back.data());
    CHECK(same_bits(back, plain));
    CHECK(image[static_cast<std::size_t>(dims.index(2, 17, 6, 3))] == plain[((2 * 32 + 17) * 7 + 6) * 5 + 3]);
  }
}

TEST_CASE("copies share their memory, clones do not", "[tensor]") {
  for (const DeviceType device : test_devices()) {
    const Tensor a = vector_of({1, 2, 3}, device), shared = a, clone = a.clone();
    a.copy_from_host(std::vector<float>{4, 5, 6});
    CHECK(shared.to_host() == std::vector<float>{4, 5, 6});
    CHECK(clone.to_host() == std::vector<float>{1, 2, 3});
  }
}

TEST_CASE("views keep their memory or refuse", "[tensor]") {
  for (const DeviceType device : test_devices()) {
    const Tensor matrix = random_tensor({4, 6}, device, 1);
    CHECK(same_bits(matrix.viewed_as({24}), matrix));
    CHECK(matrix.viewed_as({24}).data() == matrix.data());
    const Tensor pooled = random_tensor({2, 8, 1, 1}, device, 1);  // one pixel: blocked and plain agree
    CHECK(same_bits(pooled.viewed_as({2, 8}), pooled));
    CHECK(same_bits(pooled.viewed_as({2, 8}).viewed_as({2, 8, 1, 1}), pooled));
    CHECK_THAT(error_of([&] { matrix.viewed_as({5, 5}); }), StartsWith("view: "));
    if (device == DeviceType::cpu)
      CHECK_THAT(error_of([&] {
                   random_tensor({2, 16, 3, 3}, device, 1).viewed_as({2, 144});
                 }),
                 StartsWith("view: ") && Contains("flatten"));
  }
}

TEST_CASE("item and backward want one element", "[tensor]") {
  for (const DeviceType device : test_devices()) {
    CHECK(vector_of({2.5f}, device).item() == 2.5f);
    CHECK(Tensor::full({1, 1, 1, 1}, 3, device).item() == 3.0f);
    CHECK_THAT(error_of([&] { vector_of({1, 2}, device).item(); }), StartsWith("item: ") && Contains("[2]"));
    CHECK_THAT(error_of([] { Tensor().item(); }), StartsWith("item: "));
    CHECK_THAT(error_of([&] {
                 relu(leaf(vector_of({1, 2}, device))).backward();
               }),
               StartsWith("backward: ") && Contains("[2]"));
    CHECK_THAT(error_of([] { Tensor().backward(); }), StartsWith("backward: "));
  }
}

TEST_CASE("gradients of a tensor that is used several times add up", "[autograd]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = leaf(vector_of({1, -2, 3}, device));
    const Tensor cotangent = vector_of({1, 10, 100}, device);
    backward({{x * x + 3.0f * x + x, cotangent}});  // 2 x + 4
    CHECK(x.grad().to_host() == std::vector<float>{6, 0, 1000});
    backward({{2.0f * x, cotangent}});  // and across backward passes, until zero_grad
    CHECK(x.grad().to_host() == std::vector<float>{8, 20, 1200});
    x.zero_grad();
    CHECK_FALSE(x.grad().defined());
    backward({{2.0f * x, cotangent}});
    CHECK(x.grad().to_host() == std::vector<float>{2, 20, 200});
  }
}

TEST_CASE("diamonds pass each node once", "[autograd]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = leaf(vector_of({2}, device));
    Tensor y = x;
    for (int i = 0; i < 20; ++i) y = y + y;  // a million paths
    y.backward();
    CHECK(x.grad().item() == 1048576.0f);

    const Tensor a = leaf(vector_of({3}, device));
    const Tensor b = a * a, c = 2.0f * b, d = b * c;  // 2 a^4: every branch must arrive before b passes on
    d.backward();
    CHECK(a.grad().item() == 216.0f);
  }
}

TEST_CASE("the gradient that an addition shares is not overwritten", "[autograd]") {
  for (const DeviceType device : test_devices()) {
    const Tensor cotangent = vector_of({1, 2}, device);
    {
      const Tensor a = leaf(vector_of({5, 6}, device));
      backward({{a + a, cotangent}});
      CHECK(a.grad().to_host() == std::vector<float>{2, 4});
    }
    const Tensor a = leaf(vector_of({5, 6}, device)), b = leaf(vector_of({7, 8}, device));
    backward({{a + b, cotangent}});  // a and b hold the same buffer now, which is the caller's too
    backward({{10.0f * a, cotangent}});
    CHECK(a.grad().to_host() == std::vector<float>{11, 22});
    CHECK(b.grad().to_host() == std::vector<float>{1, 2});
    CHECK(cotangent.to_host() == std::vector<float>{1, 2});

    const Tensor kept = a.grad();  // a gradient that the caller keeps stays what it was
    backward({{a + b, cotangent}});
    CHECK(kept.to_host() == std::vector<float>{11, 22});
    CHECK(a.grad().to_host() == std::vector<float>{12, 24});

    // Within one pass: the sum's gradient goes to both, and one of them gets more afterwards.
    const Tensor p = leaf(vector_of({1, 1}, device)), q = leaf(vector_of({1, 1}, device));
    const Tensor left = 1.0f * p, right = 1.0f * q;
    backward({{(left + right) + 5.0f * left, cotangent}});
    CHECK(p.grad().to_host() == std::vector<float>{6, 12});
    CHECK(q.grad().to_host() == std::vector<float>{1, 2});
  }
}

TEST_CASE("gradients of leaves are those of all passes, whatever waits for the sum", "[autograd]") {
  for (const DeviceType device : test_devices()) {
    std::vector<Tensor> leaves;
    for (unsigned i = 0; i < 5; ++i) leaves.push_back(leaf(random_tensor({1000 + 100 * i}, device, i)));
    // So large that it is not kept waiting.
    leaves.push_back(leaf(Tensor::full({9'000'000}, 0.5f, device)));
    for (int pass = 0; pass < 2; ++pass) {
      std::vector<std::pair<Tensor, Tensor>> roots;
      for (const Tensor& x : leaves) {
        const Tensor y = 3.0f * x + 4.0f * x + 2.0f * x;
        roots.emplace_back(y, Tensor::full(x.shape(), 1, device));
      }
      backward(roots);
    }
    for (const Tensor& x : leaves)
      CHECK(x.grad().to_host() == std::vector<float>(static_cast<std::size_t>(x.size()), 18.0f));
  }
}

TEST_CASE("a gradient that somebody else sees is not taken over", "[autograd]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = leaf(random_tensor({1, 8, 5, 6}, device, 1)), cotangent = random_tensor({1, 8, 7, 8}, device, 2),
                 other = random_tensor({1, 8, 5, 6}, device, 3);
    const std::vector<float> before = other.to_host();
    const auto gradient = [&](auto roots_of) {
      x.zero_grad();
      backward(roots_of(1.0f * x));
      return x.grad().to_host();
    };
    // The root's cotangent is the caller's.
    const std::vector<float> both = gradient([&](const Tensor& y) {
      return std::vector<std::pair<Tensor, Tensor>>{{y, other}, {reflection_pad2d(y, 1), cotangent}};
    });
    CHECK(same_bits(other.to_host(), before));
    std::vector<float> sum = gradient([&](const Tensor& y) {
      return std::vector<std::pair<Tensor, Tensor>>{{reflection_pad2d(y, 1), cotangent}};
    });
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += before[i];
    CHECK(relative_error(both, sum) <= 1e-6);
  }
}

TEST_CASE("backward from several roots", "[autograd]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = leaf(vector_of({1, 2}, device));
    const Tensor y = x * x, z = 3.0f * y;  // one root depends on the other
    backward({{y, vector_of({1, 10}, device)}, {z, vector_of({100, 1000}, device)}, {y, vector_of({0, 5}, device)}});
    CHECK(x.grad().to_host() == std::vector<float>{602, 12060});
    backward({{x, vector_of({1, 1}, device)}});  // a leaf may be a root
    CHECK(x.grad().to_host() == std::vector<float>{603, 12061});
  }
}

TEST_CASE("backward refuses what it cannot do", "[autograd]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = leaf(vector_of({1}, device));
    CHECK_THAT(error_of([&] { vector_of({1}, device).backward(); }), StartsWith("backward: "));
    CHECK_THAT(error_of([&] { x.detach().backward(); }), StartsWith("backward: "));
    CHECK_THAT(error_of([&] {
                 backward({{relu(x), vector_of({1, 2}, device)}});
               }),
               StartsWith("backward: ") && Contains("[2]"));
    CHECK_THAT(error_of([&] { backward({{relu(x), Tensor()}}); }), StartsWith("backward: "));
    const Tensor image = leaf(random_tensor({1, 16, 2, 2}, device, 1));
    CHECK_THAT(error_of([&] {
                 backward({{relu(image), random_plain({1, 16, 2, 2}, device, 2)}});
               }),
               StartsWith("backward: "));

    const Tensor y = sigmoid(x), loss = tanh(y);
    loss.backward();
    const float once = x.grad().item();
    CHECK_THAT(error_of([&] { loss.backward(); }), StartsWith("backward: ") && Contains("tanh"));
    CHECK_THAT(error_of([&] { relu(y).backward(); }), StartsWith("backward: ") && Contains("sigmoid"));
    CHECK(x.grad().item() == once);  // a refused backward adds nothing
    CHECK_THAT(error_of([&] { Tensor(loss).set_requires_grad(true); }), Contains("tanh"));
  }
}

TEST_CASE("detach, NoGrad and Frozen cut the graph where they should", "[autograd]") {
  for (const DeviceType device : test_devices()) {
    const Tensor x = leaf(vector_of({3}, device));
    (x * x.detach()).backward();  // the second factor counts as a constant
    CHECK(x.grad().item() == 3.0f);
    CHECK(x.detach().data() == x.data());
    {
      const NoGrad outer;
      CHECK_FALSE(grad_enabled());
      { const NoGrad inner; }
      CHECK_FALSE(grad_enabled());
      CHECK_FALSE(relu(x).requires_grad());
      std::thread([&] { CHECK(relu(x).requires_grad()); }).join();  // other threads record on
    }
    CHECK(grad_enabled());
    CHECK(relu(x).requires_grad());

    Parameter frozen_weight(vector_of({5}, device)), weight(vector_of({7}, device));
    Tensor y;
    {
      const Frozen frozen({&frozen_weight});
      CHECK_FALSE((frozen_weight.tensor() * vector_of({1}, device)).requires_grad());
      y = frozen_weight.tensor() * (weight.tensor() * weight.tensor());
    }
    CHECK(frozen_weight.tensor().requires_grad());
    y.backward();  // decided when recorded: thawing afterwards changes nothing
    CHECK_FALSE(frozen_weight.tensor().grad().defined());
    CHECK(weight.tensor().grad().item() == 70.0f);
  }
}

TEST_CASE("frozen layers compute no gradient of their own and pass the rest on", "[autograd]") {
  for (const DeviceType device : test_devices()) {
    Parameter w(random_plain({8, 8, 3, 3}, device, 1)), b(random_tensor({8}, device, 2));
    const Tensor x = random_tensor({1, 8, 7, 7}, device, 3), cotangent = random_tensor({1, 8, 5, 5}, device, 4);
    const auto input_gradient = [&] {
      const Tensor input = leaf(x);
      backward({{conv2d(input, w, b), cotangent}});
      return input.grad();
    };
    const Tensor expected = input_gradient();
    CHECK(w.tensor().grad().defined());
    w.tensor().zero_grad();
    b.tensor().zero_grad();
    const Frozen frozen({&w, &b});
    CHECK(same_bits(input_gradient(), expected));
    CHECK_FALSE(w.tensor().grad().defined());
    CHECK_FALSE(b.tensor().grad().defined());
  }
}

TEST_CASE("an operation of one's own joins the graph", "[autograd]") {
  for (const DeviceType device : test_devices()) {
    const Tensor a = leaf(vector_of({2}, device)), b = vector_of({5}, device);
    std::vector<bool> needed;
    const auto first = [&](const Tensor& y) {
      return record("first", y, {a, b, Tensor()}, [&](const Tensor& gy, const Needs& needs) -> Grads {
        needed = {needs[0], needs[1], needs[2]};
        return {7.0f * gy, Tensor(), Tensor()};
      });
    };
    first(a.clone()).backward();
    CHECK(needed == std::vector<bool>{true, false, false});
    CHECK(a.grad().item() == 7.0f);

    const Tensor wrong =
        record("wrong", a.clone(), {a, b}, [](const Tensor& gy, const Needs&) -> Grads { return {gy}; });
    CHECK_THAT(error_of([&] { wrong.backward(); }), StartsWith("backward: wrong "));
  }
}

TEST_CASE("backward frees the memory of the graph as it goes", "[autograd]") {
  for (const DeviceType device : test_devices()) {
    const std::size_t before = pool_stats(device).in_use;
    {
      const Tensor x = leaf(random_tensor({1, 8, 64, 64}, device, 1));
      Tensor y = x;
      for (int i = 0; i < 10; ++i) y = sigmoid(y);
      const Tensor loss = mean(y);
      y = Tensor();
      const std::size_t recorded = pool_stats(device).in_use;
      loss.backward();
      // Left: x, its gradient, the loss.
      CHECK(pool_stats(device).in_use <= before + 2 * 131072 + 1024);
      CHECK(recorded >= before + 11 * 131072);
    }
    CHECK(pool_stats(device).in_use == before);
  }
}

TEST_CASE("a training loop asks the device for memory in its first iteration only", "[pool]") {
  for (const DeviceType device : test_devices()) {
    const std::size_t before = pool_stats(device).in_use;
    {
      Parameter w1(random_plain({8, 3, 3, 3}, device, 1)), b1(random_tensor({8}, device, 2));
      Parameter w2(random_plain({3, 8, 3, 3}, device, 3));
      Adam adam({&w1, &b1, &w2}, {.lr = 1e-3});
      const Tensor x = random_tensor({2, 3, 20, 20}, device, 4);
      float first = 0, last = 0;
      std::size_t allocations = 0, in_use = 0;
      for (int i = 0; i < 20; ++i) {
        adam.zero_grad();
        const Tensor h = instance_norm(conv2d(reflection_pad2d(x, 1), w1, b1), {.relu = true});
        const Tensor loss = mse_loss(tanh(conv2d(h, w2)), 0.5f);
        loss.backward();
        adam.step();
        last = loss.item();
        if (i == 0) {
          first = last;
          allocations = pool_stats(device).device_allocations;
          in_use = pool_stats(device).in_use;
        }
        CHECK(pool_stats(device).device_allocations == allocations);
        CHECK(pool_stats(device).in_use == in_use);
      }
      CHECK(last < first);
    }
    const PoolStats after = pool_stats(device);
    CHECK(after.in_use == before);
    CHECK(after.held >= after.in_use);
    CHECK(after.peak_in_use > before);
    trim_pool(device);
    CHECK(pool_stats(device).held == pool_stats(device).in_use);
  }
}

TEST_CASE("the pool reuses buffers of a size class", "[pool]") {
  for (const DeviceType device : test_devices()) {
    void* memory = nullptr;
    std::size_t size = pool_stats(device).in_use;
    {
      const Storage storage(device, 100'000);
      size = pool_stats(device).in_use - size;  // of the class, where there are any
      memory = storage.data();
      CHECK(reinterpret_cast<std::uintptr_t>(memory) % 64 == 0);
      CHECK(storage.unique());
      const Storage shared = storage;
      CHECK_FALSE(storage.unique());
    }
    const std::size_t allocations = pool_stats(device).device_allocations;
    const Storage again(device, size);
    CHECK(again.data() == memory);
    CHECK(pool_stats(device).device_allocations == allocations);
    const Storage other(device, size);
    CHECK(other.data() != memory);
  }
}

TEST_CASE("threads may hammer the pool", "[pool]") {
  for (const DeviceType device : test_devices()) {
    const PoolStats before = pool_stats(device);
    std::array<int, 4> damaged{};
    std::vector<std::thread> threads;
    for (unsigned id = 0; id < damaged.size(); ++id)
      threads.emplace_back([&, id] {
        std::mt19937 engine(id);
        std::vector<std::pair<Tensor, float>> held;
        for (int i = 0; i < 1000; ++i) {
          const float value = static_cast<float>(1000 * id) + static_cast<float>(i % 997);
          held.emplace_back(Tensor::full({static_cast<std::int64_t>(engine() % 3000 + 1)}, value, device), value);
          if (held.size() < 20) continue;
          const std::size_t victim = engine() % held.size();
          for (const float element : held[victim].first.to_host()) damaged[id] += element != held[victim].second;
          held.erase(held.begin() + static_cast<std::ptrdiff_t>(victim));
          if (i % 250 == 0) trim_pool(device);
        }
      });
    for (std::thread& thread : threads) thread.join();
    CHECK(damaged == std::array<int, 4>{});
    const PoolStats after = pool_stats(device);
    CHECK(after.in_use == before.in_use);
    CHECK(after.held >= after.in_use);
  }
}

TEST_CASE("results do not depend on the number of threads", "[tensor]") {
  const auto run = [](int threads) {
    omp_set_num_threads(threads);
    std::vector<std::vector<float>> results;
    for (const Nchw& d : {Nchw{2, 3, 67, 131}, Nchw{1, 16, 65, 67}}) {
      const Tensor x = leaf(random_tensor(d.shape(), DeviceType::cpu, 1)),
                   s = leaf(random_tensor({d.c}, DeviceType::cpu, 2));
      const Tensor rho = leaf(Tensor::full({1, d.c, 1, 1}, 0.3f)),
                   gamma = leaf(random_tensor({d.n, d.c}, DeviceType::cpu, 3)),
                   beta = leaf(random_tensor({d.n, d.c}, DeviceType::cpu, 4));
      const Tensor padded = reflection_pad2d(upsample_nearest(x), 3);
      const Tensor normed = layer_instance_norm(instance_norm(padded), rho, gamma, beta, {.relu = true}, padded);
      const Tensor both = concat(scale_channels(normed, s), tanh(normed));
      const Tensor pooled = global_mean_max(both);
      for (const Tensor& loss : {mse_loss(both, 1), bce_with_logits_loss(sum_channels(both), 1), mean(pooled * pooled)})
        results.push_back(loss.to_host());
      backward({{both, random_like(both, 5)}, {pooled, random_like(pooled, 6)}});
      for (const Tensor& tensor : {x, s, rho, gamma, beta}) results.push_back(tensor.grad().to_host());
    }
    Parameter w(random_plain({64, 300, 3, 3}, DeviceType::cpu, 8));
    Buffer u(random_tensor({64}, DeviceType::cpu, 9)), v(random_tensor({2700}, DeviceType::cpu, 10));
    const Tensor normalised = spectral_norm(w, u, v, true);
    backward({{normalised, random_like(normalised, 11)}});
    Adam adam({&w}, {});
    adam.step();
    for (const Tensor& tensor : {normalised, u.tensor(), v.tensor(), w.tensor().grad(), w.tensor()})
      results.push_back(tensor.to_host());
    return results;
  };
  const int threads = omp_get_max_threads();
  const auto one = run(1), two = run(2), five = run(5);
  omp_set_num_threads(threads);
  REQUIRE(one.size() == two.size());
  for (std::size_t i = 0; i < one.size(); ++i) {
    INFO("result " << i);
    CHECK(same_bits(one[i], two[i]));
    CHECK(same_bits(one[i], five[i]));
  }
}
