// What differs between nvcc and the host compiler that runs the kernels in tests.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define SE_DEVICE __device__ __forceinline__
// Dynamic shared memory, in 16-byte units; every thread of the block sees the same bytes.
#define SE_SHARED_MEMORY(name) extern __shared__ uint4 name[]
#define SE_LAUNCH(kernel, blocks, threads, bytes, stream, ...) \
  kernel<<<blocks, threads, bytes, stream>>>(__VA_ARGS__)

#else  // the host compiler; tests/cuda/emulation has this file
#include "host_platform.h"
#endif

namespace sparse_encoders::cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kWarp = 32;

// From Hopper on, one instruction adds four neighbouring floats, at an address divisible by 16.
// Written as PTX: atomicAdd(float4*) becomes `atom`, which brings the old values back; `red` does
// not.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool kVectorAtomics = true;
SE_DEVICE void add_four(float* to, float x, float y, float z, float w) {
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "f"(x), "f"(y), "f"(z), "f"(w)
               : "memory");
}
#elif defined(__CUDACC__)
constexpr bool kVectorAtomics = false;
SE_DEVICE void add_four(float*, float, float, float, float) {}
#endif
}  // namespace sparse_encoders::cuda
