// What pool.cpp implements, once for each instruction set and element type. bindings/pool.cpp has checked every
// argument.
#pragma once
#include "core/window.h"

namespace striate {

struct PoolShape {
  Window window;
  int64_t batch, channels;
  bool channels_last;  // memory order: NHWC, else NCHW (depth, where there is one, comes before height)
};

// What the sum of one output is divided by: divisor_override, or if that is 0 the number of taps inside the input, or
// inside input and padding.
struct AvgDivisor {
  bool count_include_pad;
  int64_t divisor_override;
};

template <class T>
struct PoolKernels {
  // offset: the number of the maximum's tap, row-major in the window. A null pointer: not wanted.
  void (*max_offset)(const PoolShape&, const T* x, T* y, uint8_t* offset);
  void (*max_offset_backward)(const PoolShape&, const T* dy, const uint8_t* offset, T* dx);
  void (*offset_to_index)(const PoolShape&, const uint8_t* offset, int64_t* index);
  // index: the maximum's position in its plane, as torch gives it, or -1 if no tap is inside the input. For windows
  // that are wide, or whose taps vary.
  void (*max_index)(const PoolShape&, const T* x, T* y, int64_t* index);
  // Returns false if an index lies outside the input.
  bool (*max_index_backward)(const PoolShape&, const T* dy, const int64_t* index, T* dx);
  void (*avg)(const PoolShape&, AvgDivisor, const T* x, T* y);
  void (*avg_backward)(const PoolShape&, AvgDivisor, const T* dy, T* dx);
};

}  // namespace striate
