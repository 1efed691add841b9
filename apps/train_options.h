// The flags of train_ugatit, with the reference's names and defaults.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "models/checkpoint_info.h"

namespace minidl {

struct TrainOptions {
  std::string phase = "train";
  std::string dataset = "YOUR_DATASET_NAME";
  std::string result_dir = "results";
  std::string device = "auto";

  bool light = false;
  std::int64_t ch = 64;
  std::int64_t n_res = 4;
  std::int64_t n_dis = 6;
  std::int64_t img_size = 256;
  std::int64_t img_ch = 3;

  std::int64_t iteration = 1'000'000;
  std::int64_t batch_size = 1;
  bool decay_flag = true;
  double lr = 1e-4;
  double weight_decay = 1e-4;
  double adv_weight = 1;
  double cycle_weight = 10;
  double identity_weight = 10;
  double cam_weight = 1000;

  std::int64_t print_freq = 1000;
  std::int64_t save_freq = 100'000;
  std::int64_t latest_freq = 1000;
  std::int64_t keep = 0;
  bool resume = false;
  std::string resume_from;  // a checkpoint to continue from
  std::string init_from;    // a checkpoint to take the networks from
  bool overwrite = false;
  std::int64_t seed = -1;  // negative: not given
  std::int64_t threads = 0;
  bool benchmark_flag = false;
  std::string precision = "fp32";
  bool cuda_graph = false;

  UgatitOptions model() const;
  UgatitTrainingOptions training() const;
  // The last component of --dataset: the name of the run.
  std::string name() const;
};

struct TrainCommand {
  TrainOptions options;
  std::set<std::string> given;  // names of the flags on the command line
};

// Throws UsageError for a command line that cannot be obeyed; nullopt if only --help or --version was asked for.
std::optional<TrainCommand> parse_train_command(int argc, const char* const* argv);

// The options as a checkpoint stores them, and back; names are the flags'.
nlohmann::json to_json(const TrainOptions& options);
TrainOptions train_options_from_json(const nlohmann::json& json);

// The options of a resumed run: what the checkpoint stored, overridden by the flags given anew, each override described
// by a line in `notes`. Throws Error if a flag that fixes the networks differs.
TrainOptions merged_options(const TrainOptions& stored, const TrainCommand& command, std::vector<std::string>& notes);

// The options of a run that begins with the networks of a file: those of the command, with what the networks fix. Of a
// light model, which takes any size, the size is the command's if given there; `notes` say where it is a guess. Throws
// Error if a flag that fixes the networks differs.
TrainOptions options_with_networks(const CheckpointInfo& networks, const TrainCommand& command,
                                   std::vector<std::string>& notes);

}  // namespace minidl
