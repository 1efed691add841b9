// Weights that stay in the format of a kernel.
#pragma once

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/onednn.h"
#include "kernels/prepared_weights.h"

namespace minidl::cpu {

struct DeallocateFloats {
  void operator()(float* data) const { cpu_backend().deallocate(data); }
};
using OwnedFloats = std::unique_ptr<float, DeallocateFloats>;

inline OwnedFloats allocate_floats(std::int64_t count) {
  return OwnedFloats(static_cast<float*>(cpu_backend().allocate(static_cast<std::size_t>(count) * sizeof(float))));
}

// A weight in the format of a oneDNN primitive, in memory of its own.
class ReorderedWeight final : public PreparedWeights::Form {
 public:
  ReorderedWeight(const Desc& ours, const Desc& wanted, const float* w)
      : data_(allocate_floats(static_cast<std::int64_t>((wanted.get_size() + sizeof(float) - 1) / sizeof(float)))),
        memory_(memory_of(wanted, data_.get())) {
    dnnl::memory from = memory_of(ours, w);
    reorder(from, memory_);
  }
  const dnnl::memory& memory() const { return memory_; }

 private:
  OwnedFloats data_;
  dnnl::memory memory_;
};

// The kept copy of `w` in the wanted format. Equal formats share it, whatever the size of the images.
inline std::shared_ptr<const ReorderedWeight> reordered_weight(PreparedWeights& kept, const Desc& ours,
                                                               const Desc& wanted, const float* w) {
  return kept.find_or_make<ReorderedWeight>(
      [&](const ReorderedWeight& form) { return form.memory().get_desc() == wanted; },
      [&] { return std::make_shared<const ReorderedWeight>(ours, wanted, w); });
}

}  // namespace minidl::cpu
