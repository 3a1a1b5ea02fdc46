// What a convolution does to a vector of sums before it writes them: conv.h's Epilogue.
#pragma once
#include "kernels/conv/conv.h"
#include "core/parallel.h"
#include "core/simd.h"

namespace striate {
namespace STRIATE_ISA {

// Of sums that hold the bias already, for results at y[at].
template <class T, class Whole>
STRIATE_INLINE Vector<T> finish(Whole whole, const Epilogue<T>& e, const Vector<T>& sum, int64_t at, int64_t lanes) {
  return clamp<T>(e.residual ? sum + load_lanes(whole, e.residual + at, lanes) : sum, e.low, e.high);
}
// `count` results from y[at] on, which are sums as yet.
template <class T>
STRIATE_INLINE void finish_values(const Epilogue<T>& e, T* y, int64_t at, int64_t count) {
  over_vectors<T>(count, [&](int64_t i, auto whole, int64_t lanes) {
    store_lanes(whole, y + at + i, finish(whole, e, load_lanes(whole, y + at + i, lanes), at + i, lanes), lanes);
  });
}

// All results of a map, which are sums as yet: where the tiles leave it to a pass of its own.
template <class T, class Side>
inline void finish_all(const Epilogue<T>& e, int64_t batch, T* y, const Side& side) {
  const int64_t image = side.all_to() * side.destinations();
  parallel_for(batch, image,
               [=](int64_t begin, int64_t end) { finish_values(e, y, begin * image, (end - begin) * image); });
}

}  // namespace STRIATE_ISA
}  // namespace striate
