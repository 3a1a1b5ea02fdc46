// Convolution of few channels a group, lanes across groups:
//
//   y[k, o] = b[k] + sum over c < q, t of w[k, c, t] · x[group(k)·q + c, o·stride + t·dilation - before]
//
// Layout. Lane k of a vector is destination channel k of one pixel, whichever group it is in. A band of the source is copied so that lane
// k of its c-th plane holds what channel k sums: for a depthwise convolution (q = 1, one filter a group) that is the channel itself,
// else channels are dealt out to the lanes on the way. The copy has zeros beyond left and right, so no column is an edge. Source in
// planes order is turned on its way; where a map's destination is in planes order it is turned back.
//
// Tile. One vector of channels by kTile columns: so many independent sums hide the latency of the multiply-add (4 cycles, two a cycle), and
// each needs one load from the first-level cache: 9 loads to 8 multiply-adds at two a cycle each.
//
// The weight gradient sums over a row in registers, 8 taps at a time, over chunks of images and rows in float, and over the chunks, which
// depend on the shape alone, in double.
#include "conv.h"

#include "../bands.h"
#include "../turn.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

constexpr int kTile = 8;

// Destination channels [first, first + lanes) as one vector, and which source channel each of them sums: base + of[lane], for c = 0.
template <class T>
struct Lanes {
  int64_t first, lanes, base, span;
  bool plain;  // lane k is source channel first + k
  IntVector<T> of;
};

template <class T>
Lanes<T> lanes_at(int64_t first, int64_t all, int64_t to, int64_t from) {
  constexpr int64_t L = kLanes<T>;
  Lanes<T> v = {first, min(L, all - first), first / to * from, 1, to == 1 && from == 1, {}};
  for (int64_t k = 0; k < L; ++k) {
    const int64_t channel = (first + min(k, v.lanes - 1)) / to * from - v.base;
    v.of[k] = typename Lane<T>::Int(channel);
    v.span = max(v.span, channel + 1);
  }
  return v;
}

// One row of a band: sources [wide.first, wide.last) of every lane's c-th channel; zeros where there are none.
template <class T>
void copy_row(const T* x, int64_t columns, int64_t pitch, bool channels_last, int64_t plane, int64_t channels, const Lanes<T>& v, int64_t c,
              Range wide, T* band) {
  constexpr int64_t L = kLanes<T>;
  const int64_t left = min(max(0, -wide.first), wide.size()), begin = max(0, wide.first), end = max(begin, min(columns, wide.last));
  for (int64_t i = 0; i < left; ++i) store(band + i * L, Vector<T>{});
  T* to = band + left * L;
  if (channels_last) {
    const T* from = x + begin * pitch + v.base + c;
    if (v.plain && v.lanes == L) {
      for (int64_t i = begin; i < end; ++i, to += L, from += pitch) store(to, load(from));
    } else if (v.plain) {
      for (int64_t i = begin; i < end; ++i, to += L, from += pitch) store(to, load_first<Vector<T>>(from, v.lanes));
    } else if (v.span <= L) {
      const int64_t there = min(v.span, channels - v.base - c);
      const IntVector<T> of = v.of;
      for (int64_t i = begin; i < end; ++i, to += L, from += pitch)
        store(to, pick_lanes<T>(load_first<Vector<T>>(from, there), of));
    } else {
      for (int64_t i = begin; i < end; ++i, to += L, from += pitch)
        for (int64_t k = 0; k < L; ++k) to[k] = from[v.of[k]];
    }
  } else {
    const T* planes[L];
    for (int64_t k = 0; k < L; ++k) planes[k] = x + (v.base + v.of[k] + c) * plane + begin;
    if (end > begin) turn_in(planes, end - begin, to);
    to += (end - begin) * L;
  }
  for (const T* stop = band + wide.size() * L; to < stop; to += L) store(to, Vector<T>{});
}

// The band of block b for the c-th channels: rows of depths one behind the other.
template <class T>
void copy_band(const Side& s, const Block& b, const T* source, const Lanes<T>& v, T* band) {
  constexpr int64_t L = kLanes<T>;
  const int64_t D = s.depth.sources(), H = s.height.sources(), W = s.width.sources(), channels = s.all_from(), row = b.wide.size() * L;
  const T* image = source + b.n * D * H * W * channels;
  for (int64_t c = 0; c < s.from; ++c)
    for (int64_t d = b.deep.first; d < b.deep.last; ++d)
      for (int64_t h = b.high.first; h < b.high.last; ++h, band += row) {
        const int64_t at = (d * H + h) * W;
        copy_row(s.channels_last ? image + at * channels : image + at, W, channels, s.channels_last, D * H * W, channels, v, c, b.wide, band);
      }
}

// The rows of a band that a destination's row sums, and the weights beside them: channel, depth and row taps together.
template <class T>
struct Rows {
  const T** source;
  const T** weight;
  int64_t count;
};

template <class T>
void find_rows(const Side& s, const Block& b, int64_t d, int64_t h, const T* band, const T* weight, Rows<T>& rows) {
  constexpr int64_t L = kLanes<T>;
  const Sources deep = s.depth.of(d), high = s.height.of(h);
  const int64_t KH = s.height.axis.size, KW = s.width.axis.size;
  rows.count = 0;
  for (int64_t c = 0; c < s.from; ++c)
    for (int64_t i = 0; i < deep.count; ++i)
      for (int64_t j = 0; j < high.count; ++j, ++rows.count) {
        const int64_t row = (c * b.deep.size() + deep.first + i * deep.step - b.deep.first) * b.high.size() + high.first + j * high.step - b.high.first;
        const int64_t tap = ((c * s.depth.axis.size + deep.tap + i * deep.tap_step) * KH + high.tap + j * high.tap_step) * KW;
        rows.source[rows.count] = band + row * b.wide.size() * L;
        rows.weight[rows.count] = weight + tap * L;
      }
}

// N neighbouring destinations: their sources are `apart` values apart.
template <class T, int N, class Apart>
STRIATE_INLINE void tile(const Rows<T>& rows, const Phase& p, int64_t source, Apart apart, const Vector<T>& bias, T* to, int64_t to_apart,
                         int64_t lanes) {
  constexpr int64_t L = kLanes<T>;
  Vector<T> sum[N];
#pragma GCC unroll 16
  for (int j = 0; j < N; ++j) sum[j] = bias;
  for (int64_t r = 0; r < rows.count; ++r) {
    const T *x = rows.source[r] + source, *w = rows.weight[r] + p.tap * L;
    for (int64_t i = 0; i < p.taps; ++i, x += p.shift_step * L, w += p.tap_step * L) {
      const Vector<T> weight = load(w);
#pragma GCC unroll 16
      for (int j = 0; j < N; ++j) sum[j] += weight * load(x + j * apart);
    }
  }
  if (lanes == L) {
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j) store(to + j * to_apart, sum[j]);
  } else {
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j) store_first(to + j * to_apart, sum[j], lanes);
  }
}

template <class T, class Apart>
STRIATE_INLINE void sum_columns(const Rows<T>& rows, const Phase& p, Range columns, int64_t base, Apart apart, const Vector<T>& bias, T* to,
                                int64_t to_apart, int64_t lanes) {
  constexpr int64_t L = kLanes<T>;
  const auto at = [&](int64_t j) { return (j * p.step + p.shift - base) * L; };
  int64_t j = columns.first;
  for (; j + kTile <= columns.last; j += kTile) tile<T, kTile>(rows, p, at(j), apart, bias, to + (j - columns.first) * to_apart, to_apart, lanes);
  const int64_t left = columns.last - j;
  if (left > 4 && columns.size() >= kTile) {  // some again: cheaper than a short tile
    j = columns.last - kTile;
    return tile<T, kTile>(rows, p, at(j), apart, bias, to + (j - columns.first) * to_apart, to_apart, lanes);
  }
  if (left >= 4) tile<T, 4>(rows, p, at(j), apart, bias, to + (j - columns.first) * to_apart, to_apart, lanes), j += 4;
  for (; j < columns.last; ++j) tile<T, 1>(rows, p, at(j), apart, bias, to + (j - columns.first) * to_apart, to_apart, lanes);
}

template <class T>
STRIATE_INLINE void sum_row(const Rows<T>& rows, const Along& width, const Block& b, const Vector<T>& bias, T* to, int64_t pitch, int64_t lanes) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t number = 0; number < width.phases(); ++number) {
    const Phase p = width.phase(number);
    const Range columns = in_block(p, b.w0, b.w1);
    if (columns.size() == 0) continue;
    T* first = to + (p.first + columns.first * p.apart - b.w0) * pitch;
    if (p.step == 1)
      sum_columns<T>(rows, p, columns, b.wide.first, Constant<L>::value, bias, first, p.apart * pitch, lanes);
    else
      sum_columns<T>(rows, p, columns, b.wide.first, p.step * L, bias, first, p.apart * pitch, lanes);
  }
}

// Weights beside the lanes: [vector of channels][c][tap][lane].
template <class T>
void pack(const ConvShape& s, const Side& side, bool adjoint, Weight<T> weight, T* packed) {
  constexpr int64_t L = kLanes<T>;
  const int64_t taps = s.taps(), inputs = s.channels / s.groups, all = side.all_to();
  const int64_t tap_pitch = weight.channels_last ? inputs : 1, channel_pitch = weight.channels_last ? 1 : taps;
  for (int64_t first = 0; first < all; first += L)
    for (int64_t c = 0; c < side.from; ++c)
      for (int64_t t = 0; t < taps; ++t, packed += L)
        for (int64_t k = 0; k < L; ++k) {
          const int64_t to = first + k, group = to / side.to;
          const int64_t filter = adjoint ? group * side.from + c : to, channel = adjoint ? to % side.to : c;
          packed[k] = to < all ? weight.data[filter * inputs * taps + channel * channel_pitch + t * tap_pitch] : T(0);
        }
}

template <class T>
void activations(const ConvShape& shape, bool adjoint, const T* source, Weight<T> weight, const T* bias, T* to) {
  constexpr int64_t L = kLanes<T>;
  const Side s = side_of(shape, adjoint);
  const int64_t all = s.all_to(), vectors = tiles(all, L), taps = shape.taps(), D = s.depth.destinations(), H = s.height.destinations(),
                W = s.width.destinations();
  const Blocks blocks = cut(s, s.from * L, vectors);
  const Scratch<T> packed(vectors * s.from * taps * L);
  pack(shape, s, adjoint, weight, static_cast<T*>(packed));
  const int64_t band_values = most_rows(s, blocks) * most_columns(s, blocks) * s.from * L;
  const T* weights = packed;
  parallel_for(s.batch * blocks.each * vectors, blocks.deep * blocks.high * blocks.wide * L * min(taps * s.from, 64), [=](int64_t begin, int64_t end) {
    Scratch<T> band(band_values), turned(s.channels_last ? 0 : blocks.deep * blocks.high * blocks.wide * L + L * L);
    const int64_t most = s.from * s.depth.axis.size * s.height.axis.size;
    Scratch<const T*> sources(most), beside(most);
    Rows<T> rows = {sources, beside, 0};
    for (int64_t unit = begin; unit < end; ++unit) {
      const Block b = block_at(s, blocks, unit / vectors);
      const int64_t first = unit % vectors * L, columns = b.w1 - b.w0;
      const Lanes<T> v = lanes_at<T>(first, all, s.to, s.from);
      const Vector<T> start = bias ? load_first<Vector<T>>(bias + first, v.lanes) : Vector<T>{};
      copy_band(s, b, source, v, static_cast<T*>(band));
      T* out = turned;
      for (int64_t d = b.d0; d < b.d1; ++d)
        for (int64_t h = b.h0; h < b.h1; ++h) {
          find_rows(s, b, d, h, static_cast<const T*>(band), weights + unit % vectors * s.from * taps * L, rows);
          if (s.channels_last) {
            sum_row(rows, s.width, b, start, to + (((b.n * D + d) * H + h) * W + b.w0) * all + first, all, v.lanes);
          } else {
            sum_row(rows, s.width, b, start, out, L, L);
            out += columns * L;
          }
        }
      if (!s.channels_last)
        for (int64_t d = b.d0; d < b.d1; ++d)
          turn_block_out<T>(static_cast<const T*>(turned) + (d - b.d0) * (b.h1 - b.h0) * columns * L, b.h1 - b.h0, columns, W,
                            to + (((b.n * all + first) * D + d) * H + b.h0) * W + b.w0, D * H * W, v.lanes);
    }
  });
}

template <class T>
void forward(const ConvShape& s, const T* x, Weight<T> weight, const T* bias, T* y) {
  activations(s, false, x, weight, bias, y);
}
template <class T>
void input(const ConvShape& s, const T* dy, Weight<T> weight, const T* bias, T* dx) {
  activations(s, true, dy, weight, bias, dx);
}

// ------------------------------------------------------------------------------------------------------ weight gradient

// sum[i] += Σ_j dy[j] · x[i][j·apart], for N taps at a time.
template <class T, int N>
STRIATE_INLINE void add_taps(const T* dy, const T* const* x, T* const* sum, int64_t columns, int64_t apart) {
  constexpr int64_t L = kLanes<T>;
  Vector<T> total[N];
  const T* at[N];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) total[i] = Vector<T>{}, at[i] = x[i];
  for (int64_t j = 0, k = 0; j < columns; ++j, k += apart) {
    const Vector<T> g = load(dy + j * L);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) total[i] += g * load(at[i] + k);
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) store(sum[i], load(sum[i]) + total[i]);
}

template <class T>
void weight_gradient(const ConvShape& shape, const T* dy, const T* x, T* dweight) {
  constexpr int64_t L = kLanes<T>;
  const Side s = side_of(shape, false);
  Side plain = s;  // dy itself, lane for lane
  plain.groups = s.all_to(), plain.to = plain.from = 1;
  const int64_t all = s.all_to(), vectors = tiles(all, L), taps = shape.taps(), of_vector = s.from * taps * L;
  const Blocks blocks = cut(s, s.from * L + L, vectors);
  const int64_t items = s.batch * blocks.each, chunks = min(items, max(1, 128 / vectors));
  const int64_t band_values = most_rows(s, blocks) * most_columns(s, blocks) * s.from * L, dy_values = blocks.deep * blocks.high * blocks.wide * L;
  const Scratch<T> sums(chunks * vectors * of_vector);
  T* partial = sums;
  parallel_for(chunks * vectors, kGrainElements, [=](int64_t begin, int64_t end) {
    Scratch<T> band(band_values), gradient(dy_values);
    const int64_t most = s.from * s.depth.axis.size * s.height.axis.size;
    Scratch<const T*> sources(most), beside(most), of_tap(most * s.width.axis.size);
    Scratch<T*> sum_of(most * s.width.axis.size);
    Rows<T> rows = {sources, beside, 0};
    const Phase p = s.width.phase(0);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t chunk = unit / vectors, first = unit % vectors * L;
      const Lanes<T> v = lanes_at<T>(first, all, s.to, s.from), same = lanes_at<T>(first, all, 1, 1);
      T* sum = partial + unit * of_vector;
      for (int64_t i = 0; i < of_vector; i += L) store(sum + i, Vector<T>{});
      for (int64_t item = chunk * items / chunks; item < (chunk + 1) * items / chunks; ++item) {
        const Block b = block_at(s, blocks, item);
        copy_band(s, b, x, v, static_cast<T*>(band));
        Block own = b;
        own.deep = {b.d0, b.d1}, own.high = {b.h0, b.h1}, own.wide = {b.w0, b.w1};
        Side of_dy = plain;
        of_dy.depth.adjoint = of_dy.height.adjoint = of_dy.width.adjoint = true;
        copy_band(of_dy, own, dy, same, static_cast<T*>(gradient));
        const T* g = gradient;
        const int64_t columns = b.w1 - b.w0;
        for (int64_t d = b.d0; d < b.d1; ++d)
          for (int64_t h = b.h0; h < b.h1; ++h, g += columns * L) {
            find_rows(s, b, d, h, static_cast<const T*>(band), static_cast<const T*>(sum), rows);
            int64_t count = 0;
            for (int64_t r = 0; r < rows.count; ++r)
              for (int64_t i = 0; i < p.taps; ++i, ++count) {
                of_tap[count] = rows.source[r] + (b.w0 * p.step + p.shift + i * p.shift_step - b.wide.first) * L;
                sum_of[count] = sum + (rows.weight[r] - sum) + i * L;
              }
            int64_t i = 0;
            for (; i + 8 <= count; i += 8) add_taps<T, 8>(g, of_tap + i, sum_of + i, columns, p.step * L);
            if (count - i >= 4) add_taps<T, 4>(g, of_tap + i, sum_of + i, columns, p.step * L), i += 4;
            for (; i < count; ++i) add_taps<T, 1>(g, of_tap + i, sum_of + i, columns, p.step * L);
          }
      }
    }
  });
  for (int64_t k = 0; k < all; ++k)
    for (int64_t i = 0; i < s.from * taps; ++i) {
      double total = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) total += double(partial[(chunk * vectors + k / L) * of_vector + i * L + k % L]);
      dweight[k * s.from * taps + i] = T(total);
    }
}

}  // namespace

extern const ConvKernels<float> depthwise_f32;
extern const ConvKernels<double> depthwise_f64;
const ConvKernels<float> depthwise_f32 = {forward<float>, input<float>, weight_gradient<float>};
const ConvKernels<double> depthwise_f64 = {forward<double>, input<double>, weight_gradient<double>};

}  // namespace STRIATE_ISA
}  // namespace striate
