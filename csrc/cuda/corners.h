// Reads and additions at the four tokens around a location, the only accesses to (B, N, M, D)
// tensors. A corner outside of the map is neither read nor written.
#pragma once

#include "locations.h"
#include "scalar.h"

namespace sparse_encoders::cuda {

// Elements from corner 0 to each of the others: 0, one token, one row, one row and one token.
struct Steps {
  int64_t token;  // elements of a token
  int64_t row;    // elements of a row of the level

  SE_DEVICE int64_t to(int corner) const {
    return ((corner & 1) ? token : 0) + ((corner & 2) ? row : 0);
  }
};

// The channels of one lane at four corners, still packed: 16 registers at most.
template <typename T, int Width>
struct Corners {
  Packed<T, Width> at[4];

  // `tokens`: where the image, the head and the lane's channels begin.
  SE_DEVICE void load(const T* tokens, const Location& location, const Steps& steps) {
    const int64_t first = first_token(location) * steps.token;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      at[corner] = {};
      if (on_map(location, corner)) {
        at[corner].load(tokens + (first + steps.to(corner)));
      }
    }
  }

  // sum += weight * (the bilinear mix of the corners).
  SE_DEVICE void add_to(float (&sum)[Width], const float (&shares)[4], float weight) const {
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      float x[Width];
      at[corner].unpack(x);
      const float share = shares[corner] * weight;
#pragma unroll
      for (int i = 0; i < Width; ++i) {
        sum[i] += share * x[i];
      }
    }
  }

  // dots[corner] += this lane's part of the dot product of `with` and that corner.
  SE_DEVICE void add_dots(const float (&with)[Width], float* dots) const {
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      float x[Width];
      at[corner].unpack(x);
#pragma unroll
      for (int i = 0; i < Width; ++i) {
        dots[corner] += with[i] * x[i];
      }
    }
  }
};

// gradient[corner] += share of the corner * weight * x, where other groups add as well.
template <int Width>
SE_DEVICE void scatter(float* gradient, const Location& location, const Steps& steps,
                       const float (&shares)[4], float weight, const float (&x)[Width]) {
  const int64_t first = first_token(location) * steps.token;
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    if (on_map(location, corner)) {
      const float share = shares[corner] * weight;
      float part[Width];
#pragma unroll
      for (int i = 0; i < Width; ++i) {
        part[i] = share * x[i];
      }
      atomic_add(gradient + (first + steps.to(corner)), part);
    }
  }
}

}  // namespace sparse_encoders::cuda
