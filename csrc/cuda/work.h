// Which lanes do what: a group of lanes takes one (image, query, head), and each of its lanes a
// slice of the head's channels.
//
// A block takes neighbouring queries of one head: in an encoder, neighbouring queries sample
// neighbouring tokens, so a block finds much of what it reads in its own L1 cache.
#pragma once

#include "launch.h"
#include "platform.h"

namespace sparse_encoders::cuda {

// Channels of a lane at a time (`Width`), lanes of a group (`Lanes`) and, where known when
// compiling, channels of a head (`Channels`; 0: any number, in rounds of Width * Lanes).
template <typename T_, int Width_, int Lanes_, int Channels_>
struct Layout {
  using T = T_;
  static constexpr int kWidth = Width_;
  static constexpr int kLanes = Lanes_;
  static constexpr int kChannels = Channels_;
  static_assert(kWarp % kLanes == 0, "groups never cross a warp");
  static_assert(kChannels == 0 || kChannels == kWidth * kLanes, "one round");
};

struct Work {
  int lane;         // within the group
  int slot;         // the group's number within its block
  bool active;      // false: past the last query; computes along, reads no token, writes nothing
  int64_t image;
  int64_t head;
  int64_t query;    // of an inactive group: the last one, so that reads stay inside
  int64_t row;      // of (B, Q, M)
};

// Blocks are numbered (image, head, tile of queries), tiles fastest.
template <typename L>
SE_DEVICE Work find_work(const Sizes& sizes) {
  // All of these fit 32 bits (the launcher sees to it); 64-bit division is slow on a GPU.
  const unsigned groups = blockDim.x / L::kLanes;
  const unsigned tiles = (static_cast<unsigned>(sizes.queries) + groups - 1) / groups;
  const unsigned heads = static_cast<unsigned>(sizes.heads);
  const unsigned image_and_head = blockIdx.x / tiles;
  Work work;
  work.lane = threadIdx.x % L::kLanes;
  work.slot = threadIdx.x / L::kLanes;
  work.image = image_and_head / heads;
  work.head = image_and_head % heads;
  work.query = static_cast<int64_t>(blockIdx.x % tiles) * groups + work.slot;
  work.active = work.query < sizes.queries;
  work.query = work.active ? work.query : sizes.queries - 1;
  work.row = (work.image * sizes.queries + work.query) * sizes.heads + work.head;
  return work;
}

// Channels of a head, and the first of this lane in the round that begins at `round`.
template <typename L>
SE_DEVICE int channel_count(const Sizes& sizes) {
  return L::kChannels ? L::kChannels : static_cast<int>(sizes.channels);
}

template <typename L>
SE_DEVICE int channel_of(const Work& work, int round) {
  return round + work.lane * L::kWidth;
}

// Locations of a group in shared memory, rounded up to an odd number: the groups of a warp read the
// same location number at once, and an odd stride spreads these reads over different banks.
SE_DEVICE int padded_samples(int samples) { return samples | 1; }

// Where this lane's image and head begin in a (B, N, M, D) tensor, and the elements of a token.
SE_DEVICE int64_t tokens_of(const Work& work, const Sizes& sizes) {
  return (work.image * sizes.tokens * sizes.heads + work.head) * sizes.channels;
}

SE_DEVICE int64_t token_stride(const Sizes& sizes) { return sizes.heads * sizes.channels; }

}  // namespace sparse_encoders::cuda
