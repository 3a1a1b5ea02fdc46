#include "core/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace striate {

namespace baseline {
extern const Kernels table;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif

namespace {

struct Available {
  const Kernels* list[3] = {&baseline::table};
  int count = 1;
  std::atomic<const Kernels*> chosen;

  Available() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      list[count++] = &avx2::table;
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        list[count++] = &avx512::table;
    }
#endif
    chosen = list[count - 1];
    if (const char* name = std::getenv("STRIATE_ISA"))
      for (int i = 0; i < count; ++i)
        if (std::strcmp(list[i]->isa, name) == 0) chosen = list[i];
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
const Kernels& chosen_kernels() { return *available().chosen.load(std::memory_order_relaxed); }
void use_kernels(int64_t number) { available().chosen = available().list[number]; }

}  // namespace striate
