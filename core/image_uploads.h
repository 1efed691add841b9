// Images that travel to a device while it computes.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "core/storage.h"
#include "core/tensor.h"

namespace minidl {

// Batches of images on their way to one device, first in, first out. Used by one thread.
class ImageUploads {
 public:
  explicit ImageUploads(DeviceType device) : device_(device) {}

  // Sends bytes [N, H, W, C] of equally sized images, which have been read when it returns; the device goes on with its
  // work meanwhile. Throws Error when the bytes do not make such images.
  void send(std::span<const std::uint8_t> bytes, std::int64_t n, std::int64_t height, std::int64_t width,
            std::int64_t channels);
  // The batch sent first of those not received, as images_to_tensor makes it. Throws Error when none is on its way.
  Tensor receive();

 private:
  struct Parcel {
    Storage storage;
    std::size_t room;                      // bytes of the storage
    std::unique_ptr<UploadBuffer> buffer;  // in the storage, and gone before it
    Shape shape;                           // of what was sent in it last
  };

  Parcel empty_parcel(std::size_t bytes);

  DeviceType device_;
  std::deque<Parcel> sent_;
  std::vector<Parcel> empty_;
};

}  // namespace minidl
