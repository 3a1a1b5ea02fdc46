// Average pooling, forward and backward. A part of pool.cpp.
#pragma once
#include "kernels/pool/common.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

// The number of taps along an axis by which output o is divided.
inline int64_t counted_taps(const Axis& a, bool include_pad, int64_t o) {
  if (!include_pad || a.size == 0) return valid_taps(a, o).count;
  const int64_t start = o * a.stride - a.before, end = start + a.size, limit = a.input + a.after;
  return (end < limit ? end : limit) - start;
}

template <class T>
inline T sum_run(const T* run, int64_t count) {
  constexpr int64_t L = kLanes<T>;
  Vector<T> a = {}, b = {};  // two sums, because the latency of an addition is that of several additions in parallel
  int64_t i = 0;
  for (; i + 2 * L <= count; i += 2 * L) a += load(run + i), b += load(run + i + L);
  for (; i < count; i += L) b += load_first<Vector<T>>(run + i, min(L, count - i));
  return sum_lanes<T>(a + b);
}

template <class T>
inline T divisor(const PoolShape& p, AvgDivisor by, int64_t od, int64_t oh) {  // without the factor of the width
  if (by.divisor_override != 0) return T(by.divisor_override);
  return T(counted_taps(p.window.depth, by.count_include_pad, od)) *
         T(counted_taps(p.window.height, by.count_include_pad, oh));
}
template <class T>
inline T divisor(const PoolShape& p, AvgDivisor by, int64_t ow) {
  return by.divisor_override != 0 ? T(1) : T(counted_taps(p.window.width, by.count_include_pad, ow));
}

template <class T>
void avg_bands(const PoolShape& p, AvgDivisor by, const T* x, T* y) {
  const Axis W = p.window.width;
  forward(
      p, x, y, nullptr,
      [=](const T* from, const Pitch& pitch, int64_t channels, int64_t od, int64_t oh, int64_t column,
          const ValidTaps& ld, const ValidTaps& lh, const ValidTaps* across, int64_t columns, T* to, uint8_t*) {
        const T rows = divisor<T>(p, by, od, oh);
        from += ld.first * pitch.deep + lh.first * pitch.down;
        for_each_pixel<T>(
            W, channels, across, columns,
            [&](auto blocks, int64_t j, int64_t c, int64_t last, int64_t lanes, int64_t next) {
              constexpr int Blocks = decltype(blocks)::value, B = Blocks == 0 ? 1 : Blocks;
              const ValidTaps lw = across[j];
              const int64_t apart = next * pitch.right;
              Vector<T> total[B] = {};
              for (int64_t d = 0; d < ld.count; ++d)
                for (int64_t h = 0; h < lh.count; ++h) {
                  const T* row = from + d * pitch.deep + h * pitch.down + lw.first * pitch.right + c;
                  Vector<T> sum[B] = {};  // sums each row on its own first: the error of a sum grows with its length
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
  parallel_for(p.batch * p.channels * outs, valid_taps(D, 0).count * valid_taps(H, 0).count * valid_taps(W, 0).count,
               [=](int64_t begin, int64_t end) {
                 WindowCursor at(p.window);
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

// The outputs from which `passed` was computed. Neighbouring rows of inputs are often covered by the same outputs, and
// need not divide again.
template <class T>
struct PassedKey {
  const T* from = nullptr;
  int64_t depths = 0, rows = 0, columns = 0;
  bool is(const T* at, int64_t d, int64_t h, int64_t w) {
    if (from == at && depths == d && rows == h && columns == w) return true;
    *this = {at, d, h, w};
    return false;
  }
};

// Computes a row of dx: first, for each output column, the sum of dy / divisor over the rows of outputs that cover it;
// then, for each input, the sum over columns. `from` is the first covering output.
template <class T>
struct AvgBackRow {
  PoolShape p;
  AvgDivisor by;

  void operator()(const T* from, const Pitch& pitch, int64_t channels, const CoveringOutputs& sd,
                  const CoveringOutputs& sh, const Range& wide, const CoveringOutputs* across, int64_t columns,
                  PassedKey<T>* held, T* passed, T* to) const {
    constexpr int64_t L = kLanes<T>;
    const int64_t C = channels;
    if (!held->is(from, sd.count, sh.count, wide.size())) pass(from, pitch, C, sd, sh, wide, passed);
    if (C == L) {  // packed: a pixel is one vector
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
      for_each_channel_block<T>(C, [&](auto blocks, int64_t c, int64_t last, int64_t lanes) {
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

  void pass(const T* from, const Pitch& pitch, int64_t C, const CoveringOutputs& sd, const CoveringOutputs& sh,
            const Range& wide, T* passed) const {
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
  const int64_t C = p.channels, tile = min(W.input, channel_tile<T>(C)), rows = p.batch * D.input * H.input;
  const Pitch pitch = {H.output * W.output * C, W.output * C, C};
  const AvgBackRow<T> row = {p, by};
  parallel_for(ceil_div(W.input, tile) * rows, tile * C * 4, [=](int64_t begin, int64_t end) {
    Scratch<CoveringOutputs> across(tile);
    Scratch<T> passed(max_outputs(W, tile) * C);
    PassedKey<T> held;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t column = unit / rows * tile, columns = min(tile, W.input - column);
      const int64_t ih = unit % rows % H.input, id = unit % rows / H.input % D.input,
                    n = unit % rows / H.input / D.input;
      if (unit == begin || unit % rows == 0)
        for (int64_t j = 0; j < columns; ++j) across[j] = covering_outputs(W, column + j);
      const CoveringOutputs sd = covering_outputs(D, id), sh = covering_outputs(H, ih);
      const Range wide = output_range(W, column, column + columns);
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
  const int64_t tile = min(W.input, kTileColumns), band = min(H.input, max(1, band_values<T>() / L / tile));
  const int64_t bands = ceil_div(H.input, band), groups = ceil_div(planes, L);
  const int64_t heard = max_outputs(D, 1) * max_outputs(H, band) * max_outputs(W, tile);
  const AvgBackRow<T> row = {p, by};
  parallel_for(
      ceil_div(W.input, tile) * groups * D.input * bands, band * tile * L * 4, [=](int64_t begin, int64_t end) {
        Scratch<CoveringOutputs> across(tile);
        Scratch<T> transposed(heard * L), passed(max_outputs(W, tile) * L), out(band * tile * L + L * L);
        for (int64_t unit = begin; unit < end; ++unit) {
          const int64_t ih0 = unit % bands * band, ih1 = min(H.input, ih0 + band), id = unit / bands % D.input;
          const int64_t group = unit / bands / D.input % groups, column = unit / bands / D.input / groups * tile;
          const int64_t columns = min(tile, W.input - column), first = group * L, lanes = min(L, planes - first);
          const Range high = output_range(H, ih0, ih1), wide = output_range(W, column, column + columns);
          const CoveringOutputs sd = covering_outputs(D, id);
          if (high.size() * wide.size() > 0)
            pack_lanes_block<T>(dy + first * outs + (sd.first * H.output + high.first) * W.output + wide.first, outs,
                                lanes, H.output, W.output, sd.count, 1, high.size(), wide.size(), transposed);
          for (int64_t j = 0; j < columns; ++j) across[j] = covering_outputs(W, column + j);
          const Pitch pitch = {high.size() * wide.size() * L, wide.size() * L, L};
          PassedKey<T> held;
          for (int64_t ih = ih0; ih < ih1; ++ih) {
            const CoveringOutputs sh = covering_outputs(H, ih);
            row(transposed + (sh.first - high.first) * pitch.down, pitch, L, sd, sh, wide, across, columns, &held,
                passed, out + (ih - ih0) * columns * L);
          }
          T* to = dx + first * ins + (id * H.input + ih0) * W.input + column;
          unpack_lanes_block<T>(static_cast<const T*>(out), ih1 - ih0, columns, W.input, to, ins, lanes);
        }
      });
}

template <class T>
void avg_backward_planes_wide(const PoolShape& p, AvgDivisor by, const T* dy, T* dx) {
  const Axis D = p.window.depth, H = p.window.height, W = p.window.width;
  const int64_t outer = p.batch * p.channels, plane = D.input * H.input * W.input;
  if (valid_taps(D, 0).count * valid_taps(H, 0).count * valid_taps(W, 0).count == plane &&
      D.output * H.output * W.output == 1) {  // global pooling
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
      const CoveringOutputs sd = covering_outputs(D, id), sh = covering_outputs(H, ih);
      T* to = dx + ((n * D.input + id) * H.input + ih) * W.input;
      memset(to, 0, size_t(W.input) * sizeof(T));
      for (int64_t ow = 0; ow < W.output; ++ow) {
        const ValidTaps lw = valid_taps(W, ow);
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
  p.channels_last || (is_narrow(p.window) && p.window.width.output > 1) ? avg_bands(p, by, x, y)
                                                                        : avg_planes_wide(p, by, x, y);
}

template <class T>
void avg_backward(const PoolShape& p, AvgDivisor by, const T* dy, T* dx) {
  if (p.channels_last)
    avg_backward_channels(p, by, dy, dx);
  else
    is_narrow(p.window) && p.window.width.output > 1 ? avg_backward_bands(p, by, dy, dx)
                                                     : avg_backward_planes_wide(p, by, dy, dx);
}

}  // namespace
}  // namespace STRIATE_ISA
}  // namespace striate
