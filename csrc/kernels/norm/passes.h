// How the passes over memory are scheduled, and how results are stored. A part of norm.cpp.
//
// The headers of this folder but norm.h are parts of one translation unit. Their anonymous namespaces let the compiler
// inline what is called once.
#pragma once
#include "core/machine.h"
#include "core/parallel.h"
#include "core/simd.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

constexpr int64_t kPiece = 32768;         // values that one unit of work measures: a length of sums
constexpr int64_t kFusedReductions = 16;  // fewer might leave threads idle

// Stores one vector of a result, by a streaming store where it is aligned.
template <class T, class Whole>
STRIATE_INLINE void store_result(Whole whole, bool streaming, T* p, const Vector<T>& v, int64_t lanes) {
  if (Whole::value && streaming && reinterpret_cast<uintptr_t>(p) % sizeof v == 0)
    store_streaming(p, v);
  else
    store_lanes(whole, p, v, lanes);
}

// for_each_vector, but whole vectors begin where streaming stores to `to` are aligned.
template <class T, class Body>
STRIATE_INLINE void over_result(bool streaming, const T* to, int64_t count, const Body& body) {
  const int64_t off = reinterpret_cast<uintptr_t>(to) % kVectorBytes / sizeof(T);
  const int64_t head = streaming && off > 0 ? min(count, kLanes<T> - off) : 0;
  if (head > 0) body(0, Constant<false>{}, head);
  for_each_vector<T>(count - head, [&](int64_t i, auto whole, int64_t lanes) { body(head + i, whole, lanes); });
}

// Runs body.prepare(reduction, work, slot), .measure(reduction, piece, work, slot), .finish(reduction, work, slot) and
// .apply(reduction, piece, work, slot): both passes at once for each reduction, or one pass after the other (see Passes
// in norm.cpp). Work(body, slots) is the memory between the passes, of one reduction at a time or of all.
template <class Body>
void run_passes(const Body& body, int64_t reductions, int64_t pieces, int64_t reduction_size, int64_t element_bytes) {
  using Work = typename Body::Work;
  if (pieces == 1 || (reductions >= kFusedReductions && reduction_size * element_bytes <= kept_bytes())) {
    parallel_for(reductions, reduction_size * 2, [=](int64_t begin, int64_t end) {
      const Work work(body, 1);
      for (int64_t set = begin; set < end; ++set) {
        body.prepare(set, work, 0);
        if (body.measures())
          for (int64_t p = 0; p < pieces; ++p) body.measure(set, p, work, 0);
        body.finish(set, work, 0);
        if (body.applies())
          for (int64_t p = 0; p < pieces; ++p) body.apply(set, p, work, 0);
      }
      fence_streaming_stores();
    });
    return;
  }
  const Work all(body, reductions), *work = &all;
  const auto each_piece = [&](const auto& run) {
    parallel_for(reductions * pieces, reduction_size / pieces, [=](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) run(unit / pieces, unit % pieces);
      fence_streaming_stores();
    });
  };
  for (int64_t set = 0; set < reductions; ++set) body.prepare(set, *work, set);
  if (body.measures()) each_piece([=](int64_t set, int64_t piece) { body.measure(set, piece, *work, set); });
  for (int64_t set = 0; set < reductions; ++set) body.finish(set, *work, set);
  if (body.applies()) each_piece([=](int64_t set, int64_t piece) { body.apply(set, piece, *work, set); });
}

}  // namespace
}  // namespace STRIATE_ISA
}  // namespace striate
