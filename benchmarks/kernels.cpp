// Times the convolution kernels of several versions against each other: kernels.py builds it, with each version's
// kernels in a namespace of its own and their names in VERSIONS. One thread; every call gets the same memory, so that
// the placement of pages favours no version.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <vector>

#include "core/parallel.h"
#include "kernels/conv/conv.h"

namespace striate {

#define STRIATE_VERSION(name)                       \
  namespace name {                                  \
  extern const ConvKernels<float> winograd_4x4_f32; \
  }
VERSIONS
#undef STRIATE_VERSION

namespace {
constexpr size_t kPage = size_t(2) << 20, kMemory = size_t(512) << 20;
char* arena;  // take_workspace() allocates from it, like a stack
size_t taken = 0;
}  // namespace

void* take_workspace(size_t bytes) {
  void* memory = arena + taken;
  taken += (bytes + 127) / 64 * 64;
  return memory;
}
void give_workspace(void* memory) { taken = static_cast<char*>(memory) - arena; }
void use_large_pages(void*, size_t) {}
void parallel_ranges(int64_t count, int64_t, void (*body)(void*, int64_t, int64_t), void* context) {
  if (count > 0) body(context, 0, count);
}

}  // namespace striate

int main(int arguments, char** argument) {
  using namespace striate;
  if (arguments != 2) return 2;
  const int turns = atoi(argument[1]);
  struct Version {
    const char* name;
    const ConvKernels<float>* kernels;
  };
  const std::vector<Version> versions = {
#define STRIATE_VERSION(name) {#name, &name::winograd_4x4_f32},
      VERSIONS
#undef STRIATE_VERSION
  };
  char* mapped = static_cast<char*>(mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (mapped == MAP_FAILED) return 1;
  char* memory = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(mapped) + kPage - 1) / kPage * kPage);
  madvise(memory, kMemory - kPage, MADV_HUGEPAGE);
  memset(memory, 0, kMemory - kPage);
  arena = memory + kMemory / 2;

  struct Case {
    int64_t batch, channels, size;
    bool channels_last;
  };
  std::vector<Case> cases;
  for (bool last : {true, false})
    for (const Case& c : {Case{1, 32, 56, last}, Case{1, 64, 56, last}, Case{4, 64, 28, last}, Case{1, 128, 28, last},
                          Case{2, 256, 14, last}})
      cases.push_back(c);
  for (const Case& c : cases)
    for (const char* pass : {"forward", "input", "weight"}) {
      const Axis one = {1, 1, 1, 1, 1, 0, 0}, axis = {c.size, c.size, 3, 1, 1, 1, 1};
      ConvShape shape = {{one, axis, axis}, c.batch, c.channels, c.channels, 1, c.channels_last};
      const int64_t values = c.batch * c.channels * c.size * c.size, weights = 9 * c.channels * c.channels;
      float *x = reinterpret_cast<float*>(memory), *dy = x + values, *y = dy + values, *w = y + values,
            *dw = w + weights;
      std::mt19937 random(0);
      std::normal_distribution<float> normal;
      for (int64_t i = 0; i < values; ++i) x[i] = std::max(0.f, normal(random)), dy[i] = normal(random);
      for (int64_t i = 0; i < weights; ++i) w[i] = normal(random) / 20;
      const Epilogue<float> plain = {nullptr, nullptr, -__builtin_inff(), __builtin_inff(), nullptr, nullptr};
      std::vector<std::vector<double>> seconds(versions.size());
      std::vector<size_t> order(versions.size());
      for (size_t i = 0; i < order.size(); ++i) order[i] = i;
      for (int turn = 0; turn <= turns; ++turn) {
        std::shuffle(order.begin(), order.end(), random);
        for (size_t i : order) {
          const ConvKernels<float>& kernels = *versions[i].kernels;
          const auto begin = std::chrono::steady_clock::now();
          if (*pass == 'f') kernels.forward(shape, x, {w, false}, plain, y);
          if (*pass == 'i') kernels.backward_data(shape, dy, {w, false}, plain, y);
          if (*pass == 'w') kernels.backward_weights(shape, dy, x, dw);
          const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
          if (turn > 0) seconds[i].push_back(took.count());  // the first turn is a warm-up
        }
      }
      std::printf("%s,%d,%d,%d,%s", pass, int(c.batch), int(c.channels), int(c.size),
                  c.channels_last ? "channels_last" : "planes");
      for (std::vector<double>& of : seconds) {
        std::nth_element(of.begin(), of.begin() + of.size() / 2, of.end());
        std::printf(",%.9f", of[of.size() / 2]);
      }
      std::printf("\n");
      std::fflush(stdout);
    }
}
