// A product of matrices in the cache, for what is turned into one: rows (tiles, or places) × source channels, by
// channels × filters; and the weights turned for it.
//
// a: [vector of channels][row][lane], so that the rows' values of one channel lie a vector apart, at constant offsets,
// and are broadcast. b: two vectors of filters, [channel][lanes of both]. 14×2 sums, two weights: with AVX-512 30 of 32
// registers.
#pragma once
#include "kernels/conv.h"
#include "parallel.h"
#include "simd.h"
#include "turn.h"

namespace striate {
namespace STRIATE_ISA {

constexpr int kMostRows = kVectorBytes == 64 ? 14 : 6;  // of the micro-kernel

// Vectors of destination channels go by twos: b is [pair][source channel][lanes of both]. Where a pair begins, and how
// wide it is.
template <class T>
struct Pairs {
  int64_t vectors, channels;  // of destinations; of sources
  int64_t count() const { return tiles(vectors, 2); }
  int64_t width(int64_t pair) const { return min(2, vectors - 2 * pair) * kLanes<T>; }
  int64_t at(int64_t pair) const { return 2 * pair * kLanes<T> * channels; }
  int64_t at(int64_t vector, int64_t channel) const {
    return at(vector / 2) + channel * width(vector / 2) + vector % 2 * kLanes<T>;
  }
  int64_t point() const { return (vectors * channels | 1) * kLanes<T>; }
};

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

// Room to turn weights in, a piece of sources at a time.
constexpr int64_t kPiece = 16;
template <class T>
int64_t turned_values(int64_t taps) {
  return (kPiece * taps + kLanes<T>)*kLanes<T>;
}

// The weights of a convolution, or of its adjoint, of a group's v-th vector of destination channels from sources
// [begin, end): body(source, from, of_tap) with tap t's at from + t · of_tap, in the order in which a destination meets
// its sources.
template <class T, class Body>
void over_weights(const ConvShape& s, bool adjoint, Weight<T> weight, int64_t group, int64_t v, int64_t begin,
                  int64_t end, T* turned, const Body& body) {
  constexpr int64_t L = kLanes<T>;
  const int64_t inputs = s.channels / s.groups, outputs = s.filters / s.groups, taps = s.taps();
  const int64_t lanes = min(L, (adjoint ? inputs : outputs) - v * L);
  for (int64_t first = begin; first < end; first += kPiece) {
    const int64_t last = min(end, first + kPiece);
    // [source][tap][lane], or [tap][source][lane]: lanes are filters forward, whose weights lie together, and channels
    // in the adjoint
    int64_t of_source = taps * L, of_tap = L;
    if (!adjoint) {
      const T* row = weight.data + (group * outputs + v * L) * inputs * taps;
      if (weight.channels_last) {
        of_source = L, of_tap = kPiece * L;
        for (int64_t t = 0; t < taps; ++t)
          turn_in(row + t * inputs + first, inputs * taps, lanes, last - first, turned + t * of_tap);
      } else {
        turn_in(row + first * taps, inputs * taps, lanes, (last - first) * taps, turned);
      }
    } else {
      for (int64_t c = first; c < last; ++c) {
        const T* filter = weight.data + (group * outputs + c) * inputs * taps;
        T* at = turned + (c - first) * of_source;
        if (weight.channels_last)
          for (int64_t t = 0; t < taps; ++t)
            store(at + t * L, load_first<Vector<T>>(filter + t * inputs + v * L, lanes));
        else
          turn_in(filter + v * L * taps, taps, lanes, taps, at);
      }
    }
    for (int64_t c = first; c < last; ++c) {
      const T* from = turned + (c - first) * of_source;
      body(c, adjoint ? from + (taps - 1) * of_tap : from, adjoint ? -of_tap : of_tap);
    }
  }
}

// The same of all, in parallel: body(group, vector, source, from, of_tap).
template <class T, class Body>
void over_weights(const ConvShape& s, bool adjoint, Weight<T> weight, const Body& body) {
  const int64_t sources = (adjoint ? s.filters : s.channels) / s.groups,
                vectors = tiles((adjoint ? s.channels : s.filters) / s.groups, kLanes<T>);
  const int64_t pieces = tiles(sources, kPiece);
  parallel_for(s.groups * vectors * pieces, 2 * kPiece * s.taps() * kLanes<T>, [=](int64_t begin, int64_t end) {
    Scratch<T> turned(turned_values<T>(s.taps()));
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t group = unit / pieces / vectors, v = unit / pieces % vectors, first = unit % pieces * kPiece;
      over_weights<T>(s, adjoint, weight, group, v, first, min(sources, first + kPiece), turned,
                      [&](int64_t c, const T* from, int64_t of_tap) { body(group, v, c, from, of_tap); });
    }
  });
}

}  // namespace STRIATE_ISA
}  // namespace striate
