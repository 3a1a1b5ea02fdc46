// Local response norm. The schemas are at the end.
#include "bindings/common.h"
#include "core/dispatch.h"

namespace striate {
namespace {

LocalResponse local_response_shape(const Tensor& x, int64_t size, double alpha, double beta, double k,
                                   bool channels_last) {
  check(x.dim() >= 2 && size >= 1, "an input has a batch and channels, a window at least one");
  int64_t positions = 1;
  for (int64_t d = 2; d < x.dim(); ++d) positions *= x.size(d);
  return {x.size(0), x.size(1), positions, channels_last || positions == 1, size, alpha, beta, k};
}

Tensor local_response(const Tensor& input, int64_t size, double alpha, double beta, double k, bool channels_last) {
  const Tensor x = with_layout(input, channels_last);
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
  const Tensor x = with_layout(input, channels_last), dy = with_layout(gradient, channels_last);
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

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(striate, m) {
  m.def("local_response(Tensor x, SymInt size, float alpha, float beta, float k, bool channels_last) -> Tensor");
  m.def(
      "local_response_backward(Tensor dy, Tensor x, SymInt size, float alpha, float beta, float k, bool channels_last)"
      " -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(striate, CPU, m) {
  m.impl("local_response", TORCH_BOX(&local_response));
  m.impl("local_response_backward", TORCH_BOX(&local_response_backward));
}

}  // namespace striate
