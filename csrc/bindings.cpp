// The only file that includes torch. Registers striate's operators through torch's stable ABI, turns tensors into
// pointers and resolved windows, and checks whatever a kernel could be hurt by. Python has said it better before
// (errors.py): a message from here means that an operator was called past it.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "dispatch.h"
#include "edges.h"
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
  for (int64_t k = 0; k < dims;
       ++k) {  // from the innermost: width … depth, channels, batch; or channels, width … batch
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

int32_t dtype_number(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return aoti_torch_dtype_float32();
    case ScalarType::Double:
      return aoti_torch_dtype_float64();
    case ScalarType::Long:
      return aoti_torch_dtype_int64();
    default:
      return aoti_torch_dtype_uint8();
  }
}

// On the CPU. By the C function: through the dispatcher each would cost a microsecond more.
Tensor new_tensor(const Ints& sizes, ScalarType dtype, bool channels_last = false) {
  const int64_t dims = int64_t(sizes.size());
  Ints strides(sizes.size());
  int64_t pitch = 1;
  for (int64_t k = 0; k < dims; ++k) {
    int64_t dim = dims - 1 - k;
    if (channels_last && dims > 2 && dim > 0) dim = k == 0 ? 1 : dims - k;
    strides[dim] = pitch;
    check(!__builtin_mul_overflow(pitch, sizes[dim] > 1 ? sizes[dim] : int64_t(1), &pitch),
          "a result has fewer than 2^63 values");
  }
  AtenTensorHandle out;
  check(aoti_torch_empty_strided(dims, sizes.data(), strides.data(), dtype_number(dtype), aoti_torch_device_type_cpu(),
                                 0, &out) == 0,
        "no memory for a result");
  return Tensor(out);
}

// ------------------------------------------------------------------------------------------------------------- window

constexpr int64_t kLargest = int64_t(1) << 62;

// size 0 in an axis: adaptive. after may be empty where padding behind the input needs no name.
Axis resolve_axis(int64_t input, int64_t output, int64_t size, int64_t stride, int64_t dilation, int64_t before,
                  int64_t after) {
  check(input > 0 && output > 0 && size >= 0 && stride > 0 && dilation > 0 && before >= 0 && after >= 0,
        "a window's sizes, stride and dilation are at least 1 and its padding at least 0");
  __int128 reach = __int128(output - 1) * stride + __int128(size > 0 ? size - 1 : 0) * dilation;
  check(reach < kLargest && stride <= kLargest && dilation <= kLargest && before <= kLargest && after <= kLargest,
        "a window reaches past 2^62");
  return {input, output, size, stride, dilation, before, after};
}

Window resolve(const Ints& input, const Ints& output, const Ints& size, const Ints& stride, const Ints& dilation,
               const Ints& before, const Ints& after = {}) {
  const size_t axes = output.size();
  check(axes >= 1 && axes <= 3, "a window has one to three axes");
  check(input.size() == axes && size.size() == axes && stride.size() == axes && dilation.size() == axes &&
            before.size() == axes && (after.empty() || after.size() == axes),
        "a window's lists are all as long as it has axes");
  const Axis point = {1, 1, 1, 1, 1, 0, 0};
  Axis axis[3] = {point, point, point};
  for (size_t k = 0; k < axes; ++k)
    axis[3 - axes + k] =
        resolve_axis(input[k], output[k], size[k], stride[k], dilation[k], before[k], after.empty() ? 0 : after[k]);
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

PoolShape pool_shape(const Tensor& x, const Window& window, bool channels_last) {
  for (const Axis& a : {window.depth, window.height, window.width})
    check(a.size == 0 || (a.output - 1) * a.stride < a.input + a.before, "the last output starts past the input");
  return {window, x.size(0), x.size(1), channels_last};
}

void check_sizes(const Tensor& x, const Ints& sizes, const char* name) {
  const auto have = x.sizes();
  check(Ints(have.begin(), have.end()) == sizes, std::string(name) + " has another shape than the window gives");
}

// What a byte can number, and no window that could miss the input: its taps would all be padding.
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

std::tuple<Tensor, Tensor> max_pool_offset(const Tensor& input, Ints output, Ints size, Ints stride, Ints dilation,
                                           Ints before, bool channels_last, bool keep) {
  const Window w = resolve(spatial(input, output.size()), output, size, stride, dilation, before);
  check_offsets(w);
  const Tensor x = laid_out(input, channels_last);
  Tensor y = new_tensor(with_spatial(x, output), x.scalar_type(), channels_last);
  Tensor offset =
      keep ? new_tensor(with_spatial(x, output), ScalarType::Byte, channels_last) : new_tensor({0}, ScalarType::Byte);
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
  const Window w = resolve(input, spatial(gradient, input.size()), size, stride, dilation, before);
  check_offsets(w);
  check_sizes(offset, with_spatial(gradient, spatial(gradient, input.size())), "offset");
  check(offset.scalar_type() == ScalarType::Byte, "offsets are bytes");
  const Tensor dy = laid_out(gradient, channels_last), chosen = laid_out(offset, channels_last);
  Tensor dx = new_tensor(with_spatial(dy, input), dy.scalar_type(), channels_last);
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
  const Ints output = spatial(offset, input.size());
  const Window w = resolve(input, output, size, stride, dilation, before);
  check_offsets(w);
  check(offset.scalar_type() == ScalarType::Byte, "offsets are bytes");
  const Tensor chosen = laid_out(offset, channels_last);
  Tensor index = new_tensor(with_spatial(chosen, output), ScalarType::Long, channels_last);
  if (index.numel() > 0)
    kernels<float>().pool->offset_to_index(pool_shape(chosen, w, channels_last),
                                           static_cast<const uint8_t*>(chosen.data_ptr()),
                                           static_cast<int64_t*>(index.data_ptr()));
  return index;
}

std::tuple<Tensor, Tensor> max_pool_index(const Tensor& input, Ints output, Ints size, Ints stride, Ints dilation,
                                          Ints before, bool channels_last) {
  const Window w = resolve(spatial(input, output.size()), output, size, stride, dilation, before);
  check(w.depth.input * w.height.input * w.width.input < (int64_t(1) << 31),
        "the kernel counts fewer than 2^31 places in a plane");
  const Tensor x = laid_out(input, channels_last);
  Tensor y = new_tensor(with_spatial(x, output), x.scalar_type(), channels_last);
  Tensor index = new_tensor(with_spatial(x, output), ScalarType::Long, channels_last);
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (y.numel() > 0)
      kernels<T>().pool->max_index(pool_shape(x, w, channels_last), static_cast<const T*>(x.data_ptr()),
                                   static_cast<T*>(y.data_ptr()), static_cast<int64_t*>(index.data_ptr()));
  });
  return {y, index};
}

Tensor max_pool_index_backward(const Tensor& gradient, const Tensor& index, Ints input, bool channels_last) {
  const Ints output = spatial(gradient, input.size()), ones(input.size(), 1), zeros(input.size(), 0);
  const Window w = resolve(input, output, zeros, ones, ones, zeros);
  check_sizes(index, with_spatial(gradient, output), "index");
  check(index.scalar_type() == ScalarType::Long, "indices are int64");
  const Tensor dy = laid_out(gradient, channels_last), chosen = laid_out(index, channels_last);
  Tensor dx = new_tensor(with_spatial(dy, input), dy.scalar_type(), channels_last);
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
  const Window w = resolve(spatial(input, output.size()), output, size, stride, Ints(output.size(), 1), before, after);
  const AvgDivisor divisor = avg_divisor(count_include_pad, divisor_override);
  const Tensor x = laid_out(input, channels_last);
  Tensor y = new_tensor(with_spatial(x, output), x.scalar_type(), channels_last);
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
  const Window w = resolve(input, spatial(gradient, input.size()), size, stride, Ints(input.size(), 1), before, after);
  const AvgDivisor divisor = avg_divisor(count_include_pad, divisor_override);
  const Tensor dy = laid_out(gradient, channels_last);
  Tensor dx = new_tensor(with_spatial(dy, input), dy.scalar_type(), channels_last);
  for_float(dy, [&](auto zero) {
    using T = decltype(zero);
    if (dx.numel() > 0)
      kernels<T>().pool->avg_backward(pool_shape(dy, w, channels_last), divisor, static_cast<const T*>(dy.data_ptr()),
                                      static_cast<T*>(dx.data_ptr()));
  });
  return dx;
}

// --------------------------------------------------------------------------------------------------------- statistics

Tensor new_statistics(int64_t sets) { return new_tensor({2, sets}, ScalarType::Double); }
double* doubles(const Tensor& statistics, int64_t sets, int row) {
  check(statistics.scalar_type() == ScalarType::Double && statistics.numel() == 2 * sets &&
            is_laid_out(statistics, false),
        "statistics are a mean and a variance for each set, in float64");
  return static_cast<double*>(statistics.data_ptr()) + row * sets;
}

// -------------------------------------------------------------------------------------------------------- convolution

using Given = std::optional<Tensor>;

template <class T>
T* pointer(const Tensor& x) {
  return x.numel() > 0 ? static_cast<T*>(x.data_ptr()) : nullptr;
}
template <class T>
const T* pointer(const Given& x) {
  return x && x->numel() > 0 ? static_cast<const T*>(x->data_ptr()) : nullptr;
}

// x or its gradient, and y or its gradient: batch and channels of each.
ConvShape conv_shape(const Tensor& like_x, int64_t channels, int64_t filters, const Window& window, int64_t groups,
                     bool channels_last) {
  check(groups > 0 && channels > 0 && filters > 0 && channels % groups == 0 && filters % groups == 0,
        "groups divide the channels");
  const auto min = [](int64_t a, int64_t b) { return a < b ? a : b; };
  const auto max = [](int64_t a, int64_t b) { return a > b ? a : b; };
  const auto narrow = [](const Axis& a) {
    return a.size > 0 && a.size <= 4096 && (a.size - 1) * a.dilation <= 65536 && a.before <= 65536 && a.stride <= 65536;
  };
  check(narrow(window.depth) && narrow(window.height) && narrow(window.width),
        "kernels are for windows of some thousand places");
  // the band of one row of destinations at its largest, see bands.h and direct.cpp
  const auto extent = [](const Axis& a) { return (a.size - 1) * a.dilation + 1; };
  __int128 values =
      (min(kColumns, max(window.width.input, window.width.output)) + 35) * window.width.stride + extent(window.width);
  for (const Axis& a : {window.depth, window.height}) values *= min(extent(a) + 2, max(a.input, a.output));
  check(values * max(channels, filters) / groups < (int64_t(1) << 30), "a band of sources fits memory");
  check(__int128(window.depth.size) * window.height.size * window.width.size * max(channels, filters) / groups <
            (int64_t(1) << 25),
        "a filter has fewer than 2^25 weights");
  return {window, like_x.size(0), channels, filters, groups, channels_last};
}

// Whether a number stands for one of `count` things; the message says what each stands for.
void check_number(int64_t number, int64_t count, const char* what, const auto& name) {
  if (number >= 0 && number < count) return;
  std::string told = what;
  told.append(" is one of");
  for (int64_t k = 0; k < count; ++k) told.append(k ? ", " : " ").append(std::to_string(k)).append(" ").append(name(k));
  check(false, told.append(", got ").append(std::to_string(number)));
}

Method method_of(int64_t number) {
  check_number(number, kMethods, "a method of convolution", [](int64_t k) { return kMethodNames[k]; });
  return static_cast<Method>(number);
}

template <class T>
const ConvKernels<T>& conv_kernels(Method method) {
  return *kernels<T>().conv[static_cast<int64_t>(method)];
}

// Whether there is a tile for it: along each axis of more than one tap 4 outputs of 3, or 2 of 3 or of 5, the same on
// both.
void check_filtering(const Window& w, Method method) {
  if (method != Method::winograd_4x4 && method != Method::winograd_2x2) return;
  const int64_t taps = w.height.size > w.width.size ? w.height.size : w.width.size;
  check(w.depth.size == 1 && w.depth.output == 1 && w.depth.before == 0, "Winograd's is for one and two axes");
  check(taps == 3 || (taps == 5 && method == Method::winograd_2x2),
        "Winograd's tiles are for 3 taps on an axis, those of two outputs for 5 too");
  for (const Axis& a : {w.height, w.width}) {
    check(a.stride == 1 && a.dilation == 1, "Winograd's is for stride and dilation 1");
    check(a.size == 1 || a.size == taps, "Winograd's tiles have as many taps on both axes, or one");
  }
}

constexpr int64_t kMostUnfolded = int64_t(1) << 20;  // values; ops/conv.py has the same

// Whether its rows can be unfolded.
void check_unfolding(bool adjoint, const ConvShape& s, Method method) {
  if (method != Method::unfolded) return;
  check(s.channels_last, "what is unfolded is in channels order");
  for (const Axis& a : {s.window.depth, s.window.height, s.window.width})
    check(!adjoint || a.stride == 1, "an input gradient is unfolded for stride 1");
  check(s.taps() * ((adjoint ? s.filters : s.channels) / s.groups + 15) <= kMostUnfolded,
        "a destination sees at most a million values");
}

bool weight_is_last(const Tensor& w) { return !is_laid_out(w, false) && is_laid_out(w, true); }

void check_like(const Tensor& x, const Tensor& other, const char* name) {
  check(other.scalar_type() == x.scalar_type(), std::string(name) + " is of the input's type");
}

// What follows the sums: see Epilogue. statistics, where they are wanted: mean and variance of each channel.
struct After {
  Given residual;
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  Given statistics;
};

// Forward, or with `adjoint` the input gradient: `axes` are the result's. packed: by conv_pack, of this weight.
Tensor conv_activations(bool adjoint, const Tensor& source, const Tensor& weight, const Given& bias, const Ints& axes,
                        const Ints& stride, const Ints& dilation, const Ints& before, int64_t groups,
                        bool channels_last, int64_t number, const Given& packed = {}, const After& after = {}) {
  const Method method = method_of(number);
  const Ints size = spatial(weight, axes.size()), have = spatial(source, axes.size());
  const Window window = adjoint ? resolve(axes, have, size, stride, dilation, before)
                                : resolve(have, axes, size, stride, dilation, before);
  const int64_t filters = weight.size(0), channels = weight.size(1) * groups;
  check(source.size(1) == (adjoint ? filters : channels), "a weight fits the channels");
  check_like(source, weight, "weight");
  const Tensor x = laid_out(source, channels_last);
  const bool last = weight_is_last(weight);
  const Tensor w = last ? weight : laid_out(weight, false);
  Given b;
  if (bias) {
    check(bias->numel() == (adjoint ? channels : filters), "a bias has a number for each channel");
    check_like(source, *bias, "bias");
    b = laid_out(*bias, false);
  }
  const ConvShape shape = conv_shape(x, channels, filters, window, groups, channels_last);
  Ints sizes = {x.size(0), adjoint ? channels : filters};
  sizes.insert(sizes.end(), axes.begin(), axes.end());
  Tensor y = new_tensor(sizes, x.scalar_type(), channels_last);
  check_filtering(window, method);
  check_unfolding(adjoint, shape, method);
  Given residual = after.residual;
  if (residual) {
    check_sizes(*residual, sizes, "residual");
    check_like(source, *residual, "residual");
    residual = laid_out(*residual, channels_last);
  }
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (y.numel() == 0) return;
    const ConvKernels<T>& k = conv_kernels<T>(method);
    Epilogue<T> e = {pointer<T>(b), pointer<T>(residual), T(after.low), T(after.high), nullptr, nullptr};
    if (after.statistics) {
      check(k.pack, "only Winograd's tiles and what is unfolded measure what they write");
      e.mean = doubles(*after.statistics, sizes[1], 0), e.variance = doubles(*after.statistics, sizes[1], 1);
    }
    if (packed) {
      check(k.pack && !adjoint && packed->numel() == k.packed_size(shape), "a packed weight is of this method and map");
      check_like(source, *packed, "a packed weight");
    }
    (adjoint ? k.input : k.forward)(shape, pointer<T>(x), {pointer<T>(w), last, pointer<T>(packed)}, e, pointer<T>(y));
    mend_edges<T>(shape, adjoint, pointer<T>(x), {pointer<T>(w), last}, e, pointer<T>(y));
  });
  return y;
}

Tensor conv(const Tensor& x, const Tensor& weight, const Given& bias, Ints output, Ints stride, Ints dilation,
            Ints before, int64_t groups, bool channels_last, int64_t method) {
  return conv_activations(false, x, weight, bias, output, stride, dilation, before, groups, channels_last, method);
}

Tensor conv_input(const Tensor& dy, const Tensor& weight, const Given& bias, Ints input, Ints stride, Ints dilation,
                  Ints before, int64_t groups, bool channels_last, int64_t method) {
  return conv_activations(true, dy, weight, bias, input, stride, dilation, before, groups, channels_last, method);
}

// y = min(max(conv + bias + residual, low), high), for inference: there is no gradient.
Tensor conv_fused(const Tensor& x, const Tensor& weight, const Given& packed, const Given& bias, const Given& residual,
                  double low, double high, Ints output, Ints stride, Ints dilation, Ints before, int64_t groups,
                  bool channels_last, int64_t method) {
  return conv_activations(false, x, weight, bias, output, stride, dilation, before, groups, channels_last, method,
                          packed, {residual, low, high, {}});
}

// y, and the mean and variance of each of its channels.
std::tuple<Tensor, Tensor> conv_measured(const Tensor& x, const Tensor& weight, const Given& bias, Ints output,
                                         Ints stride, Ints dilation, Ints before, int64_t groups, bool channels_last,
                                         int64_t method) {
  After after;
  after.statistics = new_statistics(weight.size(0));
  Tensor y = conv_activations(false, x, weight, bias, output, stride, dilation, before, groups, channels_last, method,
                              {}, after);
  return {y, *after.statistics};
}

// A weight as the forward map of a method wants it, for conv_fused. Empty where a method wants it as it is.
Tensor conv_pack(const Tensor& weight, int64_t groups, int64_t number) {
  const Method method = method_of(number);
  check(weight.dim() >= 3 && weight.numel() > 0, "a weight has filters, channels and taps");
  const Ints size = spatial(weight, size_t(weight.dim()) - 2), ones(size.size(), 1), zeros(size.size(), 0);
  const Window window = resolve(size, ones, size, ones, ones, zeros);
  check_filtering(window, method);
  const bool last = weight_is_last(weight);
  const Tensor w = last ? weight : laid_out(weight, false);
  const ConvShape shape = conv_shape(w, w.size(1) * groups, w.size(0), window, groups, false);
  Given packed;
  for_float(w, [&](auto zero) {
    using T = decltype(zero);
    const ConvKernels<T>& k = conv_kernels<T>(method);
    packed = new_tensor({k.pack ? k.packed_size(shape) : 0}, w.scalar_type());
    use_large_pages(pointer<T>(*packed), size_t(packed->numel()) * sizeof(T));
    if (k.pack)
      std::memset(pointer<T>(*packed), 0, size_t(packed->numel()) * sizeof(T));  // also the lanes that no channel fills
    if (k.pack) k.pack(shape, {pointer<T>(w), last}, pointer<T>(*packed));
  });
  return *packed;
}

Tensor conv_weight(const Tensor& gradient, const Tensor& input, Ints size, Ints stride, Ints dilation, Ints before,
                   int64_t groups, bool channels_last, int64_t number, bool weight_channels_last) {
  const Method method = method_of(number);
  const Window window =
      resolve(spatial(input, size.size()), spatial(gradient, size.size()), size, stride, dilation, before);
  check(gradient.size(0) == input.size(0) && input.size(0) > 0, "x and dy have one batch, and it is not empty");
  check_like(input, gradient, "dy");
  const Tensor x = laid_out(input, channels_last), dy = laid_out(gradient, channels_last);
  ConvShape shape = conv_shape(x, x.size(1), dy.size(1), window, groups, channels_last);
  shape.weight_channels_last = weight_channels_last;
  Ints sizes = {shape.filters, shape.channels / groups};
  sizes.insert(sizes.end(), size.begin(), size.end());
  Tensor dw = new_tensor(sizes, x.scalar_type(), weight_channels_last);
  check_filtering(window, method);
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    const ConvKernels<T>& k = conv_kernels<T>(method);
    check(k.weight, "the method has a weight gradient");
    if (dw.numel() == 0) return;
    k.weight(shape, pointer<T>(dy), pointer<T>(x), pointer<T>(dw));
    mend_edges_of_weight<T>(shape, pointer<T>(dy), pointer<T>(x), pointer<T>(dw));
  });
  return dw;
}

Tensor conv_bias(const Tensor& gradient, bool channels_last) {
  check(gradient.dim() >= 3, "dy has a batch, channels and places");
  const Tensor dy = laid_out(gradient, channels_last);
  const int64_t N = dy.size(0), C = dy.size(1);
  check(dy.numel() > 0, "dy holds something");
  Tensor db = new_tensor({C}, dy.scalar_type());
  for_float(dy, [&](auto zero) {
    using T = decltype(zero);
    (*kernels<T>().bias)(N, C, dy.numel() / N / C, channels_last, pointer<T>(dy), pointer<T>(db));
  });
  return db;
}

// --------------------------------------------------------------------------------------------------- locally connected

// x or its gradient, and y or its gradient: batch and channels of each.
LocalShape local_shape(const Tensor& like_x, int64_t channels, int64_t filters, const Window& window) {
  __int128 values = like_x.size(0);
  for (const Axis& a : {window.depth, window.height, window.width})
    values *= (a.output - 1) * a.stride + (a.size - 1) * a.dilation + 1,
        check(values < kLargest, "a padded input has fewer than 2^62 values");
  check(channels > 0 && filters > 0 && values * channels < (int64_t(1) << 40),
        "a padded input has fewer than 2^40 values");
  return {window, like_x.size(0), channels, filters};
}

Tensor in_format(const Tensor& x, bool channels_last) { return channels_last ? laid_out(x, true) : x; }

// (filters, channels, *output, *taps): the output, and the taps.
std::tuple<Ints, Ints> local_axes(const Tensor& weight) {
  const auto sizes = weight.sizes();
  check((sizes.size() == 4 || sizes.size() == 6 || sizes.size() == 8) && weight.numel() > 0,
        "a weight has filters, channels, places and taps");
  const auto middle = sizes.begin() + 2 + (sizes.size() - 2) / 2;
  return {Ints(sizes.begin() + 2, middle), Ints(middle, sizes.end())};
}

Tensor local(const Tensor& input, const Tensor& given_weight, const Given& given_bias, Ints stride, Ints dilation,
             Ints before, bool channels_last) {
  const auto [output, size] = local_axes(given_weight);
  const Window window = resolve(spatial(input, output.size()), output, size, stride, dilation, before);
  const int64_t filters = given_weight.size(0), channels = given_weight.size(1);
  check(input.size(1) == channels, "a weight fits the channels");
  check_like(input, given_weight, "weight");
  const Tensor x = laid_out(input, false), weight = laid_out(given_weight, false);
  const LocalShape shape = local_shape(x, channels, filters, window);
  Ints sizes = {x.size(0), filters};
  sizes.insert(sizes.end(), output.begin(), output.end());
  Given bias;
  if (given_bias) {
    check(given_bias->numel() == filters * shape.places(), "a bias has a number for each output");
    check_like(input, *given_bias, "bias");
    bias = laid_out(*given_bias, false);
  }
  Tensor y = new_tensor(sizes, x.scalar_type());
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (y.numel() > 0)
      kernels<T>().local->forward(shape, pointer<T>(x), pointer<T>(weight), pointer<T>(bias), pointer<T>(y));
  });
  return in_format(y, channels_last);
}

Tensor local_input(const Tensor& gradient, const Tensor& given_weight, Ints input, Ints stride, Ints dilation,
                   Ints before, bool channels_last) {
  const auto [output, size] = local_axes(given_weight);
  const Window window = resolve(input, output, size, stride, dilation, before);
  const int64_t filters = given_weight.size(0), channels = given_weight.size(1);
  Ints sizes = {gradient.size(0), filters};
  sizes.insert(sizes.end(), output.begin(), output.end());
  check_sizes(gradient, sizes, "dy");
  check_like(gradient, given_weight, "weight");
  const Tensor dy = laid_out(gradient, false), weight = laid_out(given_weight, false);
  const LocalShape shape = local_shape(dy, channels, filters, window);
  sizes = {dy.size(0), channels};
  sizes.insert(sizes.end(), input.begin(), input.end());
  Tensor dx = new_tensor(sizes, dy.scalar_type());
  for_float(dy, [&](auto zero) {
    using T = decltype(zero);
    if (dx.numel() > 0) kernels<T>().local->input(shape, pointer<T>(dy), pointer<T>(weight), pointer<T>(dx));
  });
  return in_format(dx, channels_last);
}

Tensor local_weight(const Tensor& gradient, const Tensor& input, Ints size, Ints stride, Ints dilation, Ints before) {
  const Ints output = spatial(gradient, size.size());
  const Window window = resolve(spatial(input, size.size()), output, size, stride, dilation, before);
  check(gradient.size(0) == input.size(0) && input.size(0) > 0, "x and dy have one batch, and it is not empty");
  check_like(input, gradient, "dy");
  const Tensor x = laid_out(input, false), dy = laid_out(gradient, false);
  const LocalShape shape = local_shape(x, x.size(1), dy.size(1), window);
  Ints sizes = {shape.filters, shape.channels};
  sizes.insert(sizes.end(), output.begin(), output.end());
  sizes.insert(sizes.end(), size.begin(), size.end());
  Tensor dw = new_tensor(sizes, x.scalar_type());
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (dw.numel() > 0) kernels<T>().local->weight(shape, pointer<T>(dy), pointer<T>(x), pointer<T>(dw));
  });
  return dw;
}

// ------------------------------------------------------------------------------------------------------ normalization

// How the operators' integers stand for norm.h's enumerations; ops/norm.py has the same.
constexpr int64_t kAlongChannels = 0, kAlongElements = 1, kAlongPlaces = 2;

NormShape norm_shape(const Tensor& x, int64_t batches, int64_t groups, int64_t along, bool channels_last) {
  check(batches > 0 && groups > 0, "a normalization has batches and groups");
  if (along == kAlongElements) {
    check(x.numel() % batches == 0, "rows divide what there is");
    return {batches, 1, 1, 1, x.numel() / batches, false, Along::kElements};
  }
  check(x.dim() >= 2, "an input has a batch and channels");
  const int64_t N = x.size(0), C = x.size(1);
  int64_t places = 1;
  for (int64_t d = 2; d < x.dim(); ++d) places *= x.size(d);
  if (along == kAlongPlaces) {
    if (channels_last || places == 1) return {N * places, 1, 1, 1, C, false, Along::kElements};
    return {N, 1, 1, C, places, false, Along::kRows};
  }
  check(along == kAlongChannels && N % batches == 0 && C % groups == 0,
        "batches divide the batch, and groups the channels");
  return {batches, N / batches, groups, C / groups, places, channels_last || places == 1, Along::kChannels};
}

// What gamma and beta hold.
int64_t scaled(const NormShape& s) { return s.along == Along::kElements ? s.places : s.all_channels(); }

// gamma and beta in the order of x's memory; `sizes` are theirs in that order.
Given scale_laid_out(const Given& parameter, const Tensor& x, const NormShape& shape, int64_t along,
                     bool channels_last) {
  if (!parameter) return parameter;
  check(parameter->numel() == scaled(shape), "scale and shift have a number for each of what they run along");
  check(parameter->scalar_type() == x.scalar_type(), "scale and shift are of the input's type");
  if (along != kAlongElements || !channels_last) return laid_out(*parameter, false);
  return laid_out(torch::stable::unsqueeze(*parameter, 0), true);
}
Tensor new_scale(const Tensor& x, const Tensor& parameter, int64_t along, bool channels_last, bool wanted) {
  if (!wanted) return new_tensor({0}, x.scalar_type());
  const auto have = parameter.sizes();
  Ints sizes(have.begin(), have.end());
  if (along != kAlongElements || !channels_last) return new_tensor(sizes, x.scalar_type(), false);
  sizes.insert(sizes.begin(), 1);
  return new_tensor(sizes, x.scalar_type(), true);
}

Given residual_laid_out(const Given& residual, const Tensor& x, bool channels_last) {
  if (!residual) return residual;
  const auto sizes = x.sizes();
  check_sizes(*residual, Ints(sizes.begin(), sizes.end()), "residual");
  check(residual->scalar_type() == x.scalar_type(), "residual is of the input's type");
  return laid_out(*residual, channels_last);
}

Activation activation_of(int64_t number) {
  check(number >= 0 && number <= 3, "an activation is 0, 1, 2 or 3");
  return static_cast<Activation>(number);
}

Tensor norm_measure(const Tensor& input, int64_t batches, int64_t groups, int64_t along, bool channels_last,
                    bool centered) {
  const Tensor x = laid_out(input, channels_last);
  const NormShape shape = norm_shape(x, batches, groups, along, channels_last);
  Tensor statistics = new_statistics(shape.sets());
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    NormForward<T> f = {};
    f.x = pointer<T>(x), f.mean = doubles(statistics, shape.sets(), 0),
    f.variance = doubles(statistics, shape.sets(), 1);
    f.centered = centered;
    kernels<T>().norm->forward(shape, f);
  });
  return statistics;
}

std::tuple<Tensor, Tensor> norm(const Tensor& input, const Given& given_residual, const Given& weight,
                                const Given& bias, const Given& mean, const Given& variance, int64_t batches,
                                int64_t groups, int64_t along, bool channels_last, bool centered, double eps,
                                int64_t activation, double slope, const Given& measured) {
  const Tensor x = laid_out(input, channels_last);
  const NormShape shape = norm_shape(x, batches, groups, along, channels_last);
  const Given residual = residual_laid_out(given_residual, x, channels_last);
  const Given gamma = scale_laid_out(weight, x, shape, along, channels_last),
              beta = scale_laid_out(bias, x, shape, along, channels_last);
  const auto sizes = x.sizes();
  Tensor y = new_tensor(Ints(sizes.begin(), sizes.end()), x.scalar_type(), channels_last);
  const int64_t sets = shape.sets();
  Tensor statistics = new_statistics(sets);
  double *means = doubles(statistics, sets, 0), *variances = doubles(statistics, sets, 1);
  if (mean) {
    check(variance && mean->numel() == sets && variance->numel() == sets,
          "a mean and a variance are given for each set");
    const Tensor from[2] = {laid_out(*mean, false), laid_out(*variance, false)};
    for (int k = 0; k < 2; ++k)
      for_float(from[k], [&](auto zero) {
        using T = decltype(zero);
        for (int64_t i = 0; i < sets; ++i) means[k * sets + i] = double(static_cast<const T*>(from[k].data_ptr())[i]);
      });
    for (int64_t i = 0; i < sets; ++i)
      check(!(variances[i] < 0), "running variances are at least 0, got " + std::to_string(variances[i]) +
                                     " in channel " + std::to_string(i) + ". reset_running_stats() starts them anew.");
  }
  bool known = measured.has_value();
  if (known) {
    const double* from[2] = {doubles(*measured, sets, 0), doubles(*measured, sets, 1)};
    for (int64_t i = 0; i < sets; ++i) {
      means[i] = from[0][i], variances[i] = from[1][i];
      known = known && variances[i] <
                           std::numeric_limits<double>::infinity();  // where squares overflowed they are measured again
    }
  }
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    const NormForward<T> f = {pointer<T>(x),
                              pointer<T>(residual),
                              pointer<T>(gamma),
                              pointer<T>(beta),
                              pointer<T>(y),
                              means,
                              variances,
                              mean.has_value() || known,
                              centered,
                              eps,
                              activation_of(activation),
                              T(slope)};
    kernels<T>().norm->forward(shape, f);
  });
  return {y, statistics};
}

template <class Run>
void with_backward(const Tensor& gradient, const Tensor& input, const Given& given_residual, const Given& weight,
                   const Given& bias, const Tensor& statistics, int64_t batches, int64_t groups, int64_t along,
                   bool channels_last, bool centered, double eps, int64_t activation, double slope, const Run& run) {
  const Tensor x = laid_out(input, channels_last), dy = laid_out(gradient, channels_last);
  const auto sizes = x.sizes();
  check_sizes(dy, Ints(sizes.begin(), sizes.end()), "dy");
  check(dy.scalar_type() == x.scalar_type(), "dy is of the input's type");
  const NormShape shape = norm_shape(x, batches, groups, along, channels_last);
  const Given residual = residual_laid_out(given_residual, x, channels_last);
  const Given gamma = scale_laid_out(weight, x, shape, along, channels_last),
              beta = scale_laid_out(bias, x, shape, along, channels_last);
  const Tensor kept = laid_out(statistics, false);
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    NormBackward<T> b = {};
    b.dy = pointer<T>(dy), b.x = pointer<T>(x), b.residual = pointer<T>(residual), b.gamma = pointer<T>(gamma),
    b.beta = pointer<T>(beta);
    b.mean = doubles(kept, shape.sets(), 0), b.variance = doubles(kept, shape.sets(), 1);
    b.centered = centered, b.eps = eps, b.activation = activation_of(activation), b.slope = T(slope);
    run(shape, b);
  });
}

// wanted: 1 dx, 2 dresidual, 4 dweight, 8 dbias; the others come back empty.
std::tuple<Tensor, Tensor, Tensor, Tensor> norm_backward(const Tensor& dy, const Tensor& x, const Given& residual,
                                                         const Given& weight, const Given& bias,
                                                         const Tensor& statistics, const Given& means, int64_t batches,
                                                         int64_t groups, int64_t along, bool channels_last,
                                                         bool centered, double eps, int64_t activation, double slope,
                                                         bool constant, int64_t wanted) {
  const auto have = x.sizes();
  const Ints sizes(have.begin(), have.end());
  const auto like_x = [&](bool is_wanted) {
    return is_wanted ? new_tensor(sizes, x.scalar_type(), channels_last) : new_tensor({0}, x.scalar_type());
  };
  check((!(wanted & 4) || weight) && (!(wanted & 8) || bias), "gradients are of what there is");
  Tensor dx = like_x(wanted & 1), dresidual = like_x(wanted & 2);
  Tensor dweight = new_scale(x, weight.value_or(x), along, channels_last, wanted & 4);
  Tensor dbias = new_scale(x, bias.value_or(x), along, channels_last, wanted & 8);
  with_backward(dy, x, residual, weight, bias, statistics, batches, groups, along, channels_last, centered, eps,
                activation, slope, [&](const NormShape& shape, auto b) {
                  using T = std::remove_const_t<std::remove_pointer_t<decltype(b.dx)>>;
                  b.dx = pointer<T>(dx), b.dresidual = pointer<T>(dresidual), b.dgamma = pointer<T>(dweight),
                  b.dbeta = pointer<T>(dbias);
                  b.constant = constant;
                  if (means)
                    b.gradient_mean = doubles(*means, shape.sets(), 0),
                    b.product_mean = doubles(*means, shape.sets(), 1);
                  kernels<T>().norm->backward(shape, b);
                });
  const auto as_parameter = [&](const Tensor& d, bool is_wanted) {
    return is_wanted && along == kAlongElements && channels_last ? torch::stable::squeeze(d, 0) : d;
  };
  return {dx, dresidual, as_parameter(dweight, wanted & 4), as_parameter(dbias, wanted & 8)};
}

Tensor norm_sums(const Tensor& dy, const Tensor& x, const Given& residual, const Given& weight, const Given& bias,
                 const Tensor& statistics, bool channels_last, double eps, int64_t activation, double slope) {
  const int64_t C = x.size(1);
  Tensor sums = new_statistics(C);
  with_backward(dy, x, residual, weight, bias, statistics, 1, C, kAlongChannels, channels_last, true, eps, activation,
                slope, [&](const NormShape& shape, auto b) {
                  using T = std::remove_const_t<std::remove_pointer_t<decltype(b.dx)>>;
                  b.constant = true, b.sums = doubles(sums, C, 0);
                  kernels<T>().norm->backward(shape, b);
                });
  return sums;
}

// r ← (1 - momentum)·r + momentum·batch, of the mean over what was measured apart; the variance unbiased, of `count`
// values.
void norm_update(const Tensor& mean, const Tensor& variance, const Tensor& statistics, int64_t count, double momentum) {
  const int64_t sets = statistics.size(1), C = mean.numel();
  check(variance.numel() == C && C > 0 && sets % C == 0, "running statistics are one number a channel");
  for (const Tensor* r : {&mean, &variance}) for_float(*r, [](auto) {});  // before either changes
  const double unbiased = double(count) / double(count - 1);
  const Tensor* running[2] = {&mean, &variance};
  for (int k = 0; k < 2; ++k) {
    const double *batch = doubles(statistics, sets, k), times = k == 0 ? 1 : unbiased;
    const int64_t stride = running[k]->stride(0);
    for_float(*running[k], [&](auto zero) {
      using T = decltype(zero);
      T* r = static_cast<T*>(running[k]->data_ptr());
      for (int64_t c = 0; c < C; ++c) {
        double sum = 0;
        for (int64_t i = c; i < sets; i += C) sum += batch[i];
        r[c * stride] = T((1 - momentum) * double(r[c * stride]) + momentum * times * (sum / double(sets / C)));
      }
    });
  }
}

LocalResponse local_response_shape(const Tensor& x, int64_t size, double alpha, double beta, double k,
                                   bool channels_last) {
  check(x.dim() >= 2 && size >= 1, "an input has a batch and channels, a window at least one");
  int64_t places = 1;
  for (int64_t d = 2; d < x.dim(); ++d) places *= x.size(d);
  return {x.size(0), x.size(1), places, channels_last || places == 1, size, alpha, beta, k};
}

Tensor local_response(const Tensor& input, int64_t size, double alpha, double beta, double k, bool channels_last) {
  const Tensor x = laid_out(input, channels_last);
  const auto sizes = x.sizes();
  Tensor y = new_tensor(Ints(sizes.begin(), sizes.end()), x.scalar_type(), channels_last);
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (y.numel() > 0)
      kernels<T>().local_response->forward(local_response_shape(x, size, alpha, beta, k, channels_last), pointer<T>(x),
                                           pointer<T>(y));
  });
  return y;
}

Tensor local_response_backward(const Tensor& gradient, const Tensor& input, int64_t size, double alpha, double beta,
                               double k, bool channels_last) {
  const Tensor x = laid_out(input, channels_last), dy = laid_out(gradient, channels_last);
  const auto sizes = x.sizes();
  check_sizes(dy, Ints(sizes.begin(), sizes.end()), "dy");
  check(dy.scalar_type() == x.scalar_type(), "dy is of the input's type");
  Tensor dx = new_tensor(Ints(sizes.begin(), sizes.end()), x.scalar_type(), channels_last);
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (dx.numel() > 0)
      kernels<T>().local_response->backward(local_response_shape(x, size, alpha, beta, k, channels_last),
                                            pointer<T>(dy), pointer<T>(x), pointer<T>(dx));
  });
  return dx;
}

// -------------------------------------------------------------------------------------------------------------- about

// Names with a space between two, as bytes: the stable ABI of torch 2.13 leaks every text that an operator takes or
// gives.
Ints as_bytes(int64_t count, const auto& name) {
  std::string names;
  for (int64_t k = 0; k < count; ++k) names.append(k ? " " : "").append(name(k));
  return Ints(names.begin(), names.end());
}

Ints conv_methods() {
  return as_bytes(kMethods, [](int64_t k) { return kMethodNames[k]; });
}

Ints isa_available() {
  int count;
  const Kernels* const* list = available_kernels(&count);
  return as_bytes(count, [&](int64_t k) { return list[k]->isa; });
}

// By the number in what is available.
int64_t isa_chosen() {
  int count;
  const Kernels *const *list = available_kernels(&count), *chosen = &chosen_kernels();
  int64_t number = 0;
  while (list[number] != chosen) ++number;
  return number;
}
void isa_choose(int64_t number) {
  int count;
  const Kernels* const* list = available_kernels(&count);
  check_number(number, count, "an instruction set", [&](int64_t k) { return list[k]->isa; });
  use_kernels(number);
}

}  // namespace

STABLE_TORCH_LIBRARY(striate, m) {
  m.def(
      "max_pool_offset(Tensor x, SymInt[] output, SymInt[] size, SymInt[] stride, SymInt[] dilation, SymInt[] before, "
      "bool channels_last, bool keep) -> (Tensor, Tensor)");
  m.def(
      "max_pool_offset_backward(Tensor dy, Tensor offset, SymInt[] input, SymInt[] size, SymInt[] stride, SymInt[] "
      "dilation, "
      "SymInt[] before, bool channels_last) -> Tensor");
  m.def(
      "offset_to_index(Tensor offset, SymInt[] input, SymInt[] size, SymInt[] stride, SymInt[] dilation, SymInt[] "
      "before, "
      "bool channels_last) -> Tensor");
  m.def(
      "max_pool_index(Tensor x, SymInt[] output, SymInt[] size, SymInt[] stride, SymInt[] dilation, SymInt[] before, "
      "bool channels_last) -> (Tensor, Tensor)");
  m.def("max_pool_index_backward(Tensor dy, Tensor index, SymInt[] input, bool channels_last) -> Tensor");
  m.def(
      "avg_pool(Tensor x, SymInt[] output, SymInt[] size, SymInt[] stride, SymInt[] before, SymInt[] after, bool "
      "channels_last, "
      "bool count_include_pad, int? divisor_override) -> Tensor");
  m.def(
      "avg_pool_backward(Tensor dy, SymInt[] input, SymInt[] size, SymInt[] stride, SymInt[] before, SymInt[] after, "
      "bool channels_last, bool count_include_pad, int? divisor_override) -> Tensor");
  const std::string geometry =
      "SymInt[] stride, SymInt[] dilation, SymInt[] before, SymInt groups, bool channels_last, int method";
  m.def(("conv(Tensor x, Tensor weight, Tensor? bias, SymInt[] output, " + geometry + ") -> Tensor").c_str());
  m.def(("conv_input(Tensor dy, Tensor weight, Tensor? bias, SymInt[] input, " + geometry + ") -> Tensor").c_str());
  m.def(("conv_weight(Tensor dy, Tensor x, SymInt[] size, " + geometry + ", bool weight_channels_last=False) -> Tensor")
            .c_str());
  m.def("conv_bias(Tensor dy, bool channels_last) -> Tensor");
  m.def(
      "conv_fused(Tensor x, Tensor weight, Tensor? packed, Tensor? bias, Tensor? residual, float low, float high, "
      "SymInt[] output, "
      "SymInt[] stride, SymInt[] dilation, SymInt[] before, SymInt groups, bool channels_last, int method) -> Tensor");
  m.def(
      "conv_measured(Tensor x, Tensor weight, Tensor? bias, SymInt[] output, SymInt[] stride, SymInt[] dilation, "
      "SymInt[] before, "
      "SymInt groups, bool channels_last, int method) -> (Tensor, Tensor)");
  m.def("conv_pack(Tensor weight, SymInt groups, int method) -> Tensor");
  m.def(
      "local(Tensor x, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] dilation, SymInt[] before, bool "
      "channels_last) -> Tensor");
  m.def(
      "local_input(Tensor dy, Tensor weight, SymInt[] input, SymInt[] stride, SymInt[] dilation, SymInt[] before, "
      "bool channels_last) -> Tensor");
  m.def(
      "local_weight(Tensor dy, Tensor x, SymInt[] size, SymInt[] stride, SymInt[] dilation, SymInt[] before) -> "
      "Tensor");
  m.def(
      "norm(Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? variance, SymInt batches, "
      "SymInt groups, "
      "int along, bool channels_last, bool centered, float eps, int activation, float slope, Tensor? measured=None) -> "
      "(Tensor, Tensor)");
  m.def(
      "norm_backward(Tensor dy, Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor statistics, Tensor? "
      "means, "
      "SymInt batches, SymInt groups, int along, bool channels_last, bool centered, float eps, int activation, float "
      "slope, "
      "bool constant, int wanted) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "norm_measure(Tensor x, SymInt batches, SymInt groups, int along, bool channels_last, bool centered) -> Tensor");
  m.def(
      "norm_sums(Tensor dy, Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor statistics, bool "
      "channels_last, "
      "float eps, int activation, float slope) -> Tensor");
  m.def("local_response(Tensor x, SymInt size, float alpha, float beta, float k, bool channels_last) -> Tensor");
  m.def(
      "local_response_backward(Tensor dy, Tensor x, SymInt size, float alpha, float beta, float k, bool channels_last) "
      "-> "
      "Tensor");
  m.def("norm_update(Tensor(a!) mean, Tensor(b!) variance, Tensor statistics, SymInt count, float momentum) -> ()");
  m.def("conv_methods() -> int[]");
  m.def("isa_available() -> int[]");
  m.def("isa_chosen() -> int");
  m.def("isa_choose(int number) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(striate, CPU, m) {
  m.impl("max_pool_offset", TORCH_BOX(&max_pool_offset));
  m.impl("max_pool_offset_backward", TORCH_BOX(&max_pool_offset_backward));
  m.impl("offset_to_index", TORCH_BOX(&offset_to_index));
  m.impl("max_pool_index", TORCH_BOX(&max_pool_index));
  m.impl("max_pool_index_backward", TORCH_BOX(&max_pool_index_backward));
  m.impl("avg_pool", TORCH_BOX(&avg_pool));
  m.impl("avg_pool_backward", TORCH_BOX(&avg_pool_backward));
  m.impl("conv", TORCH_BOX(&conv));
  m.impl("conv_input", TORCH_BOX(&conv_input));
  m.impl("conv_weight", TORCH_BOX(&conv_weight));
  m.impl("conv_bias", TORCH_BOX(&conv_bias));
  m.impl("conv_fused", TORCH_BOX(&conv_fused));
  m.impl("conv_measured", TORCH_BOX(&conv_measured));
  m.impl("conv_pack", TORCH_BOX(&conv_pack));
  m.impl("local", TORCH_BOX(&local));
  m.impl("local_input", TORCH_BOX(&local_input));
  m.impl("local_weight", TORCH_BOX(&local_weight));
  m.impl("norm", TORCH_BOX(&norm));
  m.impl("norm_backward", TORCH_BOX(&norm_backward));
  m.impl("norm_measure", TORCH_BOX(&norm_measure));
  m.impl("norm_sums", TORCH_BOX(&norm_sums));
  m.impl("local_response", TORCH_BOX(&local_response));
  m.impl("local_response_backward", TORCH_BOX(&local_response_backward));
  m.impl("norm_update", TORCH_BOX(&norm_update));
}

STABLE_TORCH_LIBRARY_IMPL(striate, CompositeExplicitAutograd, m) {
  m.impl("conv_methods", TORCH_BOX(&conv_methods));
  m.impl("isa_available", TORCH_BOX(&isa_available));
  m.impl("isa_chosen", TORCH_BOX(&isa_chosen));
  m.impl("isa_choose", TORCH_BOX(&isa_choose));
}

}  // namespace striate
