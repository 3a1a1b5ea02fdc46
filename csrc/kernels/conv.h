// What depthwise.cpp and direct.cpp offer, once for each instruction set and element type: two ways to compute the three maps of one
// trilinear form (ops/conv.py); and bias.cpp, the gradient of the bias. bindings.cpp has checked every argument.
#pragma once
#include "../window.h"

namespace striate {

struct ConvShape {
  Window window;
  int64_t batch, channels, filters, groups;
  bool channels_last;  // memory order of x, y and their gradients

  int64_t taps() const { return window.depth.size * window.height.size * window.width.size; }
};

// A weight (filters, channels / groups, taps): contiguous, or channels_last with the channels innermost.
template <class T>
struct Weight {
  const T* data;
  bool channels_last;
};

template <class T>
struct ConvKernels {
  void (*forward)(const ConvShape&, const T* x, Weight<T> weight, const T* bias, T* y);  // bias may be null
  void (*input)(const ConvShape&, const T* dy, Weight<T> weight, const T* bias, T* dx);  // bias: of a transposed convolution
  void (*weight)(const ConvShape&, const T* dy, const T* x, T* dweight);                 // contiguous
};

template <class T>
using BiasGradient = void (*)(int64_t batch, int64_t channels, int64_t places, bool channels_last, const T* dy, T* db);

}  // namespace striate
