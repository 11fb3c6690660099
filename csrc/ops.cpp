// Schemas of torch.ops.sparse_encoders.*, and what autocast does with them. The kernels register
// themselves from csrc/cpu and csrc/cuda; autograd and fake kernels are in sparse_encoders/ops.
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <string>
#include <tuple>

#include "cpu/kernels.h"

namespace sparse_encoders {
namespace {

std::string cpu_capability() {
  const char* error = nullptr;
  const Kernels& kernels = best_kernels(&error);
  TORCH_CHECK_VALUE(error == nullptr, "SPARSE_ENCODERS_CPU_CAPABILITY is refused: ", error);
  return kernels.name;
}

// Query, key and value in the widest of their dtypes; places and sums stay as they are. Deformable
// attention needs no such rule: it takes any mixture of dtypes.
template <c10::DeviceType device>
at::Tensor key_aware_autocast(const at::Tensor& query, const at::Tensor& key,
                              const at::Tensor& value, c10::SymIntArrayRef shapes,
                              const at::Tensor& locations) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      c10::DispatchKeySet(at::autocast::get_autocast_dispatch_key_from_device_type(device)));
  const auto widest = at::promote_types(at::promote_types(query.scalar_type(), key.scalar_type()),
                                        value.scalar_type());
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("sparse_encoders::key_aware_attention", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                            c10::SymIntArrayRef, const at::Tensor&)>();
  return op.call(query.to(widest), key.to(widest), value.to(widest), shapes, locations);
}

}  // namespace
}  // namespace sparse_encoders

TORCH_LIBRARY(sparse_encoders, m) {
  m.def("cpu_capability() -> str", &sparse_encoders::cpu_capability);
  m.def(
      "deformable_attention(Tensor value, SymInt[] shapes, Tensor reference_points, "
      "Tensor offsets, Tensor logits) -> Tensor");
  m.def(
      "deformable_attention_backward(Tensor grad, Tensor value, SymInt[] shapes, "
      "Tensor reference_points, Tensor offsets, Tensor logits) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "key_aware_attention(Tensor query, Tensor key, Tensor value, SymInt[] shapes, "
      "Tensor locations) -> Tensor");
  m.def(
      "key_aware_attention_backward(Tensor grad, Tensor query, Tensor key, Tensor value, "
      "SymInt[] shapes, Tensor locations) -> (Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(sparse_encoders, AutocastCPU, m) {
  m.impl("key_aware_attention", &sparse_encoders::key_aware_autocast<c10::DeviceType::CPU>);
}

TORCH_LIBRARY_IMPL(sparse_encoders, AutocastCUDA, m) {
  m.impl("key_aware_attention", &sparse_encoders::key_aware_autocast<c10::DeviceType::CUDA>);
}
