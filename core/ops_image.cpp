#include <cmath>

#include "core/autograd.h"
#include "core/check.h"
#include "core/ops.h"
#include "core/ops_common.h"

namespace minidl {

Tensor reflection_pad2d(const Tensor& x, std::int64_t pad) {
  require_image("reflection_pad2d", x);
  const ImageDims in = x.image_dims();
  check(pad >= 0 && pad < in.h && pad < in.w, "reflection_pad2d: a pad of ", pad,
        " needs an image of more than that many pixels a side, got ", x.shape());
  const Tensor y = Tensor::empty({in.n, in.c, in.h + 2 * pad, in.w + 2 * pad}, x.device());
  backend(x).reflection_pad_forward(in, pad, x.data(), y.data());
  return record("reflection_pad2d", y, {x}, [in, pad](const Tensor& gy, const Needs& needs) -> Grads {
    const Tensor reached = needs.take_reached(0);
    const Tensor gx = reached.defined() ? reached : Tensor::empty({in.n, in.c, in.h, in.w}, gy.device());
    backend(gy).reflection_pad_backward(in, pad, gy.data(), reached.defined(), gx.data());
    return {gx};
  });
}

Tensor upsample_nearest(const Tensor& x, std::int64_t scale, std::int64_t pad) {
  require_image("upsample_nearest", x);
  check(scale >= 1, "upsample_nearest: the scale must be at least 1, got ", scale);
  const ImageDims in = x.image_dims();
  const std::int64_t h = in.h * scale, w = in.w * scale;
  check(pad >= 0 && pad < h && pad < w, "upsample_nearest: a pad of ", pad,
        " needs a result of more than that many pixels a side, got ", h, " x ", w);
  const Tensor y = Tensor::empty({in.n, in.c, h + 2 * pad, w + 2 * pad}, x.device());
  backend(x).upsample_nearest_forward(in, scale, pad, x.data(), y.data());
  return record("upsample_nearest", y, {x}, [in, scale, pad](const Tensor& gy, const Needs&) -> Grads {
    const Tensor gx = Tensor::empty({in.n, in.c, in.h, in.w}, gy.device());
    backend(gy).upsample_nearest_backward(in, scale, pad, gy.data(), gx.data());
    return {gx};
  });
}

Tensor flatten(const Tensor& x) {
  require_image("flatten", x);
  const ImageDims in = x.image_dims();
  const Tensor y = Tensor::empty_plain({in.n, in.c * in.h * in.w}, x.device());
  backend(x).image_to_plain(in, x.data(), y.data());
  return record("flatten", y, {x}, [in](const Tensor& gy, const Needs&) -> Grads {
    const Tensor gx = Tensor::empty({in.n, in.c, in.h, in.w}, gy.device());
    backend(gy).plain_to_image(in, gy.data(), gx.data());
    return {gx};
  });
}

Tensor images_to_tensor(std::span<const std::uint8_t> bytes, std::int64_t n, std::int64_t height, std::int64_t width,
                        std::int64_t channels, DeviceType device) {
  const Tensor x = Tensor::empty(images_shape("images_to_tensor", bytes.size(), n, height, width, channels), device);
  const Storage staging(device, bytes.size());
  backend(x).upload(staging.data(), bytes.data(), bytes.size());
  backend(x).bytes_to_image(x.image_dims(), static_cast<const std::uint8_t*>(staging.data()), x.data());
  return x;
}

namespace {

void require_pictures(const char* op, const Tensor& x) {
  require_image(op, x);
  check(x.shape()[1] == 1 || x.shape()[1] == 3, op, ": expected 1 or 3 channels, got ", x.shape());
}

// The images of a batch in a grid of rows of `columns` images.
Image draw_grid(const Tensor& x, std::int64_t columns) {
  const ImageDims d = x.image_dims();
  const std::int64_t rows = (d.n + columns - 1) / columns;
  Image image(static_cast<int>(columns * d.w), static_cast<int>(rows * d.h), static_cast<int>(d.c));
  const std::vector<float> values = x.to_host();
  const float* value = values.data();
  for (std::int64_t i = 0; i < d.n; ++i)
    for (std::int64_t c = 0; c < d.c; ++c)
      for (std::int64_t y = 0; y < d.h; ++y) {
        std::uint8_t* row = image.row(static_cast<int>(i / columns * d.h + y)) + i % columns * d.w * d.c + c;
        for (std::int64_t column = 0; column < d.w; ++column) {
          const float unit = *value++ * 0.5f + 0.5f;
          // nearbyint rounds ties to even, as the reference's conversion does.
          const double level = std::nearbyint(static_cast<double>(unit) * 255.0);
          row[column * d.c] = static_cast<std::uint8_t>(level > 0 ? (level < 255 ? level : 255) : 0);
        }
      }
  return image;
}

}  // namespace

Image tensor_to_image(const Tensor& x, std::int64_t n) {
  require_pictures("tensor_to_image", x);
  check(n >= 0 && n < x.shape()[0], "tensor_to_image: image ", n, " of a batch of ", x.shape()[0]);
  return draw_grid(slice_samples(x.detach(), n, 1), 1);  // the others stay on the device
}

Image tensor_to_grid(const Tensor& x, std::int64_t columns) {
  require_pictures("tensor_to_grid", x);
  check(columns >= 1, "tensor_to_grid: expected at least 1 column, got ", columns);
  return draw_grid(x, columns);
}

}  // namespace minidl
