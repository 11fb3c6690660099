// Which kernels this machine runs, and what they do without memory.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace sparse_encoders {
namespace {

struct Candidate {
  const char* name;
  const Kernels* kernels;
  bool runs;
};

struct Choice {
  const Kernels* kernels;
  const char* error;
};

Choice choose() {
  Candidate candidates[] = {
#if defined(__x86_64__)
      {"avx512", &kernels_avx512,
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")},
      {"avx2", &kernels_avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
#else
      {"avx512", nullptr, false},
      {"avx2", nullptr, false},
#endif
      {"default", &kernels_default, true},
  };
  const Kernels* best = nullptr;
  for (const Candidate& candidate : candidates)
    if (best == nullptr && candidate.runs) best = candidate.kernels;
  const char* asked = std::getenv("SPARSE_ENCODERS_CPU_CAPABILITY");
  if (asked == nullptr || asked[0] == '\0') return {best, nullptr};
  for (const Candidate& candidate : candidates) {
    if (std::strcmp(asked, candidate.name) != 0) continue;
    if (candidate.runs) return {candidate.kernels, nullptr};
    return {best, "this machine does not run the vectors that it asks for"};
  }
  return {best, "it must be default, avx2 or avx512"};
}

}  // namespace

NoMemory::NoMemory(int64_t bytes) noexcept {
  std::snprintf(text_, sizeof(text_), "sparse_encoders: not enough memory for %lld bytes",
                static_cast<long long>(bytes));
}

void refuse_memory(int64_t bytes) { throw NoMemory(bytes); }

const Kernels& best_kernels(const char** error) {
  static const Choice choice = choose();
  if (error != nullptr) *error = choice.error;
  return *choice.kernels;
}

}  // namespace sparse_encoders
