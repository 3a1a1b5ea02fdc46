// Winograd convolution of stride 1: minimal filtering (winograd_transforms.h) on tiles of the destination.
//
//   y = Aᵀ[ Σ_c (G w[k, c] Gᵀ) ⊙ (B x[c] Bᵀ) ]A
//
// For each of the n² points this is a product of matrices, (tiles × channels) · (channels × filters).
//
// Layout. Sources at the points, V: [point][panel of M tiles][vector of channels][tile][lane]; weights at the points,
// U: for each point a PackedB. The micro-kernel (gemm/micro_kernel.h) broadcasts one channel of M tiles and adds M × 2
// vectors of filters. The products, [point][vector][tile][lane], are transformed back a span of filters at a time.
//
// Blocks. Tiles continue from row to row and image to image. A block's V should stay in the second-level cache together
// with its products of two vectors of filters, while U is read once a block (source_stationary). Where V of a block
// would be of so few tiles that U is not read as fast as it is multiplied, a block has more tiles, and only V of one
// point stays in that cache while a span of several vectors is multiplied. Where there are few blocks, the filters are
// divided among threads too (weight_stationary). No sum is cut.
//
// backward_data is the same sum with the weights in reverse. backward_weights is in winograd_weight_gradient.h.
#include "core/machine.h"
#include "core/moments.h"
#include "core/transpose.h"
#include "core/window.h"
#include "gemm/micro_kernel.h"
#include "gemm/packed_b.h"
#include "kernels/conv/conv.h"
#include "kernels/conv/epilogue.h"
#include "kernels/conv/pack_weights.h"
#include "kernels/conv/winograd_bounds.h"
#include "kernels/conv/winograd_tiles.h"
#include "kernels/conv/winograd_weight_gradient.h"

namespace striate {
namespace STRIATE_ISA {

extern const ConvKernels<float> direct_f32;  // computes images that are out of bounds here
extern const ConvKernels<double> direct_f64;

namespace {

// A panel is kMaxRows tiles, which the micro-kernel multiplies together. Where the cache holds the sources of fewer
// than kFewPanels at all points, a block is of up to kMostPanels, whose sources at one point are read kLongSpan vectors
// of filters at a time.
constexpr int64_t kFewPanels = 2, kMostPanels = 8, kLongSpan = 4;

// ------------------------------------------------------------------------------------------------------------- weights

// The size of all weights at the points, and with WeightBounds behind them.
template <class T>
int64_t packed_weights(const Grid& g, const TileTransforms<T>& kind) {
  return g.groups * kind.points() * PackedB<T>{ceil_div(g.to_channels, kLanes<T>), g.from_channels}.size();
}
template <class T>
int64_t packed_values(const Grid& g, const TileTransforms<T>& kind) {
  return packed_weights(g, kind) + kLanes<T>;
}

template <class T>
WeightBounds packed_bounds(const Grid& g, const TileTransforms<T>& kind, const T* packed) {
  const T* bounds = packed + packed_weights(g, kind);
  return {int64_t(bounds[0]), bounds[1] != 0};
}

template <class T>
void pack(const ConvShape& s, const Grid& g, const TileTransforms<T>& kind, bool adjoint, Weight<T> weight, T* packed) {
  constexpr int64_t L = kLanes<T>;
  const PackedB<T> layout = {ceil_div(g.to_channels, L), g.from_channels};
  const int64_t pieces = ceil_div(g.from_channels, kPiece), parts = g.groups * layout.vectors * pieces;
  const Scratch<typename Lane<T>::Int> memory(parts * L);
  typename Lane<T>::Int* largest = memory;  // one part a thread
  for_each_weight_vector(s, adjoint, weight,
                         [=, &kind](int64_t group, int64_t v, int64_t c, const T* from, int64_t tap_stride) {
                           T* to = packed + group * kind.points() * layout.size() + layout.at(v, c);
                           const IntVector<T> bits = bits_of<T>(kind.weight(from, tap_stride, to, layout.size()));
                           auto* part_squares = largest + ((group * layout.vectors + v) * pieces + c / kPiece) * L;
                           c % kPiece == 0 ? store(part_squares, bits) : raise<T>(part_squares, bits);
                         });
  const WeightBounds bounds = weight_bounds<T>(largest, g.groups * layout.vectors, pieces);
  packed[packed_weights(g, kind)] = T(bounds.max_exponent), packed[packed_weights(g, kind) + 1] = T(bounds.has_outlier);
}

// ------------------------------------------------------------------------------------------- forward and backward_data

// How the tiles are cut into blocks, how many filters are processed together, and the layout of a block's sources and
// products.
template <class T>
struct TileBlocks {
  int64_t all, size, count;                      // number of tiles; tiles of a block at most; number of blocks
  int64_t tile_rows;                             // rows of the micro-kernel: tiles of nearly equal size
  int64_t span;                                  // vectors of filters whose products are made together
  PointLayout<T> source_points, product_points;  // products of a span
  int64_t strip;                                 // the size that strip_values() gives

  // least: the number of blocks to make at least, where there are tiles enough; measured: blocks are whole runs.
  TileBlocks(const Grid& g, const TileTransforms<T>& kind, int64_t least, bool measured) : all(g.tiles) {
    const int64_t point_bytes = ceil_div(g.from_channels, kLanes<T>) * kVectorBytes,
                  vectors = ceil_div(g.to_channels, kLanes<T>);
    const int64_t of_all_points = block_bytes() / (kind.points() * point_bytes);
    const bool by_points = of_all_points < kFewPanels * kMaxRows;
    const int64_t held = by_points ? min(kMostPanels * kMaxRows, block_bytes() / point_bytes)
                                   : min(4 * kMaxRows, of_all_points),
                  most = max(kMaxRows, held / kMaxRows * kMaxRows);
    span = by_points && vectors * g.groups >= kFewBlocks * kLongSpan ? kLongSpan : 2;
    size = ceil_div(all, ceil_div(all, max(kMaxRows, min(most, ceil_div(all, least)))));
    // Where one thread computes all blocks of some filters, they need not be even, and are whole panels of tiles.
    if (measured || least == 1) size = min(all, ceil_div(size, kMeasuredTiles) * kMeasuredTiles);
    count = ceil_div(all, size);
    tile_rows = ceil_div(size, ceil_div(size, kMaxRows));
    const int64_t room = ceil_div(size, tile_rows) * tile_rows;
    source_points = {room, ceil_div(g.from_channels, kLanes<T>), tile_rows};
    product_points = {room, min(span, vectors), room};
    strip = strip_values(kind, size);
  }
  int64_t first(int64_t b) const { return b * size; }
  int64_t last(int64_t b) const { return min(all, (b + 1) * size); }
  // The moments of a block's first run, of all channels; null if none are taken.
  Moments* moments_of(int64_t b, Moments* moments, int64_t channels) const {
    return moments ? moments + first(b) / kMeasuredTiles * channels : nullptr;
  }
};

// Computes the products of `tiles` tiles with V vectors of filters at one point. Not inlined: its innermost loop is
// short of registers.
template <class T, int M, int V>
__attribute__((noinline)) void point_products(const T* a, int64_t channels, const T* b, int64_t tiles, T* to,
                                              int64_t to_vector) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t t = 0; t < tiles; t += M, a += M * ceil_div(channels, L) * L, to += M * L)
    micro_kernel<T, M, V>(a, M * L, channels, 1, b).for_each([&](int j, int v, const Vector<T>& sum) {
      store(to + v * to_vector + j * L, sum);
    });
}

// Computes block b for up to blocks.span vectors of a group's destinations, from the v-th on: products at the points,
// then the transform back. `weights` are `apart` from point to point, each a PackedB. `moments` is null, or has a place
// for each run of the block and each channel.
template <class T>
void block_results(const Grid& g, const TileTransforms<T>& kind, const TileBlocks<T>& blocks, const Epilogue<T>& e,
                   int64_t b, int64_t group, int64_t v, int64_t vectors, const T* sources, const T* weights,
                   int64_t apart, T* products, T* strip, T* y, Moments* moments) {
  constexpr int64_t L = kLanes<T>;
  const PointLayout<T>&source_points = blocks.source_points, &product_points = blocks.product_points;
  const int64_t first = blocks.first(b), last = blocks.last(b);
  with_constant<kMaxRows>(blocks.tile_rows, [&](auto m) {
    constexpr int M = decltype(m)::value;
    for (int64_t p = 0; p < kind.points(); ++p)
      for (int64_t k = 0; k < vectors; k += 2)
        (k + 1 < vectors ? point_products<T, M, 2>
                         : point_products<T, M, 1>)(sources + p * source_points.point_stride(), g.from_channels,
                                                    weights + p * apart + k * L * g.from_channels, last - first,
                                                    products + p * product_points.point_stride() +
                                                        k * product_points.vector_stride(),
                                                    product_points.vector_stride());
  });
  for (int64_t k = 0; k < vectors; ++k) {
    const int64_t in_group = (v + k) * L, channel = group * g.to_channels + in_group;
    write_results<T>(g, kind, e, products + k * product_points.vector_stride(), product_points, channel,
                     min(L, g.to_channels - in_group), first, last, strip, y, moments ? moments + channel : nullptr);
  }
}

// Each block of sources stays in the cache while all weights, transformed before, are read.
template <class T>
void source_stationary(const Grid& g, const TileTransforms<T>& kind, const TileBlocks<T>& blocks, const T* x,
                       const T* packed, const Epilogue<T>& e, T* y, Moments* moments, const Magnitudes<T>& magnitudes) {
  const PackedB<T> layout = {ceil_div(g.to_channels, kLanes<T>), g.from_channels};
  parallel_for(blocks.count * g.groups, kGrainElements, [=, &kind, &magnitudes](int64_t begin, int64_t end) {
    Scratch<T> sources(kind.points() * blocks.source_points.point_stride()),
        products(kind.points() * blocks.product_points.point_stride()), strip(blocks.strip);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t group = unit % g.groups, b = unit / g.groups;
      const MagnitudeRecorder<T> recorder(magnitudes, group, 0);
      evaluate_at_points<T>(g, kind, false, x, group * g.from_channels, g.from_channels, blocks.first(b),
                            blocks.last(b), blocks.source_points, recorder, strip, sources);
      const T* group_weights = packed + group * kind.points() * layout.size();
      for (int64_t v = 0; v < layout.vectors; v += blocks.span)
        block_results<T>(g, kind, blocks, e, b, group, v, min(blocks.span, layout.vectors - v), sources,
                         group_weights + layout.at(v / 2), layout.size(), products, strip, y,
                         blocks.moments_of(b, moments, g.all_to()));
    }
  });
}

// For few blocks and many weights: all transformed sources are in memory, and are read past the weights of one or two
// vectors, which each thread transforms for itself and keeps in a cache, or of a span of packed ones. The transformed
// weights, up to four times the weights, are never written to memory.
template <class T>
WeightBounds weight_stationary(const ConvShape& s, const Grid& g, const TileTransforms<T>& kind,
                               const TileBlocks<T>& blocks, bool adjoint, const T* x, Weight<T> weight,
                               const Epilogue<T>& e, T* y, Moments* moments, const Magnitudes<T>& magnitudes) {
  constexpr int64_t L = kLanes<T>;
  const int64_t of_block = kind.points() * blocks.source_points.point_stride(),
                spans = ceil_div(blocks.source_points.vectors, kSpan);
  const Scratch<T> memory(g.groups * blocks.count * of_block);
  T* sources = memory;  // [group][block]
  parallel_for(g.groups * blocks.count * spans, blocks.size * kind.points() * kSpan * L,
               [=, &kind, &magnitudes](int64_t begin, int64_t end) {
                 Scratch<T> strip(blocks.strip);
                 for (int64_t unit = begin; unit < end; ++unit) {
                   const int64_t v = unit % spans * kSpan, at = unit / spans, b = at % blocks.count,
                                 group = at / blocks.count;
                   const MagnitudeRecorder<T> recorder(magnitudes, group, v / kSpan);
                   evaluate_at_points<T>(g, kind, false, x, group * g.from_channels + v * L,
                                         min(kSpan * L, g.from_channels - v * L), blocks.first(b), blocks.last(b),
                                         blocks.source_points, recorder, strip,
                                         sources + at * of_block + v * blocks.source_points.vector_stride());
                 }
               });
  const PackedB<T> layout = {ceil_div(g.to_channels, L), g.from_channels};
  const int64_t vector_bytes = kind.points() * g.from_channels * kVectorBytes;
  // With few registers, the sums of one vector of filters are too few to hide the latency of the multiply-add.
  const int64_t step = weight.packed                                     ? blocks.span
                       : kMaxRows < 8 || 2 * vector_bytes <= own_bytes() ? 2
                                                                         : 1,
                steps = ceil_div(layout.vectors, step);
  const int64_t shares = min(blocks.count, ceil_div(8, steps * g.groups));  // parts of the blocks
  const int64_t pieces = ceil_div(g.from_channels, kPiece);
  const Scratch<typename Lane<T>::Int> squares(g.groups * layout.vectors * pieces * L);
  typename Lane<T>::Int* largest = squares;  // [vector of filters][piece of channels][lane]
  parallel_for(g.groups * steps * shares, kGrainElements, [=, &kind](int64_t begin, int64_t end) {
    const int64_t pitch = (step * g.from_channels | 1) * L;  // the distance between points
    Scratch<T> local(weight.packed ? 0 : kind.points() * pitch),
        transposed(pack_buffer_values<T>(kind.taps_high * kind.taps_wide));
    Scratch<T> products(kind.points() * blocks.product_points.point_stride()), strip(blocks.strip);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t share = unit % shares, v = unit / shares % steps * step, group = unit / shares / steps;
      const int64_t vectors = min(step, layout.vectors - v);
      const PackedB<T> own = {vectors, g.from_channels};
      const T* weights = local;
      if (weight.packed)
        weights = weight.packed + group * kind.points() * layout.size() + layout.at(v / 2);
      else
        for (int64_t k = 0; k < vectors; ++k)
          for_each_weight_vector<T>(
              s, adjoint, weight, group, v + k, 0, g.from_channels, transposed,
              [&](int64_t c, const T* from, int64_t tap_stride) {
                const IntVector<T> bits = bits_of<T>(kind.weight(from, tap_stride, local + own.at(k, c), pitch));
                typename Lane<T>::Int* at = largest + ((group * layout.vectors + v + k) * pieces + c / kPiece) * L;
                if (share == 0) c % kPiece == 0 ? store(at, bits) : raise<T>(at, bits);
              });
      for (int64_t b = share * blocks.count / shares; b < (share + 1) * blocks.count / shares; ++b)
        block_results<T>(g, kind, blocks, e, b, group, v, vectors, sources + (group * blocks.count + b) * of_block,
                         weights, weight.packed ? layout.size() : pitch, products, strip, y,
                         blocks.moments_of(b, moments, g.all_to()));
    }
  });
  return weight.packed ? packed_bounds(g, kind, weight.packed)
                       : weight_bounds<T>(largest, g.groups * layout.vectors, pieces);
}

template <class T>
const ConvKernels<T>& direct_kernels() {
  if constexpr (sizeof(T) == 4)
    return direct_f32;
  else
    return direct_f64;
}

// Computes the results of images that are out of bounds again, by direct convolution.
template <class T>
void recompute_directly(const ConvShape& s, const Grid& g, bool adjoint, const uint8_t* bad, const T* x,
                        Weight<T> weight, Epilogue<T> e, T* y) {
  const int64_t from = g.all_from() * g.from.size(), to = g.all_to() * g.to.size();
  weight.packed = nullptr, e.mean = e.variance = nullptr;
  for (int64_t n = 0, end; n < s.batch; n = end) {
    for (end = n; end < s.batch && bad[end]; ++end) {
    }
    if (end == n) {
      ++end;
      continue;
    }
    ConvShape these = s;
    Epilogue<T> after = e;
    these.batch = end - n;
    if (e.residual) after.residual = e.residual + n * to;
    (adjoint ? direct_kernels<T>().backward_data : direct_kernels<T>().forward)(these, x + n * from, weight, after,
                                                                                y + n * to);
  }
}

// Measures each channel's mean and variance of results that are in memory.
template <class T>
void measure(const Grid& g, int64_t batch, const T* y, const Epilogue<T>& e) {
  const int64_t channels = g.all_to(), positions = g.to.size();
  parallel_for(channels, batch * positions, [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const T* first = y + (g.channels_last ? c : c * positions);
      double sum = 0, squares = 0;
      for (int64_t n = 0; n < batch; ++n)
        for (int64_t i = 0; i < positions; ++i) {
          const double d =
              double(first[n * channels * positions + i * (g.channels_last ? channels : 1)]) - double(*first);
          sum += d, squares += d * d;
        }
      const Moments all = shifted_moments(double(batch * positions), double(*first), sum, squares);
      e.mean[c] = all.mean, e.variance[c] = all.variance();
    }
  });
}

template <class T>
void activations(const ConvShape& s, const TileTransforms<T>& kind, bool adjoint, const T* x, Weight<T> weight,
                 const Epilogue<T>& e, T* y) {
  const Grid g = make_grid(s, kind, adjoint);
  const bool measured = e.mean != nullptr;
  const bool few_blocks = TileBlocks<T>(g, kind, 1, measured).count < kFewBlocks &&
                          packed_values(g, kind) / g.groups * int64_t(sizeof(T)) > own_bytes();
  const TileBlocks<T> blocks(g, kind, few_blocks ? 1 : kFewBlocks, measured);
  const int64_t runs = ceil_div(g.tiles, kMeasuredTiles);
  const Scratch<Moments> run_moments(measured ? runs * g.all_to() : 0);
  Moments* moments = measured ? static_cast<Moments*>(run_moments) : nullptr;
  const Magnitudes<T> magnitudes =
      magnitudes_of<T>(g, g.from_channels, few_blocks ? kSpan : blocks.source_points.vectors);
  WeightBounds bounds;
  if (few_blocks) {
    bounds = weight_stationary(s, g, kind, blocks, adjoint, x, weight, e, y, moments, magnitudes);
  } else {
    const Scratch<T> memory(weight.packed ? 0 : packed_values(g, kind));
    const T* packed = weight.packed ? weight.packed : static_cast<const T*>(memory);
    if (!weight.packed) pack(s, g, kind, adjoint, weight, static_cast<T*>(memory));
    source_stationary(g, kind, blocks, x, packed, e, y, moments, magnitudes);
    bounds = packed_bounds(g, kind, packed);
  }
  const Scratch<uint8_t> bad(s.batch);
  if (out_of_bounds(magnitudes, bounds.exponent(g.edges, kMaxExponent<T>), g.from_channels,
                    static_cast<uint8_t*>(bad))) {
    recompute_directly(s, g, adjoint, static_cast<const uint8_t*>(bad), x, weight, e, y);
    if (moments) measure(g, s.batch, static_cast<const T*>(y), e);
  } else if (moments) {
    merge_rows(moments, runs, g.all_to(), e.mean, e.variance);
  }
}

// --------------------------------------------------------------------------------------------------------------- entry

template <class T, int Size, bool Adjoint>
void run(const ConvShape& s, const T* x, Weight<T> weight, const Epilogue<T>& e, T* y) {
  activations(s, *find_transforms<T>(Size, s.window.height.size, s.window.width.size), Adjoint, x, weight, e, y);
}
template <class T, int Size>
void run_backward_weights(const ConvShape& s, const T* dy, const T* x, T* dw) {
  const TileTransforms<T>& kind = *find_transforms<T>(Size, s.window.height.size, s.window.width.size);
  if (!backward_weights(s, kind, dy, x, dw)) direct_kernels<T>().backward_weights(s, dy, x, dw);
}
template <class T, int Size>
int64_t packed_size(const ConvShape& s) {
  const TileTransforms<T>& kind = *find_transforms<T>(Size, s.window.height.size, s.window.width.size);
  return packed_values(make_grid(s, kind, false), kind);
}
template <class T, int Size>
void pack_weight(const ConvShape& s, Weight<T> weight, T* packed) {
  const TileTransforms<T>& kind = *find_transforms<T>(Size, s.window.height.size, s.window.width.size);
  pack(s, make_grid(s, kind, false), kind, false, weight, packed);
}

}  // namespace

extern const ConvKernels<float> winograd_4x4_f32, winograd_2x2_f32;
extern const ConvKernels<double> winograd_4x4_f64, winograd_2x2_f64;
#define STRIATE_WINOGRAD(T, SIZE) \
  {run<T, SIZE, false>, run<T, SIZE, true>, run_backward_weights<T, SIZE>, packed_size<T, SIZE>, pack_weight<T, SIZE>}
const ConvKernels<float> winograd_4x4_f32 = STRIATE_WINOGRAD(float, 4), winograd_2x2_f32 = STRIATE_WINOGRAD(float, 2);
const ConvKernels<double> winograd_4x4_f64 = STRIATE_WINOGRAD(double, 4),
                          winograd_2x2_f64 = STRIATE_WINOGRAD(double, 2);

}  // namespace STRIATE_ISA
}  // namespace striate
