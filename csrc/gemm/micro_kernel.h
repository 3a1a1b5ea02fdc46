// The micro-kernel of a product of matrices C = A·B, on operands that are packed and in the cache.
//
//   A: [vector of k][row m][lane]: the M rows' values of one k lie a vector apart, at constant offsets, and are
//   broadcast. B: PackedB, two vectors of columns wide.
//
// Tile. 14×2 sums, two vectors of B and one broadcast value take 31 of AVX-512's 32 registers; 28 independent sums hide
// the latency of the multiply-add (4 cycles, two a cycle). With 16 registers the tile is 6×2.
#pragma once
#include "core/simd.h"
#include "gemm/packed_b.h"

namespace striate {
namespace STRIATE_ISA {

constexpr int kMaxRows = kVectorBytes == 64 ? 14 : 6;  // M at most

// Computes C[j][v] = Σ_k A[j][k]·B[k][v] for M rows and V vectors of columns and calls put(j, v, C[j][v]). The sum runs
// over a batch of products (as in a batch-reduce GEMM), each over `channels` values of k; in A each product begins with
// a vector of its own, `vector` being the distance between vectors.
template <class T, int M, int V, class Put>
STRIATE_INLINE void micro_kernel(const T* a, int64_t vector, int64_t channels, int64_t batch, const T* b,
                                 const Put& put) {
  constexpr int L = kLanes<T>;
  Vector<T> sum[M][V];
#pragma GCC unroll 14
  for (int j = 0; j < M; ++j)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[j][v] = Vector<T>{};
  for (; batch > 0; --batch)
    for (int64_t left = channels; left > 0; left -= L, a += vector) {
      const int64_t lanes = min(L, left);
      for (int64_t lane = 0; lane < lanes; ++lane, b += V * L) {
        // Prefetches B 16 channels ahead, and a row of A's next vector: long sums come from beyond the first-level
        // cache (up to 1.3 times as fast).
        __builtin_prefetch(b + 16 * V * L), __builtin_prefetch(b + 17 * V * L - L),
            __builtin_prefetch(a + vector + lane * L);
        Vector<T> weight[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) weight[v] = load(b + v * L);
#pragma GCC unroll 14
        for (int j = 0; j < M; ++j) {
          const Vector<T> value = broadcast(a[j * L + lane]);
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) sum[j][v] += value * weight[v];
        }
      }
    }
#pragma GCC unroll 14
  for (int j = 0; j < M; ++j)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) put(j, v, sum[j][v]);
}

// The same for a tile of A that is [k][row]: the rows' values of one k are contiguous.
template <class T, int M, int V, class Put>
STRIATE_INLINE void micro_kernel_rows(const T* a, int64_t depth, const T* b, const Put& put) {
  constexpr int L = kLanes<T>;
  Vector<T> sum[M][V];
#pragma GCC unroll 14
  for (int j = 0; j < M; ++j)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[j][v] = Vector<T>{};
  for (; depth > 0; --depth, a += M, b += V * L) {
    __builtin_prefetch(b + 16 * V * L), __builtin_prefetch(b + 17 * V * L - L), __builtin_prefetch(a + 16 * M);
    Vector<T> weight[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) weight[v] = load(b + v * L);
#pragma GCC unroll 14
    for (int j = 0; j < M; ++j) {
      const Vector<T> value = broadcast(a[j]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[j][v] += value * weight[v];
    }
  }
#pragma GCC unroll 14
  for (int j = 0; j < M; ++j)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) put(j, v, sum[j][v]);
}

// The two forms of a packed tile of A, and the micro-kernel of each.
struct VectorsOfDepth {
  template <class T>
  static int64_t row_values(int64_t depth) {  // of a packed tile, for each of its rows
    return ceil_div(depth, kLanes<T>) * kLanes<T>;
  }
  template <class T, int M, int V, class Put>
  static STRIATE_INLINE void multiply(const T* a, const T* b, int64_t depth, const Put& put) {
    micro_kernel<T, M, V>(a, M * kLanes<T>, depth, 1, b, put);
  }
};
struct RowsOfDepth {
  template <class T>
  static int64_t row_values(int64_t depth) {
    return depth;
  }
  template <class T, int M, int V, class Put>
  static STRIATE_INLINE void multiply(const T* a, const T* b, int64_t depth, const Put& put) {
    micro_kernel_rows<T, M, V>(a, depth, b, put);
  }
};

}  // namespace STRIATE_ISA
}  // namespace striate
