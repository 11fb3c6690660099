// torch.ops.sparse_encoders.key_aware_attention on the CPU. Included by csrc/ops.cpp only.
#pragma once

#include <tuple>

#include "heads.h"

namespace sparse_encoders::key_aware_attention {
namespace {

struct Arguments {
  at::Tensor query, key, value, locations;
  KeyAwareProblem problem;
  bool head_by_head;

  Arguments(const at::Tensor& query_, const at::Tensor& key_, const at::Tensor& value_,
            at::IntArrayRef shapes, const at::Tensor& locations_, bool gradients)
      : problem() {
    check_key_aware(query_, key_, value_, shapes, locations_);
    problem.geometry = geometry_of(value_, shapes, locations_.size(1), locations_.size(4));
    problem.value_kind = kind_of("value", value_);
    problem.locations_kind = kind_of("locations", locations_);
    query = query_.contiguous();
    head_by_head = copy_in_threads(problem.geometry, gradients);
    value = laid_out(value_, gradients);
    key = key_.is_same(value_) ? value : laid_out(key_, gradients);
    locations = locations_;
    problem.query = query.const_data_ptr();
    problem.key = tokens_of(key);
    problem.value = tokens_of(value);
    problem.locations = locations.const_data_ptr();
    std::copy_n(locations.strides().data(), 6, problem.location_strides);
  }

  at::Tensor laid_out(const at::Tensor& tokens, bool gradients) const {
    return head_by_head ? with_rows(tokens) : by_head(tokens, problem.geometry, gradients);
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
  if (!arguments.head_by_head) {
    for_items(problem, best_kernels().key_aware_forward);
    return output;
  }
  at::parallel_for(0, g.items(), 1, [&](int64_t begin, int64_t end) {
    KeyAwareProblem mine = problem;
    HeadCopy key_copy(arguments.key), value_copy(arguments.value);
    for (int64_t item = begin; item < end; ++item) {
      mine.key = key_copy.of(item / g.runs);
      mine.value = value_copy.of(item / g.runs);
      best_kernels().key_aware_forward(mine, item);
    }
  });
  return output;
}

typedef std::tuple<at::Tensor, at::Tensor> KeyAndValue;

KeyAndValue backward_head_by_head(const KeyAwareProblem& problem, const at::Tensor& key,
                                  const at::Tensor& value) {
  at::Tensor grad_key = at::empty(key.sizes(), key.options());
  at::Tensor grad_value = at::empty(value.sizes(), value.options());
  at::parallel_for(0, problem.geometry.items(), 1, [&](int64_t begin, int64_t end) {
    KeyAwareProblem mine = problem;
    HeadCopy key_copy(key), value_copy(value);
    HeadGradient of_key(grad_key, problem.value_kind), of_value(grad_value, problem.value_kind);
    mine.grad_key = of_key.block();
    mine.grad_value = of_value.block();
    for (int64_t item = begin; item < end; ++item) {
      mine.key = key_copy.of(item);
      mine.value = value_copy.of(item);
      best_kernels().key_aware_backward(mine, item);
      of_key.keep(item);
      of_value.keep(item);
    }
  });
  return {grad_key, grad_value};
}

// All heads laid out at once, with blocks of gradients for each run of queries.
KeyAndValue backward_in_blocks(KeyAwareProblem& problem, Arguments& arguments) {
  const Geometry& g = problem.geometry;
  const at::Tensor key_blocks = empty_blocks(arguments.key, g, problem.value_kind);
  const at::Tensor value_blocks = empty_blocks(arguments.value, g, problem.value_kind);
  problem.grad_key = blocks_of(key_blocks);
  problem.grad_value = blocks_of(value_blocks);
  for_items(problem, best_kernels().key_aware_backward);
  const at::ScalarType dtype = arguments.value.scalar_type();
  arguments.key.reset();  // their copies by head, before more memory is taken
  arguments.value.reset();
  return {join_blocks(key_blocks, dtype), join_blocks(value_blocks, dtype)};
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
  at::Tensor grad_query = at::empty(query.sizes(), query.options());
  at::Tensor grad_locations = at::empty(locations.sizes(), locations.options());
  problem.grad_output = grad_output.const_data_ptr();
  problem.grad_query = grad_query.mutable_data_ptr();
  problem.grad_locations = grad_locations.mutable_data_ptr();
  auto [grad_key, grad_value] =
      arguments.head_by_head
          ? backward_head_by_head(problem, arguments.key, arguments.value)
          : backward_in_blocks(problem, arguments);
  return {grad_query, grad_key, grad_value, grad_locations};
}

}  // namespace
}  // namespace sparse_encoders::key_aware_attention
