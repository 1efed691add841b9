// Choices of convolution algorithms as JSON. Images are written without their memory layout, which follows from the
// device that reads them.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace minidl {

std::string conv_choices_text(std::span<const ConvChoice> choices);

// In the layout of `backend`; nullopt if the text is malformed.
std::optional<std::vector<ConvChoice>> conv_choices_from_text(const std::string& text, const Backend& backend);

}  // namespace minidl
