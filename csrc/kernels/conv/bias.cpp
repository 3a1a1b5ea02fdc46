// The gradient of a bias: db[c] = Σ over n and positions of dy[n, c, position]. Chunks of images or of rows are summed
// in float; the chunks, which depend on the shape alone, are added in double.
#include "core/chunks.h"
#include "core/transpose.h"
#include "kernels/conv/conv.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

constexpr int64_t kRun = 4096;  // values of a plane (NCHW) and
constexpr int64_t kRows = 256;  // rows of channels (NHWC) that are summed in float

// Adds the rows of a chunk in NHWC, four at once, so that no addition waits for the one before.
template <class T>
void add_rows(const T* dy, int64_t rows, int64_t channels, T* sums) {
  for_each_channel_block<T>(channels, [&](auto vectors, int64_t c, int64_t last, int64_t lanes) {
    constexpr int V = decltype(vectors)::value;
    if constexpr (V == 0) {
      Vector<T> sum = {};
      for (int64_t i = 0; i < rows; ++i) sum += load_first<Vector<T>>(dy + i * channels, lanes);
      store_first(sums, sum, lanes);
    } else {
      Vector<T> sum[4][V] = {};
      for (int64_t i = 0; i < rows; i += 4)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k)
          if (i + k < rows)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sum[k][v] += load(dy + (i + k) * channels + c + vector_at<T, V>(v, last));
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        store(sums + c + vector_at<T, V>(v, last), (sum[0][v] + sum[1][v]) + (sum[2][v] + sum[3][v]));
    }
  });
}

template <class T>
T sum_run(const T* dy, int64_t count) {
  constexpr int64_t L = kLanes<T>;
  Vector<T> sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * L <= count; i += 4 * L)
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) sum[k] += load(dy + i + k * L);
  for (; i < count; i += L) sum[0] += load_first<Vector<T>>(dy + i, min(L, count - i));
  return sum_lanes<T>((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

template <class T>
void gradient(int64_t batch, int64_t channels, int64_t positions, bool channels_last, const T* dy, T* db) {
  const int64_t rows = batch * positions, pieces = ceil_div(positions, kRun);
  const int64_t chunks = channels_last ? max(1, min(64, rows / 64)) : batch * pieces;
  const Scratch<double> sums(chunks * channels);
  double* partial = sums;
  if (channels_last)
    parallel_for(chunks, ceil_div(rows, chunks) * channels, [=](int64_t begin, int64_t end) {
      Scratch<T> sum(channels);
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        const int64_t last = (chunk + 1) * rows / chunks;
        ChunkSum<T> total(partial + chunk * channels, sum, channels);
        for (int64_t row = chunk * rows / chunks; row < last; row += kRows) {
          add_rows(dy + row * channels, min(kRows, last - row), channels, static_cast<T*>(sum));
          total.add();
        }
      }
    });
  else
    parallel_for(chunks * channels, min(positions, kRun), [=](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t piece = unit % pieces, c = unit / pieces % channels, n = unit / pieces / channels,
                      first = piece * kRun;
        partial[(n * pieces + piece) * channels + c] =
            double(sum_run(dy + (n * channels + c) * positions + first, min(kRun, positions - first)));
      }
    });
  merge_chunks(partial, chunks, channels);
  for (int64_t c = 0; c < channels; ++c) db[c] = T(partial[c]);
}

}  // namespace

extern const BiasGradient<float> bias_f32;
extern const BiasGradient<double> bias_f64;
const BiasGradient<float> bias_f32 = gradient<float>;
const BiasGradient<double> bias_f64 = gradient<double>;

}  // namespace STRIATE_ISA
}  // namespace striate
