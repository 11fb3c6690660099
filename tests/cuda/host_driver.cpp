// The CUDA kernels as a shared library for the CPU: the very .cu files, compiled by the host
// compiler over csrc/cuda/host_emulation.h, with C entry points for ctypes.
//
// Build: g++ -std=c++17 -shared -fPIC -DSPARSE_ENCODERS_HOST_EMULATION -I csrc/cuda host_driver.cpp
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

}  // extern "C"
