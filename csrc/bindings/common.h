// What the bindings of every family share: tensors as pointers in one memory order, lists of integers as windows, and
// checks. Only the files of this folder include torch. They turn tensors into pointers and resolved windows and check
// whatever a kernel could be hurt by. Python has checked the same before, with better messages (errors.py): a message
// from here means that an operator was called directly.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "core/activation.h"
#include "core/window.h"

namespace striate {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = std::vector<int64_t>;
using OptionalTensor = std::optional<Tensor>;

// -------------------------------------------------------------------------------------------------------------- checks

// Raises "striate: <message>" unless ok.
void check(bool ok, const std::string& message);
// `name` is what the message calls x.
void check_sizes(const Tensor& x, const Ints& sizes, const char* name);
void check_same_type(const Tensor& x, const Tensor& other, const char* name);

// Checks that a number stands for one of `count` things; the message lists what each number stands for.
void check_number(int64_t number, int64_t count, const char* what, const auto& name) {
  if (number >= 0 && number < count) return;
  std::string message = what;
  message.append(" is one of");
  for (int64_t k = 0; k < count; ++k)
    message.append(k ? ", " : " ").append(std::to_string(k)).append(" ").append(name(k));
  check(false, message.append(", got ").append(std::to_string(number)));
}

// ------------------------------------------------------------------------------------------------------------- tensors

// Memory order of a batch: NCHW (contiguous), or with `channels_last` NHWC, for any number of spatial axes.
bool has_layout(const Tensor& x, bool channels_last);
// x itself where it has the layout, else a copy that has it.
Tensor with_layout(const Tensor& x, bool channels_last);
// An uninitialised tensor on the CPU.
Tensor new_tensor(const Ints& sizes, ScalarType dtype, bool channels_last = false);

inline Ints sizes_of(const Tensor& x) {
  const auto sizes = x.sizes();
  return Ints(sizes.begin(), sizes.end());
}
// The spatial sizes of x, which must be as many as `axes`.
Ints spatial_sizes(const Tensor& x, size_t axes);
// The batch and channels of x, followed by these spatial sizes.
Ints with_spatial_sizes(const Tensor& x, const Ints& spatial);

// Null for an empty tensor, and for one that is not given.
template <class T>
T* pointer(const Tensor& x) {
  return x.numel() > 0 ? static_cast<T*>(x.data_ptr()) : nullptr;
}
template <class T>
const T* pointer(const OptionalTensor& x) {
  return x && x->numel() > 0 ? static_cast<const T*>(x->data_ptr()) : nullptr;
}

// The activation of an operator's arguments: a clamp's bounds are low and high, the slope of a leaky ReLU is low.
template <class T>
Activation<T> activation_of(int64_t number, double low, double high) {
  check_number(number, kActivations, "an activation", [](int64_t k) { return kActivationNames[k]; });
  Activation<T> a;
  a.kind = static_cast<ActivationKind>(number);
  if (a.clamps())
    a.low = T(low), a.high = T(high);
  else
    a.slope = T(low);
  return a;
}

// Calls run(T{}) with T the element type of x.
template <class Run>
void for_float(const Tensor& x, const Run& run) {
  if (x.scalar_type() == ScalarType::Float)
    run(float{});
  else if (x.scalar_type() == ScalarType::Double)
    run(double{});
  else
    check(false, "kernels take float32 and float64");
}

// Statistics are a tensor of (2, count) doubles: row 0 holds means and row 1 variances.
Tensor new_statistics(int64_t count);
double* statistics_row(const Tensor& statistics, int64_t count, int row);

// ------------------------------------------------------------------------------------------------------------- windows

constexpr int64_t kMaxExtent = int64_t(1) << 62;

// Checks the lists of one to three axes and pads them with leading axes of one input, one tap and one output. A size
// of 0 marks an adaptive axis. `after` may be empty where no kernel reads the padding behind the input.
Window resolve(const Ints& input, const Ints& output, const Ints& size, const Ints& stride, const Ints& dilation,
               const Ints& before, const Ints& after = {});

}  // namespace striate
