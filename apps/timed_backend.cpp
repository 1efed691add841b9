// The backend that times every call. A new function of the contract takes one override here: its name, its shape, its
// floating-point operations, its bytes, and the call itself.
#include <chrono>

#include "apps/op_profile.h"
#include "core/check.h"

namespace minidl {
namespace {

using Int = std::int64_t;

double floats(Int count) { return static_cast<double>(count) * sizeof(float); }
// The second if the first is not null: outputs and inputs that may be left out.
Int if_any(const void* pointer, Int count) { return pointer ? count : 0; }

// What a result of so many floats moves, read before if it is added to.
Int written(Int count, bool add) { return add ? 2 * count : count; }

// Two per multiply-add, in either direction.
double flops(const ConvDims& d) {
  return 2.0 * static_cast<double>(d.out.size()) * static_cast<double>(d.in.c * d.kernel * d.kernel);
}
double flops(const LinearDims& d) {
  return 2.0 * static_cast<double>(d.rows) * static_cast<double>(d.in) * static_cast<double>(d.out);
}
double bytes(const ConvDims& d) { return floats(d.in.size() + d.in.c * d.out.c * d.kernel * d.kernel + d.out.size()); }
// Of the small image instead of the large one.
double upsampled_bytes(const ConvDims& d) {
  return bytes(d) - floats(d.in.size() - d.in.n * d.in.c * d.out.pixels() / 4);
}
double bytes(const LinearDims& d) { return floats(d.rows * d.in + d.in * d.out + d.rows * d.out); }

std::string text(const ImageDims& d) { return concat_text(d.n, "x", d.c, "x", d.h, "x", d.w); }
std::string text(const ConvDims& d) {
  return concat_text(text(d.in), " to ", d.out.c, ", ", d.kernel, "x", d.kernel,
                     d.stride > 1 ? concat_text(", stride ", d.stride) : "",
                     d.padding > 0 ? concat_text(", padding ", d.padding) : "");
}
std::string text(const LinearDims& d) { return concat_text(d.rows, "x", d.in, " to ", d.out); }
std::string padding_text(Int pad) { return pad > 0 ? concat_text(", pad ", pad) : ""; }
std::string text(const NormSpec& spec, const float* rho) {
  const char* kind = !rho ? "instance" : spec.per_sample_style ? "AdaILN" : "ILN";
  return concat_text(text(spec.dims), ", ", kind, spec.relu ? ", relu" : "", padding_text(spec.pad));
}
std::string text(const DivisionSpec& spec) {
  return concat_text(text(spec.dims), spec.slope != 1 ? ", leaky_relu" : "", padding_text(spec.pad));
}
std::string text(Activation f, Int size) {
  const char* const names[] = {"relu", "leaky_relu", "tanh", "sigmoid"};
  return concat_text(size, ", ", names[static_cast<int>(f)]);
}
std::string text(Int size) { return concat_text(size); }

Int resized(const ImageDims& d, Int h, Int w) { return d.n * d.c * h * w; }
Int padded(const ImageDims& d, Int pad) { return resized(d, d.h + 2 * pad, d.w + 2 * pad); }

class TimedBackend final : public Backend {
 public:
  TimedBackend(Backend& real, OpProfile& profile) : real_(real), profile_(profile) {}

  // Neither queries nor settings nor the pool's rare allocations are operations.
  DeviceType type() const override { return real_.type(); }
  std::string name() const override { return real_.name(); }
  void set_precision(Precision precision) override { real_.set_precision(precision); }
  Precision precision() const override { return real_.precision(); }
  void set_benchmark(bool on) override { real_.set_benchmark(on); }
  std::vector<ConvChoice> conv_choices() const override { return real_.conv_choices(); }
  void set_conv_choices(std::span<const ConvChoice> choices) override { real_.set_conv_choices(choices); }
  Int channel_block(Int channels) const override { return real_.channel_block(channels); }
  void* allocate(std::size_t size) override { return real_.allocate(size); }
  void deallocate(void* memory) override { real_.deallocate(memory); }
  void synchronize() override { real_.synchronize(); }
  double measure(const std::function<void()>& work) override { return real_.measure(work); }
  bool can_record() const override { return real_.can_record(); }
  void begin_recording() override { real_.begin_recording(); }
  std::unique_ptr<Recording> end_recording() override { return real_.end_recording(); }

  void upload(void* device, const void* host, std::size_t n) override {
    timed("upload", concat_text(n, " bytes"), 0, 2.0 * n, [&] { real_.upload(device, host, n); });
  }
  std::unique_ptr<UploadBuffer> upload_buffer(void* memory) override { return real_.upload_buffer(memory); }
  std::unique_ptr<PendingDownload> begin_download(std::span<const Download> pieces) override {
    std::size_t n = 0;
    for (const Download& piece : pieces) n += piece.bytes;
    std::unique_ptr<PendingDownload> result;
    timed("download", concat_text(n, " bytes"), 0, 2.0 * n, [&] { result = real_.begin_download(pieces); });
    return result;
  }
  void copy(void* to, const void* from, std::size_t n) override {
    timed("copy", concat_text(n, " bytes"), 0, 2.0 * n, [&] { real_.copy(to, from, n); });
  }

  void image_to_plain(const ImageDims& d, const float* image, float* plain) override {
    timed("image_to_plain", text(d), 0, floats(2 * d.size()), [&] { real_.image_to_plain(d, image, plain); });
  }
  void plain_to_image(const ImageDims& d, const float* plain, float* image) override {
    timed("plain_to_image", text(d), 0, floats(2 * d.size()), [&] { real_.plain_to_image(d, plain, image); });
  }
  void bytes_to_image(const ImageDims& d, const std::uint8_t* pixels, float* image) override {
    timed("bytes_to_image", text(d), 0, 5.0 * d.size(), [&] { real_.bytes_to_image(d, pixels, image); });
  }

  void conv_forward(const ConvDims& d, const float* x, const float* w, const float* bias, float* y,
                    PreparedWeights* prepared) override {
    timed("conv_forward", text(d), flops(d), bytes(d), [&] { real_.conv_forward(d, x, w, bias, y, prepared); });
  }
  void conv_backward_data(const ConvDims& d, const float* gy, const float* w, float* gx) override {
    timed("conv_backward_data", text(d), flops(d), bytes(d), [&] { real_.conv_backward_data(d, gy, w, gx); });
  }
  void conv_backward_weights(const ConvDims& d, const float* x, const float* gy, float* gw, float* gbias) override {
    timed("conv_backward_weights", text(d), flops(d), bytes(d),
          [&] { real_.conv_backward_weights(d, x, gy, gw, gbias); });
  }
  std::int64_t upsampled_conv_memory(const ConvDims& d) const override { return real_.upsampled_conv_memory(d); }
  void upsampled_conv_forward(const ConvDims& d, const float* x, const float* w, float* memory, float* y) override {
    timed("upsampled_conv_forward", text(d), flops(d), upsampled_bytes(d),
          [&] { real_.upsampled_conv_forward(d, x, w, memory, y); });
  }
  void upsampled_conv_backward_data(const ConvDims& d, const float* gy, const float* w, float* memory,
                                    float* gx) override {
    timed("upsampled_conv_backward_data", text(d), flops(d), upsampled_bytes(d),
          [&] { real_.upsampled_conv_backward_data(d, gy, w, memory, gx); });
  }
  void upsampled_conv_backward_weights(const ConvDims& d, const float* x, const float* gy, float* memory,
                                       float* gw) override {
    timed("upsampled_conv_backward_weights", text(d), flops(d), upsampled_bytes(d),
          [&] { real_.upsampled_conv_backward_weights(d, x, gy, memory, gw); });
  }
  void linear_forward(const LinearDims& d, const float* x, const float* w, const float* bias, float* y) override {
    timed("linear_forward", text(d), flops(d), bytes(d), [&] { real_.linear_forward(d, x, w, bias, y); });
  }
  void linear_backward(const LinearDims& d, const float* x, const float* w, const float* y, const float* gy,
                       bool add_to_gx, float* gx, float* gw, float* gbias) override {
    const int products = (gx ? 1 : 0) + (gw ? 1 : 0);
    const Int weights = d.in * d.out, inputs = d.rows * d.in, outputs = d.rows * d.out;
    timed("linear_backward", concat_text(text(d), gx ? ", gx" : "", gw ? ", gw" : ""), products * flops(d),
          floats((d.relu ? 2 : 1) * outputs + if_any(gx, weights + (add_to_gx ? 2 : 1) * inputs) +
                 if_any(gw, weights + inputs)),
          [&] { real_.linear_backward(d, x, w, y, gy, add_to_gx, gx, gw, gbias); });
  }

  void reflection_pad_forward(const ImageDims& d, Int pad, const float* x, float* y) override {
    timed("reflection_pad_forward", concat_text(text(d), " by ", pad), 0, floats(d.size() + padded(d, pad)),
          [&] { real_.reflection_pad_forward(d, pad, x, y); });
  }
  void reflection_pad_backward(const ImageDims& d, Int pad, const float* gy, bool add, float* gx) override {
    timed("reflection_pad_backward", concat_text(text(d), " by ", pad, add ? ", added" : ""), 0,
          floats(written(d.size(), add) + padded(d, pad)), [&] { real_.reflection_pad_backward(d, pad, gy, add, gx); });
  }
  void upsample_nearest_forward(const ImageDims& d, Int scale, Int pad, const float* x, float* y) override {
    timed("upsample_nearest_forward", concat_text(text(d), " by ", scale, padding_text(pad)), 0,
          floats(d.size() + resized(d, d.h * scale + 2 * pad, d.w * scale + 2 * pad)),
          [&] { real_.upsample_nearest_forward(d, scale, pad, x, y); });
  }
  void upsample_nearest_backward(const ImageDims& d, Int scale, Int pad, const float* gy, float* gx) override {
    timed("upsample_nearest_backward", concat_text(text(d), " by ", scale, padding_text(pad)), 0,
          floats(d.size() + resized(d, d.h * scale + 2 * pad, d.w * scale + 2 * pad)),
          [&] { real_.upsample_nearest_backward(d, scale, pad, gy, gx); });
  }

  void norm_forward(const NormSpec& spec, const float* x, const float* rho, const float* gamma, const float* beta,
                    const float* residual, float* y, float* stats) override {
    const Int size = spec.dims.size();
    timed("norm_forward", text(spec, rho) + (residual ? ", residual" : ""), 0,
          floats(size + padded(spec.dims, spec.pad) + if_any(residual, size)),
          [&] { real_.norm_forward(spec, x, rho, gamma, beta, residual, y, stats); });
  }
  void norm_backward(const NormSpec& spec, const float* x, const float* rho, const float* gamma, const float* beta,
                     const float* stats, const float* gy, float* gx, float* grho, float* ggamma,
                     float* gbeta) override {
    const Int size = spec.dims.size();
    timed("norm_backward", text(spec, rho), 0, floats(size + padded(spec.dims, spec.pad) + if_any(gx, size)),
          [&] { real_.norm_backward(spec, x, rho, gamma, beta, stats, gy, gx, grho, ggamma, gbeta); });
  }

  void activation_forward(Activation f, float slope, Int size, const float* x, float* y) override {
    timed("activation_forward", text(f, size), 0, floats(2 * size),
          [&] { real_.activation_forward(f, slope, size, x, y); });
  }
  void activation_backward(Activation f, float slope, Int size, const float* y, const float* gy, float* gx) override {
    timed("activation_backward", text(f, size), 0, floats(3 * size),
          [&] { real_.activation_backward(f, slope, size, y, gy, gx); });
  }
  void fill(Int size, float value, float* y) override {
    timed("fill", text(size), 0, floats(size), [&] { real_.fill(size, value, y); });
  }
  void add(std::span<const Sum> sums) override {
    Int size = 0, moved = 0;
    for (const Sum& sum : sums) {
      size += sum.size;
      moved += sum.size * (static_cast<Int>(sum.terms.size()) + 1);
    }
    timed("add", sums.size() == 1 ? text(size) : concat_text(size, " in ", sums.size(), " sums"), 0, floats(moved),
          [&] { real_.add(sums); });
  }
  void multiply(Int size, const float* a, const float* b, float* y) override {
    timed("multiply", text(size), 0, floats(3 * size), [&] { real_.multiply(size, a, b, y); });
  }
  void scale(Int size, float factor, const float* x, float* y) override {
    timed("scale", text(size), 0, floats(2 * size), [&] { real_.scale(size, factor, x, y); });
  }
  void scale_by(Int size, const float* s, const float* x, float* y) override {
    timed("scale_by", text(size), 0, floats(2 * size), [&] { real_.scale_by(size, s, x, y); });
  }

  void global_pool_forward(const ImageDims& d, const float* x, float* mean, float* max, std::int32_t* argmax) override {
    timed("global_pool_forward", concat_text(text(d), mean ? ", mean" : "", max ? ", max" : ""), 0, floats(d.size()),
          [&] { real_.global_pool_forward(d, x, mean, max, argmax); });
  }
  void global_pool_backward(const ImageDims& d, const float* gmean, const float* gmax, const std::int32_t* argmax,
                            bool add, float* gx) override {
    timed("global_pool_backward",
          concat_text(text(d), gmean ? ", mean" : "", gmax ? ", max" : "", add ? ", added" : ""), 0,
          floats(written(d.size(), add)), [&] { real_.global_pool_backward(d, gmean, gmax, argmax, add, gx); });
  }
  void concat_forward(const ImageDims& da, const ImageDims& db, const float* a, const float* b, float* y) override {
    timed("concat_forward", concat_text(text(da), " and ", db.c), 0, floats(2 * (da.size() + db.size())),
          [&] { real_.concat_forward(da, db, a, b, y); });
  }
  void concat_backward(const ImageDims& da, const ImageDims& db, const float* gy, float* ga, float* gb) override {
    timed("concat_backward", concat_text(text(da), " and ", db.c), 0,
          floats(2 * (if_any(ga, da.size()) + if_any(gb, db.size()))),
          [&] { real_.concat_backward(da, db, gy, ga, gb); });
  }
  void scale_channels_forward(const ImageDims& d, const float* x, const float* first, const float* second,
                              float* y) override {
    timed("scale_channels_forward", concat_text(text(d), second ? ", twice" : ""), 0,
          floats((second ? 3 : 2) * d.size()), [&] { real_.scale_channels_forward(d, x, first, second, y); });
  }
  void scale_channels_backward(const ImageDims& d, const float* x, const float* first, const float* second,
                               const float* gy, bool add, float* gx, float* gfirst, float* gsecond) override {
    timed("scale_channels_backward", concat_text(text(d), second ? ", twice" : "", add ? ", added" : ""), 0,
          floats((second ? 2 : 1) * d.size() + if_any(gx, written(d.size(), add)) + (gfirst || gsecond ? d.size() : 0)),
          [&] { real_.scale_channels_backward(d, x, first, second, gy, add, gx, gfirst, gsecond); });
  }
  void sum_channels_forward(const ImageDims& d, const float* x, float* y) override {
    timed("sum_channels_forward", text(d), 0, floats(d.size() + d.n * d.pixels()),
          [&] { real_.sum_channels_forward(d, x, y); });
  }
  void sum_channels_backward(const ImageDims& d, const float* gy, float* gx) override {
    timed("sum_channels_backward", text(d), 0, floats(d.size() + d.n * d.pixels()),
          [&] { real_.sum_channels_backward(d, gy, gx); });
  }

  void losses(std::span<const LossTerm> terms) override {
    Int size = 0, moved = 0;
    for (const LossTerm& t : terms) {
      size += t.size;
      moved += t.size * ((t.x ? 1 : 0) + (t.targets ? 1 : 0) + (t.gx ? 1 : 0));
    }
    timed("losses", concat_text(size, " in ", terms.size(), " terms"), 0, floats(moved), [&] { real_.losses(terms); });
  }

  void cam_logits_forward(Int n, Int c, std::span<const Int> groups, std::span<const CamPart> parts,
                          const float* pooled, float* logits) override {
    const auto count = static_cast<Int>(parts.size());
    timed("cam_logits_forward", concat_text(n, "x", c, ", ", count, " parts"), 0, floats(count * (n * c + c)),
          [&] { real_.cam_logits_forward(n, c, groups, parts, pooled, logits); });
  }
  void cam_logits_backward(Int n, Int c, std::span<const Int> groups, std::span<const CamPart> parts,
                           const float* pooled, const float* logits, const float* glogits, float* gpooled) override {
    const auto count = static_cast<Int>(parts.size());
    Int moved = if_any(gpooled, count * (n * c + c));
    for (const CamPart& part : parts) moved += if_any(part.gw, n * c + c * (1 + static_cast<Int>(part.vectors.size())));
    timed("cam_logits_backward", concat_text(n, "x", c, ", ", count, " parts"), 0, floats(moved),
          [&] { real_.cam_logits_backward(n, c, groups, parts, pooled, logits, glogits, gpooled); });
  }

  void spectral_norm_forward(bool iterate, std::span<const SpectralMatrix> matrices) override {
    Int size = 0;
    for (const SpectralMatrix& m : matrices) size += m.rows * m.cols;
    timed("spectral_norm_forward", concat_text(matrices.size(), " of ", size, " in all", iterate ? "" : ", fixed"), 0,
          floats((iterate ? 2 : 1) * size), [&] { real_.spectral_norm_forward(iterate, matrices); });
  }
  void add_outer_products(Int rows, Int cols, std::span<const OuterProduct> products, float* gw) override {
    timed("add_outer_products", concat_text(products.size(), " of ", rows, "x", cols), 0, floats(2 * rows * cols),
          [&] { real_.add_outer_products(rows, cols, products, gw); });
  }
  void divide_samples_forward(const DivisionSpec& spec, const float* divisor, const float* bias, const float* x,
                              float* y) override {
    timed("divide_samples_forward", text(spec), 0, floats(spec.dims.size() + padded(spec.dims, spec.pad)),
          [&] { real_.divide_samples_forward(spec, divisor, bias, x, y); });
  }
  void divide_samples_backward(const DivisionSpec& spec, const float* divisor, const float* bias, const float* y,
                               const float* gy, float* gx, float* gdivisor, float* gbias) override {
    timed("divide_samples_backward", text(spec), 0, floats(spec.dims.size() + 2 * padded(spec.dims, spec.pad)),
          [&] { real_.divide_samples_backward(spec, divisor, bias, y, gy, gx, gdivisor, gbias); });
  }
  void spectral_norm_backward(Int rows, Int cols, const float* w, const float* u, const float* v, const float* sigma,
                              const float* gwn, float* gw) override {
    timed("spectral_norm_backward", concat_text(rows, "x", cols), 0, floats(3 * rows * cols),
          [&] { real_.spectral_norm_backward(rows, cols, w, u, v, sigma, gwn, gw); });
  }

  void adam(const AdamSettings& settings, const AdamRates* rates, std::span<const AdamTensor> tensors) override {
    Int size = 0;
    for (const AdamTensor& tensor : tensors) size += tensor.size;
    // Reads the gradient; reads and writes the value and both moments.
    timed("adam", concat_text(size, " in ", tensors.size(), " tensors"), 0, floats(7 * size),
          [&] { real_.adam(settings, rates, tensors); });
  }

 private:
  template <class Call>
  void timed(const char* op, const std::string& shape, double flop_count, double byte_count, Call call) {
    using Clock = std::chrono::steady_clock;
    profile_.begin();
    const auto start = Clock::now();
    call();
    const std::chrono::duration<double> seconds = Clock::now() - start;
    profile_.add(op, shape, seconds.count(), flop_count, byte_count);
  }

  Backend& real_;
  OpProfile& profile_;
};

}  // namespace

std::unique_ptr<Backend> timed_backend(Backend& real, OpProfile& profile) {
  return std::make_unique<TimedBackend>(real, profile);
}

}  // namespace minidl
