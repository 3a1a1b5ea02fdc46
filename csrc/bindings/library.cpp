// The library as a whole: threads, the names of methods, activations and instruction sets, the machine. Operators are
// registered by each family's file, as fragments of this library.
#include "bindings/common.h"
#include "core/dispatch.h"
#include "core/machine.h"
#include "core/parallel.h"

namespace striate {

void parallel_ranges(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context) {
  if (count <= 0) return;
  if (count <= grain) return body(context, 0, count);
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { body(context, begin, end); });
}

int64_t thread_count() { return int64_t(torch::stable::get_num_threads()); }

namespace {

// Names as bytes, separated by spaces: the stable ABI of torch 2.13 leaks every string that an operator takes or gives.
Ints as_bytes(int64_t count, const auto& name) {
  std::string names;
  for (int64_t k = 0; k < count; ++k) names.append(k ? " " : "").append(name(k));
  return Ints(names.begin(), names.end());
}

Ints conv_methods() {
  return as_bytes(kMethods, [](int64_t k) { return kMethodNames[k]; });
}

Ints activations() {
  return as_bytes(kActivations, [](int64_t k) { return kActivationNames[k]; });
}

Ints isa_available() {
  int count;
  const Kernels* const* list = available_kernels(&count);
  return as_bytes(count, [&](int64_t k) { return list[k]->isa; });
}

// The number of the instruction set in use, among those available.
int64_t isa_chosen() {
  int count;
  const Kernels *const *list = available_kernels(&count), *chosen = &chosen_kernels();
  int64_t number = 0;
  while (list[number] != chosen) ++number;
  return number;
}
void isa_choose(int64_t number) {
  int count;
  const Kernels* const* list = available_kernels(&count);
  check_number(number, count, "an instruction set", [&](int64_t k) { return list[k]->isa; });
  use_kernels(number);
}

// The values of Machine, in the order of its members.
Ints machine_in_use() {
  const Machine& m = machine();
  return {m.cores, m.first_level, m.second_level, m.last_level, m.sharing};
}
void machine_choose(Ints values) {
  check(values.size() == 5, "a machine is 5 numbers, got " + std::to_string(values.size()));
  for (size_t k = 0; k < 5; ++k) {
    const bool counts = k == 0 || k == 4;
    const int64_t least = counts ? kLeastCount : kLeastCache, most = counts ? kMostCount : kMostCache;
    check(values[k] >= least && values[k] <= most, "number " + std::to_string(k) + " of a machine is from " +
                                                       std::to_string(least) + " to " + std::to_string(most) +
                                                       ", got " + std::to_string(values[k]));
  }
  use_machine({values[0], values[1], values[2], values[3], values[4]});
}

// Multiplies and adds on every thread, on operands that stay in the caches; returns how many multiply-adds it did.
int64_t multiply_adds(int64_t tiles, bool doubles) {
  check(tiles >= 0 && tiles < (int64_t(1) << 32), "a measurement has fewer than 2^32 tiles");
  return (*(doubles ? kernels<double>().multiply_adds : kernels<float>().multiply_adds))(tiles);
}

}  // namespace

STABLE_TORCH_LIBRARY(striate, m) {
  m.def("conv_methods() -> int[]");
  m.def("activations() -> int[]");
  m.def("isa_available() -> int[]");
  m.def("isa_chosen() -> int");
  m.def("isa_choose(int number) -> ()");
  m.def("multiply_adds(int tiles, bool doubles) -> int");
  m.def("machine() -> int[]");
  m.def("machine_choose(int[] values) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(striate, CompositeExplicitAutograd, m) {
  m.impl("conv_methods", TORCH_BOX(&conv_methods));
  m.impl("activations", TORCH_BOX(&activations));
  m.impl("isa_available", TORCH_BOX(&isa_available));
  m.impl("isa_chosen", TORCH_BOX(&isa_chosen));
  m.impl("isa_choose", TORCH_BOX(&isa_choose));
  m.impl("multiply_adds", TORCH_BOX(&multiply_adds));
  m.impl("machine", TORCH_BOX(&machine_in_use));
  m.impl("machine_choose", TORCH_BOX(&machine_choose));
}

}  // namespace striate
