// The activation behind a sum. A clamp takes two instructions a vector: kernels apply it to sums in registers. The
// others take some dozens, with constants that would drive sums out of the registers: a kernel stores its tile or
// block, and `activate` then goes over it while it is in a cache.
#pragma once
#include <stdint.h>

namespace striate {

// Operators take these numbers as arguments.
enum class ActivationKind : int64_t {
#define STRIATE_ACTIVATION(name) name,
#include "activations.def"
};
constexpr const char* kActivationNames[] = {
#define STRIATE_ACTIVATION(name) #name,
#include "activations.def"
};
constexpr int64_t kActivations = sizeof(kActivationNames) / sizeof(*kActivationNames);

template <class T>
struct Activation {
  ActivationKind kind = ActivationKind::clamp;
  T low = -T(__builtin_inf()), high = T(__builtin_inf());  // a clamp's bounds; of any other kind infinite
  T slope = 0;                                             // leaky ReLU's

  bool clamps() const { return kind == ActivationKind::clamp; }
  // Whether it is more than the identity.
  bool changes() const { return !clamps() || low > -T(__builtin_inf()) || high < T(__builtin_inf()); }
};

// Applies an activation that is no clamp to `rows` rows of `columns` values in place, `pitch` apart. Every value is
// computed alone, so its bits depend on nothing else.
template <class T>
using Activate = void (*)(const Activation<T>&, T* y, int64_t pitch, int64_t rows, int64_t columns);

#ifdef STRIATE_ISA
namespace STRIATE_ISA {

extern const Activate<float> activate_f32;
extern const Activate<double> activate_f64;

// Activates sums that are stored, if their clamp in registers was not all.
inline void activate(const Activation<float>& a, float* y, int64_t pitch, int64_t rows, int64_t columns) {
  if (!a.clamps()) activate_f32(a, y, pitch, rows, columns);
}
inline void activate(const Activation<double>& a, double* y, int64_t pitch, int64_t rows, int64_t columns) {
  if (!a.clamps()) activate_f64(a, y, pitch, rows, columns);
}

}  // namespace STRIATE_ISA
#endif

}  // namespace striate
