// What multiply_adds.cpp implements, once for each instruction set and element type.
#pragma once
#include <stdint.h>

namespace striate {

// Multiplies and adds so many tiles on each thread, and returns how many multiply-adds that were on all of them.
using MultiplyAdds = int64_t (*)(int64_t tiles);

}  // namespace striate
