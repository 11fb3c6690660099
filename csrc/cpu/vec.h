// Vectors of a width fixed per translation unit, from the compilers' vector extensions.
//
// Included only by kernels.inc, inside the namespace of one capability, after SE_VECTOR_BYTES is
// set. Everything is inlined, so no function compiled for wide vectors can be picked by the linker
// for a machine without them.

#define SE_INLINE inline __attribute__((always_inline))

template <typename A, int LANES>
struct VectorOf {
  typedef A type __attribute__((vector_size(sizeof(A) * LANES)));
};
template <typename A, int LANES>
using Vec = typename VectorOf<A, LANES>::type;

// Lanes of the widest vector, and the integer as wide as a real.
template <typename A>
constexpr int kLanes = SE_VECTOR_BYTES / static_cast<int>(sizeof(A));
template <typename A>
struct IntOf;
template <>
struct IntOf<float> {
  typedef int32_t type;
};
template <>
struct IntOf<double> {
  typedef int64_t type;
};
template <typename A>
using Int = typename IntOf<A>::type;

template <typename To, typename From>
SE_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

template <typename V, typename A>
SE_INLINE V splat(A value) {
  return value - V{};
}

// Unaligned load of LANES numbers stored as T, as reals A.
template <typename A, int LANES, typename T>
struct Load;
template <typename A, int LANES>
struct Load<A, LANES, A> {
  static SE_INLINE Vec<A, LANES> from(const A* p) {
    Vec<A, LANES> v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
  }
};
template <int LANES>
struct Load<float, LANES, BFloat16> {
  static SE_INLINE Vec<float, LANES> from(const BFloat16* p) {
    Vec<uint16_t, LANES> half;
    __builtin_memcpy(&half, p, sizeof(half));
    return bit_cast<Vec<float, LANES>>(__builtin_convertvector(half, Vec<uint32_t, LANES>) << 16);
  }
};

template <typename A, int LANES, typename T>
SE_INLINE Vec<A, LANES> load(const T* p) {
  return Load<A, LANES, T>::from(p);
}

template <typename A, int LANES>
SE_INLINE void store(A* p, Vec<A, LANES> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

// Store as a tensor's own dtype. BFloat16: to nearest, ties to even; a NaN stays one.
template <int LANES>
SE_INLINE void store_rounded(float* p, Vec<float, LANES> v) {
  store<float, LANES>(p, v);
}
template <int LANES>
SE_INLINE void store_rounded(double* p, Vec<double, LANES> v) {
  store<double, LANES>(p, v);
}
template <int LANES>
SE_INLINE void store_rounded(BFloat16* p, Vec<float, LANES> v) {
  typedef Vec<uint32_t, LANES> U;
  const U bits = bit_cast<U>(v);
  const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const U kept = v == v ? rounded : splat<U>(uint32_t(0x7fc0));
  const Vec<uint16_t, LANES> half = __builtin_convertvector(kept, Vec<uint16_t, LANES>);
  __builtin_memcpy(p, &half, sizeof(half));
}

template <typename V>
SE_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}

template <int LANES, typename A>
SE_INLINE A sum_of(Vec<A, LANES> v) {
  A lanes[LANES];
  store<A, LANES>(lanes, v);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

template <int LANES, typename A>
SE_INLINE A largest_of(Vec<A, LANES> v) {
  A lanes[LANES];
  store<A, LANES>(lanes, v);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i)
      lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
  return lanes[0];
}

// Lanes of two vectors taken by constant indices, numbered on from a to b.
template <typename A, int LANES, int... J>
SE_INLINE Vec<A, LANES> pick(Vec<A, LANES> a, Vec<A, LANES> b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, J...);
#else
  return __builtin_shuffle(a, b, Vec<Int<A>, LANES>{J...});
#endif
}

// One step of the sum over rows: a and b hold segments of LENGTH lanes each; the result holds the
// segments of a, then of b, folded to half the length.
template <int LENGTH>
constexpr int folded(int lane) {
  return lane / (LENGTH / 2) * LENGTH + lane % (LENGTH / 2);
}
template <int LENGTH, typename A, int LANES, int... J>
SE_INLINE Vec<A, LANES>
fold(Vec<A, LANES> a, Vec<A, LANES> b, std::integer_sequence<int, J...>) {
  return pick<A, LANES, folded<LENGTH>(J)...>(a, b) +
         pick<A, LANES, (folded<LENGTH>(J) + LENGTH / 2)...>(a, b);
}

// x0 y0 x1 y1 ... in two vectors to x0 x1 ... and y0 y1 ..., and back.
template <typename A, int LANES, int... J>
SE_INLINE void split_pairs(const A* pairs, Vec<A, LANES>& x, Vec<A, LANES>& y,
                           std::integer_sequence<int, J...>) {
  const Vec<A, LANES> a = load<A, LANES>(pairs), b = load<A, LANES>(pairs + LANES);
  x = pick<A, LANES, (2 * J)...>(a, b);
  y = pick<A, LANES, (2 * J + 1)...>(a, b);
}
template <typename A, int LANES, int... J>
SE_INLINE void join_pairs(A* pairs, Vec<A, LANES> x, Vec<A, LANES> y,
                          std::integer_sequence<int, J...>) {
  store<A, LANES>(pairs, pick<A, LANES, (J / 2 + J % 2 * LANES)...>(x, y));
  store<A, LANES>(pairs + LANES,
                  pick<A, LANES, (LANES / 2 + J / 2 + J % 2 * LANES)...>(x, y));
}

// Lane i of the result is the sum of row first + i; rows are LANES long.
template <typename A, int LANES, int COUNT>
struct RowSums {
  static SE_INLINE Vec<A, LANES> of(const A* rows) {
    typedef RowSums<A, LANES, COUNT / 2> Half;
    return fold<2 * LANES / COUNT, A, LANES>(Half::of(rows), Half::of(rows + COUNT / 2 * LANES),
                                             std::make_integer_sequence<int, LANES>());
  }
};
template <typename A, int LANES>
struct RowSums<A, LANES, 1> {
  static SE_INLINE Vec<A, LANES> of(const A* rows) { return load<A, LANES>(rows); }
};

// exp(x) for x <= 0 to about 1 ulp (Cody and Waite's reduction, a Taylor polynomial on
// [-ln2 / 2, ln2 / 2]); 0 below float's range; NaN stays.
template <int LANES>
SE_INLINE Vec<float, LANES> exp_of(Vec<float, LANES> x) {
  typedef Vec<float, LANES> V;
  typedef Vec<int32_t, LANES> I;
  const V bounded = x < -87.0f ? splat<V>(-87.0f) : x;
  const V shifted = bounded * 1.44269504088896341f - 0.5f;  // negative: truncation rounds
  const I power = __builtin_convertvector(shifted, I);
  const V whole = __builtin_convertvector(power, V);
  const V r = (bounded - whole * 0.693359375f) + whole * 2.12194440e-4f;
  V sum = r * (1.0f / 5040) + 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = (sum * r) * r + r + 1.0f;
  const V scale = bit_cast<V>((power + 127) << 23);
  return x < -87.0f ? V{} : sum * scale;
}

template <int LANES>
SE_INLINE Vec<double, LANES> exp_of(Vec<double, LANES> x) {
  double lanes[LANES];
  store<double, LANES>(lanes, x);
  for (int i = 0; i < LANES; ++i) lanes[i] = exp(lanes[i]);
  return load<double, LANES>(lanes);
}
