// What norm.cpp offers, once for each instruction set and element type. bindings.cpp has checked every argument.
#pragma once
#include <stdint.h>

namespace striate {

// What gamma and beta run along.
enum class Along {
  kChannels,  // batch, instance, group and ghost norm: one number a channel
  kElements,  // layer and RMS norm: one number an element of what is measured
  kRows,  // layer norm of all channels at each place, in planes order: one number a channel, places are measured apart
};

// x is (batches·samples, groups·channels, places), or with channels_last (batches·samples, places, groups·channels).
// Each of batches × groups is measured over its samples, channels and places:
//   batch norm     batches 1, samples N, groups C, channels 1      ghost norm   batches N/size, samples size, groups C,
//   channels 1 instance norm  batches N, samples 1, groups C, channels 1      group norm   batches N, samples 1, groups
//   G, channels C/G
// kElements: batches rows of `places` consecutive elements. kRows: batches × places are measured over `channels`.
struct NormShape {
  int64_t batches, samples, groups, channels, places;
  bool channels_last;
  Along along;

  int64_t all_channels() const { return groups * channels; }
  int64_t sets() const { return batches * (along == Along::kRows ? places : groups); }
  int64_t set_size() const { return samples * channels * (along == Along::kRows ? 1 : places); }
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
