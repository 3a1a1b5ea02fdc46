// Sliding windows, with every integer resolved by window.py. Plain data: this header is shared by files that are
// compiled for different instruction sets, so it must hold no function that the linker could take from the wrong one.
#pragma once
#include <stdint.h>

namespace striate {

// One axis of a sliding window: input = output*stride + tap*dilation - before.
// size == 0 marks an adaptive axis, where output o looks at [floor(o*I/O), ceil((o+1)*I/O)).
struct Axis {
  int64_t input, output;
  int64_t size, stride, dilation;
  int64_t before, after;  // padding
};

// How many outputs of a row a convolution computes at once; ops/conv/ and bindings/conv.cpp bound its scratch memory
// by it.
constexpr int64_t kColumns = 512;

// Depth, height and width. An operation on fewer axes has leading axes of one input, one output and one tap.
struct Window {
  Axis depth, height, width;
};

}  // namespace striate
