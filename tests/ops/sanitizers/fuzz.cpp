// Runs the CPU kernels on random shapes, strides, dtypes and wild locations, checks the forward
// against a scalar form built on csrc/common/bilinear.h, and frees every buffer at its exact size,
// so that the address sanitizer sees any step outside. Needs no torch:
// tools/sanitize_cpu_kernels.sh.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "common/bilinear.h"
#include "cpu/kernels.h"

using namespace sparse_encoders;

namespace {

std::mt19937_64 engine;

int64_t whole(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(engine);
}
double normal() { return std::normal_distribution<double>()(engine); }

// A location that may be anything a network can produce.
double wild(double usual) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  constexpr double kWild[] = {std::numeric_limits<double>::quiet_NaN(), kInf, -kInf, 1e30, -1e30,
                              2147483647.0, -2147483648.0, 4294967296.0, 1e-30, -0.0, -1.0};
  return whole(0, 7) == 0 ? kWild[whole(0, 10)] : usual;
}

// Numbers stored as `kind`, in exactly as many bytes as they need.
struct Numbers {
  Kind kind;
  int64_t count;
  std::unique_ptr<char[]> bytes;

  static int64_t size_of(Kind kind) {
    return kind == Kind::Float64 ? 8 : kind == Kind::Float32 ? 4 : 2;
  }
  Numbers(Kind k, int64_t n) : kind(k), count(n), bytes(new char[n * size_of(k)]()) {}

  void set(int64_t i, double value) {
    const float narrow = static_cast<float>(value);
    if (kind == Kind::Float64) std::memcpy(&bytes[i * 8], &value, 8);
    if (kind == Kind::Float32) std::memcpy(&bytes[i * 4], &narrow, 4);
    if (kind == Kind::BFloat16) std::memcpy(&bytes[i * 2], reinterpret_cast<const char*>(&narrow) + 2, 2);
  }
  double get(int64_t i) const {
    double wide;
    float narrow = 0;
    if (kind == Kind::Float64) return std::memcpy(&wide, &bytes[i * 8], 8), wide;
    if (kind == Kind::Float32) return std::memcpy(&narrow, &bytes[i * 4], 4), narrow;
    std::memcpy(reinterpret_cast<char*>(&narrow) + 2, &bytes[i * 2], 2);
    return narrow;
  }
  void fill(bool any = false, double scale = 1) {
    for (int64_t i = 0; i < count; ++i) set(i, any ? wild(normal() * scale) : normal() * scale);
  }
};

Kind any_kind() { return static_cast<Kind>(whole(0, 2)); }
Kind accumulated(Kind kind) { return kind == Kind::Float64 ? kind : Kind::Float32; }

struct Sizes {
  std::vector<int64_t> shapes;
  Geometry g;
  Sizes() {
    const int64_t levels = whole(1, 5);
    int64_t tokens = 0;
    for (int64_t l = 0; l < levels; ++l) {
      shapes.push_back(whole(1, 6));
      shapes.push_back(whole(1, 6));
      tokens += shapes[2 * l] * shapes[2 * l + 1];
    }
    g = {whole(0, 2), tokens, whole(0, 6), whole(1, 3), levels, whole(1, 5), whole(1, 70),
         shapes.data(), whole(1, 3)};
  }
};

// Token-major as a tensor comes, or head-major as it is laid out for many queries.
Tokens tokens_of(const Numbers& numbers, const Geometry& g, bool head_major) {
  const int64_t image = g.tokens * g.heads * g.depth;
  if (head_major) return {numbers.bytes.get(), image, g.depth, g.tokens * g.depth};
  return {numbers.bytes.get(), image, g.heads * g.depth, g.depth};
}

double sample(const Numbers& numbers, const Tokens& tokens, int64_t base, int64_t first, double x,
              double y, int height, int width) {
  if (!touches(x, width) || !touches(y, height)) return 0;
  const auto h = pair_around(x, width);
  const auto v = pair_around(y, height);
  double sum = 0;
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j) {
      const int64_t token = first + int64_t(v.index[i]) * width + h.index[j];
      sum += v.weight[i] * h.weight[j] * numbers.get(base + token * tokens.token_stride);
    }
  return sum;
}

void expect_close(const char* what, double found, double wanted, Kind kind) {
  // float32 locations a rounding away from a token's border may fall on either side: both are right
  const double tolerance = kind == Kind::Float64 ? 1e-9 : kind == Kind::Float32 ? 2e-3 : 6e-2;
  if (std::isnan(found) && std::isnan(wanted)) return;
  if (std::fabs(found - wanted) <= tolerance * (1 + std::fabs(wanted))) return;
  std::printf("%s: %g instead of %g\n", what, found, wanted);
  std::abort();
}

void all_items(const Geometry& g, void (*kernel)(const DeformableProblem&, int64_t),
               const DeformableProblem& p) {
  for (int64_t item = 0; item < g.items(); ++item) kernel(p, item);
}
void all_items(const Geometry& g, void (*kernel)(const KeyAwareProblem&, int64_t),
               const KeyAwareProblem& p) {
  for (int64_t item = 0; item < g.items(); ++item) kernel(p, item);
}

void fuzz_deformable(const Kernels& kernels) {
  Sizes sizes;
  const Geometry& g = sizes.g;
  const Kind kind = any_kind();
  const int64_t rows = g.batch * g.queries * g.heads, samples = g.levels * g.points;
  const int64_t size = whole(0, 1) ? 4 : 2, points = g.batch * g.queries * g.levels * size;
  Numbers value(kind, g.batch * g.tokens * g.heads * g.depth), reference(any_kind(), points);
  Numbers offsets(any_kind(), rows * samples * 2), logits(any_kind(), rows * samples);
  Numbers output(kind, rows * g.depth), grad(kind, rows * g.depth);
  value.fill();
  reference.fill(true, 0.5);
  offsets.fill(true, 3);
  logits.fill();
  grad.fill();
  const bool head_major = whole(0, 1);
  DeformableProblem p{};
  p.geometry = g;
  p.value_kind = kind;
  p.reference_kind = reference.kind;
  p.offsets_kind = offsets.kind;
  p.logits_kind = logits.kind;
  p.value = tokens_of(value, g, head_major);
  p.reference_size = size;
  p.reference = reference.bytes.get();
  p.offsets = offsets.bytes.get();
  p.logits = logits.bytes.get();
  p.output = output.bytes.get();
  all_items(g, kernels.deformable_forward, p);

  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head = row % g.heads, query = row / g.heads, image = query / g.queries;
    double top = -1e300, total = 0;
    for (int64_t i = 0; i < samples; ++i) top = std::fmax(top, logits.get(row * samples + i));
    for (int64_t i = 0; i < samples; ++i) total += std::exp(logits.get(row * samples + i) - top);
    const int64_t d = whole(0, g.depth - 1);
    double wanted = 0;
    int64_t first = 0;
    for (int64_t i = 0; i < samples; ++i) {
      const int64_t level = i / g.points, at = (query * g.levels + level) * size;
      const int height = int(g.shapes[2 * level]), width = int(g.shapes[2 * level + 1]);
      const double ox = offsets.get((row * samples + i) * 2);
      const double oy = offsets.get((row * samples + i) * 2 + 1);
      const double rx = reference.get(at), ry = reference.get(at + 1);
      double x = location_from_point(rx, ox, double(width));
      double y = location_from_point(ry, oy, double(height));
      if (size == 4) {
        x = location_from_box(rx, reference.get(at + 2), ox, double(width), int(g.points));
        y = location_from_box(ry, reference.get(at + 3), oy, double(height), int(g.points));
      }
      const int64_t base = image * p.value.image_stride + head * p.value.head_stride + d;
      wanted += std::exp(logits.get(row * samples + i) - top) / total *
                sample(value, p.value, base, first, x, y, height, width);
      if (i % g.points == g.points - 1) first += int64_t(height) * width;
    }
    expect_close("deformable attention", output.get(row * g.depth + d), wanted, kind);
  }

  const Kind wide = accumulated(kind);
  Numbers grad_value(wide, g.items() / (g.runs ? g.runs : 1) * g.runs * g.tokens * g.depth);
  Numbers grad_reference(wide, points * g.heads);
  Numbers grad_offsets(offsets.kind, offsets.count), grad_logits(logits.kind, logits.count);
  p.value = tokens_of(value, g, true);
  p.grad_output = grad.bytes.get();
  p.grad_value = {grad_value.bytes.get(), g.tokens * g.depth};
  p.grad_reference = grad_reference.bytes.get();
  p.grad_offsets = grad_offsets.bytes.get();
  p.grad_logits = grad_logits.bytes.get();
  all_items(g, kernels.deformable_backward, p);
}

void fuzz_key_aware(const Kernels& kernels) {
  Sizes sizes;
  const Geometry& g = sizes.g;
  const Kind kind = any_kind();
  const int64_t rows = g.batch * g.queries * g.heads, samples = g.levels * g.points;
  const int64_t tokens = g.batch * g.tokens * g.heads * g.depth;
  Numbers key(kind, tokens), value(kind, tokens), query(kind, rows * g.depth);
  const bool shared = whole(0, 1), swapped = whole(0, 1);  // levels share locations; x after all y
  const int64_t levels = shared ? 1 : g.levels;
  Numbers locations(any_kind(), rows * levels * g.points * 2);
  Numbers output(kind, rows * g.depth), grad(kind, rows * g.depth);
  for (Numbers* numbers : {&key, &value, &query, &grad}) numbers->fill();
  locations.fill(true, 0.6);
  KeyAwareProblem p{};
  p.geometry = g;
  p.value_kind = kind;
  p.locations_kind = locations.kind;
  const bool head_major = whole(0, 1);
  p.key = tokens_of(key, g, head_major);
  p.value = tokens_of(value, g, head_major);
  p.query = query.bytes.get();
  p.locations = locations.bytes.get();
  const int64_t set = levels * g.points * 2;
  const int64_t strides[] = {g.queries * g.heads * set, g.heads * set, set,
                             shared ? 0 : g.points * 2, swapped ? 1 : 2, swapped ? g.points : 1};
  std::memcpy(p.location_strides, strides, sizeof(strides));
  p.output = output.bytes.get();
  all_items(g, kernels.key_aware_forward, p);

  Numbers blocks(accumulated(kind), g.items() * g.tokens * g.depth);
  Numbers more_blocks(accumulated(kind), g.items() * g.tokens * g.depth);
  Numbers grad_query(kind, query.count), grad_locations(locations.kind, rows * samples * 2);
  p.key = tokens_of(key, g, true);
  p.value = tokens_of(value, g, true);
  p.grad_output = grad.bytes.get();
  p.grad_query = grad_query.bytes.get();
  p.grad_key = {blocks.bytes.get(), g.tokens * g.depth};
  p.grad_value = {more_blocks.bytes.get(), g.tokens * g.depth};
  p.grad_locations = grad_locations.bytes.get();
  all_items(g, kernels.key_aware_backward, p);
  for (int64_t i = 0; i < grad_locations.count; ++i)
    if (!std::isfinite(grad_locations.get(i))) expect_close("a gradient", grad_locations.get(i), 0, kind);
}

}  // namespace

int main(int count, char** arguments) {
  const int64_t rounds = count > 1 ? std::atoll(arguments[1]) : 2000;
  const char* error = nullptr;
  const Kernels& kernels = best_kernels(&error);
  if (error != nullptr) {
    std::printf("skipped: %s\n", error);
    return 0;
  }
  for (int64_t seed = 0; seed < rounds; ++seed) {
    engine.seed(static_cast<uint64_t>(seed));
    fuzz_deformable(kernels);
    fuzz_key_aware(kernels);
  }
  std::printf("%s: %lld rounds of both operators, forward and backward: no finding\n",
              kernels.name, static_cast<long long>(rounds));
  return 0;
}
