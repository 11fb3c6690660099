// What the vectorised kernels take and offer: raw pointers, no torch.
#pragma once

#include <cstdint>
#include <new>

namespace sparse_encoders {

struct BFloat16 {
  uint16_t bits;
};

enum class Kind { Float32, Float64, BFloat16 };

// Level shapes and sizes shared by both operators. Work is cut into items: one head of one image
// and a run of queries each, numbered ((image * heads) + head) * runs + run.
struct Geometry {
  int64_t batch, tokens, queries, heads, levels, points, depth;
  const int64_t* shapes;  // h0, w0, h1, w1, ...
  int64_t runs;           // runs of queries per head
  int64_t items() const { return batch * heads * runs; }
};

// A (B, N, M, D) tensor whose last dimension is contiguous; strides in elements. A head's last
// number lies within 2^31 elements of its first. Key and value have one token stride; in the
// backward it is D, as in the gradients.
struct Tokens {
  const void* data;
  int64_t image_stride, token_stride, head_stride;
};

// Gradients of tokens: a block of (N, D) reals of the accumulation type (float64 for Float64, else
// float32) for each item, `stride` reals apart. An item clears and fills its own block; with a
// stride of 0 the caller hands out one item at a time and takes the block away after it.
struct Blocks {
  void* data;
  int64_t stride;
};

struct DeformableProblem {
  Geometry geometry;
  Kind value_kind, reference_kind, offsets_kind, logits_kind;
  Tokens value;
  int64_t reference_size;  // 2 or 4
  const void* reference;   // (B, Q, L, 2 or 4)
  const void* offsets;     // (B, Q, M, L, P, 2)
  const void* logits;      // (B, Q, M, L, P)
  void* output;            // (B, Q, M, D), forward
  const void* grad_output;  // (B, Q, M, D), backward, as are all below
  Blocks grad_value;
  void* grad_reference;    // (B, M, Q, L, 2 or 4) in the accumulation type
  void* grad_offsets;      // as offsets, offsets_kind
  void* grad_logits;       // as logits, logits_kind
};

struct KeyAwareProblem {
  Geometry geometry;
  Kind value_kind, locations_kind;  // query and key are of value_kind
  Tokens key, value;
  const void* query;             // (B, Q, M, D)
  const void* locations;         // (B, Q, M, L, P, 2)
  int64_t location_strides[6];   // in elements, any
  void* output;                  // (B, Q, M, D), forward
  const void* grad_output;       // (B, Q, M, D), backward, as are all below
  void* grad_query;              // (B, Q, M, D), value_kind
  Blocks grad_key, grad_value;
  void* grad_locations;          // (B, Q, M, L, P, 2) contiguous, locations_kind
};

// A kernel found no memory for its working arrays. Python gets it as MemoryError or RuntimeError.
class NoMemory : public std::bad_alloc {
 public:
  explicit NoMemory(int64_t bytes) noexcept;
  const char* what() const noexcept override { return text_; }

 private:
  char text_[96];
};

// Throws NoMemory. Not inline: what throws is compiled once and for any machine.
[[noreturn]] void refuse_memory(int64_t bytes);

// The kernels of one capability. Each call does one item and may throw NoMemory, on any thread:
// at::parallel_for carries an exception from its threads to the caller.
struct Kernels {
  const char* name;
  void (*deformable_forward)(const DeformableProblem&, int64_t item);
  void (*deformable_backward)(const DeformableProblem&, int64_t item);
  void (*key_aware_forward)(const KeyAwareProblem&, int64_t item);
  void (*key_aware_backward)(const KeyAwareProblem&, int64_t item);
};

extern const Kernels kernels_default;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

// The widest that this machine runs, or what SPARSE_ENCODERS_CPU_CAPABILITY asks for
// ('default', 'avx2' or 'avx512'). Read once. On a value that is unknown or that the machine does
// not run, `error` (if given) is set to why and the widest is returned.
const Kernels& best_kernels(const char** error = nullptr);

}  // namespace sparse_encoders
