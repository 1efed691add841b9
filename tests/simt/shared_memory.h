// The shared memory of the running block: all variables that are declared __shared__, full of NaN when a block begins.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace simt {

class SharedMemory {
 public:
  explicit SharedMemory(const std::string& kernel);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  void before_block();
  void after_block();

 private:
  void learn();

  std::vector<bool>& used_;  // variables that the kernel has been seen to write
  int blocks_ = 0;
};

}  // namespace simt
