// Launches deformable attention. Compiles with plain nvcc (no torch); see launch.h.
#include "deformable_kernels.h"
#include "dispatch.h"

namespace sparse_encoders::cuda {
namespace {

template <typename T>
DeformableArguments<T> arguments_of(const Sizes& sizes, const DeformableTensors& inputs) {
  DeformableArguments<T> a = {};
  a.sizes = sizes;
  a.value = static_cast<const T*>(inputs.value);
  a.reference_points = inputs.reference_points;
  a.coordinates = inputs.coordinates;
  a.offsets = inputs.offsets;
  a.logits = inputs.logits;
  return a;
}

bool is_valid(const Sizes& sizes, const DeformableTensors& inputs) {
  return find_fault(sizes) == nullptr && (inputs.coordinates == 2 || inputs.coordinates == 4);
}

}  // namespace

cudaError_t deformable_attention(Dtype dtype, const Sizes& sizes, const DeformableTensors& inputs,
                                 void* output, cudaStream_t stream) {
  if (!is_valid(sizes, inputs)) {
    return cudaErrorInvalidValue;
  }
  if (is_empty(sizes)) {
    return cudaSuccess;
  }
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    DeformableArguments<T> a = arguments_of<T>(sizes, inputs);
    a.output = static_cast<T*>(output);
    return with_layout<T>(
        sizes, {0, 0}, kForwardThreads, {inputs.value, output}, [&](auto layout, Geometry geometry) {
          using L = decltype(layout);
          SE_LAUNCH(deformable_forward<L>, geometry.blocks, geometry.threads, geometry.bytes,
                    stream, a);
          return cudaGetLastError();
        });
  });
}

cudaError_t deformable_attention_backward(Dtype dtype, const Sizes& sizes,
                                          const DeformableTensors& inputs, const void* grad_output,
                                          const DeformableGradients& gradients,
                                          cudaStream_t stream) {
  if (!is_valid(sizes, inputs)) {
    return cudaErrorInvalidValue;
  }
  if (is_empty(sizes)) {
    return cudaSuccess;
  }
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    DeformableArguments<T> a = arguments_of<T>(sizes, inputs);
    a.grad_output = static_cast<const T*>(grad_output);
    a.grad_value = gradients.value;
    a.grad_reference_points = gradients.reference_points;
    a.grad_offsets = gradients.offsets;
    a.grad_logits = gradients.logits;
    return with_layout<T>(sizes, {4, 4}, kBackwardThreads, {inputs.value, grad_output, gradients.value},
                          [&](auto layout, Geometry geometry) {
                            using L = decltype(layout);
                            SE_LAUNCH(deformable_backward<L>, geometry.blocks, geometry.threads,
                                      geometry.bytes, stream, a);
                            return cudaGetLastError();
                          });
  });
}

}  // namespace sparse_encoders::cuda
