// Max pooling, forward and backward. A part of pool.cpp.
#pragma once
#include "kernels/pool/common.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

// Keeps the larger value and its position. NaN is larger than any number, and of several NaN the last is kept; of equal
// values the first.
template <class T>
STRIATE_INLINE void update_max(Vector<T>& best, IntVector<T>& position, const Vector<T>& v, const IntVector<T>& at) {
  const IntVector<T> better = (v > best) | (v != v);
  best = better ? v : best;
  position = better ? at : position;
}

// How taps are numbered: by their order in the window (offset), or by their position in the plane (index).
struct Numbering {
  int64_t first, deep, down, right;  // the number of the first valid tap, and the differences along each axis
};

// Computes `Blocks` vectors side by side: channels of a pixel, or pixels of one vector's channels (`apart` in x,
// contiguous in y).
template <class T, int Blocks, class Where>
STRIATE_INLINE void max_pixel(const T* x, int64_t apart, int64_t last, const Pitch& pitch, const ValidTaps& ld,
                              const ValidTaps& lh, const ValidTaps& lw, const Numbering& number, int64_t lanes, T* y,
                              Where* where) {
  constexpr int B = Blocks == 0 ? 1 : Blocks;
  const int64_t deep = ld.step * pitch.deep, down = lh.step * pitch.down, right = lw.step * pitch.right;
  Vector<T> best[B];
  IntVector<T> position[B];
  for (int b = 0; b < B; ++b) best[b] = broadcast(-T(__builtin_inf())), position[b] = broadcast_int<T>(number.first);
  const IntVector<T> next = broadcast_int<T>(number.right);
  for (int64_t d = 0; d < ld.count; ++d)
    for (int64_t h = 0; h < lh.count; ++h) {
      const T* from = x + d * deep + h * down;
      IntVector<T> at = broadcast_int<T>(number.first + d * number.deep + h * number.down);
      for (int64_t w = 0; w < lw.count; ++w, from += right, at += next)
        for (int b = 0; b < B; ++b)
          update_max<T>(best[b], position[b],
                        Blocks == 0 ? load_first<Vector<T>>(from, lanes)
                                    : load(from + (apart ? b * apart : vector_at<T, B>(b, last))),
                        at);
    }
  for (int b = 0; b < B; ++b) {
    const int64_t to = vector_at<T, B>(b, last);
    store_first(y + to, best[b], lanes);
    if (where == nullptr) continue;
    if constexpr (sizeof(Where) == 1)
      store_first(where + to, to_bytes<T>(position[b]), lanes);
    else
      for (int64_t k = 0; k < lanes; ++k) where[to + k] = position[b][k];
  }
}

template <class T>
void max_offset(const PoolShape& p, const T* x, T* y, uint8_t* offset) {
  const Axis W = p.window.width;
  const int64_t row_taps = W.size, plane_taps = p.window.height.size * row_taps;
  forward(p, x, y, offset,
          [=](const T* from, const Pitch& pitch, int64_t channels, int64_t, int64_t, int64_t, const ValidTaps& ld,
              const ValidTaps& lh, const ValidTaps* across, int64_t columns, T* to, uint8_t* tap) {
            from += ld.first * pitch.deep + lh.first * pitch.down;
            for_each_pixel<T>(
                W, channels, across, columns,
                [&](auto blocks, int64_t j, int64_t c, int64_t last, int64_t lanes, int64_t next) {
                  const ValidTaps lw = across[j];
                  const Numbering number = {ld.tap * plane_taps + lh.tap * row_taps + lw.tap, plane_taps, row_taps, 1};
                  max_pixel<T, decltype(blocks)::value>(from + lw.first * pitch.right + c, next * pitch.right, last,
                                                        pitch, ld, lh, lw, number, lanes, to + j * channels + c,
                                                        tap ? tap + j * channels + c : nullptr);
                });
          });
}

// Backward in NHWC: gathers the gradient of each input from the outputs that cover it.
template <class T>
void max_offset_backward_channels(const PoolShape& p, const T* dy, const uint8_t* offset, T* dx) {
  const Axis D = p.window.depth, H = p.window.height, W = p.window.width;
  const int64_t C = p.channels, tile = min(W.input, channel_tile<T>(C)), rows = p.batch * D.input * H.input;
  parallel_for(ceil_div(W.input, tile) * rows, tile * C * 4, [=](int64_t begin, int64_t end) {
    Scratch<CoveringOutputs> across(tile);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t column = unit / rows * tile, columns = min(tile, W.input - column);
      const int64_t ih = unit % rows % H.input, id = unit % rows / H.input % D.input,
                    n = unit % rows / H.input / D.input;
      if (unit == begin || unit % rows == 0)
        for (int64_t j = 0; j < columns; ++j) across[j] = covering_outputs(W, column + j);
      const CoveringOutputs sd = covering_outputs(D, id), sh = covering_outputs(H, ih);
      T* to = dx + (unit % rows * W.input + column) * C;
      for (int64_t j = 0; j < columns; ++j, to += C) {
        const CoveringOutputs sw = across[j];
        for_each_channel_block<T>(C, [&](auto blocks, int64_t c, int64_t last, int64_t lanes) {
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

// Maps tap numbers to displacements from a window's corner; one table serves every output.
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

// Backward in NCHW: scatters into bands as large as the first-level cache, past which dy streams. A band takes only
// displacements that fall into it, so that nothing is written outside whatever `offset` holds. Outputs come in order,
// so that every sum has one order.
template <class T>
void max_offset_backward_planes(const PoolShape& p, const T* dy, const uint8_t* offset, T* dx) {
  const Axis D = p.window.depth, H = p.window.height, W = p.window.width;
  const int64_t plane = H.input * W.input, planes = p.batch * p.channels;
  // cut the first axis with more than one input
  const Axis cut = D.input > 1 ? D : H.input > 1 ? H : W;
  const int64_t slab = D.input > 1 ? plane : H.input > 1 ? W.input : 1;
  const int64_t band = max(1, min(cut.input, machine().first_level / int64_t(sizeof(T)) / slab)),
                bands = ceil_div(cut.input, band);
  parallel_for(planes * bands, band * slab, [=](int64_t begin, int64_t end) {
    const Displacements displacements(p.window);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / bands, first = unit % bands * band, last = min(cut.input, first + band);
      const Range all = output_range(cut, first, last);
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
            const uint64_t at = uint64_t(corner + displacements.of[offset[out + ow]]);
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
    const Displacements displacements(p.window);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t oh = unit % H.output, od = unit / H.output % D.output;
      const int64_t corner = ((od * D.stride - D.before) * H.input + oh * H.stride - H.before) * W.input - W.before;
      int64_t out = unit * W.output * inner;
      for (int64_t ow = 0; ow < W.output; ++ow)
        for (int64_t c = 0; c < inner; ++c, ++out) index[out] = corner + ow * W.stride + displacements.of[offset[out]];
    }
  });
}

// The largest of the values of a window and its position, run by run. Reading a run a second time from the cache is
// cheaper than keeping a position in every lane.
template <class T>
struct MaxOfWindow {
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

template <class T>
void max_index_planes(const PoolShape& p, const T* x, T* y, int64_t* index) {
  const Axis D = p.window.depth, H = p.window.height, W = p.window.width;
  const int64_t outs = D.output * H.output * W.output, row = W.input, plane = H.input * row;
  parallel_for(p.batch * p.channels * outs, valid_taps(D, 0).count * valid_taps(H, 0).count * valid_taps(W, 0).count,
               [=](int64_t begin, int64_t end) {
                 WindowCursor at(p.window);
                 for (int64_t unit = begin; unit < end; ++unit) {
                   const int64_t n = quotient(unit, outs);
                   at.move(unit - n * outs);
                   MaxOfWindow<T> largest;
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
  const int64_t C = p.channels, blocks = ceil_div(C, kBlock);
  const Pitch pitch = {H.input * W.input * C, W.input * C, C};
  const int64_t per_output = D.input / D.output + H.input / H.output + W.input / W.output;
  parallel_for(p.batch * D.output * H.output * W.output * blocks, per_output * kBlock, [=](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t c0 = unit % blocks * kBlock, out = unit / blocks, n = out / W.output / H.output / D.output;
      const ValidTaps ld = valid_taps(D, out / W.output / H.output % D.output),
                      lh = valid_taps(H, out / W.output % H.output), lw = valid_taps(W, out % W.output);
      const int64_t first = (ld.first * H.input + lh.first) * W.input + lw.first;
      const bool none = ld.count * lh.count * lw.count == 0;
      const Numbering number = {none ? -1 : first, ld.step * H.input * W.input, lh.step * W.input, lw.step};
      for_each_channel_block<T>(min(kBlock, C - c0), [&](auto blocks, int64_t c, int64_t last, int64_t lanes) {
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

// Each plane, or block of channels of an image, is one unit of work, with its outputs in order: no races, and the same
// sums on any number of threads.
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
          else if (at != -1)  // -1 stands for a window with no tap inside the input
            __atomic_store_n(inside, 0, __ATOMIC_RELAXED);
        }
    }
  });
  return all_inside != 0;
}

}  // namespace
}  // namespace STRIATE_ISA
}  // namespace striate
