// make_demo_data OUTPUT_DIR: draws a small unpaired data set, so that training can be tried without a download. Domain
// A shows plain shaded solids, domain B striped ones; both under the same varied colours, light and backgrounds, so
// that the stripes are all that a translation has to learn. The same flags give the same pictures.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "apps/command_line.h"
#include "core/file.h"
#include "core/image.h"

namespace {

constexpr int kSamplesPerAxis = 3;        // supersampling: 9 samples a pixel
constexpr double kStripePeriod = 0.11;    // of the picture's width
constexpr double kStripeSoftness = 0.12;  // blurred part of a period

// Numbers from the raw outputs of a Mersenne twister: the standard fixes those, unlike its distributions.
class Random {
 public:
  Random(std::uint32_t seed, std::uint32_t folder, std::uint32_t picture) {
    std::seed_seq sequence{seed, folder, picture};
    engine_.seed(sequence);
  }
  double uniform(double low, double high) { return low + (high - low) * (engine_() / 4294967296.0); }

 private:
  std::mt19937 engine_;
};

struct Colour {
  double r = 0, g = 0, b = 0;
  friend Colour operator*(double k, Colour c) { return {k * c.r, k * c.g, k * c.b}; }
  friend Colour operator+(Colour a, Colour b) { return {a.r + b.r, a.g + b.g, a.b + b.b}; }
};

constexpr Colour kWhite{1, 1, 1};
constexpr Colour kStripeColour{0.98, 0.95, 0.88};

Colour mix(Colour a, Colour b, double t) { return (1 - t) * a + t * b; }

// hue in turns (any real number), saturation and value in 0..1.
Colour from_hsv(double hue, double saturation, double value) {
  auto channel = [&](double shift) {
    double wave = std::abs(6 * (hue + shift - std::floor(hue + shift)) - 3) - 1;
    return value * (1 - saturation * (1 - std::clamp(wave, 0.0, 1.0)));
  };
  return {channel(0), channel(2.0 / 3), channel(1.0 / 3)};
}

double smooth_step(double low, double high, double x) {
  double t = std::clamp((x - low) / (high - low), 0.0, 1.0);
  return t * t * (3 - 2 * t);
}

struct Vector {
  double x = 0, y = 0, z = 0;
};

double dot(Vector a, Vector b) { return a.x * b.x + a.y * b.y + a.z * b.z; }

Vector normalized(Vector v) {
  double length = std::sqrt(dot(v, v));
  return {v.x / length, v.y / length, v.z / length};
}

// A superellipsoid |u|^p + |v|^p + |w|^p = 1 lying in the picture plane: p = 2 is an ellipsoid, more is boxier.
struct Solid {
  double x = 0, y = 0;  // centre; lengths are in picture widths
  double radius_u = 0, radius_v = 0;
  double angle = 0;
  double exponent = 2;
  Colour colour;

  struct Local {
    double u, v, level;  // level < 1 inside
  };
  Local local(double px, double py) const {
    double dx = px - x, dy = py - y;
    double u = (dx * std::cos(angle) + dy * std::sin(angle)) / radius_u;
    double v = (dy * std::cos(angle) - dx * std::sin(angle)) / radius_v;
    return {u, v, std::pow(std::abs(u), exponent) + std::pow(std::abs(v), exponent)};
  }
  double height(const Local& at) const { return std::pow(std::max(0.0, 1 - at.level), 1 / exponent); }
  Vector normal(const Local& at) const {
    auto slope = [&](double t) { return std::copysign(std::pow(std::abs(t), exponent - 1), t); };
    double nu = slope(at.u) / radius_u, nv = slope(at.v) / radius_v;
    double nz = slope(height(at)) / std::sqrt(radius_u * radius_v);
    return normalized({nu * std::cos(angle) - nv * std::sin(angle), nu * std::sin(angle) + nv * std::cos(angle), nz});
  }
};

struct Scene {
  Colour from, to;  // the background's gradient
  double gradient_angle = 0;
  Vector light;  // unit vector towards the light; y points down, as in the picture
  double ambient = 0;
  bool striped = false;
  double stripe_angle = 0, stripe_phase = 0;  // the angle is that across the stripes
  std::vector<Solid> solids;                  // from back to front

  Colour background(double x, double y) const;
  Colour surface(const Solid& solid, const Solid::Local& at, double x, double y) const;
  Colour at(double x, double y) const;
};

Colour Scene::background(double x, double y) const {
  double along = (x - 0.5) * std::cos(gradient_angle) + (y - 0.5) * std::sin(gradient_angle);
  Colour colour = mix(from, to, smooth_step(-0.7, 0.7, along));
  double corner = std::hypot(x - 0.5, y - 0.5);
  return (1 - 0.35 * corner * corner) * colour;
}

Colour Scene::surface(const Solid& solid, const Solid::Local& at, double x, double y) const {
  Vector normal = solid.normal(at);
  Colour colour = solid.colour;
  if (striped) {
    // The height bends the stripes around the solid.
    double bend = 0.3 * std::min(solid.radius_u, solid.radius_v) * solid.height(at);
    double along = x * std::cos(stripe_angle) + y * std::sin(stripe_angle) + bend;
    double phase = along / kStripePeriod + stripe_phase;
    double from_middle = std::abs(phase - std::floor(phase) - 0.5);
    colour =
        mix(kStripeColour, colour, smooth_step(0.25 - kStripeSoftness / 2, 0.25 + kStripeSoftness / 2, from_middle));
  }
  double diffuse = ambient + (1 - ambient) * std::max(0.0, dot(normal, light));
  Vector halfway = normalized({light.x, light.y, light.z + 1});
  double shine = 0.4 * std::pow(std::max(0.0, dot(normal, halfway)), 40);
  return mix(diffuse * colour, kWhite, shine);
}

Colour Scene::at(double x, double y) const {
  Colour colour = background(x, y);
  for (const Solid& solid : solids) {
    double drop = 0.35 * std::min(solid.radius_u, solid.radius_v);
    double shadow = solid.local(x + drop * light.x, y + drop * light.y).level;
    colour = (1 - 0.5 * (1 - smooth_step(0.6, 1.6, shadow))) * colour;
    if (Solid::Local at = solid.local(x, y); at.level < 1) colour = surface(solid, at, x, y);
  }
  return colour;
}

Solid random_solid(Random& random, double hue, double radius) {
  Solid solid;
  solid.radius_u = radius * random.uniform(0.8, 1.2);
  solid.radius_v = radius * random.uniform(0.65, 1.0);
  solid.angle = random.uniform(0, std::numbers::pi);
  solid.exponent = random.uniform(0, 1) < 0.6 ? 2 : random.uniform(2.5, 4);
  double margin = 0.9 * radius;
  solid.x = random.uniform(margin, 1 - margin);
  solid.y = random.uniform(margin, 1 - margin);
  solid.colour = from_hsv(hue, random.uniform(0.65, 0.95), random.uniform(0.6, 0.9));
  return solid;
}

Scene random_scene(Random& random, bool striped) {
  Scene scene;
  double hue = random.uniform(0, 1);
  scene.from = from_hsv(hue, random.uniform(0.25, 0.6), random.uniform(0.35, 0.65));
  scene.to = from_hsv(hue + random.uniform(-0.15, 0.15), random.uniform(0.15, 0.5), random.uniform(0.6, 0.95));
  scene.gradient_angle = random.uniform(0, 2 * std::numbers::pi);
  double light_angle = random.uniform(0, 2 * std::numbers::pi), slope = random.uniform(0.5, 1.1);
  scene.light = normalized({slope * std::cos(light_angle), slope * std::sin(light_angle), 1});
  scene.ambient = random.uniform(0.25, 0.45);
  scene.striped = striped;
  // Around the vertical, so that the mirroring done in training leaves the domain as it is.
  scene.stripe_angle = std::numbers::pi / 2 + random.uniform(-0.35, 0.35);
  scene.stripe_phase = random.uniform(0, 1);
  // Hues at least a fifth of the circle from the background's keep the solids visible.
  bool pair = random.uniform(0, 1) < 0.35;
  scene.solids.push_back(random_solid(random, hue + random.uniform(0.2, 0.8), random.uniform(0.26, 0.36)));
  if (pair) scene.solids.push_back(random_solid(random, hue + random.uniform(0.2, 0.8), random.uniform(0.14, 0.2)));
  return scene;
}

minidl::Image render(const Scene& scene, int size) {
  minidl::Image image(size, size, 3);
  auto level = [](double value) { return static_cast<std::uint8_t>(std::lround(255 * std::clamp(value, 0.0, 1.0))); };
  for (int row = 0; row < size; ++row) {
    std::uint8_t* pixel = image.row(row);
    for (int column = 0; column < size; ++column, pixel += 3) {
      Colour sum;
      for (int sample = 0; sample < kSamplesPerAxis * kSamplesPerAxis; ++sample) {
        double x = column + (sample % kSamplesPerAxis + 0.5) / kSamplesPerAxis;
        double y = row + (sample / kSamplesPerAxis + 0.5) / kSamplesPerAxis;
        sum = sum + scene.at(x / size, y / size);
      }
      Colour mean = (1.0 / (kSamplesPerAxis * kSamplesPerAxis)) * sum;
      pixel[0] = level(mean.r);
      pixel[1] = level(mean.g);
      pixel[2] = level(mean.b);
    }
  }
  return image;
}

struct Options {
  std::filesystem::path output;
  int count = 0, test_count = 0, size = 0;
  std::uint32_t seed = 0;
};

void make_data_set(const Options& options) {
  struct Folder {
    const char* name;
    bool striped;
    int count;
  };
  const std::array<Folder, 4> folders{{{"trainA", false, options.count},
                                       {"trainB", true, options.count},
                                       {"testA", false, options.test_count},
                                       {"testB", true, options.test_count}}};
  for (std::uint32_t f = 0; f < folders.size(); ++f) {
    const Folder& folder = folders[f];
    minidl::create_folders(options.output / folder.name);
    for (int i = 0; i < folder.count; ++i) {
      Random random(options.seed, f, static_cast<std::uint32_t>(i));
      char name[32];
      std::snprintf(name, sizeof name, "%s_%04d.png", folder.striped ? "striped" : "plain", i + 1);
      minidl::write_file(options.output / folder.name / name,
                         minidl::encode_png(render(random_scene(random, folder.striped), options.size)));
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  return minidl::run_program("make_demo_data", argv, [&] {
    std::int64_t count = 120, test_count = 16, size = 96, seed = 1;
    std::vector<std::string> output;
    minidl::CommandLine line("make_demo_data", "Draws an unpaired demo data set: A plain solids, B striped ones.");
    line.flag("count", count, "pictures per training folder", {1, 9999});
    line.flag("test_count", test_count, "pictures per test folder", {1, 9999});
    line.flag("size", size, "width and height in pixels", {16, 4096});
    line.flag("seed", seed, "another seed, another data set", {0, 4294967295.0});
    line.positional(output, "OUTPUT_DIR");
    if (!line.parse(argc, argv)) return 0;
    if (output.size() != 1) throw minidl::UsageError("name one folder to write to: make_demo_data OUTPUT_DIR");
    make_data_set({.output = output[0],
                   .count = static_cast<int>(count),
                   .test_count = static_cast<int>(test_count),
                   .size = static_cast<int>(size),
                   .seed = static_cast<std::uint32_t>(seed)});
    return 0;
  });
}
