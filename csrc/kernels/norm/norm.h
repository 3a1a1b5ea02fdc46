// What norm.cpp implements, once for each instruction set and element type. bindings/norm.cpp has checked every
// argument.
#pragma once
#include <stdint.h>

namespace striate {

// The axis along which gamma and beta vary.
enum class AffineAxis {
  kChannels,   // batch, instance, group and ghost norm: one value a channel
  kElements,   // layer and RMS norm: one value an element of a reduction
  kPositions,  // layer norm of all channels at each position in NCHW: one value a channel, one reduction a position
};

// x is (batches, samples, groups, channels, positions), or with channels_last (batches, samples, positions, groups,
// channels). The reduction axes are samples, channels and positions; a reduction is the values that share a mean and a
// variance, and there are batches × groups of them:
//   batch norm      batches 1,      samples N,    groups C, channels 1
//   ghost norm      batches N/size, samples size, groups C, channels 1
//   instance norm   batches N,      samples 1,    groups C, channels 1
//   group norm      batches N,      samples 1,    groups G, channels C/G
// kElements: `batches` reductions of `positions` consecutive elements. kPositions: batches × positions reductions over
// `channels`.
struct NormShape {
  int64_t batches, samples, groups, channels, positions;
  bool channels_last;
  AffineAxis affine;

  int64_t all_channels() const { return groups * channels; }
  int64_t reductions() const { return batches * (affine == AffineAxis::kPositions ? positions : groups); }
  int64_t reduction_size() const { return samples * channels * (affine == AffineAxis::kPositions ? 1 : positions); }
};

// The activation after scale, shift and residual: none, max(z, 0), z if z > 0 else slope·z, or min(max(z, 0), 6).
enum class NormActivation { kNone, kRelu, kLeaky, kRelu6 };

// Null pointers mean gamma 1, beta 0 and no residual.
template <class T>
struct NormForward {
  const T *x, *residual, *gamma, *beta;
  T* y;                     // null: only measure
  double *mean, *variance;  // one for each reduction; the biased variance
  bool given;               // mean and variance are read, not measured
  bool centered;            // false: the mean is taken as 0 (RMS norm)
  double eps;
  NormActivation activation;
  T slope;
};

template <class T>
struct NormBackward {
  const T *dy, *x, *residual, *gamma, *beta;
  const double *mean, *variance;
  const double *gradient_mean, *product_mean;  // of each reduction, of γ·g and γ·g·x̂; null: measure them
  bool constant;                               // the statistics are constants: both means are 0
  bool centered;
  double eps;
  NormActivation activation;
  T slope;
  T *dx, *dresidual, *dgamma, *dbeta;  // null: not wanted
  double* sums;                        // null, or Σg of each channel, then Σ g·x̂ of each
};

template <class T>
struct NormKernels {
  void (*forward)(const NormShape&, const NormForward<T>&);
  void (*backward)(const NormShape&, const NormBackward<T>&);
};

}  // namespace striate
