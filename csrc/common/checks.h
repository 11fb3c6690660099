// Checks of the operators' arguments, the same for every device. Python raises ValueError or
// TypeError with these texts.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <limits>

namespace sparse_encoders {

inline void check_tensor(const char* name, const at::Tensor& tensor, const char* layout,
                         at::IntArrayRef wanted, const at::Tensor& value) {
  TORCH_CHECK_TYPE(at::isFloatingType(tensor.scalar_type()), name,
                   " must be a floating-point tensor ", layout, ", got ", tensor.scalar_type());
  TORCH_CHECK_VALUE(tensor.sizes() == wanted, name, " must be ", layout, " = ", wanted, ", got ",
                    tensor.sizes());
  TORCH_CHECK_VALUE(tensor.device() == value.device(), name, " must be on value's device ",
                    value.device(), ", got ", tensor.device());
}

inline void check_value_and_shapes(const at::Tensor& value, at::IntArrayRef shapes) {
  TORCH_CHECK_VALUE(value.dim() == 4, "value must be (B, N, M, D), got ", value.sizes());
  TORCH_CHECK_TYPE(at::isFloatingType(value.scalar_type()),
                   "value must be a floating-point tensor (B, N, M, D), got ",
                   value.scalar_type());
  TORCH_CHECK_VALUE(value.size(2) > 0 && value.size(3) > 0,
                    "value must have at least one head and one channel, got ", value.sizes());
  TORCH_CHECK_VALUE(!shapes.empty() && shapes.size() % 2 == 0,
                    "shapes must be h0, w0, h1, w1, ... of at least one level, got ", shapes);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  int64_t tokens = 0;
  for (size_t i = 0; i < shapes.size(); i += 2) {
    const int64_t height = shapes[i], width = shapes[i + 1];
    TORCH_CHECK_VALUE(height > 0 && width > 0,
                      "every level in shapes must be at least 1 x 1, got ", shapes);
    TORCH_CHECK_VALUE(height <= kMost / width && tokens <= kMost - height * width,
                      "shapes must hold fewer than 2^31 tokens, got ", shapes);
    tokens += height * width;
  }
  TORCH_CHECK_VALUE(tokens == value.size(1), "shapes ", shapes, " hold ", tokens,
                    " tokens, value holds ", value.size(1));
}

inline void check_deformable(const at::Tensor& value, at::IntArrayRef shapes,
                             const at::Tensor& reference_points, const at::Tensor& offsets,
                             const at::Tensor& logits) {
  check_value_and_shapes(value, shapes);
  const int64_t levels = static_cast<int64_t>(shapes.size()) / 2;
  TORCH_CHECK_VALUE(offsets.dim() == 6, "offsets must be (B, Q, M, L, P, 2), got ",
                    offsets.sizes());
  const int64_t batch = value.size(0), queries = offsets.size(1), heads = value.size(2);
  const int64_t points = offsets.size(4);
  TORCH_CHECK_VALUE(points > 0, "offsets must have at least one point, got ", offsets.sizes());
  check_tensor("offsets", offsets, "(B, Q, M, L, P, 2)",
               {batch, queries, heads, levels, points, 2}, value);
  check_tensor("logits", logits, "(B, Q, M, L, P)", {batch, queries, heads, levels, points},
               value);
  TORCH_CHECK_VALUE(reference_points.dim() == 4 &&
                        (reference_points.size(3) == 2 || reference_points.size(3) == 4),
                    "reference_points must be (B, Q, L, 2 or 4), got ", reference_points.sizes());
  check_tensor("reference_points", reference_points, "(B, Q, L, 2 or 4)",
               {batch, queries, levels, reference_points.size(3)}, value);
}

inline void check_key_aware(const at::Tensor& query, const at::Tensor& key,
                            const at::Tensor& value, at::IntArrayRef shapes,
                            const at::Tensor& locations) {
  check_value_and_shapes(value, shapes);
  const int64_t levels = static_cast<int64_t>(shapes.size()) / 2;
  TORCH_CHECK_VALUE(locations.dim() == 6, "locations must be (B, Q, M, L, P, 2), got ",
                    locations.sizes());
  const int64_t batch = value.size(0), queries = locations.size(1), heads = value.size(2);
  const int64_t points = locations.size(4);
  TORCH_CHECK_VALUE(points > 0, "locations must have at least one point, got ",
                    locations.sizes());
  check_tensor("locations", locations, "(B, Q, M, L, P, 2)",
               {batch, queries, heads, levels, points, 2}, value);
  check_tensor("key", key, "(B, N, M, D)", value.sizes(), value);
  check_tensor("query", query, "(B, Q, M, D)", {batch, queries, heads, value.size(3)}, value);
  TORCH_CHECK_TYPE(query.scalar_type() == value.scalar_type() &&
                       key.scalar_type() == value.scalar_type(),
                   "query, key and value must have one dtype, got ", query.scalar_type(), ", ",
                   key.scalar_type(), " and ", value.scalar_type());
}

inline void check_gradient(const at::Tensor& grad, const at::Tensor& value, int64_t queries) {
  check_tensor("grad", grad, "(B, Q, M * D)",
               {value.size(0), queries, value.size(2) * value.size(3)}, value);
}

}  // namespace sparse_encoders
