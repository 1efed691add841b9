// Turns bad memory accesses of operations into errors of the device, and those of host code into a message and abort.
#pragma once

#include <csetjmp>
#include <string>

namespace simt {

// While one lives, an access of the calling OS thread to an address that it may not touch ends in a siglongjmp to
// target(), after which message() tells what it was. Scopes don't nest. Outside of them such an access ends the
// process.
class FaultScope {
 public:
  FaultScope();
  ~FaultScope();
  FaultScope(const FaultScope&) = delete;
  FaultScope& operator=(const FaultScope&) = delete;

  sigjmp_buf& target() const;
  static const std::string& message();
};

// Makes sure that faults of the process come here.
void watch_faults();

}  // namespace simt
