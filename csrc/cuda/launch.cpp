// Host side of launch.h: level tables and limits.
#include "launch.h"

namespace sparse_encoders::cuda {

Pyramid make_pyramid(const int64_t* shapes, int64_t levels) {
  Pyramid pyramid;
  pyramid.count = levels > kMaxLevels ? kMaxLevels + 1 : static_cast<int>(levels);
  int64_t start = 0;
  for (int64_t level = 0; level < levels && level < kMaxLevels; ++level) {
    const int64_t height = shapes[2 * level], width = shapes[2 * level + 1];
    if (height < 0 || width < 0 || height > kMaxTokens || width > kMaxTokens ||
        height * width > kMaxTokens - start) {
      pyramid.count = -1;  // no level table can say it
      return pyramid;
    }
    pyramid.height[level] = static_cast<int>(height);
    pyramid.width[level] = static_cast<int>(width);
    pyramid.start[level] = static_cast<int>(start);
    start += height * width;
  }
  return pyramid;
}

const char* find_fault(const Sizes& sizes) {
  const Pyramid& pyramid = sizes.pyramid;
  if (pyramid.count < 0) {
    return "a level has a negative side, or the levels have more than 2^24 tokens together";
  }
  if (pyramid.count < 1 || pyramid.count > kMaxLevels) {
    return "there must be 1 to 16 levels";
  }
  if (sizes.points < 1 || sizes.points > kMaxSamples / pyramid.count) {
    return "there must be at least one point, and at most 1000 sampling locations (levels * points)";
  }
  const int last = pyramid.count - 1;
  const int64_t tokens = static_cast<int64_t>(pyramid.start[last]) +
                         static_cast<int64_t>(pyramid.height[last]) * pyramid.width[last];
  if (tokens != sizes.tokens) {
    return "the levels' heights * widths do not add up to the number of tokens";
  }
  if (sizes.queries > INT32_MAX || sizes.heads > INT32_MAX || sizes.images > INT32_MAX ||
      sizes.channels > INT32_MAX) {
    return "images, queries, heads and channels must each be less than 2^31";
  }
  return nullptr;
}

}  // namespace sparse_encoders::cuda
