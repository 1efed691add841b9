// Where the .cu files are compiled with -fsanitize=alignment,bounds, these functions are called (instead of those of
// UndefinedBehaviorSanitizer's library) for a misaligned vector access and for an index beyond a declared array, which
// access.cpp cannot see: it sees the parts of a vector one by one, and the variable behind the array.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/simt/block.h"
#include "tests/simt/memory.h"

namespace {

struct Location {
  const char* file;
  std::uint32_t line, column;
};

struct TypeMismatch {
  Location location;
  const void* type;
  unsigned char log_alignment, kind;
};

struct OutOfBounds {
  Location location;
  const void *array_type, *index_type;
};

void fail(cudaError_t error, const Location& location, const std::string& what) {
  const char* slash = std::strrchr(location.file, '/');
  const std::string text = what + " at " + (slash ? slash + 1 : location.file) + ":" + std::to_string(location.line);
  if (simt::in_kernel()) simt::abandon(error, text);
  std::fprintf(stderr, "simt: host code %s\n", text.c_str());
  std::abort();
}

}  // namespace

extern "C" {

void __ubsan_handle_type_mismatch_v1(const TypeMismatch* data, const void* pointer) {
  fail(cudaErrorMisalignedAddress, data->location,
       "needs an alignment of " + std::to_string(1 << data->log_alignment) + " bytes, but is misaligned at " +
           simt::describe_address(pointer));
}

void __ubsan_handle_out_of_bounds(const OutOfBounds* data, std::uintptr_t index) {
  fail(cudaErrorIllegalAddress, data->location,
       "uses index " + std::to_string(static_cast<std::intptr_t>(index)) + " of an array, out of bounds");
}
}
