#include "core/tensor.h"

#include "core/autograd.h"
#include "core/check.h"

namespace minidl {
namespace {

std::int64_t image_block(const Shape& shape, DeviceType device) {
  return shape.rank() == 4 && shape[1] > 0 ? backend_of(device).channel_block(shape[1]) : 1;
}

}  // namespace

Tensor::Tensor(const Shape& shape, DeviceType device, std::int64_t block)
    : shape_(shape), storage_(device, static_cast<std::size_t>(shape.size()) * sizeof(float)), block_(block) {}

Tensor Tensor::empty(const Shape& shape, DeviceType device) {
  return Tensor(shape, device, image_block(shape, device));
}

Tensor Tensor::empty_plain(const Shape& shape, DeviceType device) { return Tensor(shape, device, 1); }

Tensor Tensor::full(const Shape& shape, float value, DeviceType device) {
  Tensor tensor = empty(shape, device);
  backend_of(device).fill(tensor.size(), value, tensor.data());
  return tensor;
}

Tensor Tensor::from_host(const Shape& shape, std::span<const float> values, DeviceType device) {
  Tensor tensor = empty(shape, device);
  tensor.copy_from_host(values);
  return tensor;
}

Tensor Tensor::plain_from_host(const Shape& shape, std::span<const float> values, DeviceType device) {
  Tensor tensor = empty_plain(shape, device);
  tensor.copy_from_host(values);
  return tensor;
}

DeviceType Tensor::device() const {
  check(defined(), "device: the tensor is undefined");
  return storage_.device();
}

ImageDims Tensor::image_dims() const {
  check(rank() == 4, "expected an image tensor of shape [N, C, H, W], got ", shape_);
  return {shape_[0], shape_[1], shape_[2], shape_[3], block_};
}

std::vector<float> Tensor::to_host() const {
  check(defined(), "to_host: the tensor is undefined");
  std::vector<float> values(static_cast<std::size_t>(size()));
  Backend& backend = backend_of(device());
  const std::size_t bytes = values.size() * sizeof(float);
  if (block_ == 1) {
    backend.download(values.data(), data(), bytes);
  } else {
    const Tensor plain = empty_plain(shape_, device());
    backend.image_to_plain(image_dims(), data(), plain.data());
    backend.download(values.data(), plain.data(), bytes);
  }
  return values;
}

void Tensor::copy_from_host(std::span<const float> values) const {
  check(defined(), "copy_from_host: the tensor is undefined");
  check(static_cast<std::int64_t>(values.size()) == size(), "copy_from_host: a tensor of shape ", shape_, " takes ",
        size(), " values, got ", values.size());
  Backend& backend = backend_of(device());
  if (block_ == 1) {
    backend.upload(data(), values.data(), values.size_bytes());
  } else {
    const Tensor plain = empty_plain(shape_, device());
    backend.upload(plain.data(), values.data(), values.size_bytes());
    backend.plain_to_image(image_dims(), plain.data(), data());
  }
  storage_.changed();
}

float Tensor::item() const {
  check(defined() && size() == 1, "item: expected a tensor of one element, got shape ", shape_);
  float value = 0;
  backend_of(device()).download(&value, data(), sizeof value);
  return value;
}

Tensor Tensor::viewed_as(const Shape& shape) const {
  check(defined(), "view: the tensor is undefined");
  check(shape.size() == size(), "view: shape ", shape, " has another size than ", shape_);
  Tensor view = detach();
  view.shape_ = shape;
  view.block_ = image_block(shape, device());
  if (view.block_ != block_) {
    // One pixel per channel: blocked and plain memory are the same.
    const bool flat_before = block_ == 1 || (shape_[2] == 1 && shape_[3] == 1);
    const bool flat_after = view.block_ == 1 || (shape[2] == 1 && shape[3] == 1);
    check(flat_before && flat_after, "view: an image of shape ", shape_, " cannot be seen as ", shape,
          " without moving memory; use flatten");
  }
  return view;
}

Tensor Tensor::clone() const {
  check(defined(), "clone: the tensor is undefined");
  Tensor copy(shape_, device(), block_);
  backend_of(device()).copy(copy.data(), data(), static_cast<std::size_t>(size()) * sizeof(float));
  return copy;
}

bool Tensor::requires_grad() const { return node_ && node_->requires_grad; }

void Tensor::set_requires_grad(bool on) {
  check(defined(), "set_requires_grad: the tensor is undefined");
  if (!node_) node_ = std::make_shared<Node>(*this);
  check(node_->is_leaf(), "set_requires_grad: the result of ", node_->op, " is not a leaf; detach it first");
  node_->requires_grad = on;
}

Tensor Tensor::grad() const { return node_ ? node_->grad : Tensor(); }

void Tensor::zero_grad() const {
  if (node_) node_->grad = Tensor();
}

Tensor Tensor::detach() const {
  Tensor copy = *this;
  copy.node_ = nullptr;
  return copy;
}

void Tensor::backward() const {
  check(defined() && size() == 1, "backward: expected a tensor of one element, got shape ", shape_,
        "; give a cotangent to minidl::backward for others");
  minidl::backward({{*this, full(shape_, 1.0f, device())}});
}

Tensor empty_like(const Tensor& like) {
  check(like.defined(), "empty_like: the tensor is undefined");
  return like.block() == 1 ? Tensor::empty_plain(like.shape(), like.device())
                           : Tensor::empty(like.shape(), like.device());
}

Parameter::Parameter(Tensor values, bool clamp01) : tensor_(std::move(values)), clamp01_(clamp01) {
  check(tensor_.defined(), "Parameter: the values are undefined");
  tensor_.set_requires_grad(true);
}

}  // namespace minidl
