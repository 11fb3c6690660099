// csrc/cuda/glue.cpp and the kernels as a torch extension for the CPU, over the host emulation and
// the stand-ins in torch_without_cuda/. The operators get a library of their own.
#define SPARSE_ENCODERS_LIBRARY sparse_encoders_on_host
#define SPARSE_ENCODERS_KEY CPU

#include "glue.cpp"

#include "deformable_attention.cu"
#include "key_aware_attention.cu"
#include "launch.cpp"
