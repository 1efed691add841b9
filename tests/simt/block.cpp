#include "tests/simt/block.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <vector>

#include "tests/simt/access.h"
#include "tests/simt/faults.h"
#include "tests/simt/fiber.h"
#include "tests/simt/settings.h"
#include "tests/simt/shared_memory.h"

SIMT_INDEX uint3 threadIdx, blockIdx;
SIMT_INDEX dim3 blockDim, gridDim;

namespace simt {
namespace {

constexpr int kMostThreads = 1024, kLanes = 32;

enum class State { fresh, running, barrier, warp, finished };

// What a thread waits for.
struct Wait {
  State state = State::fresh;
  Site site = {};
  Join join = Join::none;
  unsigned mask = 0;         // of a warp operation
  std::uint64_t value = 0;   // what it contributes
  int source = 0;            // the lane whose value it wants
  std::uint64_t result = 0;  // set when it may go on
  Fiber* fiber = nullptr;    // where it was left
};

// The block that runs. There is one at a time in the process, so these are plain variables; they are read at every
// barrier and warp operation.
const std::string* kernel_name = nullptr;
const Call* thread_call = nullptr;
int threads = 0;
uint3 positions[kMostThreads];
Wait waits[kMostThreads];
std::vector<int> order;  // in which threads start and go on
int started = 0;         // how many of `order`
int at_barrier = 0;
unsigned lanes_waiting[kMostThreads / kLanes];
std::vector<int> ready;  // threads that may go on; those before ready_begin have
std::size_t ready_begin = 0;
int current = 0;
Fiber* current_fiber = nullptr;
Fiber* main_fiber = nullptr;
std::deque<std::unique_ptr<Fiber>> fibers;
std::vector<Fiber*> idle_fibers;
bool stopped = false;
cudaError_t stop_error = cudaSuccess;
std::string stop_message;
std::mt19937_64 random_order;
thread_local bool on_kernel = false;

std::string text_of(uint3 v) {
  std::ostringstream text;
  text << '(' << v.x << ',' << v.y << ',' << v.z << ')';
  return text.str();
}

std::string text_of(const Site& site) {
  std::ostringstream text;
  const char* name = std::strrchr(site.file, '/');
  text << site.operation << " (" << (name ? name + 1 : site.file) << ':' << site.line << ')';
  return text.str();
}

bool same(const Site& a, const Site& b) {
  const auto same_text = [](const char* x, const char* y) { return x == y || std::strcmp(x, y) == 0; };
  return a.line == b.line && same_text(a.operation, b.operation) && same_text(a.file, b.file);
}

void make_current(int thread) {
  current = thread;
  note_thread(thread);
  threadIdx = positions[thread];
}

void thread_loop();

Fiber& fresh_fiber() {
  if (idle_fibers.empty()) {
    fibers.push_back(std::make_unique<Fiber>(&thread_loop));
    return *fibers.back();
  }
  Fiber& fiber = *idle_fibers.back();
  idle_fibers.pop_back();
  return fiber;
}

void switch_to(Fiber& to) {
  Fiber& from = *current_fiber;
  if (&from == &to) return;
  current_fiber = &to;
  from.switch_to(to);
}

// Goes on with a thread that is ready, or starts new ones, or goes back to run_block.
void leave(bool may_start) {
  if (ready_begin < ready.size()) {
    const int next = ready[ready_begin++];
    if (ready_begin == ready.size()) ready.clear(), ready_begin = 0;
    make_current(next);
    waits[next].state = State::running;
    switch_to(*waits[next].fiber);
  } else if (may_start && started < threads) {
    switch_to(fresh_fiber());
  } else {
    switch_to(*main_fiber);
  }
}

// What every fiber does: runs one thread after the other, on the same stack as long as none waits.
void thread_loop() {
  for (;;) {
    while (started < threads && ready_begin == ready.size()) {
      make_current(order[started++]);
      waits[current].state = State::running;
      try {
        thread_call->run();
      } catch (const Fault& fault) {
        stopped = true;
        stop_error = fault.error;
        stop_message = fault.what();
      }
      if (stopped) switch_to(*main_fiber);
      pause_checks();
      waits[current].state = State::finished;
    }
    idle_fibers.push_back(current_fiber);
    leave(false);
  }
}

// Leaves the current thread until its result is there.
void wait(State state) {
  Wait& w = waits[current];
  w.state = state;
  w.fiber = current_fiber;
  leave(true);
}

std::uint64_t joined(Join join, std::uint64_t sofar, std::uint64_t value, int lane) {
  switch (join) {
    case Join::all:
      return sofar && value;
    case Join::any:
      return sofar || value;
    case Join::count:
      return sofar + (value != 0);
    case Join::ballot:
      return sofar | (std::uint64_t{value != 0} << lane);
    case Join::none:
      break;
  }
  return 0;
}

void shuffle_order() {
  if (schedule() == Schedule::shuffled) std::shuffle(order.begin(), order.end(), random_order);
}

// Says why threads wait for ever, if any does.
void check_all_finished() {
  int waiting = -1, other = -1;
  for (int t = 0; t < threads; ++t)
    if (waits[t].state != State::finished && waiting < 0) waiting = t;
  if (waiting < 0) return;
  const Wait& w = waits[waiting];
  for (int t = 0; t < threads && other < 0; ++t) {
    if (w.state == State::warp && (t / kLanes != waiting / kLanes || !(w.mask >> (t % kLanes) & 1))) continue;
    if (waits[t].state == State::finished || !same(waits[t].site, w.site)) other = t;
  }
  std::ostringstream text;
  text << *kernel_name << ", block " << text_of(blockIdx) << ": thread " << text_of(positions[waiting]) << " waits at "
       << text_of(w.site);
  if (other >= 0 && waits[other].state == State::finished)
    text << " and thread " << text_of(positions[other]) << " has returned without it";
  else if (other >= 0)
    text << " and thread " << text_of(positions[other]) << " at " << text_of(waits[other].site);
  text << (w.state == State::barrier ? ": a barrier needs all threads of the block"
                                     : ": a warp operation needs all lanes of its mask");
  stopped = true;
  stop_error = cudaErrorLaunchFailure;
  stop_message = text.str();
}

// Not inlined, nor is stop_by_fault: what they build must not live in the frame that faults jump to.
[[gnu::noinline]] void run_block() {
  started = at_barrier = 0;
  ready.clear();
  ready_begin = 0;
  std::fill_n(lanes_waiting, kMostThreads / kLanes, 0u);
  for (int t = 0; t < threads; ++t) waits[t].state = State::fresh;
  shuffle_order();
  while (started < threads && !stopped) leave(true);
  if (!stopped) check_all_finished();
}

// After the jump out of a fault.
[[gnu::noinline]] void stop_by_fault() {
  Fiber::after_jump();
  pause_checks();
  stopped = true;
  stop_error = cudaErrorIllegalAddress;
  stop_message = running_thread() + ": " + FaultScope::message();
}

uint3 position(std::uint64_t i, dim3 extent) {
  return {static_cast<unsigned>(i % extent.x), static_cast<unsigned>(i / extent.x % extent.y),
          static_cast<unsigned>(i / extent.x / extent.y)};
}

}  // namespace

void run_grid(const std::string& kernel, dim3 grid, dim3 block, const Call& call) {
  kernel_name = &kernel;
  thread_call = &call;
  gridDim = grid;
  blockDim = block;
  threads = static_cast<int>(block.x * block.y * block.z);
  for (int t = 0; t < threads; ++t) positions[t] = position(static_cast<std::uint64_t>(t), block);
  order.resize(static_cast<std::size_t>(threads));
  std::iota(order.begin(), order.end(), 0);
  if (schedule() == Schedule::reverse) std::reverse(order.begin(), order.end());
  random_order.seed(schedule_seed());
  const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  // Blocks in shuffled order: a walk by a stride that has no factor in common with their number.
  std::uint64_t stride = 1, first = 0;
  if (schedule() == Schedule::shuffled) {
    first = random_order() % blocks;
    stride = random_order() % blocks;
    while (std::gcd(stride, blocks) != 1) ++stride;
  }
  thread_local Fiber host;
  main_fiber = current_fiber = &host;
  stopped = false;
  SharedMemory shared(kernel);
  begin_launch(call);
  on_kernel = true;
  const FaultScope faults;
  if (sigsetjmp(faults.target(), 1) == 0) {
    for (std::uint64_t b = 0; b < blocks && !stopped; ++b) {
      const std::uint64_t index = schedule() == Schedule::forward   ? b
                                  : schedule() == Schedule::reverse ? blocks - 1 - b
                                                                    : (first + b * stride) % blocks;
      blockIdx = position(index, grid);
      shared.before_block();
      begin_block();
      run_block();
      shared.after_block();
    }
  } else {
    stop_by_fault();
  }
  on_kernel = false;
  end_launch();
  kernel_name = nullptr;
  if (stopped) {
    idle_fibers.clear();
    for (const auto& fiber : fibers) fiber->restart(), idle_fibers.push_back(fiber.get());
    throw Fault(stop_error, stop_message);
  }
}

void stop(cudaError_t error, const std::string& message) {
  throw Fault(error, on_kernel ? running_thread() + ": " + message : message);
}

void abandon(cudaError_t error, const std::string& message) {
  stopped = true;
  stop_error = error;
  stop_message = running_thread() + ": " + message;
  switch_to(*main_fiber);
  __builtin_trap();
}

void before_fault_jump() {
  if (!on_kernel) return;
  main_fiber->before_jump_here();
  current_fiber = main_fiber;
}

bool in_kernel() { return on_kernel; }

std::string running_thread() {
  return *kernel_name + ", block " + text_of(blockIdx) + ", thread " + text_of(threadIdx);
}

bool on_own_stack(const void* address) { return current_fiber->contains(address); }

bool on_stack_guard(const void* address) { return on_kernel && current_fiber->guards(address); }

std::string thread_text(int thread) { return text_of(positions[thread]); }

int lane() { return current % kLanes; }

unsigned active_lanes() {
  unsigned mask = 0;
  const int first = current / kLanes * kLanes;
  for (int l = 0; l < kLanes && first + l < threads; ++l)
    if (waits[first + l].state != State::finished) mask |= 1u << l;
  return mask;
}

int block_barrier(const Site& site, Join join, int value) {
  pause_checks();
  Wait& w = waits[current];
  w.site = site;
  w.join = join;
  w.value = static_cast<std::uint64_t>(value != 0);
  if (++at_barrier < threads) {
    wait(State::barrier);
    return static_cast<int>(waits[current].result);
  }
  std::uint64_t result = join == Join::all;
  for (int t = 0; t < threads; ++t) {
    if (!same(waits[t].site, site))
      stop(cudaErrorLaunchFailure, "waits at " + text_of(site) + " while thread " + text_of(positions[t]) +
                                       " waits at " + text_of(waits[t].site) + ": a barrier needs all threads");
    result = joined(join, result, waits[t].value, 0);
  }
  at_barrier = 0;
  note_block_barrier();
  shuffle_order();
  for (const int t : order) {
    waits[t].result = result;
    ready.push_back(t);
  }
  wait(State::barrier);
  return static_cast<int>(result);
}

std::uint64_t warp_exchange(const Site& site, unsigned mask, Join join, std::uint64_t value, int source) {
  const int self = current % kLanes, warp = current / kLanes, first = warp * kLanes;
  pause_checks();
  Wait& w = waits[current];
  w.site = site;
  w.join = join;
  w.mask = mask;
  w.value = value;
  w.source = source;
  if (!(mask >> self & 1)) stop(cudaErrorLaunchFailure, text_of(site) + " with a mask that lacks the calling lane");
  if (!(mask >> source & 1) && join == Join::none)
    stop(cudaErrorLaunchFailure, text_of(site) + " reads a lane that is not in its mask");
  if (threads - first < kLanes && mask >> (threads - first))
    stop(cudaErrorLaunchFailure, text_of(site) + " with lanes in its mask that the block does not have");
  lanes_waiting[warp] |= 1u << self;
  if ((lanes_waiting[warp] & mask) == mask) {
    std::uint64_t result = join == Join::all;
    for (int l = 0; l < kLanes && mask >> l; ++l) {
      if (!(mask >> l & 1)) continue;
      const Wait& other = waits[first + l];
      if (other.mask != mask || !same(other.site, site))
        stop(cudaErrorLaunchFailure, "is at " + text_of(site) + " while thread " + text_of(positions[first + l]) +
                                         " of its mask waits at " + text_of(other.site) +
                                         (other.mask != mask ? " with another mask" : ""));
      if (join != Join::none) result = joined(join, result, other.value, l);
    }
    lanes_waiting[warp] &= ~mask;
    if (std::strcmp(site.operation, "__syncwarp") == 0) note_warp_barrier(warp);
    for (int l = 0; l < kLanes; ++l) {
      const int step = schedule() == Schedule::reverse ? kLanes - 1 - l : l;
      if (!(mask >> step & 1)) continue;
      Wait& other = waits[first + step];
      other.result = join == Join::none ? waits[first + other.source].value : result;
      ready.push_back(first + step);
    }
    if (schedule() == Schedule::shuffled)
      std::shuffle(ready.begin() + static_cast<std::ptrdiff_t>(ready_begin), ready.end(), random_order);
  }
  wait(State::warp);
  return waits[current].result;
}

}  // namespace simt
