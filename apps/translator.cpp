#include "apps/translator.h"

#include <algorithm>
#include <future>

#include "apps/sheet.h"
#include "core/check.h"
#include "core/file.h"
#include "core/ordered_pipeline.h"

namespace minidl {
namespace {

// The smallest side that the generator's pads and strides can take.
constexpr int kSmallestSide = 16;

int padded_side(int side) { return std::max(kSmallestSide, (side + 3) / 4 * 4); }

// The image with its last column and row repeated up to width x height.
Image padded(const Image& image, int width, int height) {
  if (image.width == width && image.height == height) return image;
  Image out(width, height, image.channels);
  for (int y = 0; y < height; ++y) {
    const std::uint8_t* from = image.row(std::min(y, image.height - 1));
    for (int x = 0; x < width; ++x)
      std::copy_n(from + std::min(x, image.width - 1) * image.channels, image.channels, out.row(y) + x * out.channels);
  }
  return out;
}

// Half the image, half the heat map.
Image overlay(const Image& image, const Image& heat) {
  Image out(image.width, image.height, 3);
  for (std::size_t pixel = 0; pixel < out.pixels.size() / 3; ++pixel)
    for (std::size_t c = 0; c < 3; ++c) {
      const int value = image.channels == 3 ? image.pixels[3 * pixel + c] : image.pixels[pixel];
      out.pixels[3 * pixel + c] = static_cast<std::uint8_t>((value + heat.pixels[3 * pixel + c] + 1) / 2);
    }
  return out;
}

}  // namespace

TranslationModel load_translation_model(const TranslateOptions& o) {
  const std::unique_ptr<ArrayFile> opened = open_array_file(o.checkpoint);
  const ArrayFile& file = *opened;
  const CheckpointInfo info = checkpoint_info(file);
  const bool single = info.kind == CheckpointInfo::Kind::generator;
  const std::string direction = !o.direction.empty() ? o.direction : !info.direction.empty() ? info.direction : "A2B";
  std::optional<Generator> forward = load_generator(file, direction);
  check(forward.has_value(), o.checkpoint, " holds the generator ", info.direction, " only; --direction ", direction,
        " needs another file");
  std::optional<Generator> back;
  if (!single && o.strip) back = load_generator(file, direction == "A2B" ? "B2A" : "A2B");
  return {info.options, info.size_known, direction, std::move(*forward), std::move(back)};
}

// An image as read: the pixels that the network sees, and the source's size for --keep_size.
struct Translator::Loaded {
  const TranslationItem* item;
  Image image;
  ComputeSize size;
  int source_width, source_height;
};

struct Translator::Result {
  const TranslationItem* item;
  int source_width, source_height;
  Image translation, heatmap, strip;  // the latter two empty unless asked for
};

Translator::Translator(TranslationModel model, const TranslateOptions& options, DeviceType device)
    : model_(std::move(model)), options_(options), device_(device) {
  move_to(model_.forward, device);
  if (model_.back) move_to(*model_.back, device);
  const UgatitOptions& m = model_.options;
  if (options.size == "native") {
    check(m.light, "--size native needs a light model; this full model only takes images of ", m.image_size, " x ",
          m.image_size);
    return;
  }
  size_ = options.size.empty() ? static_cast<int>(m.image_size) : std::stoi(options.size);
  check(m.light || size_ == m.image_size, "this full model only takes images of ", m.image_size, " x ", m.image_size,
        ", not of ", size_, "; leave --size out");
}

ComputeSize Translator::compute_size(int width, int height) const {
  if (size_ > 0) return {size_, size_, size_, size_};
  return {padded_side(width), padded_side(height), width, height};
}

Translator::Loaded Translator::load(const TranslationItem& item) const {
  const std::vector<std::uint8_t> bytes = read_file(item.input);
  Image image = apply_orientation(decode_image(bytes, item.input.string()), exif_orientation(bytes));
  if (model_.options.image_channels == 1) image = to_grey(image);
  const int width = image.width, height = image.height;
  const ComputeSize size = compute_size(width, height);
  image = size_ > 0 ? resize_bilinear(image, size_, size_) : padded(image, size.width, size.height);
  return {&item, std::move(image), size, width, height};
}

// All images of a batch have one size.
std::vector<Translator::Result> Translator::compute(std::vector<Loaded>& batch) {
  const NoGrad no_grad;
  const ComputeSize size = batch.front().size;
  const std::int64_t n = static_cast<std::int64_t>(batch.size()), channels = batch.front().image.channels;
  std::vector<std::uint8_t> pixels;
  for (const Loaded& loaded : batch)
    pixels.insert(pixels.end(), loaded.image.pixels.begin(), loaded.image.pixels.end());
  const Tensor real = images_to_tensor(pixels, n, size.height, size.width, channels, device_);
  const Generator::Output fake = model_.forward(real);
  std::optional<Generator::Output> same, cycle;
  if (options_.strip && model_.back) {
    same = (*model_.back)(real);
    cycle = (*model_.back)(fake.image);
  }

  const auto cut = [&](const Image& image, const Loaded& loaded) {
    return crop(image, 0, 0, loaded.size.cut_height, loaded.size.cut_width);
  };
  std::vector<Result> results;
  for (std::int64_t i = 0; i < n; ++i) {
    const Loaded& loaded = batch[static_cast<std::size_t>(i)];
    const auto picture = [&](const Generator::Output& out) { return cut(tensor_to_image(out.image, i), loaded); };
    const auto heat = [&](const Generator::Output& out) {
      return cut(heat_map_of(out.heatmap(), size.width, size.height, i), loaded);
    };
    const Image source = cut(loaded.image, loaded);
    Result result{loaded.item, loaded.source_width, loaded.source_height, picture(fake), {}, {}};
    if (options_.heatmap) result.heatmap = overlay(source, heat(fake));
    if (options_.strip) {
      std::vector<Image> column{source};
      if (same) column.insert(column.end(), {heat(*same), picture(*same)});
      column.insert(column.end(), {heat(fake), picture(fake)});
      if (cycle) column.insert(column.end(), {heat(*cycle), picture(*cycle)});
      result.strip = stacked(column);
    }
    results.push_back(std::move(result));
  }
  return results;
}

std::vector<std::uint8_t> Translator::encoded(const Image& image, const std::filesystem::path& file) const {
  return lower_extension(file) == ".png" ? encode_png(image) : encode_jpeg(image);
}

void Translator::write(const Result& result) const {
  const auto sized = [&](const Image& image) {
    return options_.keep_size ? resize_bilinear(image, result.source_width, result.source_height) : image;
  };
  const TranslationItem& item = *result.item;
  if (item.output.has_parent_path()) create_folders(item.output.parent_path());
  if (options_.heatmap) write_file(item.heatmap, encoded(sized(result.heatmap), item.heatmap));
  if (options_.strip) write_file(item.strip, encoded(result.strip, item.strip));
  write_file(item.output, encoded(sized(result.translation), item.output));
}

std::int64_t Translator::run(const TranslationPlan& plan, const std::function<bool()>& stop,
                             const std::function<void(std::int64_t)>& progress,
                             const std::function<void(const std::string&)>& report) {
  // Images on their way from the loader; a broken one travels as its message.
  struct Arrival {
    std::optional<Loaded> loaded;
    std::string error;
  };
  std::size_t next = 0;
  OrderedPipeline<Arrival> loader({.threads = 1, .capacity = static_cast<int>(2 * options_.batch_size + 2)},
                                  [&]() -> std::optional<OrderedPipeline<Arrival>::Job> {
                                    if (next == plan.items.size()) return std::nullopt;
                                    return [this, &item = plan.items[next++]]() -> Arrival {
                                      try {
                                        return {load(item), ""};
                                      } catch (const Error& error) {
                                        return {std::nullopt, error.what()};
                                      }
                                    };
                                  });

  std::int64_t done = 0, failed = 0;
  const auto finish = [&](const std::string& error) {
    ++done;
    if (!error.empty()) {
      ++failed;
      report(error);
    }
    progress(done);
  };
  // The batch before is written while this one is computed.
  std::future<std::vector<std::string>> writing;
  const auto await_writing = [&] {
    if (writing.valid())
      for (const std::string& error : writing.get()) finish(error);
  };
  std::vector<Loaded> batch;
  const auto flush = [&] {
    if (batch.empty()) return;
    auto results = compute(batch);
    batch.clear();
    await_writing();
    writing = std::async(std::launch::async, [this, results = std::move(results)] {
      std::vector<std::string> errors;
      for (const Result& result : results) try {
          write(result);
          errors.emplace_back();
        } catch (const Error& error) {
          errors.emplace_back(error.what());
        }
      return errors;
    });
  };
  while (!stop()) {
    std::optional<Arrival> arrival = loader.next();
    if (!arrival) break;
    if (!arrival->loaded) {
      finish(arrival->error);
      continue;
    }
    const ComputeSize size = arrival->loaded->size;
    if (!batch.empty() && (batch[0].size.width != size.width || batch[0].size.height != size.height)) flush();
    batch.push_back(std::move(*arrival->loaded));
    if (static_cast<std::int64_t>(batch.size()) == options_.batch_size) flush();
  }
  if (!stop()) flush();
  await_writing();
  return failed;
}

}  // namespace minidl
