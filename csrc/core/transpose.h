// Kernels vectorize across channels in both memory orders. NHWC holds channels side by side. From NCHW, planes are
// packed: L planes are transposed into vectors of one value a plane, L being the lanes of a vector.
#pragma once
#include "core/parallel.h"
#include "core/simd.h"
#include "core/taps.h"

namespace striate {
namespace STRIATE_ISA {

// Calls body(Constant<vectors>, c, last, lanes) over all channels, up to four vectors at a time; vector_at gives where
// each vector begins. The last vector steps back to end at the last channel and computes some channels twice, which is
// cheaper than a partial vector. Only where there are fewer channels than lanes is the vector partial: then `vectors`
// is 0.
template <class T, class Body>
STRIATE_INLINE void for_each_channel_block(int64_t channels, const Body& body) {
  constexpr int64_t L = kLanes<T>;
  if (channels < L) return body(Constant<0>{}, 0, 0, channels);
  int64_t c = 0;
  for (; c + 4 * L <= channels; c += 4 * L) body(Constant<4>{}, c, 3 * L, L);
  const int64_t left = channels - c, last = left - L;
  if (left > 3 * L)
    body(Constant<4>{}, c, last, L);
  else if (left > 2 * L)
    body(Constant<3>{}, c, last, L);
  else if (left > L)
    body(Constant<2>{}, c, last, L);
  else if (left > 0)
    body(Constant<1>{}, channels - L, 0, L);
}

// The first channel of the b-th of `Vectors` vectors: they are contiguous, but the last one begins at `last`.
template <class T, int Vectors>
STRIATE_INLINE int64_t vector_at(int b, int64_t last) {
  return b == Vectors - 1 ? last : b * kLanes<T>;
}

// Distances to the next depth, row and column, in values.
struct Pitch {
  int64_t deep, down, right;
};

template <bool, class A, class B>
struct Select {
  using type = B;
};
template <class A, class B>
struct Select<true, A, B> {
  using type = A;
};

// Packs `count` consecutive values of each of L planes into `count` vectors of one value a plane.
template <class T>
inline void pack_lanes(const T* const* plane, int64_t count, T* lanes) {
  constexpr int64_t L = kLanes<T>;
  Vector<T> rows[L];
  if (count < L) {
    for (int64_t k = 0; k < L; ++k) rows[k] = load_first<Vector<T>>(plane[k], count);
    transpose<T>(rows);
    for (int64_t k = 0; k < count; ++k) store(lanes + k * L, rows[k]);
    return;
  }
  for (int64_t i = 0; i < count; i += L) {
    if (i + L > count) i = count - L;  // packs some values twice: cheaper than a partial vector
#pragma GCC unroll 16
    for (int64_t k = 0; k < L; ++k) rows[k] = load(plane[k] + i);
    transpose<T>(rows);
#pragma GCC unroll 16
    for (int64_t k = 0; k < L; ++k) store(lanes + (i + k) * L, rows[k]);
  }
}

// Packs planes that are `pitch` values apart. Lanes beyond the last plane repeat it.
template <class T>
inline void pack_lanes(const T* x, int64_t pitch, int64_t planes, int64_t count, T* lanes) {
  const T* plane[kLanes<T>];
  for (int64_t k = 0; k < kLanes<T>; ++k) plane[k] = x + (k < planes ? k : planes - 1) * pitch;
  pack_lanes(plane, count, lanes);
}

template <class T>
STRIATE_INLINE void transpose_lanes(Vector<T> (&rows)[kLanes<T>]) {
  transpose<T>(rows);
}
template <class T>
STRIATE_INLINE void transpose_lanes(ByteVector<T> (&rows)[kLanes<T>]) {
  transpose_bytes<T>(rows);
}

// Unpacks vectors of one value (or one tap number) a plane into planes. At least L·L elements of `lanes` must be
// readable, whatever they hold.
template <class T, class What>
inline void unpack_lanes(const What* lanes, int64_t count, What* y, int64_t pitch, int64_t planes) {
  constexpr int64_t L = kLanes<T>;
  using Row = typename Select<sizeof(What) == 1, ByteVector<T>, Vector<T>>::type;
  for (int64_t i = 0; i < count; i += L) {
    if (i + L > count && count >= L) i = count - L;
    Row rows[L];
#pragma GCC unroll 16
    for (int64_t k = 0; k < L; ++k) rows[k] = load_as<Row>(lanes + (i + k) * L);
    transpose_lanes<T>(rows);
    if (planes == L && count >= L) {
#pragma GCC unroll 16
      for (int64_t k = 0; k < L; ++k) store(y + k * pitch + i, rows[k]);
    } else {
      for (int64_t k = 0; k < planes; ++k) store_first(y + k * pitch + i, rows[k], min(L, count));
    }
  }
}

// Unpacks rows × columns into planes that are `width` wide.
template <class T, class What>
inline void unpack_lanes_block(const What* lanes, int64_t rows, int64_t columns, int64_t width, What* y, int64_t pitch,
                               int64_t planes) {
  if (columns == width)
    unpack_lanes<T>(lanes, rows * columns, y, pitch, planes);
  else
    for (int64_t h = 0; h < rows; ++h)
      unpack_lanes<T>(lanes + h * columns * kLanes<T>, columns, y + h * width, pitch, planes);
}

// Packs a block of depths × rows × columns; depths are `step` apart, rows and columns are consecutive.
template <class T>
inline void pack_lanes_block(const T* x, int64_t plane_pitch, int64_t planes, int64_t height, int64_t width,
                             int64_t depths, int64_t step, int64_t rows, int64_t columns, T* lanes) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t d = 0; d < depths; ++d)
    if (columns == width)
      pack_lanes(x + d * step * height * width, plane_pitch, planes, rows * columns, lanes + d * rows * columns * L);
    else
      for (int64_t h = 0; h < rows; ++h)
        pack_lanes(x + (d * step * height + h) * width, plane_pitch, planes, columns,
                   lanes + (d * rows + h) * columns * L);
}

}  // namespace STRIATE_ISA
}  // namespace striate
