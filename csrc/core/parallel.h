// Parallel loops over torch's thread pool, and scratch memory. A kernel must compute the same bits wherever [0, count)
// is cut, because the cut points depend on the number of threads. The body of parallel_ranges is in
// bindings/library.cpp, since only the bindings include torch.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace striate {

// Calls body(context, begin, end) on disjoint ranges that cover [0, count); each but the last has at least `grain`
// items.
void parallel_ranges(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context);

// How many threads parallel_ranges uses at most.
int64_t thread_count();

// Memory of the calling thread, aligned to a cache line (workspace.cpp). It must be given back on the same thread.
void* take_workspace(size_t bytes);
void give_workspace(void* memory);
// Asks the system for pages of 2 MiB, which spare address translations where megabytes are read in a stream. Call it
// before the memory is first written.
void use_large_pages(void* memory, size_t bytes);

#ifdef STRIATE_ISA
namespace STRIATE_ISA {

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t count, int64_t tile) { return (count + tile - 1) / tile; }

template <class T>
class Scratch {  // uninitialised memory, aligned to a cache line
 public:
  explicit Scratch(int64_t count) : data_(static_cast<T*>(take_workspace(size_t(count < 1 ? 1 : count) * sizeof(T)))) {}
  ~Scratch() { give_workspace(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator T*() const { return data_; }

 private:
  T* data_;
};

// The least work that is worth waking a thread for: about 10 µs of memory accesses.
constexpr int64_t kGrainElements = 16384;

// Copies the body into the frame of each range: the variables it captured by value then live in registers. Behind the
// pointer, every store of bytes would make the compiler read them all again (row loops ran at half the speed).
template <class Body>
inline void parallel_for(int64_t count, int64_t elements_per_item, const Body& body) {
  const int64_t grain =
      elements_per_item >= kGrainElements ? 1 : kGrainElements / (elements_per_item < 1 ? 1 : elements_per_item);
  parallel_ranges(
      count, grain,
      [](void* context, int64_t begin, int64_t end) {
        const Body own = *static_cast<const Body*>(context);
        own(begin, end);
      },
      const_cast<Body*>(&body));
}

}  // namespace STRIATE_ISA
#endif

}  // namespace striate
