// The machine as a value: what kernels ask about the processor, besides its instruction set. It decides how work is cut
// into blocks, and where results are stored past the caches; it decides no bit of a result.
#pragma once
#include <stdint.h>

namespace striate {

struct Machine {
  int64_t cores;                      // that this process may use
  int64_t first_level, second_level;  // bytes of the data caches of one core
  int64_t last_level;                 // bytes of the last cache before memory, that of all cores together
  int64_t sharing;                    // how many cores share the last level
};

// Every value is within these bounds: kernels may multiply them without overflow and divide by them.
constexpr int64_t kLeastCount = 1, kMostCount = 65536;
constexpr int64_t kLeastCache = 1024, kMostCache = int64_t(1) << 40;

// The machine that kernels are to expect: read once from the system. Each value can be set by an environment variable
// (machine.cpp).
const Machine& machine();

// Makes kernels expect another machine, with values within the bounds. Not while a kernel runs.
void use_machine(const Machine& other);

}  // namespace striate
