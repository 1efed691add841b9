#include "apps/sheet.h"

#include <algorithm>

#include "core/check.h"

namespace minidl {
namespace {

Image coloured(const Image& image) {
  if (image.channels == 3) return image;
  Image rgb(image.width, image.height, 3);
  for (std::size_t i = 0; i < image.pixels.size(); ++i) std::fill_n(&rgb.pixels[3 * i], 3, image.pixels[i]);
  return rgb;
}

Tensor to_tensor(const ImageBatch& batch, DeviceType device) {
  return images_to_tensor(batch.pixels, batch.n, batch.height, batch.width, batch.channels, device);
}

}  // namespace

Image stacked(std::span<const Image> images) {
  check(!images.empty(), "stacked: there are no images");
  Image all(images[0].width, 0, 3);
  for (const Image& image : images) {
    check(image.width == all.width, "stacked: an image is ", image.width, " wide, the first ", all.width);
    const Image rgb = coloured(image);
    all.pixels.insert(all.pixels.end(), rgb.pixels.begin(), rgb.pixels.end());
    all.height += image.height;
  }
  return all;
}

Image side_by_side(std::span<const Image> images) {
  check(!images.empty(), "side_by_side: there are no images");
  int width = 0;
  for (const Image& image : images) width += image.width;
  Image all(width, images[0].height, 3);
  int left = 0;
  for (const Image& image : images) {
    check(image.height == all.height, "side_by_side: an image is ", image.height, " high, the first ", all.height);
    const Image rgb = coloured(image);
    for (int y = 0; y < all.height; ++y) std::copy_n(rgb.row(y), 3 * rgb.width, all.row(y) + 3 * left);
    left += image.width;
  }
  return all;
}

Image heat_map_of(const Tensor& heatmap, int width, int height, std::int64_t n) {
  const std::vector<float> values = heatmap.to_host();
  const int h = static_cast<int>(heatmap.shape()[2]), w = static_cast<int>(heatmap.shape()[3]);
  const auto pixels = static_cast<std::size_t>(h) * static_cast<std::size_t>(w);
  return heat_map_image(std::span(values).subspan(static_cast<std::size_t>(n) * pixels, pixels), h, w, width, height);
}

Column draw_column(Generator& forward, Generator& back, const Tensor& real) {
  const NoGrad no_grad;
  const Generator::Output same = back(real), fake = forward(real), cycle = back(fake.image);
  std::vector<Image> column{tensor_to_image(real)};
  for (const Generator::Output* out : {&same, &fake, &cycle}) {
    column.push_back(heat_map_of(out->heatmap(), column[0].width, column[0].height));
    column.push_back(tensor_to_image(out->image));
  }
  return {stacked(column), column[4]};
}

Sheets draw_sheets(Ugatit& model, const TrainingStep::Sheet& images, DeviceType device) {
  std::vector<Image> A2B, B2A;
  for (const auto& [a, b] : {std::pair(&images.train_a, &images.train_b), std::pair(&images.test_a, &images.test_b)}) {
    for (const ImageBatch& batch : *a)
      A2B.push_back(draw_column(model.genA2B, model.genB2A, to_tensor(batch, device)).column);
    for (const ImageBatch& batch : *b)
      B2A.push_back(draw_column(model.genB2A, model.genA2B, to_tensor(batch, device)).column);
  }
  return {side_by_side(A2B), side_by_side(B2A)};
}

}  // namespace minidl
