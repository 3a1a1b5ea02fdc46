// Max and average pooling. The schemas are at the end.
#include "bindings/common.h"
#include "core/dispatch.h"

namespace striate {
namespace {

PoolShape pool_shape(const Tensor& x, const Window& window, bool channels_last) {
  for (const Axis& a : {window.depth, window.height, window.width})
    check(a.size == 0 || (a.output - 1) * a.stride < a.input + a.before, "the last output starts past the input");
  return {window, x.size(0), x.size(1), channels_last};
}

// Checks that a byte can number the taps and that no window misses the input, which would leave it padding alone.
void check_offsets(const Window& w) {
  int64_t taps = 1;
  for (const Axis& a : {w.depth, w.height, w.width}) {
    check(a.size > 0 && a.size <= 256 && (a.size - 1) * a.dilation < 1024 && a.before < 1024 &&
              (a.before == 0 || a.dilation <= a.input),
          "offsets are for windows that extend over fewer than 1024 places and never miss the input");
    taps *= a.size;
  }
  check(taps <= 256, "offsets are for windows of at most 256 taps");
}

std::tuple<Tensor, Tensor> max_pool_offset(const Tensor& input, Ints output, Ints size, Ints stride, Ints dilation,
                                           Ints before, bool channels_last, bool keep) {
  const Window w = resolve(spatial_sizes(input, output.size()), output, size, stride, dilation, before);
  check_offsets(w);
  const Tensor x = with_layout(input, channels_last);
  Tensor y = new_tensor(with_spatial_sizes(x, output), x.scalar_type(), channels_last);
  Tensor offset = keep ? new_tensor(with_spatial_sizes(x, output), ScalarType::Byte, channels_last)
                       : new_tensor({0}, ScalarType::Byte);
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (y.numel() > 0)
      kernels<T>().pool->max_offset(pool_shape(x, w, channels_last), static_cast<const T*>(x.data_ptr()),
                                    static_cast<T*>(y.data_ptr()),
                                    keep ? static_cast<uint8_t*>(offset.data_ptr()) : nullptr);
  });
  return {y, offset};
}

Tensor max_pool_offset_backward(const Tensor& gradient, const Tensor& offset, Ints input, Ints size, Ints stride,
                                Ints dilation, Ints before, bool channels_last) {
  const Window w = resolve(input, spatial_sizes(gradient, input.size()), size, stride, dilation, before);
  check_offsets(w);
  check_sizes(offset, with_spatial_sizes(gradient, spatial_sizes(gradient, input.size())), "offset");
  check(offset.scalar_type() == ScalarType::Byte, "offsets are bytes");
  const Tensor dy = with_layout(gradient, channels_last), chosen = with_layout(offset, channels_last);
  Tensor dx = new_tensor(with_spatial_sizes(dy, input), dy.scalar_type(), channels_last);
  for_float(dy, [&](auto zero) {
    using T = decltype(zero);
    if (dx.numel() > 0)
      kernels<T>().pool->max_offset_backward(pool_shape(dy, w, channels_last), static_cast<const T*>(dy.data_ptr()),
                                             static_cast<const uint8_t*>(chosen.data_ptr()),
                                             static_cast<T*>(dx.data_ptr()));
  });
  return dx;
}

Tensor offset_to_index(const Tensor& offset, Ints input, Ints size, Ints stride, Ints dilation, Ints before,
                       bool channels_last) {
  const Ints output = spatial_sizes(offset, input.size());
  const Window w = resolve(input, output, size, stride, dilation, before);
  check_offsets(w);
  check(offset.scalar_type() == ScalarType::Byte, "offsets are bytes");
  const Tensor chosen = with_layout(offset, channels_last);
  Tensor index = new_tensor(with_spatial_sizes(chosen, output), ScalarType::Long, channels_last);
  if (index.numel() > 0)
    kernels<float>().pool->offset_to_index(pool_shape(chosen, w, channels_last),
                                           static_cast<const uint8_t*>(chosen.data_ptr()),
                                           static_cast<int64_t*>(index.data_ptr()));
  return index;
}

std::tuple<Tensor, Tensor> max_pool_index(const Tensor& input, Ints output, Ints size, Ints stride, Ints dilation,
                                          Ints before, bool channels_last) {
  const Window w = resolve(spatial_sizes(input, output.size()), output, size, stride, dilation, before);
  check(w.depth.input * w.height.input * w.width.input < (int64_t(1) << 31),
        "the kernel counts fewer than 2^31 places in a plane");
  const Tensor x = with_layout(input, channels_last);
  Tensor y = new_tensor(with_spatial_sizes(x, output), x.scalar_type(), channels_last);
  Tensor index = new_tensor(with_spatial_sizes(x, output), ScalarType::Long, channels_last);
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (y.numel() > 0)
      kernels<T>().pool->max_index(pool_shape(x, w, channels_last), static_cast<const T*>(x.data_ptr()),
                                   static_cast<T*>(y.data_ptr()), static_cast<int64_t*>(index.data_ptr()));
  });
  return {y, index};
}

Tensor max_pool_index_backward(const Tensor& gradient, const Tensor& index, Ints input, bool channels_last) {
  const Ints output = spatial_sizes(gradient, input.size()), ones(input.size(), 1), zeros(input.size(), 0);
  const Window w = resolve(input, output, zeros, ones, ones, zeros);
  check_sizes(index, with_spatial_sizes(gradient, output), "index");
  check(index.scalar_type() == ScalarType::Long, "indices are int64");
  const Tensor dy = with_layout(gradient, channels_last), chosen = with_layout(index, channels_last);
  Tensor dx = new_tensor(with_spatial_sizes(dy, input), dy.scalar_type(), channels_last);
  for_float(dy, [&](auto zero) {
    using T = decltype(zero);
    if (dx.numel() > 0)
      check(kernels<T>().pool->max_index_backward(
                pool_shape(dy, w, channels_last), static_cast<const T*>(dy.data_ptr()),
                static_cast<const int64_t*>(chosen.data_ptr()), static_cast<T*>(dx.data_ptr())),
            "an index lies outside the input");
  });
  return dx;
}

AvgDivisor avg_divisor(bool count_include_pad, std::optional<int64_t> divisor_override) {
  check(!divisor_override || *divisor_override != 0, "divisor_override is not 0");
  return {count_include_pad, divisor_override.value_or(0)};
}

Tensor avg_pool(const Tensor& input, Ints output, Ints size, Ints stride, Ints before, Ints after, bool channels_last,
                bool count_include_pad, std::optional<int64_t> divisor_override) {
  const Window w =
      resolve(spatial_sizes(input, output.size()), output, size, stride, Ints(output.size(), 1), before, after);
  const AvgDivisor divisor = avg_divisor(count_include_pad, divisor_override);
  const Tensor x = with_layout(input, channels_last);
  Tensor y = new_tensor(with_spatial_sizes(x, output), x.scalar_type(), channels_last);
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (y.numel() > 0)
      kernels<T>().pool->avg(pool_shape(x, w, channels_last), divisor, static_cast<const T*>(x.data_ptr()),
                             static_cast<T*>(y.data_ptr()));
  });
  return y;
}

Tensor avg_pool_backward(const Tensor& gradient, Ints input, Ints size, Ints stride, Ints before, Ints after,
                         bool channels_last, bool count_include_pad, std::optional<int64_t> divisor_override) {
  const Window w =
      resolve(input, spatial_sizes(gradient, input.size()), size, stride, Ints(input.size(), 1), before, after);
  const AvgDivisor divisor = avg_divisor(count_include_pad, divisor_override);
  const Tensor dy = with_layout(gradient, channels_last);
  Tensor dx = new_tensor(with_spatial_sizes(dy, input), dy.scalar_type(), channels_last);
  for_float(dy, [&](auto zero) {
    using T = decltype(zero);
    if (dx.numel() > 0)
      kernels<T>().pool->avg_backward(pool_shape(dy, w, channels_last), divisor, static_cast<const T*>(dy.data_ptr()),
                                      static_cast<T*>(dx.data_ptr()));
  });
  return dx;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(striate, m) {
  m.def(
      "max_pool_offset(Tensor x, SymInt[] output, SymInt[] size, SymInt[] stride, SymInt[] dilation, SymInt[] before, "
      "bool channels_last, bool keep) -> (Tensor, Tensor)");
  m.def(
      "max_pool_offset_backward(Tensor dy, Tensor offset, SymInt[] input, SymInt[] size, SymInt[] stride, "
      "SymInt[] dilation, SymInt[] before, bool channels_last) -> Tensor");
  m.def(
      "offset_to_index(Tensor offset, SymInt[] input, SymInt[] size, SymInt[] stride, SymInt[] dilation, "
      "SymInt[] before, bool channels_last) -> Tensor");
  m.def(
      "max_pool_index(Tensor x, SymInt[] output, SymInt[] size, SymInt[] stride, SymInt[] dilation, SymInt[] before, "
      "bool channels_last) -> (Tensor, Tensor)");
  m.def("max_pool_index_backward(Tensor dy, Tensor index, SymInt[] input, bool channels_last) -> Tensor");
  m.def(
      "avg_pool(Tensor x, SymInt[] output, SymInt[] size, SymInt[] stride, SymInt[] before, SymInt[] after, "
      "bool channels_last, bool count_include_pad, int? divisor_override) -> Tensor");
  m.def(
      "avg_pool_backward(Tensor dy, SymInt[] input, SymInt[] size, SymInt[] stride, SymInt[] before, SymInt[] after, "
      "bool channels_last, bool count_include_pad, int? divisor_override) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(striate, CPU, m) {
  m.impl("max_pool_offset", TORCH_BOX(&max_pool_offset));
  m.impl("max_pool_offset_backward", TORCH_BOX(&max_pool_offset_backward));
  m.impl("offset_to_index", TORCH_BOX(&offset_to_index));
  m.impl("max_pool_index", TORCH_BOX(&max_pool_index));
  m.impl("max_pool_index_backward", TORCH_BOX(&max_pool_index_backward));
  m.impl("avg_pool", TORCH_BOX(&avg_pool));
  m.impl("avg_pool_backward", TORCH_BOX(&avg_pool_backward));
}

}  // namespace striate
