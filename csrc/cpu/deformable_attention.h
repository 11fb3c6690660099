// torch.ops.sparse_encoders.deformable_attention on the CPU. Included by csrc/ops.cpp only.
#pragma once

#include <tuple>

#include "heads.h"

namespace sparse_encoders::deformable_attention {
namespace {

struct Arguments {
  at::Tensor value, reference_points, offsets, logits;
  DeformableProblem problem;
  bool head_by_head;

  Arguments(const at::Tensor& value_, at::IntArrayRef shapes, const at::Tensor& reference_points_,
            const at::Tensor& offsets_, const at::Tensor& logits_, bool gradients)
      : problem() {
    check_deformable(value_, shapes, reference_points_, offsets_, logits_);
    problem.geometry = geometry_of(value_, shapes, offsets_.size(1), offsets_.size(4));
    problem.value_kind = kind_of("value", value_);
    problem.reference_kind = kind_of("reference_points", reference_points_);
    problem.offsets_kind = kind_of("offsets", offsets_);
    problem.logits_kind = kind_of("logits", logits_);
    head_by_head = copy_in_threads(problem.geometry, gradients);
    value = head_by_head ? with_rows(value_) : by_head(value_, problem.geometry, gradients);
    reference_points = reference_points_.contiguous();
    offsets = offsets_.contiguous();
    logits = logits_.contiguous();
    problem.value = tokens_of(value);
    problem.reference_size = reference_points.size(3);
    problem.reference = reference_points.const_data_ptr();
    problem.offsets = offsets.const_data_ptr();
    problem.logits = logits.const_data_ptr();
  }
};

at::Tensor forward(const at::Tensor& value, at::IntArrayRef shapes,
                   const at::Tensor& reference_points, const at::Tensor& offsets,
                   const at::Tensor& logits) {
  Arguments arguments(value, shapes, reference_points, offsets, logits, false);
  DeformableProblem& problem = arguments.problem;
  Geometry& g = problem.geometry;
  g.runs = forward_runs(g);
  at::Tensor output = at::empty({g.batch, g.queries, g.heads * g.depth}, value.options());
  problem.output = output.mutable_data_ptr();
  if (!arguments.head_by_head) {
    for_items(problem, best_kernels().deformable_forward);
    return output;
  }
  at::parallel_for(0, g.items(), 1, [&](int64_t begin, int64_t end) {
    DeformableProblem mine = problem;
    HeadCopy value_copy(arguments.value);
    for (int64_t item = begin; item < end; ++item) {
      mine.value = value_copy.of(item / g.runs);
      best_kernels().deformable_forward(mine, item);
    }
  });
  return output;
}

at::Tensor backward_head_by_head(const DeformableProblem& problem, const at::Tensor& value) {
  at::Tensor grad_value = at::empty(value.sizes(), value.options());
  at::parallel_for(0, problem.geometry.items(), 1, [&](int64_t begin, int64_t end) {
    DeformableProblem mine = problem;
    HeadCopy value_copy(value);
    HeadGradient gradient(grad_value, problem.value_kind);
    mine.grad_value = gradient.block();
    for (int64_t item = begin; item < end; ++item) {
      mine.value = value_copy.of(item);
      best_kernels().deformable_backward(mine, item);
      gradient.keep(item);
    }
  });
  return grad_value;
}

// All heads laid out at once, with a block of gradients for each run of queries.
at::Tensor backward_in_blocks(DeformableProblem& problem, Arguments& arguments) {
  const Geometry& g = problem.geometry;
  const at::Tensor blocks = empty_blocks(arguments.value, g, problem.value_kind);
  problem.grad_value = blocks_of(blocks);
  for_items(problem, best_kernels().deformable_backward);
  const at::ScalarType dtype = arguments.value.scalar_type();
  arguments.value.reset();  // its copy by head, before more memory is taken
  return join_blocks(blocks, dtype);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>
backward(const at::Tensor& grad, const at::Tensor& value, at::IntArrayRef shapes,
         const at::Tensor& reference_points, const at::Tensor& offsets,
         const at::Tensor& logits) {
  Arguments arguments(value, shapes, reference_points, offsets, logits, true);
  DeformableProblem& problem = arguments.problem;
  Geometry& g = problem.geometry;
  check_gradient(grad, value, g.queries);
  g.runs = backward_runs(g);
  const at::Tensor grad_output = grad.to(value.scalar_type()).contiguous();
  const auto wide = value.options().dtype(accumulation_type(problem.value_kind));
  at::Tensor grad_reference =
      at::empty({g.batch, g.heads, g.queries, g.levels, problem.reference_size}, wide);
  at::Tensor grad_offsets = at::empty(offsets.sizes(), offsets.options());
  at::Tensor grad_logits = at::empty(logits.sizes(), logits.options());
  problem.grad_output = grad_output.const_data_ptr();
  problem.grad_reference = grad_reference.mutable_data_ptr();
  problem.grad_offsets = grad_offsets.mutable_data_ptr();
  problem.grad_logits = grad_logits.mutable_data_ptr();
  const at::Tensor grad_value = arguments.head_by_head
                                    ? backward_head_by_head(problem, arguments.value)
                                    : backward_in_blocks(problem, arguments);
  return {grad_value, grad_reference.sum(1).to(reference_points.scalar_type()), grad_offsets,
          grad_logits};
}

}  // namespace
}  // namespace sparse_encoders::deformable_attention
