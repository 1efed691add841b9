#include "apps/convert_options.h"

#include "apps/command_line.h"

namespace minidl {

std::optional<ConvertOptions> parse_convert_command(int argc, const char* const* argv) {
  ConvertOptions o;
  std::vector<std::string> words;
  CommandLine line(
      "convert_checkpoint",
      "Converts networks between .safetensors and the official program's .pt, bit for bit, and to .onnx. The extension "
      "of OUT says the format.");
  line.flag("info", o.info, "print what IN holds instead");
  line.flag("direction", o.direction, "A2B or B2A: convert that generator alone", {"", "A2B", "B2A"});
  line.flag("img_size", o.img_size,
            "the image size for which a light model was trained, where IN does not say; 0: the size in IN, else 256",
            {0, 16384});
  line.positional(words, "IN OUT, or --info IN");
  if (!line.parse(argc, argv)) return std::nullopt;
  const std::size_t expected = o.info ? 1 : 2;
  if (words.size() != expected)
    throw UsageError(o.info ? "give --info one file"
                            : "give a file to read and one to write: convert_checkpoint IN OUT");
  if (o.img_size != 0 && (o.img_size < 16 || o.img_size % 4 != 0))
    throw UsageError(concat_text("--img_size must be a multiple of 4, at least 16, not ", o.img_size));
  o.input = words[0];
  if (!o.info) o.output = words[1];
  return o;
}

}  // namespace minidl
