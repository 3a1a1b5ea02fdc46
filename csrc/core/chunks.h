// Sums over a batch, cut into chunks by shape alone and merged in one order: the bits do not depend on who summed what.
#pragma once
#include "core/parallel.h"

namespace striate {
namespace STRIATE_ISA {

// About how many places a kernel adds up in float, some tens or hundreds in registers at a time, before it hands them
// on.
constexpr int64_t kPlacesInFloat = 2048;

// The sum of a chunk: what a kernel has added up in `sum`, add() takes into `total`, in double, and begins `sum` anew.
template <class T>
class ChunkSum {
 public:
  ChunkSum(double* total, T* sum, int64_t count) : total_(total), sum_(sum), count_(count) {
    for (int64_t i = 0; i < count; ++i) total[i] = 0, sum[i] = 0;
  }
  void add() {
    for (int64_t i = 0; i < count_; ++i) total_[i] += double(sum_[i]), sum_[i] = 0;
  }

 private:
  double* total_;
  T* sum_;
  int64_t count_;
};

// The first of `chunks` arrays of `count` sums becomes the sum of all.
inline void merge_chunks(double* sums, int64_t chunks, int64_t count) {
  if (chunks == 1) return;
  constexpr int64_t kPiece = 64;
  parallel_for(tiles(count, kPiece), kPiece * chunks, [=](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      double* to = sums + piece * kPiece;
      const int64_t n = min(kPiece, count - piece * kPiece);
      for (int64_t chunk = 1; chunk < chunks; ++chunk)
        for (int64_t i = 0; i < n; ++i) to[i] += to[chunk * count + i];
    }
  });
}

}  // namespace STRIATE_ISA
}  // namespace striate
