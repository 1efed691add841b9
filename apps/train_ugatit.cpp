// train_ugatit: trains U-GAT-IT, tests it on images, deploys its generators.
#include "apps/command_line.h"
#include "apps/training_run.h"

int main(int argc, char** argv) {
  using namespace minidl;
  return run_program("train_ugatit", argv, [&] {
    const auto command = parse_train_command(argc, argv);
    if (!command) return 0;
    if (command->options.phase == "test") return test(*command);
    if (command->options.phase == "deploy") return deploy(*command);
    return train(*command);
  });
}
