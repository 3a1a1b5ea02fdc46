// The formulas of normalization on one vector, forward and backward; every memory pattern uses these. A part of
// norm.cpp.
#pragma once
#include "core/simd.h"
#include "kernels/norm/norm.h"
#include "kernels/norm/passes.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

// μ as high + low, and 1/√(σ² + ε).
template <class T>
struct Center {
  T high, low;
  double scale;
  Center(double mean, double variance, double eps)
      : high(T(mean)), low(T(mean - double(T(mean)))), scale(1 / __builtin_sqrt(variance + eps)) {}
};

template <class T>
STRIATE_INLINE Vector<T> deviation(const Vector<T>& x, const Vector<T>& high, const Vector<T>& low) {
  return (x - high) - low;
}

// The argument of the activation, by the same expression forward and backward, so that both see the same sign.
template <class T, class Whole, class Norm>
STRIATE_INLINE Vector<T> before_activation(Whole whole, const Norm& n, const Vector<T>& d, const Vector<T>& scale,
                                           const Vector<T>& shift, int64_t at, int64_t lanes) {
  const Vector<T> z = d * scale + shift;
  return n.residual ? z + load_lanes(whole, n.residual + at, lanes) : z;
}

template <class T>
STRIATE_INLINE Vector<T> activate(NormActivation activation, T slope, const Vector<T>& z) {
  if (activation == NormActivation::kNone) return z;
  if (activation == NormActivation::kRelu) return z <= Vector<T>{} ? Vector<T>{} : z;  // NaN stays NaN
  if (activation == NormActivation::kRelu6) return clamp<T>(z, T(0), T(6));
  return z > Vector<T>{} ? z : z * broadcast(slope);
}
template <class T>
STRIATE_INLINE Vector<T> activate_backward(NormActivation activation, T slope, const Vector<T>& z,
                                           const Vector<T>& dy) {
  if (activation == NormActivation::kRelu) return z <= Vector<T>{} ? Vector<T>{} : dy;
  if (activation == NormActivation::kRelu6)
    return z <= Vector<T>{} ? Vector<T>{} : z >= broadcast(T(6)) ? Vector<T>{} : dy;
  return z > Vector<T>{} ? dy : dy * broadcast(slope);
}

// Computes one vector of y.
template <class T, class Whole>
STRIATE_INLINE void forward_vector(Whole whole, const NormForward<T>& f, bool streaming, int64_t at, int64_t lanes,
                                   const Vector<T>& high, const Vector<T>& low, const Vector<T>& scale,
                                   const Vector<T>& shift) {
  const Vector<T> d = deviation<T>(load_lanes(whole, f.x + at, lanes), high, low);
  const Vector<T> z = before_activation<T>(whole, f, d, scale, shift, at, lanes);
  store_result(whole, streaming, f.y + at, activate(f.activation, f.slope, z), lanes);
}

// Computes g and x̂ of one vector. `scale` is γ/√(σ² + ε); it and `shift` are used only for the argument of the
// activation.
template <class T, class Whole>
STRIATE_INLINE void backward_vector(Whole whole, const NormBackward<T>& b, int64_t at, int64_t lanes,
                                    const Vector<T>& high, const Vector<T>& low, const Vector<T>& rstd,
                                    const Vector<T>& scale, const Vector<T>& shift, Vector<T>* g, Vector<T>* x_hat) {
  const Vector<T> d = deviation<T>(load_lanes(whole, b.x + at, lanes), high, low);
  *x_hat = d * rstd;
  *g = load_lanes(whole, b.dy + at, lanes);
  if (b.activation != NormActivation::kNone)
    *g = activate_backward(b.activation, b.slope, before_activation<T>(whole, b, d, scale, shift, at, lanes), *g);
}

// What dx needs of a reduction besides its center: mean(γ·g) and mean(γ·g·x̂).
struct Means {
  double gradient = 0, product = 0;
};

template <class T>
inline Means given_means(const NormBackward<T>& b, int64_t set) {
  return b.gradient_mean ? Means{b.gradient_mean[set], b.product_mean[set]} : Means{};
}

}  // namespace
}  // namespace STRIATE_ISA
}  // namespace striate
