// The table of one instruction set's kernels. It is constant, so that no order of initialization matters.
#include "core/dispatch.h"

#define STRIATE_TEXT(x) STRIATE_QUOTED(x)
#define STRIATE_QUOTED(x) #x

namespace striate {
namespace STRIATE_ISA {

#define STRIATE_METHOD(name)                  \
  extern const ConvKernels<float> name##_f32; \
  extern const ConvKernels<double> name##_f64;
#include "methods.def"
extern const BiasGradient<float> bias_f32;
extern const BiasGradient<double> bias_f64;
extern const PoolKernels<float> pool_f32;
extern const PoolKernels<double> pool_f64;
extern const NormKernels<float> norm_f32;
extern const NormKernels<double> norm_f64;
extern const LocalResponseKernels<float> local_response_f32;
extern const LocalResponseKernels<double> local_response_f64;
extern const LocalKernels<float> local_f32;
extern const LocalKernels<double> local_f64;
extern const LinearKernels<float> linear_f32;
extern const LinearKernels<double> linear_f64;
extern const MultiplyAdds multiply_adds_f32, multiply_adds_f64;

extern const Kernels table;
constexpr Kernels table = {
    STRIATE_TEXT(STRIATE_ISA),
    {{
#define STRIATE_METHOD(name) &name##_f32,
#include "methods.def"
     },
     &bias_f32,
     &pool_f32,
     &norm_f32,
     &local_response_f32,
     &local_f32,
     &linear_f32,
     &multiply_adds_f32,
     &activate_f32},
    {{
#define STRIATE_METHOD(name) &name##_f64,
#include "methods.def"
     },
     &bias_f64,
     &pool_f64,
     &norm_f64,
     &local_response_f64,
     &local_f64,
     &linear_f64,
     &multiply_adds_f64,
     &activate_f64},
};

}  // namespace STRIATE_ISA
}  // namespace striate
