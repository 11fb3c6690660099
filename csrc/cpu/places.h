// Places, their corners and the softmax, a vector of places at a time. The arithmetic is that of
// csrc/common/bilinear.h.
//
// Included only by kernels.inc, inside the namespace of one capability.

// Arrays carved out of one allocation, each aligned to 64 bytes.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) {
    memory_ = static_cast<char*>(aligned_alloc(64, static_cast<size_t>((bytes + 127) / 64 * 64)));
    if (memory_ == nullptr) abort();
    next_ = memory_;
  }
  ~Scratch() { free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <typename X>
  X* take(int64_t count) {
    X* taken = reinterpret_cast<X*>(next_);
    next_ += (count * static_cast<int64_t>(sizeof(X)) + 63) / 64 * 64;
    return taken;
  }

 private:
  char* memory_;
  char* next_;
};

// Number of places of a query and head, and that rounded up to whole vectors.
template <typename A>
SE_INLINE int64_t padded_places(const Geometry& g) {
  return (g.levels * g.points + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
}

// Per place of a query and head: the level that it is on. Padding places have an empty level.
template <typename A>
struct Grid {
  int64_t count, padded;
  A *width, *height;
  Int<A> *columns, *rows, *start;

  Grid(const Geometry& g, Scratch& scratch)
      : count(g.levels * g.points), padded(padded_places<A>(g)) {
    width = scratch.take<A>(padded);
    height = scratch.take<A>(padded);
    columns = scratch.take<Int<A>>(padded);
    rows = scratch.take<Int<A>>(padded);
    start = scratch.take<Int<A>>(padded);
    int64_t first = 0, place = 0;
    for (int64_t level = 0; level < g.levels; ++level) {
      const int64_t h = g.shapes[2 * level], w = g.shapes[2 * level + 1];
      for (int64_t point = 0; point < g.points; ++point, ++place) set(place, h, w, first);
      first += h * w;
    }
    for (; place < padded; ++place) set(place, 0, 0, 0);
  }
  static int64_t arrays() { return 5; }

 private:
  void set(int64_t place, int64_t h, int64_t w, int64_t first) {
    width[place] = static_cast<A>(w);
    height[place] = static_cast<A>(h);
    columns[place] = static_cast<Int<A>>(w);
    rows[place] = static_cast<Int<A>>(h);
    start[place] = static_cast<Int<A>>(first);
  }
};

// Per place: the token at the upper left corner, the steps to the right and lower ones (0 where
// the other one is outside), whether it is to be read at all, and the bilinear parts.
template <typename A>
struct Corners {
  Int<A> *token, *right, *down, *used;
  A *x_weight[2], *y_weight[2], *x_slope[2], *y_slope[2];
  A* weight[4];  // y_weight * x_weight: upper left, upper right, lower left, lower right

  Corners(int64_t padded, Scratch& scratch) {
    for (Int<A>** array : {&token, &right, &down, &used}) *array = scratch.take<Int<A>>(padded);
    for (int i = 0; i < 2; ++i) {
      x_weight[i] = scratch.take<A>(padded);
      y_weight[i] = scratch.take<A>(padded);
      x_slope[i] = scratch.take<A>(padded);
      y_slope[i] = scratch.take<A>(padded);
    }
    for (A*& array : weight) array = scratch.take<A>(padded);
  }
  static int64_t arrays() { return 16; }
};

// The pair of tokens around a place along one axis.
template <typename A, int LANES>
struct Axis {
  Vec<Int<A>, LANES> low, both;  // index of the lower one (0 if outside); mask: both are inside
  Vec<A, LANES> weight[2], slope[2];
};

template <typename A, int LANES>
SE_INLINE Axis<A, LANES>
axis_around(Vec<A, LANES> place, Vec<Int<A>, LANES> size, Vec<Int<A>, LANES> inside) {
  typedef Vec<A, LANES> V;
  typedef Vec<Int<A>, LANES> I;
  const V bounded = inside ? place : V{};
  const I low = __builtin_convertvector(bounded, I) + (bounded < A(0));  // a mask is -1
  const V part = bounded - __builtin_convertvector(low, V);
  const I has_low = inside & (low >= 0), has_high = inside & (low + 1 < size);
  const V one = splat<V>(A(1)), zero = V{};
  Axis<A, LANES> axis;
  axis.low = low & has_low;
  axis.both = has_low & has_high;
  axis.weight[0] = has_low ? one - part : zero;
  axis.weight[1] = has_high ? part : zero;
  axis.slope[0] = has_low ? -one : zero;
  axis.slope[1] = has_high ? one : zero;
  return axis;
}

// Fills `corners` (all but `used`, which is the mask of places that touch their map).
template <typename A>
SE_INLINE void locate(const Grid<A>& grid, const A* x, const A* y, const Corners<A>& corners) {
  constexpr int W = kLanes<A>;
  typedef Vec<A, W> V;
  typedef Vec<Int<A>, W> I;
  for (int64_t i = 0; i < grid.padded; i += W) {
    const V px = load<A, W>(x + i), py = load<A, W>(y + i);
    const V width = load<A, W>(grid.width + i), height = load<A, W>(grid.height + i);
    const I inside = (px > A(-1)) & (px < width) & (py > A(-1)) & (py < height);  // no for NaN
    const I columns = load<Int<A>, W>(grid.columns + i);
    const Axis<A, W> h = axis_around<A, W>(px, columns, inside);
    const Axis<A, W> v = axis_around<A, W>(py, load<Int<A>, W>(grid.rows + i), inside);
    const I token = load<Int<A>, W>(grid.start + i) + v.low * columns + h.low;
    store<Int<A>, W>(corners.token + i, token & inside);
    store<Int<A>, W>(corners.right + i, h.both & 1);
    store<Int<A>, W>(corners.down + i, v.both & columns);
    store<Int<A>, W>(corners.used + i, inside);
    for (int side = 0; side < 2; ++side) {
      store<A, W>(corners.x_weight[side] + i, h.weight[side]);
      store<A, W>(corners.y_weight[side] + i, v.weight[side]);
      store<A, W>(corners.x_slope[side] + i, h.slope[side]);
      store<A, W>(corners.y_slope[side] + i, v.slope[side]);
    }
    for (int corner = 0; corner < 4; ++corner)
      store<A, W>(corners.weight[corner] + i, v.weight[corner / 2] * h.weight[corner % 2]);
  }
}

// In place: logits to weights. Padding must hold -infinity. A NaN makes all of them NaN.
template <typename A>
SE_INLINE void softmax(A* row, int64_t padded) {
  constexpr int W = kLanes<A>;
  typedef Vec<A, W> V;
  V highest = load<A, W>(row);
  for (int64_t i = W; i < padded; i += W) highest = larger(highest, load<A, W>(row + i));
  A lanes[W];
  store<A, W>(lanes, highest);
  A top = lanes[0];
  for (int i = 1; i < W; ++i) top = lanes[i] > top ? lanes[i] : top;
  V sum = V{};
  for (int64_t i = 0; i < padded; i += W) {
    const V power = exp_of<W>(load<A, W>(row + i) - top);
    store<A, W>(row + i, power);
    sum += power;
  }
  const A inverse = A(1) / sum_of<W, A>(sum);
  for (int64_t i = 0; i < padded; i += W) store<A, W>(row + i, load<A, W>(row + i) * inverse);
}

// corner weights times a factor per place, and places whose factor is NaN are read too, so that a
// NaN logit reaches the output wherever its places are.
template <typename A>
SE_INLINE void scale_corners(const Corners<A>& corners, const A* factor, A* const scaled[4],
                             int64_t padded) {
  constexpr int W = kLanes<A>;
  for (int64_t i = 0; i < padded; i += W) {
    const Vec<A, W> f = load<A, W>(factor + i);
    for (int c = 0; c < 4; ++c)
      store<A, W>(scaled[c] + i, load<A, W>(corners.weight[c] + i) * f);
    const Vec<Int<A>, W> nan = f != f;
    store<Int<A>, W>(corners.used + i, load<Int<A>, W>(corners.used + i) | nan);
  }
}

// ---- rows of numbers in any of the storage types ----

SE_INLINE float widen(float v) { return v; }
SE_INLINE double widen(double v) { return v; }
SE_INLINE float widen(BFloat16 v) { return bit_cast<float>(static_cast<uint32_t>(v.bits) << 16); }
template <typename A>
SE_INLINE void narrow(float* p, A v) {
  *p = static_cast<float>(v);
}
template <typename A>
SE_INLINE void narrow(double* p, A v) {
  *p = v;
}
template <typename A>
SE_INLINE void narrow(BFloat16* p, A v) {
  put<1>(p, Vec<float, 1>{static_cast<float>(v)});
}

template <typename S, typename A>
SE_INLINE void read(const S* row, int64_t count, int64_t stride, A* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<A>(widen(row[i * stride]));
}

// `count` numbers of `kind` from element `first` on, `stride` apart.
template <typename A>
SE_INLINE void
read_row(Kind kind, const void* data, int64_t first, int64_t stride, int64_t count, A* out) {
  if (kind == Kind::Float32)
    read(static_cast<const float*>(data) + first, count, stride, out);
  else if (kind == Kind::Float64)
    read(static_cast<const double*>(data) + first, count, stride, out);
  else
    read(static_cast<const BFloat16*>(data) + first, count, stride, out);
}

template <typename S, typename A>
SE_INLINE void write(S* row, int64_t count, int64_t stride, const A* in) {
  for (int64_t i = 0; i < count; ++i) narrow(row + i * stride, in[i]);
}

template <typename A>
SE_INLINE void
write_row(Kind kind, void* data, int64_t first, int64_t stride, int64_t count, const A* in) {
  if (kind == Kind::Float32)
    write(static_cast<float*>(data) + first, count, stride, in);
  else if (kind == Kind::Float64)
    write(static_cast<double*>(data) + first, count, stride, in);
  else
    write(static_cast<BFloat16*>(data) + first, count, stride, in);
}
