// Winograd's gradient of the weights: Gᵀ[ Σ_tiles (A dy Aᵀ) ⊙ V ]G, products of (channels × tiles) · (tiles × filters)
// at each point, added up in runs and chunks of tiles that depend on the shape alone. The caches (core/machine.h) say
// how many runs are transformed together, and of how many channels at a time, such that their sums stay in the cache
// too. A part of winograd.cpp.
#pragma once
#include "core/machine.h"
#include "core/transpose.h"
#include "kernels/conv/conv.h"
#include "kernels/conv/pack_weights.h"
#include "kernels/conv/winograd_bounds.h"
#include "kernels/conv/winograd_tiles.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

// -------------------------------------------------------------------------------------------------------- micro-kernel

// Channels of the weight gradient's tile at most: 8×2 sums of 32 registers, 4×2 of 16. With 8×2 of 16 some sums wait
// for memory at every tile.
constexpr int64_t kWeightRows = kVectorBytes == 64 ? 8 : 4;

// Computes sums[j][v] += Σ_tiles a[tile][lane j] · b[tile][v] for M channels and V vectors of filters.
template <class T, int M, int V>
void weight_micro_kernel(const T* a, const T* b, int64_t b_vector, int64_t count, bool overwrite, T* sums,
                         int64_t row) {
  constexpr int L = kLanes<T>;
  Vector<T> sum[M][V];
#pragma GCC unroll 8
  for (int j = 0; j < M; ++j)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[j][v] = Vector<T>{};
  for (int64_t t = 0; t < count; ++t, a += L, b += L) {
    Vector<T> g[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) g[v] = load(b + v * b_vector);
#pragma GCC unroll 8
    for (int j = 0; j < M; ++j) {
      const Vector<T> value = broadcast(a[j]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[j][v] += value * g[v];
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < M; ++j)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      T* to = sums + j * row + v * L;
      store(to, overwrite ? sum[j][v] : load(to) + sum[j][v]);
    }
}

// ------------------------------------------------------------------------------------------------------- sums of tiles

// How the sum over the tiles is cut, by the shape alone. A run is summed in registers; the runs of a chunk are added in
// order, in T, and the chunks in double. Few tiles are one chunk. Otherwise there are chunks for eight units of work,
// where a unit has at most kUnitSums sums.
constexpr int64_t kRunPoints = 2304;                               // of few tiles: tiles of a run times points
constexpr int64_t kRunValues = 131072;                             // of many: x and dy of a run at the points, about
constexpr int64_t kOneChunk = kVectorBytes == 64 ? 10920 : 21840;  // tiles times points
constexpr int64_t kUnitSums = 327680;                              // of a group, and
constexpr int64_t kTotalBytes = int64_t(1) << 26;                  // of the sums of all chunks, at most
constexpr int64_t kMostTiles = 128;                                // of a block

template <class T>
struct TileSums {
  int64_t run, runs, chunks;
  int64_t cell;  // vectors of channels whose magnitudes share a cell: their sums, too, are at most kUnitSums

  TileSums(const Grid& g, const TileTransforms<T>& kind) {
    const int64_t row = ceil_div(g.to_channels, kLanes<T>) * kLanes<T>, of_vector = kind.points() * kLanes<T> * row,
                  sums = of_vector * ceil_div(g.from_channels, kLanes<T>);
    const bool few = g.tiles * kind.points() <= kOneChunk;
    run = few ? kRunPoints / kind.points() : max(16, kRunValues / (kind.points() * (g.from_channels + g.to_channels)));
    run = min(kMostTiles, run), runs = ceil_div(g.tiles, run);
    const int64_t units = g.groups * ceil_div(sums, kUnitSums), most = kTotalBytes / (g.groups * sums * sizeof(T));
    chunks = few ? 1 : max(1, min(min(ceil_div(runs, 2), ceil_div(8, units)), most));
    for (cell = kPerCell; cell > 1 && cell * of_vector > kUnitSums;) cell /= 2;
  }
  int64_t first(int64_t chunk) const { return chunk * runs / chunks * run; }  // tile
};

// Transforms the sums at the points, [point][channel][filter], of one vector of channels and one or two of filters to
// dw. `transposed` is a buffer for a vector.
template <class T>
void write_filters(const ConvShape& s, const Grid& g, const TileTransforms<T>& kind, int64_t group, int64_t channel,
                   int64_t filter, int64_t vectors, const T* sums, T* transposed, T* dw) {
  constexpr int64_t L = kLanes<T>;
  const int64_t C = g.from_channels, K = g.to_channels, taps = kind.taps_high * kind.taps_wide, row = vectors * L;
  const int64_t channels = min(L, C - channel), tap_stride = s.weight_channels_last ? channels * L : L;
  const int64_t channel_stride = s.weight_channels_last ? L : taps * L;
  for (int64_t v = 0; v < vectors; ++v) {
    const int64_t first = filter + v * L, filters = min(L, K - first);
    for (int64_t c = 0; c < channels; ++c)
      kind.weight_sum(sums + c * row + v * L, L * row, transposed + c * channel_stride, tap_stride);
    T* to = dw + (group * K + first) * C * taps;
    if (s.weight_channels_last)
      for (int64_t t = 0; t < taps; ++t)
        unpack_lanes<T>(static_cast<const T*>(transposed) + t * tap_stride, channels, to + t * C + channel, C * taps,
                        filters);
    else
      unpack_lanes<T>(static_cast<const T*>(transposed), channels * taps, to + channel * taps, C * taps, filters);
  }
}

// Adds `count` tiles at one point, run by run, to the sums of one vector of channels and one or two of filters; `row`
// is the distance between channels.
template <class T>
STRIATE_INLINE void accumulate_vectors(const T* a, const T* b, int64_t b_vector, int64_t vectors, int64_t channels,
                                       int64_t count, int64_t run, bool overwrite, T* sums, int64_t row) {
  constexpr int64_t L = kLanes<T>, M = L < kWeightRows ? L : kWeightRows;
  for (int64_t c = 0; c < min(L, channels); c += M)
    for (int64_t t = 0; t < count; t += run) {
      const int64_t tiles = min(run, count - t);
      const bool first = overwrite && t == 0;
      vectors == 2
          ? weight_micro_kernel<T, M, 2>(a + c + t * L, b + t * L, b_vector, tiles, first, sums + c * row, row)
          : weight_micro_kernel<T, M, 1>(a + c + t * L, b + t * L, b_vector, tiles, first, sums + c * row, row);
    }
}

// Whether any image of x or of dy is out of bounds.
template <class T>
bool sums_out_of_bounds(const Grid& g, const TileTransforms<T>& kind, const Magnitudes<T>& x_values,
                        const Magnitudes<T>& dy_values) {
  constexpr int64_t L = kLanes<T>;
  const int64_t terms = g.tiles * kind.high * kind.wide;
  const Scratch<uint8_t> bad(g.tiles / (g.rows * g.columns));
  return out_of_bounds(x_values, largest_exponent<T>(dy_values.largest, dy_values.rows * dy_values.all * L), terms,
                       static_cast<uint8_t*>(bad)) ||
         out_of_bounds(dy_values, largest_exponent<T>(x_values.largest, x_values.rows * x_values.all * L), terms,
                       static_cast<uint8_t*>(bad));
}

// Both variants return false, and do not write dw, where a value is out of bounds. Their bits are the same.
// For few tiles, in one chunk: x and dy at the points are in memory; one vector of channels and two of filters, with
// their sums, are in the cache.
template <class T>
bool backward_weights_whole(const ConvShape& s, const Grid& g, const TileTransforms<T>& kind, const TileSums<T>& cut,
                            const T* dy, const T* x, T* dw) {
  constexpr int64_t L = kLanes<T>;
  const int64_t C = g.from_channels, K = g.to_channels, vectors = ceil_div(C, L), filters = ceil_div(K, L),
                pairs = ceil_div(filters, 2);
  const PointLayout<T> x_points = {g.tiles, vectors, g.tiles}, dy_points = {g.tiles, filters, g.tiles};
  const int64_t x_values = kind.points() * x_points.point_stride(),
                dy_values = kind.points() * dy_points.point_stride();
  const Scratch<T> memory(g.groups * (x_values + dy_values));
  T *sources = memory, *gradients = sources + g.groups * x_values;
  const int64_t x_spans = ceil_div(vectors, kSpan), spans = x_spans + ceil_div(filters, kSpan),
                share = min(g.tiles, 4 * kMaxRows), shares = ceil_div(g.tiles, share);
  const Magnitudes<T> x_magnitudes = magnitudes_of<T>(g, C, kSpan, cut.cell),
                      dy_magnitudes = magnitudes_of<T>(g, K, kSpan);
  parallel_for(g.groups * shares * spans, share * kind.points() * kSpan * L,
               [=, &kind, &x_magnitudes, &dy_magnitudes](int64_t begin, int64_t end) {
                 Scratch<T> strip(strip_values(kind, share));
                 for (int64_t unit = begin; unit < end; ++unit) {
                   const int64_t span = unit % spans, first = unit / spans % shares * share,
                                 last = min(g.tiles, first + share);
                   const int64_t group = unit / spans / shares;
                   const bool of_gradient = span >= x_spans;
                   const int64_t v = (of_gradient ? span - x_spans : span) * kSpan, all = of_gradient ? K : C;
                   const PointLayout<T>& points = of_gradient ? dy_points : x_points;
                   T* to = of_gradient ? gradients + group * dy_values : sources + group * x_values;
                   const MagnitudeRecorder<T> recorder(of_gradient ? dy_magnitudes : x_magnitudes, group, v / kSpan);
                   evaluate_at_points<T>(g, kind, of_gradient, of_gradient ? dy : x, group * all + v * L,
                                         min(kSpan * L, all - v * L), first, last, points, recorder, strip,
                                         to + v * points.vector_stride() + first * L);
                 }
               });
  if (sums_out_of_bounds(g, kind, x_magnitudes, dy_magnitudes)) return false;
  parallel_for(g.groups * pairs * vectors, kGrainElements, [=, &kind](int64_t begin, int64_t end) {
    Scratch<T> sums(kind.points() * 2 * L * L), transposed(pack_buffer_values<T>(kind.taps_high * kind.taps_wide));
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t v = unit % vectors, k = unit / vectors % pairs * 2, group = unit / vectors / pairs,
                    filter_vectors = min(2, filters - k);
      for (int64_t p = 0; p < kind.points(); ++p)
        accumulate_vectors<T>(
            sources + group * x_values + p * x_points.point_stride() + v * x_points.vector_stride(),
            gradients + group * dy_values + p * dy_points.point_stride() + k * dy_points.vector_stride(),
            dy_points.vector_stride(), filter_vectors, C - v * L, g.tiles, cut.run, true,
            sums + p * L * filter_vectors * L, filter_vectors * L);
      write_filters<T>(s, g, kind, group, v * L, k * L, filter_vectors, sums, transposed, dw);
    }
  });
  return true;
}

// For many tiles: transforms a block of them at a time, one or several runs; the sums of all points are in memory.
template <class T>
bool backward_weights_blocked(const ConvShape& s, const Grid& g, const TileTransforms<T>& kind, const TileSums<T>& cut,
                              const T* dy, const T* x, T* dw) {
  constexpr int64_t L = kLanes<T>;
  const int64_t C = g.from_channels, K = g.to_channels, vectors = ceil_div(C, L), filters = ceil_div(K, L),
                row = filters * L;
  const int64_t chunks = cut.chunks, vector_bytes = kind.points() * row * kVectorBytes;  // of a vector's sums
  // The channels at a time: as many as the cache holds the sums of, and few enough for eight units of work.
  const int64_t fair = ceil_div(vectors, ceil_div(8, chunks * g.groups)),
                part = min(vectors, max(1, min(sum_bytes() / vector_bytes, fair) / cut.cell) * cut.cell),
                parts = ceil_div(vectors, part);
  const int64_t tile_bytes = kind.points() * (part + filters) * kVectorBytes;
  const int64_t block = max(1, min(kMostTiles, band_bytes() / tile_bytes) / cut.run) * cut.run;
  const int64_t point = vectors * L * row,
                chunk_values = kind.points() * point;  // sums are [chunk][group][point][channel][filter]
  const PointLayout<T> x_points = {block, part, block}, dy_points = {block, filters, block};
  const Magnitudes<T> x_magnitudes = magnitudes_of<T>(g, C, part, cut.cell),
                      dy_magnitudes = magnitudes_of<T>(g, K, filters);
  const Scratch<T> totals(chunks * g.groups * chunk_values);
  T* total = totals;
  parallel_for(
      chunks * g.groups * parts, kGrainElements, [=, &kind, &x_magnitudes, &dy_magnitudes](int64_t begin, int64_t end) {
        Scratch<T> sources(kind.points() * x_points.point_stride()),
            gradients(kind.points() * dy_points.point_stride()), strip(strip_values(kind, block));
        for (int64_t unit = begin; unit < end; ++unit) {
          const int64_t v0 = unit % parts * part, v1 = min(vectors, v0 + part), group = unit / parts % g.groups,
                        chunk = unit / parts / g.groups;
          T* sums = total + (chunk * g.groups + group) * chunk_values;
          const MagnitudeRecorder<T> recorder(x_magnitudes, group, v0 / part);
          const MagnitudeRecorder<T> gradient_recorder =
              v0 == 0 ? MagnitudeRecorder<T>(dy_magnitudes, group, 0) : MagnitudeRecorder<T>();
          const int64_t begin_tile = cut.first(chunk), end_tile = min(g.tiles, cut.first(chunk + 1));
          for (int64_t first = begin_tile; first < end_tile; first += block) {
            const int64_t last = min(end_tile, first + block);
            evaluate_at_points<T>(g, kind, false, x, group * C + v0 * L, min(C, v1 * L) - v0 * L, first, last, x_points,
                                  recorder, strip, sources);
            evaluate_at_points<T>(g, kind, true, dy, group * K, K, first, last, dy_points, gradient_recorder, strip,
                                  gradients);
            for (int64_t p = 0; p < kind.points(); ++p)
              for (int64_t v = v0; v < v1; ++v)
                for (int64_t k = 0; k < filters; k += 2)
                  accumulate_vectors<T>(sources + p * x_points.point_stride() + (v - v0) * x_points.vector_stride(),
                                        gradients + p * dy_points.point_stride() + k * dy_points.vector_stride(),
                                        dy_points.vector_stride(), min(2, filters - k), C - v * L, last - first,
                                        cut.run, first == begin_tile, sums + p * point + v * L * row + k * L, row);
          }
        }
      });
  if (sums_out_of_bounds(g, kind, x_magnitudes, dy_magnitudes)) return false;
  const int64_t pairs = ceil_div(filters, 2);
  parallel_for(
      g.groups * pairs * vectors, kind.points() * L * L * (chunks + 4), [=, &kind](int64_t begin, int64_t end) {
        Scratch<T> sums(kind.points() * 2 * L * L), transposed(pack_buffer_values<T>(kind.taps_high * kind.taps_wide));
        for (int64_t unit = begin; unit < end; ++unit) {
          const int64_t v = unit % vectors, k = unit / vectors % pairs * 2, group = unit / vectors / pairs,
                        filter_vectors = min(2, filters - k);
          T* to = sums;
          for (int64_t p = 0; p < kind.points(); ++p)
            for (int64_t c = 0; c < L; ++c)
              for (int64_t l = 0; l < filter_vectors * L; l += kLanes<double>, to += kLanes<double>) {
                const T* from = total + group * chunk_values + p * point + (v * L + c) * row + k * L + l;
                Vector<double> sum = load_widened(from);  // adds the chunks in order
                for (int64_t chunk = 1; chunk < chunks; ++chunk)
                  sum += load_widened(from + chunk * g.groups * chunk_values);
                store_narrowed(to, sum);
              }
          write_filters<T>(s, g, kind, group, v * L, k * L, filter_vectors, sums, transposed, dw);
        }
      });
  return true;
}

// Computes the gradient of the weights. Returns false, with nothing written, where an image is out of bounds.
template <class T>
bool backward_weights(const ConvShape& s, const TileTransforms<T>& kind, const T* dy, const T* x, T* dw) {
  const Grid g = make_grid(s, kind, false);
  const TileSums<T> cut(g, kind);
  // Whether three vectors of all tiles at the points stay in the caches; or blocks would be few units.
  const bool whole =
      cut.chunks == 1 && (3 * g.tiles * kind.points() * kVectorBytes <= max(machine().second_level, sum_bytes()) ||
                          g.groups * ceil_div(ceil_div(g.from_channels, kLanes<T>), cut.cell) < kFewBlocks);
  return whole ? backward_weights_whole(s, g, kind, cut, dy, x, dw)
               : backward_weights_blocked(s, g, kind, cut, dy, x, dw);
}

}  // namespace
}  // namespace STRIATE_ISA
}  // namespace striate
