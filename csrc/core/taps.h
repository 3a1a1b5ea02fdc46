// The taps of an output that lie inside the input, and the outputs whose window covers an input, derived from the
// integers in window.h. Serves every sliding window: pooling and convolution. Compiled with the kernels, once for each
// instruction set.
#pragma once
#include "core/parallel.h"
#include "core/window.h"

namespace striate {
namespace STRIATE_ISA {

// Divides numbers that are not negative. Rows are many and short, and a 32-bit division takes a third of a 64-bit one's
// time on older machines.
inline int64_t quotient(int64_t a, int64_t b) {
  if (b == 1) return a;
  if (b == 2) return a >> 1;
  return ((a | b) >> 32) == 0 ? int64_t(uint32_t(a) / uint32_t(b)) : a / b;
}

inline int64_t common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// The taps of output o that fall inside the input read positions first, first + step, …, `count` of them; the first is
// tap number `tap`. A single tap has step 1, whatever the dilation.
struct ValidTaps {
  int64_t first, count, step, tap;
};

inline ValidTaps valid_taps(const Axis& a, int64_t o) {
  if (a.size == 0) {  // adaptive; in 128 bits because o·I may not fit 64
    const int64_t first = int64_t(__int128(o) * a.input / a.output);
    const int64_t end = int64_t((__int128(o + 1) * a.input + a.output - 1) / a.output);
    return {first, end - first, 1, 0};
  }
  const int64_t start = o * a.stride - a.before;
  const int64_t last = start + (a.size - 1) * a.dilation;
  if (start >= 0 && last < a.input) return {start, a.size, a.size > 1 ? a.dilation : 1, 0};
  const int64_t tap = start >= 0 ? 0 : (-start + a.dilation - 1) / a.dilation;
  const int64_t first = start + tap * a.dilation;
  if (first >= a.input || tap >= a.size) return {0, 0, 1, 0};
  const int64_t room = (a.input - 1 - first) / a.dilation + 1;
  const int64_t count = room < a.size - tap ? room : a.size - tap;
  return {first, count, count > 1 ? a.dilation : 1, tap};
}

// The outputs whose window covers input i: first, first + step, …, `count` of them, through taps tap, tap - tap_step, …
struct CoveringOutputs {
  int64_t first, count, step, tap, tap_step;
};

inline CoveringOutputs covering_outputs(const Axis& a, int64_t i) {
  if (a.size == 0) {
    const int64_t first = int64_t(__int128(i) * a.output / a.input);
    const int64_t end = int64_t((__int128(i + 1) * a.output + a.input - 1) / a.input);
    return {first, end - first, 1, 0, 0};
  }
  const int64_t q = i + a.before;  // o·stride + t·dilation = q
  if (a.dilation == 1) {
    const int64_t first = q < a.size ? 0 : quotient(q - a.size, a.stride) + 1;
    const int64_t last = quotient(q, a.stride), end = last < a.output ? last + 1 : a.output;
    return {first, end > first ? end - first : 0, 1, q - first * a.stride, a.stride};
  }
  // The solutions (o, t) step by (dilation/g, -stride/g), where g is the greatest common divisor; the first solution
  // has the largest tap.
  const int64_t g = common_divisor(a.stride, a.dilation);
  const int64_t step = a.dilation / g, tap_step = a.stride / g, reach = q / a.dilation;
  int64_t tap = reach < a.size - 1 ? reach : a.size - 1, tries = tap_step;
  while (tap >= 0 && tries > 0 && (q - tap * a.dilation) % a.stride != 0) --tap, --tries;
  if (tap < 0 || tries == 0) return {0, 0, 1, 0, 0};
  const int64_t first = (q - tap * a.dilation) / a.stride, count = tap / tap_step + 1;
  if (first >= a.output) return {0, 0, 1, 0, 0};
  const int64_t room = (a.output - 1 - first) / step + 1;
  return {first, room < count ? room : count, step, tap, tap_step};
}

// All inputs that the outputs [begin, end) read lie in input_range; all outputs that cover the inputs [begin, end) lie
// in output_range.
struct Range {
  int64_t first, last;
  int64_t size() const { return last > first ? last - first : 0; }
};
inline Range input_range(const Axis& a, int64_t begin, int64_t end) {
  if (a.size == 0) return {valid_taps(a, begin).first, valid_taps(a, end - 1).first + valid_taps(a, end - 1).count};
  const int64_t first = begin * a.stride - a.before,
                last = (end - 1) * a.stride - a.before + (a.size - 1) * a.dilation + 1;
  return {first > 0 ? first : 0, last < a.input ? last : a.input};
}
inline Range output_range(const Axis& a, int64_t begin, int64_t end) {
  if (a.size == 0)
    return {covering_outputs(a, begin).first, covering_outputs(a, end - 1).first + covering_outputs(a, end - 1).count};
  const int64_t before_first = begin + a.before - (a.size - 1) * a.dilation,
                last = quotient(end - 1 + a.before, a.stride) + 1;
  return {before_first <= 0 ? 0 : quotient(before_first + a.stride - 1, a.stride), last < a.output ? last : a.output};
}

// An upper bound on the number of outputs that cover any of n neighbouring inputs.
inline int64_t max_outputs(const Axis& a, int64_t n) {
  return min(a.output, a.size == 0 ? n * a.output / a.input + 2 : (n + a.size - 2) / a.stride + 1);
}

}  // namespace STRIATE_ISA
}  // namespace striate
