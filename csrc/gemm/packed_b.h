// PACKEDB
#pragma once
#include "core/parallel.h"
#include "core/simd.h"

namespace striate {
namespace STRIATE_ISA {

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

}  // namespace STRIATE_ISA
}  // namespace striate
