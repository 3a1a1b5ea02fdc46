// What max and average pooling share: the loop over outputs in both memory orders, and the loop over wide windows. A
// part of pool.cpp.
#pragma once
#include "core/machine.h"
#include "core/parallel.h"
#include "core/transpose.h"
#include "kernels/pool/pool.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

constexpr int64_t kTileColumns = 256;
// The values that are packed at a time.
template <class T>
int64_t band_values() {
  return band_bytes() / int64_t(sizeof(T));
}

// Whether the window covers few enough positions to be packed in bands: 4 MiB of float at most. Wider windows are
// reduced in runs of consecutive values; max pooling of these returns an index (ops/pool/ decides, by the same
// bound).
inline bool is_narrow(const Window& w) {
  const auto reach = [](const Axis& a, int64_t more) { return min(a.input, (a.size - 1) * a.dilation + 1 + more); };
  if (w.depth.size == 0 || w.height.size == 0 || w.width.size == 0) return false;
  return min(w.depth.size, w.depth.input) * reach(w.height, 0) * reach(w.width, kTileColumns) <= 65536;
}

// Calls body(vectors, j, c, last, lanes, next) for the channels of all pixels of a row of outputs, as
// for_each_channel_block does. Where one vector holds all channels, as in packed bands, four neighbouring pixels whose
// windows have all their taps are computed together, `next` (the stride) inputs apart: the loops over the taps then
// cost a quarter. Otherwise next is 0 and the vectors are channels of pixel j.
template <class T, class Body>
STRIATE_INLINE void for_each_pixel(const Axis& width, int64_t channels, const ValidTaps* across, int64_t columns,
                                   const Body& body) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t j = 0; j < columns; ++j) {
    if (channels == L && j + 4 <= columns && across[j].count == width.size && across[j + 3].count == width.size) {
      body(Constant<4>{}, j, 0, 3 * L, L, width.stride);
      j += 3;
    } else {
      for_each_channel_block<T>(
          channels, [&](auto blocks, int64_t c, int64_t last, int64_t lanes) { body(blocks, j, c, last, lanes, 0); });
    }
  }
}

// The columns of a unit of work in NHWC: whole rows unless a row is very long.
template <class T>
int64_t channel_tile(int64_t channels) {
  return max(16, min(512, band_values<T>() / channels));
}

// Calls row(from, pitch, channels, d, h, column, taps of each axis, y, offset) for all rows of outputs, in either
// memory order. `Row` computes `columns` outputs: see max_offset and avg_bands.
template <class T, class Row>
void forward(const PoolShape& p, const T* x, T* y, uint8_t* offset, const Row& row) {
  constexpr int64_t L = kLanes<T>;
  const Axis D = p.window.depth, H = p.window.height, W = p.window.width;
  if (p.channels_last) {
    const int64_t C = p.channels, tile = min(W.output, channel_tile<T>(C)), rows = p.batch * D.output * H.output;
    const Pitch pitch = {H.input * W.input * C, W.input * C, C};
    parallel_for(ceil_div(W.output, tile) * rows, tile * C * 8, [=](int64_t begin, int64_t end) {
      Scratch<ValidTaps> across(tile);
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t column = unit / rows * tile, columns = min(tile, W.output - column);
        const int64_t oh = unit % rows % H.output, od = unit % rows / H.output % D.output,
                      n = unit % rows / H.output / D.output;
        if (unit == begin || unit % rows == 0)
          for (int64_t j = 0; j < columns; ++j) across[j] = valid_taps(W, column + j);
        const int64_t out = ((unit % rows) * W.output + column) * C;
        row(x + n * D.input * pitch.deep, pitch, C, od, oh, column, valid_taps(D, od), valid_taps(H, oh), across,
            columns, y + out, offset ? offset + out : nullptr);
      }
    });
    return;
  }
  const int64_t planes = p.batch * p.channels, in = D.input * H.input * W.input, outs = D.output * H.output * W.output;
  const int64_t tile = min(W.output, max(1, kTileColumns / W.stride));
  const int64_t columns_in = min(W.input, (tile - 1) * W.stride + (W.size - 1) * W.dilation + 1),
                reach = (H.size - 1) * H.dilation + 1;
  const int64_t fit = band_values<T>() / L / columns_in / min(D.size, D.input) - reach;
  const int64_t band = min(H.output, fit < 0 ? 1 : fit / H.stride + 1), bands = ceil_div(H.output, band);
  const int64_t rows_in = min(H.input, (band - 1) * H.stride + reach), groups = ceil_div(planes, L);
  parallel_for(
      ceil_div(W.output, tile) * groups * D.output * bands, band * tile * L * 8, [=](int64_t begin, int64_t end) {
        Scratch<ValidTaps> across(tile);
        Scratch<T> transposed(min(D.size, D.input) * rows_in * columns_in * L), out(band * tile * L + L * L);
        Scratch<uint8_t> tap(band * tile * L + L * L);
        for (int64_t unit = begin; unit < end; ++unit) {
          const int64_t oh0 = unit % bands * band, oh1 = min(H.output, oh0 + band), od = unit / bands % D.output;
          const int64_t group = unit / bands / D.output % groups, column = unit / bands / D.output / groups * tile;
          const int64_t columns = min(tile, W.output - column), first = group * L, lanes = min(L, planes - first);
          const Range high = input_range(H, oh0, oh1), wide = input_range(W, column, column + columns);
          const ValidTaps ld = valid_taps(D, od);
          pack_lanes_block<T>(x + first * in + (ld.first * H.input + high.first) * W.input + wide.first, in, lanes,
                              H.input, W.input, ld.count, ld.step, high.size(), wide.size(), transposed);
          for (int64_t j = 0; j < columns; ++j) across[j] = valid_taps(W, column + j), across[j].first -= wide.first;
          const Pitch pitch = {high.size() * wide.size() * L, wide.size() * L, L};
          for (int64_t oh = oh0; oh < oh1; ++oh) {
            ValidTaps lh = valid_taps(H, oh);
            lh.first -= high.first;
            row(transposed, pitch, L, od, oh, column, ValidTaps{0, ld.count, 1, ld.tap}, lh, across, columns,
                out + (oh - oh0) * columns * L, offset ? tap + (oh - oh0) * columns * L : nullptr);
          }
          const int64_t to = first * outs + (od * H.output + oh0) * W.output + column;
          unpack_lanes_block<T>(static_cast<const T*>(out), oh1 - oh0, columns, W.output, y + to, outs, lanes);
          if (offset)
            unpack_lanes_block<T>(static_cast<const uint8_t*>(tap), oh1 - oh0, columns, W.output, offset + to, outs,
                                  lanes);
        }
      });
}

// The window of one output as runs of consecutive values; whole rows, and then whole planes, join into one run. For a
// global window that is worked out once for all planes.
struct WindowCursor {
  Window window;
  int64_t o = -1, od = 0, oh = 0, ow = 0;
  int64_t first = 0, planes = 0, rows = 0,
          run = 0;  // position of the first value in its volume; number of planes, of rows in each, of values in a row
  ValidTaps deep, high, wide;

  explicit WindowCursor(const Window& w) : window(w) {}

  // Moves to output number `to` of a plane; returns false if it is there already.
  bool move(int64_t to) {
    if (to == o) return false;
    o = to;
    const Axis &D = window.depth, &H = window.height, &W = window.width;
    const int64_t above = quotient(o, W.output);
    ow = o - above * W.output;
    od = quotient(above, H.output);
    oh = above - od * H.output;
    deep = valid_taps(D, od), high = valid_taps(H, oh), wide = valid_taps(W, ow);
    first = (deep.first * H.input + high.first) * W.input + wide.first;
    planes = deep.count, rows = high.count, run = wide.count;
    if (run == W.input && high.step == 1) run *= rows, rows = 1;
    if (run == W.input * H.input && deep.step == 1) run *= planes, planes = 1;
    return true;
  }
};

}  // namespace
}  // namespace STRIATE_ISA
}  // namespace striate
