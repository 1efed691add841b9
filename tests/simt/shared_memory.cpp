#include "tests/simt/shared_memory.h"

#include <map>

#include "tests/simt/memory.h"
#include "tests/simt/symbols.h"

namespace simt {
namespace {

constexpr int kBlocksToLearnFrom = 4;

void poison(const DeviceVariable& v) { simt::poison(v.address, v.bytes); }

bool is_poisoned(const DeviceVariable& v) { return is_poison(v.address, v.bytes); }

// By kernel: which variables it writes.
std::vector<bool>& used_by(const std::string& kernel) {
  static std::map<std::string, std::vector<bool>> used;
  std::vector<bool>& result = used[kernel];
  result.resize(shared_variables().size());
  return result;
}

}  // namespace

SharedMemory::SharedMemory(const std::string& kernel) : used_(used_by(kernel)) {
  for (const DeviceVariable& v : shared_variables()) poison(v);
}

SharedMemory::~SharedMemory() { learn(); }

void SharedMemory::before_block() {
  for (std::size_t i = 0; i < used_.size(); ++i)
    if (used_[i]) poison(shared_variables()[i]);
}

void SharedMemory::after_block() {
  if (blocks_++ < kBlocksToLearnFrom) learn();
}

void SharedMemory::learn() {
  for (std::size_t i = 0; i < used_.size(); ++i)
    if (!used_[i] && !is_poisoned(shared_variables()[i])) used_[i] = true;
}

}  // namespace simt
