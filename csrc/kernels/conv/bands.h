// Blocks of a pass's destination and the bands of its source that they read. Forward and backward_data have one form
// here: a destination sums sources times weights. Forward, destinations are outputs and sources are inputs; in
// backward_data (the adjoint) destinations are inputs and sources are outputs. A band holds existing sources only: the
// kernels handle those in the padding.
#pragma once
#include "core/machine.h"
#include "core/taps.h"

namespace striate {
namespace STRIATE_ISA {

// The sources of one destination on an axis, and the taps they go through: first, first + step, … through tap, tap +
// tap_step, …
struct Sources {
  int64_t first, count, step, tap, tap_step;
  bool same_taps(const Sources& o) const {
    return count == o.count && step == o.step && tap == o.tap && tap_step == o.tap_step;
  }
};

// A phase: the destinations first, first + apart, … of a row, which use the same taps. The j-th sums sources j·step +
// shift + i·shift_step through taps tap + i·tap_step, i < taps. Forward there is one phase; the adjoint has as many
// phases as the stride (as a polyphase filter has).
struct Phase {
  int64_t first, apart, step, taps, tap, tap_step, shift, shift_step;
};

struct PassAxis {  // one axis of a pass, seen from its destination
  Axis axis;
  bool adjoint;

  int64_t destinations() const { return adjoint ? axis.input : axis.output; }
  int64_t sources() const { return adjoint ? axis.output : axis.input; }
  Sources of(int64_t at) const {
    if (!adjoint) {
      const ValidTaps l = valid_taps(axis, at);
      return {l.first, l.count, l.step, l.tap, 1};
    }
    const CoveringOutputs s = covering_outputs(axis, at);
    return {s.first, s.count, s.step, s.tap, -s.tap_step};
  }
  Range range(int64_t begin, int64_t end) const {
    return adjoint ? output_range(axis, begin, end) : input_range(axis, begin, end);
  }
  int64_t phases() const { return adjoint ? min(axis.stride, axis.input) : 1; }
  Phase phase(int64_t number) const {
    const Axis& a = axis;
    if (!adjoint) return {0, 1, a.stride, a.size, 0, 1, -a.before, a.dilation};
    const int64_t g = common_divisor(a.stride, a.dilation), tap_step = a.stride / g;
    int64_t tap = 0;
    while (tap < min(a.size, tap_step) && (number + a.before - tap * a.dilation) % a.stride != 0) ++tap;
    if (tap >= min(a.size, tap_step)) return {number, a.stride, 1, 0, 0, -tap_step, 0, a.dilation / g};
    const int64_t taps = (a.size - 1 - tap) / tap_step + 1,
                  last = tap + (taps - 1) * tap_step;  // the last tap reads the first source
    return {number,        a.stride, 1, taps, last, -tap_step, (number + a.before - last * a.dilation) / a.stride,
            a.dilation / g};
  }
  // The range of all sources of the destinations [begin, end), including those in the padding.
  Range reach(int64_t begin, int64_t end) const {
    if (!adjoint) {
      const int64_t first = begin * axis.stride - axis.before;
      return {first, (end - 1) * axis.stride - axis.before + (axis.size - 1) * axis.dilation + 1};
    }
    const int64_t low = begin + axis.before - (axis.size - 1) * axis.dilation, high = end - 1 + axis.before;
    return {low >= 0 ? low / axis.stride : -((-low + axis.stride - 1) / axis.stride), high / axis.stride + 1};
  }
};

// The three axes and the channels of a pass, seen from its destination.
struct PassShape {
  PassAxis depth, height, width;
  int64_t batch, groups, to_channels, from_channels;  // channels of destination and source in a group
  bool channels_last;

  int64_t all_to_channels() const { return groups * to_channels; }
  int64_t all_from_channels() const { return groups * from_channels; }
  int64_t destinations() const { return depth.destinations() * height.destinations() * width.destinations(); }
  int64_t sources() const { return depth.sources() * height.sources() * width.sources(); }
};

template <class Shape>
inline PassShape pass_shape(const Shape& s, bool adjoint) {
  const int64_t c = s.channels / s.groups, k = s.filters / s.groups;
  const Window& w = s.window;
  return {{w.depth, adjoint}, {w.height, adjoint}, {w.width, adjoint}, s.batch,
          s.groups,           adjoint ? c : k,     adjoint ? k : c,    s.channels_last};
}

// A block of destinations [d0, d1) × [h0, h1) × [w0, w1) of image n, and the band of sources that it reads.
struct Block {
  int64_t n, d0, d1, h0, h1, w0, w1;
  Range deep, high, wide;
};

// How the destinations of a pass are cut into blocks.
struct Blocks {
  int64_t deep, high, wide;     // the size of a block
  int64_t deeps, highs, wides;  // the number of blocks along each axis
  int64_t per_image;            // the number of blocks in an image

  int64_t positions() const { return deep * high * wide; }
};

// The band of a block: `channels` values of so many bytes for each source position; if `padded`, also for the columns
// in the padding.
struct Band {
  int64_t channels, value_bytes;
  bool padded;

  // The number of sources along an axis that n destinations read, at most.
  static int64_t needs(const PassAxis& a, int64_t n) { return max(1, min(a.sources(), a.reach(0, n).size())); }
  // Whether the band fits block_bytes(), and the destinations, where there are far more than sources, half of them.
  // Kernels count in it by 32 bits.
  bool fits(const PassShape& s, int64_t deep, int64_t high, int64_t wide) const {
    const int64_t row = (padded ? s.width.reach(0, wide).size() : needs(s.width, wide)) * channels,
                  most = min(block_bytes() / value_bytes, int64_t(1) << 24);
    return needs(s.depth, deep) * needs(s.height, high) * row <= most && deep * high * wide <= most / 2;
  }
};

inline void count_blocks(const PassShape& s, Blocks& b) {
  b.deeps = ceil_div(s.depth.destinations(), b.deep), b.highs = ceil_div(s.height.destinations(), b.high);
  b.wides = ceil_div(s.width.destinations(), b.wide);
  b.per_image = b.deeps * b.highs * b.wides;
}

// Chooses the block size of a pass whose destinations are sums of their own. `units` threads may work on the same
// block.
inline Blocks make_blocks(const PassShape& s, const Band& band, int64_t units) {
  Blocks b;
  b.wide = min(s.width.destinations(), kColumns);
  if (s.width.adjoint) b.wide = max(1, ceil_div(b.wide, s.width.axis.stride)) * s.width.axis.stride;
  b.wide = min(b.wide, s.width.destinations());
  // As large a block as fits: each step doubles the depths or the rows, whichever saves more copies of sources that
  // neighbouring blocks share.
  b.deep = b.high = 1;
  const auto fits = [&](int64_t deep, int64_t high) { return band.fits(s, deep, high, b.wide); };
  const auto needs = [](const PassAxis& a, int64_t n) { return Band::needs(a, n); };
  const auto copies = [&](const PassAxis& a, int64_t n) { return double(needs(a, n)) / double(n); };
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
  // Enough units for some threads, but blocks no thinner than the window is high.
  const int64_t thin = max(4, s.height.axis.size);
  const auto count = [&] { return s.batch * units * ceil_div(s.depth.destinations(), b.deep); };
  while (b.deep > 1 && count() * ceil_div(s.height.destinations(), b.high) < 16) b.deep = (b.deep + 1) / 2;
  if (count() * ceil_div(s.height.destinations(), b.high) < 16)
    b.high = min(b.high, max(thin, ceil_div(s.height.destinations(), ceil_div(16, count()))));
  count_blocks(s, b);
  return b;
}

// Block `number`, and with `joined` those below it as one.
inline Block block_at(const PassShape& s, const Blocks& b, int64_t number, int64_t joined = 1) {
  Block at;
  at.n = number / b.per_image;
  const int64_t w = number % b.wides, h = number % b.per_image / b.wides % b.highs,
                d = number % b.per_image / b.wides / b.highs;
  at.d0 = d * b.deep, at.d1 = min(s.depth.destinations(), at.d0 + b.deep);
  at.h0 = h * b.high, at.h1 = min(s.height.destinations(), at.h0 + joined * b.high);
  at.w0 = w * b.wide, at.w1 = min(s.width.destinations(), at.w0 + b.wide);
  at.deep = s.depth.range(at.d0, at.d1), at.high = s.height.range(at.h0, at.h1), at.wide = s.width.range(at.w0, at.w1);
  return at;
}

// The blocks of backward_weights, which sums over all destinations: block after block, in each depth by depth and row
// by row. So the blocks follow from the shape alone. What follows the caches is how many of them, one below the other,
// have their sources packed together.
struct SumBlocks {
  Blocks one;
  int64_t joined;

  // The size of the largest band: for layouts and buffers.
  Blocks together() const {
    Blocks b = one;
    b.high *= joined;
    return b;
  }
  // How many blocks from `number` on are packed together, of those before `end`.
  int64_t joined_at(int64_t number, int64_t end) const {
    return min(min(joined, end - number), one.highs - number % one.per_image / one.wides % one.highs);
  }
};

constexpr int64_t kSumRows = 8, kSumPositions = 512;  // at least, of a row of blocks of one depth
constexpr int64_t kSumDepths = 4;                     // which share slices of the source

inline SumBlocks make_sum_blocks(const PassShape& s, const Band& band) {
  SumBlocks b;
  const int64_t H = s.height.destinations();
  b.one.wide = min(s.width.destinations(), kColumns);
  b.one.high = min(H, max(kSumRows, ceil_div(kSumPositions, b.one.wide)));
  b.one.deep = s.depth.axis.size > 1 ? min(s.depth.destinations(), kSumDepths) : 1;
  count_blocks(s, b.one);
  b.joined = 1;
  // Where rows are cut, the block to the right comes before the one below.
  while (b.one.wides == 1 && b.joined * b.one.high < H &&
         band.fits(s, b.one.deep, 2 * b.joined * b.one.high, b.one.wide))
    b.joined *= 2;
  b.joined = min(b.joined, b.one.highs);
  return b;
}

// How many chunks a sum over `items` blocks is cut into, `most` at most, where `shares` units of work divide a chunk:
// some blocks each, so that few sources are packed twice, but work for some threads.
inline int64_t sum_chunks(int64_t items, int64_t shares, int64_t most) {
  return min(min(items, max(1, most)), max(ceil_div(16, shares), ceil_div(items, 4)));
}

// The largest number of sources along an axis, of columns and of rows in any block's band.
inline int64_t max_sources(const PassAxis& a, int64_t n) { return max(1, min(a.sources(), a.reach(0, n).size() + 2)); }
inline int64_t max_columns(const PassShape& s, const Blocks& b) { return max_sources(s.width, b.wide); }
inline int64_t max_rows(const PassShape& s, const Blocks& b) {
  return max_sources(s.depth, b.deep) * max_sources(s.height, b.high);
}

// Those of a phase's destinations, [first, last), that lie in columns [w0, w1).
inline Range phase_range(const Phase& p, int64_t w0, int64_t w1) {
  const auto from = [&](int64_t w) { return w <= p.first ? 0 : (w - p.first + p.apart - 1) / p.apart; };
  return {from(w0), from(w1)};
}

}  // namespace STRIATE_ISA
}  // namespace striate
