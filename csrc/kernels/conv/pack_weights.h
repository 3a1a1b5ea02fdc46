// PACKW
#pragma once
#include "core/parallel.h"
#include "core/simd.h"
#include "core/transpose.h"
#include "kernels/conv/conv.h"

namespace striate {
namespace STRIATE_ISA {

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
