// How work is cut: one parallel_for, over torch's own thread pool; bindings.cpp gives it its body; and memory for one
// range. A kernel must compute the same bits wherever [0, count) is cut: cut points depend on the number of threads.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace striate {

// Calls body(context, begin, end) on disjoint ranges that cover [0, count), none shorter than `grain` but the last.
void parallel_ranges(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context);

// Memory aligned to a cache line, of this thread: workspace.cpp. It is given back on the thread that took it.
void* take_workspace(size_t bytes);
void give_workspace(void* memory);
// Asks for pages of 2 MiB, where the system has them: what streams through megabytes waits less for addresses. Before
// it is first written.
void use_large_pages(void* memory, size_t bytes);

#ifdef STRIATE_ISA
namespace STRIATE_ISA {

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t tiles(int64_t count, int64_t tile) { return (count + tile - 1) / tile; }

template <class T>
class Scratch {  // uninitialised, aligned to a cache line
 public:
  explicit Scratch(int64_t count) : data_(static_cast<T*>(take_workspace(size_t(count < 1 ? 1 : count) * sizeof(T)))) {}
  ~Scratch() { give_workspace(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator T*() const { return data_; }

 private:
  T* data_;
};

// Work worth waking a thread for: about 10 µs of touching memory.
constexpr int64_t kGrainElements = 16384;

// The body is copied into each range's own frame: captured by value, its variables then live in registers. Behind the
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
