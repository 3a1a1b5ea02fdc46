// Linear layers:
//
//   y[r, o] = min(max(b[o] + Σ_i x[r, i]·w[o, i], low), high)
//   dx[r, i] = Σ_o dy[r, o]·w[o, i],   dw[o, i] = Σ_r dy[r, o]·x[r, i]
//
// Layout. x, y and their gradients are rows of features, w and its gradient rows of inputs. In forward both factors of
// a sum are contiguous: lanes hold partial sums over i, kTile outputs at a time, so that no addition waits for the one
// before. In the other two passes lanes hold neighbouring results, and each term broadcasts one value of dy.
//
// Bits. Each result is one sum in one order wherever rows are cut. Sums over o or r are taken in chunks of kChunk
// terms, which are then added: the error of a long sum grows with the chunks and not with the terms.
#include "kernels/linear.h"

#include "core/parallel.h"
#include "core/simd.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

constexpr int kTile = 4;
constexpr int64_t kChunk = 64;

// Computes the products of one row of x with M rows of the weight.
template <class T, int M>
STRIATE_INLINE void products(const LinearShape& p, const T* x, const T* weight, T* sums) {
  Vector<T> sum[M] = {};
  for_each_vector<T>(p.inputs, [&](int64_t i, auto whole, int64_t lanes) {
    const Vector<T> value = load_lanes(whole, x + i, lanes);
#pragma GCC unroll 4
    for (int j = 0; j < M; ++j) sum[j] += value * load_lanes(whole, weight + j * p.inputs + i, lanes);
  });
#pragma GCC unroll 4
  for (int j = 0; j < M; ++j) sums[j] = sum_lanes<T>(sum[j]);
}

template <class T>
void forward(const LinearShape& p, const T* x, const T* weight, const LinearEpilogue<T>& given, T* y) {
  const LinearShape shape = p;
  const LinearEpilogue<T> e = given;
  parallel_for(p.rows, p.inputs * p.outputs, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* row = x + r * shape.inputs;
      T* to = y + r * shape.outputs;
      int64_t o = 0;
      for (; o + kTile <= shape.outputs; o += kTile) products<T, kTile>(shape, row, weight + o * shape.inputs, to + o);
      for (; o < shape.outputs; ++o) products<T, 1>(shape, row, weight + o * shape.inputs, to + o);
      for_each_vector<T>(shape.outputs, [&](int64_t at, auto whole, int64_t lanes) {
        Vector<T> sum = load_lanes(whole, to + at, lanes);
        if (e.bias) sum += load_lanes(whole, e.bias + at, lanes);
        store_lanes(whole, to + at, clamp<T>(sum, e.low, e.high), lanes);
      });
    }
  });
}

// Computes result[i] = Σ_k factor[k·pitch]·rows[k, i] for `count` terms and `width` results.
template <class T>
void combine(const T* factor, int64_t pitch, const T* rows, int64_t count, int64_t width, T* result) {
  for_each_vector<T>(width, [&](int64_t i, auto whole, int64_t lanes) {
    Vector<T> total = {};
    for (int64_t first = 0; first < count; first += kChunk) {
      const int64_t last = min(count, first + kChunk);
      Vector<T> sum = {};
      for (int64_t k = first; k < last; ++k)
        sum += broadcast(factor[k * pitch]) * load_lanes(whole, rows + k * width + i, lanes);
      total += sum;
    }
    store_lanes(whole, result + i, total, lanes);
  });
}

template <class T>
void backward_data(const LinearShape& p, const T* dy, const T* weight, T* dx) {
  const int64_t inputs = p.inputs, outputs = p.outputs;
  parallel_for(p.rows, inputs * outputs, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) combine(dy + r * outputs, 1, weight, outputs, inputs, dx + r * inputs);
  });
}

template <class T>
void backward_weights(const LinearShape& p, const T* dy, const T* x, T* dw) {
  const int64_t rows = p.rows, inputs = p.inputs, outputs = p.outputs;
  parallel_for(outputs, rows * inputs, [=](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) combine(dy + o, outputs, x, rows, inputs, dw + o * inputs);
  });
}

}  // namespace

extern const LinearKernels<float> linear_f32;
extern const LinearKernels<double> linear_f64;
const LinearKernels<float> linear_f32 = {forward<float>, backward_data<float>, backward_weights<float>};
const LinearKernels<double> linear_f64 = {forward<double>, backward_data<double>, backward_weights<double>};

}  // namespace STRIATE_ISA
}  // namespace striate
