// Minimal filtering on one axis, F(m, r): m outputs of a filter of r taps by n = m + r - 1 products instead of m·r.
//
// Let y[j] = Σ_t g[t] · x[j + t]. For any z, Σ_j z[j]·y[j] = Σ_s x[s]·P[s], where P is the product of the polynomials z
// and g, of degree n - 1: it is known from its values at n - 1 points p and its leading coefficient ("the value at
// infinity"). With L_p = Π_{q≠p} (X - q), N_p = L_p(p) and M = Π_p (X - p), Lagrange gives P = Σ_p z(p)·g(p)/N_p·L_p +
// z[m-1]·g[r-1]·M. Read as a form in z, in g and in x:
//
//   y = Aᵀ[(G g) ⊙ (B x)],   dg = Gᵀ[(A dy) ⊙ (B x)],   A z = z's values at the points,   G g = g's values over N,
//   B x = for each point Σ_s L_p[s]·x[s], and last Σ_s M[s]·x[s].
//
// In two dimensions each is applied along both axes. Points: 0, 1, -1 for n = 4; and 1/2, -2 for n = 6, with about 0.6
// times the error of 2, -2 (docs/kernels/winograd.md). n = 1 is the axis that is left alone. Source: S. Winograd,
// Arithmetic Complexity of Computations, 1980; A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks",
// 2016.
#pragma once
#include "core/simd.h"

namespace striate {
namespace STRIATE_ISA {

// 1 / N_p; at infinity 1.
template <int N>
constexpr double divisor(int point) {
  constexpr double of_4[4] = {-1, 2, 2, 1}, of_6[6] = {1, 3, -3, -15.0 / 16, 15, 1};
  return N == 4 ? 1 / of_4[point] : N == 6 ? 1 / of_6[point] : 1;
}

// Evaluates a polynomial of Q coefficients at the N points: A and, without the divisors, G.
template <int N, int Q, class V>
STRIATE_INLINE void values_at_points(const V (&c)[Q], V (&value)[N]) {
  value[0] = c[0];
  if constexpr (N > 1) {
    V even = c[0], odd = c[1];
#pragma GCC unroll 6
    for (int k = 2; k < Q; ++k) k % 2 ? odd += c[k] : even += c[k];
    value[1] = even + odd, value[2] = even - odd;
    if constexpr (N == 6) {
      V half = c[Q - 1], two = c[Q - 1];
#pragma GCC unroll 6
      for (int k = Q - 2; k >= 0; --k) half = c[k] + half * 0.5f, two = c[k] - two * 2.0f;
      value[3] = half, value[4] = two;
    }
    value[N - 1] = c[Q - 1];
  }
}

// The transpose of values_at_points: Aᵀ and, without the divisors, Gᵀ.
template <int N, int Q, class V>
STRIATE_INLINE void sum_of_points(const V (&value)[N], V (&c)[Q]) {
  if constexpr (N == 1) {
    c[0] = value[0];
  } else {
    const V even = value[1] + value[2], odd = value[1] - value[2];
    c[0] = value[0] + even;
#pragma GCC unroll 6
    for (int k = 1; k < Q; ++k) c[k] = k % 2 ? odd : even;
    if constexpr (N == 6) {
      V half = value[3], two = value[4];
      c[0] += half + two;
#pragma GCC unroll 6
      for (int k = 1; k < Q; ++k) half *= 0.5f, two *= -2.0f, c[k] += half + two;
    }
    c[Q - 1] += value[N - 1];
  }
}

// B. With the points 0, 1 and -1 alone it takes differences of next-but-one neighbours; with 1/2 and -2 both factors X²
// - 1 (e) and X² + 3/2·X - 1 (f) are shared.
template <int N, class V>
STRIATE_INLINE void source_at_points(const V (&x)[N], V (&value)[N]) {
  if constexpr (N == 1) {
    value[0] = x[0];
  } else if constexpr (N == 4) {
    value[0] = x[2] - x[0], value[1] = x[1] + x[2], value[2] = x[2] - x[1], value[3] = x[3] - x[1];
  } else {
    static_assert(N == 6);
    const V e0 = x[2] - x[0], e1 = x[3] - x[1], e2 = x[4] - x[2], e3 = x[5] - x[3];
    const V f1 = e1 + x[2] * 1.5f, f2 = e2 + x[3] * 1.5f;
    value[0] = e2 + e1 * 1.5f - e0, value[1] = f2 + f1, value[2] = f2 - f1;
    value[3] = e2 + e1 * 2.0f, value[4] = e2 - e1 * 0.5f, value[5] = e3 + e2 * 1.5f - e1;
  }
}

// -------------------------------------------------------------------------------------------------------- on both axes

// Applies `down` to the columns of a matrix of vectors, then `across` to its rows.
template <int InHigh, int InWide, int OutHigh, int OutWide, class V, class Get, class Down, class Across, class Put>
STRIATE_INLINE void along_both(const Get& get, const Down& down, const Across& across, const Put& put) {
  V middle[OutHigh][InWide];
#pragma GCC unroll 6
  for (int j = 0; j < InWide; ++j) {
    V in[InHigh], out[OutHigh];
#pragma GCC unroll 6
    for (int i = 0; i < InHigh; ++i) in[i] = get(i, j);
    down(in, out);
#pragma GCC unroll 6
    for (int i = 0; i < OutHigh; ++i) middle[i][j] = out[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < OutHigh; ++i) {
    V out[OutWide];
    across(middle[i], out);
#pragma GCC unroll 6
    for (int j = 0; j < OutWide; ++j) put(i, j, out[j]);
  }
}

// The transforms of a tile of High × Wide outputs for TapsHigh × TapsWide taps, on vectors of E. `apart` is the
// distance between points; down and right are the distances between pixels.
template <class E, int High, int TapsHigh, int Wide, int TapsWide>
struct Filtering {
  static constexpr int kHigh = High + TapsHigh - 1, kWide = Wide + TapsWide - 1;
  using V = Vector<E>;

  static STRIATE_INLINE V counted(const V& v, V& squares) {
    squares += v * v;
    return v;
  }

  // Each transform returns the sum of the squares of what it read, lane by lane: NaN, infinity and values out of bounds
  // show there (winograd_bounds.h).
  static V source(const E* x, int64_t down, int64_t right, E* to, int64_t apart) {
    V squares[2] = {};
    along_both<kHigh, kWide, kHigh, kWide, V>(
        [&](int i, int j) { return counted(load(x + i * down + j * right), squares[i % 2]); },
        [](const V(&in)[kHigh], V(&out)[kHigh]) { source_at_points<kHigh>(in, out); },
        [](const V(&in)[kWide], V(&out)[kWide]) { source_at_points<kWide>(in, out); },
        [&](int i, int j, const V& v) { store(to + (i * kWide + j) * apart, v); });
    return squares[0] + squares[1];
  }
  static void result(const E* from, int64_t apart, E* y) {
    along_both<kHigh, kWide, High, Wide, V>(
        [&](int i, int j) { return load(from + (i * kWide + j) * apart); },
        [](const V(&in)[kHigh], V(&out)[High]) { sum_of_points<kHigh, High>(in, out); },
        [](const V(&in)[kWide], V(&out)[Wide]) { sum_of_points<kWide, Wide>(in, out); },
        [&](int i, int j, const V& v) { store(y + (i * Wide + j) * kLanes<E>, v); });
  }
  static V gradient(const E* dy, int64_t down, int64_t right, E* to, int64_t apart) {
    V squares[2] = {};
    along_both<High, Wide, kHigh, kWide, V>(
        [&](int i, int j) { return counted(load(dy + i * down + j * right), squares[i % 2]); },
        [](const V(&in)[High], V(&out)[kHigh]) { values_at_points<kHigh, High>(in, out); },
        [](const V(&in)[Wide], V(&out)[kWide]) { values_at_points<kWide, Wide>(in, out); },
        [&](int i, int j, const V& v) { store(to + (i * kWide + j) * apart, v); });
    return squares[0] + squares[1];
  }
  // pitch: the distance between taps; negative where they are read in reverse.
  static V weight(const E* w, int64_t pitch, E* to, int64_t apart) {
    V squares = {};
    along_both<TapsHigh, TapsWide, kHigh, kWide, V>(
        [&](int i, int j) { return counted(load(w + (i * TapsWide + j) * pitch), squares); },
        [](const V(&in)[TapsHigh], V(&out)[kHigh]) { values_at_points<kHigh, TapsHigh>(in, out); },
        [](const V(&in)[TapsWide], V(&out)[kWide]) { values_at_points<kWide, TapsWide>(in, out); },
        [&](int i, int j, const V& v) {
          store(to + (i * kWide + j) * apart, v * E(divisor<kHigh>(i) * divisor<kWide>(j)));
        });
    return squares;
  }
  // apart: the distance between points; pitch: the distance between taps.
  static void weight_sum(const E* from, int64_t apart, E* dw, int64_t pitch) {
    along_both<kHigh, kWide, TapsHigh, TapsWide, V>(
        [&](int i, int j) { return load(from + (i * kWide + j) * apart) * E(divisor<kHigh>(i) * divisor<kWide>(j)); },
        [](const V(&in)[kHigh], V(&out)[TapsHigh]) { sum_of_points<kHigh, TapsHigh>(in, out); },
        [](const V(&in)[kWide], V(&out)[TapsWide]) { sum_of_points<kWide, TapsWide>(in, out); },
        [&](int i, int j, const V& v) { store(dw + (i * TapsWide + j) * pitch, v); });
  }
};

}  // namespace STRIATE_ISA
}  // namespace striate
