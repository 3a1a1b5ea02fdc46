// Convolution, its passes and its gradients. The schemas are at the end.
#include <cstring>
#include <limits>

#include "bindings/common.h"
#include "bindings/conv_edges.h"
#include "core/dispatch.h"
#include "core/parallel.h"

namespace striate {
namespace {

// The shape of a convolution, with checks of everything that bounds the kernels' memory. `like_x` is x, y or a gradient
// of either: its batch counts.
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
  // The largest band of one row of destinations: see kernels/conv/bands.h and direct.cpp.
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

Method method_of(int64_t number) {
  check_number(number, kMethods, "a method of convolution", [](int64_t k) { return kMethodNames[k]; });
  return static_cast<Method>(number);
}

template <class T>
const ConvKernels<T>& conv_kernels(Method method) {
  return *kernels<T>().conv[static_cast<int64_t>(method)];
}

// Checks that there is a Winograd tile: along each axis of more than one tap 4 outputs of 3 taps, or 2 of 3 or of 5,
// the same along both axes.
void check_winograd(const Window& w, Method method) {
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

constexpr int64_t kMaxImplicitGemm = int64_t(1) << 20;  // values of a row; ops/conv/ has the same

// Checks that implicit_gemm.cpp can compute the pass.
void check_implicit_gemm(bool adjoint, const ConvShape& s, Method method) {
  if (method != Method::implicit_gemm) return;
  check(s.channels_last, "implicit_gemm takes NHWC alone");
  check(s.taps() * ((adjoint ? s.filters : s.channels) / s.groups + 15) <= kMaxImplicitGemm,
        "a destination sees at most a million values");
}

void check_pointwise(const ConvShape& s, Method method) {
  if (method != Method::pointwise) return;
  for (const Axis& a : {s.window.depth, s.window.height, s.window.width})
    check(a.size == 1 && a.before == 0 && (a.output - 1) * a.stride < a.input, "pointwise is for one tap, no padding");
}

bool weight_is_channels_last(const Tensor& w) { return !has_layout(w, false) && has_layout(w, true); }

// What is done to the sums (see Epilogue). statistics, if wanted: (2, channels), each channel's mean and variance.
struct EpilogueOptions {
  OptionalTensor residual;
  int64_t activation = 0;  // with low and high as activation_of takes them
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  OptionalTensor statistics;
};

// Forward, or with `adjoint` backward_data; `axes` are the spatial sizes of the result. `packed` is this weight as
// conv_pack made it.
Tensor conv_activations(bool adjoint, const Tensor& source, const Tensor& weight, const OptionalTensor& bias,
                        const Ints& axes, const Ints& stride, const Ints& dilation, const Ints& before, int64_t groups,
                        bool channels_last, int64_t number, const OptionalTensor& packed = {},
                        const EpilogueOptions& options = {}) {
  const Method method = method_of(number);
  const Ints size = spatial_sizes(weight, axes.size()), have = spatial_sizes(source, axes.size());
  const Window window = adjoint ? resolve(axes, have, size, stride, dilation, before)
                                : resolve(have, axes, size, stride, dilation, before);
  const int64_t filters = weight.size(0), channels = weight.size(1) * groups;
  check(source.size(1) == (adjoint ? filters : channels), "a weight fits the channels");
  check_same_type(source, weight, "weight");
  const Tensor x = with_layout(source, channels_last);
  const bool last = weight_is_channels_last(weight);
  const Tensor w = last ? weight : with_layout(weight, false);
  OptionalTensor b;
  if (bias) {
    check(bias->numel() == (adjoint ? channels : filters), "a bias has a number for each channel");
    check_same_type(source, *bias, "bias");
    b = with_layout(*bias, false);
  }
  const ConvShape shape = conv_shape(x, channels, filters, window, groups, channels_last);
  Ints sizes = {x.size(0), adjoint ? channels : filters};
  sizes.insert(sizes.end(), axes.begin(), axes.end());
  Tensor y = new_tensor(sizes, x.scalar_type(), channels_last);
  check_winograd(window, method);
  check_implicit_gemm(adjoint, shape, method);
  check_pointwise(shape, method);
  OptionalTensor residual = options.residual;
  if (residual) {
    check_sizes(*residual, sizes, "residual");
    check_same_type(source, *residual, "residual");
    residual = with_layout(*residual, channels_last);
  }
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (y.numel() == 0) return;
    const ConvKernels<T>& k = conv_kernels<T>(method);
    Epilogue<T> e = {pointer<T>(b), pointer<T>(residual),
                     activation_of<T>(options.activation, options.low, options.high), nullptr, nullptr};
    if (options.statistics) {
      check(k.pack || (method == Method::pointwise && channels_last),
            "only winograd, implicit_gemm, and pointwise in NHWC measure what they write");
      e.mean = statistics_row(*options.statistics, sizes[1], 0),
      e.variance = statistics_row(*options.statistics, sizes[1], 1);
    }
    if (packed) {
      check(k.pack && !adjoint && packed->numel() == k.packed_size(shape), "a packed weight is of this method and map");
      check_same_type(source, *packed, "a packed weight");
    }
    (adjoint ? k.backward_data : k.forward)(shape, pointer<T>(x), {pointer<T>(w), last, pointer<T>(packed)}, e,
                                            pointer<T>(y));
    recompute_edges<T>(shape, adjoint, pointer<T>(x), {pointer<T>(w), last}, e, *kernels<T>().activate, pointer<T>(y));
  });
  return y;
}

Tensor conv(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, Ints output, Ints stride, Ints dilation,
            Ints before, int64_t groups, bool channels_last, int64_t method) {
  return conv_activations(false, x, weight, bias, output, stride, dilation, before, groups, channels_last, method);
}

Tensor conv_backward_data(const Tensor& dy, const Tensor& weight, const OptionalTensor& bias, Ints input, Ints stride,
                          Ints dilation, Ints before, int64_t groups, bool channels_last, int64_t method) {
  return conv_activations(true, dy, weight, bias, input, stride, dilation, before, groups, channels_last, method);
}

// y = activation(conv + bias + residual), for inference: it has no gradient.
Tensor conv_fused(const Tensor& x, const Tensor& weight, const OptionalTensor& packed, const OptionalTensor& bias,
                  const OptionalTensor& residual, int64_t activation, double low, double high, Ints output, Ints stride,
                  Ints dilation, Ints before, int64_t groups, bool channels_last, int64_t method) {
  return conv_activations(false, x, weight, bias, output, stride, dilation, before, groups, channels_last, method,
                          packed, {residual, activation, low, high, {}});
}

// y, and the mean and variance of each of its channels.
std::tuple<Tensor, Tensor> conv_measured(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, Ints output,
                                         Ints stride, Ints dilation, Ints before, int64_t groups, bool channels_last,
                                         int64_t method) {
  EpilogueOptions options;
  options.statistics = new_statistics(weight.size(0));
  Tensor y = conv_activations(false, x, weight, bias, output, stride, dilation, before, groups, channels_last, method,
                              {}, options);
  return {y, *options.statistics};
}

// Packs a weight for the forward pass of a method, for conv_fused. Empty where a method uses the weight as it is.
Tensor conv_pack(const Tensor& weight, int64_t groups, int64_t number) {
  const Method method = method_of(number);
  check(weight.dim() >= 3 && weight.numel() > 0, "a weight has filters, channels and taps");
  const Ints size = spatial_sizes(weight, size_t(weight.dim()) - 2), ones(size.size(), 1), zeros(size.size(), 0);
  const Window window = resolve(size, ones, size, ones, ones, zeros);
  check_winograd(window, method);
  const bool last = weight_is_channels_last(weight);
  const Tensor w = last ? weight : with_layout(weight, false);
  const ConvShape shape = conv_shape(w, w.size(1) * groups, w.size(0), window, groups, false);
  OptionalTensor packed;
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

Tensor conv_backward_weights(const Tensor& gradient, const Tensor& input, Ints size, Ints stride, Ints dilation,
                             Ints before, int64_t groups, bool channels_last, int64_t number,
                             bool weight_channels_last) {
  const Method method = method_of(number);
  const Window window =
      resolve(spatial_sizes(input, size.size()), spatial_sizes(gradient, size.size()), size, stride, dilation, before);
  check(gradient.size(0) == input.size(0) && input.size(0) > 0, "x and dy have one batch, and it is not empty");
  check_same_type(input, gradient, "dy");
  const Tensor x = with_layout(input, channels_last), dy = with_layout(gradient, channels_last);
  ConvShape shape = conv_shape(x, x.size(1), dy.size(1), window, groups, channels_last);
  shape.weight_channels_last = weight_channels_last;
  Ints sizes = {shape.filters, shape.channels / groups};
  sizes.insert(sizes.end(), size.begin(), size.end());
  Tensor dw = new_tensor(sizes, x.scalar_type(), weight_channels_last);
  check_winograd(window, method);
  check_implicit_gemm(false, shape, method);
  check_pointwise(shape, method);
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    const ConvKernels<T>& k = conv_kernels<T>(method);
    check(k.backward_weights, "the method has a weight gradient");
    if (dw.numel() == 0) return;
    k.backward_weights(shape, pointer<T>(dy), pointer<T>(x), pointer<T>(dw));
    recompute_weight_edges<T>(shape, pointer<T>(dy), pointer<T>(x), pointer<T>(dw));
  });
  return dw;
}

Tensor conv_bias(const Tensor& gradient, bool channels_last) {
  check(gradient.dim() >= 3, "dy has a batch, channels and places");
  const Tensor dy = with_layout(gradient, channels_last);
  const int64_t N = dy.size(0), C = dy.size(1);
  check(dy.numel() > 0, "dy holds something");
  Tensor db = new_tensor({C}, dy.scalar_type());
  for_float(dy, [&](auto zero) {
    using T = decltype(zero);
    (*kernels<T>().bias)(N, C, dy.numel() / N / C, channels_last, pointer<T>(dy), pointer<T>(db));
  });
  return db;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(striate, m) {
  const std::string geometry =
      "SymInt[] stride, SymInt[] dilation, SymInt[] before, SymInt groups, bool channels_last, int method";
  m.def(("conv(Tensor x, Tensor weight, Tensor? bias, SymInt[] output, " + geometry + ") -> Tensor").c_str());
  m.def(("conv_backward_data(Tensor dy, Tensor weight, Tensor? bias, SymInt[] input, " + geometry + ") -> Tensor")
            .c_str());
  m.def(("conv_backward_weights(Tensor dy, Tensor x, SymInt[] size, " + geometry +
         ", bool weight_channels_last=False) -> Tensor")
            .c_str());
  m.def("conv_bias(Tensor dy, bool channels_last) -> Tensor");
  m.def(
      "conv_fused(Tensor x, Tensor weight, Tensor? packed, Tensor? bias, Tensor? residual, int activation, float low, "
      "float high, SymInt[] output, SymInt[] stride, SymInt[] dilation, SymInt[] before, SymInt groups, bool "
      "channels_last, "
      "int method) -> Tensor");
  m.def(
      "conv_measured(Tensor x, Tensor weight, Tensor? bias, SymInt[] output, SymInt[] stride, SymInt[] dilation, "
      "SymInt[] before, SymInt groups, bool channels_last, int method) -> (Tensor, Tensor)");
  m.def("conv_pack(Tensor weight, SymInt groups, int method) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(striate, CPU, m) {
  m.impl("conv", TORCH_BOX(&conv));
  m.impl("conv_backward_data", TORCH_BOX(&conv_backward_data));
  m.impl("conv_backward_weights", TORCH_BOX(&conv_backward_weights));
  m.impl("conv_bias", TORCH_BOX(&conv_bias));
  m.impl("conv_fused", TORCH_BOX(&conv_fused));
  m.impl("conv_measured", TORCH_BOX(&conv_measured));
  m.impl("conv_pack", TORCH_BOX(&conv_pack));
}

}  // namespace striate
