// Batches taken together and apart. A sample is contiguous in every layout, so both are copies of memory.
#include "core/check.h"
#include "core/ops.h"
#include "core/ops_common.h"

namespace minidl {
namespace {

Shape with_samples(const Shape& shape, std::int64_t n) {
  std::vector<std::int64_t> extents = shape.extents();
  extents.front() = n;
  return Shape(extents);
}

// Uninitialised, as `like` in all but the number of samples.
Tensor empty_samples(const Tensor& like, std::int64_t n) {
  const Shape shape = with_samples(like.shape(), n);
  return like.rank() == 4 ? Tensor::empty(shape, like.device()) : Tensor::empty_plain(shape, like.device());
}

std::size_t bytes_of(std::int64_t floats) { return static_cast<std::size_t>(floats) * sizeof(float); }

Tensor copied_slice(const Tensor& x, std::int64_t begin, std::int64_t count) {
  const std::int64_t sample = x.size() / x.shape()[0];
  const Tensor y = empty_samples(x, count);
  backend(x).copy(y.data(), x.data() + begin * sample, bytes_of(y.size()));
  return y;
}

void require_samples(const char* op, const Tensor& x) {
  require_defined(op, x);
  check(x.rank() >= 1 && x.size() > 0, op, ": expected a non-empty batch, got ", x.shape());
  if (x.rank() == 4) require_image(op, x);
}

}  // namespace

Tensor concat_samples(const Tensor& a, const Tensor& b) {
  require_samples("concat_samples", a);
  require_samples("concat_samples", b);
  const std::int64_t a_count = a.shape()[0], b_count = b.shape()[0];
  check(a.rank() == b.rank() && with_samples(a.shape(), b_count) == b.shape(), "concat_samples: samples of ", a.shape(),
        " and ", b.shape(), " differ in shape");
  require_device("concat_samples", a, {b});
  const Tensor y = empty_samples(a, a_count + b_count);
  backend(a).copy(y.data(), a.data(), bytes_of(a.size()));
  backend(a).copy(y.data() + a.size(), b.data(), bytes_of(b.size()));
  return record("concat_samples", y, {a, b}, [a_count, b_count](const Tensor& gy, const Needs& needs) -> Grads {
    return {needs[0] ? copied_slice(gy, 0, a_count) : Tensor(),
            needs[1] ? copied_slice(gy, a_count, b_count) : Tensor()};
  });
}

Tensor slice_samples(const Tensor& x, std::int64_t begin, std::int64_t count) {
  require_samples("slice_samples", x);
  const std::int64_t n = x.shape()[0];
  check(begin >= 0 && count >= 1 && count <= n && begin <= n - count, "slice_samples: ", x.shape(), " has no ", count,
        " samples from ", begin, " on");
  return record("slice_samples", copied_slice(x, begin, count), {x},
                [n, begin](const Tensor& gy, const Needs&) -> Grads {
                  const Tensor gx = empty_samples(gy, n);
                  const std::int64_t offset = begin * (gy.size() / gy.shape()[0]), after = offset + gy.size();
                  backend(gy).fill(offset, 0, gx.data());
                  backend(gy).copy(gx.data() + offset, gy.data(), bytes_of(gy.size()));
                  backend(gy).fill(gx.size() - after, 0, gx.data() + after);
                  return {gx};
                });
}

}  // namespace minidl
