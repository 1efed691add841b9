// The device contract: everything libminidl asks of a device, as functions on plain pointers.
//
// Invariants
//  - Every pointer is device memory of this backend unless its comment says "host".
//  - Arithmetic is float32; sums that decide a statistic or a loss are accumulated more precisely than one float. Only
//    convolution and linear may round their operands (Precision); memory holds float32 always.
//  - An *image* buffer holds logical (n, c, h, w) values with channels in blocks (ImageDims::index); a *plain* buffer
//  is
//    row-major. Weights, vectors and everything of rank below 4 are plain.
//  - A nullable pointer is marked "or null"; a null output is not computed.
//  - Outputs never alias inputs unless a comment says "in place".
//  - Results are the same bits on every run with the same number of threads.
// Functions do not check shapes (core does) and throw Error only when the device itself fails.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/prepared_weights.h"

namespace minidl {

enum class DeviceType { cpu, cuda };

// Geometry of an image buffer. block divides c; block 1 is planar NCHW, block c is channels-last.
struct ImageDims {
  std::int64_t n = 0, c = 0, h = 0, w = 0;
  std::int64_t block = 1;

  std::int64_t pixels() const { return h * w; }
  std::int64_t size() const { return n * c * h * w; }
  std::int64_t index(std::int64_t in, std::int64_t ic, std::int64_t iy, std::int64_t ix) const {
    return (((in * (c / block) + ic / block) * h + iy) * w + ix) * block + ic % block;
  }
  auto operator<=>(const ImageDims&) const = default;
};

// A cross-correlation, torch.nn.functional.conv2d with groups 1: plain weight (out.c, in.c, kernel, kernel).
struct ConvDims {
  ImageDims in, out;
  std::int64_t kernel = 1, stride = 1, padding = 0;  // square kernel; zero padding on all four sides

  auto operator<=>(const ConvDims&) const = default;
};

// How convolution and linear multiply. tf32, bf16: a kernel may round its two operands to that format, or a finer one,
// where it is faster; sums are not rounded to it. A convolution in bf16 may round its result as well.
enum class Precision { fp32, tf32, bf16 };

enum class ConvPass { forward, backward_data, backward_weights };

// What the algorithm of a convolution is chosen by.
struct ConvUse {
  ConvPass pass = ConvPass::forward;
  ConvDims dims;
  bool bias = false;  // bias is added, or its gradient computed
  Precision precision = Precision::fp32;

  auto operator<=>(const ConvUse&) const = default;
};

// The algorithm, by the backend's name for it, that was measured to be the fastest for a use.
struct ConvChoice {
  ConvUse use;
  std::string algorithm;

  bool operator==(const ConvChoice&) const = default;
};

// y = x W^T: x (rows, in), plain weight (out, in), y (rows, out).
struct LinearDims {
  std::int64_t rows = 0, in = 0, out = 0;
  bool relu = false;  // y = max(y, 0) at the end

  bool operator==(const LinearDims&) const = default;
};

enum class Activation { relu, leaky_relu, tanh, sigmoid };

// Instance norm (rho null) or the layer-instance norm of U-GAT-IT (ILN, AdaILN; paper eq. 3):
//   y = gamma * (rho * (x - mean_hw) / std_hw + (1 - rho) * (x - mean_chw) / std_chw) + beta
// Standard deviations are biased for instance norm and unbiased for ILN, with eps inside the root.
struct NormSpec {
  ImageDims dims;
  float eps = 1e-5f;
  bool relu = false;              // y = max(y, 0) at the end
  bool per_sample_style = false;  // gamma and beta are (n, c) instead of (c)
  std::int64_t pad = 0;           // y is padded by reflection, (n, c, h + 2 pad, w + 2 pad); pad < h, w
  // Backward adds to ggamma, gbeta instead of overwriting them.
  bool add_to_gamma = false, add_to_beta = false;

  // Floats of the statistics that forward keeps for backward.
  std::int64_t stats_size() const { return 2 * dims.n * dims.c + 2 * dims.n; }
};

// y = terms[0] + terms[1] + ..., added in that order. y may be one of the terms (in place).
struct Sum {
  std::int64_t size;
  std::vector<const float*> terms;  // at least one
  float* y;
};

enum class Loss { none, mean, mse, l1, bce };

// A mean over `size` elements of what an element x costs, target t:
//   mean x, mse (x - t)^2, l1 |x - t|, bce the binary cross entropy of the logit x; none costs nothing.
struct LossTerm {
  Loss loss;
  std::int64_t size;
  const float* x;        // not read for none
  const float* targets;  // of l1: one for each element; else null
  float target;          // of mse and bce
  float weight;          // of the gradient
  const float* gy;       // one float on the device, or null for 1
  float* value;          // or null
  float* gx;             // or null: the gradient of weight gy times the mean
};

// One parameter tensor of an optimiser, updated in place.
struct AdamTensor {
  float* value;
  const float* grad;
  float* exp_avg;
  float* exp_avg_sq;
  std::int64_t size;
  bool clamp01;  // clamp the new value into [0, 1] (rho)
};

// What is the same for every step of an optimiser.
struct AdamSettings {
  double beta1, beta2, eps, weight_decay;
};

// What changes from step to step. It lives in device memory, so that a recorded step can be replayed with new values.
struct AdamRates {
  float step_size;                // -lr / (1 - beta1^step), step 1 being the first
  float root_of_bias_correction;  // sqrt(1 - beta2^step)
};

// One matrix of a batched power iteration: plain w (rows, cols), u (rows), v (cols), all on the device.
struct SpectralMatrix {
  std::int64_t rows, cols;
  const float* w;
  // If iterating, kept_u and kept_v are the vectors to iterate from, and become the new ones; u and v get them too, for
  // good. Else kept_u and kept_v are the vectors, and u and v are not touched.
  float *kept_u, *kept_v;
  float *u, *v;
  float* sigma;  // one float
  float* wn;     // (rows, cols) or null
};

// Of one matrix, on the device.
struct SingularVectors {
  const float *u, *v;
};

// factor[0] u v^T, a matrix of rank one; all on the device.
struct OuterProduct {
  const float *factor, *u, *v;
};

// The logits of a class activation map: logit[sample, part] = pooled[part, sample] . w / sigma[group of the sample],
// where pooled is (parts, n, c), the logits (n, parts), and every part has a weight of its own.
struct CamPart {
  const float* w;      // (c)
  float* gw;           // of backward, (c) or null
  const float* sigma;  // one for each group; null for 1
  // Of each group (host list), if sigma was computed from w, as u w . v: one u, and v (c).
  std::span<const SingularVectors> vectors;
};

// What follows a convolution by a weight that is not yet divided by sigma.
struct DivisionSpec {
  ImageDims dims;                        // of x
  std::span<const std::int64_t> groups;  // (host) cuts the batch into consecutive groups of so many samples
  float slope = 1;                       // of a leaky ReLU after the bias; 1 is none. Positive, or 0 without divisor
  std::int64_t pad = 0;                  // y is padded by reflection, (n, c, h + 2 pad, w + 2 pad); pad < h, w
};

// One piece of a download.
struct Download {
  void* host;
  const void* device;
  std::size_t bytes;
};

// A download under way. One that is destroyed first leaves the host memory unwritten.
class PendingDownload {
 public:
  virtual ~PendingDownload() = default;
  virtual bool ready() const = 0;  // whether wait() returns at once
  virtual void wait() = 0;         // until the pieces are in host memory; throws Error if the device has failed
};

// Device memory that is filled from the host beside the device's other work. Each filling comes after the reads of the
// one before, each read after the filling before it; nothing else waits for either.
class UploadBuffer {
 public:
  virtual ~UploadBuffer() = default;
  // Has read `host` when it returns; returns before the bytes have arrived.
  virtual void fill(const void* host, std::size_t bytes) = 0;
  // Calls use(memory), which asks for operations that read the memory.
  virtual void read(const std::function<void(const void* memory)>& use) = 0;
};

// Operations that the device repeats by itself, on the same memory.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void replay() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual DeviceType type() const = 0;
  // For users: "CPU", or the name of the GPU.
  virtual std::string name() const = 0;
  // Block of an image buffer with this many channels on this device.
  virtual std::int64_t channel_block(std::int64_t channels) const = 0;

  // --- how convolutions compute; set while no other thread uses the device -------------------------------------------
  // fp32 unless set. Throws Error, in a sentence for users, when the device lacks the precision.
  virtual void set_precision(Precision precision) = 0;
  virtual Precision precision() const = 0;
  // By default the algorithm of a convolution is a fixed function of its use and the device. With benchmark on, each
  // use is measured when it first occurs, and the fastest algorithm is kept: it may differ between runs, and with it
  // the rounding. Turning benchmark off forgets the choices.
  virtual void set_benchmark(bool on) = 0;
  // The choices made so far, in a fixed order; none with benchmark off.
  virtual std::vector<ConvChoice> conv_choices() const = 0;
  // Replaces the choices, so that these uses compute as they did where conv_choices returned them. A use whose
  // algorithm the device lacks gets the one that it has without benchmark. Does nothing with benchmark off.
  virtual void set_conv_choices(std::span<const ConvChoice> choices) = 0;

  // --- memory -------------------------------------------------------------------------------------------------------
  // Aligned to 64 bytes or more. Throws OutOfMemory (memory_holder.h).
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void deallocate(void* memory) = 0;
  // The functions below return before the device has done what they ask for; all of it happens in the order of the
  // calls, but for the fillings of upload buffers. An upload has read `host` when it returns.
  virtual void upload(void* device, const void* host, std::size_t bytes) = 0;
  // A buffer in `memory`, which is the buffer's alone while it lives.
  virtual std::unique_ptr<UploadBuffer> upload_buffer(void* memory) = 0;
  // The host memory of the pieces is written by the result's wait(). What is larger than a few MiB in all is waited for
  // at once.
  virtual std::unique_ptr<PendingDownload> begin_download(std::span<const Download> pieces) = 0;
  void download(std::span<const Download> pieces) { begin_download(pieces)->wait(); }
  void download(void* host, const void* device, std::size_t bytes) {
    const Download piece{host, device, bytes};
    download(std::span(&piece, 1));
  }
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  virtual void synchronize() = 0;  // waits for everything asked for so far
  // Seconds between the end of everything asked for before and the end of what `work` asks for, by the device's clock.
  // Waits for the latter.
  virtual double measure(const std::function<void()>& work) = 0;

  // --- recording ----------------------------------------------------------------------------------------------------
  // What is asked for between the two calls is recorded instead of done. Meanwhile the functions that allocate or wait
  // throw Error, and uploads are refused: every value that changes between replays lives in device memory. No other
  // thread uses the device meanwhile. Throws Error on a device that cannot record.
  virtual bool can_record() const = 0;
  virtual void begin_recording() = 0;
  virtual std::unique_ptr<Recording> end_recording() = 0;

  // --- layout -------------------------------------------------------------------------------------------------------
  virtual void image_to_plain(const ImageDims& dims, const float* image, float* plain) = 0;
  virtual void plain_to_image(const ImageDims& dims, const float* plain, float* image) = 0;
  // Bytes (n, h, w, c) to an image in [-1, 1]: (p / 255 - 0.5) / 0.5, in float.
  virtual void bytes_to_image(const ImageDims& dims, const std::uint8_t* bytes, float* image) = 0;

  // --- convolution and linear (bias and gbias are (out) or null) ----------------------------------------------------
  // prepared, or null: belongs to w, whose values stay as they are until it is cleared; what the kernels make of them
  // may be kept there, and the algorithm be one that gains by it. Without it w is as good as new in every call.
  virtual void conv_forward(const ConvDims& dims, const float* x, const float* w, const float* bias, float* y,
                            PreparedWeights* prepared) = 0;
  virtual void conv_backward_data(const ConvDims& dims, const float* gy, const float* w, float* gx) = 0;
  virtual void conv_backward_weights(const ConvDims& dims, const float* x, const float* gy, float* gw,
                                     float* gbias) = 0;
  // The same with kernel 3, stride 1, no padding and no bias of upsample_nearest_forward(x, scale 2, pad 1), which is
  // dims.in; x and gx are the small image. memory: upsampled_conv_memory(dims) floats to work with.
  virtual std::int64_t upsampled_conv_memory(const ConvDims& dims) const = 0;
  virtual void upsampled_conv_forward(const ConvDims& dims, const float* x, const float* w, float* memory,
                                      float* y) = 0;
  virtual void upsampled_conv_backward_data(const ConvDims& dims, const float* gy, const float* w, float* memory,
                                            float* gx) = 0;
  virtual void upsampled_conv_backward_weights(const ConvDims& dims, const float* x, const float* gy, float* memory,
                                               float* gw) = 0;
  virtual void linear_forward(const LinearDims& dims, const float* x, const float* w, const float* bias, float* y) = 0;
  // y is read for relu only. gx, gw, gbias each or null; with add_to_gx, gx is added to instead of overwritten.
  virtual void linear_backward(const LinearDims& dims, const float* x, const float* w, const float* y, const float* gy,
                               bool add_to_gx, float* gx, float* gw, float* gbias) = 0;

  // --- geometry: `in` is the small image ----------------------------------------------------------------------------
  // y (n, c, h + 2 pad, w + 2 pad), borders mirrored without repeating the edge; needs pad < h, w.
  virtual void reflection_pad_forward(const ImageDims& in, std::int64_t pad, const float* x, float* y) = 0;
  // With add, gx is added to instead of overwritten.
  virtual void reflection_pad_backward(const ImageDims& in, std::int64_t pad, const float* gy, bool add, float* gx) = 0;
  // y (n, c, scale h, scale w), y[i, j] = x[i / scale, j / scale], then padded by reflection.
  virtual void upsample_nearest_forward(const ImageDims& in, std::int64_t scale, std::int64_t pad, const float* x,
                                        float* y) = 0;
  virtual void upsample_nearest_backward(const ImageDims& in, std::int64_t scale, std::int64_t pad, const float* gy,
                                         float* gx) = 0;

  // --- normalisation ------------------------------------------------------------------------------------------------
  // rho (c), gamma and beta (c) or (n, c); all three null for instance norm. residual (an image, or null) is added
  // last, before padding.
  virtual void norm_forward(const NormSpec& spec, const float* x, const float* rho, const float* gamma,
                            const float* beta, const float* residual, float* y, float* stats) = 0;
  // gy is padded as y is. gx, grho, ggamma, gbeta each or null. The residual's gradient is gy itself (with its padding
  // folded back) and not written here.
  virtual void norm_backward(const NormSpec& spec, const float* x, const float* rho, const float* gamma,
                             const float* beta, const float* stats, const float* gy, float* gx, float* grho,
                             float* ggamma, float* gbeta) = 0;

  // --- pointwise on `size` floats of any layout ---------------------------------------------------------------------
  // slope is leaky_relu's.
  virtual void activation_forward(Activation f, float slope, std::int64_t size, const float* x, float* y) = 0;
  // From the activation's output y: gx = gy * f'(x).
  virtual void activation_backward(Activation f, float slope, std::int64_t size, const float* y, const float* gy,
                                   float* gx) = 0;
  virtual void fill(std::int64_t size, float value, float* y) = 0;
  // Every sum of the list (host memory), at once: none reads what another writes.
  virtual void add(std::span<const Sum> sums) = 0;
  void add(std::int64_t size, const float* a, const float* b, float* y) {  // y may be a or b (in place)
    const Sum sum{size, {a, b}, y};
    add(std::span(&sum, 1));
  }
  virtual void multiply(std::int64_t size, const float* a, const float* b, float* y) = 0;
  virtual void scale(std::int64_t size, float factor, const float* x, float* y) = 0;
  // y = x * s[0], s on the device.
  virtual void scale_by(std::int64_t size, const float* s, const float* x, float* y) = 0;

  // --- channels -----------------------------------------------------------------------------------------------------
  // Global pooling to plain (n, c) in one pass: mean, maximum and the pixel of the first maximum; each or null (argmax
  // with max).
  virtual void global_pool_forward(const ImageDims& dims, const float* x, float* mean, float* max,
                                   std::int32_t* argmax) = 0;
  // The sum of both gradients; gmean is (n, c) or null, gmax likewise, with its argmax. With add, gx is added to
  // instead of overwritten.
  virtual void global_pool_backward(const ImageDims& dims, const float* gmean, const float* gmax,
                                    const std::int32_t* argmax, bool add, float* gx) = 0;
  // y = (a, b) along channels; backward splits.
  virtual void concat_forward(const ImageDims& a_dims, const ImageDims& b_dims, const float* a, const float* b,
                              float* y) = 0;
  virtual void concat_backward(const ImageDims& a_dims, const ImageDims& b_dims, const float* gy, float* ga,
                               float* gb) = 0;  // ga, gb each or null
  // y = x * s[c] or, unless second is null, (x * s[c], x * second[c]) along channels, an image of 2 c of them. gx, gs
  // and gsecond each or null; with add, gx is added to instead of overwritten.
  virtual void scale_channels_forward(const ImageDims& dims, const float* x, const float* s, const float* second,
                                      float* y) = 0;
  virtual void scale_channels_backward(const ImageDims& dims, const float* x, const float* s, const float* second,
                                       const float* gy, bool add, float* gx, float* gs, float* gsecond) = 0;
  // y (n, 1, h, w) = sum of x over channels.
  virtual void sum_channels_forward(const ImageDims& dims, const float* x, float* y) = 0;
  virtual void sum_channels_backward(const ImageDims& dims, const float* gy, float* gx) = 0;

  // --- losses -------------------------------------------------------------------------------------------------------
  // Every term of the list (host memory), value and gradient, at once. Evaluated as the reference does: elementwise in
  // float, in the order of PyTorch's operations.
  virtual void losses(std::span<const LossTerm> terms) = 0;

  // --- class activation map -----------------------------------------------------------------------------------------
  // groups as in DivisionSpec, parts host lists.
  virtual void cam_logits_forward(std::int64_t n, std::int64_t c, std::span<const std::int64_t> groups,
                                  std::span<const CamPart> parts, const float* pooled, float* logits) = 0;
  // From the logits and their gradient. gpooled or null. gw is all of the gradient, that through sigma included.
  virtual void cam_logits_backward(std::int64_t n, std::int64_t c, std::span<const std::int64_t> groups,
                                   std::span<const CamPart> parts, const float* pooled, const float* logits,
                                   const float* glogits, float* gpooled) = 0;

  // --- spectral norm ------------------------------------------------------------------------------------------------
  // Of every matrix: if iterate, v = normalize(W^T u), u = normalize(W v), in place and copied (SpectralMatrix). Then
  // sigma[0] = u^T W v and, unless wn is null, wn = W / sigma.
  virtual void spectral_norm_forward(bool iterate, std::span<const SpectralMatrix> matrices) = 0;
  // gw = gwn / sigma - (gwn . W / sigma^2) u v^T, with u and v constant.
  virtual void spectral_norm_backward(std::int64_t rows, std::int64_t cols, const float* w, const float* u,
                                      const float* v, const float* sigma, const float* gwn, float* gw) = 0;
  // gw += sum over products of factor[0] u v^T, in place.
  virtual void add_outer_products(std::int64_t rows, std::int64_t cols, std::span<const OuterProduct> products,
                                  float* gw) = 0;
  // y = leaky(x / divisor[k] + bias[c]), padded, where k is the group of the sample. divisor null for 1. bias (c) or
  // null. y may be x where there is no padding (in place).
  virtual void divide_samples_forward(const DivisionSpec& spec, const float* divisor, const float* bias, const float* x,
                                      float* y) = 0;
  // From the result y, with g = gy, padding folded back, times leaky': gx = g / divisor[k], gdivisor[k] (or null) =
  // -(sum of g x / divisor[k]) / divisor[k], gbias (or null) = sum of g.
  virtual void divide_samples_backward(const DivisionSpec& spec, const float* divisor, const float* bias,
                                       const float* y, const float* gy, float* gx, float* gdivisor, float* gbias) = 0;

  // --- optimiser ----------------------------------------------------------------------------------------------------
  // Adam with L2 weight decay added to the gradient (torch.optim.Adam), all tensors in one call. The list is host
  // memory, rates one AdamRates on the device.
  virtual void adam(const AdamSettings& settings, const AdamRates* rates, std::span<const AdamTensor> tensors) = 0;
};

// The backend of a device; throws Error when this build or machine has none.
Backend& backend_of(DeviceType device);
// Each of kernels/cuda and, for builds without it, no_cuda.cpp defines this. Everybody else calls backend_of.
Backend& cuda_backend_of_this_build();

// For tools and tests only: while it lives, backend_of(device) gives `substitute`, which is meant to wrap the backend
// that it stands in for. Memory outlives the scope, so allocate and deallocate must be those of the wrapped backend.
// Scopes nest; they begin and end while no other thread uses the device.
class ReplacedBackend {
 public:
  ReplacedBackend(DeviceType device, Backend& substitute);
  ~ReplacedBackend();
  ReplacedBackend(const ReplacedBackend&) = delete;
  ReplacedBackend& operator=(const ReplacedBackend&) = delete;

 private:
  DeviceType device_;
  Backend* previous_;  // null: the device's own
};

}  // namespace minidl
