// The backend that times every call: it changes no result, and counts what it says it counts.
#include <algorithm>

#include "apps/op_profile.h"
#include "apps/profile_table.h"
#include "core/ops.h"
#include "models/ugatit.h"
#include "tests/test_util.h"

using namespace minidl;
using namespace test;
using Catch::Matchers::Contains;

namespace {

// What f returns with every call timed into `profile`.
template <class F>
auto timed(OpProfile& profile, F f) {
  const auto backend = timed_backend(backend_of(DeviceType::cpu), profile);
  const ReplacedBackend replaced(DeviceType::cpu, *backend);
  return f();
}

const OpRecord& record_of(const std::vector<OpRecord>& records, const std::string& op) {
  const auto found = std::find_if(records.begin(), records.end(), [&](const OpRecord& r) { return r.op == op; });
  REQUIRE(found != records.end());
  return *found;
}

// All values of a model after an iteration, and the losses.
std::vector<std::vector<float>> trained() {
  Random random(3);
  Ugatit model(random, {.channels = 4, .residual_blocks = 1, .image_size = 96, .light = true});
  UgatitTrainer trainer(model, {});
  std::vector<std::vector<float>> values;
  const UgatitLosses losses = trainer.step(random_tensor({1, 3, 96, 96}, DeviceType::cpu, 1),
                                           random_tensor({1, 3, 96, 96}, DeviceType::cpu, 2));
  values.push_back({losses.discriminator, losses.generator});
  for (const StateEntry& entry : state_of(model)) values.push_back(entry.tensor->to_host());
  return values;
}

// What training leaves out.
std::vector<std::vector<float>> other_operations() {
  std::vector<std::uint8_t> bytes(3 * 3 * 5);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(5 * i);
  const Tensor image = images_to_tensor(bytes, 1, 3, 5, 3, DeviceType::cpu);
  const Tensor a = leaf(random_tensor({1, 16, 3, 5}, DeviceType::cpu, 1)), b = leaf(random_like(a, 2));
  (mean(concat(a * b, 2.0f * b)) + mean(sigmoid(sum_channels(a))) + mean(flatten(upsample_nearest(b)))).backward();
  const Tensor factor = Tensor::full({1}, 3), scaled = empty_like(a);
  backend_of(DeviceType::cpu).scale_by(a.size(), factor.data(), a.data(), scaled.data());
  const Tensor w = leaf(random_plain({4, 7}, DeviceType::cpu, 3));
  Buffer u(random_tensor({4}, DeviceType::cpu, 4)), v(random_tensor({7}, DeviceType::cpu, 5));
  mean(spectral_norm(w, u, v, true)).backward();
  return {image.to_host(),    w.grad().to_host(), a.grad().to_host(),
          b.grad().to_host(), scaled.to_host(),   a.clone().to_host()};
}

void check_same_bits(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(same_bits(a[i], b[i]));
}

}  // namespace

TEST_CASE("timing changes no bit", "[profile]") {
  OpProfile profile;
  check_same_bits(timed(profile, trained), trained());
  check_same_bits(timed(profile, other_operations), other_operations());
  // Every operation of the contract was among them; a new one belongs above.
  CHECK(summed_over_shapes(profile.records()).size() == 44);
}

TEST_CASE("a profile counts calls, operations and bytes", "[profile]") {
  OpProfile profile;
  const Tensor x = leaf(random_tensor({2, 8, 9, 7}, DeviceType::cpu, 1));
  const Tensor w = leaf(random_plain({16, 8, 3, 3}, DeviceType::cpu, 2));
  timed(profile, [&] {
    const Tensor y = conv2d(x, w, {}, {.stride = 2, .padding = 1});
    conv2d(x, w);
    backward({{y, random_like(y, 3)}});
    linear(random_tensor({2, 8}, DeviceType::cpu, 4), random_tensor({3, 8}, DeviceType::cpu, 5));
    relu(x);
    return 0;
  });
  const std::vector<OpRecord> records = profile.records();
  const double output = 2 * 16 * 5 * 4, input = 2 * 8 * 9 * 7, weights = 16 * 8 * 9;
  for (const char* op : {"conv_backward_data", "conv_backward_weights"}) {
    const OpRecord& record = record_of(records, op);
    CHECK(record.shape == "2x8x9x7 to 16, 3x3, stride 2, padding 1");
    CHECK(record.calls == 1);
    CHECK(record.flops == 2 * output * 8 * 9);
    CHECK(record.bytes == 4 * (input + weights + output));
    CHECK(record.seconds > 0);
  }
  const OpRecord linear_record = record_of(records, "linear_forward");
  CHECK(linear_record.flops == 2 * 2 * 8 * 3);
  CHECK(linear_record.bytes == 4 * (2 * 8 + 8 * 3 + 2 * 3));
  CHECK(record_of(records, "activation_forward").flops == 0);
  CHECK(record_of(records, "activation_forward").bytes == 4 * 2 * input);

  const std::vector<OpRecord> sums = summed_over_shapes(records);
  const OpRecord& both = record_of(sums, "conv_forward");
  CHECK(both.shape == "2 shapes");
  CHECK(both.calls == 2);
  CHECK(both.flops == 2 * (output + 2 * 16 * 7 * 5) * 8 * 9);

  profile.clear();
  CHECK(profile.records().empty());
}

TEST_CASE("tensor_to_image fetches one image of a batch, not all", "[profile]") {
  OpProfile profile;
  const Tensor x = random_tensor({4, 3, 5, 7}, DeviceType::cpu, 1);
  timed(profile, [&] { return tensor_to_image(x, 2); });
  CHECK(record_of(profile.records(), "download").shape == "420 bytes");
}

TEST_CASE("a replaced backend comes back, and scopes nest", "[profile]") {
  Backend& own = backend_of(DeviceType::cpu);
  OpProfile outer_profile, inner_profile;
  const auto outer = timed_backend(own, outer_profile), inner = timed_backend(*outer, inner_profile);
  {
    const ReplacedBackend outer_scope(DeviceType::cpu, *outer);
    {
      const ReplacedBackend inner_scope(DeviceType::cpu, *inner);
      CHECK(&backend_of(DeviceType::cpu) == inner.get());
      Tensor::full({3}, 1);
    }
    CHECK(&backend_of(DeviceType::cpu) == outer.get());
  }
  CHECK(&backend_of(DeviceType::cpu) == &own);
  CHECK(outer_profile.records().size() == inner_profile.records().size());
  if (test_devices().size() == 1) CHECK_THAT(error_of([] { backend_of(DeviceType::cuda); }), Contains("cuda"));
}

TEST_CASE("a profile's table is sorted by share and accounts for all time", "[profile]") {
  OpProfile profile;
  for (int i = 0; i < 4; ++i) profile.add("conv_forward", "big", 0.1, 5e9, 1e9);
  profile.add("add", "small", 0.2, 0, 2e9);
  CHECK(profile_table(profile.records(), 2, 1.0, {.flops = 1e11, .bytes = 2e10, .vectors = "AVX2"}) ==
        "| op           | shape | calls |     ms | GFLOP/s | GB/s | of peak |    share |\n"
        "|--------------|-------|------:|-------:|--------:|-----:|--------:|---------:|\n"
        "| conv_forward | big   |     2 | 200.00 |    50.0 | 10.0 |    50 % |  40.00 % |\n"
        "| other        |       |       | 200.00 |         |      |         |  40.00 % |\n"
        "| add          | small |   0.5 | 100.00 |         | 10.0 |    50 % |  20.00 % |\n"
        "| all          |       |   2.5 | 500.00 |         |      |         | 100.00 % |\n");
}
