#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>

#include "core/check.h"
#include "core/ordered_pipeline.h"

using namespace minidl;

namespace {

using Pipeline = OrderedPipeline<std::string>;

// Jobs 0, 1, ... count - 1; each takes a different time, so that they finish out of order.
Pipeline::Source numbered(int count) {
  return [i = 0, count]() mutable -> std::optional<Pipeline::Job> {
    if (i == count) return std::nullopt;
    return [number = i++] {
      std::this_thread::sleep_for(std::chrono::microseconds((number * 7919) % 5 * 200));
      return std::to_string(number);
    };
  };
}

}  // namespace

TEST_CASE("pipeline: results in the source's order for any number of threads and any capacity", "[pipeline]") {
  for (int threads : {1, 2, 5})
    for (int capacity : {1, 3, 20}) {
      CAPTURE(threads, capacity);
      Pipeline pipeline({.threads = threads, .capacity = capacity}, numbered(60));
      for (int i = 0; i < 60; ++i) REQUIRE(pipeline.next() == std::to_string(i));
      CHECK(pipeline.next() == std::nullopt);
      CHECK(pipeline.next() == std::nullopt);
    }
}

TEST_CASE("pipeline: an empty source ends at once", "[pipeline]") {
  Pipeline pipeline({.threads = 3, .capacity = 2}, numbered(0));
  CHECK(pipeline.next() == std::nullopt);
}

TEST_CASE("pipeline: the exception of a job comes in its place, the others follow", "[pipeline]") {
  Pipeline pipeline({.threads = 3, .capacity = 6}, [i = 0]() mutable -> std::optional<Pipeline::Job> {
    if (i == 6) return std::nullopt;
    return [number = i++]() -> std::string {
      if (number == 2) throw std::runtime_error("job 2");
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      return std::to_string(number);
    };
  });
  CHECK(pipeline.next() == "0");
  CHECK(pipeline.next() == "1");
  CHECK_THROWS_WITH(pipeline.next(), "job 2");
  for (const char* expected : {"3", "4", "5"}) CHECK(pipeline.next() == expected);
  CHECK(pipeline.next() == std::nullopt);
}

TEST_CASE("pipeline: the exception of the source comes after the jobs before it and is the end", "[pipeline]") {
  Pipeline pipeline({.threads = 2, .capacity = 4}, [i = 0]() mutable -> std::optional<Pipeline::Job> {
    if (i == 3) throw std::runtime_error("source");
    return [number = i++] { return std::to_string(number); };
  });
  for (const char* expected : {"0", "1", "2"}) CHECK(pipeline.next() == expected);
  CHECK_THROWS_WITH(pipeline.next(), "source");
  CHECK(pipeline.next() == std::nullopt);
}

TEST_CASE("pipeline: never more than its capacity is drawn ahead", "[pipeline]") {
  std::atomic<int> drawn = 0;
  Pipeline pipeline({.threads = 4, .capacity = 3}, [&drawn]() -> std::optional<Pipeline::Job> {
    ++drawn;
    return [] { return std::string(); };
  });
  for (int taken = 0; taken < 10; ++taken) {
    while (drawn < taken + 3) std::this_thread::yield();  // it gets that far, however busy the machine is,
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    CHECK(drawn == taken + 3);  // and no further
    pipeline.next();
  }
}

TEST_CASE("pipeline: jobs run at the same time", "[pipeline]") {
  // Each of two jobs waits for the other, which would never end if they ran one after the other.
  std::atomic<int> running = 0;
  Pipeline pipeline({.threads = 2, .capacity = 2}, [&running, i = 0]() mutable -> std::optional<Pipeline::Job> {
    if (i++ == 2) return std::nullopt;
    return [&running] {
      ++running;
      const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (running < 2 && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
      return std::string(running == 2 ? "together" : "alone");
    };
  });
  CHECK(pipeline.next() == "together");
  CHECK(pipeline.next() == "together");
}

TEST_CASE("pipeline: may be dropped while full, while working and right after the start", "[pipeline]") {
  const auto left = std::make_shared<int>();
  for (int delay = 0; delay < 6; ++delay) {
    Pipeline pipeline({.threads = 3, .capacity = 2}, [left]() -> std::optional<Pipeline::Job> {
      return [left] {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return std::string();
      };
    });
    if (delay > 0) pipeline.next();
    std::this_thread::sleep_for(std::chrono::milliseconds(delay));
  }
  CHECK(left.use_count() == 1);
}

TEST_CASE("pipeline: options must be positive", "[pipeline]") {
  CHECK_THROWS_AS(Pipeline({.threads = 0, .capacity = 1}, numbered(1)), Error);
  CHECK_THROWS_AS(Pipeline({.threads = 1, .capacity = 0}, numbered(1)), Error);
}
