// Moments: the count, the mean and the sum of squared deviations of values (moments.py states the law).
//
// Values are summed in chunks of some thousand, as deviations from a shift near their mean, so that the sums stay small
// and float keeps its digits. The shift of a chunk is the mean of the chunks before it: a chunk whose mean differs from
// it by δ loses no more than the digits of δ², which the difference itself adds to the sum. The first chunk has no mean
// before it and is read twice. Chunks are merged in double.
#pragma once
#include "core/parallel.h"
#include "core/simd.h"

namespace striate {
namespace STRIATE_ISA {

struct Moments {
  double count = 0, mean = 0, m2 = 0;

  STRIATE_INLINE void merge(const Moments& b) {
    if (b.count == 0) return;
    if (count == 0) {
      *this = b;
      return;
    }
    const double n = count + b.count, delta = b.mean - mean, share = b.count / n;
    mean += delta * share;
    m2 += b.m2 + delta * delta * count * share;
    count = n;
  }
  double variance() const { return m2 / count; }
};

// Merges `runs` rows of moments in order, a column for each of `channels` channels: their means and variances. All
// moments of a row have the same count, so that a row takes one division.
inline void merge_rows(const Moments* rows, int64_t runs, int64_t channels, double* mean, double* variance) {
  constexpr int64_t kPiece = 16;  // channels of a unit of work
  parallel_for(ceil_div(channels, kPiece), kPiece * runs * 4, [=](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t first = piece * kPiece, width = min(kPiece, channels - first);
      double means[kPiece] = {}, squares[kPiece] = {}, n = 0;
      for (int64_t r = 0; r < runs; ++r) {
        const Moments* row = rows + r * channels + first;
        const double share = row->count / (n + row->count), weight = n * share;
        for (int64_t c = 0; c < width; ++c) {
          const double delta = row[c].mean - means[c];
          means[c] += delta * share, squares[c] += row[c].m2 + delta * delta * weight;
        }
        n += row->count;
      }
      for (int64_t c = 0; c < width; ++c) mean[first + c] = means[c], variance[first + c] = squares[c] / n;
    }
  });
}

// The moments of n values, from the sums of their deviations from `shift` and of the squares of these.
inline Moments shifted_moments(double n, double shift, double sum, double square) {
  const double m2 = square - sum * (sum / n);
  return {n, shift + sum / n, m2 < 0 ? 0 : m2};
}

// Equally long segments of consecutive values, `pitch` values apart: the i-th value is x[i / length · pitch + i %
// length].
struct Segments {
  int64_t length, pitch;

  // Calls body(offset in x, count) for each stretch of consecutive values in [begin, end).
  template <class Body>
  STRIATE_INLINE void over(int64_t begin, int64_t end, const Body& body) const {
    int64_t run = begin / length, first = begin - run * length;
    for (; begin < end; ++run, first = 0) {
      const int64_t count = min(length - first, end - begin);
      body(run * pitch + first, count);
      begin += count;
    }
  }
  // The largest number of values up to `most` that ends with a segment, or `most` where one segment is longer.
  int64_t whole(int64_t most) const { return length >= most ? most : most / length * length; }
};

constexpr int64_t kChunk = 4096;
// How many terms one sum of T has. Squares of numbers on a grid, as floats far from zero are, are all 0 or 1 modulo 4
// of the grid's square: where the sum cannot hold that last digit it is always cut off, never rounded up. Sums of 16
// terms still hold it; sums of 64 terms lose 3e-7.
constexpr int64_t kTerms = 16;

// Sums d and d·d for d = x - shift over values [begin, end).
template <class T>
inline void deviation_sums(const T* x, const Segments& segments, int64_t begin, int64_t end, T shift, double* sum,
                           double* square) {
  constexpr int64_t L = kLanes<T>;
  Vector<double> total_s = {}, total_q = {};
  const Vector<T> from = broadcast(shift);
  segments.over(begin, end, [&](int64_t at, int64_t count) {
    for (int64_t first = 0; first < count; first += 4 * kTerms * L) {
      const T* run = x + at + first;
      const int64_t n = min(4 * kTerms * L, count - first);
      Vector<T> s[4] = {}, q[4] = {};
      int64_t i = 0;
      for (; i + 4 * L <= n; i += 4 * L)
        for (int b = 0; b < 4; ++b) {
          const Vector<T> d = load(run + i + b * L) - from;
          s[b] += d, q[b] += d * d;
        }
      for_each_vector<T>(n - i, [&](int64_t j, auto whole, int64_t lanes) {
        const Vector<T> d = mask_lanes<T>(whole, load_lanes(whole, run + i + j, lanes) - from, lanes);
        s[0] += d, q[0] += d * d;
      });
      add_widened<T>((s[0] + s[1]) + (s[2] + s[3]), total_s);
      for (int b = 0; b < 4; ++b) add_widened<T>(q[b], total_q);
    }
  });
  *sum = sum_lanes<double>(total_s);
  *square = sum_lanes<double>(total_q);
}

// The moments in double, for values whose squares overflow: from about 1e19 on in float.
template <class T>
inline Moments wide_moments(const T* x, const Segments& segments, int64_t begin, int64_t end, bool centered) {
  const double n = double(end - begin),
               first = centered ? double(x[begin / segments.length * segments.pitch + begin % segments.length]) : 0;
  double sum = 0, square = 0;
  if (centered)
    segments.over(begin, end, [&](int64_t at, int64_t count) {
      for (int64_t i = 0; i < count; ++i) sum += double(x[at + i]) - first;
    });
  const double mean = first + sum / n;
  segments.over(begin, end, [&](int64_t at, int64_t count) {
    for (int64_t i = 0; i < count; ++i) square += (double(x[at + i]) - mean) * (double(x[at + i]) - mean);
  });
  return {n, mean, square};
}

// The moments of values [begin, end); if not centered, the mean is taken as 0.
template <class T>
inline Moments measure(const T* x, const Segments& segments, int64_t begin, int64_t end, bool centered) {
  Moments total;
  for (int64_t next, at = begin, chunk = segments.whole(kChunk); at < end; at = next) {
    next = min(end, at + chunk);
    T shift = T(total.mean);
    double sum, square;
    if (centered && total.count == 0) {
      // The first value as shift makes the deviations of constant values exactly 0.
      const T first = x[at / segments.length * segments.pitch + at % segments.length];
      deviation_sums(x, segments, at, next, first, &sum, &square);
      shift = T(double(first) + sum / double(next - at));
    }
    deviation_sums(x, segments, at, next, shift, &sum, &square);
    if (!(square < __builtin_inf()))
      total.merge(wide_moments(x, segments, at, next, centered));
    else
      total.merge(centered ? shifted_moments(double(next - at), shift, sum, square)
                           : Moments{double(next - at), 0, square});
  }
  return total;
}

}  // namespace STRIATE_ISA
}  // namespace striate
