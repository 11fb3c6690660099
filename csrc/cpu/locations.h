// Sampling locations, their corners and the softmax, a vector of locations at a time. The
// arithmetic is that of csrc/common/bilinear.h.
//
// Included only by kernels.inc, inside the namespace of one capability.

// Arrays carved out of one allocation, each aligned to 64 bytes. Throws NoMemory.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) {
    memory_ = static_cast<char*>(aligned_alloc(64, static_cast<size_t>((bytes + 127) / 64 * 64)));
    if (memory_ == nullptr) refuse_memory(bytes);
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

// Sampling locations of a query and head (L * P), rounded up to whole vectors.
template <typename A>
SE_INLINE int64_t padded_locations(const Geometry& g) {
  return (g.levels * g.points + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
}

// For each sampling location of a query and head: size and start of its level. The locations that
// fill up the last vector have an empty level. Token indices are multiplied by the token stride, so
// that they index the numbers of a row.
template <typename A>
struct Grid {
  int64_t count, padded;
  A *width, *height;
  Int<A> *level, *columns, *rows, *start, *line;  // line: numbers from one row of tokens to the next
  Int<A> stride;

  Grid(const Geometry& g, int64_t token_stride, Scratch& scratch)
      : count(g.levels * g.points),
        padded(padded_locations<A>(g)),
        stride(static_cast<Int<A>>(token_stride)) {
    for (A** array : {&width, &height}) *array = scratch.take<A>(padded);
    for (Int<A>** array : {&level, &columns, &rows, &start, &line})
      *array = scratch.take<Int<A>>(padded);
    int64_t first = 0, location = 0;
    for (int64_t l = 0; l < g.levels; ++l) {
      const int64_t h = g.shapes[2 * l], w = g.shapes[2 * l + 1];
      for (int64_t point = 0; point < g.points; ++point, ++location) set(location, l, h, w, first);
      first += h * w;
    }
    for (; location < padded; ++location) {  // x > -1 and x < -1 holds nowhere
      set(location, g.levels - 1, 0, 0, 0);
      width[location] = height[location] = A(-1);
    }
  }
  static int64_t arrays() { return 7; }

 private:
  void set(int64_t location, int64_t l, int64_t h, int64_t w, int64_t first) {
    width[location] = static_cast<A>(w);
    height[location] = static_cast<A>(h);
    level[location] = static_cast<Int<A>>(l);
    columns[location] = static_cast<Int<A>>(w);
    rows[location] = static_cast<Int<A>>(h);
    start[location] = static_cast<Int<A>>(first) * stride;
    line[location] = static_cast<Int<A>>(w) * stride;
  }
};

// For each sampling location: index of the first number of the four tokens around it (upper left,
// upper right, lower left, lower right; a token outside of the map is replaced by its neighbour,
// with weight 0), whether they are read at all, and the bilinear weights.
template <typename A>
struct Corners {
  Int<A>* row[4];
  Int<A>* used;
  A *x_weight[2], *y_weight[2], *x_slope[2], *y_slope[2];
  A* weight[4];  // y_weight * x_weight

  Corners(int64_t padded, Scratch& scratch) {
    for (Int<A>*& array : row) array = scratch.take<Int<A>>(padded);
    used = scratch.take<Int<A>>(padded);
    for (int i = 0; i < 2; ++i) {
      x_weight[i] = scratch.take<A>(padded);
      y_weight[i] = scratch.take<A>(padded);
      x_slope[i] = scratch.take<A>(padded);
      y_slope[i] = scratch.take<A>(padded);
    }
    for (A*& array : weight) array = scratch.take<A>(padded);
  }
  static int64_t arrays() { return 17; }
};

// The pair of tokens around a location along one axis.
template <typename A, int LANES>
struct Axis {
  Vec<Int<A>, LANES> low, both;  // index of the lower one (0 if outside); mask: both are inside
  Vec<A, LANES> weight[2], slope[2];
};

template <typename A, int LANES>
SE_INLINE Axis<A, LANES>
axis_around(Vec<A, LANES> location, Vec<Int<A>, LANES> size, Vec<Int<A>, LANES> inside) {
  typedef Vec<A, LANES> V;
  typedef Vec<Int<A>, LANES> I;
  const V bounded = inside ? location : V{};
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

// Fills `corners` for one vector of locations, i to i + W - 1; `used` is the mask of those that
// touch their map. Weights and slopes by axis are for the backward only.
template <bool GRADIENTS, typename A>
SE_INLINE void locate(const Grid<A>& grid, int64_t i, Vec<A, kLanes<A>> x, Vec<A, kLanes<A>> y,
                      const Corners<A>& corners) {
  constexpr int W = kLanes<A>;
  typedef Vec<Int<A>, W> I;
  const Vec<A, W> width = load<A, W>(grid.width + i), height = load<A, W>(grid.height + i);
  const I inside = (x > A(-1)) & (x < width) & (y > A(-1)) & (y < height);  // no for NaN
  const Axis<A, W> h = axis_around<A, W>(x, load<Int<A>, W>(grid.columns + i), inside);
  const Axis<A, W> v = axis_around<A, W>(y, load<Int<A>, W>(grid.rows + i), inside);
  const I line = load<Int<A>, W>(grid.line + i);
  const I first =
      (load<Int<A>, W>(grid.start + i) + v.low * line + h.low * grid.stride) & inside;
  const I right = h.both & grid.stride, down = v.both & line;
  store<Int<A>, W>(corners.row[0] + i, first);
  store<Int<A>, W>(corners.row[1] + i, first + right);
  store<Int<A>, W>(corners.row[2] + i, first + down);
  store<Int<A>, W>(corners.row[3] + i, first + down + right);
  store<Int<A>, W>(corners.used + i, inside);
  for (int side = 0; GRADIENTS && side < 2; ++side) {
    store<A, W>(corners.x_weight[side] + i, h.weight[side]);
    store<A, W>(corners.y_weight[side] + i, v.weight[side]);
    store<A, W>(corners.x_slope[side] + i, h.slope[side]);
    store<A, W>(corners.y_slope[side] + i, v.slope[side]);
  }
  for (int corner = 0; corner < 4; ++corner)
    store<A, W>(corners.weight[corner] + i, v.weight[corner / 2] * h.weight[corner % 2]);
}

// Logits to weights; the two may be one array. Padding must hold -infinity. A NaN makes all of
// them NaN.
template <typename A>
SE_INLINE void softmax(const A* logits, A* weights, int64_t padded) {
  constexpr int W = kLanes<A>;
  typedef Vec<A, W> V;
  V highest = load<A, W>(logits);
  for (int64_t i = W; i < padded; i += W) highest = larger(highest, load<A, W>(logits + i));
  const A top = largest_of<W, A>(highest);
  V sum = V{};
  for (int64_t i = 0; i < padded; i += W) {
    const V power = exp_of<W>(load<A, W>(logits + i) - top);
    store<A, W>(weights + i, power);
    sum += power;
  }
  const A inverse = A(1) / sum_of<W, A>(sum);
  for (int64_t i = 0; i < padded; i += W)
    store<A, W>(weights + i, load<A, W>(weights + i) * inverse);
}

// Corner weights times a factor for each location. Locations whose factor is NaN are read even
// outside of the map (token 0 then), so that a NaN logit always reaches the output.
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
  store_rounded<1>(p, Vec<float, 1>{static_cast<float>(v)});
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

template <typename A>
SE_INLINE bool is_stored_as(Kind kind) {
  return kind == (sizeof(A) == sizeof(double) ? Kind::Float64 : Kind::Float32);
}

SE_INLINE int64_t bytes_of(Kind kind) {
  return kind == Kind::Float64 ? 8 : kind == Kind::Float32 ? 4 : 2;
}

// `count` numbers of `kind` from element `first` on, followed by `fill` up to `padded`: a pointer
// into the tensor if it already has that form, otherwise a copy in `buffer`.
template <typename A>
SE_INLINE const A* view_row(Kind kind, const void* data, int64_t first, int64_t count,
                            int64_t padded, A fill, A* buffer) {
  if (count == padded && is_stored_as<A>(kind)) return static_cast<const A*>(data) + first;
  read_row(kind, data, first, 1, count, buffer);
  for (int64_t i = count; i < padded; ++i) buffer[i] = fill;
  return buffer;
}

// Rows of the next queries lie far apart: fetch them before they are needed.
SE_INLINE void fetch(const void* data, int64_t first, int64_t count, Kind kind) {
  const char* begin = static_cast<const char*>(data) + first * bytes_of(kind);
  for (int64_t at = 0; at < count * bytes_of(kind); at += 64) __builtin_prefetch(begin + at, 0, 3);
}
SE_INLINE void fetch_to_write(void* data, int64_t first, int64_t count, Kind kind) {
  char* begin = static_cast<char*>(data) + first * bytes_of(kind);
  for (int64_t at = 0; at < count * bytes_of(kind); at += 64) __builtin_prefetch(begin + at, 1, 3);
}
