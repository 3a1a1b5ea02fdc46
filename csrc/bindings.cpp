// The only file that includes torch. Registers striate's operators through torch's stable ABI, turns tensors into pointers
// and resolved windows, and checks whatever a kernel could be hurt by. Python has said it better before (errors.py): a
// message from here means that an operator was called past it.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>
#include <tuple>
#include <vector>

#include "dispatch.h"
#include "parallel.h"

namespace striate {

void parallel_ranges(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context) {
  if (count <= 0) return;
  if (count <= grain) return body(context, 0, count);
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { body(context, begin, end); });
}

namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = std::vector<int64_t>;

void check(bool ok, const std::string& message) {
  if (!ok) throw std::runtime_error("striate: " + message);
}

// ------------------------------------------------------------------------------------------------------------- layout

bool is_laid_out(const Tensor& x, bool channels_last) {
  const auto sizes = x.sizes(), strides = x.strides();
  const int64_t dims = int64_t(sizes.size());
  int64_t expected = 1;
  for (int64_t k = 0; k < dims; ++k) {  // from the innermost: width … depth, channels, batch; or channels, width … batch
    int64_t dim = dims - 1 - k;
    if (channels_last && dims > 2 && dim > 0) dim = k == 0 ? 1 : dims - k;
    if (sizes[dim] == 0) return true;
    if (sizes[dim] != 1 && strides[dim] != expected) return false;
    expected *= sizes[dim];
  }
  return true;
}

MemoryFormat memory_format(int64_t dims, bool channels_last) {
  if (!channels_last || dims < 4) return MemoryFormat::Contiguous;
  return dims == 4 ? MemoryFormat::ChannelsLast : MemoryFormat::ChannelsLast3d;
}

Tensor laid_out(const Tensor& x, bool channels_last) {
  if (is_laid_out(x, channels_last)) return x;
  if (channels_last && x.dim() == 3)  // torch has no channels_last for three dimensions: store (N, L, C)
    return torch::stable::transpose(torch::stable::contiguous(torch::stable::transpose(x, 1, 2)), 1, 2);
  return torch::stable::contiguous(x, memory_format(x.dim(), channels_last));
}

Tensor new_tensor(const Tensor& like, Ints sizes, ScalarType dtype, bool channels_last) {
  const bool swap = channels_last && sizes.size() == 3;
  if (swap) std::swap(sizes[1], sizes[2]);
  Tensor out =
      torch::stable::empty(sizes, dtype, std::nullopt, like.device(), std::nullopt, memory_format(int64_t(sizes.size()), channels_last));
  return swap ? torch::stable::transpose(out, 1, 2) : out;
}

// ------------------------------------------------------------------------------------------------------------- window

constexpr int64_t kLargest = int64_t(1) << 62;

// size 0 in an axis: adaptive. after may be empty where padding behind the input needs no name.
Axis resolve_axis(int64_t input, int64_t output, int64_t size, int64_t stride, int64_t dilation, int64_t before, int64_t after) {
  check(input > 0 && output > 0 && size >= 0 && stride > 0 && dilation > 0 && before >= 0 && after >= 0,
        "a window's sizes, stride and dilation are at least 1 and its padding at least 0");
  __int128 reach = __int128(output - 1) * stride + __int128(size > 0 ? size - 1 : 0) * dilation;
  check(reach < kLargest && stride <= kLargest && dilation <= kLargest && before <= kLargest && after <= kLargest,
        "a window reaches past 2^62");
  check(size == 0 || __int128(output - 1) * stride < __int128(input) + before, "the last output starts past the input");
  return {input, output, size, stride, dilation, before, after};
}

Window resolve(const Ints& input, const Ints& output, const Ints& size, const Ints& stride, const Ints& dilation, const Ints& before,
               const Ints& after = {}) {
  const size_t axes = output.size();
  check(axes >= 1 && axes <= 3, "a window has one to three axes");
  check(input.size() == axes && size.size() == axes && stride.size() == axes && dilation.size() == axes && before.size() == axes &&
            (after.empty() || after.size() == axes),
        "a window's lists are all as long as it has axes");
  const Axis point = {1, 1, 1, 1, 1, 0, 0};
  Axis axis[3] = {point, point, point};
  for (size_t k = 0; k < axes; ++k)
    axis[3 - axes + k] = resolve_axis(input[k], output[k], size[k], stride[k], dilation[k], before[k], after.empty() ? 0 : after[k]);
  __int128 outputs = 1;
  for (const Axis& a : axis) outputs = outputs > kLargest ? outputs : outputs * a.output;
  check(outputs < (int64_t(1) << 48), "an output has no more than 2^48 places");
  return {axis[0], axis[1], axis[2]};
}

Ints spatial(const Tensor& x, size_t axes) {
  check(x.dim() == int64_t(axes) + 2, "an input has a batch, channels and the window's axes");
  const auto sizes = x.sizes();
  return Ints(sizes.begin() + 2, sizes.end());
}

Ints with_spatial(const Tensor& x, const Ints& axes) {
  Ints sizes = {x.size(0), x.size(1)};
  sizes.insert(sizes.end(), axes.begin(), axes.end());
  return sizes;
}

PoolShape pool_shape(const Tensor& x, const Window& window, bool channels_last) { return {window, x.size(0), x.size(1), channels_last}; }

void check_sizes(const Tensor& x, const Ints& sizes, const char* name) {
  const auto have = x.sizes();
  check(Ints(have.begin(), have.end()) == sizes, std::string(name) + " has another shape than the window gives");
}

// What a byte can number, and no window that could miss the input: its taps would all be padding.
void check_offsets(const Window& w) {
  int64_t taps = 1;
  for (const Axis& a : {w.depth, w.height, w.width}) {
    check(a.size > 0 && a.size <= 256 && (a.size - 1) * a.dilation < 1024 && a.before < 1024 && (a.before == 0 || a.dilation <= a.input),
          "offsets are for windows that extend over fewer than 1024 places and never miss the input");
    taps *= a.size;
  }
  check(taps <= 256, "offsets are for windows of at most 256 taps");
}

// Calls run(T{}) for the element type.
template <class Run>
void for_float(const Tensor& x, const Run& run) {
  if (x.scalar_type() == ScalarType::Float)
    run(float{});
  else if (x.scalar_type() == ScalarType::Double)
    run(double{});
  else
    check(false, "kernels take float32 and float64");
}

// ------------------------------------------------------------------------------------------------------------ pooling

std::tuple<Tensor, Tensor> max_pool_offset(const Tensor& input, Ints output, Ints size, Ints stride, Ints dilation, Ints before,
                                           bool channels_last, bool keep) {
  const Window w = resolve(spatial(input, output.size()), output, size, stride, dilation, before);
  check_offsets(w);
  const Tensor x = laid_out(input, channels_last);
  Tensor y = new_tensor(x, with_spatial(x, output), x.scalar_type(), channels_last);
  Tensor offset = keep ? new_tensor(x, with_spatial(x, output), ScalarType::Byte, channels_last)
                       : torch::stable::empty(Ints{0}, ScalarType::Byte, std::nullopt, x.device());
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (y.numel() > 0)
      kernels().pool<T>().max_offset(pool_shape(x, w, channels_last), static_cast<const T*>(x.data_ptr()), static_cast<T*>(y.data_ptr()),
                                     keep ? static_cast<uint8_t*>(offset.data_ptr()) : nullptr);
  });
  return {y, offset};
}

Tensor max_pool_offset_backward(const Tensor& gradient, const Tensor& offset, Ints input, Ints size, Ints stride, Ints dilation,
                                Ints before, bool channels_last) {
  const Window w = resolve(input, spatial(gradient, input.size()), size, stride, dilation, before);
  check_offsets(w);
  check_sizes(offset, with_spatial(gradient, spatial(gradient, input.size())), "offset");
  check(offset.scalar_type() == ScalarType::Byte, "offsets are bytes");
  const Tensor dy = laid_out(gradient, channels_last), chosen = laid_out(offset, channels_last);
  Tensor dx = new_tensor(dy, with_spatial(dy, input), dy.scalar_type(), channels_last);
  for_float(dy, [&](auto zero) {
    using T = decltype(zero);
    if (dx.numel() > 0)
      kernels().pool<T>().max_offset_backward(pool_shape(dy, w, channels_last), static_cast<const T*>(dy.data_ptr()),
                                              static_cast<const uint8_t*>(chosen.data_ptr()), static_cast<T*>(dx.data_ptr()));
  });
  return dx;
}

Tensor offset_to_index(const Tensor& offset, Ints input, Ints size, Ints stride, Ints dilation, Ints before, bool channels_last) {
  const Ints output = spatial(offset, input.size());
  const Window w = resolve(input, output, size, stride, dilation, before);
  check_offsets(w);
  check(offset.scalar_type() == ScalarType::Byte, "offsets are bytes");
  const Tensor chosen = laid_out(offset, channels_last);
  Tensor index = new_tensor(chosen, with_spatial(chosen, output), ScalarType::Long, channels_last);
  if (index.numel() > 0)
    kernels().pool_f32.offset_to_index(pool_shape(chosen, w, channels_last), static_cast<const uint8_t*>(chosen.data_ptr()),
                                       static_cast<int64_t*>(index.data_ptr()));
  return index;
}

std::tuple<Tensor, Tensor> max_pool_index(const Tensor& input, Ints output, Ints size, Ints stride, Ints dilation, Ints before,
                                          bool channels_last) {
  const Window w = resolve(spatial(input, output.size()), output, size, stride, dilation, before);
  check(w.depth.input * w.height.input * w.width.input < (int64_t(1) << 31), "the kernel counts fewer than 2^31 places in a plane");
  const Tensor x = laid_out(input, channels_last);
  Tensor y = new_tensor(x, with_spatial(x, output), x.scalar_type(), channels_last);
  Tensor index = new_tensor(x, with_spatial(x, output), ScalarType::Long, channels_last);
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (y.numel() > 0)
      kernels().pool<T>().max_index(pool_shape(x, w, channels_last), static_cast<const T*>(x.data_ptr()), static_cast<T*>(y.data_ptr()),
                                    static_cast<int64_t*>(index.data_ptr()));
  });
  return {y, index};
}

Tensor max_pool_index_backward(const Tensor& gradient, const Tensor& index, Ints input, bool channels_last) {
  const Ints output = spatial(gradient, input.size()), ones(input.size(), 1), zeros(input.size(), 0);
  const Window w = resolve(input, output, zeros, ones, ones, zeros);
  check_sizes(index, with_spatial(gradient, output), "index");
  check(index.scalar_type() == ScalarType::Long, "indices are int64");
  const Tensor dy = laid_out(gradient, channels_last), chosen = laid_out(index, channels_last);
  Tensor dx = new_tensor(dy, with_spatial(dy, input), dy.scalar_type(), channels_last);
  for_float(dy, [&](auto zero) {
    using T = decltype(zero);
    if (dx.numel() > 0)
      check(kernels().pool<T>().max_index_backward(pool_shape(dy, w, channels_last), static_cast<const T*>(dy.data_ptr()),
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
  const Window w = resolve(spatial(input, output.size()), output, size, stride, Ints(output.size(), 1), before, after);
  const AvgDivisor divisor = avg_divisor(count_include_pad, divisor_override);
  const Tensor x = laid_out(input, channels_last);
  Tensor y = new_tensor(x, with_spatial(x, output), x.scalar_type(), channels_last);
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (y.numel() > 0)
      kernels().pool<T>().avg(pool_shape(x, w, channels_last), divisor, static_cast<const T*>(x.data_ptr()), static_cast<T*>(y.data_ptr()));
  });
  return y;
}

Tensor avg_pool_backward(const Tensor& gradient, Ints input, Ints size, Ints stride, Ints before, Ints after, bool channels_last,
                         bool count_include_pad, std::optional<int64_t> divisor_override) {
  const Window w = resolve(input, spatial(gradient, input.size()), size, stride, Ints(input.size(), 1), before, after);
  const AvgDivisor divisor = avg_divisor(count_include_pad, divisor_override);
  const Tensor dy = laid_out(gradient, channels_last);
  Tensor dx = new_tensor(dy, with_spatial(dy, input), dy.scalar_type(), channels_last);
  for_float(dy, [&](auto zero) {
    using T = decltype(zero);
    if (dx.numel() > 0)
      kernels().pool<T>().avg_backward(pool_shape(dy, w, channels_last), divisor, static_cast<const T*>(dy.data_ptr()),
                                       static_cast<T*>(dx.data_ptr()));
  });
  return dx;
}

// -------------------------------------------------------------------------------------------------------------- about

std::string isa_available() {
  int count;
  const Kernels* const* list = available_kernels(&count);
  std::string names;
  for (int i = 0; i < count; ++i) names += (i ? " " : "") + std::string(list[i]->isa);
  return names;
}
std::string isa_chosen() { return kernels().isa; }
bool isa_choose(std::string name) { return use_kernels(name.c_str()); }

}  // namespace

STABLE_TORCH_LIBRARY(striate, m) {
  m.def(
      "max_pool_offset(Tensor x, SymInt[] output, SymInt[] size, SymInt[] stride, SymInt[] dilation, SymInt[] before, "
      "bool channels_last, bool keep) -> (Tensor, Tensor)");
  m.def(
      "max_pool_offset_backward(Tensor dy, Tensor offset, SymInt[] input, SymInt[] size, SymInt[] stride, SymInt[] dilation, "
      "SymInt[] before, bool channels_last) -> Tensor");
  m.def(
      "offset_to_index(Tensor offset, SymInt[] input, SymInt[] size, SymInt[] stride, SymInt[] dilation, SymInt[] before, "
      "bool channels_last) -> Tensor");
  m.def(
      "max_pool_index(Tensor x, SymInt[] output, SymInt[] size, SymInt[] stride, SymInt[] dilation, SymInt[] before, "
      "bool channels_last) -> (Tensor, Tensor)");
  m.def("max_pool_index_backward(Tensor dy, Tensor index, SymInt[] input, bool channels_last) -> Tensor");
  m.def(
      "avg_pool(Tensor x, SymInt[] output, SymInt[] size, SymInt[] stride, SymInt[] before, SymInt[] after, bool channels_last, "
      "bool count_include_pad, int? divisor_override) -> Tensor");
  m.def(
      "avg_pool_backward(Tensor dy, SymInt[] input, SymInt[] size, SymInt[] stride, SymInt[] before, SymInt[] after, "
      "bool channels_last, bool count_include_pad, int? divisor_override) -> Tensor");
  m.def("isa_available() -> str");
  m.def("isa_chosen() -> str");
  m.def("isa_choose(str name) -> bool");
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

STABLE_TORCH_LIBRARY_IMPL(striate, CompositeExplicitAutograd, m) {
  m.impl("isa_available", TORCH_BOX(&isa_available));
  m.impl("isa_chosen", TORCH_BOX(&isa_chosen));
  m.impl("isa_choose", TORCH_BOX(&isa_choose));
}

}  // namespace striate
