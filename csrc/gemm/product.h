// Where the results of a product of matrices go, and what is done to a sum before it is stored.
#pragma once
#include "core/activation.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "gemm/column_moments.h"
#include "gemm/images.h"

namespace striate {
namespace STRIATE_ISA {

// The number of k that are summed in a register, before the sum is added to C in memory: part of what a result is, so
// not derived from caches. Shorter sums read and write C more often; with longer ones less of the packed B that tile
// after tile reads stays in the first-level cache.
constexpr int64_t kDepth = 256;

// activation(sum + bias + residual). NaN stays NaN.
template <class T>
struct Product {
  T* c;
  int64_t pitch;              // values from row to row
  const T* bias = nullptr;    // null: none
  bool bias_of_rows = false;  // one bias a row, else one a column
  Activation<T> activation = {};
  const T* residual = nullptr;  // null: none. Lies as C does
  Images images = {};           // that the columns go through
  MomentsOfRuns moments = {};   // of the columns, of one image

  bool finishes() const { return bias || residual || activation.changes(); }

  // Goes on to a later row.
  void skip_rows(int64_t count) {
    c += count * pitch;
    if (bias && bias_of_rows) bias += count;
    if (residual) residual += count * pitch;
  }
  // The part of C that begins at this row and column, up to the end of an image.
  Product from(int64_t m, int64_t n) const {
    const int64_t at = m * pitch + images.at(n);
    Product part = *this;
    part.c += at;
    if (bias) part.bias += bias_of_rows ? m : n;
    if (residual) part.residual += at;
    part.images = {};
    return part;
  }
};

// Finishes the sums of row m and the columns from n on, but for an activation that is no clamp: that is applied to what
// is stored.
template <class T, class Whole>
STRIATE_INLINE Vector<T> finish(Whole whole, const Product<T>& p, Vector<T> sum, int64_t m, int64_t n, int64_t lanes) {
  if (p.bias) sum += p.bias_of_rows ? broadcast(p.bias[m]) : load_lanes<T>(whole, p.bias + n, lanes);
  if (p.residual) sum += load_lanes<T>(whole, p.residual + m * p.pitch + n, lanes);
  return clamp<T>(sum, p.activation.low, p.activation.high);
}

// The same for one sum.
template <class T>
inline T finish_one(const Product<T>& p, T sum, int64_t m, int64_t n) {
  if (p.bias) sum += p.bias[p.bias_of_rows ? m : n];
  if (p.residual) sum += p.residual[m * p.pitch + n];
  sum = sum < p.activation.low ? p.activation.low : sum;
  return sum > p.activation.high ? p.activation.high : sum;
}

// Activates finished sums in the first rows and columns of C.
template <class T>
STRIATE_INLINE void activate(const Product<T>& p, int64_t rows, int64_t columns) {
  activate(p.activation, p.c, p.pitch, rows, columns);
}

}  // namespace STRIATE_ISA
}  // namespace striate
