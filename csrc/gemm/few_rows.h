// Products with few rows, C = A·B with M of 1 to some: a batch of some images in front of a large matrix. B is read
// once and used M times, so that packing it would cost more than the product. It is used where it lies, and in both
// layouts the time is that of reading it.
//
//   B along k (forward): sums of products of two lines, kLanes of k at a time, in a register for each pair of lines. A
//     tile is 12 pairs, which hide the latency of the multiply-add.
//   B across k (gradient by the input): rows of B, each times a value of A, are added to rows of C, kTogetherRows of B
//     at a time, so that the sums are read and written less often.
//
// Order of a sum. Along: each lane sums kDepth values of k, the lanes are summed as a tree, and these sums are added in
// order. Across: kTogetherRows products are summed, then these sums up to kDepth values of k, then those, each in
// order.
#pragma once
#include "core/machine.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "gemm/product.h"

namespace striate {
namespace STRIATE_ISA {
namespace few_rows {

// Adds the products of some lines of A with some of B over `depth` values of k to C, and finishes them if `last`. With
// `swapped` A's lines are columns of C, and B's are rows.
template <class T, int Rows, int Lines>
STRIATE_INLINE void dot_tile(const T* a, int64_t a_pitch, const T* b, int64_t b_pitch, int64_t depth, bool first,
                             bool last, bool swapped, const Product<T>& p) {
  Vector<T> sum[Rows][Lines];
#pragma GCC unroll 4
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < Lines; ++j) sum[i][j] = Vector<T>{};
  for_each_vector<T>(depth, [&](int64_t k, auto whole, int64_t lanes) STRIATE_INLINE_LAMBDA {
    Vector<T> x[Rows];
#pragma GCC unroll 4
    for (int i = 0; i < Rows; ++i) x[i] = load_lanes<T>(whole, a + i * a_pitch + k, lanes);
#pragma GCC unroll 12
    for (int j = 0; j < Lines; ++j) {
      const Vector<T> w = load_lanes<T>(whole, b + j * b_pitch + k, lanes);
#pragma GCC unroll 4
      for (int i = 0; i < Rows; ++i) sum[i][j] += x[i] * w;
    }
  });
  T sums[Rows][Lines];
#pragma GCC unroll 4
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < Lines; ++j) sums[i][j] = sum_lanes<T>(sum[i][j]);
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Lines; ++j) {
      const int64_t m = swapped ? j : i, n = swapped ? i : j;
      T& to = p.c[m * p.pitch + n];
      const T value = first ? sums[i][j] : to + sums[i][j];
      to = last ? finish_one(p, value, m, n) : value;
    }
}

// C = A·B with both along k: all lines of A, which stay in the cache, and `lines` of B, which pass by.
template <class T>
void dot(int64_t rows, int64_t lines, int64_t depth, const T* a, int64_t a_pitch, const T* b, int64_t b_pitch,
         bool swapped, const Product<T>& p) {
  constexpr int64_t kPart = kDepth * kLanes<T>;
  for (int64_t k = 0; k < depth; k += kPart) {
    const int64_t count = min(kPart, depth - k);
    const auto tiles = [&](auto tile_lines, int64_t n) {
      constexpr int Most = decltype(tile_lines)::value;
      for (int64_t m = 0; m < rows; m += 4)
        with_constant<4>(min(4, rows - m), [&](auto tile_rows) {
          constexpr int Rows = decltype(tile_rows)::value, Lines = 12 / Rows < Most ? 12 / Rows : Most;
          for (int64_t j = n; j < n + Most; j += Lines)
            dot_tile<T, Rows, Lines>(a + m * a_pitch + k, a_pitch, b + j * b_pitch + k, b_pitch, count, k == 0,
                                     k + count == depth, swapped, swapped ? p.from(j, m) : p.from(m, j));
        });
      if (k + count == depth) swapped ? activate(p.from(n, 0), Most, rows) : activate(p.from(0, n), rows, Most);
    };
    int64_t n = 0;
    for (; n + 12 <= lines; n += 12) tiles(Constant<12>{}, n);
    for (; n < lines; ++n) tiles(Constant<1>{}, n);
  }
}

constexpr int64_t kTogetherRows = 8;  // divides kDepth

// Columns [n0, n1) of C = A·B with B across k; A[m][k] is at a + m · row + k · step.
template <class T>
void axpy(int64_t rows, int64_t n0, int64_t n1, int64_t depth, const T* a, int64_t row, int64_t step, const T* b,
          int64_t b_pitch, const Product<T>& p) {
  constexpr int64_t L = kLanes<T>;
  // Columns whose sums stay in the first-level cache.
  const int64_t most = max(1, inner_bytes() / (rows * int64_t(sizeof(T))) / L) * L;
  const Scratch<T> sums(rows * most);
  T* const parts = sums;
  for (int64_t strip = n0; strip < n1; strip += most)
    for (int64_t part = 0; part < depth; part += kDepth) {
      const int64_t end = min(depth, part + kDepth), width = min(most, n1 - strip);
      for (int64_t k = part; k < end; k += kTogetherRows)
        with_constant<int(kTogetherRows)>(min(kTogetherRows, end - k), [&](auto together) {
          constexpr int Count = decltype(together)::value;
          for_each_vector<T>(width, [&](int64_t n, auto whole, int64_t lanes) STRIATE_INLINE_LAMBDA {
            const T* from = b + k * b_pitch + strip + n;
            Vector<T> w[Count];
#pragma GCC unroll 8
            for (int i = 0; i < Count; ++i) w[i] = load_lanes<T>(whole, from + i * b_pitch, lanes);
            for (int64_t m = 0; m < rows; ++m) {
              const T* value = a + m * row + k * step;
              Vector<T> sum = broadcast(value[0]) * w[0];
#pragma GCC unroll 8
              for (int i = 1; i < Count; ++i) sum += broadcast(value[i * step]) * w[i];
              T* to = parts + m * most + n;
              store(to, k == part ? sum : load(to) + sum);
            }
          });
        });
      for (int64_t m = 0; m < rows; ++m)
        for_each_vector<T>(width, [&](int64_t n, auto whole, int64_t lanes) STRIATE_INLINE_LAMBDA {
          T* to = p.c + m * p.pitch + strip + n;
          Vector<T> sum = load(parts + m * most + n);
          if (part > 0) sum = load_lanes<T>(whole, to, lanes) + sum;
          if (end == depth) sum = finish(whole, p, sum, m, strip + n, lanes);
          store_lanes(whole, to, sum, lanes);
        });
      if (end == depth) activate(p.from(0, strip), rows, width);
    }
}

}  // namespace few_rows
}  // namespace STRIATE_ISA
}  // namespace striate
