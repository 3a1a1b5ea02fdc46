#include "conv.h"

#include "../bands.h"
#include "../turn.h"

namespace striate {
namespace STRIATE_ISA {
extern const ConvKernels<float> direct_f32;
extern const ConvKernels<double> direct_f64;
const ConvKernels<float> direct_f32 = {};
const ConvKernels<double> direct_f64 = {};
}  // namespace STRIATE_ISA
}  // namespace striate
