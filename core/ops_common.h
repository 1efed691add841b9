// What the implementations of the operations share.
#pragma once

#include <initializer_list>

#include "core/check.h"
#include "core/tensor.h"

namespace minidl {

inline Backend& backend(const Tensor& x) { return backend_of(x.device()); }

inline float* data_or_null(const Tensor& x) { return x.defined() ? x.data() : nullptr; }

inline const char* name_of(DeviceType device) { return device == DeviceType::cpu ? "cpu" : "cuda"; }

inline void require_defined(const char* op, const Tensor& x, const char* what = "input") {
  check(x.defined(), op, ": the ", what, " is undefined");
}

inline void require_values(const char* op, const Tensor& x) {
  require_defined(op, x);
  check(x.size() > 0, op, ": expected at least one value, got an empty tensor ", x.shape());
}

// A non-empty rank-4 tensor in image layout.
inline void require_image(const char* op, const Tensor& x) {
  require_defined(op, x);
  check(x.rank() == 4 && x.size() > 0, op, ": expected a non-empty image [N, C, H, W], got ", x.shape());
  check(x.block() == backend(x).channel_block(x.shape()[1]), op, ": the input ", x.shape(),
        " is in plain memory; make images with Tensor::from_host or Tensor::empty");
}

inline void require_device(const char* op, const Tensor& x, std::initializer_list<Tensor> others) {
  for (const Tensor& other : others)
    check(!other.defined() || other.device() == x.device(), op, ": expected all tensors on one device, got ", x.shape(),
          " on ", name_of(x.device()), " and ", other.defined() ? other.shape() : Shape(), " on ",
          name_of(other.defined() ? other.device() : x.device()));
}

inline void require_same(const char* op, const Tensor& a, const Tensor& b) {
  require_values(op, a);
  require_defined(op, b);
  check(a.shape() == b.shape(), op, ": shapes ", a.shape(), " and ", b.shape(), " differ");
  require_device(op, a, {b});
  check(a.block() == b.block(), op, ": of two tensors of shape ", a.shape(),
        " one is an image, the other plain memory");
}

// The shape of images in `bytes` bytes [N, H, W, C]; throws Error if they are none.
inline Shape images_shape(const char* op, std::size_t bytes, std::int64_t n, std::int64_t height, std::int64_t width,
                          std::int64_t channels) {
  const Shape shape{n, channels, height, width};
  check(shape.size() > 0, op, ": expected at least one pixel, got images of shape ", shape);
  check(static_cast<std::int64_t>(bytes) == shape.size(), op, ": ", bytes, " bytes do not make images of shape ",
        shape);
  return shape;
}

}  // namespace minidl
