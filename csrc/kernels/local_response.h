// What local_response.cpp implements, once for each instruction set and element type. bindings/local_response.cpp has
// checked every argument.
#pragma once
#include <stdint.h>

namespace striate {

struct LocalResponse {
  int64_t batch, channels, positions;
  bool channels_last;
  int64_t size;  // channels in a window
  double alpha, beta, k;
};

template <class T>
struct LocalResponseKernels {
  void (*forward)(const LocalResponse&, const T* x, T* y);
  void (*backward)(const LocalResponse&, const T* dy, const T* x, T* dx);
};

}  // namespace striate
