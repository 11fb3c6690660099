// Deformable attention, one item at a time.
//
// Included only by kernels.inc, inside the namespace of one capability.

// What a query and head sample: corners and weights, recomputed in the backward.
template <typename A>
struct DeformableSampling {
  Scratch scratch;
  Grid<A> grid;
  Corners<A> corners;
  A *x, *y;              // offsets, then places
  A *x_scale, *y_scale;  // derivative of the place by the offset
  A* weight;             // logits, then weights
  A* scaled[4];          // weight * corner weight
  A* pair_row;

  static int64_t bytes(const Geometry& g, int64_t extra) {
    const int64_t padded = padded_places<A>(g);
    const int64_t arrays = Grid<A>::arrays() + Corners<A>::arrays() + 11 + extra;
    return arrays * (padded * static_cast<int64_t>(sizeof(A)) + 64);
  }

  DeformableSampling(const Geometry& g, int64_t extra = 0)
      : scratch(bytes(g, extra)), grid(g, scratch), corners(grid.padded, scratch) {
    for (A** array : {&x, &y, &x_scale, &y_scale, &weight})
      *array = scratch.template take<A>(grid.padded);
    for (A*& array : scaled) array = scratch.template take<A>(grid.padded);
    pair_row = scratch.template take<A>(2 * grid.padded);
  }

  // Places, corners, weights of query q; `row` is (image * Q + q) * M + head.
  SE_INLINE void of(const DeformableProblem& p, int64_t row, int64_t query_row) {
    const int64_t count = grid.count;
    read_row(p.offsets_kind, p.offsets, row * count * 2, 1, 2 * count, pair_row);
    read_row(p.logits_kind, p.logits, row * count, 1, count, weight);
    place(p, query_row);
    for (int64_t i = count; i < grid.padded; ++i) {
      x[i] = y[i] = A(-2);
      weight[i] = -A(INFINITY);
    }
    locate(grid, x, y, corners);
    softmax(weight, grid.padded);
    scale_corners(corners, weight, scaled, grid.padded);
  }

  // Reference points and the offsets in pair_row to places.
  SE_INLINE void place(const DeformableProblem& p, int64_t query_row) {
    const Geometry& g = p.geometry;
    for (int64_t level = 0; level < g.levels; ++level) {
      A point[4];
      const int64_t size = p.reference_size;
      read_row(p.reference_kind, p.reference, (query_row * g.levels + level) * size, 1, size,
               point);
      const int64_t begin = level * g.points, end = begin + g.points;
      const A width = grid.width[begin], height = grid.height[begin];
      const A left = point[0] * width - A(0.5), top = point[1] * height - A(0.5);
      A step_x = 1, step_y = 1;
      if (size == 4) {
        const A part = A(0.5) / static_cast<A>(g.points);
        step_x = point[2] * width * part;
        step_y = point[3] * height * part;
      }
      for (int64_t i = begin; i < end; ++i) {
        x_scale[i] = step_x;
        y_scale[i] = step_y;
        x[i] = left + pair_row[2 * i] * step_x;
        y[i] = top + pair_row[2 * i + 1] * step_y;
      }
    }
  }
};

template <typename A, typename T>
void deformable_forward_item(const DeformableProblem& p, int64_t number) {
  const Geometry& g = p.geometry;
  const Item item(g, number);
  DeformableSampling<A> sampling(g);
  const HeadTokens<const T> value = head_of<T>(p.value, item.image, item.head);
  for (int64_t q = item.first; q < item.last; ++q) {
    const int64_t query_row = item.image * g.queries + q, row = query_row * g.heads + item.head;
    sampling.of(p, row, query_row);
    T* output = static_cast<T*>(p.output) + row * g.depth;
    WeightedSum<A, T, T> sum{sampling.corners, sampling.scaled, g.levels * g.points, value, output};
    for_channels<A>(g.depth, sum);
  }
}

// Gradients of one query and head by offsets, logits and reference points, from `partial`.
template <typename A>
SE_INLINE void deformable_query_gradients(const DeformableProblem& p, DeformableSampling<A>& s,
                                          A* const* partial, A* by_weight, int64_t row,
                                          A* grad_reference) {
  constexpr int W = kLanes<A>;
  const Geometry& g = p.geometry;
  Vec<A, W> mean = {};
  A *by_x = s.scaled[0], *by_y = s.scaled[1];  // no longer needed as corner weights
  for (int64_t i = 0; i < s.grid.padded; i += W) {
    const PlaceGradient<A> gradient = place_gradient(s.corners, partial, i);
    const Vec<A, W> weight = load<A, W>(s.weight + i);
    mean += weight * gradient.by_weight;
    store<A, W>(by_weight + i, gradient.by_weight);
    store<A, W>(by_x + i, weight * gradient.by_x);
    store<A, W>(by_y + i, weight * gradient.by_y);
  }
  const A centre = sum_of<W, A>(mean);
  for (int64_t i = 0; i < s.grid.padded; i += W)
    store<A, W>(by_weight + i, load<A, W>(s.weight + i) * (load<A, W>(by_weight + i) - centre));
  const int64_t count = s.grid.count;
  write_row(p.logits_kind, p.grad_logits, row * count, 1, count, by_weight);

  for (int64_t level = 0; level < g.levels; ++level) {
    const int64_t begin = level * g.points;
    const A width = s.grid.width[begin], height = s.grid.height[begin];
    const A part = A(0.5) / static_cast<A>(g.points);
    A sums[4] = {0, 0, 0, 0};
    for (int64_t i = begin; i < begin + g.points; ++i) {
      sums[0] += by_x[i];
      sums[1] += by_y[i];
      sums[2] += by_x[i] * s.pair_row[2 * i];
      sums[3] += by_y[i] * s.pair_row[2 * i + 1];
      s.pair_row[2 * i] = by_x[i] * s.x_scale[i];
      s.pair_row[2 * i + 1] = by_y[i] * s.y_scale[i];
    }
    A* target = grad_reference + level * p.reference_size;
    target[0] = sums[0] * width;
    target[1] = sums[1] * height;
    if (p.reference_size == 4) {
      target[2] = sums[2] * width * part;
      target[3] = sums[3] * height * part;
    }
  }
  write_row(p.offsets_kind, p.grad_offsets, row * count * 2, 1, 2 * count, s.pair_row);
}

template <typename A, typename T>
void deformable_backward_item(const DeformableProblem& p, int64_t number) {
  const Geometry& g = p.geometry;
  const Item item(g, number);
  constexpr int W = kLanes<A>;
  DeformableSampling<A> sampling(g, 4 * W + 1);
  A* partial[4];
  for (A*& rows : partial) rows = sampling.scratch.template take<A>(W * sampling.grid.padded);
  A* by_weight = sampling.scratch.template take<A>(sampling.grid.padded);
  const HeadTokens<const T> value = head_of<T>(p.value, item.image, item.head);
  const HeadTokens<A> grad_value = cleared_block<A>(p.grad_value, g, number);
  const int64_t reference_numbers = g.levels * p.reference_size;
  A* grad_reference = static_cast<A*>(p.grad_reference) +
                      (item.image * g.heads + item.head) * g.queries * reference_numbers;
  for (int64_t q = item.first; q < item.last; ++q) {
    const int64_t query_row = item.image * g.queries + q, row = query_row * g.heads + item.head;
    sampling.of(p, row, query_row);
    const T* grad = static_cast<const T*>(p.grad_output) + row * g.depth;
    Dots<A, T, false> dots{sampling.corners, sampling.grid.padded, value, grad, partial};
    for_channels<A>(g.depth, dots);
    Scatter<A, T> scatter{sampling.corners, sampling.scaled, sampling.grid.count, grad, grad_value};
    for_channels<A>(g.depth, scatter);
    deformable_query_gradients(p, sampling, partial, by_weight, row,
                               grad_reference + q * reference_numbers);
  }
}
