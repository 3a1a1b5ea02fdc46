// Locally connected layers. The schemas are at the end.
#include "bindings/common.h"
#include "core/dispatch.h"

namespace striate {
namespace {

// The shape of a locally connected layer. `like_x` is x, y or a gradient of either: its batch counts.
LocalShape local_shape(const Tensor& like_x, int64_t channels, int64_t filters, const Window& window) {
  __int128 values = like_x.size(0);
  for (const Axis& a : {window.depth, window.height, window.width})
    values *= (a.output - 1) * a.stride + (a.size - 1) * a.dilation + 1,
        check(values < kMaxExtent, "a padded input has fewer than 2^62 values");
  check(channels > 0 && filters > 0 && values * channels < (int64_t(1) << 40),
        "a padded input has fewer than 2^40 values");
  return {window, like_x.size(0), channels, filters};
}

Tensor in_format(const Tensor& x, bool channels_last) { return channels_last ? with_layout(x, true) : x; }

// The sizes of the output and of the taps, from a weight of (filters, channels, *output, *taps).
std::tuple<Ints, Ints> local_axes(const Tensor& weight) {
  const auto sizes = weight.sizes();
  check((sizes.size() == 4 || sizes.size() == 6 || sizes.size() == 8) && weight.numel() > 0,
        "a weight has filters, channels, places and taps");
  const auto middle = sizes.begin() + 2 + (sizes.size() - 2) / 2;
  return {Ints(sizes.begin() + 2, middle), Ints(middle, sizes.end())};
}

Tensor local(const Tensor& input, const Tensor& given_weight, const OptionalTensor& given_bias, Ints stride,
             Ints dilation, Ints before, bool channels_last) {
  const auto [output, size] = local_axes(given_weight);
  const Window window = resolve(spatial_sizes(input, output.size()), output, size, stride, dilation, before);
  const int64_t filters = given_weight.size(0), channels = given_weight.size(1);
  check(input.size(1) == channels, "a weight fits the channels");
  check_same_type(input, given_weight, "weight");
  const Tensor x = with_layout(input, false), weight = with_layout(given_weight, false);
  const LocalShape shape = local_shape(x, channels, filters, window);
  Ints sizes = {x.size(0), filters};
  sizes.insert(sizes.end(), output.begin(), output.end());
  OptionalTensor bias;
  if (given_bias) {
    check(given_bias->numel() == filters * shape.positions(), "a bias has a number for each output");
    check_same_type(input, *given_bias, "bias");
    bias = with_layout(*given_bias, false);
  }
  Tensor y = new_tensor(sizes, x.scalar_type());
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (y.numel() > 0)
      kernels<T>().local->forward(shape, pointer<T>(x), pointer<T>(weight), pointer<T>(bias), pointer<T>(y));
  });
  return in_format(y, channels_last);
}

Tensor local_backward_data(const Tensor& gradient, const Tensor& given_weight, Ints input, Ints stride, Ints dilation,
                           Ints before, bool channels_last) {
  const auto [output, size] = local_axes(given_weight);
  const Window window = resolve(input, output, size, stride, dilation, before);
  const int64_t filters = given_weight.size(0), channels = given_weight.size(1);
  Ints sizes = {gradient.size(0), filters};
  sizes.insert(sizes.end(), output.begin(), output.end());
  check_sizes(gradient, sizes, "dy");
  check_same_type(gradient, given_weight, "weight");
  const Tensor dy = with_layout(gradient, false), weight = with_layout(given_weight, false);
  const LocalShape shape = local_shape(dy, channels, filters, window);
  sizes = {dy.size(0), channels};
  sizes.insert(sizes.end(), input.begin(), input.end());
  Tensor dx = new_tensor(sizes, dy.scalar_type());
  for_float(dy, [&](auto zero) {
    using T = decltype(zero);
    if (dx.numel() > 0) kernels<T>().local->backward_data(shape, pointer<T>(dy), pointer<T>(weight), pointer<T>(dx));
  });
  return in_format(dx, channels_last);
}

Tensor local_backward_weights(const Tensor& gradient, const Tensor& input, Ints size, Ints stride, Ints dilation,
                              Ints before) {
  const Ints output = spatial_sizes(gradient, size.size());
  const Window window = resolve(spatial_sizes(input, size.size()), output, size, stride, dilation, before);
  check(gradient.size(0) == input.size(0) && input.size(0) > 0, "x and dy have one batch, and it is not empty");
  check_same_type(input, gradient, "dy");
  const Tensor x = with_layout(input, false), dy = with_layout(gradient, false);
  const LocalShape shape = local_shape(x, x.size(1), dy.size(1), window);
  Ints sizes = {shape.filters, shape.channels};
  sizes.insert(sizes.end(), output.begin(), output.end());
  sizes.insert(sizes.end(), size.begin(), size.end());
  Tensor dw = new_tensor(sizes, x.scalar_type());
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (dw.numel() > 0) kernels<T>().local->backward_weights(shape, pointer<T>(dy), pointer<T>(x), pointer<T>(dw));
  });
  return dw;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(striate, m) {
  m.def(
      "local(Tensor x, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] dilation, SymInt[] before, "
      "bool channels_last) -> Tensor");
  m.def(
      "local_backward_data(Tensor dy, Tensor weight, SymInt[] input, SymInt[] stride, SymInt[] dilation, SymInt[] "
      "before, "
      "bool channels_last) -> Tensor");
  m.def(
      "local_backward_weights(Tensor dy, Tensor x, SymInt[] size, SymInt[] stride, SymInt[] dilation, SymInt[] before) "
      "-> "
      "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(striate, CPU, m) {
  m.impl("local", TORCH_BOX(&local));
  m.impl("local_backward_data", TORCH_BOX(&local_backward_data));
  m.impl("local_backward_weights", TORCH_BOX(&local_backward_weights));
}

}  // namespace striate
