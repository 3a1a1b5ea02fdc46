// The versions of a product of matrices that docs/kernels/gemm.md goes through, from three loops to the core: ladder.py
// builds it for the best instruction set and prints what it measures. One thread, square matrices of floats.
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <vector>

#include "gemm/gemm.h"

namespace striate {

namespace {
Machine here;
}
const Machine& machine() { return here; }
int64_t thread_count() { return 1; }
void parallel_ranges(int64_t count, int64_t, void (*body)(void*, int64_t, int64_t), void* context) {
  if (count > 0) body(context, 0, count);
}

namespace STRIATE_ISA {
namespace {

constexpr int64_t L = kLanes<float>, kSliver = 2 * L;

// 1. The definition. B is read down its columns: a cache line for every value.
void three_loops(int64_t n, const float* a, const float* b, float* c) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      float sum = 0;
      for (int64_t k = 0; k < n; ++k) sum += a[i * n + k] * b[k * n + j];
      c[i * n + j] = sum;
    }
}

// 2. The loops in another order: rows of B and C are read along, so lines are used whole and lanes are filled. Each
// multiply-add still loads and stores a value of C, and all of B passes by for every row.
void along_rows(int64_t n, const float* a, const float* b, float* c) {
  memset(c, 0, size_t(n * n) * sizeof(float));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < n; ++k)
      for (int64_t j = 0; j < n; ++j) c[i * n + j] += a[i * n + k] * b[k * n + j];
}

// 3. In blocks of B that stay in a cache while all rows of A pass by.
void in_blocks(int64_t n, const float* a, const float* b, float* c) {
  constexpr int64_t kRows = 64, kColumns = 256;
  memset(c, 0, size_t(n * n) * sizeof(float));
  for (int64_t j0 = 0; j0 < n; j0 += kColumns)
    for (int64_t k0 = 0; k0 < n; k0 += kRows)
      for (int64_t i = 0; i < n; ++i)
        for (int64_t k = k0; k < min(n, k0 + kRows); ++k)
          for (int64_t j = j0; j < min(n, j0 + kColumns); ++j) c[i * n + j] += a[i * n + k] * b[k * n + j];
}

// A tile of C in registers: M rows by two vectors. Both operands are read where they lie.
template <int M>
void tile_in_place(int64_t n, int64_t depth, const float* a, const float* b, int64_t b_step, float* c, bool first) {
  Vector<float> sum[M][2] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const Vector<float> left = load(b + k * b_step), right = load(b + k * b_step + L);
#pragma GCC unroll 14
    for (int i = 0; i < M; ++i) {
      const Vector<float> value = broadcast(a[i * n + k]);
      sum[i][0] += value * left, sum[i][1] += value * right;
    }
  }
  for (int i = 0; i < M; ++i)
    for (int v = 0; v < 2; ++v) {
      float* to = c + i * n + v * L;
      store(to, first ? sum[i][v] : load(to) + sum[i][v]);
    }
}

// 4. Tiles in registers: 2·M multiply-adds for M + 2 loads, and C is written once. The rows of a column of tiles of B
// lie n values apart.
void in_registers(int64_t n, const float* a, const float* b, float* c) {
  for (int64_t j = 0; j < n; j += kSliver)
    for (int64_t i = 0; i < n; i += kMaxRows)
      with_constant<kMaxRows>(min(kMaxRows, n - i), [&](auto rows) {
        tile_in_place<decltype(rows)::value>(n, n, a + i * n, b + j, n, c + i * n + j, true);
      });
}

// 5. The same in blocks of k, with slivers of B packed: one stream that stays in the first-level cache.
void packed_slivers(int64_t n, const float* a, const float* b, float* c) {
  std::vector<float> sliver(kDepth * kSliver);
  const AcrossDepth<float> source = {b, n};
  for (int64_t k = 0; k < n; k += kDepth)
    for (int64_t j = 0; j < n; j += kSliver) {
      const int64_t depth = min(kDepth, n - k);
      source.pack_columns(j, kSliver, k, depth, sliver.data());
      for (int64_t i = 0; i < n; i += kMaxRows)
        with_constant<kMaxRows>(min(kMaxRows, n - i), [&](auto rows) {
          tile_in_place<decltype(rows)::value>(n, depth, a + i * n + k, sliver.data(), kSliver, c + i * n + j, k == 0);
        });
    }
}

// 6. The core: rows of A packed too, in blocks for the second-level cache.
void core(int64_t n, const float* a, const float* b, float* c) {
  gemm<float>({n, n, n}, AlongDepth<float>{a, n}, AcrossDepth<float>{b, n}, {c, n});
}

// The limit: the micro-kernel on operands that stay in the first-level cache, as often as the product needs it.
void micro_kernel_alone(int64_t n, const float* a, const float* b, float* c) {
  const gemm_detail::TileResult<float> r = {{c, kSliver}, kSliver, true, true, false, false};
  for (int64_t tiles = n * n * n / (kMaxRows * kSliver * kDepth); tiles > 0; --tiles)
    gemm_detail::tile<float, RowsOfDepth, kMaxRows, 2>(a, b, kDepth, r);
}

}  // namespace
}  // namespace STRIATE_ISA
}  // namespace striate

// Arguments: the size, the turns, and the bytes of the three levels of caches.
int main(int arguments, char** argument) {
  using namespace striate;
  using namespace striate::STRIATE_ISA;
  if (arguments != 6) return 2;
  const int64_t n = atoll(argument[1]), turns = atoll(argument[2]);
  here = {1, atoll(argument[3]), atoll(argument[4]), atoll(argument[5]), 1};
  if (n % kSliver != 0 || n % kDepth != 0) return 3;
  std::mt19937 random(0);
  std::vector<float> a(size_t(n * n)), b(a), exact(a);
  for (std::vector<float>* of : {&a, &b})
    for (float& value : *of) value = float(int(random() % 17) - 8);  // sums of these are exact
  struct Version {
    const char* name;
    void (*run)(int64_t, const float*, const float*, float*);
    std::vector<double> seconds = {};
  };
  std::vector<Version> versions = {{"three loops", three_loops},
                                   {"along rows", along_rows},
                                   {"in blocks", in_blocks},
                                   {"tiles in registers", in_registers},
                                   {"packed slivers", packed_slivers},
                                   {"the core", core},
                                   {"micro-kernel alone", micro_kernel_alone}};
  std::vector<float> c(a.size());
  three_loops(n, a.data(), b.data(), exact.data());
  for (int64_t turn = 0; turn < turns; ++turn) {
    std::shuffle(versions.begin(), versions.end(), random);
    for (Version& version : versions) {
      const auto start = std::chrono::steady_clock::now();
      version.run(n, a.data(), b.data(), c.data());
      version.seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      if (version.run != micro_kernel_alone && c != exact) return printf("%s is wrong\n", version.name), 4;
    }
  }
  for (Version& version : versions) {
    std::sort(version.seconds.begin(), version.seconds.end());
    printf("%s,%.9f\n", version.name, version.seconds[version.seconds.size() / 2]);
  }
}
