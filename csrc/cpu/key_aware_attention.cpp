// torch.ops.sparse_encoders.key_aware_attention on the CPU.
#include <torch/library.h>

#include <tuple>

#include "tensors.h"

namespace sparse_encoders {
namespace {

// Key and value by head, in one allocation: one that is large enough is given back to the system
// when it is freed, where two smaller ones would leave holes that nothing fits into.
std::tuple<at::Tensor, at::Tensor> both_by_head(const at::Tensor& key, const at::Tensor& value,
                                                const Geometry& g, bool always) {
  if (key.is_same(value) || !lay_out_by_head(g, always)) {
    const at::Tensor values = by_head(value, g, always);
    return {key.is_same(value) ? values : by_head(key, g, always), values};
  }
  at::Tensor both = at::empty({2, g.batch, g.heads, g.tokens, g.depth}, value.options());
  both.select(0, 0).copy_(key.transpose(1, 2));
  both.select(0, 1).copy_(value.transpose(1, 2));
  return {both.select(0, 0).transpose(1, 2), both.select(0, 1).transpose(1, 2)};
}

struct Arguments {
  at::Tensor query, key, value, locations;
  KeyAwareProblem problem;

  Arguments(const at::Tensor& query_, const at::Tensor& key_, const at::Tensor& value_,
            at::IntArrayRef shapes, const at::Tensor& locations_, bool gradients)
      : problem() {
    check_key_aware(query_, key_, value_, shapes, locations_);
    problem.geometry = geometry_of(value_, shapes, locations_.size(1), locations_.size(4));
    problem.value_kind = kind_of("value", value_);
    problem.locations_kind = kind_of("locations", locations_);
    query = query_.contiguous();
    std::tie(key, value) = both_by_head(key_, value_, problem.geometry, gradients);
    locations = locations_;
    problem.query = query.const_data_ptr();
    problem.key = tokens_of(key);
    problem.value = tokens_of(value);
    problem.locations = locations.const_data_ptr();
    std::copy_n(locations.strides().data(), 6, problem.location_strides);
  }
};

at::Tensor forward(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                   at::IntArrayRef shapes, const at::Tensor& locations) {
  Arguments arguments(query, key, value, shapes, locations, false);
  KeyAwareProblem& problem = arguments.problem;
  Geometry& g = problem.geometry;
  g.runs = forward_runs(g);
  at::Tensor output = at::empty({g.batch, g.queries, g.heads * g.depth}, value.options());
  problem.output = output.mutable_data_ptr();
  for_items(problem, best_kernels().key_aware_forward);
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>
backward(const at::Tensor& grad, const at::Tensor& query, const at::Tensor& key,
         const at::Tensor& value, at::IntArrayRef shapes, const at::Tensor& locations) {
  Arguments arguments(query, key, value, shapes, locations, true);
  KeyAwareProblem& problem = arguments.problem;
  Geometry& g = problem.geometry;
  check_gradient(grad, value, g.queries);
  g.runs = backward_runs(g);
  const at::Tensor grad_output = grad.to(value.scalar_type()).contiguous();
  at::Tensor blocks = empty_blocks(value, g, problem.value_kind, 2);
  at::Tensor grad_query = at::empty(query.sizes(), query.options());
  at::Tensor grad_locations = at::empty(locations.sizes(), locations.options());
  problem.grad_output = grad_output.const_data_ptr();
  problem.grad_query = grad_query.mutable_data_ptr();
  problem.grad_key = blocks.select(0, 0).mutable_data_ptr();
  problem.grad_value = blocks.select(0, 1).mutable_data_ptr();
  problem.grad_locations = grad_locations.mutable_data_ptr();
  for_items(problem, best_kernels().key_aware_backward);
  arguments.key.reset();  // their copies by head, before more memory is taken
  arguments.value.reset();
  at::Tensor grad_key = join_blocks(blocks.select(0, 0), key.scalar_type());
  at::Tensor grad_value = join_blocks(blocks.select(0, 1), value.scalar_type());
  return {grad_query, grad_key, grad_value, grad_locations};
}

}  // namespace
}  // namespace sparse_encoders

TORCH_LIBRARY_IMPL(sparse_encoders, CPU, m) {
  m.impl("key_aware_attention", &sparse_encoders::forward);
  m.impl("key_aware_attention_backward", &sparse_encoders::backward);
}
