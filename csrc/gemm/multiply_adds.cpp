// The rate of multiply-adds, measured by the micro-kernel on operands that stay in the first-level cache: no product of
// matrices on this instruction set is faster.
#include "gemm/multiply_adds.h"

#include "core/machine.h"
#include "core/parallel.h"
#include "gemm/micro_kernel.h"
#include "gemm/product.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

template <class T>
int64_t run(int64_t tiles) {
  constexpr int64_t kColumns = 2 * kLanes<T>;
  const int64_t depth = max(1, min(kDepth, inner_bytes() / ((kMaxRows + kColumns) * int64_t(sizeof(T)))));
  const int64_t threads = thread_count();
  parallel_for(threads, kGrainElements, [=](int64_t begin, int64_t end) {
    const Scratch<T> memory((kMaxRows + kColumns) * depth + kMaxRows * kColumns);
    T *const a = memory, *const b = a + kMaxRows * depth, *const c = b + kColumns * depth;
    for (int64_t i = 0; i < (kMaxRows + kColumns) * depth; ++i) a[i] = T(0.5);
    for (int64_t thread = begin; thread < end; ++thread)
      for (int64_t t = 0; t < tiles; ++t)
        micro_kernel_rows<T, kMaxRows, 2>(a, depth, b)
            .for_each([=](int j, int v, const Vector<T>& sum)
                          STRIATE_INLINE_LAMBDA { store(c + j * kColumns + v * kLanes<T>, sum); });
  });
  return threads * tiles * kMaxRows * kColumns * depth;
}

}  // namespace

extern const MultiplyAdds multiply_adds_f32, multiply_adds_f64;
const MultiplyAdds multiply_adds_f32 = run<float>, multiply_adds_f64 = run<double>;

}  // namespace STRIATE_ISA
}  // namespace striate
