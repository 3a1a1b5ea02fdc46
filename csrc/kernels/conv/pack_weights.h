// Reorders the weights of a convolution, or of its adjoint, into vectors of destination channels, from either memory
// order, for kernels that pack them further.
#pragma once
#include "core/parallel.h"
#include "core/simd.h"
#include "core/transpose.h"
#include "kernels/conv/conv.h"

namespace striate {
namespace STRIATE_ISA {

// Source channels that are transposed at a time, and the size of the buffer for them.
constexpr int64_t kPiece = 16;
template <class T>
int64_t pack_buffer_values(int64_t taps) {
  return (kPiece * taps + kLanes<T>)*kLanes<T>;
}

// Calls body(source, from, tap_stride) for each of a group's sources [begin, end) with the weights of the v-th vector
// of destination channels: tap t is at from + t · tap_stride, in the order in which a destination meets its sources
// (the adjoint reverses the taps). `transposed` is the buffer.
template <class T, class Body>
void for_each_weight_vector(const ConvShape& s, bool adjoint, Weight<T> weight, int64_t group, int64_t v, int64_t begin,
                            int64_t end, T* transposed, const Body& body) {
  constexpr int64_t L = kLanes<T>;
  const int64_t inputs = s.channels / s.groups, outputs = s.filters / s.groups, taps = s.taps();
  const int64_t lanes = min(L, (adjoint ? inputs : outputs) - v * L);
  for (int64_t first = begin; first < end; first += kPiece) {
    const int64_t last = min(end, first + kPiece);
    // The buffer is [source][tap][lane], or [tap][source][lane] for channels_last weights. Lanes are filters forward,
    // whose weights are contiguous, and channels in the adjoint.
    int64_t source_stride = taps * L, tap_stride = L;
    if (!adjoint) {
      const T* row = weight.data + (group * outputs + v * L) * inputs * taps;
      if (weight.channels_last) {
        source_stride = L, tap_stride = kPiece * L;
        for (int64_t t = 0; t < taps; ++t)
          pack_lanes(row + t * inputs + first, inputs * taps, lanes, last - first, transposed + t * tap_stride);
      } else {
        pack_lanes(row + first * taps, inputs * taps, lanes, (last - first) * taps, transposed);
      }
    } else {
      for (int64_t c = first; c < last; ++c) {
        const T* filter = weight.data + (group * outputs + c) * inputs * taps;
        T* at = transposed + (c - first) * source_stride;
        if (weight.channels_last)
          for (int64_t t = 0; t < taps; ++t)
            store(at + t * L, load_first<Vector<T>>(filter + t * inputs + v * L, lanes));
        else
          pack_lanes(filter + v * L * taps, taps, lanes, taps, at);
      }
    }
    for (int64_t c = first; c < last; ++c) {
      const T* from = transposed + (c - first) * source_stride;
      body(c, adjoint ? from + (taps - 1) * tap_stride : from, adjoint ? -tap_stride : tap_stride);
    }
  }
}

// The same for all groups, vectors and sources, in parallel: body(group, vector, source, from, tap_stride).
template <class T, class Body>
void for_each_weight_vector(const ConvShape& s, bool adjoint, Weight<T> weight, const Body& body) {
  const int64_t sources = (adjoint ? s.filters : s.channels) / s.groups,
                vectors = ceil_div((adjoint ? s.channels : s.filters) / s.groups, kLanes<T>);
  const int64_t pieces = ceil_div(sources, kPiece);
  parallel_for(s.groups * vectors * pieces, 2 * kPiece * s.taps() * kLanes<T>, [=](int64_t begin, int64_t end) {
    Scratch<T> transposed(pack_buffer_values<T>(s.taps()));
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t group = unit / pieces / vectors, v = unit / pieces % vectors, first = unit % pieces * kPiece;
      for_each_weight_vector<T>(
          s, adjoint, weight, group, v, first, min(sources, first + kPiece), transposed,
          [&](int64_t c, const T* from, int64_t tap_stride) { body(group, v, c, from, tap_stride); });
    }
  });
}

}  // namespace STRIATE_ISA
}  // namespace striate
