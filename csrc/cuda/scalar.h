// Element types, and reading, writing and adding several elements at once.
//
// Half types are held as bare bits: arithmetic is in float32 only, so all that is ever needed is
// the conversion, and the same code compiles where CUDA's own types do not exist.
#pragma once

#include "launch.h"
#include "platform.h"

namespace sparse_encoders::cuda {

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

SE_DEVICE float to_float(float x) { return x; }
SE_DEVICE float to_float(Float16 x) { return __half2float(__ushort_as_half(x.bits)); }
SE_DEVICE float to_float(BFloat16 x) {
  return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}

template <typename T>
SE_DEVICE T from_float(float x);
template <>
SE_DEVICE float from_float<float>(float x) {
  return x;
}
template <>
SE_DEVICE Float16 from_float<Float16>(float x) {
  return {__half_as_ushort(__float2half_rn(x))};
}
template <>
SE_DEVICE BFloat16 from_float<BFloat16>(float x) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}

// One element of a tensor whose dtype all threads look up alike.
SE_DEVICE float read(const AnyInput& from, int64_t at) {
  switch (from.dtype) {
    case Dtype::kFloat16:
      return to_float(static_cast<const Float16*>(from.data)[at]);
    case Dtype::kBFloat16:
      return to_float(static_cast<const BFloat16*>(from.data)[at]);
    default:
      return static_cast<const float*>(from.data)[at];
  }
}

SE_DEVICE void write(const AnyOutput& to, int64_t at, float x) {
  switch (to.dtype) {
    case Dtype::kFloat16:
      static_cast<Float16*>(to.data)[at] = from_float<Float16>(x);
      break;
    case Dtype::kBFloat16:
      static_cast<BFloat16*>(to.data)[at] = from_float<BFloat16>(x);
      break;
    default:
      static_cast<float*>(to.data)[at] = x;
  }
}

// `Width` elements as one register group: 16 bytes, or a single element where a head's channels or
// the tensor's address do not allow 16 bytes at a time. All-zero bits are zeros in every type.
template <typename T, int Width>
struct Packed {
  static_assert(Width * sizeof(T) == 16, "a packed read is 16 bytes, or one element");
  uint4 bits = {0, 0, 0, 0};

  SE_DEVICE void load(const T* from) { bits = __ldg(reinterpret_cast<const uint4*>(from)); }
  // Results are not read again here: they need not push sampled tokens out of the caches.
  SE_DEVICE void store(T* to) const { __stcs(reinterpret_cast<uint4*>(to), bits); }

  SE_DEVICE void unpack(float (&x)[Width]) const {
    const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (sizeof(T) == 4) {
        x[i] = __uint_as_float(words[i]);
      } else {
        x[2 * i] = to_float(T{static_cast<uint16_t>(words[i] & 0xffffu)});
        x[2 * i + 1] = to_float(T{static_cast<uint16_t>(words[i] >> 16)});
      }
    }
  }

  SE_DEVICE void pack(const float (&x)[Width]) {
    unsigned words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (sizeof(T) == 4) {
        words[i] = __float_as_uint(x[i]);
      } else {
        words[i] = static_cast<unsigned>(from_float<T>(x[2 * i]).bits) |
                   static_cast<unsigned>(from_float<T>(x[2 * i + 1]).bits) << 16;
      }
    }
    bits = {words[0], words[1], words[2], words[3]};
  }
};

template <typename T>
struct Packed<T, 1> {
  T element = {};

  SE_DEVICE void load(const T* from) { element = *from; }
  SE_DEVICE void store(T* to) const { *to = element; }
  SE_DEVICE void unpack(float (&x)[1]) const { x[0] = to_float(element); }
  SE_DEVICE void pack(const float (&x)[1]) { element = from_float<T>(x[0]); }
};

// Adds to float32 sums that other threads add to as well: four at a time where the GPU can.
template <int Width>
SE_DEVICE void atomic_add(float* to, const float (&x)[Width]) {
  if constexpr (kVectorAtomics && Width % 4 == 0) {
#pragma unroll
    for (int i = 0; i < Width; i += 4) {
      add_four(to + i, x[i], x[i + 1], x[i + 2], x[i + 3]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < Width; ++i) {
      atomicAdd(to + i, x[i]);
    }
  }
}

}  // namespace sparse_encoders::cuda
