// Linear layers. The schemas are at the end.
#include "bindings/common.h"
#include "core/dispatch.h"

namespace striate {
namespace {

// The last axis of x is its features; all axes before it together are its rows.
int64_t rows_of(const Tensor& x) {
  int64_t rows = 1;
  for (int64_t d = 0; d + 1 < x.dim(); ++d) rows *= x.size(d);
  return rows;
}
int64_t features_of(const Tensor& x) { return x.size(x.dim() - 1); }

Ints with_features(const Tensor& x, int64_t features) {
  Ints sizes = sizes_of(x);
  sizes.back() = features;
  return sizes;
}

void check_operands(const Tensor& x, const Tensor& weight) {
  check(weight.dim() == 2, "a weight has outputs and inputs");
  check(x.dim() >= 1, "an input has features");
  check_same_type(x, weight, "weight");
}

Tensor linear(const Tensor& input, const Tensor& given_weight, const OptionalTensor& given_bias, int64_t activation,
              double low, double high) {
  check_operands(input, given_weight);
  const int64_t outputs = given_weight.size(0), inputs = given_weight.size(1);
  check(features_of(input) == inputs, "a weight fits the features");
  const Tensor x = with_layout(input, false), weight = with_layout(given_weight, false);
  OptionalTensor bias;
  if (given_bias) {
    check(given_bias->dim() == 1 && given_bias->size(0) == outputs, "a bias has a number for each output");
    check_same_type(input, *given_bias, "bias");
    bias = with_layout(*given_bias, false);
  }
  Tensor y = new_tensor(with_features(x, outputs), x.scalar_type());
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (y.numel() > 0)
      kernels<T>().linear->forward({rows_of(x), inputs, outputs}, pointer<T>(x), pointer<T>(weight),
                                   {pointer<T>(bias), activation_of<T>(activation, low, high)}, pointer<T>(y));
  });
  return y;
}

Tensor linear_backward_data(const Tensor& gradient, const Tensor& given_weight) {
  check_operands(gradient, given_weight);
  const int64_t outputs = given_weight.size(0), inputs = given_weight.size(1);
  check(features_of(gradient) == outputs, "a weight fits the features of dy");
  const Tensor dy = with_layout(gradient, false), weight = with_layout(given_weight, false);
  Tensor dx = new_tensor(with_features(dy, inputs), dy.scalar_type());
  for_float(dy, [&](auto zero) {
    using T = decltype(zero);
    if (dx.numel() > 0)
      kernels<T>().linear->backward_data({rows_of(dy), inputs, outputs}, pointer<T>(dy), pointer<T>(weight),
                                         pointer<T>(dx));
  });
  return dx;
}

Tensor linear_backward_weights(const Tensor& gradient, const Tensor& input) {
  check(input.dim() >= 1, "an input has features");
  check(gradient.dim() == input.dim(), "x and dy have the same leading axes");
  const int64_t inputs = features_of(input), outputs = features_of(gradient);
  check(sizes_of(gradient) == with_features(input, outputs), "x and dy have the same leading axes");
  check_same_type(input, gradient, "dy");
  const Tensor x = with_layout(input, false), dy = with_layout(gradient, false);
  Tensor dw = new_tensor({outputs, inputs}, x.scalar_type());
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (dw.numel() > 0)
      kernels<T>().linear->backward_weights({rows_of(x), inputs, outputs}, pointer<T>(dy), pointer<T>(x),
                                            pointer<T>(dw));
  });
  return dw;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(striate, m) {
  m.def("linear(Tensor x, Tensor weight, Tensor? bias, int activation, float low, float high) -> Tensor");
  m.def("linear_backward_data(Tensor dy, Tensor weight) -> Tensor");
  m.def("linear_backward_weights(Tensor dy, Tensor x) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(striate, CPU, m) {
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("linear_backward_data", TORCH_BOX(&linear_backward_data));
  m.impl("linear_backward_weights", TORCH_BOX(&linear_backward_weights));
}

}  // namespace striate
