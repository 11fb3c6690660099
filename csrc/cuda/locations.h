// One sampling location on the GPU: which four tokens it lies between, and at what distances.
//
// Pixel rule (as grid_sample with align_corners=False and zero padding, and as mmcv's operator):
// token (row, column) has its centre at ((column + 0.5) / width, (row + 0.5) / height), and tokens
// outside the map read as zero.
#pragma once

#include "platform.h"

#include "../common/bilinear.h"

namespace sparse_encoders::cuda {

// One sampling location of one query and head; 16 bytes, one read of shared memory.
// Corners are numbered 0: (row, column), 1: (row, column + 1), 2: (row + 1, column),
// 3: (row + 1, column + 1).
struct alignas(16) Location {
  int corners;   // 16 * token of corner 0 (may be negative) + one bit for every corner on the map
  float across;  // distance from corner 0 to the location, in columns, [0, 1)
  float down;    // the same in rows
  float weight;  // attention weight; its meaning changes with the stage of a kernel
};

SE_DEVICE int first_token(const Location& location) { return location.corners >> 4; }
SE_DEVICE bool on_map(const Location& location, int corner) {
  return (location.corners >> corner) & 1;
}

SE_DEVICE bool touches_map(const Location& location) { return (location.corners & 15) != 0; }

// A location outside of the map: no corner is read.
SE_DEVICE Location outside() { return {0, 0.f, 0.f, 0.f}; }

// `x` and `y` in pixels (a token's centre has whole numbers). NaN does not touch the map, and the
// conversion to int, which is undefined for large numbers, comes after that check.
SE_DEVICE Location find_location(float x, float y, int height, int width, int start) {
  if (!(touches(x, width) && touches(y, height))) {
    return outside();
  }
  const float left = floorf(x);
  const float top = floorf(y);
  const int column = static_cast<int>(left);
  const int row = static_cast<int>(top);
  const int west = column >= 0, east = column + 1 < width;
  const int north = row >= 0, south = row + 1 < height;
  const int flags = (north & west) | (north & east) << 1 | (south & west) << 2 | (south & east) << 3;
  return {(start + row * width + column) * 16 + flags, x - left, y - top, 0.f};
}

// Bilinear shares of the four corners.
SE_DEVICE void corner_shares(const Location& location, float (&shares)[4]) {
  const float right = location.across, low = location.down;
  const float left = 1.f - right, up = 1.f - low;
  shares[0] = up * left;
  shares[1] = up * right;
  shares[2] = low * left;
  shares[3] = low * right;
}

// From a number at each corner (zero off the map): its value at the location, and how that changes
// when the location moves by one column (`by_x`) or one row (`by_y`).
struct Interpolated {
  float value, by_x, by_y;
};

SE_DEVICE Interpolated interpolate(const Location& location, const float* at_corner) {
  const float right = location.across, low = location.down;
  const float left = 1.f - right, up = 1.f - low;
  const float above = left * at_corner[0] + right * at_corner[1];
  const float below = left * at_corner[2] + right * at_corner[3];
  return {up * above + low * below,
          up * (at_corner[1] - at_corner[0]) + low * (at_corner[3] - at_corner[2]),
          below - above};
}

// One axis of a reference point: the location that a raw offset gives, in pixels of the level, and
// by how much an offset of 1 moves it. The formulas are in csrc/common/bilinear.h.
struct Axis {
  float centre;
  float side;  // of a 4-d reference point (a box); unused otherwise
  float size;  // tokens of the level along this axis
  int points;
  bool is_box;

  SE_DEVICE float location(float offset) const {
    return is_box ? location_from_box(centre, side, offset, size, points)
                  : location_from_point(centre, offset, size);
  }
  SE_DEVICE float pixels_per_offset() const {
    return is_box ? 0.5f / static_cast<float>(points) * side * size : 1.f;
  }
};

}  // namespace sparse_encoders::cuda
