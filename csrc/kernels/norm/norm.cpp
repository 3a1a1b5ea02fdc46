// Normalization: y = act(γ·x̂ + β + residual), x̂ = (x - μ)/√(σ² + ε), and backward, with g = dy·act',
//   dβ = Σ g,   dγ = Σ g·x̂,   dx = (γ·g - mean(γ·g) - x̂·mean(γ·g·x̂)) / √(σ² + ε).
// One formula (formulas.h) for batch, layer, instance, group, ghost and RMS norm: they differ in their reduction axes
// (norm.h).
//
// Layout. Where the values of a reduction are in memory decides the pattern, each in a header of its own:
//   contiguous.h   contiguous segments: vectors run along them, and their lanes are added up at the end
//   columns.h      one row apart, as a channel in NHWC: vectors run across, and lane k stays column k
//   positions.h    all channels of a position in NCHW: vectors run along positions
//   short_rows.h   short rows of layer norm, forward, several at a time
//   rows.h         rows of layer norm, backward, where dγ and dβ are sums down the columns
//
// Passes (passes.h). The statistics need all of x before y can begin, and dx all of x and dy: two passes each. Where a
// reduction stays in a core's caches (kept_bytes() of core/machine.h), one thread runs both passes over it at once, and
// memory is read once; otherwise all threads run the first pass, then the second. Either way pieces of a fixed size are
// measured and merged in the same order: the bits depend on neither the choice nor the threads.
//
// Results larger than the last-level cache are written by streaming stores, where whole lines allow it: they would not
// stay in the cache, and an ordinary store reads the line first. That took a quarter to a third off large forward
// passes.
//
// Accuracy. μ and σ are doubles. x - μ is (x - high) - low with μ = high + low in T: the first difference is exact for
// x near μ, so no digits are lost far from zero. Sums of T are chunks of some thousand terms, added up in double.
#include "kernels/norm/norm.h"

#include "kernels/norm/columns.h"
#include "kernels/norm/contiguous.h"
#include "kernels/norm/positions.h"
#include "kernels/norm/rows.h"
#include "kernels/norm/short_rows.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

// Adds up pairs [batches][channels] in order.
template <class T>
void reduce_channels(const NormShape& shape, const NormBackward<T>& b, const double* by_channel) {
  const int64_t C = shape.all_channels();
  for (int64_t c = 0; c < C; ++c) {
    double gradient = 0, product = 0;
    for (int64_t n = 0; n < shape.batches; ++n)
      gradient += by_channel[(n * C + c) * 2], product += by_channel[(n * C + c) * 2 + 1];
    if (b.dbeta) b.dbeta[c] = T(gradient);
    if (b.dgamma) b.dgamma[c] = T(product);
    if (b.sums) b.sums[c] = gradient, b.sums[C + c] = product;
  }
}

// --------------------------------------------------------------------------------------------------------------- entry

template <class T>
void forward(const NormShape& shape, const NormForward<T>& f) {
  if (shape.reductions() == 0 || shape.reduction_size() == 0) return;
  const bool streaming = passes_caches(shape.reductions() * shape.reduction_size() * int64_t(sizeof(T)));
  if (shape.affine == AffineAxis::kPositions) return positions_forward(shape, f, streaming);
  if (shape.channels_last && shape.affine == AffineAxis::kChannels) {
    const ColumnsForward<T> body = {shape, ColumnLayout(shape), f, streaming};
    return run_passes(body, shape.batches, body.layout.pieces(), body.layout.size, sizeof(T));
  }
  if (shape.affine == AffineAxis::kElements && ShortRows<T>::fits(shape.positions))
    return ShortRows<T>{f, streaming, shape.batches, shape.positions}.run();
  const ContiguousForward<T> body = {shape, ContiguousLayout(shape), f, streaming};
  run_passes(body, shape.reductions(), body.layout.pieces(), body.layout.size, sizeof(T));
}

template <class T>
void backward(const NormShape& shape, const NormBackward<T>& b) {
  const bool empty = shape.reductions() == 0 || shape.reduction_size() == 0;
  const bool streaming = passes_caches(shape.reductions() * shape.reduction_size() * int64_t(sizeof(T)));
  if (shape.affine == AffineAxis::kElements) {
    if (!empty) return RowsBackward<T>{b, streaming, shape.batches, shape.positions}.run();
    for (int64_t i = 0; i < shape.positions; ++i) {
      if (b.dgamma) b.dgamma[i] = 0;
      if (b.dbeta) b.dbeta[i] = 0;
    }
    return;
  }
  const bool sums = b.dgamma || b.dbeta || b.sums || (!b.constant && !b.gradient_mean);
  NormShape parts = shape;  // the shape of the channel sums
  if (shape.affine == AffineAxis::kPositions)
    parts.batches = empty ? 0 : PositionBlock::units(shape, PositionBlock::sum_width(shape));
  if (empty) parts.batches = 0;
  const Scratch<double> by_channel(sums ? parts.batches * parts.all_channels() * 2 : 0);
  double* out = sums ? static_cast<double*>(by_channel) : nullptr;
  if (!empty && shape.affine == AffineAxis::kPositions) {
    positions_backward(shape, b, streaming, out);
  } else if (!empty && shape.channels_last) {
    const ColumnsBackward<T> body = {shape, ColumnLayout(shape), b, streaming, out};
    run_passes(body, shape.batches, body.layout.pieces(), body.layout.size, sizeof(T));
  } else if (!empty) {
    const ContiguousBackward<T> body = {shape, ContiguousLayout(shape), b, streaming, out};
    run_passes(body, shape.reductions(), body.layout.pieces(), body.layout.size, sizeof(T));
  }
  if (b.dgamma || b.dbeta || b.sums) reduce_channels(parts, b, out);
}

}  // namespace

extern const NormKernels<float> norm_f32;
extern const NormKernels<double> norm_f64;
const NormKernels<float> norm_f32 = {forward<float>, backward<float>};
const NormKernels<double> norm_f64 = {forward<double>, backward<double>};

}  // namespace STRIATE_ISA
}  // namespace striate
