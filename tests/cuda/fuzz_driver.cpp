// Runs every kernel over random sizes with locations that are far away, infinite and NaN, under the
// address and undefined-behaviour sanitizers: a read or write outside of any tensor ends it.
//
// Every tensor is a heap block of exactly its size, some start off a 16-byte boundary. Usage:
// fuzz_driver ROUNDS [SEED]
#include <random>

#include "deformable_attention.cu"
#include "key_aware_attention.cu"
#include "launch.cpp"

namespace se = sparse_encoders::cuda;

namespace {

std::mt19937 random_bits(1);

int64_t between(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random_bits);
}

size_t size_of(se::Dtype dtype) { return dtype == se::Dtype::kFloat32 ? 4 : 2; }

// A tensor in a heap block that ends where the tensor ends.
struct Tensor {
  std::vector<char> bytes;
  se::Dtype dtype;
  size_t skip;

  Tensor(int64_t elements, se::Dtype dtype, bool shifted = false)
      : bytes((elements + shifted) * size_of(dtype)), dtype(dtype), skip(shifted * size_of(dtype)) {
    bytes.shrink_to_fit();
  }
  void* data() { return bytes.data() + skip; }
  operator se::AnyInput() { return {data(), dtype}; }
  operator se::AnyOutput() { return {data(), dtype}; }

  // About one in eight elements is something awkward where `awkward` is set.
  void fill(float low, float high, bool awkward) {
    const float special[] = {NAN, INFINITY, -INFINITY, 1e30f, -1e30f, 2147483648.f, -1.f, 0.f, 1e9f};
    std::uniform_real_distribution<float> usual(low, high);
    for (size_t i = 0; i < bytes.size() - skip; i += size_of(dtype)) {
      const float x = awkward && between(0, 7) == 0 ? special[between(0, 8)] : usual(random_bits);
      char* to = static_cast<char*>(data()) + i;
      if (dtype == se::Dtype::kFloat32) {
        std::memcpy(to, &x, 4);
      } else {
        const uint16_t bits = dtype == se::Dtype::kFloat16 ? __half_as_ushort(__float2half_rn(x))
                                                           : __bfloat16_as_ushort(__float2bfloat16_rn(x));
        std::memcpy(to, &bits, 2);
      }
    }
  }
};

se::Dtype any_dtype() { return static_cast<se::Dtype>(between(0, 2)); }

se::Sizes any_sizes() {
  const int64_t channels[] = {1, 3, 8, 16, 24, 32, 64, 72};
  se::Sizes sizes;
  const int64_t levels = between(1, 5);
  std::vector<int64_t> shapes;
  for (int64_t i = 0; i < 2 * levels; ++i) {
    shapes.push_back(between(0, 6));
  }
  for (int64_t i = 0; i < levels; ++i) {
    sizes.tokens += shapes[2 * i] * shapes[2 * i + 1];
  }
  sizes.pyramid = se::make_pyramid(shapes.data(), levels);
  sizes.images = between(0, 9) ? between(1, 2) : 0;
  sizes.heads = between(1, 3);
  sizes.channels = channels[between(0, 7)];
  sizes.queries = between(0, 9) ? between(1, 20) : 0;
  sizes.points = between(1, 5);
  return sizes;
}

void expect(bool condition, const char* what) {
  if (!condition) {
    std::fprintf(stderr, "fuzz: %s\n", what);
    std::abort();
  }
}

void run_deformable(const se::Sizes& sizes) {
  const se::Dtype dtype = any_dtype();
  const int coordinates = between(0, 1) ? 2 : 4;
  const int64_t rows = sizes.images * sizes.queries * sizes.heads;
  const int64_t samples = sizes.pyramid.count * sizes.points;
  const int64_t values = sizes.images * sizes.tokens * sizes.heads * sizes.channels;
  const int64_t points = sizes.images * sizes.queries * sizes.pyramid.count * coordinates;
  Tensor value(values, dtype, between(0, 1)), reference(points, any_dtype());
  Tensor offsets(rows * samples * 2, any_dtype()), logits(rows * samples, any_dtype());
  value.fill(-1, 1, false);
  reference.fill(0, 1, between(0, 3) == 0);
  offsets.fill(-4, 4, true);
  logits.fill(-2, 2, between(0, 3) == 0);
  Tensor output(rows * sizes.channels, dtype), grad(rows * sizes.channels, dtype);
  grad.fill(-1, 1, false);
  const se::DeformableTensors inputs = {value.data(), reference, coordinates, offsets, logits};
  expect(!se::deformable_attention(dtype, sizes, inputs, output.data(), nullptr), "forward");
  Tensor grad_value(values, se::Dtype::kFloat32), grad_points(points, se::Dtype::kFloat32);
  Tensor grad_offsets(rows * samples * 2, any_dtype()), grad_logits(rows * samples, any_dtype());
  const se::DeformableGradients results = {static_cast<float*>(grad_value.data()),
                                           static_cast<float*>(grad_points.data()), grad_offsets,
                                           grad_logits};
  expect(!se::deformable_attention_backward(dtype, sizes, inputs, grad.data(), results, nullptr),
         "backward");
}

void run_key_aware(const se::Sizes& sizes) {
  const se::Dtype dtype = any_dtype();
  const int64_t rows = sizes.images * sizes.queries * sizes.heads;
  const int64_t levels = sizes.pyramid.count, points = sizes.points;
  const int64_t values = sizes.images * sizes.tokens * sizes.heads * sizes.channels;
  const bool expanded = between(0, 1) != 0;  // one set of locations for all levels
  const int64_t stored = expanded ? 1 : levels;
  Tensor query(rows * sizes.channels, dtype, between(0, 1)), key(values, dtype), value(values, dtype);
  Tensor locations(rows * stored * points * 2, any_dtype());
  query.fill(-1, 1, between(0, 3) == 0);
  key.fill(-1, 1, false);
  value.fill(-1, 1, false);
  locations.fill(-0.2f, 1.2f, true);
  const int64_t row = stored * points * 2;
  const se::KeyAwareTensors inputs = {
      query.data(), key.data(), between(0, 1) ? key.data() : value.data(), locations,
      {sizes.queries * sizes.heads * row, sizes.heads * row, row, expanded ? 0 : points * 2, 2, 1}};
  Tensor output(rows * sizes.channels, dtype), grad(rows * sizes.channels, dtype);
  grad.fill(-1, 1, false);
  expect(!se::key_aware_attention(dtype, sizes, inputs, output.data(), nullptr), "forward");
  Tensor grad_query(rows * sizes.channels, dtype), grad_key(values, se::Dtype::kFloat32);
  Tensor grad_value(values, se::Dtype::kFloat32), grad_locations(rows * levels * points * 2, any_dtype());
  const se::KeyAwareGradients results = {grad_query.data(), static_cast<float*>(grad_key.data()),
                                         static_cast<float*>(grad_value.data()), grad_locations};
  expect(!se::key_aware_attention_backward(dtype, sizes, inputs, grad.data(), results, nullptr),
         "backward");
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 10;
  random_bits.seed(argc > 2 ? std::atoi(argv[2]) : 1);
  for (int round = 0; round < rounds; ++round) {
    emulation::descending_lanes = between(0, 1) != 0;
    const se::Sizes sizes = any_sizes();
    expect(se::find_fault(sizes) == nullptr, "sizes");
    run_deformable(sizes);
    run_key_aware(sizes);
  }
  std::printf("%d rounds, %lld launches\n", rounds, emulation::launches);
  return 0;
}
