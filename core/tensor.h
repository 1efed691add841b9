// Tensor: a cheap value that names a shape, a buffer and, while gradients are recorded, a node of the graph.
//
// Invariants
//  - Elements are float32. Logical order is row-major, N,C,H,W for images, in every function of this API.
//  - A tensor of rank 4 made by `empty` or `from_host` is an *image*: its memory is in the device's channel-blocked
//    layout. `empty_plain` and `plain_from_host` give row-major memory (weights, vectors); below rank 4 the two agree.
//    Only code that touches `data()` can see the difference.
//  - Copies share the buffer. No function of this API changes the values of a tensor that already exists, except
//    `copy_from_host`, Adam and the power iteration of spectral norm, each documented as in place.
//  - Distinct tensors may be used from distinct threads; a graph belongs to the thread that records it.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/shape.h"
#include "core/storage.h"

namespace minidl {

class Node;

class Tensor {
 public:
  Tensor() = default;  // no tensor: !defined()

  // Uninitialised memory.
  static Tensor empty(const Shape& shape, DeviceType device = DeviceType::cpu);
  static Tensor empty_plain(const Shape& shape, DeviceType device = DeviceType::cpu);
  static Tensor full(const Shape& shape, float value, DeviceType device = DeviceType::cpu);
  // From shape.size() values in logical order. Throws Error when the count differs.
  static Tensor from_host(const Shape& shape, std::span<const float> values, DeviceType device = DeviceType::cpu);
  static Tensor plain_from_host(const Shape& shape, std::span<const float> values, DeviceType device = DeviceType::cpu);

  bool defined() const { return static_cast<bool>(storage_); }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  std::int64_t size() const { return shape_.size(); }
  DeviceType device() const;  // throws Error if undefined
  // Channels per block of an image's memory; 1 for planar and plain memory.
  std::int64_t block() const { return block_; }
  ImageDims image_dims() const;  // of a rank-4 tensor; throws Error otherwise
  // Whoever writes to a tensor that has been an input before calls storage().changed() afterwards.
  float* data() const { return static_cast<float*>(storage_.data()); }
  const Storage& storage() const { return storage_; }

  std::vector<float> to_host() const;  // in logical order
  // Overwrites the values in place, from logical order.
  void copy_from_host(std::span<const float> values) const;
  float item() const;  // the value of a tensor of one element

  // The same memory under another shape of equal size. An image keeps its memory only while channels and block mean the
  // same; otherwise throws Error (see flatten in core/ops.h). Not recorded.
  Tensor viewed_as(const Shape& shape) const;
  Tensor clone() const;  // a copy of the memory, not recorded

  // --- gradients (core/autograd.h) ---
  bool requires_grad() const;
  // Makes this tensor a leaf whose gradient backward accumulates, or stops it being one.
  void set_requires_grad(bool on);
  Tensor grad() const;  // undefined before the first backward and after zero_grad
  void zero_grad() const;
  Tensor detach() const;  // the same values, outside the graph
  // Accumulates the gradients of this one-element tensor into every leaf it depends on, and frees the graph.
  void backward() const;

  const std::shared_ptr<Node>& node() const { return node_; }
  void set_node(std::shared_ptr<Node> node) { node_ = std::move(node); }

 private:
  Tensor(const Shape& shape, DeviceType device, std::int64_t block);

  Shape shape_;
  Storage storage_;
  std::int64_t block_ = 1;
  std::shared_ptr<Node> node_;
};

// Uninitialised, with the shape, device and layout of `like`.
Tensor empty_like(const Tensor& like);

// A tensor that learns. Move-only: copying a layer, and silently sharing its weights, does not compile.
class Parameter {
 public:
  Parameter() = default;
  // `values` becomes a leaf. clamp01: optimisers keep the values within [0, 1] (the rho of ILN and AdaILN).
  explicit Parameter(Tensor values, bool clamp01 = false);
  Parameter(Parameter&&) = default;
  Parameter& operator=(Parameter&&) = default;

  operator const Tensor&() const { return tensor_; }
  const Tensor& tensor() const { return tensor_; }
  Tensor& tensor() { return tensor_; }
  bool defined() const { return tensor_.defined(); }
  bool clamp01() const { return clamp01_; }

 private:
  Tensor tensor_;
  bool clamp01_ = false;
};

// A tensor that belongs to a layer's state but does not learn (the u and v of spectral norm). Move-only likewise.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(Tensor values) : tensor_(std::move(values)) {}
  Buffer(Buffer&&) = default;
  Buffer& operator=(Buffer&&) = default;

  const Tensor& tensor() const { return tensor_; }
  Tensor& tensor() { return tensor_; }

 private:
  Tensor tensor_;
};

}  // namespace minidl
