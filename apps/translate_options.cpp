#include "apps/translate_options.h"

#include "apps/command_line.h"

namespace minidl {

std::optional<TranslateOptions> parse_translate_command(int argc, const char* const* argv) {
  TranslateOptions o;
  std::vector<std::string> words;
  CommandLine line(
      "translate_images",
      "Translates images with a trained U-GAT-IT. INPUT are images, folders or both; OUTPUT is a file for one "
      "image, else a folder.");
  line.flag("checkpoint", o.checkpoint, "a training checkpoint, a deployed generator, or the official program's .pt");
  line.flag("direction", o.direction, "A2B or B2A; A2B unless the file holds only the other", {"", "A2B", "B2A"});
  line.flag("size", o.size,
            "side in pixels that images are resized to, or native for the image's own size (light models)");
  line.flag("heatmap", o.heatmap, "also write NAME_heatmap: the attention of the model over the image");
  line.flag("strip", o.strip, "also write NAME_strip: image, heat maps, translation and way back, one below the other");
  line.flag("keep_size", o.keep_size, "bring the result back to the size of the source");
  line.flag("format", o.format, "png or jpg; by the name of OUTPUT if that is a file, else png", {"", "png", "jpg"});
  line.flag("batch_size", o.batch_size, "images computed at a time", {1, 1024});
  line.flag("threads", o.threads, "threads to compute with; 0 takes every core", {0, 1024});
  line.flag("device", o.device, "where to compute", {"auto", "cpu", "cuda"});
  line.flag("precision", o.precision,
            "fp32, or tf32 (GPU) or bf16 to round the operands of convolutions to that format where it is faster",
            {"fp32", "tf32", "bf16"});
  line.positional(words, "INPUT... OUTPUT");
  if (!line.parse(argc, argv)) return std::nullopt;

  if (o.checkpoint.empty())
    throw UsageError("--checkpoint is missing: name a file that train_ugatit, or the official program, has written");
  if (words.size() < 2)
    throw UsageError("give at least one INPUT and an OUTPUT: translate_images --checkpoint FILE INPUT... OUTPUT");
  if (!o.size.empty() && o.size != "native") {
    const bool number = o.size.size() <= 5 && o.size.find_first_not_of("0123456789") == std::string::npos;
    const long size = number ? std::stol(o.size) : 0;
    if (size < 16 || size > 16384 || size % 4 != 0)
      throw UsageError("--size must be native or a multiple of 4 from 16 to 16384, not '" + o.size + "'");
  }
  o.output = words.back();
  words.pop_back();
  o.inputs = std::move(words);
  return o;
}

}  // namespace minidl
