// What both operators end with: the sum of sampled values under given weights.
#pragma once

#include "corners.h"
#include "work.h"

namespace sparse_encoders::cuda {

SE_DEVICE Steps steps_of(const Sizes& sizes, int level) {
  return {token_stride(sizes), token_stride(sizes) * sizes.pyramid.width[level]};
}

// This lane's channels of one row of a (B, Q, M, D) tensor, in float32. With a fixed number of
// channels they are read once; otherwise again in every round.
template <typename L>
struct Slice {
  using T = typename L::T;
  const T* row;
  int channels;
  int channel;
  float x[L::kWidth];

  SE_DEVICE Slice(const T* tensor, const Work& work, int channels)
      : row(tensor + work.row * channels), channels(channels), channel(work.lane * L::kWidth) {
    if constexpr (L::kChannels != 0) {
      read();
    }
  }

  // False where this lane has no channels in the round.
  SE_DEVICE bool move_to(const Work& work, int round) {
    if constexpr (L::kChannels == 0) {
      channel = channel_of<L>(work, round);
      if (channel >= channels) {
        return false;
      }
      read();
    }
    return true;
  }

  SE_DEVICE void read() {
    Packed<T, L::kWidth> packed;
    packed.load(row + channel);
    packed.unpack(x);
  }
};

// Writes this lane's channels of a row of a (B, Q, M, D) tensor.
template <typename L>
SE_DEVICE void write_slice(typename L::T* tensor, const Work& work, int channels, int channel,
                           const float (&x)[L::kWidth]) {
  if (work.active && channel < channels) {
    Packed<typename L::T, L::kWidth> packed;
    packed.pack(x);
    packed.store(tensor + work.row * channels + channel);
  }
}

// output row = scale * sum over locations of weight * (the bilinear mix of `tensor` there).
template <typename L>
SE_DEVICE void weighted_sum(const typename L::T* tensor, typename L::T* output, const Sizes& sizes,
                            const Work& work, const Location* locations, float scale) {
  using T = typename L::T;
  const int channels = channel_count<L>(sizes);
  const T* tokens = tensor + tokens_of(work, sizes);
  for (int round = 0; round < channels; round += L::kWidth * L::kLanes) {
    const int channel = channel_of<L>(work, round);
    if (channel >= channels) {
      break;  // no lane talks to another from here on
    }
    float sum[L::kWidth] = {};
    const Location* location = locations;
    for (int level = 0; level < sizes.pyramid.count; ++level) {
      const Steps steps = steps_of(sizes, level);
#pragma unroll 2
      for (int point = 0; point < static_cast<int>(sizes.points); ++point, ++location) {
        const Location here = *location;
        Corners<T, L::kWidth> corners;
        corners.load(tokens + channel, here, steps);
        float shares[4];
        corner_shares(here, shares);
        corners.add_to(sum, shares, here.weight);
      }
    }
#pragma unroll
    for (int i = 0; i < L::kWidth; ++i) {
      sum[i] *= scale;
    }
    write_slice<L>(output, work, channels, channel, sum);
  }
}

}  // namespace sparse_encoders::cuda
