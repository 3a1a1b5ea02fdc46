// Which kernels run: one table for each instruction set the build has (kernels/table.cpp), the best one this CPU has
// picked once.
#pragma once
#include "kernels/conv/conv.h"
#include "kernels/local.h"
#include "kernels/local_response.h"
#include "kernels/norm/norm.h"
#include "kernels/pool/pool.h"

namespace striate {

// The methods of convolution, by the numbers that operators take.
enum class Method : int64_t {
#define STRIATE_METHOD(name) name,
#include "methods.def"
};
constexpr const char* kMethodNames[] = {
#define STRIATE_METHOD(name) #name,
#include "methods.def"
};
constexpr int64_t kMethods = sizeof(kMethodNames) / sizeof(*kMethodNames);

// What an instruction set has for one element type.
template <class T>
struct KernelsOf {
  const ConvKernels<T>* conv[kMethods];  // by Method
  const BiasGradient<T>* bias;
  const PoolKernels<T>* pool;
  const NormKernels<T>* norm;
  const LocalResponseKernels<T>* local_response;
  const LocalKernels<T>* local;
};

struct Kernels {
  const char* isa;
  KernelsOf<float> f32;
  KernelsOf<double> f64;
};

// The tables this CPU can run, slowest first; `count` is set to how many.
const Kernels* const* available_kernels(int* count);

// The table in use: the last available one, or the one STRIATE_ISA names when the library loads.
const Kernels& chosen_kernels();

// From now on the one of that number in `available_kernels`.
void use_kernels(int64_t number);

template <class T>
const KernelsOf<T>& kernels();
template <>
inline const KernelsOf<float>& kernels<float>() {
  return chosen_kernels().f32;
}
template <>
inline const KernelsOf<double>& kernels<double>() {
  return chosen_kernels().f64;
}

}  // namespace striate
