// MICRO
#pragma once
#include "core/simd.h"
#include "gemm/packed_b.h"

namespace striate {
namespace STRIATE_ISA {

constexpr int kMostRows = kVectorBytes == 64 ? 14 : 6;  // of the micro-kernel

// put(j, v, Σ a[c of row j] · b[c][v]) for M rows and V vectors of filters. The sum is over `runs` of so many channels,
// one behind the other: each run begins with a vector of its own.
template <class T, int M, int V, class Put>
STRIATE_INLINE void multiply(const T* a, int64_t vector, int64_t channels, int64_t runs, const T* b, const Put& put) {
  constexpr int L = kLanes<T>;
  Vector<T> sum[M][V];
#pragma GCC unroll 14
  for (int j = 0; j < M; ++j)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[j][v] = Vector<T>{};
  for (; runs > 0; --runs)
    for (int64_t left = channels; left > 0; left -= L, a += vector) {
      const int64_t lanes = min(L, left);
      for (int64_t lane = 0; lane < lanes; ++lane, b += V * L) {
        // 16 channels ahead, and a row of the next vector: long sums come from beyond the first-level cache (up to 1.3
        // times as fast)
        __builtin_prefetch(b + 16 * V * L), __builtin_prefetch(b + 17 * V * L - L),
            __builtin_prefetch(a + vector + lane * L);
        Vector<T> weight[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) weight[v] = load(b + v * L);
#pragma GCC unroll 14
        for (int j = 0; j < M; ++j) {
          const Vector<T> seen = broadcast(a[j * L + lane]);
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) sum[j][v] += seen * weight[v];
        }
      }
    }
#pragma GCC unroll 14
  for (int j = 0; j < M; ++j)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) put(j, v, sum[j][v]);
}

}  // namespace STRIATE_ISA
}  // namespace striate
