// Translates images with one generator: loading, computing and writing overlap.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "apps/translate_options.h"
#include "apps/translation_plan.h"
#include "core/image.h"
#include "models/checkpoint.h"

namespace minidl {

// What a checkpoint offers for one direction.
struct TranslationModel {
  UgatitOptions options;
  bool size_known = true;  // else options.image_size is a guess (CheckpointInfo)
  std::string direction;
  Generator forward;
  std::optional<Generator> back;  // absent from a file of a single generator
};

// Loads what `options` ask for. Throws Error if the file does not hold it.
TranslationModel load_translation_model(const TranslateOptions& options);

// How an image is brought to the size at which it is computed.
struct ComputeSize {
  int width = 0, height = 0;  // what the network sees
  int cut_width, cut_height;  // of that, the part that is the image; the rest is padding to a multiple of 4
};

class Translator {
 public:
  // Throws Error if the options ask for a size that the model cannot take.
  Translator(TranslationModel model, const TranslateOptions& options, DeviceType device);

  // Translates every item of the plan. A file that cannot be read or written is reported and skipped. Stops early, with
  // what is under way finished, once `stop` returns true. Returns the number of items that failed.
  std::int64_t run(const TranslationPlan& plan, const std::function<bool()>& stop,
                   const std::function<void(std::int64_t done)>& progress,
                   const std::function<void(const std::string&)>& report);

 private:
  struct Loaded;
  struct Result;

  ComputeSize compute_size(int width, int height) const;
  Loaded load(const TranslationItem& item) const;
  std::vector<Result> compute(std::vector<Loaded>& batch);
  void write(const Result& result) const;
  std::vector<std::uint8_t> encoded(const Image& image, const std::filesystem::path& file) const;

  TranslationModel model_;
  TranslateOptions options_;
  DeviceType device_;
  int size_ = 0;  // 0: native
};

}  // namespace minidl
