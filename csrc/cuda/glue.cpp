// torch.ops.sparse_encoders.* on CUDA: checks tensors, makes results, calls launch.h.
//
// The only file here that includes torch. Schemas, autograd and fake kernels are registered beside
// the CPU code; this adds the CUDA kernels under the same names.
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "../common/checks.h"
#include "launch.h"

namespace sparse_encoders::cuda {
namespace {

using at::IntArrayRef;
using at::Tensor;
using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

std::optional<Dtype> find_dtype(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Dtype::kFloat32;
    case at::kHalf:
      return Dtype::kFloat16;
    case at::kBFloat16:
      return Dtype::kBFloat16;
    default:
      return std::nullopt;
  }
}

Dtype dtype_of(const Tensor& value) {
  const auto dtype = find_dtype(value);
  TORCH_CHECK_TYPE(dtype.has_value(), "value must be float32, float16 or bfloat16 on CUDA, got ",
                   value.scalar_type());
  return *dtype;
}

// Locations, offsets and logits come in any floating-point dtype; what the kernels do not read
// (float64) is narrowed to float32.
Tensor readable(const Tensor& tensor) {
  return find_dtype(tensor) ? tensor : tensor.to(at::kFloat);
}

AnyInput input_of(const Tensor& tensor) { return {tensor.const_data_ptr(), *find_dtype(tensor)}; }
AnyOutput output_of(Tensor& tensor) { return {tensor.mutable_data_ptr(), *find_dtype(tensor)}; }

// For checked arguments; throws where the kernels' own limits are exceeded.
Sizes sizes_of(const Tensor& value, IntArrayRef shapes, int64_t queries, int64_t points) {
  Sizes sizes;
  sizes.images = value.size(0);
  sizes.tokens = value.size(1);
  sizes.heads = value.size(2);
  sizes.channels = value.size(3);
  sizes.queries = queries;
  sizes.points = points;
  sizes.pyramid = make_pyramid(shapes.data(), static_cast<int64_t>(shapes.size() / 2));
  const char* fault = find_fault(sizes);
  TORCH_CHECK_VALUE(fault == nullptr, fault, " on CUDA; got shapes ", shapes, ", ", points,
                    " points, ", queries, " queries and value ", value.sizes());
  return sizes;
}

// Tensors of one call, made ready: contiguous (locations excepted), of dtypes the kernels read.
// Checks come before any device guard: a call with one CUDA tensor among CPU ones arrives here too.
struct Deformable {
  Tensor value, reference_points, offsets, logits;
  Dtype dtype;
  Sizes sizes;

  Deformable(const Tensor& value_, IntArrayRef shapes, const Tensor& reference_points_,
             const Tensor& offsets_, const Tensor& logits_) {
    check_deformable(value_, shapes, reference_points_, offsets_, logits_);
    dtype = dtype_of(value_);
    sizes = sizes_of(value_, shapes, offsets_.size(1), offsets_.size(4));
    value = value_.contiguous();
    reference_points = readable(reference_points_).contiguous();
    offsets = readable(offsets_).contiguous();
    logits = readable(logits_).contiguous();
  }

  DeformableTensors tensors() const {
    return {value.const_data_ptr(), input_of(reference_points),
            static_cast<int>(reference_points.size(3)), input_of(offsets), input_of(logits)};
  }
};

Tensor deformable_attention_cuda(const Tensor& value, IntArrayRef shapes,
                                 const Tensor& reference_points, const Tensor& offsets,
                                 const Tensor& logits) {
  const Deformable call(value, shapes, reference_points, offsets, logits);
  const c10::cuda::CUDAGuard guard(value.device());
  const at::DimVector size = {call.sizes.images, call.sizes.queries,
                              call.sizes.heads * call.sizes.channels};
  Tensor output = at::empty(size, value.options());
  C10_CUDA_CHECK(deformable_attention(call.dtype, call.sizes, call.tensors(),
                                      output.mutable_data_ptr(),
                                      c10::cuda::getCurrentCUDAStream()));
  return output;
}

// As the kernels read it.
Tensor checked_grad(const Tensor& grad, const Tensor& value, const Sizes& sizes) {
  check_gradient(grad, value, sizes.queries);
  return grad.to(value.scalar_type()).contiguous();
}

Four deformable_attention_backward_cuda(const Tensor& grad, const Tensor& value,
                                        IntArrayRef shapes, const Tensor& reference_points,
                                        const Tensor& offsets, const Tensor& logits) {
  at::globalContext().alertNotDeterministic("sparse_encoders::deformable_attention_backward");
  const Deformable call(value, shapes, reference_points, offsets, logits);
  const Tensor ready = checked_grad(grad, value, call.sizes);
  const c10::cuda::CUDAGuard guard(value.device());
  const auto sums = value.options().dtype(at::kFloat);
  Tensor grad_value = at::zeros(value.sizes(), sums);
  Tensor grad_points = at::zeros(reference_points.sizes(), sums);
  Tensor grad_offsets = at::empty(offsets.sizes(), call.offsets.options());
  Tensor grad_logits = at::empty(logits.sizes(), call.logits.options());
  const DeformableGradients gradients = {grad_value.mutable_data_ptr<float>(),
                                         grad_points.mutable_data_ptr<float>(),
                                         output_of(grad_offsets), output_of(grad_logits)};
  C10_CUDA_CHECK(deformable_attention_backward(call.dtype, call.sizes, call.tensors(),
                                               ready.const_data_ptr(), gradients,
                                               c10::cuda::getCurrentCUDAStream()));
  return {grad_value.to(value.scalar_type()), grad_points.to(reference_points.scalar_type()),
          grad_offsets.to(offsets.scalar_type()), grad_logits.to(logits.scalar_type())};
}

struct KeyAware {
  Tensor query, key, value, locations;
  Dtype dtype;
  Sizes sizes;

  KeyAware(const Tensor& query_, const Tensor& key_, const Tensor& value_, IntArrayRef shapes,
           const Tensor& locations_) {
    check_key_aware(query_, key_, value_, shapes, locations_);
    dtype = dtype_of(value_);
    sizes = sizes_of(value_, shapes, locations_.size(1), locations_.size(4));
    value = value_.contiguous();
    key = key_.is_same(value_) ? value : key_.contiguous();  // one copy stays one
    query = query_.contiguous();
    locations = readable(locations_);
  }

  KeyAwareTensors tensors() const {
    KeyAwareTensors tensors = {query.const_data_ptr(), key.const_data_ptr(),
                               value.const_data_ptr(), input_of(locations), {}};
    for (int i = 0; i < 6; ++i) {
      tensors.location_strides[i] = locations.stride(i);
    }
    return tensors;
  }
};

Tensor key_aware_attention_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                                IntArrayRef shapes, const Tensor& locations) {
  const KeyAware call(query, key, value, shapes, locations);
  const c10::cuda::CUDAGuard guard(value.device());
  const at::DimVector size = {call.sizes.images, call.sizes.queries,
                              call.sizes.heads * call.sizes.channels};
  Tensor output = at::empty(size, value.options());
  C10_CUDA_CHECK(key_aware_attention(call.dtype, call.sizes, call.tensors(),
                                     output.mutable_data_ptr(),
                                     c10::cuda::getCurrentCUDAStream()));
  return output;
}

Four key_aware_attention_backward_cuda(const Tensor& grad, const Tensor& query,
                                       const Tensor& key, const Tensor& value, IntArrayRef shapes,
                                       const Tensor& locations) {
  at::globalContext().alertNotDeterministic("sparse_encoders::key_aware_attention_backward");
  const KeyAware call(query, key, value, shapes, locations);
  const Tensor ready = checked_grad(grad, value, call.sizes);
  const c10::cuda::CUDAGuard guard(value.device());
  const auto sums = value.options().dtype(at::kFloat);
  Tensor grad_query = at::empty(query.sizes(), query.options());
  Tensor grad_key = at::zeros(key.sizes(), sums);
  Tensor grad_value = at::zeros(value.sizes(), sums);
  Tensor grad_locations = at::empty(locations.sizes(), call.locations.options());
  const KeyAwareGradients gradients = {grad_query.mutable_data_ptr(),
                                       grad_key.mutable_data_ptr<float>(),
                                       grad_value.mutable_data_ptr<float>(),
                                       output_of(grad_locations)};
  C10_CUDA_CHECK(key_aware_attention_backward(call.dtype, call.sizes, call.tensors(),
                                              ready.const_data_ptr(), gradients,
                                              c10::cuda::getCurrentCUDAStream()));
  return {grad_query, grad_key.to(key.scalar_type()), grad_value.to(value.scalar_type()),
          grad_locations.to(locations.scalar_type())};
}

}  // namespace
}  // namespace sparse_encoders::cuda

// Tests register the same functions elsewhere, over the host emulation.
#ifndef SPARSE_ENCODERS_LIBRARY
#define SPARSE_ENCODERS_LIBRARY sparse_encoders
#define SPARSE_ENCODERS_KEY CUDA
#endif

TORCH_LIBRARY_IMPL(SPARSE_ENCODERS_LIBRARY, SPARSE_ENCODERS_KEY, m) {
  namespace se = sparse_encoders::cuda;
  m.impl("deformable_attention", TORCH_FN(se::deformable_attention_cuda));
  m.impl("deformable_attention_backward", TORCH_FN(se::deformable_attention_backward_cuda));
  m.impl("key_aware_attention", TORCH_FN(se::key_aware_attention_cuda));
  m.impl("key_aware_attention_backward", TORCH_FN(se::key_aware_attention_backward_cuda));
}
