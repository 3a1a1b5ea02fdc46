// Decides whether Winograd's tiles may be used for an image and for the weights: all values of a tile must be finite
// and of similar size.
//
// A tile's transform mixes all values that it reads. NaN or infinity would spread over the whole tile, and a value far
// above the others would leave its rounding error in results that do not depend on it. So the source transforms sum the
// squares of what they read; a unit is one channel of one tile. An image with a unit out of bounds is computed again by
// direct convolution (docs/kernels/winograd.md). Squares are compared by their exponents.
#pragma once
#include <string.h>

#include "core/parallel.h"
#include "core/simd.h"

namespace striate {
namespace STRIATE_ISA {

// Thresholds between exponents of squares: an outlier is a unit of 2⁸ times the root mean square of its image that is
// also 2⁴ times that of the same channels.
constexpr int64_t kApart = 16;
constexpr int64_t kAlone = 8;
constexpr int64_t kFewTiles = 4;                // tiles in an image: with so few, one value may be in all of them
constexpr int64_t kPerCell = 4;                 // vectors of channels that share a cell, unless there are few units
constexpr int64_t kFewUnits = 64;               // vectors of units in an image: with so few, each has its own cell
constexpr int64_t kEmpty = 8, kEmptyOfFew = 4;  // an image is nearly empty if only one cell in so many is not zero

template <class T>
constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52;
template <class T>
constexpr int64_t kMaxExponent =  // of infinity and NaN, above that of any number
    (int64_t(1) << (8 * sizeof(T) - 1 - kMantissa<T>)) - 1;

template <class T>
STRIATE_INLINE IntVector<T> bits_of(const Vector<T>& squares) {
  using Int = typename Lane<T>::Int;
  return (IntVector<T>)squares & Int(~(Int(1) << (8 * sizeof(T) - 1)));  // clears the sign, which a NaN may have
}
template <class T>
STRIATE_INLINE void raise(typename Lane<T>::Int* largest, const IntVector<T>& bits) {
  const IntVector<T> old = load_as<IntVector<T>>(largest);
  store(largest, bits > old ? bits : old);
}
template <class T>
int64_t largest_exponent(const typename Lane<T>::Int* bits, int64_t count) {
  typename Lane<T>::Int all = 0;
  for (int64_t k = 0; k < count; ++k) all = bits[k] > all ? bits[k] : all;
  return all >> kMantissa<T>;
}

// The largest squares that the source transforms read: for each tile rows of cells, one cell a lane. A cell holds the
// largest square of the channels that share its lane in up to `per_cell` vectors. The channels of a group are processed
// in parts of `part` vectors; a cell belongs to one part.
template <class T>
struct Magnitudes {
  using Int = typename Lane<T>::Int;
  static constexpr int64_t L = kLanes<T>;
  int64_t tiles_per_image, all;               // number of tiles
  int64_t per_cell;                           // vectors of a cell
  int64_t rows_of_part, rows_of_group, rows;  // rows of cells for each tile
  int64_t cells;                              // of an image, without those that no channel uses
  Scratch<Int> largest;                       // [row][tile][lane]

  // `part` is a multiple of `most_of_cell`, or all vectors: the cells, and with them what is out of bounds, do not
  // depend on it.
  Magnitudes(int64_t tiles_of_image, int64_t all_tiles, int64_t groups, int64_t channels, int64_t part,
             int64_t most_of_cell)
      : Magnitudes(tiles_of_image, all_tiles, groups, channels, part, most_of_cell, ceil_div(channels, kLanes<T>)) {}

 private:
  Magnitudes(int64_t tiles_of_image, int64_t all_tiles, int64_t groups, int64_t channels, int64_t part,
             int64_t most_of_cell, int64_t vectors)
      : tiles_per_image(tiles_of_image),
        all(all_tiles),
        per_cell(tiles_per_image * groups * vectors > kFewUnits ? most_of_cell : 1),
        rows_of_part(ceil_div(part, per_cell)),
        rows_of_group(vectors / part * rows_of_part + ceil_div(vectors % part, per_cell)),
        rows(groups * rows_of_group),
        cells(tiles_per_image * groups * (rows_of_group * L - max(0, L - of_last_row(channels, vectors, part)))),
        largest(rows * all * L) {}
  int64_t of_last_row(int64_t channels, int64_t vectors, int64_t part) const {  // in channels
    const int64_t last_part = (vectors - 1) / part * part;
    return channels - (last_part + (vectors - 1 - last_part) / per_cell * per_cell) * L;
  }
};
// Records magnitudes for one group and part.
template <class T>
struct MagnitudeRecorder {
  using Int = typename Lane<T>::Int;
  static constexpr int64_t L = kLanes<T>;
  Int* largest;
  int64_t row, per_cell;  // distance between rows of cells

  MagnitudeRecorder() : largest(nullptr), row(0), per_cell(1) {}  // records nothing: another part records the same
  MagnitudeRecorder(const Magnitudes<T>& magnitudes, int64_t group, int64_t part)
      : largest(magnitudes.largest +
                (group * magnitudes.rows_of_group + part * magnitudes.rows_of_part) * magnitudes.all * L),
        row(magnitudes.all * L),
        per_cell(magnitudes.per_cell) {}

  // Records all channels of the part in one tile; squares(v) transforms the v-th vector and returns the squares it
  // read.
  template <class Squares>
  STRIATE_INLINE void record_tile(int64_t tile, int64_t channels, const Squares& squares) const {
    Int* const cells = largest;  // copies of members: the stores could change those, for all the compiler knows
    const int64_t step = row, count = per_cell;
    for (int64_t v = 0, at = tile * L; v * L < channels; at += step) {
      IntVector<T> most = {};
      for (int64_t k = 0; k < count && v * L < channels; ++k, ++v) {
        const IntVector<T> bits = lanes_of(squares(v), channels - v * L);
        most = bits > most ? bits : most;
      }
      if (cells) store(cells + at, most);
    }
  }
  // Records the v-th vector in `count` tiles from `tile` on; squares(k) is of the k-th. Vectors must come in order.
  template <class Squares>
  STRIATE_INLINE void record_vector(int64_t v, int64_t tile, int64_t count, int64_t channels,
                                    const Squares& squares) const {
    Int* cell = largest ? largest + v / per_cell * row + tile * L : nullptr;
    const bool overwrite = v % per_cell == 0;
    const int64_t left = channels - v * L;
    for (int64_t k = 0; k < count; ++k) {
      const IntVector<T> bits = lanes_of(squares(k), left);
      if (cell) overwrite ? store(cell + k * L, bits) : raise<T>(cell + k * L, bits);
    }
  }

 private:
  // Clears lanes behind the last channel, which hold other values.
  static STRIATE_INLINE IntVector<T> lanes_of(const Vector<T>& squares, int64_t left) {
    const IntVector<T> bits = bits_of<T>(squares);
    return left < L ? bits & first_lanes<T>(left) : bits;
  }
};

// The mean exponent of several squares, without those that are zero.
struct MeanExponent {
  int64_t sum = 0, count = 0;
  void add(int64_t exponent) { sum += exponent, count += exponent > 0; }
  bool is_far_below(int64_t exponent) const { return exponent * count - sum > kAlone * count; }
};

// Whether some channels of an image have a tile far above their mean over the tiles that are not zero. A channel that
// is large everywhere has none. `first` is the image's first tile.
template <class T>
bool has_outlier(const Magnitudes<T>& magnitudes, int64_t first) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t row = 0; row < magnitudes.rows; ++row) {
    const typename Lane<T>::Int* largest = magnitudes.largest + (row * magnitudes.all + first) * L;
    for (int64_t l = 0; l < L; ++l) {
      MeanExponent all;
      int64_t most = 0;
      for (int64_t t = 0; t < magnitudes.tiles_per_image; ++t) {
        const int64_t exponent = largest[t * L + l] >> kMantissa<T>;
        most = max(most, exponent), all.add(exponent);
      }
      if (all.is_far_below(most)) return true;
    }
  }
  return false;
}

// The number of cells of an image with an exponent of at least `least`.
template <class T>
int64_t cells_from(const Magnitudes<T>& magnitudes, int64_t first, int64_t least) {
  using Int = typename Lane<T>::Int;
  constexpr int64_t L = kLanes<T>;
  IntVector<T> count = {};
  for (int64_t row = 0; row < magnitudes.rows; ++row)
    for (int64_t t = 0; t < magnitudes.tiles_per_image; ++t)
      count -= load_as<IntVector<T>>(magnitudes.largest + (row * magnitudes.all + first + t) * L) >=
               (Int(least) << kMantissa<T>);
  int64_t sum = 0;
  for (int64_t l = 0; l < L; ++l) sum += count[l];
  return sum;
}

// Sets bad[image] where an image is out of bounds; returns whether any is. `other` is the largest exponent of the
// squares that sources are multiplied with, and a sum has `terms` terms. An image is out of bounds if its largest unit
// is NaN or infinite, may overflow in a product, or lies far above three quarters of the cells that are not zero; and
// if it is nearly empty, so that its zeros stay exact zeros.
template <class T>
bool out_of_bounds(const Magnitudes<T>& magnitudes, int64_t other, int64_t terms, uint8_t* bad) {
  const int64_t images = magnitudes.all / magnitudes.tiles_per_image, bias = kMaxExponent<T> / 2;
  int64_t room =
      4 * bias - 40;  // bounds the sum of two biased exponents of squares; the transforms grow values by 2²⁰ at most
  for (; terms > 0; terms /= 2) room -= 2;
  parallel_for(images, magnitudes.rows * magnitudes.tiles_per_image, [=, &magnitudes](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t first = n * magnitudes.tiles_per_image;
      int64_t most = 0;
      for (int64_t row = 0; row < magnitudes.rows; ++row)
        most = max(most, largest_exponent<T>(magnitudes.largest + (row * magnitudes.all + first) * kLanes<T>,
                                             magnitudes.tiles_per_image * kLanes<T>));
      if (most == kMaxExponent<T> || other == kMaxExponent<T> || (most > 0 && most + other > room)) {
        bad[n] = true;
      } else if (most == 0) {
        bad[n] = false;
      } else {
        const int64_t filled = cells_from(magnitudes, first, 1),
                      near = cells_from(magnitudes, first, max(1, most - kApart));
        bad[n] = filled * (magnitudes.tiles_per_image <= kFewTiles ? kEmptyOfFew : kEmpty) < magnitudes.cells ||
                 (near * 4 <= filled && (magnitudes.tiles_per_image <= kFewTiles || has_outlier<T>(magnitudes, first)));
      }
    }
  });
  for (int64_t n = 0; n < images; ++n)
    if (bad[n]) return true;
  return false;
}

// The largest exponent of the squares of a filter's taps for one channel, and whether one is far above three quarters
// of all, above those of the filter's other channels, and above the other filters' for the same channel. At the edges a
// result may not depend on that tap although its tile does: there such a tap counts as not finite.
struct WeightBounds {
  int64_t max_exponent;
  bool has_outlier;
  int64_t exponent(bool edges, int64_t infinite) const { return has_outlier && edges ? infinite : max_exponent; }
};
// largest: [vector of filters][piece of channels][lane].
template <class T>
WeightBounds weight_bounds(const typename Lane<T>::Int* largest, int64_t vectors, int64_t pieces) {
  constexpr int64_t L = kLanes<T>;
  const int64_t most = largest_exponent<T>(largest, vectors * pieces * L), filters = vectors * L;
  const auto exponent = [=](int64_t f, int64_t p) {
    return int64_t(largest[(f / L * pieces + p) * L + f % L] >> kMantissa<T>);
  };
  const Scratch<MeanExponent> of_pieces(pieces);
  int64_t near = 0, filled = 0;
  for (int64_t p = 0; p < pieces; ++p) {
    of_pieces[p] = MeanExponent();
    for (int64_t f = 0; f < filters; ++f)
      of_pieces[p].add(exponent(f, p)), near += exponent(f, p) + kApart >= most && exponent(f, p) > 0;
    filled += of_pieces[p].count;
  }
  bool alone = false;
  for (int64_t f = 0; f < filters && !alone && near * 4 <= filled; ++f) {
    MeanExponent of_filter;
    for (int64_t p = 0; p < pieces; ++p) of_filter.add(exponent(f, p));
    for (int64_t p = 0; p < pieces; ++p)
      alone = alone ||
              (of_pieces[p].is_far_below(exponent(f, p)) && (pieces == 1 || of_filter.is_far_below(exponent(f, p))));
  }
  return {most, alone};
}

}  // namespace STRIATE_ISA
}  // namespace striate
