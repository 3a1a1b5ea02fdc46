// What local.cpp implements, once for each instruction set and element type. bindings/local.cpp has checked every
// argument.
#pragma once
#include "core/window.h"

namespace striate {

// x (batch, channels, input), weight (filters, channels, output, taps), y (batch, filters, output): all contiguous.
struct LocalShape {
  Window window;
  int64_t batch, channels, filters;

  int64_t taps() const { return window.depth.size * window.height.size * window.width.size; }
  int64_t positions() const { return window.depth.output * window.height.output * window.width.output; }
};

template <class T>
struct LocalKernels {
  void (*forward)(const LocalShape&, const T* x, const T* weight, const T* bias, T* y);
  void (*backward_data)(const LocalShape&, const T* dy, const T* weight, T* dx);
  void (*backward_weights)(const LocalShape&, const T* dy, const T* x, T* dweight);
};

}  // namespace striate
