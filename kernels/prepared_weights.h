// What a backend's kernels have made of a constant weight, kept beside its values: a weight that is used many times and
// never changes, as in inference, is reordered once.
//
// Invariants
//  - Every form was made from the present values: whoever changes them calls clear.
//  - At most kMostForms are kept; the oldest goes first. A form lives as long as somebody uses it.
//  - Every function may be called from any thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace minidl {

class PreparedWeights {
 public:
  // What a backend derives its forms from.
  class Form {
   public:
    virtual ~Form() = default;
  };
  static constexpr std::size_t kMostForms = 4;

  // The kept form of type F that `fits`, else what `make` returns, which is kept from then on. Others wait meanwhile.
  template <class F, class Fits, class Make>
  std::shared_ptr<const F> find_or_make(Fits fits, Make make) {
    const std::lock_guard lock(mutex_);
    for (const std::shared_ptr<const Form>& form : forms_)
      if (auto found = std::dynamic_pointer_cast<const F>(form); found && fits(*found)) return found;
    std::shared_ptr<const F> made = make();
    if (forms_.size() == kMostForms) forms_.erase(forms_.begin());
    forms_.push_back(made);
    return made;
  }

  void clear() {
    const std::lock_guard lock(mutex_);
    forms_.clear();
  }

 private:
  std::mutex mutex_;
  std::vector<std::shared_ptr<const Form>> forms_;  // oldest first
};

}  // namespace minidl
