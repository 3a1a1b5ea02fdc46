// Locally connected layers: a convolution with separate weights at every output position o.
//
//   y[n, k, o] = b[k, o] + Σ_{c, t} x[n, c, i(o, t)] · w[k, c, o, t]
//   dx[n, c, i] = Σ_{(o, t): i(o, t) = i} Σ_k dy[n, k, o] · w[k, c, o, t]
//   dw[k, c, o, t] = Σ_n dy[n, k, o] · x[n, c, i(o, t)]
//
// Each position is a small product of matrices that shares no factor with the others. A vector holds as many positions
// as it has lanes: the products of a block of positions are computed lane by lane, and nothing is ever added across
// lanes (interleaved products of matrices: Kim and others, *Designing vector-friendly compact BLAS and LAPACK kernels*,
// 2017). Of the three indices n, k and (c, t) each pass sums over one; one micro-kernel serves all three, with
// different strides.
//
// Layout. The weight stays as it is, (filters, channels, positions, taps). It is used once for each sample, so that
// reading it takes longest where there are few samples. It is read once, in runs as long as the caches allow (a strip
// of blocks; rows are pages apart, and the row after the next is prefetched: without either, it was read at 4 of 10
// GB/s), and packed to [tap][lane], L × L values in registers at a time. The sources of a strip are gathered to
// [sample][channel][tap][lane], a few channels at a time: they and the weights of some filters stay in the first-level
// cache while they are multiplied.
//
// x is padded with zeros, and along the width positions `stride` apart are contiguous. The sources of a tap for the
// positions of one row are then a piece of a row, whatever the stride, and a vector is made of as many pieces as its
// positions have rows.
//
// Bits. Each result is one sum in one order, over (c, t), k or n, wherever blocks and pieces are cut.
#include "kernels/local.h"

#include "core/machine.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "core/transpose.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

constexpr int kMicroRows = 6,
              kMicroColumns =
                  kVectorBytes == 64 ? 4 : 2;  // of the micro-kernel: sums take 12 of 16 registers, or 24 of 32
constexpr int64_t kPanelFilters = 8;           // filters of a panel, whose weights are packed before they are used
constexpr int64_t kAhead = 2;                  // how many rows of weights ahead to prefetch
constexpr int64_t kUnits = 16;  // least number of pieces of backward_data, where there are samples enough
template <class T>
constexpr int64_t kLine = 64 / int64_t(sizeof(T));  // values of a cache line

// ----------------------------------------------------------------------------------------------------------- positions

// Planes padded with zeros as far as windows reach: [row of all depths][plane][phase][column], so that the sources of
// one row's positions are contiguous in every plane. Vectors may begin before the first value and end behind the last.
struct PaddedPlanes {
  int64_t count, rows, height, phases, columns;
  Axis d, h, w;

  PaddedPlanes(const Window& window, int64_t count) : count(count), d(window.depth), h(window.height), w(window.width) {
    height = reach(h), rows = reach(d) * height, phases = w.output > 1 ? w.stride : 1,
    columns = ceil_div(reach(w), phases);
  }
  static int64_t reach(const Axis& a) { return (a.output - 1) * a.stride + (a.size - 1) * a.dilation + 1; }
  int64_t plane() const { return phases * columns; }  // distance between planes
  int64_t row() const { return count * plane(); }     // distance between rows
  template <class T>
  int64_t values() const {
    return rows * row() + 2 * kLanes<T>;
  }
  int64_t tap(int64_t t) const {
    const int64_t tw = t % w.size * w.dilation, th = t / w.size % h.size * h.dilation,
                  td = t / w.size / h.size * d.dilation;
    return (td * height + th) * row() + tw % phases * columns + tw / phases;
  }
  int64_t position(int64_t o) const {
    const int64_t ow = o % w.output, oh = o / w.output % h.output, od = o / w.output / h.output;
    return (od * d.stride * height + oh * h.stride) * row() + ow;
  }
  // Calls body(offset in the first plane, offset in x, count) for the values of x, whose neighbours are `phases` apart.
  template <class Body>
  STRIATE_INLINE void over(const Body& body) const {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t j = r % height - h.before, i = r / height - d.before;
      if (i < 0 || i >= d.input || j < 0 || j >= h.input) continue;
      for (int64_t phase = 0; phase < phases; ++phase) {
        const int64_t first = phase < w.before ? ceil_div(w.before - phase, phases) : 0;
        const int64_t last = min(columns, ceil_div(w.input + w.before - phase, phases));
        if (last > first)
          body(r * row() + phase * columns + first, (i * h.input + j) * w.input + first * phases + phase - w.before,
               last - first);
      }
    }
  }
};

// As many positions as a vector has lanes, as parts of rows.
template <class T>
struct PositionBlock {
  int64_t first, lanes, parts = 0;
  int64_t at[kLanes<T>];  // offset of a vector that has the part's positions in their lanes
  IntVector<T> in[kLanes<T>];

  PositionBlock(int64_t positions, const PaddedPlanes& planes, int64_t number)
      : first(number * kLanes<T>), lanes(min(kLanes<T>, positions - first)) {
    for (int64_t lane = 0, count; lane < lanes; lane += count, ++parts) {
      count = min(lanes - lane, planes.w.output - (first + lane) % planes.w.output);
      at[parts] = planes.position(first + lane) - lane;
      in[parts] = first_lanes<T>(lane + count) & ~first_lanes<T>(lane);
    }
  }
  STRIATE_INLINE Vector<T> gather(const T* x) const {
    Vector<T> v = load(x + at[0]);
    for (int64_t p = 1; p < parts; ++p) v = in[p] ? load(x + at[p]) : v;
    return v;
  }
  STRIATE_INLINE void scatter(const Vector<T>& v, T* dx) const {
    for (int64_t p = 0; p < parts; ++p) store(dx + at[p], load(dx + at[p]) + (in[p] ? v : Vector<T>{}));
  }
};

// Pads all of x with zeros.
template <class T>
void pad(const PaddedPlanes& planes, const T* x, T* padded) {
  const int64_t values = planes.d.input * planes.h.input * planes.w.input;
  parallel_for(planes.rows, planes.row(), [=](int64_t begin, int64_t end) {
    const int64_t first = begin == 0 ? 0 : kLanes<T> + begin * planes.row();
    memset(padded + first, 0,
           size_t(kLanes<T> + end * planes.row() + (end == planes.rows ? kLanes<T> : 0) - first) * sizeof(T));
  });
  parallel_for(planes.count, 2 * values, [=](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      planes.over([&](int64_t in_plane, int64_t in_x, int64_t count) {
        T* to = padded + kLanes<T> + p * planes.plane() + in_plane;
        const T* from = x + p * values + in_x;
        for (int64_t i = 0; i < count; ++i) to[i] = from[i * planes.phases];
      });
  });
}

// The offset of each tap in the padded planes.
class TapOffsets {
 public:
  TapOffsets(const PaddedPlanes& planes, int64_t count) : taps_(count) {
    for (int64_t t = 0; t < count; ++t) taps_[t] = planes.tap(t);
  }
  int64_t operator[](int64_t t) const { return taps_[t]; }

 private:
  Scratch<int64_t> taps_;
};

// Packs dy of a block and a sample as [filter][lane], with zeros in lanes that have no position.
template <class T>
void pack_gradients(const LocalShape& s, const T* dy, int64_t block, int64_t n, T* to) {
  constexpr int64_t L = kLanes<T>;
  const int64_t first = block * L, lanes = min(L, s.positions() - first);
  const T* from = dy + n * s.filters * s.positions() + first;
  if (lanes == L)
    for (int64_t k = 0; k < s.filters; ++k) store(to + k * L, load(from + k * s.positions()));
  else
    for (int64_t k = 0; k < s.filters; ++k) store(to + k * L, load_first<Vector<T>>(from + k * s.positions(), lanes));
}

// ------------------------------------------------------------------------------------------------------------- weights

// Transposes the weights of a block for one filter and channel, `lanes` positions of `taps` consecutive values, to
// [tap][lane]. Lanes beyond repeat the last position. `end` is the end of all weights.
template <class T>
STRIATE_INLINE void transpose_block(const T* weight, const T* end, int64_t lanes, int64_t taps, T* to) {
  constexpr int64_t L = kLanes<T>;
  if (taps == 1) return store(to, load_first<Vector<T>>(weight, lanes));
  int64_t t = 0;
  for (; taps - t > 2; t += L) {  // one or two taps more are copied one by one: cheaper than a transposition
    const int64_t count = min(L, taps - t);
    const bool inside =
        weight + (L - 1) * taps + t + L <= end && lanes == L;  // values behind the block may be loaded too
    Vector<T> rows[L];
    if (inside) {
#pragma GCC unroll 16
      for (int64_t k = 0; k < L; ++k) rows[k] = load(weight + k * taps + t);
    } else {
      for (int64_t k = 0; k < L; ++k) rows[k] = load_first<Vector<T>>(weight + min(k, lanes - 1) * taps + t, count);
    }
    transpose<T>(rows);
    if (count == L) {
#pragma GCC unroll 16
      for (int64_t k = 0; k < L; ++k) store(to + (t + k) * L, rows[k]);
    } else {
      for (int64_t k = 0; k < count; ++k) store(to + (t + k) * L, rows[k]);
    }
  }
  for (; t < taps; ++t)
    for (int64_t k = 0; k < L; ++k) to[t * L + k] = weight[min(k, lanes - 1) * taps + t];
}

// Prefetches rows that are pages apart, which the processor's own prefetching does not find.
template <class T, int Write>
STRIATE_INLINE void fetch_row(const T* from, int64_t count) {
  for (int64_t i = 0; i < count + kLine<T> - 1; i += kLine<T>) __builtin_prefetch(from + i, Write);
}

// Packs the weights of a strip's positions, block after block `step` apart, and prefetches a later row; `row` is the
// distance between rows.
template <class T>
void pack_weights(const T* weight, const T* end, int64_t positions, int64_t taps, int64_t row, T* to, int64_t step) {
  for (int64_t o = 0; o < positions; o += kLanes<T>, to += step) {
    fetch_row<T, 0>(weight + kAhead * row + o * taps, kLanes<T> * taps);
    transpose_block(weight + o * taps, end, min(kLanes<T>, positions - o), taps, to);
  }
}

// -------------------------------------------------------------------------------------------------------- micro-kernel

// Keeps v in a register: otherwise GCC has each product load its factor from memory again, and there are fewer loads
// than products a cycle.
template <class V>
STRIATE_INLINE V hold(V v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#endif
  return v;
}

// The strides of an operand's vectors: to the next row or column, and to the next term of the sum.
struct Steps {
  int64_t next, term;
};

// Computes out[m][v] = Σ_r a[m][r] · b[v][r], lane by lane; with `more`, adds to what out holds.
template <class T, int M, int V>
__attribute__((noinline)) void micro_kernel(const T* a, Steps of_a, const T* b, Steps of_b, int64_t terms, bool more,
                                            T* out, int64_t row, int64_t column) {
  Vector<T> sum[M][V];
#pragma GCC unroll 6
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[m][v] = more ? load(out + m * row + v * column) : Vector<T>{};
  for (int64_t r = 0; r < terms; ++r, a += of_a.term, b += of_b.term) {
    Vector<T> right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = load(b + v * of_b.next);
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) {
      const Vector<T> left = hold(load(a + m * of_a.next));
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[m][v] += left * right[v];
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(out + m * row + v * column, sum[m][v]);
}

template <class T>
void gemm(int64_t rows, const T* a, Steps of_a, int64_t columns, const T* b, Steps of_b, int64_t terms, bool more,
          T* out, int64_t row, int64_t column) {
  for (int64_t m = 0; m < rows; m += kMicroRows)
    for (int64_t v = 0; v < columns; v += kMicroColumns)
      with_constant<kMicroRows>(min(kMicroRows, rows - m), [&](auto M) {
        with_constant<kMicroColumns>(min(kMicroColumns, columns - v), [&](auto V) {
          micro_kernel<T, M.value, V.value>(a + m * of_a.next, of_a, b + v * of_b.next, of_b, terms, more,
                                            out + m * row + v * column, row, column);
        });
      });
}

// The number of blocks in a strip: their weights are read together, in runs of memory as long as the first-level cache
// holds. `values` of a block stay in the second-level cache.
template <class T>
int64_t strip_of(const LocalShape& s, int64_t values) {
  constexpr int64_t size = sizeof(T);
  const int64_t run = max(1, machine().first_level / (kLanes<T> * s.taps() * size)),
                room = max(1, band_bytes() / (values * size));
  return min(min(run, room), ceil_div(s.positions(), kLanes<T>));
}

// -------------------------------------------------------------------------------------------------------------- passes

template <class T>
void forward(const LocalShape& s, const T* x, const T* weight, const T* bias, T* y) {
  constexpr int64_t L = kLanes<T>;
  const PaddedPlanes planes(s.window, s.batch * s.channels);
  const int64_t positions = s.positions(), taps = s.taps(), blocks = ceil_div(positions, L), K = s.filters,
                C = s.channels;
  // A panel of rows and one of filters stay in the first-level cache, the sources of all samples in the second-level
  // cache.
  const int64_t channel_block =
      max(1, min(C, inner_bytes() / int64_t(sizeof(T)) / ((kMicroRows + kPanelFilters) * taps * L)));
  const int64_t sample_block =
      min(s.batch, max(kMicroRows, band_bytes() / int64_t(sizeof(T)) / (channel_block * taps * L)));
  const int64_t strip = strip_of<T>(s, max(sample_block, kPanelFilters / 2) * channel_block * taps * L),
                strips = ceil_div(blocks, strip), pieces = ceil_div(K, kPanelFilters);
  const int64_t source_stride = (channel_block * taps | 1) * L;  // distance between samples, and between filters
  const T* end = weight + K * C * positions * taps;
  const Scratch<T> padded(planes.values<T>());
  pad<T>(planes, x, padded);
  const T* source = padded + L;
  parallel_for(strips * pieces, strip * s.batch * kPanelFilters * C * taps, [=](int64_t begin, int64_t stop) {
    const TapOffsets tap(planes, taps);
    const Scratch<T> sources(strip * sample_block * source_stride), transposed(strip * kPanelFilters * source_stride),
        sums(strip * sample_block * K * L);
    for (int64_t unit = begin, next; unit < stop; unit = next) {
      const int64_t number = unit / pieces;
      next = min(stop, (number + 1) * pieces);
      const int64_t k0 = unit % pieces * kPanelFilters, k1 = min(K, (next - number * pieces) * kPanelFilters),
                    first = number * strip, count = min(strip, blocks - first);
      for (int64_t n0 = 0; n0 < s.batch; n0 += sample_block) {
        const int64_t samples = min(sample_block, s.batch - n0);
        for (int64_t c0 = 0; c0 < C; c0 += channel_block) {
          const int64_t c1 = min(C, c0 + channel_block);
          for (int64_t b = 0; b < count; ++b) {
            const PositionBlock<T> block(positions, planes, first + b);
            for (int64_t n = 0; n < samples; ++n) {
              T* to = sources + (b * sample_block + n) * source_stride;
              const T* from = source + ((n0 + n) * C + c0) * planes.plane();
              for (int64_t c = c0; c < c1; ++c, from += planes.plane())
                for (int64_t t = 0; t < taps; ++t, to += L) store(to, block.gather(from + tap[t]));
            }
          }
          for (int64_t k = k0; k < k1; k += kPanelFilters) {
            const int64_t filters = min(kPanelFilters, k1 - k);
            for (int64_t v = 0; v < filters; ++v)
              for (int64_t c = c0; c < c1; ++c)
                pack_weights(weight + (((k + v) * C + c) * positions + first * L) * taps, end,
                             min(count * L, positions - first * L), taps, positions * taps,
                             transposed + v * source_stride + (c - c0) * taps * L, kPanelFilters * source_stride);
            for (int64_t b = 0; b < count; ++b)
              gemm<T>(samples, sources + b * sample_block * source_stride, {source_stride, L}, filters,
                      transposed + b * kPanelFilters * source_stride, {source_stride, L}, (c1 - c0) * taps, c0 > 0,
                      sums + (b * sample_block * K + k) * L, K * L, L);
          }
        }
        for (int64_t n = 0; n < samples; ++n)
          for (int64_t k = k0; k < k1; ++k)
            for (int64_t b = 0; b < count; ++b) {
              const int64_t at = (first + b) * L, lanes = min(L, positions - at);
              Vector<T> sum = load(sums + ((b * sample_block + n) * K + k) * L);
              if (bias) sum += load_first<Vector<T>>(bias + k * positions + at, lanes);
              store_first(y + ((n0 + n) * K + k) * positions + at, sum, lanes);
            }
      }
    }
  });
}

template <class T>
void backward_data(const LocalShape& s, const T* dy, const T* weight, T* dx) {
  constexpr int64_t L = kLanes<T>;
  const int64_t positions = s.positions(), taps = s.taps(), blocks = ceil_div(positions, L), K = s.filters,
                C = s.channels;
  const int64_t pieces = max(1, min(ceil_div(s.batch, kMicroRows), kUnits / C)),
                sample_block = ceil_div(s.batch, pieces);
  const int64_t values = s.window.depth.input * s.window.height.input * s.window.width.input;
  const int64_t strip = strip_of<T>(s, K * taps * L), step = (K | 1) * L;
  const T* end = weight + K * C * positions * taps;
  const Scratch<T> gradients(blocks * s.batch * step);
  T* packed = gradients;
  parallel_for(blocks * s.batch, 2 * K * L, [=](int64_t begin, int64_t stop) {
    for (int64_t unit = begin; unit < stop; ++unit)
      pack_gradients(s, dy, unit / s.batch, unit % s.batch, packed + unit * step);
  });
  // Each unit of work has channels and samples of its own, so that no two threads add to one position.
  parallel_for(pieces * C, sample_block * K * positions * taps, [=](int64_t begin, int64_t stop) {
    const Scratch<T> transposed(strip * K * taps * L), sums(kMicroRows * taps * L);
    for (int64_t unit = begin, next; unit < stop; unit = next) {
      const int64_t piece = unit / C, c0 = unit % C, n0 = piece * sample_block,
                    samples = min(sample_block, s.batch - n0);
      next = min(stop, (piece + 1) * C);
      const int64_t channels = next - unit;
      if (samples <= 0) continue;
      const PaddedPlanes planes(s.window, samples * channels);
      const TapOffsets tap(planes, taps);
      const Scratch<T> padded(planes.values<T>());
      memset(padded, 0, size_t(planes.values<T>()) * sizeof(T));
      for (int64_t first = 0; first < blocks; first += strip) {
        const int64_t count = min(strip, blocks - first);
        for (int64_t c = 0; c < channels; ++c) {
          for (int64_t k = 0; k < K; ++k)
            pack_weights(weight + ((k * C + c0 + c) * positions + first * L) * taps, end,
                         min(count * L, positions - first * L), taps, C * positions * taps, transposed + k * taps * L,
                         K * taps * L);
          for (int64_t b = 0; b < count; ++b) {
            const PositionBlock<T> block(positions, planes, first + b);
            for (int64_t n = 0; n < samples; n += kMicroRows) {
              const int64_t rows = min(kMicroRows, samples - n);
              gemm<T>(rows, packed + ((first + b) * s.batch + n0 + n) * step, {step, L}, taps,
                      transposed + b * K * taps * L, {L, taps * L}, K, false, sums, taps * L, L);
              for (int64_t m = 0; m < rows; ++m) {
                T* to = padded + L + ((n + m) * channels + c) * planes.plane();
                for (int64_t t = 0; t < taps; ++t) block.scatter(load(sums + (m * taps + t) * L), to + tap[t]);
              }
            }
          }
        }
      }
      for (int64_t n = 0; n < samples; ++n)
        for (int64_t c = 0; c < channels; ++c) {
          T* to = dx + ((n0 + n) * C + c0 + c) * values;
          const T* from = padded + L + (n * channels + c) * planes.plane();
          memset(to, 0, size_t(values) * sizeof(T));  // for inputs that no window covers
          planes.over([&](int64_t in_plane, int64_t in_x, int64_t count) {
            for (int64_t i = 0; i < count; ++i) to[in_x + i * planes.phases] = from[in_plane + i];
          });
        }
    }
  });
}

template <class T>
void backward_weights(const LocalShape& s, const T* dy, const T* x, T* dweight) {
  constexpr int64_t L = kLanes<T>;
  const PaddedPlanes planes(s.window, s.batch * s.channels);
  const int64_t positions = s.positions(), taps = s.taps(), blocks = ceil_div(positions, L), K = s.filters,
                C = s.channels, N = s.batch;
  const int64_t strip = strip_of<T>(s, N * max(taps, K) * L), strips = ceil_div(blocks, strip);
  const int64_t step = (K | 1) * L, source_stride = (taps | 1) * L;
  const Scratch<T> padded(planes.values<T>());
  pad<T>(planes, x, padded);
  const T* source = padded + L;
  parallel_for(strips * C, strip * N * K * taps, [=](int64_t begin, int64_t stop) {
    const TapOffsets tap(planes, taps);
    const Scratch<T> sources(strip * N * source_stride), gradients(strip * N * step),
        sums(kMicroRows * strip * taps * L + L * L);
    for (int64_t unit = begin, have = -1; unit < stop; ++unit) {
      const int64_t number = unit / C, c = unit % C, first = number * strip, count = min(strip, blocks - first);
      for (int64_t b = 0; b < count; ++b) {
        const PositionBlock<T> block(positions, planes, first + b);
        for (int64_t n = 0; n < N; ++n) {
          if (have != number) pack_gradients(s, dy, first + b, n, gradients + (b * N + n) * step);
          T* to = sources + (b * N + n) * source_stride;
          const T* from = source + (n * C + c) * planes.plane();
          for (int64_t t = 0; t < taps; ++t) store(to + t * L, block.gather(from + tap[t]));
        }
      }
      have = number;
      for (int64_t k = 0; k < K; k += kMicroRows) {
        const int64_t rows = min(kMicroRows, K - k);
        for (int64_t m = 0; m < rows; ++m)
          fetch_row<T, 1>(dweight + (((k + m + kMicroRows) * C + c) * positions + first * L) * taps, count * L * taps);
        for (int64_t b = 0; b < count; ++b)
          gemm<T>(rows, gradients + (b * N * step) + k * L, {L, step}, taps, sources + b * N * source_stride,
                  {L, source_stride}, N, false, sums + b * taps * L, strip * taps * L, L);
        for (int64_t m = 0; m < rows; ++m)
          for (int64_t b = 0; b < count; ++b) {
            const int64_t at = (first + b) * L;
            unpack_lanes<T>(sums + (m * strip + b) * taps * L, taps,
                            dweight + (((k + m) * C + c) * positions + at) * taps, taps, min(L, positions - at));
          }
      }
    }
  });
}

}  // namespace

extern const LocalKernels<float> local_f32;
extern const LocalKernels<double> local_f64;
const LocalKernels<float> local_f32 = {forward<float>, backward_data<float>, backward_weights<float>};
const LocalKernels<double> local_f64 = {forward<double>, backward_data<double>, backward_weights<double>};

}  // namespace STRIATE_ISA
}  // namespace striate
