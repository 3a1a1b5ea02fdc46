// A product of matrices in the cache, for what is turned into one: rows (tiles, or places) × source channels, by channels × filters.
//
// a: [vector of channels][row][lane], so that the rows' values of one channel lie a vector apart, at constant offsets, and are broadcast.
// b: two vectors of filters, [channel][lanes of both]. 14×2 sums, two weights: with AVX-512 30 of 32 registers.
#pragma once
#include "parallel.h"
#include "simd.h"

namespace striate {
namespace STRIATE_ISA {

constexpr int kMostRows = kVectorBytes == 64 ? 14 : 6;  // of the micro-kernel

// Vectors of destination channels go by twos: b is [pair][source channel][lanes of both]. Where a pair begins, and how wide it is.
template <class T>
struct Pairs {
  int64_t vectors, channels;  // of destinations; of sources
  int64_t count() const { return tiles(vectors, 2); }
  int64_t width(int64_t pair) const { return min(2, vectors - 2 * pair) * kLanes<T>; }
  int64_t at(int64_t pair) const { return 2 * pair * kLanes<T> * channels; }
  int64_t point() const { return (vectors * channels | 1) * kLanes<T>; }
};

// out[j][v] = Σ_c a[c of row j] · b[c][v] for M rows and V vectors of filters.
template <class T, int M, int V>
void multiply(const T* a, int64_t vector, int64_t channels, const T* b, T* out, int64_t out_vector) {
  constexpr int L = kLanes<T>;
  Vector<T> sum[M][V];
#pragma GCC unroll 14
  for (int j = 0; j < M; ++j)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[j][v] = Vector<T>{};
  for (; channels > 0; channels -= L, a += vector) {
    const int64_t lanes = min(L, channels);
    for (int64_t lane = 0; lane < lanes; ++lane, b += V * L) {
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
    for (int v = 0; v < V; ++v) store(out + v * out_vector + j * L, sum[j][v]);
}

}  // namespace STRIATE_ISA
}  // namespace striate
