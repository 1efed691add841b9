// Weights that stay in the format of a oneDNN primitive.
#pragma once

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/onednn.h"
#include "kernels/cpu/winograd.h"
#include "kernels/prepared_weights.h"

namespace minidl::cpu {

// A weight in a primitive's format, in memory of its own.
class ReorderedWeight final : public PreparedWeights::Form {
 public:
  ReorderedWeight(const Desc& ours, const Desc& wanted, const float* w)
      : data_(static_cast<float*>(cpu_backend().allocate(wanted.get_size()))), memory_(memory_of(wanted, data_.get())) {
    if (transform_winograd_weights(wanted, w, data_.get())) return;
    dnnl::memory from = memory_of(ours, w);
    reorder(from, memory_);
  }
  const dnnl::memory& memory() const { return memory_; }

 private:
  struct Release {
    void operator()(float* data) const { cpu_backend().deallocate(data); }
  };
  std::unique_ptr<float, Release> data_;
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
