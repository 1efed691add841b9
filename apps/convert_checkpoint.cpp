// convert_checkpoint: networks from one file format to another, and what a file holds.
#include <iostream>

#include "apps/command_line.h"
#include "apps/convert_options.h"
#include "models/checkpoint_conversion.h"
#include "models/onnx_export.h"

namespace {

using namespace minidl;

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
  const std::string left_out =
      convert_checkpoint(*file, info, o.direction, o.output,
                         [](const std::filesystem::path& target, Generator& generator, const std::string& direction,
                            std::int64_t step) { write_onnx(target, generator, direction, step); });
  if (!left_out.empty()) std::cout << "left out: " << left_out << '\n';
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
