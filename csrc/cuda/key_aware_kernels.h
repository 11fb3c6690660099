// Key-aware deformable attention, one query and head a group of lanes: the weights are a softmax
// over q . k / sqrt(D) of the keys sampled at the locations where the values are sampled.
//
// Sampled keys and values stay in registers. The forward keeps a running softmax, so that it visits
// every location once. The backward visits every location twice: first for the dot products that
// the scores and the gradients of the locations need (8 floats for each), then for the other
// gradients.
#pragma once

#include "group.h"
#include "weighted_sum.h"

namespace sparse_encoders::cuda {

constexpr int kKeyAwareForwardThreads = 256;
constexpr int kKeyAwareBackwardThreads = 128;

template <typename T>
struct KeyAwareArguments {
  Sizes sizes;
  const T* query;
  const T* key;
  const T* value;
  AnyInput locations;
  int64_t location_strides[6];
  T* output;             // forward
  const T* grad_output;  // backward, and all below
  T* grad_query;
  float* grad_key;
  float* grad_value;
  AnyOutput grad_locations;
};

// Fills `locations` from normalised locations; weights are left at zero.
template <typename L>
SE_DEVICE void prepare(const KeyAwareArguments<typename L::T>& a, const Work& work, int samples,
                       Location* locations) {
  const Pyramid& pyramid = a.sizes.pyramid;
  const int64_t* strides = a.location_strides;
  const int64_t row = work.image * strides[0] + work.query * strides[1] + work.head * strides[2];
  const int points = static_cast<int>(a.sizes.points);
  for (int s = work.lane; s < samples; s += L::kLanes) {
    const int level = s / points, point = s % points;
    const int64_t at = row + level * strides[3] + point * strides[4];
    const int width = pyramid.width[level], height = pyramid.height[level];
    Location location = outside();
    if (work.active) {
      const float x = read(a.locations, at), y = read(a.locations, at + strides[5]);
      location = find_location(location_from_normalised(x, static_cast<float>(width)),
                               location_from_normalised(y, static_cast<float>(height)), height,
                               width, pyramid.start[level]);
    }
    locations[s] = location;
  }
  __syncwarp();
}

template <int Width>
SE_DEVICE float dot(const float (&x)[Width], const float (&y)[Width]) {
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < Width; ++i) {
    sum += x[i] * y[i];
  }
  return sum;
}

SE_DEVICE float score_scale(int channels) { return 1.f / sqrtf(static_cast<float>(channels)); }

// One round (the channels of a head fit the group): scores, softmax and sum in a single visit.
template <typename L>
SE_DEVICE void attend_in_one_visit(const KeyAwareArguments<typename L::T>& a, const Work& work,
                                   const Location* location) {
  using T = typename L::T;
  constexpr int W = L::kWidth;
  const bool separate = a.key != a.value;
  const int channels = channel_count<L>(a.sizes);
  const Slice<L> query(a.query, work, channels);
  const float scale = score_scale(channels);
  const int64_t tokens = tokens_of(work, a.sizes) + query.channel;
  // The lowest finite number, not -inf: a first score of -inf must not make inf - inf.
  float top = -FLT_MAX, total = 0.f;
  float sum[W] = {};
  for (int level = 0; level < a.sizes.pyramid.count; ++level) {
    const Steps steps = steps_of(a.sizes, level);
#pragma unroll 2
    for (int point = 0; point < static_cast<int>(a.sizes.points); ++point, ++location) {
      const Location here = *location;
      Corners<T, W> keys, values;
      keys.load(a.key + tokens, here, steps);
      if (separate) {
        values.load(a.value + tokens, here, steps);  // in flight while the scores are made
      }
      float shares[4];
      corner_shares(here, shares);
      float sampled[W] = {};
      keys.add_to(sampled, shares, 1.f);
      const float score = scale * group_sum<L::kLanes>(dot(query.x, sampled));
      if (separate) {
#pragma unroll
        for (int i = 0; i < W; ++i) {
          sampled[i] = 0.f;
        }
        values.add_to(sampled, shares, 1.f);
      }
      const float new_top = fmaxf(top, score);
      const float kept = expf(top - new_top), weight = expf(score - new_top);
      top = new_top;
      total = total * kept + weight;
#pragma unroll
      for (int i = 0; i < W; ++i) {
        sum[i] = sum[i] * kept + weight * sampled[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < W; ++i) {
    sum[i] /= total;
  }
  write_slice<L>(a.output, work, channels, query.channel, sum);
}

// Dot products of the query with the keys at a location's corners, and (WithValues) of grad_output
// with the values at them, for all locations, into `dots`.
template <typename L, bool WithValues>
SE_DEVICE void dot_corners(const KeyAwareArguments<typename L::T>& a, const Work& work,
                           const Location* locations, float (*dots)[WithValues ? 8 : 4]) {
  using T = typename L::T;
  const bool separate = a.key != a.value;
  const int channels = channel_count<L>(a.sizes);
  const int64_t tokens = tokens_of(work, a.sizes);
  Slice<L> query(a.query, work, channels);
  Slice<L> grad(WithValues ? a.grad_output : a.query, work, channels);
  int s = 0;
  for (int level = 0; level < a.sizes.pyramid.count; ++level) {
    const Steps steps = steps_of(a.sizes, level);
    for (int point = 0; point < static_cast<int>(a.sizes.points); ++point, ++s) {
      const Location here = locations[s];
      float parts[WithValues ? 8 : 4] = {};
      for (int round = 0; round < channels; round += L::kWidth * L::kLanes) {
        if (!query.move_to(work, round)) {
          continue;
        }
        Corners<T, L::kWidth> keys;
        keys.load(a.key + tokens + query.channel, here, steps);
        keys.add_dots(query.x, parts);
        if constexpr (WithValues) {
          grad.move_to(work, round);
          if (separate) {
            keys.load(a.value + tokens + query.channel, here, steps);
          }
          keys.add_dots(grad.x, parts + 4);
        }
      }
      group_sums<L::kLanes>(parts, work.lane, dots[s]);
    }
  }
  __syncwarp();
}

// Any number of channels: scores first (4 floats a location in shared memory), then the sum.
template <typename L>
SE_DEVICE void attend_in_rounds(const KeyAwareArguments<typename L::T>& a, const Work& work,
                                int samples, Location* locations, float (*dots)[4]) {
  dot_corners<L, false>(a, work, locations, dots);
  const float scale = score_scale(channel_count<L>(a.sizes));
  float top = -INFINITY;
  for (int s = work.lane; s < samples; s += L::kLanes) {
    locations[s].weight = scale * interpolate(locations[s], dots[s]).value;
    top = fmaxf(top, locations[s].weight);
  }
  top = group_max<L::kLanes>(top);
  float total = 0.f;
  for (int s = work.lane; s < samples; s += L::kLanes) {
    locations[s].weight = expf(locations[s].weight - top);
    total += locations[s].weight;
  }
  total = group_sum<L::kLanes>(total);
  __syncwarp();
  weighted_sum<L>(a.value, a.output, a.sizes, work, locations, 1.f / total);
}

template <typename L>
__global__ void __launch_bounds__(kKeyAwareForwardThreads, 3)
    key_aware_forward(const KeyAwareArguments<typename L::T> a) {
  SE_SHARED_MEMORY(shared);
  const Work work = find_work<L>(a.sizes);
  const int samples = a.sizes.pyramid.count * static_cast<int>(a.sizes.points);
  const int stride = padded_samples(samples);
  Location* locations = reinterpret_cast<Location*>(shared) + work.slot * stride;
  prepare<L>(a, work, samples, locations);
  if constexpr (L::kChannels != 0) {
    attend_in_one_visit<L>(a, work, locations);
  } else {
    const int groups = blockDim.x / L::kLanes;
    auto* dots = reinterpret_cast<float(*)[4]>(shared + groups * stride) + work.slot * stride;
    attend_in_rounds<L>(a, work, samples, locations, dots);
  }
}

// Softmax over the scores in `dots`, and the gradients that need no channel: of the scores (left in
// dots[s][0], already times 1 / sqrt(D)) and of the locations. The weight is left in `locations`.
template <typename L>
SE_DEVICE void finish_scores(const KeyAwareArguments<typename L::T>& a, const Work& work,
                             int samples, Location* locations, float (*dots)[8]) {
  const Pyramid& pyramid = a.sizes.pyramid;
  const float scale = score_scale(channel_count<L>(a.sizes));
  float top = -INFINITY;
  for (int s = work.lane; s < samples; s += L::kLanes) {
    locations[s].weight = scale * interpolate(locations[s], dots[s]).value;
    top = fmaxf(top, locations[s].weight);
  }
  top = group_max<L::kLanes>(top);
  float total = 0.f, mean = 0.f;
  for (int s = work.lane; s < samples; s += L::kLanes) {
    const float weight = expf(locations[s].weight - top);
    locations[s].weight = weight;
    total += weight;
    mean += weight * interpolate(locations[s], dots[s] + 4).value;
  }
  total = group_sum<L::kLanes>(total);
  mean = group_sum<L::kLanes>(mean) / total;
  for (int s = work.lane; s < samples; s += L::kLanes) {
    const int level = s / static_cast<int>(a.sizes.points);
    const Interpolated key = interpolate(locations[s], dots[s]);
    const Interpolated value = interpolate(locations[s], dots[s] + 4);
    const float weight = locations[s].weight / total;
    const float by_score = weight * (value.value - mean) * scale;
    locations[s].weight = weight;
    dots[s][0] = by_score;
    if (work.active) {
      const int64_t at = (work.row * samples + s) * 2;
      const float by_x = by_score * key.by_x + weight * value.by_x;
      const float by_y = by_score * key.by_y + weight * value.by_y;
      write(a.grad_locations, at, by_x * static_cast<float>(pyramid.width[level]));
      write(a.grad_locations, at + 1, by_y * static_cast<float>(pyramid.height[level]));
    }
  }
  __syncwarp();
}

// Second visit: the gradients of query (written), key and value (added to).
template <typename L>
SE_DEVICE void add_gradients(const KeyAwareArguments<typename L::T>& a, const Work& work,
                        const Location* locations, const float (*dots)[8]) {
  using T = typename L::T;
  const int channels = channel_count<L>(a.sizes);
  Slice<L> query(a.query, work, channels), grad(a.grad_output, work, channels);
  for (int round = 0; round < channels; round += L::kWidth * L::kLanes) {
    if (!query.move_to(work, round) || !grad.move_to(work, round)) {
      break;
    }
    const int64_t tokens = tokens_of(work, a.sizes) + query.channel;
    float grad_query[L::kWidth] = {};
    int s = 0;
    for (int level = 0; level < a.sizes.pyramid.count; ++level) {
      const Steps steps = steps_of(a.sizes, level);
      for (int point = 0; point < static_cast<int>(a.sizes.points); ++point, ++s) {
        const Location here = locations[s];
        const float by_score = dots[s][0];
        Corners<T, L::kWidth> keys;
        keys.load(a.key + tokens, here, steps);
        float shares[4];
        corner_shares(here, shares);
        keys.add_to(grad_query, shares, by_score);
        scatter(a.grad_key + tokens, here, steps, shares, by_score, query.x);
        scatter(a.grad_value + tokens, here, steps, shares, here.weight, grad.x);
      }
    }
    write_slice<L>(a.grad_query, work, channels, query.channel, grad_query);
  }
}

template <typename L>
__global__ void __launch_bounds__(kKeyAwareBackwardThreads, 6)
    key_aware_backward(const KeyAwareArguments<typename L::T> a) {
  SE_SHARED_MEMORY(shared);
  const Work work = find_work<L>(a.sizes);
  const int samples = a.sizes.pyramid.count * static_cast<int>(a.sizes.points);
  const int stride = padded_samples(samples);
  const int groups = blockDim.x / L::kLanes;
  Location* locations = reinterpret_cast<Location*>(shared) + work.slot * stride;
  auto* dots = reinterpret_cast<float(*)[8]>(shared + groups * stride) + work.slot * stride;
  prepare<L>(a, work, samples, locations);
  dot_corners<L, true>(a, work, locations, dots);
  finish_scores<L>(a, work, samples, locations, dots);
  add_gradients<L>(a, work, locations, dots);
}

}  // namespace sparse_encoders::cuda
