// What depthwise.cpp, direct.cpp, implicit_gemm.cpp, pointwise.cpp and winograd.cpp implement, once for each
// instruction set and element type: methods for the three passes of a convolution (forward, backward_data,
// backward_weights), which are one trilinear form (ops/conv/); and the gradient of the bias, in bias.cpp.
// bindings/conv.cpp has checked every argument.
#pragma once
#include "core/activation.h"
#include "core/window.h"

namespace striate {

struct ConvShape {
  Window window;
  int64_t batch, channels, filters, groups;
  bool channels_last;                 // memory order of x, y and their gradients: NHWC, else NCHW
  bool weight_channels_last = false;  // the memory order of the weight's gradient

  int64_t taps() const { return window.depth.size * window.height.size * window.width.size; }
  // The index of a filter's r-th (channel, tap) in the weight's gradient.
  int64_t weight_at(int64_t r) const {
    return weight_channels_last ? r % taps() * (channels / groups) + r / taps() : r;
  }
};

// A weight (filters, channels / groups, taps): contiguous, or with channels_last the channels innermost.
template <class T>
struct Weight {
  const T* data;
  bool channels_last;
  const T* packed = nullptr;  // what ConvKernels::pack made of it, for the forward pass
};

// The operations on a sum before it is stored: activation(sum + bias + residual). NaN stays NaN.
template <class T>
struct Epilogue {
  const T* bias;      // null: none. One value a channel of the result
  const T* residual;  // null: none. Has the memory order of the result
  Activation<T> activation;
  double *mean, *variance;  // null, or where to store each channel's statistics of the result (the biased variance)

  bool finishes() const { return residual || activation.changes(); }
};

template <class T>
struct ConvKernels {
  void (*forward)(const ConvShape&, const T* x, Weight<T> weight, const Epilogue<T>&, T* y);
  void (*backward_data)(const ConvShape&, const T* dy, Weight<T> weight, const Epilogue<T>&, T* dx);
  void (*backward_weights)(const ConvShape&, const T* dy, const T* x, T* dweight);  // null: not implemented
  // How many values `pack` writes for the weights of a shape, whatever the image size. Both are null where packing
  // ahead gains nothing.
  int64_t (*packed_size)(const ConvShape&);
  void (*pack)(const ConvShape&, Weight<T> weight, T* packed);
};

template <class T>
using BiasGradient = void (*)(int64_t batch, int64_t channels, int64_t positions, bool channels_last, const T* dy,
                              T* db);

}  // namespace striate
