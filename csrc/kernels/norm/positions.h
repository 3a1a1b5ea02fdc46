// The position pattern: layer norm over the channels of each position in NCHW. Vectors run along the positions, so that
// each lane is a reduction of its own. A part of norm.cpp.
#pragma once
#include "kernels/norm/columns.h"
#include "kernels/norm/formulas.h"
#include "kernels/norm/passes.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

// A block of so many positions: the unit of work, which is read twice through the cache.
struct PositionBlock {
  int64_t batch, first, width, offset;
  PositionBlock(const NormShape& s, int64_t block, int64_t unit) {
    const int64_t blocks = ceil_div(s.positions, block);
    batch = unit / blocks, first = unit % blocks * block, width = min(block, s.positions - first);
    offset = batch * s.channels * s.positions + first;
  }
  // The width of a block whose x stays in the second-level cache; at least a few cache lines.
  template <class T>
  static int64_t own_width(const NormShape& s) {
    return max(64, min(widest<T>(), block_bytes() / int64_t(sizeof(T)) / s.channels / 64 * 64));
  }
  // The width of a block backward, over which dγ and dβ are summed: it follows from the shape alone.
  static int64_t sum_width(const NormShape& s) { return max(64, min(1024, kPiece * 2 / s.channels / 64 * 64)); }
  static int64_t units(const NormShape& s, int64_t block) { return s.batches * ceil_div(s.positions, block); }
};

template <class T>
void positions_forward(const NormShape& shape, const NormForward<T>& f, bool streaming) {
  const int64_t C = shape.channels, S = shape.positions, most = PositionBlock::own_width<T>(shape);
  parallel_for(PositionBlock::units(shape, most), C * most * 2, [=](int64_t begin, int64_t end) {
    const int64_t apart = padded<T>(most);
    const Scratch<T> room((2 + kParts) * apart);
    T *high = room, *low = high + apart, *rstd = low + apart;
    for (int64_t unit = begin; unit < end; ++unit) {
      const PositionBlock block(shape, most, unit);
      double *mean = f.mean + block.batch * S + block.first, *variance = f.variance + block.batch * S + block.first;
      if (!f.given) {
        measure_columns<T>(f.x + block.offset, C, S, block.width, room, mean, variance);
        for (int64_t w = 0; w < block.width; ++w) variance[w] /= double(C);
      }
      if (f.y == nullptr) continue;
      for (int64_t w = 0; w < block.width; ++w) {
        const Center<T> center(mean[w], variance[w], f.eps);
        high[w] = center.high, low[w] = center.low, rstd[w] = T(center.scale);
      }
      for (int64_t c = 0; c < C; ++c) {
        const Vector<T> gamma = broadcast(f.gamma ? f.gamma[c] : T(1)), beta = broadcast(f.beta ? f.beta[c] : T(0));
        for_each_vector<T>(block.width, [&](int64_t w, auto whole, int64_t lanes) {
          forward_vector<T>(whole, f, streaming, block.offset + c * S + w, lanes, load(high + w), load(low + w),
                            load(rstd + w) * gamma, beta);
        });
      }
    }
    fence_streaming_stores();
  });
}

template <class T>
void positions_backward(const NormShape& shape, const NormBackward<T>& b, bool streaming, double* by_unit) {
  const int64_t C = shape.channels, S = shape.positions, most = PositionBlock::sum_width(shape);
  parallel_for(PositionBlock::units(shape, most), C * most * 3, [=](int64_t begin, int64_t end) {
    const int64_t apart = padded<T>(most);
    const Scratch<T> room(5 * apart);
    T *high = room, *low = high + apart, *rstd = low + apart, *sum = rstd + apart, *product = sum + apart;
    const Scratch<double> gradient(apart), slope(apart);
    for (int64_t unit = begin; unit < end; ++unit) {
      const PositionBlock block(shape, most, unit);
      const int64_t padded_width = padded<T>(block.width);
      for (int64_t w = 0; w < block.width; ++w) {
        const int64_t set = block.batch * S + block.first + w;
        const Center<T> center(b.mean[set], b.variance[set], b.eps);
        high[w] = center.high, low[w] = center.low, rstd[w] = T(center.scale), gradient[w] = slope[w] = 0;
      }
      const auto each = [&](int64_t c, const auto& body) {
        const Vector<T> gamma = broadcast(b.gamma ? b.gamma[c] : T(1)), beta = broadcast(b.beta ? b.beta[c] : T(0));
        for_each_vector<T>(block.width, [&](int64_t w, auto whole, int64_t lanes) {
          Vector<T> g, x_hat;
          const Vector<T> scale = load(rstd + w) * gamma;
          backward_vector<T>(whole, b, block.offset + c * S + w, lanes, load(high + w), load(low + w), load(rstd + w),
                             scale, beta, &g, &x_hat);
          body(w, whole, lanes, g, x_hat, gamma, scale);
        });
      };
      for (int64_t first = 0; first < C; first += kChunkRows) {
        for (int64_t w = 0; w < padded_width; ++w) sum[w] = product[w] = 0;
        for (int64_t c = first; c < min(C, first + kChunkRows); ++c)
          each(c, [&](int64_t w, auto, int64_t, const Vector<T>& g, const Vector<T>& x_hat, const Vector<T>& gamma,
                      const Vector<T>&) {
            const Vector<T> scaled = g * gamma;
            store(sum + w, load(sum + w) + scaled), store(product + w, load(product + w) + scaled * x_hat);
          });
        for (int64_t w = 0; w < block.width; ++w) gradient[w] += double(sum[w]), slope[w] += double(product[w]);
      }
      for (int64_t w = 0; w < block.width; ++w) {
        sum[w] = b.constant || !b.centered ? T(0) : T(gradient[w] / double(C) * double(rstd[w]));
        product[w] = b.constant ? T(0) : T(slope[w] / double(C) * double(rstd[w]));
      }
      for (int64_t c = 0; c < C; ++c) {
        Vector<T> s = {}, t = {};
        each(c, [&](int64_t w, auto whole, int64_t lanes, const Vector<T>& g, const Vector<T>& x_hat, const Vector<T>&,
                    const Vector<T>& scale) {
          const int64_t at = block.offset + c * S + w;
          if (b.dx)
            store_result(whole, streaming, b.dx + at, scale * g - (load(sum + w) + x_hat * load(product + w)), lanes);
          if (b.dresidual) store_result(whole, streaming, b.dresidual + at, g, lanes);
          s += mask_lanes<T>(whole, g, lanes), t += mask_lanes<T>(whole, g * x_hat, lanes);
        });
        if (by_unit)
          by_unit[(unit * C + c) * 2] = double(sum_lanes<T>(s)),
                                   by_unit[(unit * C + c) * 2 + 1] = double(sum_lanes<T>(t));
      }
    }
    fence_streaming_stores();
  });
}

}  // namespace
}  // namespace STRIATE_ISA
}  // namespace striate
