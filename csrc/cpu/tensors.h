// Between tensors and the kernels' raw pointers.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "../common/checks.h"
#include "kernels.h"

namespace sparse_encoders {

inline Kind kind_of(const char* name, const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Kind::Float32;
    case at::kDouble:
      return Kind::Float64;
    case at::kBFloat16:
      return Kind::BFloat16;
    default:
      TORCH_CHECK_TYPE(false, name, " must be float32, float64 or bfloat16 on the CPU, got ",
                       tensor.scalar_type());
  }
}

inline at::ScalarType accumulation_type(Kind kind) {
  return kind == Kind::Float64 ? at::kDouble : at::kFloat;
}

inline Geometry geometry_of(const at::Tensor& value, at::IntArrayRef shapes, int64_t queries,
                            int64_t points) {
  return {value.size(0), value.size(1), queries,       value.size(2),
          static_cast<int64_t>(shapes.size()) / 2, points, value.size(3), shapes.data(), 1};
}

// Whether the heads are laid out one after another first, so that their tokens share cache lines
// and pages: where every token is read about once or more, or gradients follow.
inline bool lay_out_by_head(const Geometry& g, bool always) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  TORCH_CHECK_VALUE(g.tokens * g.depth < kMost, "a head must hold fewer than 2^31 numbers, got ",
                    g.tokens, " tokens of ", g.depth, " channels");
  const bool few = g.queries * g.levels * g.points < g.tokens;
  return always || !few || g.tokens * g.heads * g.depth >= kMost;
}

// (B, N, M, D) tokens ready to be read by head.
inline at::Tensor by_head(const at::Tensor& tokens, const Geometry& g, bool always) {
  if (!lay_out_by_head(g, always)) return tokens.contiguous();
  return tokens.transpose(1, 2).contiguous().transpose(1, 2);
}

inline Tokens tokens_of(const at::Tensor& tokens) {
  return {tokens.const_data_ptr(), tokens.stride(0), tokens.stride(1), tokens.stride(2)};
}

// Runs of queries per head in the forward: small enough to spread over the threads.
inline int64_t forward_runs(const Geometry& g) {
  constexpr int64_t kQueries = 512;
  return std::max<int64_t>(1, (g.queries + kQueries - 1) / kQueries);
}

// Runs of queries per head in the backward. Each run sums the gradients of the tokens in a block
// of its own, so there is one run a head unless that leaves threads idle. The number of runs (and
// with it the order of additions) depends on the sizes and the number of threads only.
inline int64_t backward_runs(const Geometry& g) {
  const int64_t heads = std::max<int64_t>(1, g.batch * g.heads);
  const int64_t wanted = (at::get_num_threads() + heads - 1) / heads;
  return std::max<int64_t>(1, std::min<int64_t>({wanted, 16, (g.queries + 63) / 64}));
}

// (B, M, runs, N, D) for the gradients of tokens.
inline at::Tensor empty_blocks(const at::Tensor& value, const Geometry& g, Kind kind) {
  return at::empty({g.batch, g.heads, g.runs, g.tokens, g.depth},
                   value.options().dtype(accumulation_type(kind)));
}

inline Blocks blocks_of(const at::Tensor& blocks) {
  return {blocks.mutable_data_ptr(), blocks.stride(2)};
}

// Blocks of token gradients to (B, N, M, D) in the dtype of the tokens.
inline at::Tensor join_blocks(const at::Tensor& blocks, at::ScalarType dtype) {
  const at::Tensor joined = blocks.size(2) == 1 ? blocks.select(2, 0) : blocks.sum(2);
  return joined.transpose(1, 2).to(dtype).contiguous();
}

template <typename Problem>
void for_items(const Problem& problem, void (*kernel)(const Problem&, int64_t)) {
  at::parallel_for(0, problem.geometry.items(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) kernel(problem, item);
  });
}

}  // namespace sparse_encoders
