#include "core/image_uploads.h"

#include <utility>

#include "core/check.h"
#include "core/ops_common.h"

namespace minidl {

void ImageUploads::send(std::span<const std::uint8_t> bytes, std::int64_t n, std::int64_t height, std::int64_t width,
                        std::int64_t channels) {
  const Shape shape = images_shape("ImageUploads", bytes.size(), n, height, width, channels);
  Parcel parcel = empty_parcel(bytes.size());
  parcel.shape = shape;
  parcel.buffer->fill(bytes.data(), bytes.size());
  sent_.push_back(std::move(parcel));
}

Tensor ImageUploads::receive() {
  check(!sent_.empty(), "ImageUploads: every batch that was sent has been received; send one first");
  Parcel parcel = std::move(sent_.front());
  sent_.pop_front();
  const Tensor x = Tensor::empty(parcel.shape, device_);
  parcel.buffer->read([&](const void* bytes) {
    backend(x).bytes_to_image(x.image_dims(), static_cast<const std::uint8_t*>(bytes), x.data());
  });
  empty_.push_back(std::move(parcel));
  return x;
}

// One that has been used before, so that a training loop asks for memory in its first iterations only.
ImageUploads::Parcel ImageUploads::empty_parcel(std::size_t bytes) {
  if (!empty_.empty()) {
    Parcel parcel = std::move(empty_.back());
    empty_.pop_back();
    if (parcel.room >= bytes) return parcel;
  }
  Storage storage(device_, bytes);
  auto buffer = backend_of(device_).upload_buffer(storage.data());
  return {std::move(storage), bytes, std::move(buffer), {}};
}

}  // namespace minidl
