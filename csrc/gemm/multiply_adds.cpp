// The rate of multiply-adds, measured by the micro-kernel on operands that stay in the first-level cache: no product of
// matrices on this instruction set is faster.
#include "gemm/multiply_adds.h"

#include "core/parallel.h"
#include "gemm/micro_kernel.h"
#include "gemm/product.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

template <class T>
int64_t run(int64_t tiles) {
  constexpr int64_t kColumns = 2 * kLanes<T>;
  const int64_t threads = thread_count();
  parallel_for(threads, kGrainElements, [=](int64_t begin, int64_t end) {
    const Scratch<T> memory((kMaxRows + 2 * kColumns) * kDepth + kMaxRows * kColumns);
    T *const a = memory, *const b = a + kMaxRows * kDepth, *const c = b + 2 * kColumns * kDepth;
    for (int64_t i = 0; i < (kMaxRows + 2 * kColumns) * kDepth; ++i) a[i] = T(0.5);
    for (int64_t thread = begin; thread < end; ++thread)
      for (int64_t t = 0; t < tiles; ++t)
        micro_kernel_rows<T, kMaxRows, 2>(a, kDepth, b)
            .for_each([=](int j, int v, const Vector<T>& sum)
                          STRIATE_INLINE_LAMBDA { store(c + j * kColumns + v * kLanes<T>, sum); });
  });
  return threads * tiles * kMaxRows * kColumns * kDepth;
}

}  // namespace

extern const MultiplyAdds multiply_adds_f32, multiply_adds_f64;
const MultiplyAdds multiply_adds_f32 = run<float>, multiply_adds_f64 = run<double>;

}  // namespace STRIATE_ISA
}  // namespace striate
