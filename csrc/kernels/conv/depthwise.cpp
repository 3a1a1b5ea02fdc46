// Convolution with few channels a group, vectorized across groups:
//
//   y[k, o] = b[k] + Σ_{c < q, t} w[k, c, t] · x[group(k)·q + c, o·stride + t·dilation - before]
//
// Layout. Lane k of a vector is destination channel k of one pixel, whichever group it is in. A depthwise convolution
// in NHWC reads the source in place. Otherwise a band of the source is packed: planes are transposed, and where a group
// has several channels or filters the lanes are gathered, so that lane k of the c-th plane of the band holds what
// destination k sums. Results in NCHW are unpacked at the end.
//
// Tile. One vector of channels by kTile columns: 14 sums, 7 weights and a source take 22 of AVX-512's 32 registers, and
// 14 sums more than hide the latency of the multiply-add (4 cycles, two a cycle); 6 columns where there are 16
// registers. The sources of neighbouring taps overlap: 7 taps of 14 columns take 7 + 20 loads for 98 multiply-adds.
//
// Edges. A source in the padding adds nothing: a tile that reaches into it skips it.
//
// backward_weights uses the same tile with the roles of weights and destinations exchanged. It sums a tile in
// registers, some rows in float, and from there on in double, in blocks and chunks that depend on the shape alone.
#include "core/chunks.h"
#include "core/transpose.h"
#include "kernels/conv/bands.h"
#include "kernels/conv/conv.h"
#include "kernels/conv/epilogue.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

constexpr int kTile = kVectorBytes == 64 ? 14 : 6;

// Destination channels [first, first + lanes) as one vector; lane k sums the source channels base + of[k] + c.
template <class T>
struct LaneMap {
  int64_t first, lanes, base, span;
  bool identity;  // lane k sums channel base + k
  IntVector<T> of;
};

template <class T>
LaneMap<T> lane_map(int64_t first, int64_t all, int64_t to, int64_t from) {
  constexpr int64_t L = kLanes<T>;
  LaneMap<T> v = {first, min(L, all - first), first / to * from, 1, to == 1 && from == 1, {}};
  for (int64_t k = 0; k < L; ++k) {
    const int64_t channel = (first + min(k, v.lanes - 1)) / to * from - v.base;
    v.of[k] = typename Lane<T>::Int(channel);
    v.span = max(v.span, channel + 1);
  }
  return v;
}

// Gathers `count` pixels for each of the `from` source channels of every lane; the planes of the band are `apart`
// values apart.
template <class T>
void gather_lanes(const T* image, int64_t pixel, int64_t count, bool channels_last, int64_t plane, int64_t channels,
                  int64_t from, const LaneMap<T>& v, T* band, int64_t apart) {
  constexpr int64_t L = kLanes<T>;
  const bool one_vector = v.span + from - 1 <= L;  // all channels that the lanes sum at a pixel fit one vector
  const int64_t present = min(L, channels - v.base);
  const IntVector<T> of = v.of;
  if (!channels_last) {
    const T* planes[L];
    // If one vector holds all channels, transpose it once, to the plane of the last c.
    for (int64_t c = one_vector ? from - 1 : 0; c < from; ++c) {
      for (int64_t k = 0; k < L; ++k)
        planes[k] = image + (v.base + (one_vector ? min(k, present - 1) : of[k] + c)) * plane + pixel;
      pack_lanes(planes, count, band + c * apart);
    }
    if (!one_vector || (from == 1 && v.identity)) return;
    for (int64_t i = 0; i < count; ++i, band += L) {
      const Vector<T> values = load(band + (from - 1) * apart);
      for (int64_t c = 0; c < from; ++c)
        store(band + c * apart, permute_lanes<T>(values, of + typename Lane<T>::Int(c)));
    }
    return;
  }
  const T* x = image + pixel * channels + v.base;
  if (!one_vector) {
    for (int64_t i = 0; i < count; ++i, band += L, x += channels)
      for (int64_t c = 0; c < from; ++c)
        for (int64_t k = 0; k < L; ++k) band[c * apart + k] = x[of[k] + c];
    return;
  }
  for (int64_t i = 0; i < count; ++i, band += L, x += channels) {
    const Vector<T> values = present == L ? load(x) : load_first<Vector<T>>(x, present);
    for (int64_t c = 0; c < from; ++c) store(band + c * apart, permute_lanes<T>(values, of + typename Lane<T>::Int(c)));
  }
}

// Packs the band of a block: for each c the existing depths, rows and columns.
template <class T>
void copy_band(const PassShape& s, const Block& b, const T* source, const LaneMap<T>& v, T* band) {
  const int64_t D = s.depth.sources(), H = s.height.sources(), W = s.width.sources(), channels = s.all_from_channels();
  const T* image = source + b.n * D * H * W * channels;
  const bool whole = b.wide.size() == W;  // whole rows are contiguous in memory: transpose many at a time
  const int64_t runs = whole ? min(1, b.high.size()) : b.high.size(), run = (whole ? b.high.size() : 1) * b.wide.size();
  const int64_t apart = b.deep.size() * b.high.size() * b.wide.size() * kLanes<T>;
  for (int64_t d = b.deep.first; d < b.deep.last; ++d)
    for (int64_t h = 0; h < runs; ++h, band += run * kLanes<T>)
      if (run > 0)
        gather_lanes(image, (d * H + b.high.first + h) * W + b.wide.first, run, s.channels_last, D * H * W, channels,
                     s.from_channels, v, band, apart);
}

// The source rows that a row of destinations sums, and the row of weights for each: one entry for each channel, depth
// tap and row tap. `source` points to column 0, which may lie before the band; columns [wide.first, wide.last) exist.
template <class T>
struct TapRows {
  const T** source;
  const T** weight;
  int64_t count;
  const T* weights;  // the beginning of all weights
  int64_t pitch;     // the distance between columns
  Range wide;
};

template <class T>
void find_rows(const PassShape& s, const Block& b, int64_t d, int64_t h, const T* band, const T* weight,
               TapRows<T>& rows) {
  constexpr int64_t L = kLanes<T>;
  const Sources deep = s.depth.of(d), high = s.height.of(h);
  const int64_t KH = s.height.axis.size, KW = s.width.axis.size;
  rows.count = 0;
  rows.wide = b.wide;
  rows.weights = weight;
  for (int64_t c = 0; c < s.from_channels; ++c)
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

// ------------------------------------------------------------------------------------------- forward and backward_data

inline uint64_t first_bits(int64_t n) { return n <= 0 ? 0 : n >= 64 ? ~uint64_t(0) : (uint64_t(1) << n) - 1; }

// Sums N neighbouring destinations of a phase, from the j0-th on; `weights` is an offset to the rows' weights. Taps and
// Step are the phase's where they are compile-time constants: each source is then loaded once for all destinations that
// sum it. Clip: some sources may lie in the padding.
template <class T, int N, int Taps, int Step, bool Clip>
STRIATE_INLINE void micro_kernel(const TapRows<T>& rows, const Phase& p, int64_t j0, int64_t pitch, int64_t channel,
                                 int64_t weights, const Vector<T>& bias, Vector<T> (&sum)[N]) {
  constexpr int64_t L = kLanes<T>;
  const int64_t first = j0 * p.step + p.shift, low = rows.wide.first - first, high = rows.wide.last - first;
  const uint64_t valid = first_bits(high) & ~first_bits(low);  // bit k: the k-th source exists
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
          const Vector<T> source = load(x + k * pitch);
#pragma GCC unroll 16
          for (int i = 0; i < Taps; ++i)
            if (k >= i && (k - i) % Step == 0 && (k - i) / Step < N) sum[(k - i) / Step] += weight[i] * source;
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

// Stores the sums of a tile, `pitch` values apart.
template <class T, int N>
STRIATE_INLINE void store_tile(const Vector<T> (&sum)[N], T* to, int64_t pitch, int64_t lanes) {
  if (lanes == kLanes<T>) {
#pragma GCC unroll 16
    for (int j = 0; j < N; ++j, to += pitch) store(to, sum[j]);
  } else {
    for (int j = 0; j < N; ++j, to += pitch) store_first(to, sum[j], lanes);
  }
}

// Calls body(Constant<n>, j) for tiles of n columns. The last tile steps back over columns that are done already, which
// is cheaper than short tiles.
template <class Body>
STRIATE_INLINE void for_each_tile(Range columns, const Body& body) {
  int64_t j = columns.first;
  for (; j + kTile <= columns.last; j += kTile) body(Constant<kTile>{}, j);
  if (j >= columns.last) return;
  if (columns.size() >= kTile) return body(Constant<kTile>{}, columns.last - kTile);
  constexpr int half = kTile / 2;
  if (columns.last - j > half) body(Constant<half>{}, j), j = columns.last - half;
  if (columns.last - j == half) return body(Constant<half>{}, j);
  for (; j < columns.last; ++j) body(Constant<1>{}, j);
}

// Calls run(Constant<taps>, Constant<step>) for phases whose neighbouring destinations share sources, so that a tile
// can keep them in registers; else taps is 0.
template <class Run>
STRIATE_INLINE void with_constant_taps(const Phase& p, const Run& run) {
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

// Computes the columns [w0, w1) of a row of destinations for all vectors of channels: the v-th has its sources at
// channel_at(v) and its weights v·weights further on. Calls put(v, column, apart, sums) for each tile.
template <class T, class Pitch, class ChannelAt, class Bias, class Put>
STRIATE_INLINE void compute_row(const TapRows<T>& rows, const PassAxis& width, int64_t w0, int64_t w1, int64_t vectors,
                                int64_t weights, Pitch pitch, const ChannelAt& channel_at, const Bias& bias,
                                const Put& put) {
  for (int64_t number = 0; number < width.phases(); ++number) {
    const Phase p = width.phase(number);
    with_constant_taps(p, [&](auto taps, auto step) {
      for_each_tile(phase_range(p, w0, w1), [&](auto columns, int64_t j) {
        constexpr int N = decltype(columns)::value, Taps = decltype(taps)::value, Step = decltype(step)::value;
        const int64_t first = j * p.step + p.shift, last = first + (N - 1) * p.step + (p.taps - 1) * p.shift_step;
        const bool inside = first >= rows.wide.first && last < rows.wide.last;
        for (int64_t v = 0; v < vectors; ++v) {
          Vector<T> sum[N];
          if (inside)
            micro_kernel<T, N, Taps, Step, false>(rows, p, j, pitch, channel_at(v), v * weights, bias(v), sum);
          else
            micro_kernel<T, N, Taps, Step, true>(rows, p, j, pitch, channel_at(v), v * weights, bias(v), sum);
          put(v, p.first + j * p.apart, p.apart, sum);
        }
      });
    });
  }
}

// Packs weights as [vector of channels][c][tap][lane]. step_back: the last vector ends with the last channel.
template <class T>
void pack(const ConvShape& s, const PassShape& side, bool adjoint, bool step_back, Weight<T> weight, T* packed) {
  constexpr int64_t L = kLanes<T>;
  const int64_t taps = s.taps(), inputs = s.channels / s.groups, all = side.all_to_channels();
  const int64_t tap_pitch = weight.channels_last ? inputs : 1, channel_pitch = weight.channels_last ? 1 : taps;
  for (int64_t v = 0; v < all; v += L) {
    const int64_t first = step_back ? min(v, all - L) : v;
    for (int64_t c = 0; c < side.from_channels; ++c)
      for (int64_t t = 0; t < taps; ++t, packed += L)
        for (int64_t k = 0; k < L; ++k) {
          const int64_t to = first + k, group = to / side.to_channels;
          const int64_t filter = adjoint ? group * side.from_channels + c : to,
                        channel = adjoint ? to % side.to_channels : c;
          packed[k] = to < all ? weight.data[filter * inputs * taps + channel * channel_pitch + t * tap_pitch] : T(0);
        }
  }
}

inline bool reads_in_place(const ConvShape& s, int64_t lanes) {
  return s.channels_last && s.groups == s.channels && s.filters == s.channels && s.channels >= lanes;
}
// A row of destinations as a block whose band is the whole source, in place.
inline Block row_block(const PassShape& s, int64_t n, int64_t d, int64_t h) {
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
  const PassShape s = pass_shape(shape, adjoint);
  const int64_t C = s.groups, taps = shape.taps(), vectors = ceil_div(C, L), D = s.depth.destinations(),
                H = s.height.destinations(), W = s.width.destinations(), image = s.sources() * C;
  const Scratch<T> packed(vectors * taps * L);
  pack(shape, s, adjoint, true, weight, static_cast<T*>(packed));
  const T* weights = packed;
  const int64_t phases = s.width.phases(), wide = ceil_div(min(W, kColumns), phases) * phases,
                wides = ceil_div(W, wide);
  const bool finishes = e.finishes();
  parallel_for(s.batch * D * H * wides, min(W, wide) * C * min(taps, 32), [=](int64_t begin, int64_t end) {
    const int64_t max_rows_count = s.depth.axis.size * s.height.axis.size;
    Scratch<const T*> from(max_rows_count), beside(max_rows_count);
    TapRows<T> rows = {from, beside, 0, nullptr, C, {}};
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t w0 = unit % wides * wide, h = unit / wides % H, d = unit / wides / H % D, n = unit / wides / H / D;
      find_rows(s, row_block(s, n, d, h), d, h, source + n * image, weights, rows);
      T* row = to + ((n * D + d) * H + h) * W * C;
      const auto channel_at = [&](int64_t v) { return min(v * L, C - L); };
      compute_row(
          rows, s.width, w0, min(W, w0 + wide), vectors, taps * L, C, channel_at,
          [&](int64_t v) { return e.bias ? load(e.bias + channel_at(v)) : Vector<T>{}; },
          [&](int64_t v, int64_t column, int64_t apart, auto& sums) {
            T* at = row + column * C + channel_at(v);
            if (finishes)
              for (int64_t j = 0; j < int64_t(sizeof sums / sizeof sums[0]); ++j)
                sums[j] = finish(Constant<true>{}, e, sums[j], at - to + j * apart * C, L);
            store_tile(sums, at, apart * C, L);
          });
      const int64_t values = (min(W, w0 + wide) - w0) * C;
      activate(e.activation, row + w0 * C, values, 1, values);
    }
  });
}

template <class T>
void activations_in_bands(const ConvShape& shape, bool adjoint, const T* source, Weight<T> weight, const Epilogue<T>& e,
                          T* to) {
  constexpr int64_t L = kLanes<T>;
  const PassShape s = pass_shape(shape, adjoint);
  const int64_t all = s.all_to_channels(), vectors = ceil_div(all, L), taps = shape.taps(), D = s.depth.destinations(),
                H = s.height.destinations(), W = s.width.destinations();
  const Blocks blocks = make_blocks(s, Band{s.from_channels * L, int64_t(sizeof(T)), false}, vectors);
  const Scratch<T> packed(vectors * s.from_channels * taps * L);
  pack(shape, s, adjoint, false, weight, static_cast<T*>(packed));
  const int64_t band_values = max_rows(s, blocks) * max_columns(s, blocks) * s.from_channels * L;
  const T* weights = packed;
  const int64_t work = blocks.positions() * L * min(taps * s.from_channels, 64);
  const bool finishes = e.finishes(), in_blocks = !s.channels_last || vectors == 1;
  parallel_for(s.batch * blocks.per_image * vectors, work, [=](int64_t begin, int64_t end) {
    Scratch<T> band(band_values), transposed(s.channels_last ? 0 : blocks.positions() * L + L * L);
    const int64_t max_rows_count = s.from_channels * s.depth.axis.size * s.height.axis.size;
    Scratch<const T*> sources(max_rows_count), beside(max_rows_count);
    TapRows<T> rows = {sources, beside, 0, nullptr, L, {}};
    for (int64_t unit = begin; unit < end; ++unit) {
      const Block b = block_at(s, blocks, unit / vectors);
      const int64_t first = unit % vectors * L, columns = b.w1 - b.w0;
      const LaneMap<T> v = lane_map<T>(first, all, s.to_channels, s.from_channels);
      const Vector<T> start = e.bias ? load_first<Vector<T>>(e.bias + first, v.lanes) : Vector<T>{};
      copy_band(s, b, source, v, static_cast<T*>(band));
      T* out = transposed;
      for (int64_t d = b.d0; d < b.d1; ++d)
        for (int64_t h = b.h0; h < b.h1; ++h, out += columns * L) {
          find_rows(s, b, d, h, static_cast<const T*>(band), weights + unit % vectors * s.from_channels * taps * L,
                    rows);
          T* row = to + (((b.n * D + d) * H + h) * W) * all + first;
          const auto run = [&](const auto& put) {
            compute_row(
                rows, s.width, b.w0, b.w1, 1, 0, Constant<L>::value, [](int64_t) { return int64_t(0); },
                [&](int64_t) { return start; }, put);
          };
          if (!s.channels_last)
            run([&](int64_t, int64_t column, int64_t apart, const auto& sums) {
              store_tile(sums, out + (column - b.w0) * L, apart * L, L);
            });
          else
            run([&](int64_t, int64_t column, int64_t apart, const auto& sums) {
              store_tile(sums, row + column * all, apart * all, v.lanes);
            });
        }
      if (!s.channels_last)
        for (int64_t d = b.d0; d < b.d1; ++d)
          unpack_lanes_block<T>(static_cast<const T*>(transposed) + (d - b.d0) * (b.h1 - b.h0) * columns * L,
                                b.h1 - b.h0, columns, W, to + (((b.n * all + first) * D + d) * H + b.h0) * W + b.w0,
                                D * H * W, v.lanes);
      if (finishes && in_blocks) finish_block(e, to, s, b, first, v.lanes);
    }
  });
  if (finishes && !in_blocks) finish_all(e, s.batch, to, s);
}

template <class T, bool Adjoint>
void run(const ConvShape& s, const T* source, Weight<T> weight, const Epilogue<T>& e, T* to) {
  if (reads_in_place(s, kLanes<T>)) return activations_in_place(s, Adjoint, source, weight, e, to);
  activations_in_bands(s, Adjoint, source, weight, e, to);
}

// ---------------------------------------------------------------------------------------------------- backward_weights

// The tile with exchanged roles: the weights are the sums, and N values of dy stay in registers while the rows of
// sources pass.
template <class T, int N, int Taps, int Step, bool Clip>
STRIATE_INLINE void weight_micro_kernel(const TapRows<T>& rows, const Phase& p, int64_t j0, int64_t pitch,
                                        int64_t channel, const T* dy, int64_t dy_pitch, T* sums) {
  constexpr int64_t L = kLanes<T>;
  const int64_t first = j0 * p.step + p.shift, low = rows.wide.first - first, high = rows.wide.last - first;
  const uint64_t valid = first_bits(high) & ~first_bits(low);  // bit k: the k-th source exists
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
          const Vector<T> source = load(x + k * pitch);
#pragma GCC unroll 16
          for (int i = 0; i < Taps; ++i)
            if (k >= i && (k - i) % Step == 0 && (k - i) / Step < N) sum[i] += g[(k - i) / Step] * source;
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

// Adds the destinations [w0, w1) of a row: dy is at dy + v·dy_vector + column·dy_pitch, sums are at sums +
// v·vector_values.
template <class T, class Pitch, class ChannelAt>
STRIATE_INLINE void weight_row(const TapRows<T>& rows, const Phase& p, int64_t w0, int64_t w1, int64_t vectors,
                               int64_t vector_values, Pitch pitch, const ChannelAt& channel_at, const T* dy,
                               int64_t dy_pitch, T* sums) {
  with_constant_taps(p, [&](auto taps, auto step) {
    const auto run = [&](auto columns, int64_t j) {
      constexpr int N = decltype(columns)::value, Taps = decltype(taps)::value, Step = decltype(step)::value;
      const int64_t first = j * p.step + p.shift, last = first + (N - 1) * p.step + (p.taps - 1) * p.shift_step;
      const bool inside = first >= rows.wide.first && last < rows.wide.last;
      for (int64_t v = 0; v < vectors; ++v) {
        const T* g = dy + channel_at(v) + j * dy_pitch;
        if (inside)
          weight_micro_kernel<T, N, Taps, Step, false>(rows, p, j, pitch, channel_at(v), g, dy_pitch,
                                                       sums + v * vector_values);
        else
          weight_micro_kernel<T, N, Taps, Step, true>(rows, p, j, pitch, channel_at(v), g, dy_pitch,
                                                      sums + v * vector_values);
      }
    };
    int64_t j = w0;  // tiles must not overlap here: each destination counts once
    for (; j + kTile <= w1; j += kTile) run(Constant<kTile>{}, j);
    if (j + kTile / 2 <= w1) run(Constant<kTile / 2>{}, j), j += kTile / 2;
    for (; j + 2 <= w1; j += 2) run(Constant<2>{}, j);
    if (j < w1) run(Constant<1>{}, j);
  });
}

// Stores dweight[k, c, t] from sums that are laid out as [vector of filters][c][tap][lane]; step_back as in pack().
template <class T>
void unpack(const ConvShape& shape, const double* sums, int64_t filters, int64_t filter_values, bool step_back,
            T* dweight) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t k = 0; k < filters; ++k) {
    const int64_t v = k / L, lane = step_back ? k - min(v * L, filters - L) : k % L;
    for (int64_t i = 0; i < filter_values; ++i)
      dweight[k * filter_values + shape.weight_at(i)] = T(sums[(v * filter_values + i) * L + lane]);
  }
}

template <class T>
void weight_in_place(const ConvShape& shape, const T* dy, const T* x, T* dweight) {
  constexpr int64_t L = kLanes<T>;
  const PassShape s = pass_shape(shape, false);
  const int64_t C = s.groups, taps = shape.taps(), vectors = ceil_div(C, L), D = s.depth.destinations(),
                H = s.height.destinations(), W = s.width.destinations(), image = s.sources() * C;
  const int64_t piece = min(W, kFloatPositions), pieces = ceil_div(W, piece), items = s.batch * D * H * pieces;
  const int64_t chunks = max(1, min(64, items * piece / 448)), chunk_values = vectors * taps * L;
  const Scratch<double> totals(chunks * chunk_values);
  double* partial = totals;
  parallel_for(chunks, kGrainElements, [=](int64_t begin, int64_t end) {
    const int64_t max_rows_count = s.depth.axis.size * s.height.axis.size;
    Scratch<const T*> from(max_rows_count), beside(max_rows_count);
    TapRows<T> rows = {from, beside, 0, nullptr, C, {}};
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
        if (added >= kFloatPositions || item + 1 == last) total.add(), added = 0;
      }
    }
  });
  merge_chunks(partial, chunks, chunk_values);
  unpack(shape, partial, C, taps, true, dweight);
}

template <class T>
void weight_in_bands(const ConvShape& shape, const T* dy, const T* x, T* dweight) {
  constexpr int64_t L = kLanes<T>;
  const PassShape s = pass_shape(shape, false);
  PassShape dy_shape = pass_shape(shape, true);  // reads dy as a source, each lane from the channel of its own filter
  dy_shape.groups = s.all_to_channels(), dy_shape.to_channels = dy_shape.from_channels = 1;
  const int64_t all = s.all_to_channels(), vectors = ceil_div(all, L), taps = shape.taps(),
                vector_values = s.from_channels * taps * L;
  const SumBlocks blocks = make_sum_blocks(s, Band{s.from_channels * L + L, int64_t(sizeof(T)), false});
  const Blocks together = blocks.together();
  const int64_t items = s.batch * blocks.one.per_image, chunks = sum_chunks(items, vectors, 128 / vectors);
  const int64_t band_values = max_rows(s, together) * max_columns(s, together) * s.from_channels * L,
                dy_values = together.positions() * L;
  const Scratch<double> totals(chunks * vectors * vector_values);
  double* partial = totals;
  parallel_for(chunks * vectors, kGrainElements, [=](int64_t begin, int64_t end) {
    Scratch<T> band(band_values), gradient(dy_values), sum(vector_values);
    const int64_t max_rows_count = s.from_channels * s.depth.axis.size * s.height.axis.size;
    Scratch<const T*> sources(max_rows_count), beside(max_rows_count);
    TapRows<T> rows = {sources, beside, 0, nullptr, L, {}};
    const Phase p = s.width.phase(0);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t chunk = unit / vectors, first = unit % vectors * L;
      const LaneMap<T> v = lane_map<T>(first, all, s.to_channels, s.from_channels),
                       same = lane_map<T>(first, all, 1, 1);
      const int64_t last = (chunk + 1) * items / chunks;
      int64_t added = 0;
      ChunkSum<T> total(partial + unit * vector_values, sum, vector_values);
      for (int64_t item = chunk * items / chunks; item < last;) {
        const int64_t joined = blocks.joined_at(item, last);
        const Block b = block_at(s, blocks.one, item, joined);
        copy_band(s, b, x, v, static_cast<T*>(band));
        Block of_dy = b;
        of_dy.deep = {b.d0, b.d1}, of_dy.high = {b.h0, b.h1}, of_dy.wide = {b.w0, b.w1};
        copy_band(dy_shape, of_dy, dy, same, static_cast<T*>(gradient));
        const int64_t columns = b.w1 - b.w0;
        for (const int64_t stop = item + joined; item < stop; ++item) {
          const Block own = block_at(s, blocks.one, item);
          for (int64_t d = own.d0; d < own.d1; ++d)
            for (int64_t h = own.h0; h < own.h1; ++h) {
              const T* g = gradient + (((d - b.d0) * (b.h1 - b.h0) + h - b.h0) * columns - b.w0) * L;
              find_rows(s, b, d, h, static_cast<const T*>(band), static_cast<const T*>(sum), rows);
              weight_row(
                  rows, p, b.w0, b.w1, 1, 0, Constant<L>::value, [](int64_t) { return int64_t(0); }, g, L,
                  static_cast<T*>(sum));
            }
          added += (own.d1 - own.d0) * (own.h1 - own.h0) * columns;
          if (added >= kFloatPositions || item + 1 == last) total.add(), added = 0;
        }
      }
    }
  });
  merge_chunks(partial, chunks, vectors * vector_values);
  unpack(shape, partial, all, s.from_channels * taps, false, dweight);
}

template <class T>
void backward_weights(const ConvShape& s, const T* dy, const T* x, T* dweight) {
  if (reads_in_place(s, kLanes<T>))
    weight_in_place(s, dy, x, dweight);
  else
    weight_in_bands(s, dy, x, dweight);
}

}  // namespace

extern const ConvKernels<float> depthwise_f32;
extern const ConvKernels<double> depthwise_f64;
const ConvKernels<float> depthwise_f32 = {run<float, false>, run<float, true>, backward_weights<float>, nullptr,
                                          nullptr};
const ConvKernels<double> depthwise_f64 = {run<double, false>, run<double, true>, backward_weights<double>, nullptr,
                                           nullptr};

}  // namespace STRIATE_ISA
}  // namespace striate
