// Stands in for models/onnx_export.cpp where libminidl is built without ONNX.
#include "core/check.h"
#include "models/onnx_export.h"

namespace minidl {

bool can_write_onnx() { return false; }

void write_onnx(const std::filesystem::path& file, Generator&, const std::string&, std::int64_t, std::int64_t) {
  fail("cannot write ", file.string(), ": this build of libminidl has no ONNX; build it with -DMINIDL_ONNX=ON");
}

}  // namespace minidl
