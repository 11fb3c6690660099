// Kernels for any CPU: 16-byte vectors (SSE2, NEON, or whatever the compiler makes of them).
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <utility>

#include "kernels.h"

#define SE_CAPABILITY baseline
#define SE_NAME "default"
#define SE_KERNELS kernels_default
#define SE_VECTOR_BYTES 16
#include "kernels.inc"
