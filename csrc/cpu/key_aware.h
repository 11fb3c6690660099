// Key-aware attention, one item at a time.
//
// Included only by kernels.inc, inside the namespace of one capability.

// What a query and head sample: corners, and room for weights.
template <typename A>
struct KeyAwareSampling {
  const KeyAwareProblem& problem;
  Item item;
  Scratch scratch;
  Grid<A> grid;
  Corners<A> corners;
  A* weight;     // logits, then weights
  A* scaled[4];  // weight * corner weight
  A* partial[8];
  A* pair_buffer[2];
  A root;  // 1 / sqrt(D)

  static int64_t bytes(const Geometry& g, int64_t partials) {
    const int64_t padded = padded_locations<A>(g);
    const int64_t arrays =
        Grid<A>::arrays() + Corners<A>::arrays() + 20 + partials * kLanes<A>;
    return arrays * (padded * static_cast<int64_t>(sizeof(A)) + 64);
  }

  KeyAwareSampling(const KeyAwareProblem& p, int64_t number, int64_t partials)
      : problem(p),
        item(p.geometry, number),
        scratch(bytes(p.geometry, partials)),
        grid(p.geometry, p.value.token_stride, scratch),
        corners(grid.padded, scratch) {
    weight = scratch.template take<A>(grid.padded);
    for (A*& array : scaled) array = scratch.template take<A>(grid.padded);
    for (int i = 0; i < partials; ++i)
      partial[i] = scratch.template take<A>(kLanes<A> * grid.padded);
    for (A*& array : pair_buffer) {
      array = scratch.template take<A>(2 * grid.padded);
      for (int64_t i = 0; i < 2 * grid.padded; ++i) array[i] = A(0);
    }
    root = static_cast<A>(1 / sqrt(static_cast<double>(p.geometry.depth)));
    if (item.first < item.last) gather(item.first);
  }

  SE_INLINE int64_t row(int64_t q) const {
    const Geometry& g = problem.geometry;
    return (item.image * g.queries + q) * g.heads + item.head;
  }

  // Locations of query q as pairs of reals. Done one query ahead: a vector cannot be loaded at once
  // from what was just stored in pieces.
  SE_INLINE void gather(int64_t q) {
    const KeyAwareProblem& p = problem;
    const int64_t* stride = p.location_strides;
    const int64_t points = p.geometry.points;
    int64_t first = item.image * stride[0] + q * stride[1] + item.head * stride[2];
    A* pairs = pair_buffer[q & 1];
    for (int64_t level = 0; level < p.geometry.levels; ++level) {
      if (stride[5] == 1 && stride[4] == 2) {
        read_row(p.locations_kind, p.locations, first, 1, 2 * points, pairs);
      } else {
        for (int64_t point = 0; point < points; ++point)
          read_row(p.locations_kind, p.locations, first + point * stride[4], stride[5], 2,
                   pairs + 2 * point);
      }
      pairs += 2 * points;
      first += stride[3];
    }
  }

  // Locations and corners of query q; queries come in order.
  SE_INLINE void advance(int64_t q) {
    constexpr int W = kLanes<A>;
    const A* pairs = pair_buffer[q & 1];
    if (q + 1 < item.last) gather(q + 1);
    for (int64_t i = 0; i < grid.padded; i += W) {
      Vec<A, W> x, y;
      split_pairs<A, W>(pairs + 2 * i, x, y, std::make_integer_sequence<int, W>());
      x = x * load<A, W>(grid.width + i) - A(0.5);
      y = y * load<A, W>(grid.height + i) - A(0.5);
      locate<true>(grid, i, x, y, corners);
    }
  }

  // Logits in `weight` to weights; then corner weights by weight.
  SE_INLINE void attend() {
    softmax(weight, weight, grid.padded);
    scale_corners(corners, weight, scaled, grid.padded);
  }

  // Logits of the locations from i on, from their products with the query; padding gets none.
  SE_INLINE void keep_logits(int64_t i, Vec<A, kLanes<A>> product) {
    constexpr int W = kLanes<A>;
    const Vec<A, W> none = splat<Vec<A, W>>(-A(INFINITY));
    const Vec<A, W> width = load<A, W>(grid.width + i);
    store<A, W>(weight + i, width < A(0) ? none : product * root);
  }
};

template <typename A, typename T>
void key_aware_forward_item(const KeyAwareProblem& p, int64_t number) {
  constexpr int W = kLanes<A>;
  const Geometry& g = p.geometry;
  KeyAwareSampling<A> s(p, number, 1);
  const Item& item = s.item;
  const T* key = head_of<T>(p.key, item.image, item.head);
  const T* value = head_of<T>(p.value, item.image, item.head);
  const int64_t numbers = g.heads * g.depth;
  for (int64_t q = item.first; q < item.last; ++q) {
    const T* query = static_cast<const T*>(p.query) + s.row(q) * g.depth;
    T* output = static_cast<T*>(p.output) + s.row(q) * g.depth;
    if (q + 4 < item.last) fetch(query + 4 * numbers, 0, g.depth, p.value_kind);
    fetch_to_write(output, 0, g.depth, p.value_kind);
    s.advance(q);
    Dots<A, T, true> dots{s.corners, s.grid.padded, key, query, s.partial};
    for_channels<A>(g.depth, dots);
    for (int64_t i = 0; i < s.grid.padded; i += W)
      s.keep_logits(i, location_sums<A>(s.partial[0], i));
    s.attend();
    WeightedSum<A, T, T> sum{s.corners, s.scaled, s.grid.count, value, output};
    for_channels<A>(g.depth, sum);
  }
}

// What the backward of one query and head needs beyond its sampling.
template <typename A>
struct KeyAwareGradients {
  A* key_scaled[4];  // gradient by logit * corner weight
  A *by_logit, *key_x, *key_y, *value_x, *value_y, *by_pair;

  explicit KeyAwareGradients(KeyAwareSampling<A>& s) {
    const int64_t padded = s.grid.padded;
    for (A*& array : key_scaled) array = s.scratch.template take<A>(padded);
    for (A** array : {&by_logit, &key_x, &key_y, &value_x, &value_y}) *array = s.scratch.template take<A>(padded);
    by_pair = s.scratch.template take<A>(2 * padded);
  }

  // Weights, what is to be scattered to keys and values, and the gradient by the locations.
  SE_INLINE void weigh(KeyAwareSampling<A>& s) {
    constexpr int W = kLanes<A>;
    typedef Vec<A, W> V;
    for (int64_t i = 0; i < s.grid.padded; i += W) {
      const LocationGradient<A> of_key = location_gradient(s.corners, s.partial, i);
      s.keep_logits(i, of_key.by_weight);
      store<A, W>(key_x + i, of_key.by_x);
      store<A, W>(key_y + i, of_key.by_y);
    }
    s.attend();
    V mean = {};
    for (int64_t i = 0; i < s.grid.padded; i += W) {
      const LocationGradient<A> of_value = location_gradient(s.corners, s.partial + 4, i);
      const V weight = load<A, W>(s.weight + i);
      mean += weight * of_value.by_weight;
      store<A, W>(by_logit + i, of_value.by_weight);
      store<A, W>(value_x + i, weight * of_value.by_x);
      store<A, W>(value_y + i, weight * of_value.by_y);
    }
    const A centre = sum_of<W, A>(mean);
    for (int64_t i = 0; i < s.grid.padded; i += W) {
      const V weight = load<A, W>(s.weight + i);
      const V logit = weight * (load<A, W>(by_logit + i) - centre) * s.root;
      const V x = load<A, W>(value_x + i) + logit * load<A, W>(key_x + i);
      const V y = load<A, W>(value_y + i) + logit * load<A, W>(key_y + i);
      join_pairs<A, W>(by_pair + 2 * i, x * load<A, W>(s.grid.width + i),
                       y * load<A, W>(s.grid.height + i), std::make_integer_sequence<int, W>());
      store<A, W>(by_logit + i, logit);
    }
    scale_corners(s.corners, by_logit, key_scaled, s.grid.padded);
  }
};

template <typename A, typename T>
void key_aware_backward_item(const KeyAwareProblem& p, int64_t number) {
  const Geometry& g = p.geometry;
  KeyAwareSampling<A> s(p, number, 8);
  KeyAwareGradients<A> gradients(s);
  const Item& item = s.item;
  const T* key = head_of<T>(p.key, item.image, item.head);
  const T* value = head_of<T>(p.value, item.image, item.head);
  A* grad_key = cleared_block<A>(p.grad_key, g, number);
  A* grad_value = cleared_block<A>(p.grad_value, g, number);
  const int64_t count = s.grid.count, numbers = g.heads * g.depth;
  for (int64_t q = item.first; q < item.last; ++q) {
    const T* query = static_cast<const T*>(p.query) + s.row(q) * g.depth;
    const T* grad = static_cast<const T*>(p.grad_output) + s.row(q) * g.depth;
    T* grad_query = static_cast<T*>(p.grad_query) + s.row(q) * g.depth;
    if (q + 4 < item.last) {
      fetch(query + 4 * numbers, 0, g.depth, p.value_kind);
      fetch(grad + 4 * numbers, 0, g.depth, p.value_kind);
    }
    fetch_to_write(grad_query, 0, g.depth, p.value_kind);
    fetch_to_write(p.grad_locations, s.row(q) * count * 2, count * 2, p.locations_kind);
    s.advance(q);
    Dots<A, T, false> key_dots{s.corners, s.grid.padded, key, query, s.partial};
    for_channels<A>(g.depth, key_dots);
    Dots<A, T, false> value_dots{s.corners, s.grid.padded, value, grad, s.partial + 4};
    for_channels<A>(g.depth, value_dots);
    gradients.weigh(s);

    Scatter<A, T> to_value{s.corners, s.scaled, count, grad, grad_value};
    for_channels<A>(g.depth, to_value);
    Scatter<A, T> to_key{s.corners, gradients.key_scaled, count, query, grad_key};
    for_channels<A>(g.depth, to_key);
    WeightedSum<A, T, T> to_query{s.corners, gradients.key_scaled, count, key, grad_query};
    for_channels<A>(g.depth, to_query);
    write_row(p.locations_kind, p.grad_locations, s.row(q) * count * 2, 1, 2 * count,
              gradients.by_pair);
  }
}
