// What the oneDNN-based kernels share: engine, stream, descriptors of our layouts, and buffers for reordered operands.
#pragma once

#include <omp.h>

#include <dnnl.hpp>

#include "core/check.h"
#include "kernels/backend.h"
#include "kernels/cpu/loops.h"

namespace minidl::cpu {

inline const dnnl::engine& engine() {
  static const dnnl::engine instance(dnnl::engine::kind::cpu, 0);
  return instance;
}

inline dnnl::stream& stream() {
  thread_local dnnl::stream instance(engine());
  return instance;
}

// Runs f; what oneDNN throws becomes an Error that names the operation.
template <class F>
void guarded(const char* operation, F f) {
  try {
    f();
  } catch (const dnnl::error& error) {
    fail(operation, ": oneDNN failed: ", error.what(),
         error.status == dnnl_out_of_memory ? "; lower --batch_size, --img_size or --ch" : "");
  }
}

using Desc = dnnl::memory::desc;
using Tag = dnnl::memory::format_tag;

inline Desc plain_desc(dnnl::memory::dims dims, Tag tag) { return Desc(dims, dnnl::memory::data_type::f32, tag); }

inline Desc image_desc(const ImageDims& d) {
  const Tag tag = d.block == 1 ? Tag::nchw : d.block == 8 ? Tag::nChw8c : Tag::nChw16c;
  return plain_desc({d.n, d.c, d.h, d.w}, tag);
}

// The same values in bfloat16.
inline Desc bf16_twin(const Desc& desc) {
  Desc twin = desc;
  twin.data.data_type = dnnl_bf16;
  return twin;
}

inline dnnl::memory memory_of(const Desc& desc, const float* data) {
  return dnnl::memory(desc, engine(), const_cast<float*>(data));  // oneDNN's memory type knows no const
}

// Reorders on one thread where there is little to move, since two threads take longer to meet.
inline void reorder(dnnl::memory& from, dnnl::memory& to) {
  const int threads = omp_get_max_threads();
  const bool small = static_cast<std::int64_t>(to.get_desc().get_size() / sizeof(float)) < kWorthSharing;
  if (small) omp_set_num_threads(1);
  dnnl::reorder(from, to).execute(stream(), from, to);
  if (small) omp_set_num_threads(threads);
}

// One operand of a primitive: the caller's memory as it is, or a reordered copy where the primitive wants another
// format or precision. Role tells the operands of one primitive apart, so that each has a buffer of its own.
template <class Role>
class Operand {
 public:
  Operand(const Desc& ours, const Desc& wanted, const float* data)
      : ours_(memory_of(ours, data)), reordered_(ours != wanted) {
    const auto floats = static_cast<std::int64_t>((wanted.get_size() + sizeof(float) - 1) / sizeof(float));
    theirs_ = reordered_ ? memory_of(wanted, scratch<float, Role>(floats)) : ours_;
  }
  // For an input: brings the caller's values into the primitive's format.
  Operand& read() {
    if (reordered_) reorder(ours_, theirs_);
    return *this;
  }
  // For an output, after the primitive has run.
  void write_back() {
    if (reordered_) reorder(theirs_, ours_);
  }
  const dnnl::memory& memory() const { return theirs_; }

 private:
  dnnl::memory ours_, theirs_;
  bool reordered_;
};

}  // namespace minidl::cpu
