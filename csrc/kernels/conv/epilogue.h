// Applies a convolution's Epilogue (conv.h) to a vector of sums before it is stored.
#pragma once
#include "core/machine.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "kernels/conv/conv.h"

namespace striate {
namespace STRIATE_ISA {

// Finishes sums, to which the bias has been added, for the results at y[at], but for an activation that is no clamp:
// that is applied to what is stored (`activate`).
template <class T, class Whole>
STRIATE_INLINE Vector<T> finish(Whole whole, const Epilogue<T>& e, const Vector<T>& sum, int64_t at, int64_t lanes) {
  return clamp<T>(e.residual ? sum + load_lanes(whole, e.residual + at, lanes) : sum, e.activation.low,
                  e.activation.high);
}
// Finishes `count` sums that are stored at y[at], and activates them, as many at a time as stay in the first level.
template <class T>
STRIATE_INLINE void finish_values(const Epilogue<T>& e, T* y, int64_t at, int64_t count) {
  const int64_t most = inner_bytes() / int64_t(sizeof(T));
  for (; count > 0; at += most, count -= most) {
    const int64_t now = min(most, count);
    for_each_vector<T>(now, [&](int64_t i, auto whole, int64_t lanes) {
      store_lanes(whole, y + at + i, finish(whole, e, load_lanes(whole, y + at + i, lanes), at + i, lanes), lanes);
    });
    activate(e.activation, y + at, now, 1, now);
  }
}

// Finishes a block's sums in `channels` channels from `first` on. In NHWC these must be all channels, so that runs of
// results are contiguous.
template <class T, class PassShape, class Block>
inline void finish_block(const Epilogue<T>& e, T* y, const PassShape& s, const Block& b, int64_t first,
                         int64_t channels) {
  const int64_t all = s.all_to_channels(), H = s.height.destinations(), W = s.width.destinations(),
                positions = s.destinations(), planes = s.channels_last ? 1 : channels,
                pixel = s.channels_last ? all : 1;
  const bool whole_rows = b.w1 - b.w0 == W;
  const int64_t rows = whole_rows ? b.h1 - b.h0 : 1, run = rows * (b.w1 - b.w0) * pixel;
  for (int64_t c = 0; c < planes; ++c)
    for (int64_t d = b.d0; d < b.d1; ++d)
      for (int64_t h = b.h0; h < b.h1; h += rows)
        finish_values(e, y, (b.n * all + first + c) * positions + ((d * H + h) * W + b.w0) * pixel, run);
}

// Finishes all sums of a pass, where the blocks of one thread are no contiguous runs of results.
template <class T, class PassShape>
inline void finish_all(const Epilogue<T>& e, int64_t batch, T* y, const PassShape& side) {
  const int64_t image = side.all_to_channels() * side.destinations();
  parallel_for(batch, image,
               [=](int64_t begin, int64_t end) { finish_values(e, y, begin * image, (end - begin) * image); });
}

}  // namespace STRIATE_ISA
}  // namespace striate
