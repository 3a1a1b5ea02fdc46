// Whether Winograd's tiles may be used for an image and for weights: what they mix must be finite and of like size.
//
// A tile mixes all that it reads. What is not finite would spread over it, and a value far beyond the others would
// leave its rounding error on results that do not see it. So the transforms of sources sum the squares of what they
// read: a unit is one channel of one tile. An image with a unit out of bounds is computed again by the direct sum
// (docs/kernels/winograd.md). Squares are compared by their exponents.
#pragma once
#include <string.h>

#include "core/parallel.h"
#include "core/simd.h"

namespace striate {
namespace STRIATE_ISA {

constexpr int64_t kApart = 16;     // of squares: a unit of 2⁸ times the others' root mean square in its image,
constexpr int64_t kAlone = 8;      // and of 2⁴ times that in the same channels
constexpr int64_t kFewTiles = 4;   // in an image: one value may be in all of them
constexpr int64_t kPerCell = 4;    // vectors of channels, but where the units are few
constexpr int64_t kFewUnits = 64;  // vectors of units in an image: each has a cell
constexpr int64_t kEmpty = 8, kEmptyOfFew = 4;  // one cell in so many is not zero: the image is all but empty

template <class T>
constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52;
template <class T>
constexpr int64_t kMaxExponent =
    (int64_t(1) << (8 * sizeof(T) - 1 - kMantissa<T>)) - 1;  // of infinity and NaN, which is above any number

template <class T>
STRIATE_INLINE IntVector<T> bits_of(const Vector<T>& squares) {
  using Int = typename Lane<T>::Int;
  return (IntVector<T>)squares & Int(~(Int(1) << (8 * sizeof(T) - 1)));  // a NaN may have a sign
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

// What was read: for each tile a row of cells, one for each lane. A cell holds the largest squares of the channels that
// share its lane in up to `per_cell` vectors. The work on a group is in parts of `part` vectors; a cell is of one part.
template <class T>
struct Magnitudes {
  using Int = typename Lane<T>::Int;
  static constexpr int64_t L = kLanes<T>;
  int64_t of_image, all;                      // tiles
  int64_t per_cell;                           // vectors
  int64_t rows_of_part, rows_of_group, rows;  // for each tile
  int64_t cells;                              // of an image, but for those that no channel shares
  Scratch<Int> largest;                       // [row][tile][lane]

  Magnitudes(int64_t tiles_of_image, int64_t all_tiles, int64_t groups, int64_t channels, int64_t part)
      : Magnitudes(tiles_of_image, all_tiles, groups, channels, part, ceil_div(channels, kLanes<T>)) {}

 private:
  Magnitudes(int64_t tiles_of_image, int64_t all_tiles, int64_t groups, int64_t channels, int64_t part, int64_t vectors)
      : of_image(tiles_of_image),
        all(all_tiles),
        per_cell(of_image * groups * vectors > kFewUnits ? kPerCell : 1),
        rows_of_part(ceil_div(part, per_cell)),
        rows_of_group(vectors / part * rows_of_part + ceil_div(vectors % part, per_cell)),
        rows(groups * rows_of_group),
        cells(of_image * groups * (rows_of_group * L - max(0, L - of_last_row(channels, vectors, part)))),
        largest(rows * all * L) {}
  int64_t of_last_row(int64_t channels, int64_t vectors, int64_t part) const {  // channels
    const int64_t last_part = (vectors - 1) / part * part;
    return channels - (last_part + (vectors - 1 - last_part) / per_cell * per_cell) * L;
  }
};
// The same as a part of the work sees it.
template <class T>
struct MagnitudeRecorder {
  using Int = typename Lane<T>::Int;
  static constexpr int64_t L = kLanes<T>;
  Int* largest;
  int64_t row, per_cell;  // from one row of cells to the next

  MagnitudeRecorder() : largest(nullptr) {}  // where another part notes the same
  MagnitudeRecorder(const Magnitudes<T>& seen, int64_t group, int64_t part)
      : largest(seen.largest + (group * seen.rows_of_group + part * seen.rows_of_part) * seen.all * L),
        row(seen.all * L),
        per_cell(seen.per_cell) {}

  // Of all channels of the part in one tile: squares(v) computes the v-th vector and gives what it read.
  template <class Squares>
  STRIATE_INLINE void of_tile(int64_t tile, int64_t channels, const Squares& squares) const {
    Int* cell = largest ? largest + tile * L : nullptr;
    const int64_t step = row, count = per_cell;
    for (int64_t v = 0; v * L < channels; cell += step) {
      IntVector<T> most = {};
      for (int64_t k = 0; k < count && v * L < channels; ++k, ++v) {
        const IntVector<T> bits = lanes_of(squares(v), channels - v * L);
        most = bits > most ? bits : most;
      }
      if (cell) store(cell, most);
    }
  }
  // The same of the v-th vector in tiles from `tile` on, squares(k) being of the k-th; the vectors before it come
  // first.
  template <class Squares>
  STRIATE_INLINE void of_vector(int64_t v, int64_t tile, int64_t count, int64_t channels,
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
  // Lanes behind the last channel hold others' values.
  static STRIATE_INLINE IntVector<T> lanes_of(const Vector<T>& squares, int64_t left) {
    const IntVector<T> bits = bits_of<T>(squares);
    return left < L ? bits & first_lanes<T>(left) : bits;
  }
};

// An exponent against others of its kind, of those that are not zero.
struct MeanExponent {
  int64_t sum = 0, count = 0;
  void add(int64_t exponent) { sum += exponent, count += exponent > 0; }
  bool is_far_below(int64_t exponent) const { return exponent * count - sum > kAlone * count; }
};

// Whether in an image the largest of some channels is far above what it is in their other tiles, of those that are not
// zero: a channel that is loud everywhere is seen everywhere. first: of the image's tiles.
template <class T>
bool has_outlier(const Magnitudes<T>& seen, int64_t first) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t row = 0; row < seen.rows; ++row) {
    const typename Lane<T>::Int* largest = seen.largest + (row * seen.all + first) * L;
    for (int64_t l = 0; l < L; ++l) {
      MeanExponent all;
      int64_t most = 0;
      for (int64_t t = 0; t < seen.of_image; ++t) {
        const int64_t exponent = largest[t * L + l] >> kMantissa<T>;
        most = max(most, exponent), all.add(exponent);
      }
      if (all.is_far_below(most)) return true;
    }
  }
  return false;
}

// How many cells of an image, lane by lane, have an exponent of at least `least`.
template <class T>
int64_t cells_from(const Magnitudes<T>& seen, int64_t first, int64_t least) {
  using Int = typename Lane<T>::Int;
  constexpr int64_t L = kLanes<T>;
  IntVector<T> count = {};
  for (int64_t row = 0; row < seen.rows; ++row)
    for (int64_t t = 0; t < seen.of_image; ++t)
      count -= load_as<IntVector<T>>(seen.largest + (row * seen.all + first + t) * L) >= (Int(least) << kMantissa<T>);
  int64_t sum = 0;
  for (int64_t l = 0; l < L; ++l) sum += count[l];
  return sum;
}

// Whether images are out of bounds: [image]. other: the largest exponent of the squares that sources are multiplied
// with; a sum has `terms`. Out of bounds is an image whose largest unit is NaN or infinite, may overflow in a product,
// or lies far above three quarters of the cells that are not zero; and one that is all but empty: its zeros are to stay
// zeros.
template <class T>
bool out_of_bounds(const Magnitudes<T>& seen, int64_t other, int64_t terms, uint8_t* bad) {
  const int64_t images = seen.all / seen.of_image, bias = kMaxExponent<T> / 2;
  int64_t room = 4 * bias - 40;  // of the sum of two biased exponents of squares: transforms take 2²⁰ at most
  for (; terms > 0; terms /= 2) room -= 2;
  parallel_for(images, seen.rows * seen.of_image, [=, &seen](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t first = n * seen.of_image;
      int64_t most = 0;
      for (int64_t row = 0; row < seen.rows; ++row)
        most = max(most,
                   largest_exponent<T>(seen.largest + (row * seen.all + first) * kLanes<T>, seen.of_image * kLanes<T>));
      if (most == kMaxExponent<T> || other == kMaxExponent<T> || (most > 0 && most + other > room)) {
        bad[n] = true;
      } else if (most == 0) {
        bad[n] = false;
      } else {
        const int64_t filled = cells_from(seen, first, 1), near = cells_from(seen, first, max(1, most - kApart));
        bad[n] = filled * (seen.of_image <= kFewTiles ? kEmptyOfFew : kEmpty) < seen.cells ||
                 (near * 4 <= filled && (seen.of_image <= kFewTiles || has_outlier<T>(seen, first)));
      }
    }
  });
  for (int64_t n = 0; n < images; ++n)
    if (bad[n]) return true;
  return false;
}

// The largest exponent of the squares of a filter's taps for one channel; and whether one is far above three quarters
// of all, above those of the filter's other channels, and above the other filters' for the same. Edges may not see that
// tap while their tiles would: there it counts as what is not finite.
struct WeightBounds {
  int64_t most;
  bool apart;
  int64_t at(bool edges, int64_t infinite) const { return apart && edges ? infinite : most; }
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
