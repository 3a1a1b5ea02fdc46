// Convolution of few channels a group, lanes across groups:
//
//   y[k, o] = b[k] + sum over c < q, t of w[k, c, t] · x[group(k)·q + c, o·stride + t·dilation - before]
//
// Layout. Lane k of a vector is destination channel k of one pixel, whichever group it is in. Depthwise in channels
// order is read where it lies. Else a band of the source is brought into that order: planes are turned, and where a
// group has several channels or filters they are dealt out, so that lane k of the c-th plane of the band holds what
// destination k sums. Destinations in planes order are turned back.
//
// Tile. One vector of channels by kTile columns: 14 sums, 7 weights and a source are 22 of AVX-512's 32 registers, and
// 14 sums more than hide the latency of the multiply-add (4 cycles, two a cycle); 6 columns where there are 16
// registers. The sources of neighbouring taps overlap: 7 taps of 14 columns take 7 + 20 loads for 98 multiply-adds.
//
// Edges. A source outside the image adds nothing: the tile that hangs over skips it.
//
// The weight gradient is the same tile with the roles of weights and destinations exchanged. It sums a tile in
// registers, some rows in float, and from there on in double, in chunks that depend on the shape alone.
#include "kernels/conv/bands.h"
#include "core/chunks.h"
#include "kernels/conv/epilogue.h"
#include "core/transpose.h"
#include "kernels/conv/conv.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

constexpr int kTile = kVectorBytes == 64 ? 14 : 6;

// Destination channels [first, first + lanes) as one vector, and which source channel each sums: base + of[lane] + c.
template <class T>
struct Lanes {
  int64_t first, lanes, base, span;
  bool plain;  // lane k sums channel base + k
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

// `count` pixels in memory order, for each of the `from` channels of every lane; bands of them are `apart` values
// apart.
template <class T>
void deal(const T* image, int64_t pixel, int64_t count, bool channels_last, int64_t plane, int64_t channels,
          int64_t from, const Lanes<T>& v, T* band, int64_t apart) {
  constexpr int64_t L = kLanes<T>;
  const bool together = v.span + from - 1 <= L;  // all that the lanes sum at a pixel fits one vector
  const int64_t there = min(L, channels - v.base);
  const IntVector<T> of = v.of;
  if (!channels_last) {
    const T* planes[L];
    for (int64_t c = together ? from - 1 : 0; c < from;
         ++c) {  // turned once if one vector has it all, to where the last c belongs
      for (int64_t k = 0; k < L; ++k)
        planes[k] = image + (v.base + (together ? min(k, there - 1) : of[k] + c)) * plane + pixel;
      turn_in(planes, count, band + c * apart);
    }
    if (!together || (from == 1 && v.plain)) return;
    for (int64_t i = 0; i < count; ++i, band += L) {
      const Vector<T> values = load(band + (from - 1) * apart);
      for (int64_t c = 0; c < from; ++c) store(band + c * apart, pick_lanes<T>(values, of + typename Lane<T>::Int(c)));
    }
    return;
  }
  const T* x = image + pixel * channels + v.base;
  if (!together) {
    for (int64_t i = 0; i < count; ++i, band += L, x += channels)
      for (int64_t c = 0; c < from; ++c)
        for (int64_t k = 0; k < L; ++k) band[c * apart + k] = x[of[k] + c];
    return;
  }
  for (int64_t i = 0; i < count; ++i, band += L, x += channels) {
    const Vector<T> values = there == L ? load(x) : load_first<Vector<T>>(x, there);
    for (int64_t c = 0; c < from; ++c) store(band + c * apart, pick_lanes<T>(values, of + typename Lane<T>::Int(c)));
  }
}

// The band of a block: for each c its depths, rows and columns, those that exist.
template <class T>
void copy_band(const Side& s, const Block& b, const T* source, const Lanes<T>& v, T* band) {
  const int64_t D = s.depth.sources(), H = s.height.sources(), W = s.width.sources(), channels = s.all_from();
  const T* image = source + b.n * D * H * W * channels;
  const bool whole = b.wide.size() == W;  // rows then follow one another in memory: more at a time to turn
  const int64_t runs = whole ? min(1, b.high.size()) : b.high.size(), run = (whole ? b.high.size() : 1) * b.wide.size();
  const int64_t apart = b.deep.size() * b.high.size() * b.wide.size() * kLanes<T>;
  for (int64_t d = b.deep.first; d < b.deep.last; ++d)
    for (int64_t h = 0; h < runs; ++h, band += run * kLanes<T>)
      if (run > 0)
        deal(image, (d * H + b.high.first + h) * W + b.wide.first, run, s.channels_last, D * H * W, channels, s.from, v,
             band, apart);
}

// The rows that a row of destinations sums and the weights beside them, channel, depth and row taps together. `source`
// points to where column 0 is or would be; columns [wide.first, wide.last) are there.
template <class T>
struct Rows {
  const T** source;
  const T** weight;
  int64_t count;
  const T* weights;  // where all weights begin
  int64_t pitch;     // from column to column
  Range wide;
};

template <class T>
void find_rows(const Side& s, const Block& b, int64_t d, int64_t h, const T* band, const T* weight, Rows<T>& rows) {
  constexpr int64_t L = kLanes<T>;
  const Sources deep = s.depth.of(d), high = s.height.of(h);
  const int64_t KH = s.height.axis.size, KW = s.width.axis.size;
  rows.count = 0;
  rows.wide = b.wide;
  rows.weights = weight;
  for (int64_t c = 0; c < s.from; ++c)
    for (int64_t i = 0; i < deep.count; ++i)
      for (int64_t j = 0; j < high.count; ++j, ++rows.count) {
        const int64_t row = (c * b.deep.size() + deep.first + i * deep.step - b.deep.first) * b.high.size() +
                            high.first + j * high.step - b.high.first;
        const int64_t tap =
            ((c * s.depth.axis.size + deep.tap + i * deep.tap_step) * KH + high.tap + j * high.tap_step) * KW;
        rows.source[rows.count] = band + (row * b.wide.size() - b.wide.first) * rows.pitch;
        rows.weight[rows.count] = weight + tap * L;
      }
}

// ----------------------------------------------------------------------------------------------- forward and input
// gradient

inline uint64_t first_bits(int64_t n) { return n <= 0 ? 0 : n >= 64 ? ~uint64_t(0) : (uint64_t(1) << n) - 1; }

// N neighbouring destinations of a phase from the j0-th on; `weights` is added to where the rows' are. Taps and Step:
// of the phase, where the compiler is to know: a source is then loaded once for all destinations that sum it. Clip:
// some sources may lie outside the image.
template <class T, int N, int Taps, int Step, bool Clip>
STRIATE_INLINE void tile(const Rows<T>& rows, const Phase& p, int64_t j0, int64_t pitch, int64_t channel,
                         int64_t weights, const Vector<T>& bias, Vector<T> (&sum)[N]) {
  constexpr int64_t L = kLanes<T>;
  const int64_t first = j0 * p.step + p.shift, low = rows.wide.first - first, high = rows.wide.last - first;
  const uint64_t valid = first_bits(high) & ~first_bits(low);  // of the sources from the first on
#pragma GCC unroll 16
  for (int j = 0; j < N; ++j) sum[j] = bias;
  for (int64_t r = 0; r < rows.count; ++r) {
    const T *x = rows.source[r] + channel + first * pitch, *w = rows.weight[r] + weights + p.tap * L;
    if constexpr (Taps > 0) {
      Vector<T> weight[Taps];
#pragma GCC unroll 16
      for (int i = 0; i < Taps; ++i) weight[i] = load(w + i * p.tap_step * L);
#pragma GCC unroll 64
      for (int k = 0; k < (N - 1) * Step + Taps; ++k)
        if (!Clip || (valid >> k & 1)) {
          const Vector<T> seen = load(x + k * pitch);
#pragma GCC unroll 16
          for (int i = 0; i < Taps; ++i)
            if (k >= i && (k - i) % Step == 0 && (k - i) / Step < N) sum[(k - i) / Step] += weight[i] * seen;
        }
    } else {
      for (int64_t i = 0, at = 0; i < p.taps; ++i, at += p.shift_step) {
        const Vector<T> weight = load(w + i * p.tap_step * L);
#pragma GCC unroll 16
        for (int j = 0; j < N; ++j)
          if (!Clip || (at + j * p.step >= low && at + j * p.step < high))
            sum[j] += weight * load(x + (at + j * p.step) * pitch);
      }
    }
  }
}

// A tile's sums to where they belong, `pitch` values from one to the next.
template <class T, int N>
STRIATE_INLINE void put_tile(const Vector<T> (&sum)[N], T* to, int64_t pitch, int64_t lanes) {
  if (lanes == kLanes<T>) {
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j, to += pitch) store(to, sum[j]);
  } else {
    for (int j = 0; j < N; ++j, to += pitch) store_first(to, sum[j], lanes);
  }
}

// body(Constant<n>, j) for tiles of n columns: the last one steps back over some again, which is cheaper than short
// tiles.
template <class Body>
STRIATE_INLINE void over_tiles(Range columns, const Body& body) {
  int64_t j = columns.first;
  for (; j + kTile <= columns.last; j += kTile) body(Constant<kTile>{}, j);
  if (j >= columns.last) return;
  if (columns.size() >= kTile) return body(Constant<kTile>{}, columns.last - kTile);
  constexpr int half = kTile / 2;
  if (columns.last - j > half) body(Constant<half>{}, j), j = columns.last - half;
  if (columns.last - j == half) return body(Constant<half>{}, j);
  for (; j < columns.last; ++j) body(Constant<1>{}, j);
}

// Calls run(Constant<taps>, Constant<step>) for the phases whose sources overlap so that a tile can keep them, else
// with 0 taps.
template <class Run>
STRIATE_INLINE void with_taps(const Phase& p, const Run& run) {
  if (p.shift_step == 1 && p.step == 1) {
    if (p.taps == 2) return run(Constant<2>{}, Constant<1>{});
    if (p.taps == 3) return run(Constant<3>{}, Constant<1>{});
    if (p.taps == 4) return run(Constant<4>{}, Constant<1>{});
    if (p.taps == 5) return run(Constant<5>{}, Constant<1>{});
    if (p.taps == 7) return run(Constant<7>{}, Constant<1>{});
  }
  if (p.shift_step == 1 && p.step == 2) {
    if (p.taps == 3) return run(Constant<3>{}, Constant<2>{});
    if (p.taps == 5) return run(Constant<5>{}, Constant<2>{});
    if (p.taps == 7) return run(Constant<7>{}, Constant<2>{});
  }
  run(Constant<0>{}, Constant<1>{});
}

// The columns [w0, w1) of a row of destinations, in vectors of channels: the v-th has its sources at channel_at(v), its
// weights v·weights further on. put(v, column, apart, sums) takes a tile's destinations.
template <class T, class Pitch, class ChannelAt, class Bias, class Put>
STRIATE_INLINE void sum_row(const Rows<T>& rows, const Along& width, int64_t w0, int64_t w1, int64_t vectors,
                            int64_t weights, Pitch pitch, const ChannelAt& channel_at, const Bias& bias,
                            const Put& put) {
  for (int64_t number = 0; number < width.phases(); ++number) {
    const Phase p = width.phase(number);
    with_taps(p, [&](auto taps, auto step) {
      over_tiles(in_block(p, w0, w1), [&](auto columns, int64_t j) {
        constexpr int N = decltype(columns)::value, Taps = decltype(taps)::value, Step = decltype(step)::value;
        const int64_t first = j * p.step + p.shift, last = first + (N - 1) * p.step + (p.taps - 1) * p.shift_step;
        const bool inside = first >= rows.wide.first && last < rows.wide.last;
        for (int64_t v = 0; v < vectors; ++v) {
          Vector<T> sum[N];
          if (inside)
            tile<T, N, Taps, Step, false>(rows, p, j, pitch, channel_at(v), v * weights, bias(v), sum);
          else
            tile<T, N, Taps, Step, true>(rows, p, j, pitch, channel_at(v), v * weights, bias(v), sum);
          put(v, p.first + j * p.apart, p.apart, sum);
        }
      });
    });
  }
}

// Weights beside the lanes: [vector of channels][c][tap][lane]. step_back: the last vector ends with the last channel.
template <class T>
void pack(const ConvShape& s, const Side& side, bool adjoint, bool step_back, Weight<T> weight, T* packed) {
  constexpr int64_t L = kLanes<T>;
  const int64_t taps = s.taps(), inputs = s.channels / s.groups, all = side.all_to();
  const int64_t tap_pitch = weight.channels_last ? inputs : 1, channel_pitch = weight.channels_last ? 1 : taps;
  for (int64_t v = 0; v < all; v += L) {
    const int64_t first = step_back ? min(v, all - L) : v;
    for (int64_t c = 0; c < side.from; ++c)
      for (int64_t t = 0; t < taps; ++t, packed += L)
        for (int64_t k = 0; k < L; ++k) {
          const int64_t to = first + k, group = to / side.to;
          const int64_t filter = adjoint ? group * side.from + c : to, channel = adjoint ? to % side.to : c;
          packed[k] = to < all ? weight.data[filter * inputs * taps + channel * channel_pitch + t * tap_pitch] : T(0);
        }
  }
}

inline bool in_place(const ConvShape& s, int64_t lanes) {
  return s.channels_last && s.groups == s.channels && s.filters == s.channels && s.channels >= lanes;
}
// A row where it lies, as a block of its own.
inline Block row_block(const Side& s, int64_t n, int64_t d, int64_t h) {
  return {n,
          d,
          d + 1,
          h,
          h + 1,
          0,
          s.width.destinations(),
          {0, s.depth.sources()},
          {0, s.height.sources()},
          {0, s.width.sources()}};
}

template <class T>
void activations_in_place(const ConvShape& shape, bool adjoint, const T* source, Weight<T> weight, const Epilogue<T>& e,
                          T* to) {
  constexpr int64_t L = kLanes<T>;
  const Side s = side_of(shape, adjoint);
  const int64_t C = s.groups, taps = shape.taps(), vectors = tiles(C, L), D = s.depth.destinations(),
                H = s.height.destinations(), W = s.width.destinations(), image = s.sources() * C;
  const Scratch<T> packed(vectors * taps * L);
  pack(shape, s, adjoint, true, weight, static_cast<T*>(packed));
  const T* weights = packed;
  const int64_t phases = s.width.phases(), wide = tiles(min(W, kColumns), phases) * phases, wides = tiles(W, wide);
  const bool finishes = e.finishes();
  parallel_for(s.batch * D * H * wides, min(W, wide) * C * min(taps, 32), [=](int64_t begin, int64_t end) {
    const int64_t most = s.depth.axis.size * s.height.axis.size;
    Scratch<const T*> from(most), beside(most);
    Rows<T> rows = {from, beside, 0, nullptr, C, {}};
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t w0 = unit % wides * wide, h = unit / wides % H, d = unit / wides / H % D, n = unit / wides / H / D;
      find_rows(s, row_block(s, n, d, h), d, h, source + n * image, weights, rows);
      T* row = to + ((n * D + d) * H + h) * W * C;
      const auto channel_at = [&](int64_t v) { return min(v * L, C - L); };
      sum_row(
          rows, s.width, w0, min(W, w0 + wide), vectors, taps * L, C, channel_at,
          [&](int64_t v) { return e.bias ? load(e.bias + channel_at(v)) : Vector<T>{}; },
          [&](int64_t v, int64_t column, int64_t apart, auto& sums) {
            T* at = row + column * C + channel_at(v);
            if (finishes)
              for (int64_t j = 0; j < int64_t(sizeof sums / sizeof sums[0]); ++j)
                sums[j] = finish(Constant<true>{}, e, sums[j], at - to + j * apart * C, L);
            put_tile(sums, at, apart * C, L);
          });
    }
  });
}

template <class T>
void activations_in_bands(const ConvShape& shape, bool adjoint, const T* source, Weight<T> weight, const T* bias,
                          T* to) {
  constexpr int64_t L = kLanes<T>;
  const Side s = side_of(shape, adjoint);
  const int64_t all = s.all_to(), vectors = tiles(all, L), taps = shape.taps(), D = s.depth.destinations(),
                H = s.height.destinations(), W = s.width.destinations();
  const Blocks blocks = cut(s, s.from * L, vectors, false);
  const Scratch<T> packed(vectors * s.from * taps * L);
  pack(shape, s, adjoint, false, weight, static_cast<T*>(packed));
  const int64_t band_values = most_rows(s, blocks) * most_columns(s, blocks) * s.from * L;
  const T* weights = packed;
  const int64_t work = blocks.places() * L * min(taps * s.from, 64);
  parallel_for(s.batch * blocks.each * vectors, work, [=](int64_t begin, int64_t end) {
    Scratch<T> band(band_values), turned(s.channels_last ? 0 : blocks.places() * L + L * L);
    const int64_t most = s.from * s.depth.axis.size * s.height.axis.size;
    Scratch<const T*> sources(most), beside(most);
    Rows<T> rows = {sources, beside, 0, nullptr, L, {}};
    for (int64_t unit = begin; unit < end; ++unit) {
      const Block b = block_at(s, blocks, unit / vectors);
      const int64_t first = unit % vectors * L, columns = b.w1 - b.w0;
      const Lanes<T> v = lanes_at<T>(first, all, s.to, s.from);
      const Vector<T> start = bias ? load_first<Vector<T>>(bias + first, v.lanes) : Vector<T>{};
      copy_band(s, b, source, v, static_cast<T*>(band));
      T* out = turned;
      for (int64_t d = b.d0; d < b.d1; ++d)
        for (int64_t h = b.h0; h < b.h1; ++h, out += columns * L) {
          find_rows(s, b, d, h, static_cast<const T*>(band), weights + unit % vectors * s.from * taps * L, rows);
          T* row = to + (((b.n * D + d) * H + h) * W) * all + first;
          const auto run = [&](const auto& put) {
            sum_row(
                rows, s.width, b.w0, b.w1, 1, 0, Constant<L>::value, [](int64_t) { return int64_t(0); },
                [&](int64_t) { return start; }, put);
          };
          if (!s.channels_last)
            run([&](int64_t, int64_t column, int64_t apart, const auto& sums) {
              put_tile(sums, out + (column - b.w0) * L, apart * L, L);
            });
          else
            run([&](int64_t, int64_t column, int64_t apart, const auto& sums) {
              put_tile(sums, row + column * all, apart * all, v.lanes);
            });
        }
      if (!s.channels_last)
        for (int64_t d = b.d0; d < b.d1; ++d)
          turn_block_out<T>(static_cast<const T*>(turned) + (d - b.d0) * (b.h1 - b.h0) * columns * L, b.h1 - b.h0,
                            columns, W, to + (((b.n * all + first) * D + d) * H + b.h0) * W + b.w0, D * H * W, v.lanes);
    }
  });
}

template <class T, bool Adjoint>
void run(const ConvShape& s, const T* source, Weight<T> weight, const Epilogue<T>& e, T* to) {
  if (in_place(s, kLanes<T>)) return activations_in_place(s, Adjoint, source, weight, e, to);
  activations_in_bands(s, Adjoint, source, weight, e.bias, to);
  if (e.finishes()) finish_all(e, s.batch, to, side_of(s, Adjoint));
}

// ------------------------------------------------------------------------------------------------------ weight
// gradient

// A tile as above, the other way about: the weights are the sums, and N gradients stay in registers while the rows
// pass.
template <class T, int N, int Taps, int Step, bool Clip>
STRIATE_INLINE void weight_tile(const Rows<T>& rows, const Phase& p, int64_t j0, int64_t pitch, int64_t channel,
                                const T* dy, int64_t dy_pitch, T* sums) {
  constexpr int64_t L = kLanes<T>;
  const int64_t first = j0 * p.step + p.shift, low = rows.wide.first - first, high = rows.wide.last - first;
  const uint64_t valid = first_bits(high) & ~first_bits(low);  // of the sources from the first on
  Vector<T> g[N];
#pragma GCC unroll 16
  for (int j = 0; j < N; ++j) g[j] = load(dy + j * dy_pitch);
  for (int64_t r = 0; r < rows.count; ++r) {
    const T* x = rows.source[r] + channel + first * pitch;
    T* w = sums + (rows.weight[r] - rows.weights);
    if constexpr (Taps > 0) {
      Vector<T> sum[Taps];
#pragma GCC unroll 16
      for (int i = 0; i < Taps; ++i) sum[i] = Vector<T>{};
#pragma GCC unroll 64
      for (int k = 0; k < (N - 1) * Step + Taps; ++k)
        if (!Clip || (valid >> k & 1)) {
          const Vector<T> seen = load(x + k * pitch);
#pragma GCC unroll 16
          for (int i = 0; i < Taps; ++i)
            if (k >= i && (k - i) % Step == 0 && (k - i) / Step < N) sum[i] += g[(k - i) / Step] * seen;
        }
#pragma GCC unroll 16
      for (int i = 0; i < Taps; ++i) store(w + i * L, load(w + i * L) + sum[i]);
    } else {
      for (int64_t i = 0, at = 0; i < p.taps; ++i, at += p.shift_step) {
        Vector<T> sum = {};
#pragma GCC unroll 16
        for (int j = 0; j < N; ++j)
          if (!Clip || (at + j * p.step >= low && at + j * p.step < high))
            sum += g[j] * load(x + (at + j * p.step) * pitch);
        store(w + i * L, load(w + i * L) + sum);
      }
    }
  }
}

// The destinations [w0, w1) of a row: dy at dy + v·dy_vector + column·dy_pitch, sums at sums + v·of_vector.
template <class T, class Pitch, class ChannelAt>
STRIATE_INLINE void weight_row(const Rows<T>& rows, const Phase& p, int64_t w0, int64_t w1, int64_t vectors,
                               int64_t of_vector, Pitch pitch, const ChannelAt& channel_at, const T* dy,
                               int64_t dy_pitch, T* sums) {
  with_taps(p, [&](auto taps, auto step) {
    const auto run = [&](auto columns, int64_t j) {
      constexpr int N = decltype(columns)::value, Taps = decltype(taps)::value, Step = decltype(step)::value;
      const int64_t first = j * p.step + p.shift, last = first + (N - 1) * p.step + (p.taps - 1) * p.shift_step;
      const bool inside = first >= rows.wide.first && last < rows.wide.last;
      for (int64_t v = 0; v < vectors; ++v) {
        const T* g = dy + channel_at(v) + j * dy_pitch;
        if (inside)
          weight_tile<T, N, Taps, Step, false>(rows, p, j, pitch, channel_at(v), g, dy_pitch, sums + v * of_vector);
        else
          weight_tile<T, N, Taps, Step, true>(rows, p, j, pitch, channel_at(v), g, dy_pitch, sums + v * of_vector);
      }
    };
    int64_t j = w0;  // no destination twice
    for (; j + kTile <= w1; j += kTile) run(Constant<kTile>{}, j);
    if (j + kTile / 2 <= w1) run(Constant<kTile / 2>{}, j), j += kTile / 2;
    for (; j + 2 <= w1; j += 2) run(Constant<2>{}, j);
    if (j < w1) run(Constant<1>{}, j);
  });
}

// dweight[k, c, t] from sums as [vector of filters][c][tap][lane], the last vector stepped back to end with the last
// filter, or not.
template <class T>
void unpack(const ConvShape& shape, const double* sums, int64_t filters, int64_t of_filter, bool step_back,
            T* dweight) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t k = 0; k < filters; ++k) {
    const int64_t v = k / L, lane = step_back ? k - min(v * L, filters - L) : k % L;
    for (int64_t i = 0; i < of_filter; ++i)
      dweight[k * of_filter + shape.weight_at(i)] = T(sums[(v * of_filter + i) * L + lane]);
  }
}

template <class T>
void weight_in_place(const ConvShape& shape, const T* dy, const T* x, T* dweight) {
  constexpr int64_t L = kLanes<T>;
  const Side s = side_of(shape, false);
  const int64_t C = s.groups, taps = shape.taps(), vectors = tiles(C, L), D = s.depth.destinations(),
                H = s.height.destinations(), W = s.width.destinations(), image = s.sources() * C;
  const int64_t piece = min(W, kPlacesInFloat), pieces = tiles(W, piece), items = s.batch * D * H * pieces;
  const int64_t chunks = max(1, min(64, items * piece / 448)), chunk_values = vectors * taps * L;
  const Scratch<double> totals(chunks * chunk_values);
  double* partial = totals;
  parallel_for(chunks, kGrainElements, [=](int64_t begin, int64_t end) {
    const int64_t most = s.depth.axis.size * s.height.axis.size;
    Scratch<const T*> from(most), beside(most);
    Rows<T> rows = {from, beside, 0, nullptr, C, {}};
    Scratch<T> sum(chunk_values);
    const Phase p = s.width.phase(0);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t last = (chunk + 1) * items / chunks;
      int64_t added = 0;
      ChunkSum<T> total(partial + chunk * chunk_values, sum, chunk_values);
      for (int64_t item = chunk * items / chunks; item < last; ++item) {
        const int64_t w0 = item % pieces * piece, row = item / pieces, h = row % H, d = row / H % D, n = row / H / D;
        find_rows(s, row_block(s, n, d, h), d, h, x + n * image, static_cast<const T*>(sum), rows);
        const auto channel_at = [&](int64_t v) { return min(v * L, C - L); };
        weight_row(rows, p, w0, min(W, w0 + piece), vectors, taps * L, C, channel_at, dy + row * W * C, C,
                   static_cast<T*>(sum));
        added += piece;
        if (added >= kPlacesInFloat || item + 1 == last) total.add(), added = 0;
      }
    }
  });
  merge_chunks(partial, chunks, chunk_values);
  unpack(shape, partial, C, taps, true, dweight);
}

template <class T>
void weight_in_bands(const ConvShape& shape, const T* dy, const T* x, T* dweight) {
  constexpr int64_t L = kLanes<T>;
  const Side s = side_of(shape, false);
  Side of_dy = side_of(shape, true);  // its sources are dy's, and each lane is its own filter
  of_dy.groups = s.all_to(), of_dy.to = of_dy.from = 1;
  const int64_t all = s.all_to(), vectors = tiles(all, L), taps = shape.taps(), of_vector = s.from * taps * L;
  const Blocks blocks = cut(s, s.from * L + L, vectors, false);
  const int64_t items = s.batch * blocks.each, chunks = min(items, max(1, 128 / vectors));
  const int64_t band_values = most_rows(s, blocks) * most_columns(s, blocks) * s.from * L,
                dy_values = blocks.places() * L;
  const Scratch<double> totals(chunks * vectors * of_vector);
  double* partial = totals;
  parallel_for(chunks * vectors, kGrainElements, [=](int64_t begin, int64_t end) {
    Scratch<T> band(band_values), gradient(dy_values), sum(of_vector);
    const int64_t most = s.from * s.depth.axis.size * s.height.axis.size;
    Scratch<const T*> sources(most), beside(most);
    Rows<T> rows = {sources, beside, 0, nullptr, L, {}};
    const Phase p = s.width.phase(0);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t chunk = unit / vectors, first = unit % vectors * L;
      const Lanes<T> v = lanes_at<T>(first, all, s.to, s.from), same = lanes_at<T>(first, all, 1, 1);
      const int64_t last = (chunk + 1) * items / chunks;
      int64_t added = 0;
      ChunkSum<T> total(partial + unit * of_vector, sum, of_vector);
      for (int64_t item = chunk * items / chunks; item < last; ++item) {
        const Block b = block_at(s, blocks, item);
        copy_band(s, b, x, v, static_cast<T*>(band));
        Block own = b;
        own.deep = {b.d0, b.d1}, own.high = {b.h0, b.h1}, own.wide = {b.w0, b.w1};
        copy_band(of_dy, own, dy, same, static_cast<T*>(gradient));
        const T* g = static_cast<const T*>(gradient) - b.w0 * L;
        for (int64_t d = b.d0; d < b.d1; ++d)
          for (int64_t h = b.h0; h < b.h1; ++h, g += (b.w1 - b.w0) * L) {
            find_rows(s, b, d, h, static_cast<const T*>(band), static_cast<const T*>(sum), rows);
            weight_row(
                rows, p, b.w0, b.w1, 1, 0, Constant<L>::value, [](int64_t) { return int64_t(0); }, g, L,
                static_cast<T*>(sum));
          }
        added += (b.d1 - b.d0) * (b.h1 - b.h0) * (b.w1 - b.w0);
        if (added >= kPlacesInFloat || item + 1 == last) total.add(), added = 0;
      }
    }
  });
  merge_chunks(partial, chunks, vectors * of_vector);
  unpack(shape, partial, all, s.from * taps, false, dweight);
}

template <class T>
void weight_gradient(const ConvShape& s, const T* dy, const T* x, T* dweight) {
  if (in_place(s, kLanes<T>))
    weight_in_place(s, dy, x, dweight);
  else
    weight_in_bands(s, dy, x, dweight);
}

}  // namespace

extern const ConvKernels<float> depthwise_f32;
extern const ConvKernels<double> depthwise_f64;
const ConvKernels<float> depthwise_f32 = {run<float, false>, run<float, true>, weight_gradient<float>, nullptr,
                                          nullptr};
const ConvKernels<double> depthwise_f64 = {run<double, false>, run<double, true>, weight_gradient<double>, nullptr,
                                           nullptr};

}  // namespace STRIATE_ISA
}  // namespace striate
