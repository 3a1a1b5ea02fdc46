// Which kernels run: one table for each instruction set the build has, the best one this CPU has picked once.
#pragma once
#include "kernels/conv.h"
#include "kernels/local_response.h"
#include "kernels/norm.h"
#include "kernels/pool.h"

namespace striate {

struct Kernels {
  const char* isa;
  ConvKernels<float> depthwise_f32;
  ConvKernels<double> depthwise_f64;
  ConvKernels<float> direct_f32;
  ConvKernels<double> direct_f64;
  ConvKernels<float> winograd4_f32, winograd2_f32;
  ConvKernels<double> winograd4_f64, winograd2_f64;
  ConvKernels<float> unfolded_f32;
  ConvKernels<double> unfolded_f64;
  BiasGradient<float> bias_f32;
  BiasGradient<double> bias_f64;
  PoolKernels<float> pool_f32;
  PoolKernels<double> pool_f64;
  NormKernels<float> norm_f32;
  NormKernels<double> norm_f64;
  LocalResponseKernels<float> local_response_f32;
  LocalResponseKernels<double> local_response_f64;

  template <class T>
  const ConvKernels<T>& depthwise() const;
  template <class T>
  const ConvKernels<T>& direct() const;
  template <class T>
  const ConvKernels<T>& winograd4() const;
  template <class T>
  const ConvKernels<T>& winograd2() const;
  template <class T>
  const ConvKernels<T>& unfolded() const;
  template <class T>
  BiasGradient<T> bias() const;
  template <class T>
  const PoolKernels<T>& pool() const;
  template <class T>
  const NormKernels<T>& norm() const;
  template <class T>
  const LocalResponseKernels<T>& local_response() const;
};
template <>
inline const ConvKernels<float>& Kernels::depthwise<float>() const {
  return depthwise_f32;
}
template <>
inline const ConvKernels<double>& Kernels::depthwise<double>() const {
  return depthwise_f64;
}

template <>
inline const ConvKernels<float>& Kernels::direct<float>() const {
  return direct_f32;
}
template <>
inline const ConvKernels<double>& Kernels::direct<double>() const {
  return direct_f64;
}

template <>
inline const ConvKernels<float>& Kernels::winograd4<float>() const {
  return winograd4_f32;
}
template <>
inline const ConvKernels<double>& Kernels::winograd4<double>() const {
  return winograd4_f64;
}

template <>
inline const ConvKernels<float>& Kernels::winograd2<float>() const {
  return winograd2_f32;
}
template <>
inline const ConvKernels<double>& Kernels::winograd2<double>() const {
  return winograd2_f64;
}

template <>
inline const ConvKernels<float>& Kernels::unfolded<float>() const {
  return unfolded_f32;
}
template <>
inline const ConvKernels<double>& Kernels::unfolded<double>() const {
  return unfolded_f64;
}

template <>
inline BiasGradient<float> Kernels::bias<float>() const {
  return bias_f32;
}
template <>
inline BiasGradient<double> Kernels::bias<double>() const {
  return bias_f64;
}

template <>
inline const PoolKernels<float>& Kernels::pool<float>() const {
  return pool_f32;
}
template <>
inline const PoolKernels<double>& Kernels::pool<double>() const {
  return pool_f64;
}

template <>
inline const NormKernels<float>& Kernels::norm<float>() const {
  return norm_f32;
}
template <>
inline const NormKernels<double>& Kernels::norm<double>() const {
  return norm_f64;
}

template <>
inline const LocalResponseKernels<float>& Kernels::local_response<float>() const {
  return local_response_f32;
}
template <>
inline const LocalResponseKernels<double>& Kernels::local_response<double>() const {
  return local_response_f64;
}

// The tables this CPU can run, slowest first; `count` is set to how many.
const Kernels* const* available_kernels(int* count);

// The table in use: the last available one, or the one STRIATE_ISA names when the library loads.
const Kernels& kernels();

// False if this machine has no instruction set of that name.
bool use_kernels(const char* isa);

}  // namespace striate
