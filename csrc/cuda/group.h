// A group is the `Size` neighbouring lanes of a warp that work on one query and head together.
// Every function is called by all 32 lanes of the warp at once.
#pragma once

#include "platform.h"

namespace sparse_encoders::cuda {

template <int Size>
SE_DEVICE float group_sum(float x) {
#pragma unroll
  for (int step = Size / 2; step > 0; step /= 2) {
    x += __shfl_xor_sync(kWholeWarp, x, step);
  }
  return x;
}

template <int Size>
SE_DEVICE float group_max(float x) {
#pragma unroll
  for (int step = Size / 2; step > 0; step /= 2) {
    x = fmaxf(x, __shfl_xor_sync(kWholeWarp, x, step));
  }
  return x;
}

// Sums `Count` numbers over the group and writes them to `sums` in shared memory, where they can be
// read after the next __syncwarp. Plain butterflies would take
// Count * log2(Size) shuffles; here each step hands half of the numbers to the partner lane and
// keeps the other half, so that number k ends up in the lanes with lane % Count == k.
template <int Size, int Count>
SE_DEVICE void group_sums(float (&x)[Count], int lane, float* sums) {
  static_assert((Count & (Count - 1)) == 0 && Count <= 8, "a small power of two");
  constexpr int kShared = Count < Size ? Count : Size;
#pragma unroll
  for (int step = 1, left = Count; step < kShared; step *= 2, left /= 2) {
    const bool odd = (lane & step) != 0;
#pragma unroll
    for (int i = 0; i < left / 2; ++i) {
      const float kept = odd ? x[2 * i + 1] : x[2 * i];
      const float sent = odd ? x[2 * i] : x[2 * i + 1];
      x[i] = kept + __shfl_xor_sync(kWholeWarp, sent, step);
    }
  }
#pragma unroll
  for (int step = kShared; step < Size; step *= 2) {
    x[0] += __shfl_xor_sync(kWholeWarp, x[0], step);  // Count < Size: one number a lane is left
  }
  if (lane < kShared) {
#pragma unroll
    for (int i = 0; i < Count / kShared; ++i) {
      sums[i * kShared + lane] = x[i];
    }
  }
}

}  // namespace sparse_encoders::cuda
