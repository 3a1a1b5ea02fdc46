// What norm.cpp offers, once for each instruction set and element type. bindings.cpp has checked every argument.
#pragma once
#include <stdint.h>

namespace striate {

// What gamma and beta run along.
enum class AffineAxis {
  kChannels,   // batch, instance, group and ghost norm: one number a channel
  kElements,   // layer and RMS norm: one number an element of what is measured
  kPositions,  // layer norm of all channels at each position, in planes order: one number a channel, positions are
               // measured apart
};

// x is (batches·samples, groups·channels, positions), or with channels_last (batches·samples, positions,
// groups·channels). Each of batches × groups is measured over its samples, channels and positions:
//   batch norm     batches 1, samples N, groups C, channels 1      ghost norm   batches N/size, samples size, groups C,
//   channels 1 instance norm  batches N, samples 1, groups C, channels 1      group norm   batches N, samples 1, groups
//   G, channels C/G
// kElements: batches rows of `positions` consecutive elements. kPositions: batches × positions are measured over
// `channels`.
struct NormShape {
  int64_t batches, samples, groups, channels, positions;
  bool channels_last;
  AffineAxis affine;

  int64_t all_channels() const { return groups * channels; }
  int64_t reductions() const { return batches * (affine == AffineAxis::kPositions ? positions : groups); }
  int64_t reduction_size() const { return samples * channels * (affine == AffineAxis::kPositions ? 1 : positions); }
};

// What follows scale, shift and residual: nothing, max(z, 0), z above 0 and slope·z below, or min(max(z, 0), 6).
enum class Activation { kNone, kRelu, kLeaky, kRelu6 };

// Null pointers stand for what there is not: gamma 1, beta 0, no residual.
template <class T>
struct NormForward {
  const T *x, *residual, *gamma, *beta;
  T* y;                     // null: only measure
  double *mean, *variance;  // of each set; the biased variance
  bool given;               // the statistics: read, not measured
  bool centered;            // false: the mean is taken as 0 (RMS norm)
  double eps;
  Activation activation;
  T slope;
};

template <class T>
struct NormBackward {
  const T *dy, *x, *residual, *gamma, *beta;
  const double *mean, *variance;
  const double *gradient_mean, *product_mean;  // of each set, of γ·g and γ·g·x̂: null to measure them
  bool constant;                               // the statistics are constants: both means are 0
  bool centered;
  double eps;
  Activation activation;
  T slope;
  T *dx, *dresidual, *dgamma, *dbeta;  // null: not wanted
  double* sums;                        // null, or for each channel Σg, then for each Σ g·x̂
};

template <class T>
struct NormKernels {
  void (*forward)(const NormShape&, const NormForward<T>&);
  void (*backward)(const NormShape&, const NormBackward<T>&);
};

}  // namespace striate
