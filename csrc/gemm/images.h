// Positions that go through the pixels of one image after the other, as k or as columns of a product of matrices do in
// NCHW. An image's pixels are contiguous, images lie apart. Positions are numbered as if each image had `width` pixels,
// whole vectors: then no vector goes over the end of an image.
#pragma once
#include "core/parallel.h"

namespace striate {
namespace STRIATE_ISA {

struct Images {
  static constexpr int64_t kEndless = int64_t(1) << 62;

  int64_t count = 1, pixels = kEndless, width = kEndless;  // one image without an end: positions are contiguous
  int64_t apart = 0;                                       // values from image to image

  // Images whose width is the next multiple of `unit`.
  static Images in_units_of(int64_t unit, int64_t count, int64_t pixels, int64_t apart) {
    return {count, pixels, ceil_div(pixels, unit) * unit, apart};
  }
  int64_t positions() const { return count * width; }
  // Where a position lies, in values. (Most products have one image: they are spared a division.)
  int64_t at(int64_t position) const {
    return position < width ? position : position / width * apart + position % width;
  }
  // How many of the positions from this one up to `end` are pixels of its image.
  int64_t run(int64_t position, int64_t end) const {
    return min(end - position, pixels - (position < width ? position : position % width));
  }
  // Calls body(position, count) for the pixels of each image among the positions [begin, end).
  template <class Body>
  void for_each_run(int64_t begin, int64_t end, const Body& body) const {
    for (int64_t image = begin / width; image * width < end; ++image)
      body(max(begin, image * width), min(end, image * width + pixels) - max(begin, image * width));
  }
};

}  // namespace STRIATE_ISA
}  // namespace striate
