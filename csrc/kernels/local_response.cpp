// Local response normalization, over the window of channels c - size/2 … c + (size - 1)/2:
//
//   y = x·D^-β,   D = k + α/size·Σ x²,   dx = dy·D^-β - 2αβ/size·x·Σ dy·x·D^(-β-1)
//
// The sum in dx is over the channels whose windows hold c: the mirrored window.
//
// Layout. A tile holds all channels of some positions; channels are `pitch` apart: 1 in NHWC, the tile's width in NCHW.
// Either way a window is a sum of shifted copies of one row of numbers, with zeros before and behind: plain loops that
// the compiler vectorizes. Sums and powers are doubles: squares of values near 1e30 do not overflow.
#include "kernels/local_response.h"

#include "core/machine.h"
#include "core/parallel.h"
#include "core/simd.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

inline void to_minus_beta(double* d, int64_t count, double beta) {
  if (beta == 0.75)  // AlexNet's
    for (int64_t i = 0; i < count; ++i) d[i] = 1 / (__builtin_sqrt(d[i]) * __builtin_sqrt(__builtin_sqrt(d[i])));
  else if (beta == 0.5)
    for (int64_t i = 0; i < count; ++i) d[i] = 1 / __builtin_sqrt(d[i]);
  else if (beta == 1)
    for (int64_t i = 0; i < count; ++i) d[i] = 1 / d[i];
  else
    for (int64_t i = 0; i < count; ++i) d[i] = __builtin_pow(d[i], -beta);
}

// One tile of numbers, with room for a window's zeros on both sides.
struct Row {
  Scratch<double> room;
  int64_t margin, count;
  Row(int64_t count, int64_t margin) : room(count + 2 * margin), margin(margin), count(count) {}
  double* values() const { return room + margin; }

  // Computes sum[i] = Σ over taps first … first + size - 1, in that order, of value[i + tap·pitch].
  void window(int64_t n, int64_t first, int64_t size, int64_t pitch, double* sum) const {
    for (int64_t i = 0; i < margin; ++i) room[i] = values()[n + i] = 0;
    for (int64_t i = 0; i < n; ++i) sum[i] = 0;
    for (int64_t tap = first; tap < first + size; ++tap) {
      const double* from = values() + tap * pitch;
      for (int64_t i = 0; i < n; ++i) sum[i] += from[i];
    }
  }
};

struct Tiling {
  LocalResponse p;
  int64_t width, across;  // positions of a tile, tiles of a sample

  explicit Tiling(const LocalResponse& p) : p(p) {
    const int64_t values = band_bytes() / (3 * int64_t(sizeof(double)));  // of three rows of doubles
    width = p.channels_last ? 1 : max(1, min(p.positions, values / p.channels));
    across = ceil_div(p.positions, width);
  }
  int64_t most() const { return p.channels * width; }
  int64_t margin() const { return min(p.size, p.channels) * width; }

  // Calls body(columns, offset of a channel's first value, distance between channels) for every tile of the range.
  template <class Body>
  void over(int64_t begin, int64_t end, const Body& body) const {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / across, first = unit % across * width;
      if (p.channels_last)
        body(int64_t(1), unit * p.channels, int64_t(1));
      else
        body(min(width, p.positions - first), n * p.channels * p.positions + first, p.positions);
    }
  }
  // Calls body(first, count) with the taps of a window that begins `before` channels back, without those that never
  // meet a channel.
  template <class Body>
  void taps(int64_t before, const Body& body) const {
    const int64_t first = max(-before, 1 - p.channels), last = min(p.size - 1 - before, p.channels - 1);
    body(first, last - first + 1);
  }
};

// Computes D of a tile's values.
template <class T>
inline void divisors(const Tiling& t, const T* x, int64_t columns, int64_t pitch, const Row& squares, double* d) {
  const int64_t n = t.p.channels * columns;
  for (int64_t c = 0; c < t.p.channels; ++c)
    for (int64_t w = 0; w < columns; ++w)
      squares.values()[c * columns + w] = double(x[c * pitch + w]) * double(x[c * pitch + w]);
  t.taps(t.p.size / 2, [&](int64_t first, int64_t size) { squares.window(n, first, size, columns, d); });
  const double alpha = t.p.alpha / double(t.p.size);
  for (int64_t i = 0; i < n; ++i) d[i] = t.p.k + alpha * d[i];
}

template <class T>
void forward(const LocalResponse& p, const T* x, T* y) {
  const Tiling tiling(p);
  parallel_for(p.batch * tiling.across, tiling.most() * (p.size + 8), [=](int64_t begin, int64_t end) {
    const Row squares(tiling.most(), tiling.margin());
    const Scratch<double> power(tiling.most());
    tiling.over(begin, end, [&](int64_t columns, int64_t at, int64_t pitch) {
      divisors(tiling, x + at, columns, pitch, squares, power);
      to_minus_beta(power, p.channels * columns, p.beta);
      for (int64_t c = 0; c < p.channels; ++c)
        for (int64_t w = 0; w < columns; ++w)
          y[at + c * pitch + w] = T(double(x[at + c * pitch + w]) * power[c * columns + w]);
    });
  });
}

template <class T>
void backward(const LocalResponse& p, const T* dy, const T* x, T* dx) {
  const Tiling tiling(p);
  parallel_for(p.batch * tiling.across, tiling.most() * (2 * p.size + 16), [=](int64_t begin, int64_t end) {
    const Row row(tiling.most(), tiling.margin());
    const Scratch<double> d(tiling.most()), power(tiling.most());
    const double slope = 2 * p.alpha * p.beta / double(p.size);
    tiling.over(begin, end, [&](int64_t columns, int64_t at, int64_t pitch) {
      const int64_t n = p.channels * columns;
      divisors(tiling, x + at, columns, pitch, row, d);
      for (int64_t i = 0; i < n; ++i) power[i] = d[i];
      to_minus_beta(power, n, p.beta);
      for (int64_t c = 0; c < p.channels; ++c)
        for (int64_t w = 0; w < columns; ++w) {
          const int64_t i = c * columns + w, from = at + c * pitch + w;
          row.values()[i] = double(dy[from]) * double(x[from]) * (power[i] / d[i]);
        }
      tiling.taps((p.size - 1) / 2, [&](int64_t first, int64_t size) { row.window(n, first, size, columns, d); });
      for (int64_t c = 0; c < p.channels; ++c)
        for (int64_t w = 0; w < columns; ++w) {
          const int64_t i = c * columns + w, from = at + c * pitch + w;
          dx[from] = T(double(dy[from]) * power[i] - slope * double(x[from]) * d[i]);
        }
    });
  });
}

}  // namespace

extern const LocalResponseKernels<float> local_response_f32;
extern const LocalResponseKernels<double> local_response_f64;
const LocalResponseKernels<float> local_response_f32 = {forward<float>, backward<float>};
const LocalResponseKernels<double> local_response_f64 = {forward<double>, backward<double>};

}  // namespace STRIATE_ISA
}  // namespace striate
