// Wrong on purpose: reads a byte behind the end of a file, which AddressSanitizer must see.
#include "core/file.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::MemoryFile memory({data, size});
  const minidl::MappedFile file(memory.path());
  return std::to_integer<int>(file.bytes().data()[size]);
}
