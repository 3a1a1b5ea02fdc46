// The short row pattern: forward of layer and RMS norm for rows of a few vectors. A part of norm.cpp.
#pragma once
#include "core/moments.h"
#include "kernels/norm/formulas.h"
#include "kernels/norm/passes.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

// Rows so short that each lane's sum has at most kTerms terms, four rows at a time. One row's sum across lanes, its
// root and its divisions depend on each other and take some 150 cycles; those of four rows overlap.
template <class T>
struct ShortRows {
  NormForward<T> f;
  bool streaming;
  int64_t rows, length;

  static bool fits(int64_t length) { return length <= kTerms * kLanes<T>; }

  template <int Rows>
  void measure(int64_t row) const {
    const T* x[Rows];
    T shift[Rows];
    Vector<T> from[Rows], s[Rows] = {}, q[Rows] = {};
    for (int k = 0; k < Rows; ++k)
      x[k] = f.x + (row + k) * length, shift[k] = f.centered ? x[k][0] : T(0), from[k] = broadcast(shift[k]);
    if (f.centered) {
      for_each_vector<T>(length, [&](int64_t i, auto whole, int64_t lanes) {
        for (int k = 0; k < Rows; ++k)
          s[k] += mask_lanes<T>(whole, load_lanes(whole, x[k] + i, lanes) - from[k], lanes);
      });
      for (int k = 0; k < Rows; ++k)
        shift[k] += sum_lanes<T>(s[k]) / T(length), from[k] = broadcast(shift[k]), s[k] = Vector<T>{};
    }
    for_each_vector<T>(length, [&](int64_t i, auto whole, int64_t lanes) {
      for (int k = 0; k < Rows; ++k) {
        const Vector<T> d = mask_lanes<T>(whole, load_lanes(whole, x[k] + i, lanes) - from[k], lanes);
        s[k] += d, q[k] += d * d;
      }
    });
    for (int k = 0; k < Rows; ++k) {
      Vector<double> squares = {};
      add_widened<T>(q[k], squares);
      const double square = sum_lanes<double>(squares), n = double(length);
      Moments m = f.centered ? shifted_moments(n, shift[k], double(sum_lanes<T>(s[k])), square) : Moments{n, 0, square};
      if (!(square < __builtin_inf())) m = wide_moments(x[k], Segments{length, length}, 0, length, f.centered);
      f.mean[row + k] = m.mean, f.variance[row + k] = m.variance();
    }
  }
  template <int Rows>
  void apply(int64_t row) const {
    Vector<T> high[Rows], low[Rows], rstd[Rows];
    for (int k = 0; k < Rows; ++k) {
      const Center<T> center(f.mean[row + k], f.variance[row + k], f.eps);
      high[k] = broadcast(center.high), low[k] = broadcast(center.low), rstd[k] = broadcast(T(center.scale));
    }
    for_each_vector<T>(length, [&](int64_t i, auto whole, int64_t lanes) {
      const Vector<T> gamma = f.gamma ? load_lanes(whole, f.gamma + i, lanes) : broadcast(T(1));
      const Vector<T> beta = f.beta ? load_lanes(whole, f.beta + i, lanes) : Vector<T>{};
      for (int k = 0; k < Rows; ++k)
        forward_vector<T>(whole, f, streaming, (row + k) * length + i, lanes, high[k], low[k], rstd[k] * gamma, beta);
    });
  }
  template <int Rows>
  void run(int64_t row) const {
    if (!f.given) measure<Rows>(row);
    if (f.y) apply<Rows>(row);
  }
  void run() const {
    const ShortRows self = *this;
    parallel_for(rows, length * 2, [=](int64_t begin, int64_t end) {
      int64_t row = begin;
      for (; row + 4 <= end; row += 4) self.template run<4>(row);
      for (; row < end; ++row) self.template run<1>(row);
      fence_streaming_stores();
    });
  }
};

}  // namespace
}  // namespace STRIATE_ISA
}  // namespace striate
