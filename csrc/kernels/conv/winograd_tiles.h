// Winograd's tiles: how they cover the images, and their way from memory to the points and back. A part of
// winograd.cpp.
#pragma once
#include "core/moments.h"
#include "core/transpose.h"
#include "gemm/micro_kernel.h"
#include "kernels/conv/conv.h"
#include "kernels/conv/epilogue.h"
#include "kernels/conv/winograd_bounds.h"
#include "kernels/conv/winograd_transforms.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

constexpr int kMaxPoints = 36, kMaxOutputs = 16;
// The tiles of a run, whose results are measured together, from the first tile on: a length of sums. Where results are
// measured, blocks are whole runs.
constexpr int64_t kMeasuredTiles = kMaxRows;
constexpr int64_t kFewBlocks = 8;
constexpr int64_t kSpan = 4;  // vectors of channels that one piece of work transforms

// The sizes and the transforms of one kind of tile.
template <class T>
struct TileTransforms {
  int64_t high, wide, taps_high, taps_wide;
  Vector<T> (*source)(const T* x, int64_t down, int64_t right, T* to, int64_t apart);
  void (*result)(const T* from, int64_t apart, T* y);
  Vector<T> (*gradient)(const T* dy, int64_t down, int64_t right, T* to, int64_t apart);
  Vector<T> (*weight)(const T* w, int64_t pitch, T* to, int64_t apart);
  void (*weight_sum)(const T* from, int64_t apart, T* dw, int64_t pitch);

  int64_t source_high() const { return high + taps_high - 1; }
  int64_t source_wide() const { return wide + taps_wide - 1; }
  int64_t points() const { return source_high() * source_wide(); }
};

template <class T, int High, int TapsHigh, int Wide, int TapsWide>
constexpr TileTransforms<T> tile_transforms() {
  using F = Filtering<T, High, TapsHigh, Wide, TapsWide>;
  return {High, Wide, TapsHigh, TapsWide, F::source, F::result, F::gradient, F::weight, F::weight_sum};
}

// The transforms for a filter of these taps, with `size` outputs along each axis of more than one tap; null if there
// are none.
template <class T>
const TileTransforms<T>* find_transforms(int64_t size, int64_t taps_high, int64_t taps_wide) {
  static constexpr TileTransforms<T> kinds[] = {
      tile_transforms<T, 4, 3, 4, 3>(), tile_transforms<T, 1, 1, 4, 3>(), tile_transforms<T, 4, 3, 1, 1>(),
      tile_transforms<T, 2, 3, 2, 3>(), tile_transforms<T, 1, 1, 2, 3>(), tile_transforms<T, 2, 3, 1, 1>(),
      tile_transforms<T, 2, 5, 2, 5>(), tile_transforms<T, 1, 1, 2, 5>(), tile_transforms<T, 2, 5, 1, 1>(),
  };
  for (const TileTransforms<T>& k : kinds)
    if (k.taps_high == taps_high && k.taps_wide == taps_wide && (k.high == size || k.wide == size)) return &k;
  return nullptr;
}

// The spatial size of an image.
struct Plane {
  int64_t high, wide;
  int64_t size() const { return high * wide; }
};
// A pass of stride 1 seen from its destination: destination o sums the sources o - before + t.
struct Grid {
  Plane to, from;                    // of one image
  int64_t before_high, before_wide;  // padding before the first source; may be negative
  int64_t rows, columns, tiles;      // rows and columns of tiles in an image; tiles of all images
  int64_t to_channels, from_channels, groups;
  bool channels_last, edges;  // edges: some destinations read the padding

  int64_t all_to() const { return groups * to_channels; }
  int64_t all_from() const { return groups * from_channels; }
};

template <class T>
Grid make_grid(const ConvShape& s, const TileTransforms<T>& kind, bool adjoint) {
  const Axis &h = s.window.height, &w = s.window.width;
  const Plane x = {h.input, w.input}, y = {h.output, w.output};
  Grid g;
  g.to = adjoint ? x : y, g.from = adjoint ? y : x;
  g.before_high = adjoint ? h.size - 1 - h.before : h.before,
  g.before_wide = adjoint ? w.size - 1 - w.before : w.before;
  g.rows = ceil_div(g.to.high, kind.high), g.columns = ceil_div(g.to.wide, kind.wide),
  g.tiles = s.batch * g.rows * g.columns;
  g.groups = s.groups, g.channels_last = s.channels_last;
  const auto beyond = [](int64_t to, int64_t from, int64_t before, int64_t taps) {
    return before > 0 || to - before + taps - 1 > from;
  };
  g.edges =
      beyond(g.to.high, g.from.high, g.before_high, h.size) || beyond(g.to.wide, g.from.wide, g.before_wide, w.size);
  g.to_channels = (adjoint ? s.channels : s.filters) / s.groups,
  g.from_channels = (adjoint ? s.filters : s.channels) / s.groups;
  return g;
}

// Adjacent tiles of row `row` of image n, from `column` on; the first is the block's `at`-th.
struct TileRun {
  int64_t n, row, column, count, at;
};
template <class Body>
STRIATE_INLINE void for_each_tile_run(const Grid& g, int64_t begin, int64_t end, const Body& body) {
  for (int64_t tile = begin; tile < end;) {
    const int64_t column = tile % g.columns, row = tile / g.columns % g.rows, n = tile / g.columns / g.rows;
    const int64_t count = min(g.columns - column, end - tile);
    body(TileRun{n, row, column, count, tile - begin});
    tile += count;
  }
}

// A rectangle of sources that may reach into the padding; at most the sources of one TileRun.
struct Piece {
  int64_t row, column, high, wide;
  bool inside(const Plane& p) const {
    return row >= 0 && column >= 0 && row + high <= p.high && column + wide <= p.wide;
  }
};

// Copies one vector of channels of a piece from NHWC, with zeros in the padding.
template <class T>
void copy_piece(const T* image, const Plane& plane, int64_t channels, const Piece& piece, int64_t lanes, T* to) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t i = piece.row; i < piece.row + piece.high; ++i)
    for (int64_t j = piece.column; j < piece.column + piece.wide; ++j, to += L) {
      const bool inside = i >= 0 && i < plane.high && j >= 0 && j < plane.wide;
      store(to, inside ? load_first<Vector<T>>(image + (i * plane.wide + j) * channels, lanes) : Vector<T>{});
    }
}
// The same from NCHW.
template <class T>
void transpose_piece(const T* image, const Plane& plane, const Piece& piece, int64_t lanes, T* to) {
  constexpr int64_t L = kLanes<T>;
  const int64_t begin = min(piece.wide, max(0, -piece.column)),
                end = max(begin, min(piece.wide, plane.wide - piece.column));
  for (int64_t i = piece.row; i < piece.row + piece.high; ++i, to += piece.wide * L) {
    const bool inside = i >= 0 && i < plane.high;
    for (int64_t j = 0; j < (inside ? begin : piece.wide); ++j) store(to + j * L, Vector<T>{});
    if (!inside) continue;
    if (end > begin)
      pack_lanes(image + i * plane.wide + piece.column + begin, plane.size(), lanes, end - begin, to + begin * L);
    for (int64_t j = end; j < piece.wide; ++j) store(to + j * L, Vector<T>{});
  }
}

// The magnitudes of sources, or of dy, where a group is processed in parts of `part` vectors of channels.
template <class T>
Magnitudes<T> magnitudes_of(const Grid& g, int64_t channels, int64_t part, int64_t most_of_cell = kPerCell) {
  return Magnitudes<T>(g.rows * g.columns, g.tiles, g.groups, channels, part, most_of_cell);
}

// ---------------------------------------------------------------------------------------------------------- transforms

// The layout [point][panel][vector][tile of the panel][lane]. What the micro-kernel reads together, a panel at one
// point, is contiguous: panels of 6 tiles side by side in each vector were read 1.4 times as slowly. Points are an odd
// number of vectors apart: at a power of two, all points of a tile would share a few sets of the cache.
template <class T>
struct PointLayout {
  int64_t tiles, vectors, rows;  // rows: tiles of a panel
  int64_t vector_stride() const { return rows * kLanes<T>; }
  int64_t tile(int64_t t) const { return (t / rows * rows * vectors + t % rows) * kLanes<T>; }
  int64_t point_stride() const { return (tiles * vectors | 1) * kLanes<T>; }
};

// The size of the buffer in which a row of up to `count` adjacent tiles, or one tile, is transposed or padded; a square
// for unpack_lanes is behind it.
template <class T>
int64_t strip_values(const TileTransforms<T>& kind, int64_t count) {
  return max(kind.source_high() * (count * kind.wide + kind.taps_wide), kMaxPoints) * kLanes<T> + kLanes<T> * kLanes<T>;
}

// Evaluates tiles [begin, end) of x (or with `gradient` of dy, which is in the place of a tile's destination) at the
// points, for channels from `first` on.
template <class T>
void evaluate_at_points(const Grid& g, const TileTransforms<T>& kind, bool gradient, const T* x, int64_t first,
                        int64_t channels, int64_t begin, int64_t end, const PointLayout<T>& points,
                        const MagnitudeRecorder<T>& recorder, T* strip, T* to) {
  constexpr int64_t L = kLanes<T>;
  const Plane& plane = gradient ? g.to : g.from;
  const int64_t all = gradient ? g.all_to() : g.all_from(), images = g.tiles / (g.rows * g.columns);
  const int64_t high = gradient ? kind.high : kind.source_high(), wide = gradient ? kind.wide : kind.source_wide();
  const auto transform = gradient ? kind.gradient : kind.source;
  const T* last = x + images * plane.size() * all - L;  // the last address where a vector may begin
  for_each_tile_run(g, begin, end, [&](const TileRun& run) {
    const T* image = x + run.n * plane.size() * all;
    Piece piece = {run.row * kind.high, run.column * kind.wide, high, wide};
    if (!gradient) piece.row -= g.before_high, piece.column -= g.before_wide;
    // Copies of captured variables: otherwise every call of a transform would make the compiler read them again.
    const auto own = transform;
    const int64_t pitch = plane.wide * all, pixel = all, apart = points.point_stride(), next = points.vector_stride(),
                  lanes = channels;
    if (!g.channels_last) {
      piece.wide += (run.count - 1) * kind.wide;
      const int64_t down = piece.wide * L, right = kind.wide * L;
      for (int64_t v = 0; v * L < lanes; ++v) {
        const T* from = strip;
        T* target = to + v * next;
        transpose_piece(image + (first + v * L) * plane.size(), plane, piece, min(L, lanes - v * L), strip);
        recorder.record_vector(v, begin + run.at, run.count, lanes, [&](int64_t k) {
          return own(from + k * right, down, L, target + points.tile(run.at + k), apart);
        });
      }
      return;
    }
    for (int64_t k = 0; k < run.count; ++k, piece.column += kind.wide) {
      const T* at = image + piece.row * pitch + piece.column * pixel + first;
      // Values behind the last channel go to lanes that are never read.
      const T* stop = piece.inside(plane) ? last - (high - 1) * pitch - (wide - 1) * pixel : nullptr;
      T* target = to + points.tile(run.at + k);
      recorder.record_tile(begin + run.at + k, lanes, [&](int64_t v) {
        if (at + v * L <= stop) return own(at + v * L, pitch, pixel, target + v * next, apart);
        copy_piece(image + first + v * L, plane, pixel, piece, min(L, lanes - v * L), strip);
        return own(strip, wide * L, L, target + v * next, apart);
      });
    }
  });
}

// Transforms a block's products back for one vector of channels, and stores the results to y. `moments` is null, or
// where the block's first run has its moments of these channels; those of the next run are g.all_to() further on.
template <class T>
void write_results(const Grid& g, const TileTransforms<T>& kind, const Epilogue<T>& e, const T* products,
                   const PointLayout<T>& points, int64_t channel, int64_t lanes, int64_t begin, int64_t end, T* strip,
                   T* y, Moments* moments) {
  constexpr int64_t L = kLanes<T>;
  const Vector<T> bias = e.bias ? load_first<Vector<T>>(e.bias + channel, lanes) : Vector<T>{};
  const int64_t all = g.all_to();
  double count = 0;
  int64_t measured = 0;  // tiles of the run so far
  T shift[kLanes<T>];
  double sums[kLanes<T>] = {}, squares[kLanes<T>] = {};
  const auto end_run = [&] {
    for (int64_t l = 0; l < lanes; ++l) moments[l] = shifted_moments(count, double(shift[l]), sums[l], squares[l]);
    for (int64_t l = 0; l < L; ++l) sums[l] = squares[l] = 0;
    count = 0, measured = 0, moments += all;
  };
  for_each_tile_run(g, begin, end, [&](const TileRun& run) {
    const int64_t row = run.row * kind.high, rows = min(kind.high, g.to.high - row), first = run.column * kind.wide,
                  strip_wide = min(run.count * kind.wide, g.to.wide - first);
    for (int64_t k = 0; k < run.count; ++k) {
      T tile[kMaxOutputs * kLanes<T>];
      kind.result(products + (run.at + k) * L, points.point_stride(), tile);
      const int64_t column = first + k * kind.wide, columns = min(kind.wide, g.to.wide - column);
      if (moments && count == 0) store(shift, load(tile) + bias);
      const Vector<T> from = moments ? load(shift) : Vector<T>{};
      Vector<T> sum = {}, square = {};
      const auto put = [&](auto whole) {
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = 0; j < columns; ++j) {
            const Vector<T> z = load(tile + (i * kind.wide + j) * L) + bias;
            if (moments) {
              const Vector<T> d = z - from;
              sum += d, square += d * d;
            }
            if (g.channels_last) {
              const int64_t at = ((run.n * g.to.high + row + i) * g.to.wide + column + j) * all + channel;
              store_lanes(whole, y + at, finish(whole, e, z, at, lanes), lanes);
            } else {
              store(strip + (i * strip_wide + k * kind.wide + j) * L, z);
            }
          }
      };
      lanes == L ? put(Constant<true>{}) : put(Constant<false>{});
      if (moments) {
        count += double(rows * columns);
        T tile_sums[2][kLanes<T>];
        store(tile_sums[0], sum), store(tile_sums[1], square);
        for (int64_t l = 0; l < L; ++l) sums[l] += double(tile_sums[0][l]), squares[l] += double(tile_sums[1][l]);
        if (++measured == kMeasuredTiles) end_run();
      }
    }
    if (g.channels_last) {
      for (int64_t i = 0; i < rows; ++i)
        activate(e.activation, y + ((run.n * g.to.high + row + i) * g.to.wide + first) * all + channel, all, strip_wide,
                 lanes);
    } else {
      const int64_t at = ((run.n * all + channel) * g.to.high + row) * g.to.wide + first;
      unpack_lanes_block<T>(static_cast<const T*>(strip), rows, strip_wide, g.to.wide, y + at, g.to.size(), lanes);
      if (e.finishes())
        for (int64_t l = 0; l < lanes; ++l)
          for (int64_t i = 0; i < rows; ++i) finish_values(e, y, at + l * g.to.size() + i * g.to.wide, strip_wide);
    }
  });
  if (measured > 0) end_run();
}

}  // namespace
}  // namespace STRIATE_ISA
}  // namespace striate
