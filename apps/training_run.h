// The phases of train_ugatit.
#pragma once

#include "apps/train_options.h"

namespace minidl {

// Each returns the program's exit code and throws Error for what the user has to mend.
int train(const TrainCommand& command);
int test(const TrainCommand& command);
int deploy(const TrainCommand& command);

}  // namespace minidl
