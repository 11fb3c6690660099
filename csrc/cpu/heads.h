// One head at a time: a thread copies the tokens of the head that it works on, and sums their
// gradients in a block of its own. Both stay in its cache and are never held for all heads at once.
#pragma once

#include <cstring>

#include "tensors.h"

namespace sparse_encoders {

// Whether to work so. With many more threads than heads, several would copy the same one; and the
// gradients of a head that is split into runs of queries need a block for each run.
inline bool copy_in_threads(const Geometry& g, bool gradients) {
  if (gradients) return lay_out_by_head(g, true) && backward_runs(g) == 1;
  return lay_out_by_head(g, false) && at::get_num_threads() <= 2 * g.batch * g.heads;
}

// (B, N, M, D) tokens whose last dimension can be copied row by row.
inline at::Tensor with_rows(const at::Tensor& tokens) {
  return tokens.stride(3) == 1 ? tokens : tokens.contiguous();
}

// Rows of one tensor to those of another, both of one dtype.
inline void copy_rows(char* target, int64_t target_step, const char* source, int64_t source_step,
                      int64_t rows, int64_t bytes) {
  for (int64_t n = 0; n < rows; ++n)
    std::memcpy(target + n * target_step, source + n * source_step, bytes);
}

// A thread's copy of one head of (B, N, M, D) tokens; heads are numbered image * heads + head.
class HeadCopy {
 public:
  explicit HeadCopy(const at::Tensor& tokens)
      : tokens_(tokens), own_(at::empty({tokens.size(1), tokens.size(3)}, tokens.options())) {}

  Tokens of(int64_t number) {
    const int64_t size = tokens_.element_size(), heads = tokens_.size(2), depth = tokens_.size(3);
    char* target = static_cast<char*>(own_.mutable_data_ptr());
    if (number != held_) {
      const int64_t first = number / heads * tokens_.stride(0) + number % heads * tokens_.stride(2);
      copy_rows(target, depth * size, static_cast<const char*>(tokens_.const_data_ptr()) + first * size,
                tokens_.stride(1) * size, tokens_.size(1), depth * size);
      held_ = number;
    }
    return {target, 0, depth, 0};
  }

 private:
  const at::Tensor& tokens_;
  at::Tensor own_;
  int64_t held_ = -1;
};

// A thread's sums of the gradients of one head's tokens.
class HeadGradient {
 public:
  // gradients: (B, N, M, D), contiguous; every head is kept once.
  HeadGradient(const at::Tensor& gradients, Kind kind)
      : gradients_(gradients),
        own_(at::empty({gradients.size(1), gradients.size(3)},
                       gradients.options().dtype(accumulation_type(kind)))) {}

  Blocks block() { return {own_.mutable_data_ptr(), 0}; }

  // The block, rounded to the tokens' dtype, into the gradient of all heads.
  void keep(int64_t number) {
    const int64_t heads = gradients_.size(2), depth = gradients_.size(3);
    if (own_.scalar_type() != gradients_.scalar_type()) {
      gradients_.select(0, number / heads).select(1, number % heads).copy_(own_);
      return;
    }
    const int64_t size = own_.element_size(), first = number / heads * gradients_.stride(0) + number % heads * depth;
    copy_rows(static_cast<char*>(gradients_.mutable_data_ptr()) + first * size, heads * depth * size,
              static_cast<const char*>(own_.const_data_ptr()), depth * size, gradients_.size(1),
              depth * size);
  }

 private:
  const at::Tensor& gradients_;
  at::Tensor own_;
};

}  // namespace sparse_encoders
