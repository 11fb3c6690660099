// Deformable attention, one query and head a group of lanes.
//
// Stage 1 (`prepare`): each lane of the group takes some of the sampling locations, computes
// softmax and location from raw logits and offsets, and writes 16 bytes for each to shared memory.
// Stage 2: all lanes go through all locations, each with its slice of the channels. The backward
// runs stage 1 again instead of reading stored locations and weights. A group lies within one warp,
// so the block needs no barrier.
#pragma once

#include "group.h"
#include "weighted_sum.h"

namespace sparse_encoders::cuda {

constexpr int kForwardThreads = 256;
constexpr int kBackwardThreads = 256;

template <typename T>
struct DeformableArguments {
  Sizes sizes;
  const T* value;
  AnyInput reference_points;
  int coordinates;
  AnyInput offsets;
  AnyInput logits;
  T* output;             // forward
  const T* grad_output;  // backward, and all below
  float* grad_value;
  float* grad_reference_points;
  AnyOutput grad_offsets;
  AnyOutput grad_logits;
};

struct Axes {
  Axis x, y;
};

// The reference point of a level, with the scale of its offsets.
template <typename T>
SE_DEVICE Axes axes_of(const DeformableArguments<T>& a, const Work& work, int level) {
  const Pyramid& pyramid = a.sizes.pyramid;
  const int64_t row = (work.image * a.sizes.queries + work.query) * pyramid.count + level;
  const int64_t x = row * a.coordinates;
  const bool box = a.coordinates == 4;
  const int points = static_cast<int>(a.sizes.points);
  const AnyInput& from = a.reference_points;
  return {{read(from, x), box ? read(from, x + 2) : 0.f,
           static_cast<float>(pyramid.width[level]), points, box},
          {read(from, x + 1), box ? read(from, x + 3) : 0.f,
           static_cast<float>(pyramid.height[level]), points, box}};
}

// Fills `locations` (weights not yet divided by their sum) and returns that sum.
template <typename L>
SE_DEVICE float prepare(const DeformableArguments<typename L::T>& a, const Work& work,
                        int samples, Location* locations) {
  const Pyramid& pyramid = a.sizes.pyramid;
  const int points = static_cast<int>(a.sizes.points);
  const int64_t first = work.row * samples;
  float top = -INFINITY;
  for (int s = work.lane; s < samples; s += L::kLanes) {
    top = fmaxf(top, read(a.logits, first + s));
  }
  top = group_max<L::kLanes>(top);
  float total = 0.f;
  for (int s = work.lane; s < samples; s += L::kLanes) {
    const float weight = expf(read(a.logits, first + s) - top);
    total += weight;
    const int level = s / points;
    const Axes axes = axes_of(a, work, level);
    Location location = outside();
    if (work.active) {
      location = find_location(axes.x.location(read(a.offsets, 2 * (first + s))),
                               axes.y.location(read(a.offsets, 2 * (first + s) + 1)),
                               pyramid.height[level], pyramid.width[level], pyramid.start[level]);
    }
    location.weight = weight;
    locations[s] = location;
  }
  total = group_sum<L::kLanes>(total);
  __syncwarp();
  return total;
}

template <typename L>
__global__ void __launch_bounds__(kForwardThreads, L::kChannels ? 5 : 4)
    deformable_forward(const DeformableArguments<typename L::T> a) {
  SE_SHARED_MEMORY(shared);
  const Work work = find_work<L>(a.sizes);
  const int samples = a.sizes.pyramid.count * static_cast<int>(a.sizes.points);
  Location* locations = reinterpret_cast<Location*>(shared) + work.slot * padded_samples(samples);
  const float scale = 1.f / prepare<L>(a, work, samples, locations);

  weighted_sum<L>(a.value, a.output, a.sizes, work, locations, scale);
}

// One pass over the locations: adds to the values' gradient and writes the dot products of
// grad_output with the four corners of each location to `dots`.
template <typename L>
SE_DEVICE void scatter_and_dot(const DeformableArguments<typename L::T>& a, const Work& work,
                               float scale, const Location* locations, float (*dots)[4]) {
  using T = typename L::T;
  const int points = static_cast<int>(a.sizes.points);
  const int channels = channel_count<L>(a.sizes);
  const int64_t tokens = tokens_of(work, a.sizes);
  Slice<L> grad(a.grad_output, work, channels);
  int s = 0;
  for (int level = 0; level < a.sizes.pyramid.count; ++level) {
    const Steps steps = steps_of(a.sizes, level);
    for (int point = 0; point < points; ++point, ++s) {
      const Location here = locations[s];
      float shares[4];
      corner_shares(here, shares);
      float parts[4] = {};
      for (int round = 0; round < channels; round += L::kWidth * L::kLanes) {
        if (grad.move_to(work, round)) {
          const int64_t at = tokens + grad.channel;
          Corners<T, L::kWidth> corners;
          corners.load(a.value + at, here, steps);
          corners.add_dots(grad.x, parts);
          scatter(a.grad_value + at, here, steps, shares, here.weight * scale, grad.x);
        }
      }
      group_sums<L::kLanes>(parts, work.lane, dots[s]);
    }
  }
  __syncwarp();
}

// Gradients of logits and offsets from the dot products. Afterwards `dots` holds the gradient of
// each location, in columns and rows, and the same times the raw offsets. A location outside of the
// map has no gradient, even where its offset or reference point is not finite (0 * inf is NaN).
template <typename L>
SE_DEVICE void finish_locations(const DeformableArguments<typename L::T>& a, const Work& work,
                                int samples, float scale, const Location* locations,
                                float (*dots)[4]) {
  float mean = 0.f;  // of the sampled dot products, under the attention weights
  for (int s = work.lane; s < samples; s += L::kLanes) {
    mean += locations[s].weight * scale * interpolate(locations[s], dots[s]).value;
  }
  mean = group_sum<L::kLanes>(mean);
  for (int s = work.lane; s < samples; s += L::kLanes) {
    const float weight = locations[s].weight * scale;
    const Interpolated dot = interpolate(locations[s], dots[s]);
    const float by_x = weight * dot.by_x, by_y = weight * dot.by_y;
    const bool inside = touches_map(locations[s]);
    const int64_t at = work.row * samples + s;
    dots[s][0] = inside ? by_x : 0.f;
    dots[s][1] = inside ? by_y : 0.f;
    dots[s][2] = inside ? by_x * read(a.offsets, 2 * at) : 0.f;
    dots[s][3] = inside ? by_y * read(a.offsets, 2 * at + 1) : 0.f;
    if (work.active) {
      const Axes axes = axes_of(a, work, s / static_cast<int>(a.sizes.points));
      write(a.grad_logits, at, weight * (dot.value - mean));
      write(a.grad_offsets, 2 * at, inside ? by_x * axes.x.pixels_per_offset() : 0.f);
      write(a.grad_offsets, 2 * at + 1, inside ? by_y * axes.y.pixels_per_offset() : 0.f);
    }
  }
  __syncwarp();
}

// Reference points are shared by heads and points: one lane sums a level's points, atomics sum
// the heads (in no fixed order: not deterministic in the last bits).
template <typename L>
SE_DEVICE void add_reference_gradients(const DeformableArguments<typename L::T>& a,
                                       const Work& work, const float (*dots)[4]) {
  const Pyramid& pyramid = a.sizes.pyramid;
  const int points = static_cast<int>(a.sizes.points);
  for (int level = work.lane; work.active && level < pyramid.count; level += L::kLanes) {
    float centre_x = 0.f, centre_y = 0.f, side_x = 0.f, side_y = 0.f;
    for (int s = level * points; s < (level + 1) * points; ++s) {
      centre_x += dots[s][0];
      centre_y += dots[s][1];
      side_x += dots[s][2];
      side_y += dots[s][3];
    }
    const float width = pyramid.width[level], height = pyramid.height[level];
    const int64_t row = (work.image * a.sizes.queries + work.query) * pyramid.count + level;
    float* gradient = a.grad_reference_points + row * a.coordinates;
    atomicAdd(gradient, centre_x * width);
    atomicAdd(gradient + 1, centre_y * height);
    if (a.coordinates == 4) {
      const float half_over_points = 0.5f / static_cast<float>(points);
      atomicAdd(gradient + 2, side_x * half_over_points * width);
      atomicAdd(gradient + 3, side_y * half_over_points * height);
    }
  }
}

template <typename L>
__global__ void __launch_bounds__(kBackwardThreads, 3)
    deformable_backward(const DeformableArguments<typename L::T> a) {
  SE_SHARED_MEMORY(shared);
  const Work work = find_work<L>(a.sizes);
  const int samples = a.sizes.pyramid.count * static_cast<int>(a.sizes.points);
  const int stride = padded_samples(samples);
  const int groups = blockDim.x / L::kLanes;
  Location* locations = reinterpret_cast<Location*>(shared) + work.slot * stride;
  auto* dots = reinterpret_cast<float(*)[4]>(shared + groups * stride) + work.slot * stride;

  const float scale = 1.f / prepare<L>(a, work, samples, locations);
  scatter_and_dot<L>(a, work, scale, locations, dots);
  finish_locations<L>(a, work, samples, scale, locations, dots);
  add_reference_gradients<L>(a, work, dots);
}

}  // namespace sparse_encoders::cuda
