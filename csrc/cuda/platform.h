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

#elif defined(SPARSE_ENCODERS_HOST_EMULATION)

#include "host_emulation.h"

#define SE_DEVICE inline
#define SE_SHARED_MEMORY(name) uint4* name = emulation::shared_memory()
#define SE_LAUNCH(kernel, blocks, threads, bytes, stream, ...) \
  emulation::launch(blocks, threads, bytes, stream, [&] { kernel(__VA_ARGS__); })

#else
#error "kernels compile with nvcc, or on the host with SPARSE_ENCODERS_HOST_EMULATION defined"
#endif

namespace sparse_encoders::cuda {
constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kWarp = 32;

// From Hopper on, one instruction adds four neighbouring floats.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool kVectorAtomics = false;
#else
constexpr bool kVectorAtomics = true;
#endif
}  // namespace sparse_encoders::cuda
