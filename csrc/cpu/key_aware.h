// Key-aware attention, one item at a time.
//
// Included only by kernels.inc, inside the namespace of one capability.

// What a query and head sample: corners, and room for weights.
template <typename A>
struct KeyAwareSampling {
  Scratch scratch;
  Grid<A> grid;
  Corners<A> corners;
  A *x, *y;
  A* weight;     // logits, then weights
  A* scaled[4];  // weight * corner weight
  A* partial[8];
  A root;  // 1 / sqrt(D)

  static int64_t bytes(const Geometry& g, int64_t partials) {
    const int64_t padded = padded_places<A>(g);
    const int64_t arrays =
        Grid<A>::arrays() + Corners<A>::arrays() + 16 + partials * kLanes<A>;
    return arrays * (padded * static_cast<int64_t>(sizeof(A)) + 64);
  }

  KeyAwareSampling(const Geometry& g, int64_t partials)
      : scratch(bytes(g, partials)), grid(g, scratch), corners(grid.padded, scratch) {
    for (A** array : {&x, &y, &weight}) *array = scratch.template take<A>(grid.padded);
    for (A*& array : scaled) array = scratch.template take<A>(grid.padded);
    for (int i = 0; i < partials; ++i)
      partial[i] = scratch.template take<A>(kLanes<A> * grid.padded);
    root = static_cast<A>(1 / sqrt(static_cast<double>(g.depth)));
  }

  SE_INLINE void locate_query(const KeyAwareProblem& p, int64_t image, int64_t q, int64_t head) {
    const Geometry& g = p.geometry;
    const int64_t* stride = p.location_strides;
    const int64_t first = image * stride[0] + q * stride[1] + head * stride[2];
    for (int64_t level = 0; level < g.levels; ++level) {
      const int64_t begin = level * g.points, from = first + level * stride[3];
      const A width = grid.width[begin], height = grid.height[begin];
      read_row(p.locations_kind, p.locations, from, stride[4], g.points, x + begin);
      read_row(p.locations_kind, p.locations, from + stride[5], stride[4], g.points, y + begin);
      for (int64_t i = begin; i < begin + g.points; ++i) {
        x[i] = x[i] * width - A(0.5);
        y[i] = y[i] * height - A(0.5);
      }
    }
    for (int64_t i = grid.count; i < grid.padded; ++i) x[i] = y[i] = A(-2);
    locate(grid, x, y, corners);
  }

  // Products in `weight` to weights; then corner weights by weight.
  SE_INLINE void attend() {
    for (int64_t i = grid.count; i < grid.padded; ++i) weight[i] = -A(INFINITY);
    softmax(weight, grid.padded);
    scale_corners(corners, weight, scaled, grid.padded);
  }
};

template <typename A, typename T>
void key_aware_forward_item(const KeyAwareProblem& p, int64_t number) {
  constexpr int W = kLanes<A>;
  const Geometry& g = p.geometry;
  const Item item(g, number);
  KeyAwareSampling<A> s(g, 1);
  const HeadTokens<const T> key = head_of<T>(p.key, item.image, item.head);
  const HeadTokens<const T> value = head_of<T>(p.value, item.image, item.head);
  for (int64_t q = item.first; q < item.last; ++q) {
    const int64_t row = (item.image * g.queries + q) * g.heads + item.head;
    s.locate_query(p, item.image, q, item.head);
    const T* query = static_cast<const T*>(p.query) + row * g.depth;
    Dots<A, T, true> dots{s.corners, s.grid.padded, key, query, s.partial};
    for_channels<A>(g.depth, dots);
    for (int64_t i = 0; i < s.grid.padded; i += W)
      store<A, W>(s.weight + i, place_sums<A>(s.partial[0], i) * s.root);
    s.attend();
    T* output = static_cast<T*>(p.output) + row * g.depth;
    WeightedSum<A, T, T> sum{s.corners, s.scaled, s.grid.count, value, output};
    for_channels<A>(g.depth, sum);
  }
}

// Weights, and from them `scaled` for the values and `key_scaled` for the keys, and the gradient
// of the locations (written to x and y), of one query and head.
template <typename A>
SE_INLINE void key_aware_query_gradients(KeyAwareSampling<A>& s, A* const* key_scaled,
                                         A* by_weight) {
  constexpr int W = kLanes<A>;
  typedef Vec<A, W> V;
  A *key_x = key_scaled[0], *key_y = key_scaled[1];
  for (int64_t i = 0; i < s.grid.padded; i += W) {
    const PlaceGradient<A> of_key = place_gradient(s.corners, s.partial, i);
    store<A, W>(s.weight + i, of_key.by_weight * s.root);
    store<A, W>(key_x + i, of_key.by_x);
    store<A, W>(key_y + i, of_key.by_y);
  }
  s.attend();
  V mean = {};
  for (int64_t i = 0; i < s.grid.padded; i += W) {
    const PlaceGradient<A> of_value = place_gradient(s.corners, s.partial + 4, i);
    const V weight = load<A, W>(s.weight + i);
    mean += weight * of_value.by_weight;
    store<A, W>(by_weight + i, of_value.by_weight);
    store<A, W>(s.x + i, weight * of_value.by_x);
    store<A, W>(s.y + i, weight * of_value.by_y);
  }
  const A centre = sum_of<W, A>(mean);
  for (int64_t i = 0; i < s.grid.padded; i += W) {
    const V by_logit = load<A, W>(s.weight + i) * (load<A, W>(by_weight + i) - centre) * s.root;
    const V width = load<A, W>(s.grid.width + i), height = load<A, W>(s.grid.height + i);
    const V x = load<A, W>(s.x + i) + by_logit * load<A, W>(key_x + i);
    const V y = load<A, W>(s.y + i) + by_logit * load<A, W>(key_y + i);
    store<A, W>(s.x + i, x * width);
    store<A, W>(s.y + i, y * height);
    store<A, W>(by_weight + i, by_logit);
  }
  scale_corners(s.corners, by_weight, key_scaled, s.grid.padded);
}

template <typename A, typename T>
void key_aware_backward_item(const KeyAwareProblem& p, int64_t number) {
  const Geometry& g = p.geometry;
  const Item item(g, number);
  KeyAwareSampling<A> s(g, 8);
  A* key_scaled[4];
  for (A*& array : key_scaled) array = s.scratch.template take<A>(s.grid.padded);
  A* by_weight = s.scratch.template take<A>(s.grid.padded);
  const HeadTokens<const T> key = head_of<T>(p.key, item.image, item.head);
  const HeadTokens<const T> value = head_of<T>(p.value, item.image, item.head);
  const HeadTokens<A> grad_key = cleared_block<A>(p.grad_key, g, number);
  const HeadTokens<A> grad_value = cleared_block<A>(p.grad_value, g, number);
  const int64_t count = s.grid.count;
  for (int64_t q = item.first; q < item.last; ++q) {
    const int64_t row = (item.image * g.queries + q) * g.heads + item.head;
    s.locate_query(p, item.image, q, item.head);
    const T* query = static_cast<const T*>(p.query) + row * g.depth;
    const T* grad = static_cast<const T*>(p.grad_output) + row * g.depth;
    Dots<A, T, false> key_dots{s.corners, s.grid.padded, key, query, s.partial};
    for_channels<A>(g.depth, key_dots);
    Dots<A, T, false> value_dots{s.corners, s.grid.padded, value, grad, s.partial + 4};
    for_channels<A>(g.depth, value_dots);
    key_aware_query_gradients(s, key_scaled, by_weight);

    Scatter<A, T> to_value{s.corners, s.scaled, count, grad, grad_value};
    for_channels<A>(g.depth, to_value);
    Scatter<A, T> to_key{s.corners, key_scaled, count, query, grad_key};
    for_channels<A>(g.depth, to_key);
    T* grad_query = static_cast<T*>(p.grad_query) + row * g.depth;
    WeightedSum<A, T, T> to_query{s.corners, key_scaled, count, key, grad_query};
    for_channels<A>(g.depth, to_query);
    write_row(p.locations_kind, p.grad_locations, row * count * 2, 2, count, s.x);
    write_row(p.locations_kind, p.grad_locations, row * count * 2 + 1, 2, count, s.y);
  }
}
