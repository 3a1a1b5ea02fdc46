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

// The sums of a tile: M rows by V vectors of columns.
template <class T, int M, int V>
struct Tile {
  Vector<T> sum[M][V];

  // Calls body(j, v, sum) for all of them.
  template <class Body>
  STRIATE_INLINE void for_each(const Body& body) const {
#pragma GCC unroll 14
    for (int j = 0; j < M; ++j)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) body(j, v, sum[j][v]);
  }
  STRIATE_INLINE void clear() {
#pragma GCC unroll 14
    for (int j = 0; j < M; ++j)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[j][v] = Vector<T>{};
  }
  // Adds the products of one k: row j's value of A is at a[j · pitch].
  STRIATE_INLINE void add(const T* a, int64_t pitch, const T* b) {
    constexpr int L = kLanes<T>;
    Vector<T> columns[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) columns[v] = load(b + v * L);
#pragma GCC unroll 14
    for (int j = 0; j < M; ++j) {
      const Vector<T> value = broadcast(a[j * pitch]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[j][v] += value * columns[v];
    }
  }
};

// Sums C[j][v] = Σ_k A[j][k]·B[k][v] for M rows and V vectors of columns. The sum runs over a batch of products (as in
// a batch-reduce GEMM), each over `depth` values of k; in A each product begins with a vector of its own, `vector`
// being the distance between vectors.
template <class T, int M, int V>
STRIATE_INLINE Tile<T, M, V> micro_kernel(const T* a, int64_t vector, int64_t depth, int64_t batch, const T* b) {
  constexpr int L = kLanes<T>;
  Tile<T, M, V> tile;
  tile.clear();
  for (; batch > 0; --batch)
    for (int64_t left = depth; left > 0; left -= L, a += vector) {
      const int64_t lanes = min(L, left);
      for (int64_t lane = 0; lane < lanes; ++lane, b += V * L) {
        // Prefetches B 16 values of k ahead, and a row of A's next vector: long sums come from beyond the first-level
        // cache (up to 1.3 times as fast).
        __builtin_prefetch(b + 16 * V * L), __builtin_prefetch(b + 17 * V * L - L),
            __builtin_prefetch(a + vector + lane * L);
        tile.add(a + lane, L, b);
      }
    }
  return tile;
}

// The same for a tile of A that is [k][row]: the rows' values of one k are contiguous.
template <class T, int M, int V>
STRIATE_INLINE Tile<T, M, V> micro_kernel_rows(const T* a, int64_t depth, const T* b) {
  constexpr int L = kLanes<T>;
  Tile<T, M, V> tile;
  tile.clear();
  for (; depth > 0; --depth, a += M, b += V * L) {
    __builtin_prefetch(b + 16 * V * L), __builtin_prefetch(b + 17 * V * L - L), __builtin_prefetch(a + 16 * M);
    tile.add(a, 1, b);
  }
  return tile;
}

// The two forms of a packed tile of A, and the micro-kernel of each.
struct VectorsOfDepth {
  template <class T>
  static int64_t row_values(int64_t depth) {  // of a packed tile, for each of its rows
    return ceil_div(depth, kLanes<T>) * kLanes<T>;
  }
  template <class T, int M, int V>
  static STRIATE_INLINE Tile<T, M, V> multiply(const T* a, const T* b, int64_t depth) {
    return micro_kernel<T, M, V>(a, M * kLanes<T>, depth, 1, b);
  }
};
struct RowsOfDepth {
  template <class T>
  static int64_t row_values(int64_t depth) {
    return depth;
  }
  template <class T, int M, int V>
  static STRIATE_INLINE Tile<T, M, V> multiply(const T* a, const T* b, int64_t depth) {
    return micro_kernel_rows<T, M, V>(a, depth, b);
  }
};

}  // namespace STRIATE_ISA
}  // namespace striate
