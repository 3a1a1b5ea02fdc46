// The row pattern: backward of layer and RMS norm, whose rows are reductions and whose gamma varies along them. A part
// of norm.cpp.
#pragma once
#include "core/moments.h"
#include "kernels/norm/formulas.h"
#include "kernels/norm/passes.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

// Rows of D elements: dγ and dβ are sums down the columns. The units of work are blocks of rows, each with its own
// partial sums; long rows are cut into columns too, so that a few of them are work for all threads, and measured
// before. What is long, and the blocks, follow from the shape alone: they are lengths of sums.
template <class T>
struct RowsBackward {
  NormBackward<T> b;
  bool streaming;
  int64_t rows, length;

  static constexpr int64_t kLongRow = 16384, kColumns = 2048;
  bool is_long() const { return length > kLongRow; }
  int64_t block() const { return is_long() ? 64 : max(8, min(256, kPiece / length)); }
  int64_t columns() const { return is_long() ? kColumns : length; }
  bool scaled() const { return b.dgamma != nullptr || b.dbeta != nullptr; }

  Center<T> center(int64_t row) const { return Center<T>(b.mean[row], b.variance[row], b.eps); }

  // Sums γ·g and γ·g·x̂ over elements [begin, end) of each of `Rows` rows.
  template <int Rows>
  void sums(int64_t row, int64_t begin, int64_t end, Means* total) const {
    constexpr int64_t chunk = 4 * kTerms * kLanes<T>;
    Vector<T> high[Rows], low[Rows], rstd[Rows];
    for (int k = 0; k < Rows; ++k) {
      const Center<T> c = center(row + k);
      high[k] = broadcast(c.high), low[k] = broadcast(c.low), rstd[k] = broadcast(T(c.scale)), total[k] = Means{};
    }
    for (int64_t at = begin; at < end; at += chunk) {
      Vector<T> s[Rows] = {}, t[Rows] = {};
      for_each_vector<T>(min(chunk, end - at), [&](int64_t i, auto whole, int64_t lanes) {
        const Vector<T> gamma = b.gamma ? load_lanes(whole, b.gamma + at + i, lanes) : broadcast(T(1));
        const Vector<T> beta = b.beta ? load_lanes(whole, b.beta + at + i, lanes) : Vector<T>{};
        for (int k = 0; k < Rows; ++k) {
          Vector<T> g, x_hat;
          backward_vector<T>(whole, b, (row + k) * length + at + i, lanes, high[k], low[k], rstd[k], rstd[k] * gamma,
                             beta, &g, &x_hat);
          g = mask_lanes<T>(whole, g * gamma, lanes);
          s[k] += g, t[k] += mask_lanes<T>(whole, g * x_hat, lanes);
        }
      });
      for (int k = 0; k < Rows; ++k) {
        total[k].gradient += double(sum_lanes<T>(s[k]));
        total[k].product += double(sum_lanes<T>(t[k]));
      }
    }
  }
  Means means(const Means& total) const {
    if (b.constant) return {};
    return {b.centered ? total.gradient / double(length) : 0, total.product / double(length)};
  }

  // What the elements of a row share.
  struct Row {
    Vector<T> high, low, rstd, mean, product_mean;
  };
  Row row_parameters(int64_t row, const Means& m) const {
    const Center<T> c = center(row);
    return {broadcast(c.high), broadcast(c.low), broadcast(T(c.scale)), broadcast(T(m.gradient * c.scale)),
            broadcast(T(m.product * c.scale))};
  }

  // Computes dx of elements [begin, end) of `Rows` rows, and adds g·x̂ and g to the block's dγ and dβ, once for all
  // rows.
  template <int Rows>
  void apply(int64_t row, int64_t begin, int64_t end, const Means* m, T* dgamma, T* dbeta) const {
    Row of[Rows];
    for (int k = 0; k < Rows; ++k) of[k] = row_parameters(row + k, m[k]);
    for_each_vector<T>(end - begin, [&](int64_t i, auto whole, int64_t lanes) {
      const Vector<T> gamma = b.gamma ? load_lanes(whole, b.gamma + begin + i, lanes) : broadcast(T(1));
      const Vector<T> beta = b.beta ? load_lanes(whole, b.beta + begin + i, lanes) : Vector<T>{};
      Vector<T> gradient = {}, product = {};
      for (int k = 0; k < Rows; ++k) {
        Vector<T> g, x_hat;
        const int64_t at = (row + k) * length + begin + i;
        const Vector<T> scale = of[k].rstd * gamma;
        backward_vector<T>(whole, b, at, lanes, of[k].high, of[k].low, of[k].rstd, scale, beta, &g, &x_hat);
        if (b.dx)
          store_result(whole, streaming, b.dx + at, scale * g - (of[k].mean + x_hat * of[k].product_mean), lanes);
        if (b.dresidual) store_result(whole, streaming, b.dresidual + at, g, lanes);
        gradient += g, product += g * x_hat;
      }
      if (dgamma) {
        store_lanes(whole, dgamma + i, load_lanes(whole, dgamma + i, lanes) + product, lanes);
        store_lanes(whole, dbeta + i, load_lanes(whole, dbeta + i, lanes) + gradient, lanes);
      }
    });
  }

  void run() const {
    const int64_t D = length, blocks = ceil_div(rows, block()), across = ceil_div(D, columns());
    const Scratch<Means> by_row(is_long() ? rows : 0);
    const Scratch<T> partial(scaled() ? blocks * 2 * D : 0);
    const RowsBackward self = *this;
    if (is_long()) measure_rows(by_row);
    Means* row_means = by_row;
    T* parts = scaled() ? static_cast<T*>(partial) : nullptr;
    parallel_for(blocks * across, block() * columns() * 3, [=](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t k = unit / across, first = unit % across * self.columns(), last = min(D, first + self.columns());
        T *dgamma = parts ? parts + k * 2 * D + first : nullptr, *dbeta = parts ? dgamma + D : nullptr;
        if (parts)
          for (int64_t i = 0; i < last - first; ++i) dgamma[i] = dbeta[i] = 0;
        const int64_t end = min(self.rows, (k + 1) * self.block());
        const auto rows_at = [&](auto count, int64_t row) {
          constexpr int Rows = decltype(count)::value;
          Means m[Rows];
          for (int k = 0; k < Rows; ++k) m[k] = self.is_long() ? row_means[row + k] : Means{};
          if (!self.is_long()) {
            self.template sums<Rows>(row, 0, D, m);
            for (int k = 0; k < Rows; ++k) m[k] = self.means(m[k]);
          }
          self.template apply<Rows>(row, first, last, m, dgamma, dbeta);
        };
        int64_t row = k * self.block();
        for (; row + 4 <= end; row += 4) rows_at(Constant<4>{}, row);
        for (; row < end; ++row) rows_at(Constant<1>{}, row);
      }
      fence_streaming_stores();
    });
    if (scaled())
      parallel_for(D, blocks * 2, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          double product = 0, gradient = 0;
          for (int64_t k = 0; k < blocks; ++k)
            product += double(parts[k * 2 * D + i]), gradient += double(parts[k * 2 * D + D + i]);
          if (self.b.dgamma) self.b.dgamma[i] = T(product);
          if (self.b.dbeta) self.b.dbeta[i] = T(gradient);
        }
      });
  }

  void measure_rows(Means* by_row) const {
    const int64_t pieces = ceil_div(length, kPiece);
    const Scratch<Means> piece_means(rows * pieces);
    Means* parts = piece_means;
    const RowsBackward self = *this;
    parallel_for(rows * pieces, kPiece, [=](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t row = unit / pieces, first = unit % pieces * kPiece;
        self.template sums<1>(row, first, min(self.length, first + kPiece), parts + unit);
      }
    });
    for (int64_t row = 0; row < rows; ++row) {
      Means total;
      for (int64_t p = 0; p < pieces; ++p)
        total.gradient += parts[row * pieces + p].gradient, total.product += parts[row * pieces + p].product;
      by_row[row] = means(total);
    }
  }
};

}  // namespace
}  // namespace STRIATE_ISA
}  // namespace striate
