// Launches key-aware deformable attention. Compiles with plain nvcc (no torch); see launch.h.
#include "dispatch.h"
#include "key_aware_kernels.h"

namespace sparse_encoders::cuda {
namespace {

template <typename T>
KeyAwareArguments<T> arguments_of(const Sizes& sizes, const KeyAwareTensors& inputs) {
  KeyAwareArguments<T> a = {};
  a.sizes = sizes;
  a.query = static_cast<const T*>(inputs.query);
  a.key = static_cast<const T*>(inputs.key);
  a.value = static_cast<const T*>(inputs.value);
  a.locations = inputs.locations;
  for (int i = 0; i < 6; ++i) {
    a.location_strides[i] = inputs.location_strides[i];
  }
  return a;
}

}  // namespace

cudaError_t key_aware_attention(Dtype dtype, const Sizes& sizes, const KeyAwareTensors& inputs,
                                void* output, cudaStream_t stream) {
  if (find_fault(sizes) != nullptr) {
    return cudaErrorInvalidValue;
  }
  if (is_empty(sizes)) {
    return cudaSuccess;
  }
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    KeyAwareArguments<T> a = arguments_of<T>(sizes, inputs);
    a.output = static_cast<T*>(output);
    return with_layout<T>(sizes, {0, 4}, kKeyAwareForwardThreads,
                          {inputs.query, inputs.key, inputs.value, output},
                          [&](auto layout, Geometry geometry) {
                            using L = decltype(layout);
                            SE_LAUNCH(key_aware_forward<L>, geometry.blocks, geometry.threads,
                                      geometry.bytes, stream, a);
                            return cudaGetLastError();
                          });
  });
}

cudaError_t key_aware_attention_backward(Dtype dtype, const Sizes& sizes,
                                         const KeyAwareTensors& inputs, const void* grad_output,
                                         const KeyAwareGradients& gradients, cudaStream_t stream) {
  if (find_fault(sizes) != nullptr) {
    return cudaErrorInvalidValue;
  }
  if (is_empty(sizes)) {
    return cudaSuccess;
  }
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    KeyAwareArguments<T> a = arguments_of<T>(sizes, inputs);
    a.grad_output = static_cast<const T*>(grad_output);
    a.grad_query = static_cast<T*>(gradients.query);
    a.grad_key = gradients.key;
    a.grad_value = gradients.value;
    a.grad_locations = gradients.locations;
    return with_layout<T>(sizes, {8, 8}, kKeyAwareBackwardThreads,
                          {inputs.query, inputs.key, inputs.value, grad_output, gradients.query,
                           gradients.key, gradients.value},
                          [&](auto layout, Geometry geometry) {
                            using L = decltype(layout);
                            SE_LAUNCH(key_aware_backward<L>, geometry.blocks, geometry.threads,
                                      geometry.bytes, stream, a);
                            return cudaGetLastError();
                          });
  });
}

}  // namespace sparse_encoders::cuda
