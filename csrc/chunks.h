// Sums over a batch, cut into chunks by shape alone and merged in one order: the bits do not depend on who summed what.
#pragma once
#include "parallel.h"

namespace striate {
namespace STRIATE_ISA {

// The first of `chunks` arrays of `count` partial sums becomes the sum of all, added in double.
template <class T>
inline void merge_chunks(T* partial, int64_t chunks, int64_t count) {
  if (chunks == 1) return;
  constexpr int64_t kPiece = 64;
  parallel_for(tiles(count, kPiece), kPiece * chunks, [=](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      T* to = partial + piece * kPiece;
      const int64_t n = min(kPiece, count - piece * kPiece);
      double total[kPiece] = {};
      for (int64_t chunk = 0; chunk < chunks; ++chunk)
        for (int64_t i = 0; i < n; ++i) total[i] += double(to[chunk * count + i]);
      for (int64_t i = 0; i < n; ++i) to[i] = T(total[i]);
    }
  });
}

}  // namespace STRIATE_ISA
}  // namespace striate
