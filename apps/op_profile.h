// What a computation spends its time on: a device backend that times every call, and the sums of what it saw.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"

namespace minidl {

// The calls of one operation on one shape, added up.
struct OpRecord {
  std::string op;     // the function of the contract
  std::string shape;  // and whatever else decides the work
  std::int64_t calls = 0;
  double seconds = 0;
  double flops = 0;  // of the direct algorithm, whatever the backend uses; 0 where memory is what limits
  double bytes = 0;  // the fewest that must be read and written: every input and output once
};

class OpProfile {
 public:
  virtual ~OpProfile() = default;
  // Before each call, and after it.
  virtual void begin() {}
  virtual void add(const std::string& op, const std::string& shape, double seconds, double flops, double bytes);
  std::vector<OpRecord> records() const;
  void clear() { records_.clear(); }

 private:
  std::map<std::pair<std::string, std::string>, OpRecord> records_;
};

// One record per operation; its shape says how many shapes there were.
std::vector<OpRecord> summed_over_shapes(const std::vector<OpRecord>& records);

// Forwards every call to `real` and records it in `profile`; both must outlive it. Calls must come from one thread at a
// time. A time is that until the call returns, which is all of it on devices that compute before they return.
std::unique_ptr<Backend> timed_backend(Backend& real, OpProfile& profile);

}  // namespace minidl
