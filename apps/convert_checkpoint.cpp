// convert_checkpoint: networks from one file format to another, and what a file holds.
#include <algorithm>
#include <iostream>

#include "apps/command_line.h"
#include "apps/convert_options.h"
#include "models/checkpoint.h"
#include "models/checkpoint_conversion.h"
#include "models/onnx_export.h"

namespace {

using namespace minidl;

// ONNX holds one generator: A2B unless the file or the flag says otherwise.
void convert_to_onnx(const ArrayFile& file, const CheckpointInfo& info, const ConvertOptions& o) {
  const std::string direction = !o.direction.empty() ? o.direction : !info.direction.empty() ? info.direction : "A2B";
  std::optional<Generator> generator = load_generator(file, info, direction);
  check(generator.has_value(), o.input, " holds the generator ", info.direction, " only, not ", direction);
  write_onnx(o.output, *generator, direction, std::max<std::int64_t>(info.step, 0));
  if (o.direction.empty() && info.kind != CheckpointInfo::Kind::generator)
    std::cout << "taking the generator A2B; --direction B2A takes the other\n";
}

int convert(const ConvertOptions& o) {
  const auto file = open_array_file(o.input);
  if (o.info) {
    std::cout << description_of(*file);
    return 0;
  }
  std::error_code ignored;
  check(!std::filesystem::equivalent(o.input, o.output, ignored), o.output, " is the file to read; choose another OUT");
  CheckpointInfo info = checkpoint_info(*file);
  if (o.img_size != 0) {
    check(info.options.light || info.options.image_size == o.img_size, o.input, " is a full model for images of ",
          info.options.image_size, " x ", info.options.image_size, "; leave --img_size out");
    info.options.image_size = o.img_size;
  } else if (!info.size_known) {
    std::cout << o.input << " does not say for which image size its light model was trained; taking "
              << info.options.image_size << ", --img_size says otherwise\n";
  }
  if (std::filesystem::path(o.output).extension() == ".onnx") {
    convert_to_onnx(*file, info, o);
    std::cout << "wrote " << o.output << '\n';
    return 0;
  }
  convert_checkpoint(*file, info, o.direction, o.output);
  if (o.direction.empty() && info.kind == CheckpointInfo::Kind::training)
    std::cout << "left out: Adam's moments and the random state, which only a training checkpoint holds\n";
  if (o.direction.empty() && info.kind == CheckpointInfo::Kind::networks && !foreign_arrays(*file, info).empty())
    std::cout << "left out: " << foreign_arrays(*file, info) << '\n';
  std::cout << "wrote " << o.output << '\n';
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return run_program("convert_checkpoint", argv, [&] {
    const auto options = parse_convert_command(argc, argv);
    return options ? convert(*options) : 0;
  });
}
