// Applies a convolution's Epilogue (conv.h) to a vector of sums before it is stored.
#pragma once
#include "core/machine.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "kernels/conv/conv.h"

namespace striate {
namespace STRIATE_ISA {

// Finishes sums, to which the bias has been added, for the results at y[at], but for an activation that is no clamp:
// that is applied to what is stored (`activate`).
template <class T, class Whole>
STRIATE_INLINE Vector<T> finish(Whole whole, const Epilogue<T>& e, const Vector<T>& sum, int64_t at, int64_t lanes) {
  return clamp<T>(e.residual ? sum + load_lanes(whole, e.residual + at, lanes) : sum, e.activation.low,
                  e.activation.high);
}
// Finishes `count` sums that are stored at y[at], and activates them, as many at a time as stay in the first level.
template <class T>
STRIATE_INLINE void finish_values(const Epilogue<T>& e, T* y, int64_t at, int64_t count) {
  const int64_t most = inner_bytes() / int64_t(sizeof(T));
  for (; count > 0; at += most, count -= most) {
    const int64_t now = min(most, count);
    for_each_vector<T>(now, [&](int64_t i, auto whole, int64_t lanes) {
      store_lanes(whole, y + at + i, finish(whole, e, load_lanes(whole, y + at + i, lanes), at + i, lanes), lanes);
    });
    activate(e.activation, y + at, now, 1, now);
  }
}

// Finishes all sums of a pass, for kernels whose tiles leave that to a loop of its own.
template <class T, class PassShape>
inline void finish_all(const Epilogue<T>& e, int64_t batch, T* y, const PassShape& side) {
  const int64_t image = side.all_to_channels() * side.destinations();
  parallel_for(batch, image,
               [=](int64_t begin, int64_t end) { finish_values(e, y, begin * image, (end - begin) * image); });
}

}  // namespace STRIATE_ISA
}  // namespace striate
