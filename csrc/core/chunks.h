// Sums over a batch in a fixed order: the work is cut into chunks by its shape alone, and chunks are merged in order,
// so the bits do not depend on the number of threads.
#pragma once
#include "core/parallel.h"

namespace striate {
namespace STRIATE_ISA {

// A kernel sums about this many positions in float (some tens or hundreds at a time in registers) before it adds the
// sum to a double.
constexpr int64_t kFloatPositions = 2048;

// The sum of one chunk. A kernel accumulates in `sum`; add() moves that into `total`, in double, and sets `sum` to
// zero.
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

// Adds `chunks` arrays of `count` sums; the first array holds the result.
inline void merge_chunks(double* sums, int64_t chunks, int64_t count) {
  if (chunks == 1) return;
  constexpr int64_t kPiece = 64;
  parallel_for(ceil_div(count, kPiece), kPiece * chunks, [=](int64_t begin, int64_t end) {
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
