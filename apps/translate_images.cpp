// translate_images: translates images and folders of images with a trained model.
#include <unistd.h>

#include <iostream>

#include "apps/command_line.h"
#include "apps/device.h"
#include "apps/interrupt.h"
#include "apps/progress.h"
#include "apps/translator.h"

int main(int argc, char** argv) {
  using namespace minidl;
  return run_program("translate_images", argv, [&] {
    const auto options = parse_translate_command(argc, argv);
    if (!options) return 0;
    const auto report = [](const std::string& line) { std::cerr << "translate_images: " << line << std::endl; };
    const TranslationPlan plan = plan_translation(*options);
    for (const auto& file : plan.unsupported)
      report(concat_text(file.string(), " is of a type that is not read and is left out"));
    for (const auto& link : plan.linked_folders)
      report(concat_text(link.string(), " is a linked folder and is left out"));
    const DeviceType device = choose_device(options->device);
    use_threads(options->threads);
    use_precision(device, options->precision);
    TranslationModel model = load_translation_model(*options);
    if (!model.size_known && options->size.empty())
      std::cout << options->checkpoint << " does not say for which image size its light model was trained; taking "
                << model.options.image_size << ", --size says otherwise\n";
    Translator translator(std::move(model), *options, device);
    install_interrupt_handler();
    const auto total = static_cast<std::int64_t>(plan.items.size());
    Progress progress(std::cout, isatty(STDOUT_FILENO), "images", 0, total);
    std::int64_t done = 0;
    const std::int64_t failed = translator.run(
        plan, interrupted, [&](std::int64_t count) { progress.update(done = count, ""); }, report);
    progress.finish();
    std::cout << done - failed << " of " << total << " images translated into " << options->output << '\n';
    if (interrupted() && done < total) return kInterruptedExit;
    return failed > 0 ? kErrorExit : 0;
  });
}
