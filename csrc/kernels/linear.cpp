// Linear layers, as products of matrices (gemm/gemm.h):
//
//   y[r, o]  = activation(b[o] + Σ_i x[r, i]·w[o, i])
//   dx[r, i] = Σ_o dy[r, o]·w[o, i]
//   dw[o, i] = Σ_r dy[r, o]·x[r, i]
//
// Layout. x, y and their gradients are rows of features, w and its gradient rows of inputs. So the sum of forward runs
// along the lines of both factors, that of dx along dy's and across w's, and that of dw across both.
#include "kernels/linear.h"

#include "gemm/gemm.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

template <class T>
void forward(const LinearShape& s, const T* x, const T* weight, const LinearEpilogue<T>& e, T* y) {
  gemm<T>({s.rows, s.outputs, s.inputs}, AlongDepth<T>{x, s.inputs}, AlongDepth<T>{weight, s.inputs},
          {y, s.outputs, e.bias, false, e.activation});
}

template <class T>
void backward_data(const LinearShape& s, const T* dy, const T* weight, T* dx) {
  gemm<T>({s.rows, s.inputs, s.outputs}, AlongDepth<T>{dy, s.outputs}, AcrossDepth<T>{weight, s.inputs},
          {dx, s.inputs});
}

template <class T>
void backward_weights(const LinearShape& s, const T* dy, const T* x, T* dw) {
  gemm<T>({s.outputs, s.inputs, s.rows}, AcrossDepth<T>{dy, s.outputs}, AcrossDepth<T>{x, s.inputs}, {dw, s.inputs});
}

}  // namespace

extern const LinearKernels<float> linear_f32;
extern const LinearKernels<double> linear_f64;
const LinearKernels<float> linear_f32 = {forward<float>, backward_data<float>, backward_weights<float>};
const LinearKernels<double> linear_f64 = {forward<double>, backward_data<double>, backward_weights<double>};

}  // namespace STRIATE_ISA
}  // namespace striate
