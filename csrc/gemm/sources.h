// Where the operands of a product lie, and how they are packed. Both are sets of lines over k: a line of A is a row of
// C, a line of B a column of C.
//
//   AlongDepth         a line's values of k are contiguous: x of a linear layer, and its weight
//   ImagesAlongDepth   k goes through the pixels of one image after the other, and a line's pixels of one image are
//                      contiguous: a channel in NCHW. Each image is filled up with zeros to whole vectors
//   AcrossDepth        the lines' values of one k are contiguous: dy and x in the weight gradient
//   ImagesAcrossDepth  the same for lines that are the pixels of one image after the other: x in NCHW, k its channels
//
// Packed, A is [tile of rows][…]: from AlongDepth [vector of k][row][lane], which packing copies vector by vector, and
// from AcrossDepth [k][row]. The micro-kernel has a form for each, so that A is never transposed. B is [sliver][k][two
// vectors of columns]; AlongDepth is transposed, in squares of a vector's lanes.
#pragma once
#include "core/parallel.h"
#include "core/simd.h"
#include "gemm/images.h"
#include "gemm/micro_kernel.h"

namespace striate {
namespace STRIATE_ISA {

// Fetches a block of an operand into the second-level cache, a few lines with each tile, before it is packed: `pieces`
// of `bytes`, `pitch` apart.
class Prefetch {
 public:
  Prefetch() = default;
  template <class T>
  Prefetch(const T* data, int64_t pitch, int64_t pieces, int64_t values, int64_t steps)
      : data_(reinterpret_cast<const char*>(data)),
        pitch_(pitch * int64_t(sizeof(T))),
        bytes_(values * int64_t(sizeof(T))),
        pieces_(pieces),
        lines_(ceil_div(pieces * (bytes_ / 64 + 1), steps)) {}
  void step() {
    for (int64_t i = 0; i < lines_ && pieces_ > 0; ++i) {
      __builtin_prefetch(data_ + at_, 0, 2);
      at_ += 64;
      if (at_ >= bytes_ + 63) at_ = 0, data_ += pitch_, --pieces_;
    }
  }

 private:
  const char* data_ = nullptr;
  int64_t pitch_ = 0, bytes_ = 0, pieces_ = 0, lines_ = 0, at_ = 0;
};

// A line's values from one k on, and how many are contiguous.
template <class T>
struct Part {
  const T* data;
  int64_t count;
};

// Packs lines whose values are contiguous for a vector of k at least; part(i) gives the first line's from the i-th on.
template <class T, class PartOf>
STRIATE_INLINE void pack_rows_along(int64_t line, int64_t lines, int64_t depth, int64_t pitch, T* to,
                                    const PartOf& part) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t t = 0; t < lines; t += kMaxRows) {
    const int64_t rows = min(kMaxRows, lines - t);
    for (int64_t i = 0; i < depth; i += L) {
      const Part<T> p = part(i);
      const T* from = p.data + (line + t) * pitch;
      if (p.count >= L)
        for (int64_t j = 0; j < rows; ++j, to += L) store(to, load(from + j * pitch));
      else
        for (int64_t j = 0; j < rows; ++j, to += L) store(to, load_first<Vector<T>>(from + j * pitch, p.count));
    }
  }
}
template <class T, class PartOf>
STRIATE_INLINE void pack_columns_along(int64_t line, int64_t lines, int64_t depth, int64_t pitch, T* to,
                                       const PartOf& part) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t c = 0; c < lines; c += L) {
    const int64_t count = min(L, lines - c), sliver = c / (2 * L) * 2 * L, width = lines - sliver > L ? 2 * L : L;
    T* column = to + sliver * depth + (c - sliver);
    for (int64_t i = 0; i < depth; i += L) {
      const Part<T> p = part(i);
      const T* from = p.data + (line + c) * pitch;
      const int64_t lanes = min(L, depth - i);
      Vector<T> square[L];
      if (count == L && lanes == L && p.count >= L) {
#pragma GCC unroll 16
        for (int j = 0; j < L; ++j) square[j] = load(from + j * pitch);
        transpose<T>(square);
#pragma GCC unroll 16
        for (int j = 0; j < L; ++j) store(column + (i + j) * width, square[j]);
      } else {
        for (int64_t j = 0; j < L; ++j)
          square[j] = j < count ? load_first<Vector<T>>(from + j * pitch, min(lanes, p.count)) : Vector<T>{};
        transpose<T>(square);
        for (int64_t j = 0; j < lanes; ++j) store(column + (i + j) * width, square[j]);
      }
    }
  }
}

template <class T>
struct AlongDepth {
  using Layout = VectorsOfDepth;
  const T* data;
  int64_t pitch;  // values from line to line
  int64_t line_step() const { return pitch; }
  int64_t depth_step() const { return 1; }

  Prefetch prefetch(int64_t line, int64_t lines, int64_t k, int64_t depth, int64_t steps) const {
    return {data + line * pitch + k, pitch, lines, depth, steps};
  }

  void pack_rows(int64_t line, int64_t lines, int64_t k, int64_t depth, T* to) const {
    pack_rows_along(line, lines, depth, pitch, to, [=, this](int64_t i) { return Part<T>{data + k + i, depth - i}; });
  }
  void pack_columns(int64_t line, int64_t lines, int64_t k, int64_t depth, T* to) const {
    pack_columns_along(line, lines, depth, pitch, to,
                       [=, this](int64_t i) { return Part<T>{data + k + i, depth - i}; });
  }
};

template <class T>
struct ImagesAlongDepth {
  using Layout = VectorsOfDepth;
  const T* data;
  int64_t pitch;  // values from line to line
  Images images;  // in units of a vector

  Prefetch prefetch(int64_t, int64_t, int64_t, int64_t, int64_t) const { return {}; }
  void pack_rows(int64_t line, int64_t lines, int64_t k, int64_t depth, T* to) const {
    pack_rows_along(line, lines, depth, pitch, to, [=, this](int64_t i) { return part(k + i); });
  }
  void pack_columns(int64_t line, int64_t lines, int64_t k, int64_t depth, T* to) const {
    pack_columns_along(line, lines, depth, pitch, to, [=, this](int64_t i) { return part(k + i); });
  }

 private:
  Part<T> part(int64_t k) const { return {data + images.at(k), images.run(k, images.positions())}; }
};

template <class T>
struct AcrossDepth {
  using Layout = RowsOfDepth;
  const T* data;
  int64_t pitch;  // values from k to k
  int64_t line_step() const { return 1; }
  int64_t depth_step() const { return pitch; }

  Prefetch prefetch(int64_t line, int64_t lines, int64_t k, int64_t depth, int64_t steps) const {
    return {data + k * pitch + line, pitch, depth, lines, steps};
  }

  // Some k at a time, since the tiles of a block, and often the rows of an operand, lie a power of two apart: all of
  // them together share a few sets of the first-level cache.
  static constexpr int64_t kTogether = 8;

  void pack_rows(int64_t line, int64_t lines, int64_t k, int64_t depth, T* to) const {
    for (int64_t i0 = 0; i0 < depth; i0 += kTogether)
      for (int64_t t = 0; t < lines; t += kMaxRows) {
        const T* from = data + (k + i0) * pitch + line + t;
        const int64_t rows = min(kMaxRows, lines - t), count = min(kTogether, depth - i0);
        T* at = to + t * depth + i0 * rows;
        if (rows == kMaxRows)
          for (int64_t i = 0; i < count; ++i) memcpy(at + i * kMaxRows, from + i * pitch, kMaxRows * sizeof(T));
        else
          for (int64_t i = 0; i < count; ++i)
            for (int64_t j = 0; j < rows; ++j) at[i * rows + j] = from[i * pitch + j];
      }
  }

  void pack_columns(int64_t line, int64_t lines, int64_t k, int64_t depth, T* to) const {
    constexpr int64_t L = kLanes<T>;
    for (int64_t i0 = 0; i0 < depth; i0 += kTogether)
      for (int64_t c = 0; c < lines; c += 2 * L) {
        const T* from = data + (k + i0) * pitch + line + c;
        const int64_t lanes = lines - c, count = min(kTogether, depth - i0);
        T* at = to + c * depth + i0 * (lanes > L ? 2 * L : L);
        if (lanes >= 2 * L)
          for (int64_t i = 0; i < count; ++i, at += 2 * L)
            store(at, load(from + i * pitch)), store(at + L, load(from + i * pitch + L));
        else if (lanes > L)
          for (int64_t i = 0; i < count; ++i, at += 2 * L)
            store(at, load(from + i * pitch)), store(at + L, load_first<Vector<T>>(from + i * pitch + L, lanes - L));
        else
          for (int64_t i = 0; i < count; ++i, at += L) store(at, load_first<Vector<T>>(from + i * pitch, lanes));
      }
  }
};

template <class T>
struct ImagesAcrossDepth {
  const T* data;
  int64_t pitch;  // values from k to k
  Images images;  // in units of two vectors

  AcrossDepth<T> image_of(int64_t line) const { return {data + line / images.width * images.apart, pitch}; }

  // Of the first image among the lines.
  Prefetch prefetch(int64_t line, int64_t lines, int64_t k, int64_t depth, int64_t steps) const {
    return image_of(line).prefetch(line % images.width, images.run(line, line + lines), k, depth, steps);
  }
  void pack_columns(int64_t line, int64_t lines, int64_t k, int64_t depth, T* to) const {
    images.for_each_run(line, line + lines, [&](int64_t first, int64_t count) {
      image_of(first).pack_columns(first % images.width, count, k, depth, to + (first - line) * depth);
    });
  }
};

}  // namespace STRIATE_ISA
}  // namespace striate
