#include "apps/translation_plan.h"

#include <algorithm>
#include <map>

#include "core/check.h"
#include "core/image_folder.h"

namespace minidl {
namespace {

namespace fs = std::filesystem;

bool names_folder(const fs::path& path) { return fs::is_directory(path) || !path.has_filename(); }

// OUTPUT as a file: its extension decides the format unless --format does.
fs::path output_file(const TranslateOptions& o) {
  const fs::path path = o.output;
  const std::string extension = lower_extension(path);
  const std::string named = extension == ".png" ? "png" : extension == ".jpg" || extension == ".jpeg" ? "jpg" : "";
  check(extension.empty() || !named.empty(), "cannot write ", path.string(), ": results are .png or .jpg");
  check(named.empty() || o.format.empty() || named == o.format, "OUTPUT ", path.string(),
        " does not agree with --format ", o.format);
  if (!named.empty()) return path;
  return path.string() + "." + (o.format.empty() ? "png" : o.format);
}

TranslationItem item_for(const TranslateOptions& o, const fs::path& input, const fs::path& output) {
  TranslationItem item{input, output, {}, {}};
  const auto beside = [&](const char* suffix) {
    return output.parent_path() / (output.stem().string() + suffix + output.extension().string());
  };
  if (o.heatmap) item.heatmap = beside("_heatmap");
  if (o.strip) item.strip = beside("_strip");
  return item;
}

void check_collisions(const TranslationPlan& plan) {
  std::map<fs::path, fs::path> writer, inputs;  // output, or canonical input, -> input
  for (const TranslationItem& item : plan.items) inputs[fs::weakly_canonical(item.input)] = item.input;
  for (const TranslationItem& item : plan.items)
    for (const fs::path& output : {item.output, item.heatmap, item.strip}) {
      if (output.empty()) continue;
      const fs::path canonical = fs::weakly_canonical(output);
      const auto [other, fresh] = writer.emplace(canonical, item.input);
      check(fresh, other->second.string(), " and ", item.input.string(), " would both be written to ", output.string(),
            "; rename one of them or translate them apart");
      check(!inputs.count(canonical), "the result ", output.string(), " would replace an input; choose another OUTPUT");
    }
}

}  // namespace

std::string lower_extension(const fs::path& file) {
  std::string extension = file.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return extension;
}

TranslationPlan plan_translation(const TranslateOptions& o) {
  TranslationPlan plan;
  const fs::path output = o.output;
  const std::string extension = o.format.empty() ? ".png" : "." + o.format;
  std::error_code ignored;  // a name that the system cannot even look up does not exist either
  for (const std::string& input : o.inputs) check(fs::exists(input, ignored), "there is no file or folder ", input);
  if (o.inputs.size() == 1 && !fs::is_directory(o.inputs[0]) && !names_folder(output)) {
    plan.items.push_back(item_for(o, o.inputs[0], output_file(o)));
  } else {
    check(!fs::exists(output) || fs::is_directory(output), "OUTPUT ", o.output,
          " is a file; several images need a folder");
    for (const fs::path input : o.inputs) {
      if (!fs::is_directory(input)) {
        plan.items.push_back(item_for(o, input, (output / input.filename()).replace_extension(extension)));
        continue;
      }
      const fs::path relative = fs::weakly_canonical(output).lexically_relative(fs::weakly_canonical(input));
      check(relative.empty() || *relative.begin() == "..", "OUTPUT ", o.output, " lies inside the input folder ",
            input.string(), ", where the next run would find it; choose another");
      const ImageFolder folder(input);
      for (const fs::path& file : folder.names())
        plan.items.push_back(item_for(o, input / file, (output / file).replace_extension(extension)));
      for (const fs::path& file : folder.unsupported()) plan.unsupported.push_back(input / file);
      for (const fs::path& link : folder.linked_folders()) plan.linked_folders.push_back(input / link);
    }
  }
  check_collisions(plan);
  return plan;
}

}  // namespace minidl
