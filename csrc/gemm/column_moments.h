// The moments of the columns of a product, taken while its rows are in a cache: the mean and variance of each channel,
// where columns are channels and rows are positions.
#pragma once
#include "core/moments.h"
#include "core/simd.h"
#include "gemm/micro_kernel.h"

namespace striate {
namespace STRIATE_ISA {

// Moments of some rows of two vectors of columns, as deviations from the first row. Rows are added kMaxRows at a time:
// so many deviations are summed in T, and these sums in double.
template <class T>
struct ColumnMoments {
  static constexpr int64_t L = kLanes<T>, D = kLanes<double>;
  double count = 0;
  T shift[2 * L];
  double sums[2 * L] = {}, squares[2 * L] = {};

  void add(const T* y, int64_t pitch, int64_t rows, int64_t lanes) {
    for_each_vector<T>(lanes, [&](int64_t c, auto whole, int64_t n) {
      if (count == 0) store(shift + c, load_lanes<T>(whole, y + c, n));
      const Vector<T> from = load(shift + c);
      Vector<T> sum = {}, square = {};
      for (int64_t j = 0; j < rows; ++j) {
        const Vector<T> deviation = load_lanes<T>(whole, y + j * pitch + c, n) - from;
        sum += deviation, square += deviation * deviation;
      }
      T tile_sums[2][L];
      store(tile_sums[0], sum), store(tile_sums[1], square);
      for (int64_t l = 0; l < L; l += D) {
        store(sums + c + l, load(sums + c + l) + load_widened(tile_sums[0] + l));
        store(squares + c + l, load(squares + c + l) + load_widened(tile_sums[1] + l));
      }
    });
    count += double(rows);
  }
  void put(Moments* moments, int64_t lanes) const {
    for (int64_t l = 0; l < lanes; ++l) moments[l] = shifted_moments(count, double(shift[l]), sums[l], squares[l]);
  }
};

// Where the moments of C's columns go: `columns` of them for each run of kRows rows of C. null: nowhere.
struct MomentsOfRuns {
  static constexpr int64_t kRows = 8 * kMaxRows;

  Moments* data = nullptr;
  int64_t columns = 0;

  // Takes those of the columns [n0, n1) from rows [m0, m1) of C, which begin with a run.
  template <class T>
  void take(const T* c, int64_t pitch, int64_t m0, int64_t m1, int64_t n0, int64_t n1) const {
    for (int64_t run = m0; run < m1; run += kRows)
      for (int64_t n = n0; n < n1; n += 2 * kLanes<T>) {
        const int64_t end = min(m1, run + kRows), lanes = min(2 * kLanes<T>, n1 - n);
        ColumnMoments<T> moments;
        for (int64_t m = run; m < end; m += kMaxRows)
          moments.add(c + m * pitch + n, pitch, min(kMaxRows, end - m), lanes);
        moments.put(data + run / kRows * columns + n, lanes);
      }
  }
};

}  // namespace STRIATE_ISA
}  // namespace striate
