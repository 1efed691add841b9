// What state dicts are known to hold, against the networks themselves.
#include "models/state_shapes.h"

#include <catch2/catch.hpp>

#include "tests/test_util.h"

using namespace minidl;

TEST_CASE("the expected names and shapes are those of the networks, in order") {
  for (const UgatitOptions& options :
       {UgatitOptions{.channels = 2, .residual_blocks = 1, .image_size = 96, .light = true},
        UgatitOptions{.channels = 3, .residual_blocks = 4, .image_size = 100, .light = false},
        UgatitOptions{.image_channels = 1,
        .channels = 1,
        .residual_blocks = 2,
        .discriminator_depth = 4,
        .image_size = 32,
        .light = false}}) {
    Random random = Random::blank();
    Ugatit model(random, options);
    const auto state = state_of(model);
    std::size_t i = 0;
    for (const NetworkShapes& network : network_shapes(options))
      for (const NamedShape& entry : network.entries) {
        REQUIRE(i < state.size());
        CHECK(network.name + "." + entry.name == state[i].name);
        CHECK(entry.shape == state[i].tensor->shape().extents());
        ++i;
      }
    CHECK(i == state.size());
  }
}
