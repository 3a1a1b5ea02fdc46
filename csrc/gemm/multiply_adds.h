// What multiply_adds.cpp implements, once for each instruction set and element type.
#pragma once
#include <stdint.h>

namespace striate {

// Multiplies and adds so many tiles as often as there are threads, on as many threads as it gets, and returns how many
// multiply-adds those were.
using MultiplyAdds = int64_t (*)(int64_t tiles);

}  // namespace striate
