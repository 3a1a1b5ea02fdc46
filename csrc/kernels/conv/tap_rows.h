// The sources that a convolution multiplies, as an operand of a product of matrices (gemm/sources.h), without writing
// them out (im2row; Chellapilla, Puri, Simard 2006). Line r = (tap, channel), value k = a destination:
//
//   value (r, k) = x[k · stride - before + tap · dilation, channel], 0 in the padding
//
// Layout, NHWC. Lines are contiguous in memory for the channels of a tap, and where taps lie next to each other for a
// whole row of taps, a `block`. Destinations of a row of the image lie a stride apart. A vector of lines is packed for
// one row of destinations after the other; one that goes over the end of a block is put together from its segments.
#pragma once
#include "core/window.h"
#include "gemm/sources.h"

namespace striate {
namespace STRIATE_ISA {

template <class T>
struct TapRows {
  const T* x;
  Axis depth, height, width;
  int64_t channels, pitch;  // channels of a group; values from pixel to pixel
  int64_t block_taps;       // taps of a block

  Prefetch prefetch(int64_t, int64_t, int64_t, int64_t, int64_t) const { return {}; }

  void pack_columns(int64_t line, int64_t lines, int64_t k, int64_t count, T* to) const {
    constexpr int64_t L = kLanes<T>;
    const int64_t block = block_taps * channels;
    for (int64_t c = 0; c < lines; c += L) {
      const int64_t sliver = c / (2 * L) * 2 * L, vectors = lines - sliver > L ? 2 : 1;
      T* column = to + sliver * count + (c - sliver);
      const int64_t lanes = min(L, lines - c), first = line + c;
      const bool whole = lanes == L && first % block + L <= block;
      if (!whole)
        for (int64_t i = 0; i < count; ++i) store(column + i * vectors * L, Vector<T>{});
      for (int64_t lane = 0, next; lane < lanes; lane = next) {
        const int64_t r = first + lane;
        next = min(lanes, lane + block - r % block);
        for_each_run(k, count, r / block, [&](int64_t at, int64_t run, int64_t pixel, const T* row) {
          T* put = column + at * vectors * L;
          for (int64_t i = 0; i < run; ++i, put += vectors * L, pixel += width.stride) {
            const int64_t tap = r % block / channels, from = pixel * pitch + r % block;
            const int64_t last_tap = (r % block + next - lane - 1) / channels;
            if (row && whole && pixel + tap >= 0 && pixel + last_tap < width.input) {
              store(put, load(row + from));
            } else {
              if (whole) store(put, Vector<T>{});
              for (int64_t l = lane; row && l < next; ++l) {
                const int64_t source = pixel + (r % block + l - lane) / channels;
                if (source >= 0 && source < width.input) put[l] = row[from + l - lane];
              }
            }
          }
        });
      }
    }
  }

 private:
  // Calls body(at, run, pixel, row) for each run of destinations of one row of an image: the at-th of those from k on,
  // how many, the pixel of the row that the block begins at for the first of them, and the row, or null in the padding.
  template <class Body>
  STRIATE_INLINE void for_each_run(int64_t k, int64_t count, int64_t block, const Body& body) const {
    const int64_t blocks_wide = width.size / block_taps, tw = block % blocks_wide * block_taps,
                  th = block / blocks_wide % height.size, td = block / blocks_wide / height.size;
    for (int64_t at = 0, run; at < count; at += run) {
      const int64_t row = (k + at) / width.output, w = (k + at) % width.output, h = row % height.output,
                    d = row / height.output % depth.output, n = row / height.output / depth.output;
      run = min(count - at, width.output - w);
      const int64_t i = d * depth.stride - depth.before + td * depth.dilation,
                    j = h * height.stride - height.before + th * height.dilation;
      const bool inside = i >= 0 && i < depth.input && j >= 0 && j < height.input;
      body(at, run, w * width.stride - width.before + tw * width.dilation,
           inside ? x + ((n * depth.input + i) * height.input + j) * width.input * pitch : nullptr);
    }
  }
};

}  // namespace STRIATE_ISA
}  // namespace striate
