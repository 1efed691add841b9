// autoencoder FOLDER PAIRS.png [EPOCHS]: squeezes the pictures of a folder into 32 numbers each and draws them again.
// Writes some pictures with their reconstructions below them, and says how far apart they are.
#include <minidl/minidl.h>

#include <iostream>

using namespace minidl;

constexpr int kSize = 32, kCode = 32, kBatch = 8;

struct Autoencoder {
  Sequential encoder, decoder;

  explicit Autoencoder(Random& random) {
    encoder.add("down1", Conv2d(random, 3, 16, {.kernel = 4, .stride = 2, .padding = 1, .bias = true})).add(ReLU{});
    encoder.add("down2", Conv2d(random, 16, 32, {.kernel = 4, .stride = 2, .padding = 1, .bias = true})).add(ReLU{});
    encoder.add("code", Conv2d(random, 32, kCode, {.kernel = 8, .bias = true}));
    decoder.add("start", Conv2d(random, kCode, 32, {.kernel = 8, .padding = 7, .bias = true})).add(ReLU{});
    decoder.add(Upsample{.scale = 2, .pad = 1}).add("up1", Conv2d(random, 32, 16, {.kernel = 3, .bias = true}));
    decoder.add(ReLU{}).add(Upsample{.scale = 2, .pad = 1});
    decoder.add("up2", Conv2d(random, 16, 3, {.kernel = 3, .bias = true})).add(Tanh{});
  }
  Tensor operator()(const Tensor& x) { return decoder(encoder(x)); }
  void visit(Visitor& f) { f("encoder", encoder), f("decoder", decoder); }
};

Tensor read_images(const ImageFolder& folder, std::span<const Pick> picks) {
  std::vector<std::uint8_t> bytes;
  for (const Pick& pick : picks) {
    const Image image = resize_bilinear(read_image(folder.file(static_cast<std::size_t>(pick.index))), kSize, kSize);
    bytes.insert(bytes.end(), image.pixels.begin(), image.pixels.end());
  }
  return images_to_tensor(bytes, static_cast<std::int64_t>(picks.size()), kSize, kSize, 3);
}

int main(int argc, char** argv) try {
  if (argc < 3) fail("usage: autoencoder FOLDER PAIRS.png [EPOCHS]");
  const ImageFolder folder(argv[1]);
  const int epochs = argc > 3 ? std::stoi(argv[3]) : 30;

  Random random(1);
  Autoencoder autoencoder(random);
  Adam adam(parameters_of(autoencoder), {.lr = 2e-3});
  const auto files = static_cast<std::int64_t>(folder.size());
  FolderSampler sampler({.files = files, .batch_size = kBatch});

  for (int epoch = 1; epoch <= epochs; ++epoch) {
    float sum = 0;
    std::int64_t batches = 0;
    for (std::int64_t seen = 0; seen < files; ++batches) {
      const std::vector<Pick> picks = sampler.next(random);
      const Tensor images = read_images(folder, picks);
      adam.zero_grad();
      const Tensor loss = l1_loss(autoencoder(images), images);
      loss.backward();
      adam.step();
      sum += loss.item();
      seen += static_cast<std::int64_t>(picks.size());
    }
    std::cout << "epoch " << epoch << ": pixels are off by " << 127.5f * sum / static_cast<float>(batches)
              << " of 255 on average" << std::endl;
  }

  const NoGrad no_grad;
  FolderSampler in_order({.files = files, .batch_size = kBatch, .shuffle_and_augment = false});
  const Tensor images = read_images(folder, in_order.next(random));
  const Tensor pairs = concat_samples(images, autoencoder(images));
  write_file(argv[2], encode_png(tensor_to_grid(pairs, images.shape()[0])));
} catch (const std::exception& error) {
  std::cerr << "autoencoder: " << error.what() << '\n';
  return 1;
}
