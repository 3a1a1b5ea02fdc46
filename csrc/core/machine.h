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

#ifdef STRIATE_ISA
namespace STRIATE_ISA {

// The laws by which kernels cut their work, each in bytes of the calling thread. They say how much is in a cache at a
// time, never in which order values are summed: lengths of sums are constants, or follow from the shape.

// What an innermost loop reads again and again: half of the first level.
inline int64_t inner_bytes() { return machine().first_level / 2; }
// What a thread packs, reads a few times and gives up, beside its results and the weights: a quarter of the second
// level.
inline int64_t band_bytes() { return machine().second_level / 4; }
// The operand of products that is read again for each part of the other one: half of the second level.
inline int64_t block_bytes() { return machine().second_level / 2; }
// What a thread makes for itself and comes back to, while only little else passes: three quarters of the second level.
inline int64_t own_bytes() { return machine().second_level / 4 * 3; }
// Sums that a thread adds to after much arithmetic, one after the other: the same, or a quarter of a core's part of the
// last level, from which they come soon enough.
inline int64_t sum_bytes() {
  const int64_t quarter = machine().last_level / machine().sharing / 4, own = own_bytes();
  return quarter > own ? quarter : own;
}
// What is read twice, and else would come from memory twice: half of what a core finds again, in its second level or in
// its part of the last.
inline int64_t kept_bytes() {
  const Machine& m = machine();
  const int64_t part = m.last_level / m.sharing;
  return (part > m.second_level ? part : m.second_level) / 2;
}
// Whether a result is stored past the caches: no cache would hold it until it is read.
inline bool passes_caches(int64_t bytes) { return bytes > machine().last_level; }

}  // namespace STRIATE_ISA
#endif

}  // namespace striate
