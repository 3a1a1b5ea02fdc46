// Activations behind a sum z (core/activation.h), but for the clamp:
//
//   leaky ReLU   z > 0 ? z : z·slope
//   SiLU         z / (1 + e^-z)
//   GELU         z·Φ(z), Φ the normal distribution
//   GELU, tanh   z/2·(1 + tanh(√(2/π)·(z + 0.044715·z³))) = z / (1 + e^-s), s = √(8/π)·(z + 0.044715·z³)
//   hardswish    z·min(max(z + 3, 0), 6) / 6
//
// NaN stays NaN. As in torch, -inf becomes NaN in all but leaky ReLU, because it is multiplied by 0.
//
// e^x = 2^n·e^r with n the whole number next to x / ln 2, so |r| ≤ ln 2 / 2. There (e^r - 1 - r) / r² is interpolated
// at Chebyshev nodes: degree 5 in float (relative error of e^r 5.0e-10), 10 in double (5.1e-19).
//
// Φ(-a), a ≥ 0, is e^(-a²/2)·g(u) / (a + 4) with u = (a - 4) / (a + 4): g is smooth up to a = ∞, where it is 1/√(2π),
// and no value of Φ is a difference, so the tail keeps its digits, which 1 + erf loses. g is interpolated at Chebyshev
// nodes of u: degree 9 for a ≤ 15 in float (relative error 1.3e-8), 22 for a ≤ 40 in double (3.8e-17). Beyond
// kTail Φ(-a) counts as 0.
//
// Errors in units of the last place of the result, the largest of 2^20 values (in double 3000, against 40 digits) by
// AVX2: from -1 to 1 in float SiLU 1.9, GELU 5.9, by tanh 2.4, in double 1.5, 4.4 and 2.2. From -6 to -2, where 1 + erf
// and 1 + tanh keep few digits, in float 1.8, 19 and 77, in double 1.6, 18 and 45, by the rounding of what e^x is taken
// of.
#include "core/activation.h"

#include "core/simd.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

template <class T>
struct Constants;
template <>
struct Constants<float> {
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kRound = 0x1.8p23f;              // the sum with it is rounded to a whole number
  static constexpr float kLeast = -87.0f, kMost = 89.0f;  // 1 + e^x is 1 below, infinite above
  static constexpr float kTail = 12.5f;                   // Φ(-a) counts as 0 beyond
  static constexpr float kExp[] = {0.5f, 0.166666672f, 0.041666463f, 0.00833331048f, 0.00139337312f, 0.000198910799f};
  static constexpr float kG[] = {0.755285144f,    -0.607896566f,   0.387136698f,   -0.186523303f,   0.0604061857f,
                                 -0.00752540259f, -0.00352097279f, 0.00156688166f, 0.000188996521f, -0.000125558392f};
};
template <>
struct Constants<double> {
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kRound = 0x1.8p52;
  static constexpr double kLeast = -708.0, kMost = 710.0;
  static constexpr double kTail = 37.0;
  static constexpr double kExp[] = {0.5,
                                    0.1666666666666667,
                                    0.04166666666666667,
                                    0.008333333333326084,
                                    0.0013888888888883711,
                                    0.0001984126987500228,
                                    2.480158732567746e-05,
                                    2.755725517000089e-06,
                                    2.755727347871858e-07,
                                    2.5105312729622103e-08,
                                    2.09147553258932e-09};
  static constexpr double kG[] = {
      0.7552851304157515,     -0.6078966419718917,     0.38713740074221936,     -0.1865218579596934,
      0.06039657489067665,    -0.007540188965625017,   -0.0034796923618040597,  0.0016308184424805887,
      0.00013334424978358428, -0.00023109482414997105, -1.9078434059248706e-06, 3.51442149682578e-05,
      7.149308325478401e-07,  -5.919013186154044e-06,  -6.249906995369785e-07,  1.0200713392568465e-06,
      2.6354310560684456e-07, -1.546196819122192e-07,  -7.634712843441086e-08,  1.4842390072751344e-08,
      1.3976528155950821e-08, -1.015295717649618e-11,  -9.990624160023276e-10};
};

template <class T, int N>
STRIATE_INLINE Vector<T> polynomial(const Vector<T>& x, const T (&coefficients)[N]) {
  Vector<T> sum = broadcast(coefficients[N - 1]);
#pragma GCC unroll 32
  for (int k = N - 2; k >= 0; --k) sum = sum * x + broadcast(coefficients[k]);
  return sum;
}

// 2^n of whole numbers whose power is a normal number.
template <class T>
STRIATE_INLINE Vector<T> power_of_two(const IntVector<T>& n) {
  using C = Constants<T>;
  return (Vector<T>)((n + broadcast_int<T>(C::kBias)) << C::kMantissa);
}

// e^x for x from kLeast to kMost, or to 0. No result or step is a denormal number, which would take hundreds of cycles.
template <class T, bool ToZero>
STRIATE_INLINE Vector<T> exponential(const Vector<T>& x) {
  using C = Constants<T>;
  constexpr double kHigh = 0x1.62e4p-1, kLow = 1.4286068203094172e-06;  // ln 2: n·kHigh is exact
  const Vector<T> round = broadcast(C::kRound), shifted = x * broadcast(T(1.4426950408889634)) + round,
                  n = shifted - round;
  const Vector<T> r = (x - n * broadcast(T(kHigh))) - n * broadcast(T(kLow));
  const Vector<T> power = T(1) + (r + r * r * polynomial<T>(r, C::kExp));
  const IntVector<T> whole = (IntVector<T>)shifted - (IntVector<T>)round;
  if constexpr (ToZero) return power * power_of_two<T>(whole);
  // 2^n itself may be too large for a number; its two halves are not.
  const IntVector<T> half = (IntVector<T>)(n * broadcast(T(0.5)) + round) - (IntVector<T>)round;
  return power * power_of_two<T>(half) * power_of_two<T>(whole - half);
}

template <class T>
STRIATE_INLINE Vector<T> logistic_times(const Vector<T>& z, const Vector<T>& s) {
  using C = Constants<T>;
  return z / (T(1) + exponential<T, false>(clamp<T>(-s, C::kLeast, C::kMost)));
}

template <class T>
STRIATE_INLINE Vector<T> gelu(const Vector<T>& z) {
  using C = Constants<T>;
  const Vector<T> size = (Vector<T>)((IntVector<T>)z & ~(IntVector<T>)broadcast(-T(0)));
  const IntVector<T> beyond = size > C::kTail;
  const Vector<T> a = beyond ? broadcast(C::kTail) : size, inverse = T(1) / (a + T(4));
  const Vector<T> of_a = exponential<T, true>(a * a * T(-0.5)) * (polynomial<T>((a - T(4)) * inverse, C::kG) * inverse);
  const Vector<T> tail = beyond ? Vector<T>{} : of_a;
  return z * (z > 0 ? T(1) - tail : tail);
}

template <class T, class Formula>
void for_each_value(T* y, int64_t pitch, int64_t rows, int64_t columns, const Formula& formula) {
  if (pitch == columns) columns *= rows, rows = 1;
  for (int64_t m = 0; m < rows; ++m)
    for_each_vector<T>(columns, [&](int64_t n, auto whole, int64_t lanes) STRIATE_INLINE_LAMBDA {
      T* at = y + m * pitch + n;
      store_lanes(whole, at, formula(load_lanes<T>(whole, at, lanes)), lanes);
    });
}

template <class T>
void apply(const Activation<T>& a, T* y, int64_t pitch, int64_t rows, int64_t columns) {
  using V = Vector<T>;
  const auto each = [&](const auto& formula)
                        STRIATE_INLINE_LAMBDA { for_each_value(y, pitch, rows, columns, formula); };
  switch (a.kind) {
    case ActivationKind::clamp:
      return each([&](const V& z) STRIATE_INLINE_LAMBDA { return clamp<T>(z, a.low, a.high); });
    case ActivationKind::leaky_relu:
      return each([slope = a.slope](const V& z) STRIATE_INLINE_LAMBDA { return z > 0 ? z : z * slope; });
    case ActivationKind::silu:
      return each([](const V& z) STRIATE_INLINE_LAMBDA { return logistic_times<T>(z, z); });
    case ActivationKind::gelu:
      return each([](const V& z) STRIATE_INLINE_LAMBDA { return gelu<T>(z); });
    case ActivationKind::gelu_tanh:
      return each([](const V& z) STRIATE_INLINE_LAMBDA {
        return logistic_times<T>(z, z * (T(1.5957691216057308) + T(1.5957691216057308 * 0.044715) * (z * z)));
      });
    case ActivationKind::hardswish:
      return each([](const V& z) STRIATE_INLINE_LAMBDA { return z * clamp<T>(z + T(3), T(0), T(6)) / T(6); });
  }
}

}  // namespace

const Activate<float> activate_f32 = apply<float>;
const Activate<double> activate_f64 = apply<double>;

}  // namespace STRIATE_ISA
}  // namespace striate
