// Operations on the channels of the four tokens around each sampling location: weighted sums, dot
// products and scattering, in blocks of a few vectors of channels.
//
// Included only by kernels.inc, inside the namespace of one capability.

// The (N, D) tokens of one head of one image.
template <typename T>
SE_INLINE const T* head_of(const Tokens& tokens, int64_t image, int64_t head) {
  return static_cast<const T*>(tokens.data) + image * tokens.image_stride +
         head * tokens.head_stride;
}

// Calls work.at<LANES, COUNT>(channel) on blocks of COUNT vectors that cover all channels.
template <int LANES, typename Work>
SE_INLINE void last_channels(int64_t depth, int64_t channel, Work& work) {
  if constexpr (LANES >= 1) {
    if (depth - channel >= LANES) {
      work.template at<LANES, 1>(channel);
      channel += LANES;
    }
    last_channels<LANES / 2>(depth, channel, work);
  }
}
template <typename A, typename Work>
SE_INLINE void for_channels(int64_t depth, Work& work) {
  constexpr int W = kLanes<A>;
  int64_t channel = 0;
  for (; depth - channel >= 4 * W; channel += 4 * W) work.template at<W, 4>(channel);
  if (depth - channel >= 2 * W) {
    work.template at<W, 2>(channel);
    channel += 2 * W;
  }
  last_channels<W>(depth, channel, work);
}

// output[d] = sum over locations and their corners of weight * token[d].
template <typename A, typename T, typename Out>
struct WeightedSum {
  const Corners<A>& corners;
  const A* const* weight;  // [4][locations]
  int64_t count;
  const T* tokens;
  Out* output;

  template <int LANES, int COUNT>
  SE_INLINE void at(int64_t channel) {
    constexpr int kChains = COUNT <= 2 ? 4 : 2;  // independent sums hide the latency
    Vec<A, LANES> sums[kChains][COUNT] = {};
    for (int64_t i = 0; i < count; ++i) {
      if (!corners.used[i]) continue;
      for (int c = 0; c < 4; ++c) {
        const T* row = tokens + corners.row[c][i] + channel;
        const A w = weight[c][i];
        for (int k = 0; k < COUNT; ++k)
          sums[c % kChains][k] += load<A, LANES>(row + k * LANES) * w;
      }
    }
    for (int k = 0; k < COUNT; ++k) {
      Vec<A, LANES> sum = sums[0][k] + sums[1][k];
      if constexpr (kChains == 4) sum += sums[2][k] + sums[3][k];
      store_rounded<LANES>(output + channel + k * LANES, sum);
    }
  }
};

// Dot products with a vector of D numbers, for each location kept as a vector of partial sums in
// partial[c] (rows of kLanes<A>). COMBINED: one product with the bilinear sample, into partial[0];
// otherwise one with each corner.
template <typename A, typename T, bool COMBINED>
struct Dots {
  const Corners<A>& corners;
  int64_t padded;
  const T* tokens;
  const T* vector;
  A* const* partial;

  template <int LANES>
  SE_INLINE void keep(A* row, Vec<A, LANES> sum, bool first) {
    constexpr int W = kLanes<A>;
    if constexpr (LANES == W) {
      store<A, W>(row, first ? sum : load<A, W>(row) + sum);
    } else {
      if (first) store<A, W>(row, Vec<A, W>{});
      row[0] += sum_of<LANES, A>(sum);
    }
  }

  template <int LANES, int COUNT>
  SE_INLINE void at(int64_t channel) {
    constexpr int W = kLanes<A>;
    typedef Vec<A, LANES> V;
    V with[COUNT];
    for (int k = 0; k < COUNT; ++k) with[k] = load<A, LANES>(vector + channel + k * LANES);
    for (int64_t i = 0; i < padded; ++i) {
      V sums[4] = {};
      if (corners.used[i]) {
          for (int c = 0; c < 4; ++c) {
          const T* row = tokens + corners.row[c][i] + channel;
          for (int k = 0; k < COUNT; ++k) sums[c] += load<A, LANES>(row + k * LANES) * with[k];
        }
      }
      if constexpr (COMBINED) {
        V sample = sums[0] * corners.weight[0][i] + sums[1] * corners.weight[1][i];
        sample += sums[2] * corners.weight[2][i] + sums[3] * corners.weight[3][i];
        keep<LANES>(partial[0] + i * W, sample, channel == 0);
      } else {
        for (int c = 0; c < 4; ++c) keep<LANES>(partial[c] + i * W, sums[c], channel == 0);
      }
    }
  }
};

// token[d] += weight * row[d] for every corner of every location.
template <typename A, typename T>
struct Scatter {
  const Corners<A>& corners;
  const A* const* weight;  // [4][locations]
  int64_t count;
  const T* row;
  A* tokens;

  template <int LANES, int COUNT>
  SE_INLINE void at(int64_t channel) {
    Vec<A, LANES> spread[COUNT];
    for (int k = 0; k < COUNT; ++k) spread[k] = load<A, LANES>(row + channel + k * LANES);
    for (int64_t i = 0; i < count; ++i) {
      if (!corners.used[i]) continue;
      for (int c = 0; c < 4; ++c) {
        A* target = tokens + corners.row[c][i] + channel;
        const A w = weight[c][i];
        for (int k = 0; k < COUNT; ++k) {
          A* p = target + k * LANES;
          store<A, LANES>(p, load<A, LANES>(p) + spread[k] * w);
        }
      }
    }
  }
};

// Sums of the partial rows of W locations from location i on.
template <typename A>
SE_INLINE Vec<A, kLanes<A>> location_sums(const A* partial, int64_t i) {
  constexpr int W = kLanes<A>;
  return RowSums<A, W, W>::of(partial + i * W);
}

// Gradients of (vector . bilinear sample) by the weight and by the location, for one vector of
// locations, from the dot products with their four corners.
template <typename A>
struct LocationGradient {
  Vec<A, kLanes<A>> by_weight, by_x, by_y;
};
template <typename A>
SE_INLINE LocationGradient<A>
location_gradient(const Corners<A>& corners, A* const* partial, int64_t i) {
  constexpr int W = kLanes<A>;
  typedef Vec<A, W> V;
  V dot[4];
  for (int c = 0; c < 4; ++c) dot[c] = location_sums<A>(partial[c], i);
  V xw[2], yw[2], xs[2], ys[2];
  for (int side = 0; side < 2; ++side) {
    xw[side] = load<A, W>(corners.x_weight[side] + i);
    yw[side] = load<A, W>(corners.y_weight[side] + i);
    xs[side] = load<A, W>(corners.x_slope[side] + i);
    ys[side] = load<A, W>(corners.y_slope[side] + i);
  }
  const V upper = dot[0] * xw[0] + dot[1] * xw[1], lower = dot[2] * xw[0] + dot[3] * xw[1];
  LocationGradient<A> gradient;
  gradient.by_weight = yw[0] * upper + yw[1] * lower;
  gradient.by_y = ys[0] * upper + ys[1] * lower;
  gradient.by_x = yw[0] * (dot[0] * xs[0] + dot[1] * xs[1]);
  gradient.by_x += yw[1] * (dot[2] * xs[0] + dot[3] * xs[1]);
  return gradient;
}

// The queries of an item: [first, last) of one head of one image.
struct Item {
  int64_t image, head, run, first, last;
  Item(const Geometry& g, int64_t item) {
    run = item % g.runs;
    head = item / g.runs % g.heads;
    image = item / g.runs / g.heads;
    first = g.queries * run / g.runs;
    last = g.queries * (run + 1) / g.runs;
  }
};

// An item's own block of token gradients, cleared.
template <typename A>
SE_INLINE A* cleared_block(const Blocks& gradients, const Geometry& g, int64_t item) {
  A* block = static_cast<A*>(gradients.data) + item * gradients.stride;
  memset(block, 0, static_cast<size_t>(g.tokens * g.depth) * sizeof(A));
  return block;
}
