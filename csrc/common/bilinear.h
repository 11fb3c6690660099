// The arithmetic of one sampling location, in scalar form: used by the CUDA kernels and by the
// check of the CPU kernels, whose vectorised form (csrc/cpu/locations.h) follows it line by line.
//
// A location is in tokens of its level: the centre of token i is at i, and the map spans
// [-0.5, size - 0.5]. Outside of the map values are zero; a NaN or infinite location is outside.
#pragma once

#if defined(__CUDACC__)
#define SPARSE_ENCODERS_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SPARSE_ENCODERS_HOST_DEVICE inline
#endif

namespace sparse_encoders {

// Location from a normalised reference point and a raw offset, along one axis.
// 2-d reference points: the offset is in tokens.
template <typename Real>
SPARSE_ENCODERS_HOST_DEVICE Real location_from_point(Real centre, Real offset, Real size) {
  return centre * size + offset - Real(0.5);
}

// 4-d reference points: the offset is in P-ths of half a box side.
template <typename Real>
SPARSE_ENCODERS_HOST_DEVICE Real
location_from_box(Real centre, Real side, Real offset, Real size, int points) {
  return (centre + offset * (Real(0.5) / Real(points)) * side) * size - Real(0.5);
}

// Location in tokens from a normalised one, along one axis.
template <typename Real>
SPARSE_ENCODERS_HOST_DEVICE Real location_from_normalised(Real normalised, Real size) {
  return normalised * size - Real(0.5);
}

// The two tokens on either side of a location along one axis, with their weights.
// A token outside of the map has weight 0, slope 0 and the index of the other one, so that an
// index is always safe to read. `slope` is the derivative of `weight` by the location.
template <typename Real>
struct Pair {
  int index[2];
  Real weight[2];
  Real slope[2];
};

// Whether a location touches the map at all along one axis; false for NaN.
template <typename Real>
SPARSE_ENCODERS_HOST_DEVICE bool touches(Real location, int size) {
  return location > Real(-1) && location < Real(size);
}

// Only for a location that touches the map.
template <typename Real>
SPARSE_ENCODERS_HOST_DEVICE Pair<Real> pair_around(Real location, int size) {
  int low = static_cast<int>(location);  // truncates towards 0
  if (location < Real(0)) low = -1;
  const Real part = location - Real(low);
  const bool has_low = low >= 0;
  const bool has_high = low + 1 < size;
  Pair<Real> pair;
  pair.index[0] = has_low ? low : 0;
  pair.index[1] = has_high ? low + 1 : size - 1;
  pair.weight[0] = has_low ? Real(1) - part : Real(0);
  pair.weight[1] = has_high ? part : Real(0);
  pair.slope[0] = has_low ? Real(-1) : Real(0);
  pair.slope[1] = has_high ? Real(1) : Real(0);
  return pair;
}

}  // namespace sparse_encoders
