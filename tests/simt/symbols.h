// What the program's symbol table tells: the names of kernels and where their variables are.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace simt {

struct DeviceVariable {
  std::string name;  // with the function that it is in
  char* address;
  std::size_t bytes;
};

// Name of the function that starts at this address, without its parameters; its address as a number if unknown.
std::string function_name(const void* address);

// All variables that a __shared__ of this program declares, and all of a __device__, by address.
const std::vector<DeviceVariable>& shared_variables();
const std::vector<DeviceVariable>& global_variables();

}  // namespace simt
