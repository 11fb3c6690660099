// The kernels as the rest of the library sees them: plain functions over raw pointers.
//
// Nothing here includes torch, so the kernels compile with `nvcc` alone and can be run by tests
// on a machine without a GPU (tests/cuda/emulation). glue.cpp puts torch on top.
//
// Letters: B images, N tokens, M heads, D channels of a head, Q queries, L levels, P points.
// Every tensor is contiguous in the order given, unless strides are named beside it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sparse_encoders::cuda {

enum class Dtype { kFloat32, kFloat16, kBFloat16 };

// A tensor whose dtype is looked up when it is read, one element at a time. Locations, offsets and
// logits come in whatever dtype they have, beside values of another: under autocast they may stay
// float32, as a bfloat16 coordinate is half a pixel off on a map of 134 columns.
struct AnyInput {
  const void* data = nullptr;
  Dtype dtype = Dtype::kFloat32;
};
struct AnyOutput {
  void* data = nullptr;
  Dtype dtype = Dtype::kFloat32;
};

// Limits, checked by `find_fault`. Levels travel as kernel arguments; the locations of one query
// and head wait in shared memory; a token's index shares 32 bits with the flags of its corners.
constexpr int kMaxLevels = 16;
constexpr int kMaxSamples = 1000;            // L * P
constexpr int64_t kMaxTokens = 1LL << 24;    // N, and a level's height and width (exact in float32)

// The feature pyramid: levels one after the other, finest first, each row by row.
struct Pyramid {
  int count = 0;
  int height[kMaxLevels] = {};
  int width[kMaxLevels] = {};
  int start[kMaxLevels] = {};  // first token of the level
};

struct Sizes {
  int64_t images = 0;    // B
  int64_t tokens = 0;    // N
  int64_t heads = 0;     // M
  int64_t channels = 0;  // D
  int64_t queries = 0;   // Q
  int64_t points = 0;    // P
  Pyramid pyramid;       // L levels
};

// Fills a pyramid from (height, width) pairs on the host. Levels past kMaxLevels are counted but
// not stored: `find_fault` refuses them.
Pyramid make_pyramid(const int64_t* shapes, int64_t levels);

// What of `sizes` the kernels cannot take, as a sentence; nullptr when there is nothing.
const char* find_fault(const Sizes& sizes);

struct DeformableTensors {
  const void* value = nullptr;  // (B, N, M, D)
  AnyInput reference_points;    // (B, Q, L, coordinates), normalised x, y[, w, h]
  int coordinates = 2;          // 2 or 4
  AnyInput offsets;             // (B, Q, M, L, P, 2), raw
  AnyInput logits;              // (B, Q, M, L, P), raw: softmax over L * P is inside
};

// `dtype` is that of value, output and grad_output. output (B, Q, M, D).
cudaError_t deformable_attention(Dtype dtype, const Sizes& sizes, const DeformableTensors& inputs,
                                 void* output, cudaStream_t stream);

// The first two are float32 whatever the dtype, and must hold zeros: the kernel adds to them with
// atomics, in no fixed order, so their last bits differ from run to run (not deterministic).
// The other two are written once.
struct DeformableGradients {
  float* value = nullptr;             // (B, N, M, D)
  float* reference_points = nullptr;  // (B, Q, L, coordinates)
  AnyOutput offsets;                  // (B, Q, M, L, P, 2)
  AnyOutput logits;                   // (B, Q, M, L, P)
};

cudaError_t deformable_attention_backward(Dtype dtype, const Sizes& sizes,
                                          const DeformableTensors& inputs, const void* grad_output,
                                          const DeformableGradients& gradients,
                                          cudaStream_t stream);

struct KeyAwareTensors {
  const void* query = nullptr;  // (B, Q, M, D)
  const void* key = nullptr;    // (B, N, M, D)
  const void* value = nullptr;  // (B, N, M, D); equal to `key` saves half of the reads
  AnyInput locations;           // (B, Q, M, L, P, 2), normalised x, y
  int64_t location_strides[6] = {};  // in elements; 0 where a dimension is expanded
};

// `dtype` is that of query, key, value, output, grad_output and grad_query.
// output (B, Q, M, D). The softmax is over q . k / sqrt(D) of the L * P sampled keys.
cudaError_t key_aware_attention(Dtype dtype, const Sizes& sizes, const KeyAwareTensors& inputs,
                                void* output, cudaStream_t stream);

// key and value: as DeformableGradients::value (float32, zeros, atomics, not deterministic).
struct KeyAwareGradients {
  void* query = nullptr;   // (B, Q, M, D), written once
  float* key = nullptr;    // (B, N, M, D)
  float* value = nullptr;  // (B, N, M, D)
  AnyOutput locations;     // (B, Q, M, L, P, 2), contiguous, written once
};

cudaError_t key_aware_attention_backward(Dtype dtype, const Sizes& sizes,
                                         const KeyAwareTensors& inputs, const void* grad_output,
                                         const KeyAwareGradients& gradients, cudaStream_t stream);

}  // namespace sparse_encoders::cuda
