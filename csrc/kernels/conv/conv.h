// What depthwise.cpp, direct.cpp, unfolded.cpp and winograd.cpp offer, once for each instruction set and element type:
// ways to compute the three maps of one trilinear form (ops/conv.py); and bias.cpp, the gradient of the bias.
// bindings.cpp has checked every argument.
#pragma once
#include "core/window.h"

namespace striate {

struct ConvShape {
  Window window;
  int64_t batch, channels, filters, groups;
  bool channels_last;                 // memory order of x, y and their gradients
  bool weight_channels_last = false;  // of the weight's gradient

  int64_t taps() const { return window.depth.size * window.height.size * window.width.size; }
  // Where the r-th (channel, tap) of a filter is in the weight's gradient.
  int64_t weight_at(int64_t r) const {
    return weight_channels_last ? r % taps() * (channels / groups) + r / taps() : r;
  }
};

// A weight (filters, channels / groups, taps): contiguous, or channels_last with the channels innermost.
template <class T>
struct Weight {
  const T* data;
  bool channels_last;
  const T* packed = nullptr;  // what `pack` made of it, for the forward map
};

// What becomes of a sum before it is written: min(max(sum + bias + residual, low), high). NaN stays.
template <class T>
struct Epilogue {
  const T* bias;      // null: none. In the input map of a transposed convolution's channels
  const T* residual;  // null, or laid out as the result
  T low, high;
  double *mean, *variance;  // null, or where each channel's go, of what is written (the variance is biased)

  bool finishes() const { return residual || low > -__builtin_inf() || high < __builtin_inf(); }
};

template <class T>
struct ConvKernels {
  void (*forward)(const ConvShape&, const T* x, Weight<T> weight, const Epilogue<T>&, T* y);
  void (*input)(const ConvShape&, const T* dy, Weight<T> weight, const Epilogue<T>&, T* dx);
  void (*weight)(const ConvShape&, const T* dy, const T* x, T* dweight);  // null: it has none
  // Null where nothing is gained: how many values `pack` makes, of a shape's weights in any image.
  int64_t (*packed_size)(const ConvShape&);
  void (*pack)(const ConvShape&, Weight<T> weight, T* packed);
};

template <class T>
using BiasGradient = void (*)(int64_t batch, int64_t channels, int64_t places, bool channels_last, const T* dy, T* db);

}  // namespace striate
