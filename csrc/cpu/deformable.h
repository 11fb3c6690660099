// Deformable attention, one item at a time.
//
// Included only by kernels.inc, inside the namespace of one capability.

// What a query and head sample: corners and weights, recomputed in the backward.
template <typename A>
struct DeformableSampling {
  const DeformableProblem& problem;
  Item item;
  Scratch scratch;
  Grid<A> grid;
  Corners<A> corners;
  A* weight;
  A* scaled[4];  // weight * corner weight
  A *pair_buffer[2], *logit_buffer[2], *point_buffer[2];
  const A *pairs, *logits, *points;                 // of the query at hand
  const A *next_pairs, *next_logits, *next_points;  // of the one after it

  static int64_t bytes(const DeformableProblem& p, int64_t extra) {
    const Geometry& g = p.geometry;
    const int64_t padded = padded_locations<A>(g), size = static_cast<int64_t>(sizeof(A));
    const int64_t arrays = Grid<A>::arrays() + Corners<A>::arrays() + 11 + extra;
    return arrays * (padded * size + 64) + 2 * (g.levels * p.reference_size * size + 64);
  }

  DeformableSampling(const DeformableProblem& p, int64_t number, int64_t extra = 0)
      : problem(p),
        item(p.geometry, number),
        scratch(bytes(p, extra)),
        grid(p.geometry, p.value.token_stride, scratch),
        corners(grid.padded, scratch) {
    weight = scratch.template take<A>(grid.padded);
    for (A*& array : scaled) array = scratch.template take<A>(grid.padded);
    for (int slot = 0; slot < 2; ++slot) {
      pair_buffer[slot] = scratch.template take<A>(2 * grid.padded);
      logit_buffer[slot] = scratch.template take<A>(grid.padded);
      point_buffer[slot] = scratch.template take<A>(p.geometry.levels * p.reference_size);
    }
    if (item.first < item.last) gather(item.first);
  }

  // Row of (B, Q) for query q, and of (B, Q, M).
  SE_INLINE int64_t query_row(int64_t q) const { return item.image * problem.geometry.queries + q; }
  SE_INLINE int64_t row(int64_t q) const {
    return query_row(q) * problem.geometry.heads + item.head;
  }

  // Offsets, logits and reference points of query q as reals, into next_*. Done one query ahead: a
  // vector cannot be loaded at once from what was just stored in pieces.
  SE_INLINE void gather(int64_t q) {
    const DeformableProblem& p = problem;
    const int64_t count = grid.count, slot = q & 1;
    next_pairs = view_row(p.offsets_kind, p.offsets, row(q) * count * 2, 2 * count,
                          2 * grid.padded, A(0), pair_buffer[slot]);
    next_logits = view_row(p.logits_kind, p.logits, row(q) * count, count, grid.padded,
                           -A(INFINITY), logit_buffer[slot]);
    const int64_t numbers = p.geometry.levels * p.reference_size;
    next_points = view_row(p.reference_kind, p.reference, query_row(q) * numbers, numbers,
                           numbers, A(0), point_buffer[slot]);
  }

  // Locations, corners and weights of query q; queries come in order.
  template <bool GRADIENTS>
  SE_INLINE void advance(int64_t q) {
    constexpr int W = kLanes<A>;
    constexpr int64_t kAhead = 4;
    pairs = next_pairs;
    logits = next_logits;
    points = next_points;
    const int64_t count = grid.count;
    if (q + kAhead < item.last) {
      fetch(problem.offsets, row(q + kAhead) * count * 2, 2 * count, problem.offsets_kind);
      fetch(problem.logits, row(q + kAhead) * count, count, problem.logits_kind);
    }
    if (q + 1 < item.last) gather(q + 1);
    softmax(logits, weight, grid.padded);
    for (int64_t i = 0; i < grid.padded; i += W) {
      Vec<A, W> x, y, x_step, y_step;
      split_pairs<A, W>(pairs + 2 * i, x, y, std::make_integer_sequence<int, W>());
      steps(i, x_step, y_step);
      const Vec<A, W> width = load<A, W>(grid.width + i), height = load<A, W>(grid.height + i);
      x = of_level(i, 0) * width - A(0.5) + x * x_step;
      y = of_level(i, 1) * height - A(0.5) + y * y_step;
      locate<GRADIENTS>(grid, i, x, y, corners);
    }
    scale_corners(corners, weight, scaled, grid.padded);
  }

  // Number `which` of the reference point of the level of each location from i on.
  SE_INLINE Vec<A, kLanes<A>> of_level(int64_t i, int64_t which) const {
    constexpr int W = kLanes<A>;
    typedef Vec<A, W> V;
    const Vec<Int<A>, W> level = load<Int<A>, W>(grid.level + i);
    const Int<A> first = grid.level[i], last = grid.level[i + W - 1];
    V chosen = splat<V>(points[first * problem.reference_size + which]);
    for (Int<A> l = first + 1; l <= last; ++l) {
      const V other = splat<V>(points[l * problem.reference_size + which]);
      chosen = level >= l ? other : chosen;
    }
    return chosen;
  }

  // Derivatives of the locations from i on by their offsets.
  SE_INLINE void steps(int64_t i, Vec<A, kLanes<A>>& x_step, Vec<A, kLanes<A>>& y_step) const {
    constexpr int W = kLanes<A>;
    typedef Vec<A, W> V;
    if (problem.reference_size == 2) {
      x_step = y_step = splat<V>(A(1));
      return;
    }
    const A part = A(0.5) / static_cast<A>(problem.geometry.points);
    x_step = of_level(i, 2) * load<A, W>(grid.width + i) * part;
    y_step = of_level(i, 3) * load<A, W>(grid.height + i) * part;
  }
};

template <typename A, typename T>
void deformable_forward_item(const DeformableProblem& p, int64_t number) {
  const Geometry& g = p.geometry;
  DeformableSampling<A> s(p, number);
  const Item& item = s.item;
  const T* value = head_of<T>(p.value, item.image, item.head);
  for (int64_t q = item.first; q < item.last; ++q) {
    T* output = static_cast<T*>(p.output) + s.row(q) * g.depth;
    fetch_to_write(output, 0, g.depth, p.value_kind);
    s.template advance<false>(q);
    WeightedSum<A, T, T> sum{s.corners, s.scaled, s.grid.count, value, output};
    for_channels<A>(g.depth, sum);
  }
}

// What the backward of one query and head needs beyond its sampling.
template <typename A>
struct DeformableGradients {
  A* partial[4];  // products with the four corners, see Dots
  A *by_logit, *by_x, *by_y, *by_pair;
  A* reference;  // (Q, L, 2 or 4) of this head

  static int64_t arrays() { return 4 * kLanes<A> + 5; }

  DeformableGradients(const DeformableProblem& p, DeformableSampling<A>& s) {
    const int64_t padded = s.grid.padded;
    for (A*& rows : partial) rows = s.scratch.template take<A>(kLanes<A> * padded);
    for (A** array : {&by_logit, &by_x, &by_y}) *array = s.scratch.template take<A>(padded);
    by_pair = s.scratch.template take<A>(2 * padded);
    const Geometry& g = p.geometry;
    reference = static_cast<A*>(p.grad_reference) +
                (s.item.image * g.heads + s.item.head) * g.queries * g.levels * p.reference_size;
  }

  // By logits and offsets.
  SE_INLINE void finish(const DeformableSampling<A>& s, int64_t q) {
    constexpr int W = kLanes<A>;
    const DeformableProblem& p = s.problem;
    Vec<A, W> mean = {};
    for (int64_t i = 0; i < s.grid.padded; i += W) {
      const LocationGradient<A> gradient = location_gradient(s.corners, partial, i);
      const Vec<A, W> weight = load<A, W>(s.weight + i);
      mean += weight * gradient.by_weight;
      store<A, W>(by_logit + i, gradient.by_weight);
      const Vec<A, W> x = weight * gradient.by_x, y = weight * gradient.by_y;
      store<A, W>(by_x + i, x);
      store<A, W>(by_y + i, y);
      Vec<A, W> x_step, y_step;
      s.steps(i, x_step, y_step);
      join_pairs<A, W>(by_pair + 2 * i, x * x_step, y * y_step,
                       std::make_integer_sequence<int, W>());
    }
    const A centre = sum_of<W, A>(mean);
    for (int64_t i = 0; i < s.grid.padded; i += W)
      store<A, W>(by_logit + i, load<A, W>(s.weight + i) * (load<A, W>(by_logit + i) - centre));
    const int64_t count = s.grid.count;
    write_row(p.logits_kind, p.grad_logits, s.row(q) * count, 1, count, by_logit);
    write_row(p.offsets_kind, p.grad_offsets, s.row(q) * count * 2, 1, 2 * count, by_pair);
    by_reference(s, q);
  }

  SE_INLINE void by_reference(const DeformableSampling<A>& s, int64_t q) {
    const Geometry& g = s.problem.geometry;
    const int64_t size = s.problem.reference_size;
    const A part = A(0.5) / static_cast<A>(g.points);
    for (int64_t level = 0; level < g.levels; ++level) {
      const int64_t begin = level * g.points, end = begin + g.points;
      const A width = s.grid.width[begin], height = s.grid.height[begin];
      A sums[4] = {0, 0, 0, 0};
      for (int64_t i = begin; i < end; ++i) {
        sums[0] += by_x[i];
        sums[1] += by_y[i];
      }
      A* target = reference + (q * g.levels + level) * size;
      target[0] = sums[0] * width;
      target[1] = sums[1] * height;
      if (size == 2) continue;
      for (int64_t i = begin; i < end; ++i) {
        sums[2] += by_x[i] * s.pairs[2 * i];
        sums[3] += by_y[i] * s.pairs[2 * i + 1];
      }
      target[2] = sums[2] * width * part;
      target[3] = sums[3] * height * part;
    }
  }
};

template <typename A, typename T>
void deformable_backward_item(const DeformableProblem& p, int64_t number) {
  const Geometry& g = p.geometry;
  DeformableSampling<A> s(p, number, DeformableGradients<A>::arrays());
  DeformableGradients<A> gradients(p, s);
  const Item& item = s.item;
  const T* value = head_of<T>(p.value, item.image, item.head);
  A* grad_value = cleared_block<A>(p.grad_value, g, number);
  const int64_t numbers = g.heads * g.depth;
  for (int64_t q = item.first; q < item.last; ++q) {
    const T* grad = static_cast<const T*>(p.grad_output) + s.row(q) * g.depth;
    if (q + 4 < item.last) fetch(grad + 4 * numbers, 0, g.depth, p.value_kind);
    fetch_to_write(p.grad_offsets, s.row(q) * s.grid.count * 2, s.grid.count * 2, p.offsets_kind);
    fetch_to_write(p.grad_logits, s.row(q) * s.grid.count, s.grid.count, p.logits_kind);
    s.template advance<true>(q);
    Dots<A, T, false> dots{s.corners, s.grid.padded, value, grad, gradients.partial};
    for_channels<A>(g.depth, dots);
    Scatter<A, T> scatter{s.corners, s.scaled, s.grid.count, grad, grad_value};
    for_channels<A>(g.depth, scatter);
    gradients.finish(s, q);
  }
}
