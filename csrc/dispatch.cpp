#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace striate {

#define STRIATE_DECLARE(ISA)                                                                              \
  namespace ISA {                                                                                         \
  extern const ConvKernels<float> depthwise_f32, direct_f32, winograd4_f32, winograd2_f32, unfolded_f32;  \
  extern const ConvKernels<double> depthwise_f64, direct_f64, winograd4_f64, winograd2_f64, unfolded_f64; \
  extern const BiasGradient<float> bias_f32;                                                              \
  extern const BiasGradient<double> bias_f64;                                                             \
  extern const PoolKernels<float> pool_f32;                                                               \
  extern const PoolKernels<double> pool_f64;                                                              \
  extern const NormKernels<float> norm_f32;                                                               \
  extern const NormKernels<double> norm_f64;                                                              \
  extern const LocalResponseKernels<float> local_response_f32;                                            \
  extern const LocalResponseKernels<double> local_response_f64;                                           \
  }
#define STRIATE_TABLE(ISA)  \
  {#ISA,                    \
   ISA::depthwise_f32,      \
   ISA::depthwise_f64,      \
   ISA::direct_f32,         \
   ISA::direct_f64,         \
   ISA::winograd4_f32,      \
   ISA::winograd2_f32,      \
   ISA::winograd4_f64,      \
   ISA::winograd2_f64,      \
   ISA::unfolded_f32,       \
   ISA::unfolded_f64,       \
   ISA::bias_f32,           \
   ISA::bias_f64,           \
   ISA::pool_f32,           \
   ISA::pool_f64,           \
   ISA::norm_f32,           \
   ISA::norm_f64,           \
   ISA::local_response_f32, \
   ISA::local_response_f64}

STRIATE_DECLARE(baseline)
#if defined(__x86_64__)
STRIATE_DECLARE(avx2)
STRIATE_DECLARE(avx512)
#endif

namespace {

struct Available {
  Kernels tables[3];
  const Kernels* list[3];
  int count = 0;
  std::atomic<const Kernels*> chosen;

  Available()
      : tables{
            STRIATE_TABLE(baseline),
#if defined(__x86_64__)
            STRIATE_TABLE(avx2),
            STRIATE_TABLE(avx512),
#endif
        } {
    list[count++] = &tables[0];
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      list[count++] = &tables[1];
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512vl"))
        list[count++] = &tables[2];
    }
#endif
    chosen = list[count - 1];
    if (const char* name = std::getenv("STRIATE_ISA")) use(name);
  }

  bool use(const char* isa) {
    for (int i = 0; i < count; ++i)
      if (std::strcmp(list[i]->isa, isa) == 0) {
        chosen = list[i];
        return true;
      }
    return false;
  }
};

Available& available() {
  static Available a;
  return a;
}

}  // namespace

const Kernels* const* available_kernels(int* count) {
  *count = available().count;
  return available().list;
}
const Kernels& kernels() { return *available().chosen.load(std::memory_order_relaxed); }
bool use_kernels(const char* isa) { return available().use(isa); }

}  // namespace striate
