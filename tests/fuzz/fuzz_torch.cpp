// PyTorch's files, zip and older.
#include "core/torch_file.h"

#include "tests/fuzz/checkpoint_target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::use_checkpoint({data, size}, [](const auto& path) { return std::make_unique<minidl::TorchFile>(path); });
  return 0;
}
