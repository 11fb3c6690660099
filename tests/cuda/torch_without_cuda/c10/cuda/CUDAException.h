// Stand-in of the host tests: glue.cpp beside a torch without CUDA.
#pragma once
#include <c10/util/Exception.h>
#define C10_CUDA_CHECK(call) TORCH_CHECK((call) == cudaSuccess, "the launcher refused")
