// Pooling: y[o] = max or mean of x over the taps of output o.
//
// Layout. Vectors run across channels: lane k is channel k of one pixel, so that no stride, edge or row length of the
// window ever meets a vector. In memory order (batch, depth, height, width, channels) that is how the data lies. In
// (batch, channels, depth, height, width) a band of as many planes as a vector has lanes is turned on its way through
// the cache, pooled by the very same code, and turned back: four shuffles a vector, where vectors along a row cost 100
// cycles a row of 7 outputs (docs/kernels/pool.md has the losing versions).
//
// Tile. The unit of work is a row of outputs (backward: of inputs), cut into columns where it is long, or in turned
// order a band of rows that fits the second-level cache. Each value is computed whole by one unit, its terms in one
// order: the bits do not depend on where the work is cut.
//
// Gather or scatter. Backward in channels order gathers: each input's gradient is summed from the outputs that look at
// it and written once. In planes order max pooling scatters, into bands with one owner: one scalar add an output is
// less than turning the data.
//
// Wide windows, and those whose taps vary (adaptive, global), reduce runs of consecutive values instead.
#include "pool.h"

#include "../parallel.h"
#include "../turn.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

// Taps of output o that average pooling counts.
inline int64_t counted(const Axis& a, bool include_pad, int64_t o) {
  if (!include_pad || a.size == 0) return look(a, o).count;
  const int64_t start = o * a.stride - a.before, end = start + a.size, limit = a.input + a.after;
  return (end < limit ? end : limit) - start;
}

constexpr int64_t kTileColumns = 256;
constexpr int64_t kBandElements =
    32768;  // 128 KiB of float turned at a time: an eighth to a half of a second-level cache

// Windows that take in few enough places to be turned in bands: 4 MiB of float at most. Average pooling of wide ones
// reduces runs; max pooling of wide ones comes with an index (ops/pool.py decides, by the same bound).
inline bool narrow(const Window& w) {
  const auto reach = [](const Axis& a, int64_t more) { return min(a.input, (a.size - 1) * a.dilation + 1 + more); };
  if (w.depth.size == 0 || w.height.size == 0 || w.width.size == 0) return false;
  return min(w.depth.size, w.depth.input) * reach(w.height, 0) * reach(w.width, kTileColumns) <= 65536;
}

// over_channels for all pixels of a row of outputs: body(vectors, j, c, last, lanes, next). Where one vector holds all
// channels, as in turned order, four neighbouring pixels whose windows are whole go together, `next` (the stride)
// inputs apart: loops over the taps then cost a quarter. Else next is 0 and the vectors are channels of pixel j.
template <class T, class Body>
STRIATE_INLINE void over_pixels(const Axis& width, int64_t channels, const Look* across, int64_t columns,
                                const Body& body) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t j = 0; j < columns; ++j) {
    if (channels == L && j + 4 <= columns && across[j].count == width.size && across[j + 3].count == width.size) {
      body(Constant<4>{}, j, 0, 3 * L, L, width.stride);
      j += 3;
    } else {
      over_channels<T>(
          channels, [&](auto blocks, int64_t c, int64_t last, int64_t lanes) { body(blocks, j, c, last, lanes, 0); });
    }
  }
}

// Columns of a unit in channels order: whole rows where a row is not very long.
inline int64_t channel_tile(int64_t channels) { return max(16, min(512, 65536 / channels)); }

// Runs row(from, pitch, channels, d, h, looks…, y, offset) over all output rows of the window, in either memory order.
// `Row` computes `columns` outputs: see max_offset and avg_bands.
template <class T, class Row>
void forward(const PoolShape& p, const T* x, T* y, uint8_t* offset, const Row& row) {
  constexpr int64_t L = kLanes<T>;
  const Axis D = p.window.depth, H = p.window.height, W = p.window.width;
  if (p.channels_last) {
    const int64_t C = p.channels, tile = min(W.output, channel_tile(C)), rows = p.batch * D.output * H.output;
    const Pitch pitch = {H.input * W.input * C, W.input * C, C};
    parallel_for(tiles(W.output, tile) * rows, tile * C * 8, [=](int64_t begin, int64_t end) {
      Scratch<Look> across(tile);
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t column = unit / rows * tile, columns = min(tile, W.output - column);
        const int64_t oh = unit % rows % H.output, od = unit % rows / H.output % D.output,
                      n = unit % rows / H.output / D.output;
        if (unit == begin || unit % rows == 0)
          for (int64_t j = 0; j < columns; ++j) across[j] = look(W, column + j);
        const int64_t out = ((unit % rows) * W.output + column) * C;
        row(x + n * D.input * pitch.deep, pitch, C, od, oh, column, look(D, od), look(H, oh), across, columns, y + out,
            offset ? offset + out : nullptr);
      }
    });
    return;
  }
  const int64_t planes = p.batch * p.channels, in = D.input * H.input * W.input, outs = D.output * H.output * W.output;
  const int64_t tile = min(W.output, max(1, kTileColumns / W.stride));
  const int64_t columns_in = min(W.input, (tile - 1) * W.stride + (W.size - 1) * W.dilation + 1),
                reach = (H.size - 1) * H.dilation + 1;
  const int64_t fit = kBandElements / L / columns_in / min(D.size, D.input) - reach;
  const int64_t band = min(H.output, fit < 0 ? 1 : fit / H.stride + 1), bands = tiles(H.output, band);
  const int64_t rows_in = min(H.input, (band - 1) * H.stride + reach), groups = tiles(planes, L);
  parallel_for(tiles(W.output, tile) * groups * D.output * bands, band * tile * L * 8, [=](int64_t begin, int64_t end) {
    Scratch<Look> across(tile);
    Scratch<T> turned(min(D.size, D.input) * rows_in * columns_in * L), out(band * tile * L + L * L);
    Scratch<uint8_t> tap(band * tile * L + L * L);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t oh0 = unit % bands * band, oh1 = min(H.output, oh0 + band), od = unit / bands % D.output;
      const int64_t group = unit / bands / D.output % groups, column = unit / bands / D.output / groups * tile;
      const int64_t columns = min(tile, W.output - column), first = group * L, lanes = min(L, planes - first);
      const Range high = looked_at(H, oh0, oh1), wide = looked_at(W, column, column + columns);
      const Look ld = look(D, od);
      turn_block_in<T>(x + first * in + (ld.first * H.input + high.first) * W.input + wide.first, in, lanes, H.input,
                       W.input, ld.count, ld.step, high.size(), wide.size(), turned);
      for (int64_t j = 0; j < columns; ++j) across[j] = look(W, column + j), across[j].first -= wide.first;
      const Pitch pitch = {high.size() * wide.size() * L, wide.size() * L, L};
      for (int64_t oh = oh0; oh < oh1; ++oh) {
        Look lh = look(H, oh);
        lh.first -= high.first;
        row(turned, pitch, L, od, oh, column, Look{0, ld.count, 1, ld.tap}, lh, across, columns,
            out + (oh - oh0) * columns * L, offset ? tap + (oh - oh0) * columns * L : nullptr);
      }
      const int64_t to = first * outs + (od * H.output + oh0) * W.output + column;
      turn_block_out<T>(static_cast<const T*>(out), oh1 - oh0, columns, W.output, y + to, outs, lanes);
      if (offset)
        turn_block_out<T>(static_cast<const uint8_t*>(tap), oh1 - oh0, columns, W.output, offset + to, outs, lanes);
    }
  });
}

// ---------------------------------------------------------------------------------------------------------------- max

// NaN wins, the last one; among equals the first. `place` follows.
template <class T>
STRIATE_INLINE void take_larger(Vector<T>& best, IntVector<T>& place, const Vector<T>& v, const IntVector<T>& at) {
  const IntVector<T> better = (v > best) | (v != v);
  best = better ? v : best;
  place = better ? at : place;
}

// How taps are numbered: by their order in the window (offset), or by their position in the plane (index).
struct Numbering {
  int64_t first, deep, down, right;  // of the first valid tap, and from tap to tap
};

// Blocks vectors side by side: channels of a pixel, or (`apart` in x, contiguous in y) pixels of one vector's channels.
template <class T, int Blocks, class Where>
STRIATE_INLINE void max_pixel(const T* x, int64_t apart, int64_t last, const Pitch& pitch, const Look& ld,
                              const Look& lh, const Look& lw, const Numbering& number, int64_t lanes, T* y,
                              Where* where) {
  constexpr int B = Blocks == 0 ? 1 : Blocks;
  const int64_t deep = ld.step * pitch.deep, down = lh.step * pitch.down, right = lw.step * pitch.right;
  Vector<T> best[B];
  IntVector<T> place[B];
  for (int b = 0; b < B; ++b) best[b] = broadcast(-T(__builtin_inf())), place[b] = broadcast_int<T>(number.first);
  const IntVector<T> next = broadcast_int<T>(number.right);
  for (int64_t d = 0; d < ld.count; ++d)
    for (int64_t h = 0; h < lh.count; ++h) {
      const T* from = x + d * deep + h * down;
      IntVector<T> at = broadcast_int<T>(number.first + d * number.deep + h * number.down);
      for (int64_t w = 0; w < lw.count; ++w, from += right, at += next)
        for (int b = 0; b < B; ++b)
          take_larger<T>(best[b], place[b],
                         Blocks == 0 ? load_first<Vector<T>>(from, lanes)
                                     : load(from + (apart ? b * apart : vector_at<T, B>(b, last))),
                         at);
    }
  for (int b = 0; b < B; ++b) {
    const int64_t to = vector_at<T, B>(b, last);
    store_first(y + to, best[b], lanes);
    if (where == nullptr) continue;
    if constexpr (sizeof(Where) == 1)
      store_first(where + to, to_bytes<T>(place[b]), lanes);
    else
      for (int64_t k = 0; k < lanes; ++k) where[to + k] = place[b][k];
  }
}

template <class T>
void max_offset(const PoolShape& p, const T* x, T* y, uint8_t* offset) {
  constexpr int64_t L = kLanes<T>;
  const Axis W = p.window.width;
  const int64_t row_taps = W.size, plane_taps = p.window.height.size * row_taps;
  forward(p, x, y, offset,
          [=](const T* from, const Pitch& pitch, int64_t channels, int64_t, int64_t, int64_t, const Look& ld,
              const Look& lh, const Look* across, int64_t columns, T* to, uint8_t* tap) {
            from += ld.first * pitch.deep + lh.first * pitch.down;
            over_pixels<T>(
                W, channels, across, columns,
                [&](auto blocks, int64_t j, int64_t c, int64_t last, int64_t lanes, int64_t next) {
                  const Look lw = across[j];
                  const Numbering number = {ld.tap * plane_taps + lh.tap * row_taps + lw.tap, plane_taps, row_taps, 1};
                  max_pixel<T, decltype(blocks)::value>(from + lw.first * pitch.right + c, next * pitch.right, last,
                                                        pitch, ld, lh, lw, number, lanes, to + j * channels + c,
                                                        tap ? tap + j * channels + c : nullptr);
                });
          });
}

// Gathers, in channels order.
template <class T>
void max_offset_backward_channels(const PoolShape& p, const T* dy, const uint8_t* offset, T* dx) {
  constexpr int64_t L = kLanes<T>;
  const Axis D = p.window.depth, H = p.window.height, W = p.window.width;
  const int64_t C = p.channels, tile = min(W.input, channel_tile(C)), rows = p.batch * D.input * H.input;
  parallel_for(tiles(W.input, tile) * rows, tile * C * 4, [=](int64_t begin, int64_t end) {
    Scratch<Seen> across(tile);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t column = unit / rows * tile, columns = min(tile, W.input - column);
      const int64_t ih = unit % rows % H.input, id = unit % rows / H.input % D.input,
                    n = unit % rows / H.input / D.input;
      if (unit == begin || unit % rows == 0)
        for (int64_t j = 0; j < columns; ++j) across[j] = seen(W, column + j);
      const Seen sd = seen(D, id), sh = seen(H, ih);
      T* to = dx + (unit % rows * W.input + column) * C;
      for (int64_t j = 0; j < columns; ++j, to += C) {
        const Seen sw = across[j];
        over_channels<T>(C, [&](auto blocks, int64_t c, int64_t last, int64_t lanes) {
          constexpr int Blocks = decltype(blocks)::value, B = Blocks == 0 ? 1 : Blocks;
          Vector<T> sum[B] = {};
          for (int64_t d = 0; d < sd.count; ++d)
            for (int64_t h = 0; h < sh.count; ++h) {
              const int64_t row =
                  ((n * D.output + sd.first + d * sd.step) * H.output + sh.first + h * sh.step) * W.output;
              int64_t tap = ((sd.tap - d * sd.tap_step) * H.size + sh.tap - h * sh.tap_step) * W.size + sw.tap;
              int64_t from = (row + sw.first) * C + c;
              for (int64_t w = 0; w < sw.count; ++w, tap -= sw.tap_step, from += sw.step * C)
                for (int b = 0; b < B; ++b) {
                  const ByteVector<T> chosen = Blocks == 0
                                                   ? load_first<ByteVector<T>>(offset + from, lanes)
                                                   : load_as<ByteVector<T>>(offset + from + vector_at<T, B>(b, last));
                  const Vector<T> gradient = Blocks == 0 ? load_first<Vector<T>>(dy + from, lanes)
                                                         : load(dy + from + vector_at<T, B>(b, last));
                  sum[b] += from_bytes<T>(chosen) == broadcast_int<T>(tap) ? gradient : Vector<T>{};
                }
            }
          for (int b = 0; b < B; ++b) store_first(to + c + vector_at<T, B>(b, last), sum[b], lanes);
        });
      }
    }
  });
}

// Tap numbers to displacements from a window's corner: both are sums, so one table serves every output.
struct Displacements {
  int64_t of[256];
  explicit Displacements(const Window& w) {
    const int64_t taps = w.depth.size * w.height.size * w.width.size;
    for (int64_t t = 0; t < taps; ++t) {
      const int64_t td = t / w.width.size / w.height.size, th = t / w.width.size % w.height.size, tw = t % w.width.size;
      of[t] = (td * w.depth.dilation * w.height.input + th * w.height.dilation) * w.width.input + tw * w.width.dilation;
    }
    for (int64_t t = taps; t < 256; ++t) of[t] = -(int64_t(1) << 61);  // no such tap
  }
};

// Scatters, in planes order, into bands that fit the first-level cache. A band takes what falls into it, whoever
// computed `offset`: nothing is written outside. Outputs come in order, so that every sum has one order.
template <class T>
void max_offset_backward_planes(const PoolShape& p, const T* dy, const uint8_t* offset, T* dx) {
  const Axis D = p.window.depth, H = p.window.height, W = p.window.width;
  const int64_t plane = H.input * W.input, planes = p.batch * p.channels;
  // cut the first axis that has anything to cut
  const Axis cut = D.input > 1 ? D : H.input > 1 ? H : W;
  const int64_t slab = D.input > 1 ? plane : H.input > 1 ? W.input : 1;
  const int64_t band = max(1, min(cut.input, 8192 / slab)), bands = tiles(cut.input, band);
  parallel_for(planes * bands, band * slab, [=](int64_t begin, int64_t end) {
    const Displacements moved(p.window);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / bands, first = unit % bands * band, last = min(cut.input, first + band);
      const Range all = seen_by(cut, first, last);
      const Range deep = D.input > 1 ? all : Range{0, D.output};
      const Range high = D.input == 1 && H.input > 1 ? all : Range{0, H.output};
      const Range wide = D.input == 1 && H.input == 1 ? all : Range{0, W.output};
      T* to = dx + n * D.input * plane + first * slab;
      const uint64_t length = uint64_t((last - first) * slab);
      memset(to, 0, length * sizeof(T));
      for (int64_t od = deep.first; od < deep.last; ++od)
        for (int64_t oh = high.first; oh < high.last; ++oh) {
          const int64_t out = ((n * D.output + od) * H.output + oh) * W.output;
          int64_t corner =
              (od * D.stride - D.before) * plane + (oh * H.stride - H.before) * W.input - W.before - first * slab;
          corner += wide.first * W.stride;
          for (int64_t ow = wide.first; ow < wide.last; ++ow, corner += W.stride) {
            const uint64_t at = uint64_t(corner + moved.of[offset[out + ow]]);
            if (at < length) to[at] += dy[out + ow];
          }
        }
    }
  });
}

template <class T>
void max_offset_backward(const PoolShape& p, const T* dy, const uint8_t* offset, T* dx) {
  p.channels_last ? max_offset_backward_channels(p, dy, offset, dx) : max_offset_backward_planes(p, dy, offset, dx);
}

void offset_to_index(const PoolShape& p, const uint8_t* offset, int64_t* index) {
  const Axis D = p.window.depth, H = p.window.height, W = p.window.width;
  const int64_t outer = p.channels_last ? p.batch : p.batch * p.channels, inner = p.channels_last ? p.channels : 1;
  parallel_for(outer * D.output * H.output, W.output * inner, [=](int64_t begin, int64_t end) {
    const Displacements moved(p.window);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t oh = unit % H.output, od = unit / H.output % D.output;
      const int64_t corner = ((od * D.stride - D.before) * H.input + oh * H.stride - H.before) * W.input - W.before;
      int64_t out = unit * W.output * inner;
      for (int64_t ow = 0; ow < W.output; ++ow)
        for (int64_t c = 0; c < inner; ++c, ++out) index[out] = corner + ow * W.stride + moved.of[offset[out]];
    }
  });
}

// The largest of a run of values, then its place: reading the run a second time from cache is cheaper than carrying a
// place along in every lane.
template <class T>
struct Largest {
  T value = -T(__builtin_inf());
  int64_t index = -1;

  void take(const T* run, int64_t count, int64_t step, int64_t at) {
    constexpr int64_t L = kLanes<T>;
    T largest = run[0];
    bool nan = false;
    int64_t i = 0;
    if (step == 1 && count >= L) {
      Vector<T> best = load(run);
      IntVector<T> odd = best != best;
      for (; i + L <= count; i += L) {
        const Vector<T> v = load(run + i);
        odd |= v != v;
        best = v > best ? v : best;
      }
      for (int64_t k = 0; k < L; ++k) {
        nan |= odd[k] != 0;
        largest = best[k] > largest ? best[k] : largest;
      }
    }
    for (; i < count; ++i) {
      nan |= run[i * step] != run[i * step];
      largest = run[i * step] > largest ? run[i * step] : largest;
    }
    if (nan) {
      i = count - 1;
      while (run[i * step] == run[i * step]) --i;
    } else if (index < 0 || largest > value) {
      i = 0;
      while (run[i * step] != largest) ++i;
    } else {
      return;
    }
    value = run[i * step];
    index = at + i * step;
  }
};

// One output's window as runs of consecutive values; whole rows, then whole planes, join into one run. A global window
// is worked out once for all planes.
struct Place {
  Window window;
  int64_t o = -1, od = 0, oh = 0, ow = 0;
  int64_t first = 0, planes = 0, rows = 0, run = 0;  // the first value's place in its volume, and how many of each
  Look deep, high, wide;

  explicit Place(const Window& w) : window(w) {}

  // To output number `to` of a plane; false if that is where it stands.
  bool move(int64_t to) {
    if (to == o) return false;
    o = to;
    const Axis &D = window.depth, &H = window.height, &W = window.width;
    const int64_t above = quotient(o, W.output);
    ow = o - above * W.output;
    od = quotient(above, H.output);
    oh = above - od * H.output;
    deep = look(D, od), high = look(H, oh), wide = look(W, ow);
    first = (deep.first * H.input + high.first) * W.input + wide.first;
    planes = deep.count, rows = high.count, run = wide.count;
    if (run == W.input && high.step == 1) run *= rows, rows = 1;
    if (run == W.input * H.input && deep.step == 1) run *= planes, planes = 1;
    return true;
  }
};

template <class T>
void max_index_planes(const PoolShape& p, const T* x, T* y, int64_t* index) {
  const Axis D = p.window.depth, H = p.window.height, W = p.window.width;
  const int64_t outs = D.output * H.output * W.output, row = W.input, plane = H.input * row;
  parallel_for(p.batch * p.channels * outs, look(D, 0).count * look(H, 0).count * look(W, 0).count,
               [=](int64_t begin, int64_t end) {
                 Place at(p.window);
                 for (int64_t unit = begin; unit < end; ++unit) {
                   const int64_t n = quotient(unit, outs);
                   at.move(unit - n * outs);
                   Largest<T> largest;
                   for (int64_t d = 0; d < at.planes; ++d)
                     for (int64_t h = 0; h < at.rows; ++h) {
                       const int64_t from = at.first + d * at.deep.step * plane + h * at.high.step * row;
                       if (at.run > 0) largest.take(x + n * D.input * plane + from, at.run, at.wide.step, from);
                     }
                   y[unit] = largest.value;
                   index[unit] = largest.index;
                 }
               });
}

template <class T>
void max_index_channels(const PoolShape& p, const T* x, T* y, int64_t* index) {
  constexpr int64_t kBlock = 4 * kLanes<T>;
  const Axis D = p.window.depth, H = p.window.height, W = p.window.width;
  const int64_t C = p.channels, blocks = tiles(C, kBlock);
  const Pitch pitch = {H.input * W.input * C, W.input * C, C};
  const int64_t per_output = D.input / D.output + H.input / H.output + W.input / W.output;
  parallel_for(p.batch * D.output * H.output * W.output * blocks, per_output * kBlock, [=](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t c0 = unit % blocks * kBlock, out = unit / blocks, n = out / W.output / H.output / D.output;
      const Look ld = look(D, out / W.output / H.output % D.output), lh = look(H, out / W.output % H.output),
                 lw = look(W, out % W.output);
      const int64_t first = (ld.first * H.input + lh.first) * W.input + lw.first;
      const bool none = ld.count * lh.count * lw.count == 0;
      const Numbering number = {none ? -1 : first, ld.step * H.input * W.input, lh.step * W.input, lw.step};
      over_channels<T>(min(kBlock, C - c0), [&](auto blocks, int64_t c, int64_t last, int64_t lanes) {
        max_pixel<T, decltype(blocks)::value>(x + n * D.input * pitch.deep + first * C + c0 + c, 0, last, pitch, ld, lh,
                                              lw, number, lanes, y + out * C + c0 + c, index + out * C + c0 + c);
      });
    }
  });
}

template <class T>
void max_index(const PoolShape& p, const T* x, T* y, int64_t* index) {
  p.channels_last ? max_index_channels(p, x, y, index) : max_index_planes(p, x, y, index);
}

// One owner a plane (or a block of channels of an image), outputs in order: no races, and the same sum on any thread
// count.
template <class T>
bool max_index_backward(const PoolShape& p, const T* dy, const int64_t* index, T* dx) {
  const Window& w = p.window;
  const int64_t inputs = w.depth.input * w.height.input * w.width.input,
                outputs = w.depth.output * w.height.output * w.width.output;
  const int64_t block = p.channels_last ? min(p.channels, 64) : 1, blocks = (p.channels + block - 1) / block;
  const int64_t pitch = p.channels_last ? p.channels : 1;
  int all_inside = 1, *inside = &all_inside;
  parallel_for(p.batch * blocks, (inputs + outputs) * block, [=](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t c = unit % blocks * block, width = min(block, p.channels - c), n = unit / blocks;
      T* to = dx + (p.channels_last ? n * inputs * p.channels + c : unit * inputs);
      const int64_t from = p.channels_last ? n * outputs * p.channels + c : unit * outputs;
      if (width == pitch)
        memset(to, 0, size_t(inputs * width) * sizeof(T));
      else
        for (int64_t i = 0; i < inputs; ++i) memset(to + i * pitch, 0, size_t(width) * sizeof(T));
      for (int64_t o = 0; o < outputs; ++o)
        for (int64_t k = 0; k < width; ++k) {
          const int64_t at = index[from + o * pitch + k];
          if (at >= 0 && at < inputs)
            to[at * pitch + k] += dy[from + o * pitch + k];
          else if (at != -1)  // -1: a window with no tap inside the input
            __atomic_store_n(inside, 0, __ATOMIC_RELAXED);
        }
    }
  });
  return all_inside != 0;
}

// ------------------------------------------------------------------------------------------------------------ average

template <class T>
inline T sum_run(const T* run, int64_t count) {
  constexpr int64_t L = kLanes<T>;
  Vector<T> a = {}, b = {};  // two, because an addition takes as long as four begin
  int64_t i = 0;
  for (; i + 2 * L <= count; i += 2 * L) a += load(run + i), b += load(run + i + L);
  for (; i < count; i += L) b += load_first<Vector<T>>(run + i, min(L, count - i));
  return sum_lanes<T>(a + b);
}

template <class T>
inline T divisor(const PoolShape& p, AvgDivisor by, int64_t od, int64_t oh) {  // all but the width's factor
  if (by.divisor_override != 0) return T(by.divisor_override);
  return T(counted(p.window.depth, by.count_include_pad, od)) * T(counted(p.window.height, by.count_include_pad, oh));
}
template <class T>
inline T divisor(const PoolShape& p, AvgDivisor by, int64_t ow) {
  return by.divisor_override != 0 ? T(1) : T(counted(p.window.width, by.count_include_pad, ow));
}

template <class T>
void avg_bands(const PoolShape& p, AvgDivisor by, const T* x, T* y) {
  const Axis W = p.window.width;
  forward(p, x, y, nullptr,
          [=](const T* from, const Pitch& pitch, int64_t channels, int64_t od, int64_t oh, int64_t column,
              const Look& ld, const Look& lh, const Look* across, int64_t columns, T* to, uint8_t*) {
            constexpr int64_t L = kLanes<T>;
            const T rows = divisor<T>(p, by, od, oh);
            from += ld.first * pitch.deep + lh.first * pitch.down;
            over_pixels<T>(
                W, channels, across, columns,
                [&](auto blocks, int64_t j, int64_t c, int64_t last, int64_t lanes, int64_t next) {
                  constexpr int Blocks = decltype(blocks)::value, B = Blocks == 0 ? 1 : Blocks;
                  const Look lw = across[j];
                  const int64_t apart = next * pitch.right;
                  Vector<T> total[B] = {};
                  for (int64_t d = 0; d < ld.count; ++d)
                    for (int64_t h = 0; h < lh.count; ++h) {
                      const T* row = from + d * pitch.deep + h * pitch.down + lw.first * pitch.right + c;
                      Vector<T> sum[B] = {};  // each row on its own first: a sum's error grows with its length
                      for (int64_t t = 0; t < lw.count; ++t, row += pitch.right)
                        for (int b = 0; b < B; ++b)
                          sum[b] += Blocks == 0 ? load_first<Vector<T>>(row, lanes)
                                                : load(row + (apart ? b * apart : vector_at<T, B>(b, last)));
                      for (int b = 0; b < B; ++b) total[b] += sum[b];
                    }
                  for (int b = 0; b < B; ++b) {
                    const T count = rows * divisor<T>(p, by, column + j + (next ? b : 0));
                    store_first(to + j * channels + c + vector_at<T, B>(b, last), total[b] / broadcast(count), lanes);
                  }
                });
          });
}

template <class T>
void avg_planes_wide(const PoolShape& p, AvgDivisor by, const T* x, T* y) {
  const Axis D = p.window.depth, H = p.window.height, W = p.window.width;
  const int64_t outs = D.output * H.output * W.output, row = W.input, plane = H.input * row;
  parallel_for(p.batch * p.channels * outs, look(D, 0).count * look(H, 0).count * look(W, 0).count,
               [=](int64_t begin, int64_t end) {
                 Place at(p.window);
                 T count = 0;
                 for (int64_t unit = begin; unit < end; ++unit) {
                   const int64_t n = quotient(unit, outs);
                   if (at.move(unit - n * outs)) count = divisor<T>(p, by, at.od, at.oh) * divisor<T>(p, by, at.ow);
                   const T* from = x + n * D.input * plane + at.first;
                   T sum = 0;
                   for (int64_t d = 0; d < at.planes; ++d)
                     for (int64_t h = 0; h < at.rows; ++h) sum += sum_run(from + d * plane + h * row, at.run);
                   y[unit] = sum / count;
                 }
               });
}

// Which outputs `passed` was computed from: neighbouring rows of inputs often hear the same ones, and need not divide
// again.
template <class T>
struct Held {
  const T* from = nullptr;
  int64_t depths = 0, rows = 0, columns = 0;
  bool is(const T* at, int64_t d, int64_t h, int64_t w) {
    if (from == at && depths == d && rows == h && columns == w) return true;
    *this = {at, d, h, w};
    return false;
  }
};

// A row of dx: first, for each output column, what the outputs above and below pass back (the sum of dy / divisor);
// then across the columns. `from` is the first output of the rows and columns that are heard.
template <class T>
struct AvgBackRow {
  PoolShape p;
  AvgDivisor by;

  void operator()(const T* from, const Pitch& pitch, int64_t channels, const Seen& sd, const Seen& sh,
                  const Range& wide, const Seen* across, int64_t columns, Held<T>* held, T* passed, T* to) const {
    constexpr int64_t L = kLanes<T>;
    const int64_t C = channels;
    if (!held->is(from, sd.count, sh.count, wide.size())) pass(from, pitch, C, sd, sh, wide, passed);
    if (C == L) {  // turned order: a pixel is a vector
      for (int64_t j = 0; j < columns; ++j) {
        const T* first = passed + (across[j].first - wide.first) * L;
        Vector<T> sum = {};
        for (int64_t o = 0; o < across[j].count; ++o) sum += load(first + o * L);
        store(to + j * L, sum);
      }
      return;
    }
    for (int64_t j = 0; j < columns; ++j, to += C) {
      const int64_t heard = across[j].count;
      const T* first = passed + (heard > 0 ? (across[j].first - wide.first) * C : 0);
      over_channels<T>(C, [&](auto blocks, int64_t c, int64_t last, int64_t lanes) {
        constexpr int Blocks = decltype(blocks)::value, B = Blocks == 0 ? 1 : Blocks;
        Vector<T> sum[B] = {};
        for (int64_t o = 0; o < heard; ++o)
          for (int b = 0; b < B; ++b)
            sum[b] += Blocks == 0 ? load_first<Vector<T>>(first + o * C + c, lanes)
                                  : load(first + o * C + c + vector_at<T, B>(b, last));
        for (int b = 0; b < B; ++b) store_first(to + c + vector_at<T, B>(b, last), sum[b], lanes);
      });
    }
  }

  void pass(const T* from, const Pitch& pitch, int64_t C, const Seen& sd, const Seen& sh, const Range& wide,
            T* passed) const {
    if (sd.count * sh.count == 0) memset(passed, 0, size_t(wide.size() * C) * sizeof(T));
    for (int64_t d = 0; d < sd.count; ++d)
      for (int64_t h = 0; h < sh.count; ++h) {
        const T rows = divisor<T>(p, by, sd.first + d, sh.first + h);
        for (int64_t o = 0; o < wide.size(); ++o) {
          const T count = rows * divisor<T>(p, by, wide.first + o);
          const T* gradient = from + d * pitch.deep + h * pitch.down + o * C;
          T* sum = passed + o * C;
          if (d + h == 0)
            for (int64_t c = 0; c < C; ++c) sum[c] = gradient[c] / count;
          else
            for (int64_t c = 0; c < C; ++c) sum[c] += gradient[c] / count;
        }
      }
  }
};

template <class T>
void avg_backward_channels(const PoolShape& p, AvgDivisor by, const T* dy, T* dx) {
  const Axis D = p.window.depth, H = p.window.height, W = p.window.width;
  const int64_t C = p.channels, tile = min(W.input, channel_tile(C)), rows = p.batch * D.input * H.input;
  const Pitch pitch = {H.output * W.output * C, W.output * C, C};
  const AvgBackRow<T> row = {p, by};
  parallel_for(tiles(W.input, tile) * rows, tile * C * 4, [=](int64_t begin, int64_t end) {
    Scratch<Seen> across(tile);
    Scratch<T> passed(most_seen(W, tile) * C);
    Held<T> held;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t column = unit / rows * tile, columns = min(tile, W.input - column);
      const int64_t ih = unit % rows % H.input, id = unit % rows / H.input % D.input,
                    n = unit % rows / H.input / D.input;
      if (unit == begin || unit % rows == 0)
        for (int64_t j = 0; j < columns; ++j) across[j] = seen(W, column + j);
      const Seen sd = seen(D, id), sh = seen(H, ih);
      const Range wide = seen_by(W, column, column + columns);
      row(dy + (n * D.output + sd.first) * pitch.deep + sh.first * pitch.down + wide.first * C, pitch, C, sd, sh, wide,
          across, columns, &held, passed, dx + (unit % rows * W.input + column) * C);
    }
  });
}

template <class T>
void avg_backward_bands(const PoolShape& p, AvgDivisor by, const T* dy, T* dx) {
  constexpr int64_t L = kLanes<T>;
  const Axis D = p.window.depth, H = p.window.height, W = p.window.width;
  const int64_t planes = p.batch * p.channels, ins = D.input * H.input * W.input, outs = D.output * H.output * W.output;
  const int64_t tile = min(W.input, kTileColumns), band = min(H.input, max(1, kBandElements / L / tile));
  const int64_t bands = tiles(H.input, band), groups = tiles(planes, L);
  const int64_t heard = most_seen(D, 1) * most_seen(H, band) * most_seen(W, tile);
  const AvgBackRow<T> row = {p, by};
  parallel_for(tiles(W.input, tile) * groups * D.input * bands, band * tile * L * 4, [=](int64_t begin, int64_t end) {
    Scratch<Seen> across(tile);
    Scratch<T> turned(heard * L), passed(most_seen(W, tile) * L), out(band * tile * L + L * L);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t ih0 = unit % bands * band, ih1 = min(H.input, ih0 + band), id = unit / bands % D.input;
      const int64_t group = unit / bands / D.input % groups, column = unit / bands / D.input / groups * tile;
      const int64_t columns = min(tile, W.input - column), first = group * L, lanes = min(L, planes - first);
      const Range high = seen_by(H, ih0, ih1), wide = seen_by(W, column, column + columns);
      const Seen sd = seen(D, id);
      if (high.size() * wide.size() > 0)
        turn_block_in<T>(dy + first * outs + (sd.first * H.output + high.first) * W.output + wide.first, outs, lanes,
                         H.output, W.output, sd.count, 1, high.size(), wide.size(), turned);
      for (int64_t j = 0; j < columns; ++j) across[j] = seen(W, column + j);
      const Pitch pitch = {high.size() * wide.size() * L, wide.size() * L, L};
      Held<T> held;
      for (int64_t ih = ih0; ih < ih1; ++ih) {
        const Seen sh = seen(H, ih);
        row(turned + (sh.first - high.first) * pitch.down, pitch, L, sd, sh, wide, across, columns, &held, passed,
            out + (ih - ih0) * columns * L);
      }
      T* to = dx + first * ins + (id * H.input + ih0) * W.input + column;
      turn_block_out<T>(static_cast<const T*>(out), ih1 - ih0, columns, W.input, to, ins, lanes);
    }
  });
}

template <class T>
void avg_backward_planes_wide(const PoolShape& p, AvgDivisor by, const T* dy, T* dx) {
  const Axis D = p.window.depth, H = p.window.height, W = p.window.width;
  const int64_t outer = p.batch * p.channels, plane = D.input * H.input * W.input;
  if (look(D, 0).count * look(H, 0).count * look(W, 0).count == plane &&
      D.output * H.output * W.output == 1) {  // global
    const T count = divisor<T>(p, by, 0, 0) * divisor<T>(p, by, 0);
    parallel_for(outer, plane, [=](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T each = dy[n] / count;
        for (int64_t i = 0; i < plane; ++i) dx[n * plane + i] = each;
      }
    });
    return;
  }
  parallel_for(outer * D.input * H.input, W.input, [=](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t ih = unit % H.input, id = unit / H.input % D.input, n = unit / H.input / D.input;
      const Seen sd = seen(D, id), sh = seen(H, ih);
      T* to = dx + ((n * D.input + id) * H.input + ih) * W.input;
      memset(to, 0, size_t(W.input) * sizeof(T));
      for (int64_t ow = 0; ow < W.output; ++ow) {
        const Look lw = look(W, ow);
        const T across = divisor<T>(p, by, ow);
        T passed = 0;
        for (int64_t d = 0; d < sd.count; ++d)
          for (int64_t h = 0; h < sh.count; ++h) {
            const int64_t od = sd.first + d, oh = sh.first + h;
            passed += dy[((n * D.output + od) * H.output + oh) * W.output + ow] / (divisor<T>(p, by, od, oh) * across);
          }
        for (int64_t i = lw.first; i < lw.first + lw.count; ++i) to[i] += passed;
      }
    }
  });
}

template <class T>
void avg(const PoolShape& p, AvgDivisor by, const T* x, T* y) {
  p.channels_last || (narrow(p.window) && p.window.width.output > 1) ? avg_bands(p, by, x, y)
                                                                     : avg_planes_wide(p, by, x, y);
}

template <class T>
void avg_backward(const PoolShape& p, AvgDivisor by, const T* dy, T* dx) {
  if (p.channels_last)
    avg_backward_channels(p, by, dy, dx);
  else
    narrow(p.window) && p.window.width.output > 1 ? avg_backward_bands(p, by, dy, dx)
                                                  : avg_backward_planes_wide(p, by, dy, dx);
}

}  // namespace

extern const PoolKernels<float> pool_f32;
extern const PoolKernels<double> pool_f64;
#define STRIATE_POOL(T) \
  {max_offset<T>, max_offset_backward<T>, offset_to_index, max_index<T>, max_index_backward<T>, avg<T>, avg_backward<T>}
const PoolKernels<float> pool_f32 = STRIATE_POOL(float);
const PoolKernels<double> pool_f64 = STRIATE_POOL(double);

}  // namespace STRIATE_ISA
}  // namespace striate
