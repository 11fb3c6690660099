// Runs the kernels on the CPU, for tests on machines without a GPU.
//
// A warp is 32 fibers (ucontext) on one thread. A fiber runs until it meets a warp-wide operation
// (shuffle, __syncwarp), where it waits until all 32 lanes have met the same one; anything else is
// a fault in the kernel and ends the program with a message. So the same source is executed as on
// a GPU, with real thread numbers, shared memory and exchanges between lanes; what is not shown is
// the memory model and speed. Lanes run in ascending or descending order (`descending_lanes`): a
// missing __syncwarp shows as a difference between the two.
//
// Only what the kernels use is here. It needs no CUDA header.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __launch_bounds__(...)

// The few names of CUDA's runtime that launch.h and the launchers need.
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
using cudaStream_t = void*;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};
inline Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr int kLanes = 32;
constexpr size_t kStackBytes = 256 * 1024;

struct Lane {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStackBytes);
  const char* waits_for = nullptr;  // the warp-wide operation it has met
  bool done = false;
  int operations = 0;
};

struct State {
  Lane lanes[kLanes];
  ucontext_t scheduler;
  int lane = 0;           // running now
  float exchanged[2][kLanes];  // two rounds, so that a fast lane cannot overwrite a slow one's
  std::vector<uint4> shared;
  const std::function<void()>* kernel = nullptr;
};

inline State state;
inline bool descending_lanes = false;
inline long long launches = 0;

inline uint4* shared_memory() { return state.shared.data(); }

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "host emulation: %s (block %u, threads from %u)\n", what, blockIdx.x,
               threadIdx.x - static_cast<unsigned>(state.lane));
  std::abort();
}

inline void require(bool condition, const char* what) {
  if (!condition) {
    fail(what);
  }
}

// Gives the processor away until all lanes have met `operation`.
inline void meet(const char* operation) {
  Lane& lane = state.lanes[state.lane];
  lane.waits_for = operation;
  ++lane.operations;
  swapcontext(&lane.context, &state.scheduler);
}

inline void lane_entry() {
  (*state.kernel)();
  state.lanes[state.lane].done = true;
  swapcontext(&state.lanes[state.lane].context, &state.scheduler);
}

inline void start_lanes() {
  for (Lane& lane : state.lanes) {
    lane.waits_for = nullptr;
    lane.done = false;
    lane.operations = 0;
    getcontext(&lane.context);
    lane.context.uc_stack.ss_sp = lane.stack.data();
    lane.context.uc_stack.ss_size = lane.stack.size();
    lane.context.uc_link = nullptr;
    makecontext(&lane.context, lane_entry, 0);
  }
}

// Runs one warp to its end: all lanes to the next warp-wide operation, again and again.
inline void run_warp(unsigned first_thread) {
  start_lanes();
  bool running = true;
  while (running) {
    for (int i = 0; i < kLanes; ++i) {
      state.lane = descending_lanes ? kLanes - 1 - i : i;
      threadIdx.x = first_thread + static_cast<unsigned>(state.lane);
      state.lanes[state.lane].waits_for = nullptr;
      swapcontext(&state.scheduler, &state.lanes[state.lane].context);
    }
    for (const Lane& lane : state.lanes) {
      if (lane.done != state.lanes[0].done) {
        fail("some lanes ended while others wait for them");
      }
      if (!lane.done && std::strcmp(lane.waits_for, state.lanes[0].waits_for) != 0) {
        fail("lanes wait for different operations");
      }
    }
    running = !state.lanes[0].done;
  }
}

// Blocks and warps one after the other: nothing here synchronises beyond a warp.
inline void launch(unsigned blocks, unsigned threads, size_t shared_bytes, cudaStream_t,
                   const std::function<void()>& kernel) {
  if (blocks == 0 || threads == 0 || threads % kLanes != 0 || threads > 1024) {
    fail("launch geometry");
  }
  ++launches;
  state.kernel = &kernel;
  gridDim.x = blocks;
  blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    // Fresh for every block, exactly as large as asked for, and full of NaN: an address sanitizer
    // sees a step past the end, and a read before a write spoils the result.
    state.shared = std::vector<uint4>();
    state.shared.assign(shared_bytes / 16, uint4{~0u, ~0u, ~0u, ~0u});
    for (unsigned first = 0; first < threads; first += kLanes) {
      run_warp(first);
    }
  }
}

}  // namespace emulation

inline void __syncwarp() { emulation::meet("__syncwarp"); }

inline float __shfl_xor_sync(unsigned mask, float x, int lane_mask) {
  static const char* const kNames[] = {"shuffle by 1", "shuffle by 2",  "shuffle by 4",
                                       "shuffle by 8", "shuffle by 16", "other shuffle"};
  if (mask != 0xffffffffu) {
    emulation::fail("only whole-warp shuffles are emulated");
  }
  int name = 0;
  while (name < 5 && (1 << name) != lane_mask) {
    ++name;
  }
  auto& state = emulation::state;
  const int round = state.lanes[state.lane].operations & 1;
  state.exchanged[round][state.lane] = x;
  emulation::meet(kNames[name]);
  return state.exchanged[round][state.lane ^ lane_mask];
}

inline float atomicAdd(float* to, float x) {
  const float before = *to;
  *to = before + x;
  return before;
}

template <typename T>
inline T __ldg(const T* from) {
  return *from;
}

template <typename T>
inline void __stcs(T* to, T x) {
  *to = x;
}

inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

// Half types are bare bits here as well; conversions round to nearest, ties to even.
struct HostHalf {
  uint16_t bits;
};
inline HostHalf __ushort_as_half(uint16_t bits) { return {bits}; }
inline uint16_t __half_as_ushort(HostHalf x) { return x.bits; }

inline float __half2float(HostHalf x) {
  const int exponent = (x.bits >> 10) & 31, fraction = x.bits & 1023;
  float size = exponent == 31  ? (fraction ? NAN : INFINITY)
               : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                               : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return x.bits >> 15 ? -size : size;
}

inline HostHalf __float2half_rn(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float size = std::fabs(x);
  uint16_t bits;
  if (std::isnan(size)) {
    bits = 0x7e00;
  } else if (size >= 65520.f) {  // half way from the largest half to the next power of two
    bits = 0x7c00;
  } else {
    int exponent = 0;
    std::frexp(size, &exponent);  // size = f * 2^exponent, f in [0.5, 1)
    const int unit = size < 0x1p-14f ? -24 : exponent - 11;
    const int steps = static_cast<int>(std::nearbyint(std::ldexp(size, -unit)));
    // `steps` units; a carry into the next power of two comes out right by the addition.
    bits = static_cast<uint16_t>(((unit + 24) << 10) + steps);
  }
  return {static_cast<uint16_t>(sign | bits)};
}

struct HostBFloat16 {
  uint16_t bits;
};
inline uint16_t __bfloat16_as_ushort(HostBFloat16 x) { return x.bits; }
inline HostBFloat16 __float2bfloat16_rn(float x) {
  const unsigned bits = __float_as_uint(x);
  if (std::isnan(x)) {
    return {0x7fff};
  }
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
}
