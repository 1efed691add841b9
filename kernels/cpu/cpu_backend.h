// The CPU side of the contract: oneDNN for convolution and linear, our own vectorised loops for everything else.
// Files are named after the part of the contract that they implement.
#pragma once

#include "kernels/backend.h"
#include "kernels/conv_choices.h"
#include "kernels/cpu/conv_choice.h"

namespace minidl {

class CpuBackend final : public Backend {
 public:
  CpuBackend();  // throws Error when the processor lacks AVX2 and FMA

  DeviceType type() const override { return DeviceType::cpu; }
  std::string name() const override { return "CPU"; }
  std::int64_t channel_block(std::int64_t channels) const override { return channels % lanes_ == 0 ? lanes_ : 1; }

  void set_precision(Precision precision) override;
  Precision precision() const override { return precision_; }
  void set_benchmark(bool on) override { conv_choices_.set_benchmark(on); }
  std::vector<ConvChoice> conv_choices() const override;
  void set_conv_choices(std::span<const ConvChoice> choices) override;

  void* allocate(std::size_t bytes) override;
  void deallocate(void* memory) override;
  void upload(void* device, const void* host, std::size_t bytes) override { copy(device, host, bytes); }
  std::unique_ptr<UploadBuffer> upload_buffer(void* memory) override;
  std::unique_ptr<PendingDownload> begin_download(std::span<const Download> pieces) override;
  void copy(void* to, const void* from, std::size_t bytes) override;
  void synchronize() override {}
  double measure(const std::function<void()>& work) override;

  bool can_record() const override { return false; }
  void begin_recording() override;
  std::unique_ptr<Recording> end_recording() override;

  void image_to_plain(const ImageDims& dims, const float* image, float* plain) override;
  void plain_to_image(const ImageDims& dims, const float* plain, float* image) override;
  void bytes_to_image(const ImageDims& dims, const std::uint8_t* bytes, float* image) override;

  void conv_forward(const ConvDims&, const float* x, const float* w, const float* bias, float* y,
                    PreparedWeights* prepared) override;
  void conv_backward_data(const ConvDims&, const float* gy, const float* w, float* gx) override;
  void conv_backward_weights(const ConvDims&, const float* x, const float* gy, float* gw, float* gbias) override;
  std::int64_t upsampled_conv_memory(const ConvDims&) const override;
  void upsampled_conv_forward(const ConvDims&, const float* x, const float* w, float* memory, float* y) override;
  void upsampled_conv_backward_data(const ConvDims&, const float* gy, const float* w, float* memory,
                                    float* gx) override;
  void upsampled_conv_backward_weights(const ConvDims&, const float* x, const float* gy, float* memory,
                                       float* gw) override;
  void linear_forward(const LinearDims&, const float* x, const float* w, const float* bias, float* y) override;
  void linear_backward(const LinearDims&, const float* x, const float* w, const float* y, const float* gy,
                       bool add_to_gx, float* gx, float* gw, float* gbias) override;

  void reflection_pad_forward(const ImageDims& in, std::int64_t pad, const float* x, float* y) override;
  void reflection_pad_backward(const ImageDims& in, std::int64_t pad, const float* gy, bool add, float* gx) override;
  void upsample_nearest_forward(const ImageDims& in, std::int64_t scale, std::int64_t pad, const float* x,
                                float* y) override;
  void upsample_nearest_backward(const ImageDims& in, std::int64_t scale, std::int64_t pad, const float* gy,
                                 float* gx) override;

  void norm_forward(const NormSpec& spec, const float* x, const float* rho, const float* gamma, const float* beta,
                    const float* residual, float* y, float* stats) override;
  void norm_backward(const NormSpec& spec, const float* x, const float* rho, const float* gamma, const float* beta,
                     const float* stats, const float* gy, float* gx, float* grho, float* ggamma, float* gbeta) override;

  void activation_forward(Activation f, float slope, std::int64_t size, const float* x, float* y) override;
  void activation_backward(Activation f, float slope, std::int64_t size, const float* y, const float* gy,
                           float* gx) override;
  void fill(std::int64_t size, float value, float* y) override;
  void add(std::span<const Sum> sums) override;
  void multiply(std::int64_t size, const float* a, const float* b, float* y) override;
  void scale(std::int64_t size, float factor, const float* x, float* y) override;
  void scale_by(std::int64_t size, const float* s, const float* x, float* y) override;

  void global_pool_forward(const ImageDims& dims, const float* x, float* mean, float* max,
                           std::int32_t* argmax) override;
  void global_pool_backward(const ImageDims& dims, const float* gmean, const float* gmax, const std::int32_t* argmax,
                            bool add, float* gx) override;
  void concat_forward(const ImageDims& a_dims, const ImageDims& b_dims, const float* a, const float* b,
                      float* y) override;
  void concat_backward(const ImageDims& a_dims, const ImageDims& b_dims, const float* gy, float* ga,
                       float* gb) override;
  void scale_channels_forward(const ImageDims& dims, const float* x, const float* s, const float* second,
                              float* y) override;
  void scale_channels_backward(const ImageDims& dims, const float* x, const float* s, const float* second,
                               const float* gy, bool add, float* gx, float* gs, float* gsecond) override;
  void sum_channels_forward(const ImageDims& dims, const float* x, float* y) override;
  void sum_channels_backward(const ImageDims& dims, const float* gy, float* gx) override;

  void losses(std::span<const LossTerm> terms) override;

  void cam_logits_forward(std::int64_t n, std::int64_t c, std::span<const std::int64_t> groups,
                          std::span<const CamPart> parts, const float* pooled, float* logits) override;
  void cam_logits_backward(std::int64_t n, std::int64_t c, std::span<const std::int64_t> groups,
                           std::span<const CamPart> parts, const float* pooled, const float* logits,
                           const float* glogits, float* gpooled) override;

  void spectral_norm_forward(bool iterate, std::span<const SpectralMatrix> matrices) override;
  void spectral_norm_backward(std::int64_t rows, std::int64_t cols, const float* w, const float* u, const float* v,
                              const float* sigma, const float* gwn, float* gw) override;

  void add_outer_products(std::int64_t rows, std::int64_t cols, std::span<const OuterProduct> products,
                          float* gw) override;
  void divide_samples_forward(const DivisionSpec& spec, const float* divisor, const float* bias, const float* x,
                              float* y) override;
  void divide_samples_backward(const DivisionSpec& spec, const float* divisor, const float* bias, const float* y,
                               const float* gy, float* gx, float* gdivisor, float* gbias) override;

  void adam(const AdamSettings& settings, const AdamRates* rates, std::span<const AdamTensor> tensors) override;

 private:
  std::int64_t lanes_;  // floats of the widest vector that oneDNN uses here: its blocked layouts have this block
  Precision precision_ = Precision::fp32;
  ConvChoices<cpu::ConvAlgorithm> conv_choices_;
};

// The one CPU backend of the process.
Backend& cpu_backend();

}  // namespace minidl
