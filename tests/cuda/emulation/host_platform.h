// What csrc/cuda/platform.h takes from nvcc, for the host compiler: see host_emulation.h.
#pragma once

#include "host_emulation.h"

#define SE_DEVICE inline
#define SE_SHARED_MEMORY(name) uint4* name = emulation::shared_memory()
#define SE_LAUNCH(kernel, blocks, threads, bytes, stream, ...) \
  emulation::launch(blocks, threads, bytes, stream, [&] { kernel(__VA_ARGS__); })

namespace sparse_encoders::cuda {

constexpr bool kVectorAtomics = true;
inline void add_four(float* to, float x, float y, float z, float w) {
  emulation::require(reinterpret_cast<uintptr_t>(to) % 16 == 0, "vector atomics off 16 bytes");
  to[0] += x, to[1] += y, to[2] += z, to[3] += w;
}

}  // namespace sparse_encoders::cuda
