// What the phases of train_ugatit share: finding the data set and the newest checkpoint, and describing a run.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "apps/run_folder.h"
#include "apps/train_options.h"

namespace minidl {

// --dataset as a folder: a name under dataset/, or a path. Throws Error if neither exists.
std::filesystem::path dataset_folder(const TrainOptions& options);

// The file of --resume_from, or else the newest readable checkpoint of a run that must have one. Throws Error
// otherwise.
std::unique_ptr<ArrayFile> require_checkpoint(const RunFolder& folder, const TrainOptions& options);

// Lets the device compute convolutions as the options say: --precision and --benchmark_flag, with the choices that the
// checkpoint holds, if one is given. Throws Error if the device lacks the precision.
void set_up_convolutions(DeviceType device, const TrainOptions& options, const ArrayFile* checkpoint);

// Prints `line` as a warning on stderr.
void warn(const std::string& line);

// Estimated peak memory of training in bytes: weights, gradients, moments and activations.
double training_memory(const TrainOptions& options, std::int64_t parameters);

// The summary that a training run begins with.
std::string run_summary(const TrainOptions& options, Ugatit& model, const RunFolder& folder, DeviceType device,
                        int threads);

// 1.2 GiB, 34 MiB.
std::string bytes_text(double bytes);

}  // namespace minidl
