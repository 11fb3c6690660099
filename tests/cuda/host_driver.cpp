// The CUDA kernels as a shared library for the CPU: the very .cu files, compiled by the host
// compiler over emulation/host_emulation.h, with C entry points for ctypes.
//
// Build: g++ -std=c++17 -shared -fPIC -I emulation -I csrc/cuda host_driver.cpp
#include <random>

#include "deformable_attention.cu"
#include "key_aware_attention.cu"
#include "launch.cpp"

namespace se = sparse_encoders::cuda;

namespace {

// counts: images, tokens, heads, channels, queries, points, levels; shapes: (h, w) a level.
se::Sizes sizes_of(const int64_t* counts, const int64_t* shapes) {
  se::Sizes sizes;
  sizes.images = counts[0];
  sizes.tokens = counts[1];
  sizes.heads = counts[2];
  sizes.channels = counts[3];
  sizes.queries = counts[4];
  sizes.points = counts[5];
  sizes.pyramid = se::make_pyramid(shapes, counts[6]);
  return sizes;
}

}  // namespace

extern "C" {

const char* find_fault(const int64_t* counts, const int64_t* shapes) {
  return se::find_fault(sizes_of(counts, shapes));
}

// Lanes of every warp run in descending order from now on (or ascending again).
void set_descending_lanes(int descending) { emulation::descending_lanes = descending != 0; }

long long count_launches() { return emulation::launches; }

// inputs: value (of `dtype`), reference_points, offsets, logits (all three of `others`).
static se::DeformableTensors deformable_tensors(se::Dtype others, int coordinates,
                                                const void* const* inputs) {
  return {inputs[0], {inputs[1], others}, coordinates, {inputs[2], others}, {inputs[3], others}};
}

int deformable_forward(int dtype, int others, const int64_t* counts, const int64_t* shapes,
                       int coordinates, const void* const* inputs, void* output) {
  const auto tensors = deformable_tensors(static_cast<se::Dtype>(others), coordinates, inputs);
  return se::deformable_attention(static_cast<se::Dtype>(dtype), sizes_of(counts, shapes), tensors,
                                  output, nullptr);
}

// gradients: value, reference_points (float32, zeros), offsets, logits (of `others`).
int deformable_backward(int dtype, int others, const int64_t* counts, const int64_t* shapes,
                        int coordinates, const void* const* inputs, const void* grad_output,
                        void* const* gradients) {
  const auto kind = static_cast<se::Dtype>(others);
  const auto tensors = deformable_tensors(kind, coordinates, inputs);
  const se::DeformableGradients results = {static_cast<float*>(gradients[0]),
                                           static_cast<float*>(gradients[1]),
                                           {gradients[2], kind},
                                           {gradients[3], kind}};
  return se::deformable_attention_backward(static_cast<se::Dtype>(dtype), sizes_of(counts, shapes),
                                           tensors, grad_output, results, nullptr);
}

// inputs: query, key, value (of `dtype`), locations (of `others`, with strides in elements).
static se::KeyAwareTensors key_aware_tensors(int others, const void* const* inputs,
                                             const int64_t* strides) {
  se::KeyAwareTensors tensors = {
      inputs[0], inputs[1], inputs[2], {inputs[3], static_cast<se::Dtype>(others)}, {}};
  for (int i = 0; i < 6; ++i) {
    tensors.location_strides[i] = strides[i];
  }
  return tensors;
}

int key_aware_forward(int dtype, int others, const int64_t* counts, const int64_t* shapes,
                      const int64_t* strides, const void* const* inputs, void* output) {
  return se::key_aware_attention(static_cast<se::Dtype>(dtype), sizes_of(counts, shapes),
                                 key_aware_tensors(others, inputs, strides), output, nullptr);
}

// gradients: query, key, value (float32, zeros), locations (of `others`).
int key_aware_backward(int dtype, int others, const int64_t* counts, const int64_t* shapes,
                       const int64_t* strides, const void* const* inputs, const void* grad_output,
                       void* const* gradients) {
  const se::KeyAwareGradients results = {gradients[0], static_cast<float*>(gradients[1]),
                                         static_cast<float*>(gradients[2]),
                                         {gradients[3], static_cast<se::Dtype>(others)}};
  return se::key_aware_attention_backward(static_cast<se::Dtype>(dtype), sizes_of(counts, shapes),
                                          key_aware_tensors(others, inputs, strides), grad_output, results,
                                          nullptr);
}

// Rounds `count` floats to a half type and widens them again.
void round_trip(int dtype, int64_t count, const float* wide, uint16_t* narrow, float* back) {
  for (int64_t i = 0; i < count; ++i) {
    if (static_cast<se::Dtype>(dtype) == se::Dtype::kFloat16) {
      narrow[i] = se::from_float<se::Float16>(wide[i]).bits;
      back[i] = se::to_float(se::Float16{narrow[i]});
    } else {
      narrow[i] = se::from_float<se::BFloat16>(wide[i]).bits;
      back[i] = se::to_float(se::BFloat16{narrow[i]});
    }
  }
}

// Locations of the CUDA kernels against the pairs of csrc/common/bilinear.h, at random; returns how
// many differ in a token or by more than rounding in a weight.
int64_t compare_locations(int64_t count) {
  std::mt19937 bits(1);
  std::uniform_real_distribution<float> unit(-0.3f, 1.3f);
  int64_t wrong = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int height = 1 + bits() % 40, width = 1 + bits() % 40, start = bits() % 1000;
    float x = unit(bits) * width, y = unit(bits) * height;
    if (bits() % 2) {
      x = std::floor(x), y = std::floor(y);  // on centres, borders included
    }
    const se::Location location = se::find_location(x, y, height, width, start);
    const bool inside = sparse_encoders::touches(x, width) && sparse_encoders::touches(y, height);
    if (inside != se::touches_map(location)) {
      ++wrong;
    }
    if (!inside) {
      continue;
    }
    const auto across = sparse_encoders::pair_around(x, width);
    const auto down = sparse_encoders::pair_around(y, height);
    float shares[4];
    se::corner_shares(location, shares);
    for (int corner = 0; corner < 4; ++corner) {
      const int column = corner & 1, row = corner >> 1;
      const int token = start + down.index[row] * width + across.index[column];
      const float wanted = down.weight[row] * across.weight[column];
      const bool on_map = se::on_map(location, corner);
      const int found = se::first_token(location) + row * width + column;
      wrong += on_map ? found != token || std::fabs(shares[corner] - wanted) > 1e-6f : wanted != 0;
    }
  }
  return wrong;
}

}  // extern "C"
