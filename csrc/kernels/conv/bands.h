// Blocks of a convolution's destination, and the bands of its source that they sum. Both maps to activations have one
// form here: forward, a destination is an output and sums inputs; in the input gradient (the adjoint) it is an input
// and sums outputs. A band holds what exists: sources outside the image are left to whoever sums.
#pragma once
#include "core/taps.h"

namespace striate {
namespace STRIATE_ISA {

// The sources of one destination on an axis, and through which taps: first, first + step, … and tap, tap + tap_step, …
struct Sources {
  int64_t first, count, step, tap, tap_step;
  bool same_taps(const Sources& o) const {
    return count == o.count && step == o.step && tap == o.tap && tap_step == o.tap_step;
  }
};

// Destinations of a row that sum alike: first, first + apart, …: the j-th sums sources j·step + shift + i·shift_step
// through taps tap + i·tap_step, i < taps. Forward there is one kind; in the adjoint as many as the stride, which
// differ in their taps.
struct Phase {
  int64_t first, apart, step, taps, tap, tap_step, shift, shift_step;
};

struct Along {  // an axis, looked at from the destination
  Axis axis;
  bool adjoint;

  int64_t destinations() const { return adjoint ? axis.input : axis.output; }
  int64_t sources() const { return adjoint ? axis.output : axis.input; }
  Sources of(int64_t at) const {
    if (!adjoint) {
      const Look l = look(axis, at);
      return {l.first, l.count, l.step, l.tap, 1};
    }
    const Seen s = seen(axis, at);
    return {s.first, s.count, s.step, s.tap, -s.tap_step};
  }
  Range range(int64_t begin, int64_t end) const {
    return adjoint ? seen_by(axis, begin, end) : looked_at(axis, begin, end);
  }
  int64_t phases() const { return adjoint ? min(axis.stride, axis.input) : 1; }
  Phase phase(int64_t number) const {
    const Axis& a = axis;
    if (!adjoint) return {0, 1, a.stride, a.size, 0, 1, -a.before, a.dilation};
    const int64_t g = common_divisor(a.stride, a.dilation), tap_step = a.stride / g;
    int64_t tap = 0;
    while (tap < min(a.size, tap_step) && (number + a.before - tap * a.dilation) % a.stride != 0) ++tap;
    if (tap >= min(a.size, tap_step)) return {number, a.stride, 1, 0, 0, 1, 0, 1};
    const int64_t taps = (a.size - 1 - tap) / tap_step + 1,
                  last = tap + (taps - 1) * tap_step;  // the last tap sums the first source
    return {number,        a.stride, 1, taps, last, -tap_step, (number + a.before - last * a.dilation) / a.stride,
            a.dilation / g};
  }
  // All sources of the destinations [begin, end), those beyond the edges included.
  Range reach(int64_t begin, int64_t end) const {
    if (!adjoint) {
      const int64_t first = begin * axis.stride - axis.before;
      return {first, (end - 1) * axis.stride - axis.before + (axis.size - 1) * axis.dilation + 1};
    }
    const int64_t low = begin + axis.before - (axis.size - 1) * axis.dilation, high = end - 1 + axis.before;
    return {low >= 0 ? low / axis.stride : -((-low + axis.stride - 1) / axis.stride), high / axis.stride + 1};
  }
};

// A map, looked at from its destination, over three axes.
struct Side {
  Along depth, height, width;
  int64_t batch, groups, to, from;  // destination and source channels a group
  bool channels_last;

  int64_t all_to() const { return groups * to; }
  int64_t all_from() const { return groups * from; }
  int64_t destinations() const { return depth.destinations() * height.destinations() * width.destinations(); }
  int64_t sources() const { return depth.sources() * height.sources() * width.sources(); }
};

template <class Shape>
inline Side side_of(const Shape& s, bool adjoint) {
  const int64_t c = s.channels / s.groups, k = s.filters / s.groups;
  const Window& w = s.window;
  return {{w.depth, adjoint}, {w.height, adjoint}, {w.width, adjoint}, s.batch,
          s.groups,           adjoint ? c : k,     adjoint ? k : c,    s.channels_last};
}

// A block of destinations: depths, rows and columns, and the band of sources it needs.
struct Block {
  int64_t n, d0, d1, h0, h1, w0, w1;
  Range deep, high, wide;
};

// How a map's destinations are cut into blocks, by shape alone.
struct Blocks {
  int64_t deep, high, wide;     // of one block
  int64_t deeps, highs, wides;  // how many
  int64_t each;                 // blocks of one image

  int64_t places() const { return deep * high * wide; }
};

constexpr int64_t kBandValues = 131072;  // 512 KiB of float: half of a second-level cache
constexpr int64_t kBlockPlaces = 65536;  // destinations of a block, for maps with far fewer sources

// `channels` of a source's place are in the band; `padded`: the columns that hang over the edges too. `units` share a
// block.
inline Blocks cut(const Side& s, int64_t channels, int64_t units, bool padded) {
  Blocks b;
  b.wide = min(s.width.destinations(), kColumns);
  if (s.width.adjoint) b.wide = max(1, tiles(b.wide, s.width.axis.stride)) * s.width.axis.stride;
  b.wide = min(b.wide, s.width.destinations());
  const auto needs = [&](const Along& a, int64_t n) { return max(1, min(a.sources(), a.reach(0, n).size())); };
  const int64_t row = (padded ? s.width.reach(0, b.wide).size() : needs(s.width, b.wide)) * channels;
  // as thick as fits; of depths and rows whichever saves more copies of what neighbouring blocks share
  b.deep = b.high = 1;
  const auto fits = [&](int64_t deep, int64_t high) {
    return needs(s.depth, deep) * needs(s.height, high) * row <= kBandValues && deep * high * b.wide <= kBlockPlaces;
  };
  const auto copies = [&](const Along& a, int64_t n) { return double(needs(a, n)) / double(n); };
  for (;;) {
    const int64_t deep = min(2 * b.deep, s.depth.destinations()), high = min(2 * b.high, s.height.destinations());
    const bool deeper = deep > b.deep && fits(deep, b.high), higher = high > b.high && fits(b.deep, high);
    if (!deeper && !higher) break;
    const double gain_deep = copies(s.depth, b.deep) / copies(s.depth, deep),
                 gain_high = copies(s.height, b.high) / copies(s.height, high);
    if (deeper && (!higher || gain_deep > gain_high))
      b.deep = deep;
    else
      b.high = high;
  }
  b.deep = min(b.deep, s.depth.destinations());
  // enough units for some threads, but no thinner than the window is high
  const int64_t thin = max(4, s.height.axis.size);
  while (s.batch * units * tiles(s.height.destinations(), b.high) * tiles(s.depth.destinations(), b.deep) < 16) {
    if (b.deep > 1)
      b.deep = (b.deep + 1) / 2;
    else if (b.high >= 2 * thin)
      b.high = (b.high + 1) / 2;
    else
      break;
  }
  b.deeps = tiles(s.depth.destinations(), b.deep), b.highs = tiles(s.height.destinations(), b.high);
  b.wides = tiles(s.width.destinations(), b.wide);
  b.each = b.deeps * b.highs * b.wides;
  return b;
}

inline Block block_at(const Side& s, const Blocks& b, int64_t number) {
  Block at;
  at.n = number / b.each;
  const int64_t w = number % b.wides, h = number % b.each / b.wides % b.highs, d = number % b.each / b.wides / b.highs;
  at.d0 = d * b.deep, at.d1 = min(s.depth.destinations(), at.d0 + b.deep);
  at.h0 = h * b.high, at.h1 = min(s.height.destinations(), at.h0 + b.high);
  at.w0 = w * b.wide, at.w1 = min(s.width.destinations(), at.w0 + b.wide);
  at.deep = s.depth.range(at.d0, at.d1), at.high = s.height.range(at.h0, at.h1), at.wide = s.width.range(at.w0, at.w1);
  return at;
}

// The largest band of any block, in columns and rows.
inline int64_t most_sources(const Along& a, int64_t n) { return max(1, min(a.sources(), a.reach(0, n).size() + 2)); }
inline int64_t most_columns(const Side& s, const Blocks& b) { return most_sources(s.width, b.wide); }
inline int64_t most_rows(const Side& s, const Blocks& b) {
  return most_sources(s.depth, b.deep) * most_sources(s.height, b.high);
}

// The part [first, last) of a phase's destinations that lie in columns [w0, w1).
inline Range in_block(const Phase& p, int64_t w0, int64_t w1) {
  const auto from = [&](int64_t w) { return w <= p.first ? 0 : (w - p.first + p.apart - 1) / p.apart; };
  return {from(w0), from(w1)};
}

}  // namespace STRIATE_ISA
}  // namespace striate
