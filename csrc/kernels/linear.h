// What linear.cpp implements, once for each instruction set and element type: the three passes of a linear layer.
// bindings/linear.cpp has checked every argument.
#pragma once
#include "core/activation.h"

namespace striate {

struct LinearShape {
  int64_t rows, inputs, outputs;  // of x (rows, inputs), weight (outputs, inputs) and y (rows, outputs)
};

// The operations on a sum before it is stored: activation(sum + bias). NaN stays NaN.
template <class T>
struct LinearEpilogue {
  const T* bias;  // null: none. One value an output
  Activation<T> activation;
};

// All matrices are contiguous. A size may be 0; a sum of nothing is 0.
template <class T>
struct LinearKernels {
  void (*forward)(const LinearShape&, const T* x, const T* weight, const LinearEpilogue<T>&, T* y);
  void (*backward_data)(const LinearShape&, const T* dy, const T* weight, T* dx);
  void (*backward_weights)(const LinearShape&, const T* dy, const T* x, T* dw);
};

}  // namespace striate
