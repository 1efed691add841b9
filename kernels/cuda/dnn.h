// cuBLAS and cuDNN: their handles, their status checks, and the descriptors of cuDNN's graph API as values.
#pragma once

#include <cublas_v2.h>
#include <cudnn.h>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/cuda/context.h"

namespace minidl::gpu {

void check_status(cublasStatus_t status, const char* what);
void check_status(cudnnStatus_t status, const char* what);

// On stream(), made on first use. cuBLAS has a handle for each thread; cuDNN one for all, because a plan is executed with
// the handle that it was made with: its caller lets one thread at a time have it.
cublasHandle_t blas();
cudnnHandle_t dnn();

// How cuDNN tells the type of an attribute's elements.
constexpr cudnnBackendAttributeType_t attribute_type(std::int64_t) { return CUDNN_TYPE_INT64; }
constexpr cudnnBackendAttributeType_t attribute_type(float) { return CUDNN_TYPE_FLOAT; }
constexpr cudnnBackendAttributeType_t attribute_type(char) { return CUDNN_TYPE_CHAR; }
constexpr cudnnBackendAttributeType_t attribute_type(const void*) { return CUDNN_TYPE_VOID_PTR; }
constexpr cudnnBackendAttributeType_t attribute_type(cudnnHandle_t) { return CUDNN_TYPE_HANDLE; }
constexpr cudnnBackendAttributeType_t attribute_type(cudnnDataType_t) { return CUDNN_TYPE_DATA_TYPE; }
constexpr cudnnBackendAttributeType_t attribute_type(cudnnConvolutionMode_t) { return CUDNN_TYPE_CONVOLUTION_MODE; }
constexpr cudnnBackendAttributeType_t attribute_type(cudnnBackendHeurMode_t) { return CUDNN_TYPE_HEUR_MODE; }
constexpr cudnnBackendAttributeType_t attribute_type(cudnnBackendKnobType_t) { return CUDNN_TYPE_KNOB_TYPE; }
constexpr cudnnBackendAttributeType_t attribute_type(cudnnBackendNumericalNote_t) { return CUDNN_TYPE_NUMERICAL_NOTE; }
constexpr cudnnBackendAttributeType_t attribute_type(cudnnBackendBehaviorNote_t) { return CUDNN_TYPE_BEHAVIOR_NOTE; }

// A node of cuDNN's graph API: made, given attributes, finalised, and from then on used by others and asked.
class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type) {
    check_status(cudnnBackendCreateDescriptor(type, &descriptor_), "making a descriptor");
  }
  ~Descriptor() {
    if (descriptor_) cudnnBackendDestroyDescriptor(descriptor_);
  }
  Descriptor(Descriptor&& other) noexcept : descriptor_(std::exchange(other.descriptor_, nullptr)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }

  template <class T>
  Descriptor& set(cudnnBackendAttributeName_t name, std::span<const T> values) {
    return set(name, attribute_type(T()), values.size(), values.data());
  }
  template <class T>
  Descriptor& set(cudnnBackendAttributeName_t name, const T& value) {
    return set(name, std::span<const T>(&value, 1));
  }
  Descriptor& set(cudnnBackendAttributeName_t name, const Descriptor& value) {
    return set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value.descriptor_);
  }
  Descriptor& set(cudnnBackendAttributeName_t name, std::span<const Descriptor> values) {
    std::vector<cudnnBackendDescriptor_t> pointers;
    for (const Descriptor& value : values) pointers.push_back(value.descriptor_);
    return set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, pointers.size(), pointers.data());
  }

  cudnnStatus_t try_finalize() { return cudnnBackendFinalize(descriptor_); }
  Descriptor& finalize(const char* what) {
    check_status(try_finalize(), what);
    return *this;
  }

  // At most `most` elements of an attribute.
  template <class T>
  std::vector<T> get(cudnnBackendAttributeName_t name, std::size_t most) const {
    std::vector<T> values(most);
    values.resize(get(name, attribute_type(T()), most, values.data()));
    return values;
  }
  // At most `most` elements of an attribute that holds descriptors of a type.
  std::vector<Descriptor> get(cudnnBackendAttributeName_t name, cudnnBackendDescriptorType_t type,
                              std::size_t most) const {
    std::vector<Descriptor> values;
    std::vector<cudnnBackendDescriptor_t> pointers;
    for (std::size_t i = 0; i < most; ++i) pointers.push_back(values.emplace_back(type).descriptor_);
    const std::size_t count = get(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, most, pointers.data());
    while (values.size() > count) values.pop_back();
    return values;
  }

  cudnnBackendDescriptor_t handle() const { return descriptor_; }

 private:
  Descriptor& set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::size_t count,
                  const void* values) {
    check_status(cudnnBackendSetAttribute(descriptor_, name, type, static_cast<std::int64_t>(count), values),
                 "setting an attribute");
    return *this;
  }
  std::size_t get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::size_t most,
                  void* values) const {
    std::int64_t count = 0;
    check_status(cudnnBackendGetAttribute(descriptor_, name, type, static_cast<std::int64_t>(most), &count, values),
                 "asking for an attribute");
    return static_cast<std::size_t>(count);
  }

  cudnnBackendDescriptor_t descriptor_ = nullptr;
};

}  // namespace minidl::gpu
