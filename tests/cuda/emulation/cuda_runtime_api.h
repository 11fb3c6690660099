// Stands for CUDA's header where the kernels run on the CPU: the names that launch.h needs.
#pragma once
#include "host_emulation.h"
