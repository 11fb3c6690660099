// Schemas of torch.ops.sparse_encoders.*, what autocast does with them, and the CPU's side of them.
// csrc/cuda registers its own; autograd and meta kernels are in sparse_encoders/ops.
//
// The only file of the CPU's that includes torch, and no more of it than it needs: torch's headers
// take longer to read than all that is written here, and ATen/ATen.h twice as long as these.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <string>
#include <tuple>

#include "cpu/deformable_attention.h"
#include "cpu/kernels.h"
#include "cpu/key_aware_attention.h"

namespace sparse_encoders {
namespace {

std::string cpu_capability() {
  const char* error = nullptr;
  const Kernels& kernels = best_kernels(&error);
  TORCH_CHECK_VALUE(error == nullptr, "SPARSE_ENCODERS_CPU_CAPABILITY is refused: ", error);
  return kernels.name;
}

// Query, key and value in the widest of their dtypes; locations and sums stay as they are.
// Deformable attention needs no such rule: it takes any mixture of dtypes.
template <c10::DispatchKey autocast>
at::Tensor key_aware_autocast(const at::Tensor& query, const at::Tensor& key,
                              const at::Tensor& value, c10::SymIntArrayRef shapes,
                              const at::Tensor& locations) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::DispatchKeySet(autocast)};
  const auto widest = c10::promoteTypes(c10::promoteTypes(query.scalar_type(), key.scalar_type()),
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

TORCH_LIBRARY_IMPL(sparse_encoders, CPU, m) {
  m.impl("deformable_attention", &sparse_encoders::deformable_attention::forward);
  m.impl("deformable_attention_backward", &sparse_encoders::deformable_attention::backward);
  m.impl("key_aware_attention", &sparse_encoders::key_aware_attention::forward);
  m.impl("key_aware_attention_backward", &sparse_encoders::key_aware_attention::backward);
}

TORCH_LIBRARY_IMPL(sparse_encoders, AutocastCPU, m) {
  m.impl("key_aware_attention", &sparse_encoders::key_aware_autocast<c10::DispatchKey::AutocastCPU>);
}

TORCH_LIBRARY_IMPL(sparse_encoders, AutocastCUDA, m) {
  m.impl("key_aware_attention", &sparse_encoders::key_aware_autocast<c10::DispatchKey::AutocastCUDA>);
}
