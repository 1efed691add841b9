// dcgan FOLDER SAMPLES.png [SECONDS]: learns to draw pictures like those of a folder, at 32 x 32 pixels. A DCGAN
// (Radford et al., 2016), its discriminator tamed by spectral norms (Miyato et al., 2018). docs/tutorial.md explains
// it.
#include <minidl/minidl.h>

#include <chrono>
#include <iostream>

using namespace minidl;

constexpr int kBatch = 16, kNoise = 64, kSize = 32;

Sequential make_generator(Random& random) {  // [N, kNoise, 1, 1] to [N, 3, kSize, kSize], values from -1 to 1
  Sequential g;
  g.add("conv1", Conv2d(random, kNoise, 128, {.kernel = 4, .padding = 3})).add("norm1", ILN(128, {.relu = true}));
  g.add(Upsample{2, 1}).add("conv2", Conv2d(random, 128, 64, {})).add("norm2", ILN(64, {.relu = true}));
  g.add(Upsample{2, 1}).add("conv3", Conv2d(random, 64, 32, {})).add("norm3", ILN(32, {.relu = true}));
  g.add(Upsample{2, 1}).add("conv4", Conv2d(random, 32, 3, {.bias = true})).add(Tanh{});
  return g;
}

Sequential make_discriminator(Random& random) {  // [N, 3, kSize, kSize] to [N, 1, 1, 1]: large for real ones
  const ConvLayerOptions halve{.kernel = 4, .stride = 2, .padding = 1, .bias = true};
  Sequential d;
  d.add("conv1", SpectralNorm(random, Conv2d(random, 3, 32, halve))).add(LeakyReLU{0.2f});
  d.add("conv2", SpectralNorm(random, Conv2d(random, 32, 64, halve))).add(LeakyReLU{0.2f});
  d.add("conv3", SpectralNorm(random, Conv2d(random, 64, 128, halve))).add(LeakyReLU{0.2f});
  d.add("conv4", SpectralNorm(random, Conv2d(random, 128, 1, {.kernel = 4, .bias = true})));
  return d;
}

Tensor draw_noise(Random& random) {
  std::vector<float> values(kBatch * kNoise);
  random.fill_normal(values);
  return Tensor::from_host({kBatch, kNoise, 1, 1}, values);
}

Tensor read_batch(const ImageFolder& folder, Random& random) {
  std::vector<std::uint8_t> bytes;
  for (int i = 0; i < kBatch; ++i) {
    const auto index = static_cast<std::size_t>(random.randint(0, static_cast<std::int64_t>(folder.size())));
    const Image image = resize_bilinear(read_image(folder.file(index)), kSize, kSize);
    bytes.insert(bytes.end(), image.pixels.begin(), image.pixels.end());
  }
  return images_to_tensor(bytes, kBatch, kSize, kSize, 3);
}

int main(int argc, char** argv) try {
  if (argc < 3) fail("usage: dcgan FOLDER SAMPLES.png [SECONDS]");
  const ImageFolder folder(argv[1]);
  const std::chrono::seconds time(argc > 3 ? std::stoi(argv[3]) : 120);

  Random random(1);
  Sequential generator = make_generator(random), discriminator = make_discriminator(random);
  Adam generator_adam(parameters_of(generator), {.lr = 2e-4, .beta1 = 0.5});
  Adam discriminator_adam(parameters_of(discriminator), {.lr = 8e-4, .beta1 = 0.5});

  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; std::chrono::steady_clock::now() - start < time; ++i) {
    const Tensor real = read_batch(folder, random), fake = generator(draw_noise(random));

    discriminator_adam.zero_grad();
    const Tensor real_loss = bce_with_logits_loss(discriminator(real), 1);
    const Tensor fake_loss = bce_with_logits_loss(discriminator(fake.detach()), 0);
    (real_loss + fake_loss).backward();
    discriminator_adam.step();

    const Frozen frozen(parameters_of(discriminator));
    generator_adam.zero_grad();
    const Tensor generator_loss = bce_with_logits_loss(discriminator(fake), 1);
    generator_loss.backward();
    generator_adam.step();

    if (i % 100 == 0)
      std::cout << "iteration " << i << ", losses: real " << real_loss.item() << ", fake " << fake_loss.item()
                << ", generator " << generator_loss.item() << std::endl;
  }
  const NoGrad no_grad;
  write_file(argv[2], encode_png(tensor_to_grid(generator(draw_noise(random)), 8)));
} catch (const std::exception& error) {
  std::cerr << "dcgan: " << error.what() << '\n';
  return 1;
}
