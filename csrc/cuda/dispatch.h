// From run-time sizes to a compiled kernel and its launch geometry. Host code.
#pragma once

#include <cstddef>
#include <initializer_list>

#include "work.h"
#include "scalar.h"

namespace sparse_encoders::cuda {

constexpr size_t kSharedBytes = 48 * 1024;  // of a block, on every GPU without asking for more

struct Geometry {
  unsigned blocks = 0;
  unsigned threads = 0;
  size_t bytes = 0;  // shared memory
};

// Numbers that a kernel keeps in shared memory beside every location: with a layout for one number
// of channels, and with one for any.
struct Beside {
  int fixed, any;
};

// Shared memory of one group.
inline size_t group_bytes(const Sizes& sizes, int floats) {
  const int64_t samples = sizes.pyramid.count * sizes.points;
  return static_cast<size_t>(samples | 1) * (16 + 4 * static_cast<size_t>(floats));
}

// As many groups as `most_threads` and shared memory allow, in whole warps. False: not even one
// warp fits, or the grid would be too large.
template <typename L>
bool plan(const Sizes& sizes, Beside floats, unsigned most_threads, Geometry& geometry) {
  constexpr unsigned kGroupsInWarp = kWarp / L::kLanes;
  const size_t warp_bytes =
      kGroupsInWarp * group_bytes(sizes, L::kChannels ? floats.fixed : floats.any);
  size_t warps = kSharedBytes / warp_bytes;
  if (warps == 0) {
    return false;
  }
  warps = warps < most_threads / kWarp ? warps : most_threads / kWarp;
  const int64_t groups = static_cast<int64_t>(warps) * kGroupsInWarp;
  const int64_t tiles = (sizes.queries + groups - 1) / groups;
  if (tiles > INT32_MAX / (sizes.images * sizes.heads)) {
    return false;
  }
  geometry.blocks = static_cast<unsigned>(tiles * sizes.images * sizes.heads);
  geometry.threads = static_cast<unsigned>(warps * kWarp);
  geometry.bytes = warps * warp_bytes;
  return true;
}

// Calls `launch(layout, geometry)` with the best layout that these sizes and addresses allow.
// Widths: 16 bytes a read where the channels fill them and every tensor starts at a multiple of 16
// bytes (a contiguous view need not); one element otherwise.
template <typename T, typename Launch>
cudaError_t with_layout(const Sizes& sizes, Beside floats, unsigned threads,
                        std::initializer_list<const void*> tensors, Launch launch) {
  constexpr int kWidth = 16 / sizeof(T);
  bool packed = sizes.channels % kWidth == 0;
  for (const void* tensor : tensors) {
    packed = packed && reinterpret_cast<uintptr_t>(tensor) % 16 == 0;
  }
  Geometry geometry;
  const auto attempt = [&](auto layout) {
    return plan<decltype(layout)>(sizes, floats, threads, geometry);
  };
#define SE_ATTEMPT(...)                                        \
  if (attempt(__VA_ARGS__{})) {                                \
    return launch(__VA_ARGS__{}, geometry);                    \
  }
  if (packed) {
    switch (sizes.channels) {
      case 16:
        SE_ATTEMPT(Layout<T, kWidth, 16 / kWidth, 16>);
        break;
      case 32:
        SE_ATTEMPT(Layout<T, kWidth, 32 / kWidth, 32>);
        break;
      case 64:
        SE_ATTEMPT(Layout<T, kWidth, 64 / kWidth, 64>);
        break;
      default:
        SE_ATTEMPT(Layout<T, kWidth, 8, 0>);
    }
  }
  SE_ATTEMPT(Layout<T, 1, kWarp, 0>);
#undef SE_ATTEMPT
  return cudaErrorInvalidValue;
}

template <typename Call>
cudaError_t with_dtype(Dtype dtype, Call call) {
  switch (dtype) {
    case Dtype::kFloat32:
      return call(float{});
    case Dtype::kFloat16:
      return call(Float16{});
    case Dtype::kBFloat16:
      return call(BFloat16{});
  }
  return cudaErrorInvalidValue;
}

// No output element, so nothing to launch: CUDA refuses a grid of no blocks.
inline bool is_empty(const Sizes& sizes) {
  return sizes.images == 0 || sizes.queries == 0 || sizes.heads == 0 || sizes.channels == 0;
}

}  // namespace sparse_encoders::cuda
