// Pictures of what a model does: columns of images and heat maps, as the reference's sheets.
#pragma once

#include <span>
#include <vector>

#include "apps/training_data.h"
#include "core/image.h"
#include "models/ugatit.h"

namespace minidl {

// Images of equal width, one below the other; and of equal height, side by side. Grey ones become RGB.
Image stacked(std::span<const Image> images);
Image side_by_side(std::span<const Image> images);

// The heat map of image n of a batch, coloured and enlarged to width x height.
Image heat_map_of(const Tensor& heatmap, int width, int height, std::int64_t n = 0);

// What a pair of generators makes of one image [1, C, S, S]: `forward` translates it, `back` returns.
struct Column {
  Image column;  // 7 images high: the image; map and picture of the identity, of the translation, of the cycle
  Image translation;
};
// Runs without gradients.
Column draw_column(Generator& forward, Generator& back, const Tensor& real);

struct Sheets {
  Image A2B, B2A;
};
// One column per image, training images first.
Sheets draw_sheets(Ugatit& model, const TrainingStep::Sheet& images, DeviceType device);

}  // namespace minidl
