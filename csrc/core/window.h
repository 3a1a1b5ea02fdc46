// Where an operation looks, with every integer resolved by window.py. Plain data: the only header that files compiled
// for different instruction sets share, so it must hold no function a linker could pick from the wrong one.
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

// Destinations of a row that a convolution takes at once; ops/conv.py and bindings.cpp bound its scratch memory by it.
constexpr int64_t kColumns = 512;

// Depth, height, width. An operation on fewer axes leads with axes of one input, one output and one tap.
struct Window {
  Axis depth, height, width;
};

}  // namespace striate
