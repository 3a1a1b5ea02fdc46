// The layout of a packed right operand B of a product of matrices: panels of two vectors of columns, [panel][k][lanes
// of both vectors]. The last panel is one vector wide where the vectors are odd. In a convolution columns are filters
// and k are source channels, or channels and taps.
#pragma once
#include "core/parallel.h"
#include "core/simd.h"

namespace striate {
namespace STRIATE_ISA {

// Where a panel, and a vector of one k, begin, and how wide a panel is. size() is an odd number of cache lines, so that
// matrices side by side do not share a few sets of the cache.
template <class T>
struct PackedB {
  int64_t vectors, channels;  // of columns; of k
  int64_t count() const { return ceil_div(vectors, 2); }
  int64_t width(int64_t panel) const { return min(2, vectors - 2 * panel) * kLanes<T>; }
  int64_t at(int64_t panel) const { return 2 * panel * kLanes<T> * channels; }
  int64_t at(int64_t vector, int64_t channel) const {
    return at(vector / 2) + channel * width(vector / 2) + vector % 2 * kLanes<T>;
  }
  int64_t size() const { return (vectors * channels | 1) * kLanes<T>; }
};

}  // namespace STRIATE_ISA
}  // namespace striate
