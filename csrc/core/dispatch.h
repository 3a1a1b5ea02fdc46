// Chooses the kernels to run: the build has one table for each instruction set (kernels/table.cpp), and the best table
// that this CPU supports is chosen once, when the library loads.
#pragma once
#include "core/activation.h"
#include "gemm/multiply_adds.h"
#include "kernels/conv/conv.h"
#include "kernels/linear.h"
#include "kernels/local.h"
#include "kernels/local_response.h"
#include "kernels/norm/norm.h"
#include "kernels/pool/pool.h"

namespace striate {

// The methods of convolution; operators take these numbers as arguments.
enum class Method : int64_t {
#define STRIATE_METHOD(name) name,
#include "methods.def"
};
constexpr const char* kMethodNames[] = {
#define STRIATE_METHOD(name) #name,
#include "methods.def"
};
constexpr int64_t kMethods = sizeof(kMethodNames) / sizeof(*kMethodNames);

// The kernels of one instruction set for one element type.
template <class T>
struct KernelsOf {
  const ConvKernels<T>* conv[kMethods];  // indexed by Method
  const BiasGradient<T>* bias;
  const PoolKernels<T>* pool;
  const NormKernels<T>* norm;
  const LocalResponseKernels<T>* local_response;
  const LocalKernels<T>* local;
  const LinearKernels<T>* linear;
  const MultiplyAdds* multiply_adds;
  const Activate<T>* activate;
};

struct Kernels {
  const char* isa;
  KernelsOf<float> f32;
  KernelsOf<double> f64;
};

// The tables this CPU can run, slowest first; sets `count` to how many there are.
const Kernels* const* available_kernels(int* count);

// The table in use: the last available one, or the one that the environment variable STRIATE_ISA names.
const Kernels& chosen_kernels();

// Makes the table of that number in `available_kernels` the one in use.
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
