// The column pattern: the values of a channel are one row apart, as in NHWC. Vectors run across the channels, and lane
// k stays column k. Batch, instance, group and ghost norm in NHWC. A part of norm.cpp.
#pragma once
#include "core/moments.h"
#include "kernels/norm/formulas.h"
#include "kernels/norm/passes.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

constexpr int64_t kChunkRows = 64;  // rows of a chunk: the number of terms of one sum of T
constexpr int64_t kStrip = 4;       // rows at a time: a column's parameters are loaded once for them

template <class T>
inline int64_t padded(int64_t width) {
  return ceil_div(width, kLanes<T>) * kLanes<T>;
}

// Sums d and d·d, d = x - shift, over `rows` rows of each column. The squares are summed in parts of kTerms rows, which
// are stored `apart` values apart.
template <class T>
inline void column_deviations(const T* x, int64_t rows, int64_t pitch, int64_t width, const T* shift, T* sum, T* square,
                              int64_t apart) {
  for (int64_t i = 0; i < rows; i += 8) {
    const int64_t n = min(8, rows - i);
    const T* from = x + i * pitch;
    T* part = square + i / kTerms * apart;
    for_each_vector<T>(width, [&](int64_t w, auto whole, int64_t lanes) {
      const Vector<T> center = load(shift + w);
      Vector<T> s = i == 0 ? Vector<T>{} : load(sum + w), q = i % kTerms == 0 ? Vector<T>{} : load(part + w);
      const auto add = [&](int64_t row) {
        const Vector<T> d = load_lanes(whole, from + row * pitch + w, lanes) - center;
        s += d, q += d * d;
      };
      if (n == 8)
        for (int64_t row = 0; row < 8; ++row) add(row);
      else
        for (int64_t row = 0; row < n; ++row) add(row);
      store(sum + w, s), store(part + w, q);
    });
  }
}

constexpr int64_t kParts = kChunkRows / kTerms;
static_assert(kParts == 4);

// The columns at a time: what measure_columns() keeps of them stays in the first-level cache.
template <class T>
inline int64_t widest() {
  return max(64, inner_bytes() / ((2 + kParts) * int64_t(sizeof(T))) / 64 * 64);
}

// Measures the mean and m2 of each column of some rows. `room` is a buffer of 2 + kParts padded widths of T.
template <class T>
inline void measure_columns(const T* x, int64_t rows, int64_t pitch, int64_t width, T* room, double* mean, double* m2) {
  const int64_t apart = padded<T>(width);
  T *shift = room, *sum = room + apart, *square = sum + apart;
  for (int64_t at = 0; at < rows; at += kChunkRows) {
    const int64_t n = min(kChunkRows, rows - at);
    const T* from = x + at * pitch;
    const double count = double(n), share = count / double(at + n), weight = double(at) * share;
    if (at == 0) {
      // The first chunk is read twice, as in moments.h; the first shift equals the values of constant columns.
      for (int64_t w = 0; w < width; ++w) shift[w] = x[w];
      column_deviations(from, n, pitch, width, shift, sum, square, apart);
      for (int64_t w = 0; w < width; ++w) shift[w] += sum[w] / T(n), mean[w] = double(shift[w]), m2[w] = 0;
    } else {
      for (int64_t w = 0; w < width; ++w) shift[w] = T(mean[w]);
    }
    column_deviations(from, n, pitch, width, shift, sum, square, apart);
    for (int64_t part = ceil_div(n, kTerms); part < kParts; ++part)
      for (int64_t w = 0; w < width; ++w) square[part * apart + w] = 0;
    int overflow = 0;
    const T *q0 = square, *q1 = q0 + apart, *q2 = q1 + apart, *q3 = q2 + apart;
    for (int64_t w = 0; w < width; ++w) overflow |= !((q0[w] + q1[w]) + (q2[w] + q3[w]) < T(__builtin_inf()));
    const Scratch<Moments> wide(overflow ? width : 0);  // for the columns that overflow; the others keep their bits
    const auto overflows = [&](int64_t w) { return !((q0[w] + q1[w]) + (q2[w] + q3[w]) < T(__builtin_inf())); };
    for (int64_t w = 0; overflow && w < width; ++w)
      if (overflows(w)) {
        wide[w] = {double(at), mean[w], m2[w]};
        wide[w].merge(wide_moments(from + w, Segments{1, pitch}, 0, n, true));
      }
    for (int64_t w = 0; w < width; ++w) {  // is Moments::merge; the first chunk has share 1 and weight 0
      const double q = (double(q0[w]) + double(q1[w])) + (double(q2[w]) + double(q3[w]));
      const double step = double(sum[w]) / count, spread = q - double(sum[w]) * step;
      const double delta = double(shift[w]) + step - mean[w];
      mean[w] += delta * share, m2[w] += (spread < 0 ? 0 : spread) + delta * delta * weight;
    }
    for (int64_t w = 0; overflow && w < width; ++w)
      if (overflows(w)) mean[w] = wide[w].mean, m2[w] = wide[w].m2;
  }
}

// One batch as a matrix of columns: samples·positions rows of all channels. Narrow rows are joined, `joined` to one row
// of `width` columns, until a row fills some vectors: 32 pixels of 3 channels are one row of 96 columns, every third of
// which belongs to the same channel. What is left, `tail` values, belongs to the last piece.
struct ColumnLayout {
  int64_t channels, joined, width, rows, tail, size;

  explicit ColumnLayout(const NormShape& s)
      : channels(s.all_channels()), size(s.samples * s.positions * s.all_channels()) {
    joined = 1;
    if (channels < 64) {
      while (channels * joined % 16 != 0) ++joined;
      joined *= ceil_div(64, channels * joined);
    }
    width = channels * joined;
    rows = size / width;
    tail = size % width;
  }
  int64_t piece() const { return max(kChunkRows, kPiece * 2 / width / kChunkRows * kChunkRows); }
  int64_t pieces() const { return max(1, ceil_div(rows, piece())); }
  bool has_tail(int64_t p) const { return tail > 0 && p == pieces() - 1; }
  int64_t rows_of(int64_t p) const { return min(piece(), rows - p * piece()); }
  int64_t values_per_channel(int64_t p) const { return rows_of(p) * joined + (has_tail(p) ? tail / channels : 0); }

  // Calls body(offset, rows, first column, columns) for the blocks of a piece, each at most `widest` columns wide.
  template <class Body>
  STRIATE_INLINE void blocks(int64_t p, int64_t widest, const Body& body) const {
    const int64_t at = p * piece() * width;
    for (int64_t w = 0; w < width; w += widest) body(at + w, rows_of(p), w, min(widest, width - w));
    for (int64_t w = 0; has_tail(p) && w < tail; w += widest) body(rows * width + w, 1, w, min(widest, tail - w));
  }
};

// The parameters of all columns: an array of one padded width for each.
template <class T>
struct Columns {
  T* at;
  int64_t width;
  T* operator[](int k) const { return at + k * width; }
};
enum { kHigh, kLow, kRstd, kScale, kShift, kGradientMean, kProductMean, kParameters };

// Fills the parameters that center and scale, from the statistics of each reduction.
template <class T, class Norm>
inline void fill_columns(const NormShape& shape, const ColumnLayout& layout, const Norm& n, int64_t batch,
                         const Columns<T>& out) {
  for (int64_t c = 0; c < layout.channels; ++c) {
    const int64_t set = batch * shape.groups + c / shape.channels;
    const Center<T> center(n.mean[set], n.variance[set], n.eps);
    out[kHigh][c] = center.high, out[kLow][c] = center.low, out[kRstd][c] = T(center.scale);
    out[kScale][c] = T((n.gamma ? double(n.gamma[c]) : 1) * center.scale), out[kShift][c] = n.beta ? n.beta[c] : T(0);
  }
  for (int k = kHigh; k <= kShift; ++k)
    for (int64_t w = layout.channels; w < layout.width; ++w) out[k][w] = out[k][w - layout.channels];
}

// Calls body(parameters, w, whole, lanes, offset in x) for every vector, a strip of rows at a time.
template <class T, class Load, class Body>
STRIATE_INLINE void over_strips(int64_t offset, int64_t rows, int64_t pitch, int64_t width, const Load& load_parameters,
                                const Body& body) {
  for (int64_t i = 0; i < rows; i += kStrip) {
    const int64_t n = min(kStrip, rows - i), from = offset + i * pitch;
    for_each_vector<T>(width, [&](int64_t w, auto whole, int64_t lanes) {
      const auto parameters = load_parameters(w);
      if (n == kStrip)
        for (int64_t row = 0; row < kStrip; ++row) body(parameters, w, whole, lanes, from + row * pitch + w);
      else
        for (int64_t row = 0; row < n; ++row) body(parameters, w, whole, lanes, from + row * pitch + w);
    });
  }
}

template <class T>
struct VectorParameters {
  Vector<T> high, low, rstd, scale, shift, mean, product_mean;
};

template <class T>
struct ColumnsForward {
  NormShape shape;
  ColumnLayout layout;
  NormForward<T> f;
  bool streaming;  // whether to write y by streaming stores

  struct Work {
    Scratch<double> moments;  // of each piece: means, then m2s
    Scratch<T> parameters;
    Work(const ColumnsForward& body, int64_t slots)
        : moments(slots * body.layout.pieces() * body.layout.channels * 2),
          parameters(slots * kParameters * padded<T>(body.layout.width)) {}
  };
  bool measures() const { return !f.given; }
  bool applies() const { return f.y != nullptr; }
  Columns<T> columns(const Work& work, int64_t slot) const {
    const int64_t width = padded<T>(layout.width);
    return {work.parameters + slot * kParameters * width, width};
  }

  void prepare(int64_t, const Work&, int64_t) const {}
  void measure(int64_t batch, int64_t piece, const Work& work, int64_t slot) const {
    const int64_t C = layout.channels, rows = layout.rows_of(piece);
    const int64_t most = min(layout.width, widest<T>());
    const Scratch<T> room((2 + kParts) * padded<T>(most));
    const Scratch<double> mean(layout.width), m2(layout.width);
    const T* x = f.x + batch * layout.size;
    for (int64_t w = 0; w < layout.width; w += most)
      measure_columns<T>(x + piece * layout.piece() * layout.width + w, rows, layout.width, min(most, layout.width - w),
                         room, mean + w, m2 + w);
    const T* tail = x + layout.rows * layout.width;
    double* out = work.moments + (slot * layout.pieces() + piece) * C * 2;
    for (int64_t c = 0; c < C; ++c) {
      Moments total;
      for (int64_t w = c; w < layout.width; w += C) {
        if (rows > 0) total.merge({double(rows), mean[w], m2[w]});
        if (layout.has_tail(piece) && w < layout.tail) total.merge({1, double(tail[w]), 0});
      }
      out[c] = total.mean, out[C + c] = total.m2;
    }
  }
  void finish(int64_t batch, const Work& work, int64_t slot) const {
    const int64_t C = layout.channels;
    if (!f.given)
      for (int64_t g = 0; g < shape.groups; ++g) {
        Moments total;
        for (int64_t c = g * shape.channels; c < (g + 1) * shape.channels; ++c)
          for (int64_t p = 0; p < layout.pieces(); ++p) {
            const double* piece = work.moments + (slot * layout.pieces() + p) * C * 2;
            total.merge({double(layout.values_per_channel(p)), piece[c], piece[C + c]});
          }
        f.mean[batch * shape.groups + g] = total.mean, f.variance[batch * shape.groups + g] = total.variance();
      }
    if (applies()) fill_columns(shape, layout, f, batch, columns(work, slot));
  }
  void apply(int64_t batch, int64_t piece, const Work& work, int64_t slot) const {
    const Columns<T> p = columns(work, slot);
    layout.blocks(piece, widest<T>(), [&](int64_t offset, int64_t rows, int64_t first, int64_t width) {
      over_strips<T>(
          batch * layout.size + offset, rows, layout.width, width,
          [&](int64_t w) {
            w += first;
            return VectorParameters<T>{
                load(p[kHigh] + w), load(p[kLow] + w), {}, load(p[kScale] + w), load(p[kShift] + w), {}, {}};
          },
          [&](const VectorParameters<T>& v, int64_t, auto whole, int64_t lanes, int64_t at) {
            forward_vector<T>(whole, f, streaming, at, lanes, v.high, v.low, v.scale, v.shift);
          });
    });
  }
};

template <class T>
struct ColumnsBackward {
  NormShape shape;
  ColumnLayout layout;
  NormBackward<T> b;
  bool streaming;
  double* by_channel;

  struct Work {
    Scratch<double> sums;  // of each piece, a pair for each channel
    Scratch<T> parameters;
    Work(const ColumnsBackward& body, int64_t slots)
        : sums(slots * body.layout.pieces() * body.layout.channels * 2),
          parameters(slots * kParameters * padded<T>(body.layout.width)) {}
  };
  bool measures() const { return by_channel != nullptr; }
  bool applies() const { return b.dx != nullptr || b.dresidual != nullptr; }
  Columns<T> columns(const Work& work, int64_t slot) const {
    const int64_t width = padded<T>(layout.width);
    return {work.parameters + slot * kParameters * width, width};
  }
  static VectorParameters<T> load_columns(const Columns<T>& p, int64_t w) {
    return {load(p[kHigh] + w),  load(p[kLow] + w),          load(p[kRstd] + w),       load(p[kScale] + w),
            load(p[kShift] + w), load(p[kGradientMean] + w), load(p[kProductMean] + w)};
  }

  void prepare(int64_t batch, const Work& work, int64_t slot) const {
    fill_columns(shape, layout, b, batch, columns(work, slot));
  }
  void measure(int64_t batch, int64_t piece, const Work& work, int64_t slot) const {
    const Columns<T> p = columns(work, slot);
    const int64_t most = min(layout.width, widest<T>());
    const Scratch<T> room(2 * padded<T>(most));
    T *sum = room, *product = room + padded<T>(most);
    double* out = work.sums + (slot * layout.pieces() + piece) * layout.channels * 2;
    for (int64_t c = 0; c < layout.channels * 2; ++c) out[c] = 0;
    layout.blocks(piece, most, [&](int64_t offset, int64_t rows, int64_t first, int64_t width) {
      for (int64_t row = 0; row < rows; row += kChunkRows) {
        for (int64_t w = 0; w < padded<T>(width); ++w) sum[w] = product[w] = 0;
        column_gradients(batch * layout.size + offset + row * layout.width, min(kChunkRows, rows - row), width, p,
                         first, sum, product);
        for (int64_t w = 0, c = first % layout.channels; w < width; ++w, c = c + 1 == layout.channels ? 0 : c + 1)
          out[2 * c] += double(sum[w]), out[2 * c + 1] += double(product[w]);
      }
    });
  }
  void column_gradients(int64_t offset, int64_t rows, int64_t width, const Columns<T>& p, int64_t first, T* sum,
                        T* product) const {
    for (int64_t i = 0; i < rows; i += kStrip) {
      const int64_t n = min(kStrip, rows - i), from = offset + i * layout.width;
      for_each_vector<T>(width, [&](int64_t w, auto whole, int64_t lanes) {
        const VectorParameters<T> v = load_columns(p, first + w);
        Vector<T> s = load(sum + w), t = load(product + w), g, x_hat;
        const auto add = [&](int64_t row) {
          backward_vector<T>(whole, b, from + row * layout.width + w, lanes, v.high, v.low, v.rstd, v.scale, v.shift,
                             &g, &x_hat);
          s += g, t += g * x_hat;
        };
        if (n == kStrip)
          for (int64_t row = 0; row < kStrip; ++row) add(row);
        else
          for (int64_t row = 0; row < n; ++row) add(row);
        store(sum + w, s), store(product + w, t);
      });
    }
  }
  void finish(int64_t batch, const Work& work, int64_t slot) const {
    const Columns<T> p = columns(work, slot);
    const int64_t C = layout.channels;
    const double count = double(shape.reduction_size());
    double* out = measures() ? by_channel + batch * C * 2 : nullptr;
    if (measures())
      for (int64_t c = 0; c < C * 2; ++c) {
        out[c] = 0;
        for (int64_t k = 0; k < layout.pieces(); ++k) out[c] += work.sums[(slot * layout.pieces() + k) * C * 2 + c];
      }
    for (int64_t g = 0; g < shape.groups; ++g) {
      const int64_t set = batch * shape.groups + g, first = g * shape.channels, last = first + shape.channels;
      Means means = given_means(b, set);
      if (measures() && !b.constant && !b.gradient_mean) {
        for (int64_t c = first; c < last; ++c) {
          const double gamma = b.gamma ? double(b.gamma[c]) : 1;
          means.gradient += gamma * out[2 * c], means.product += gamma * out[2 * c + 1];
        }
        means = {b.centered ? means.gradient / count : 0, means.product / count};
      }
      const double scale = Center<T>(b.mean[set], b.variance[set], b.eps).scale;
      for (int64_t w = 0; w < layout.width; w += C)
        for (int64_t c = first; c < last; ++c)
          p[kGradientMean][w + c] = T(means.gradient * scale), p[kProductMean][w + c] = T(means.product * scale);
    }
  }
  void apply(int64_t batch, int64_t piece, const Work& work, int64_t slot) const {
    const Columns<T> p = columns(work, slot);
    layout.blocks(piece, widest<T>(), [&](int64_t offset, int64_t rows, int64_t first, int64_t width) {
      over_strips<T>(
          batch * layout.size + offset, rows, layout.width, width,
          [&](int64_t w) { return load_columns(p, first + w); },
          [&](const VectorParameters<T>& v, int64_t, auto whole, int64_t lanes, int64_t at) {
            Vector<T> g, x_hat;
            backward_vector<T>(whole, b, at, lanes, v.high, v.low, v.rstd, v.scale, v.shift, &g, &x_hat);
            if (b.dx) store_result(whole, streaming, b.dx + at, v.scale * g - (v.mean + x_hat * v.product_mean), lanes);
            if (b.dresidual) store_result(whole, streaming, b.dresidual + at, g, lanes);
          });
    });
  }
};

}  // namespace
}  // namespace STRIATE_ISA
}  // namespace striate
