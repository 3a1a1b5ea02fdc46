// Products of matrices, C = A·B: five loops around the micro-kernel (Goto, van de Geijn 2008; Van Zee, van de Geijn
// 2015). docs/kernels/gemm.md builds them up from three loops.
//
//   C[m][n] = Σ_k A[m][k] · B[k][n]
//
// C is cut into rectangles, one for each thread, which share nothing: no thread waits for another. (Where C is small
// and K long, K is cut too.) In a rectangle the loops are, from the outside in:
//   columns, N   a block of columns
//   panels, K    kPanelDepth values of k: panel × columns of B, packed, stay in the last level of caches
//   rows, M      a block of rows, of which C is completed panel by panel
//   depth, K     kDepth values of k: rows × kDepth of A, packed, stay in the second level
//   slivers, N   kDepth × two vectors of B, which stay in the first level (packed a strip of slivers at a time)
//   tiles, M     the micro-kernel: a tile of C in registers (micro_kernel.h)
// Where all rows are one block, B is used once, and only a strip of it is kept.
//
// Order of a sum. The micro-kernel sums kDepth values of k in registers; these partial sums are added in C's memory one
// after the other. What else decides the order, whether an operand is packed and whether K is cut, follows from the
// shape and the instruction set: blocks and rectangles may follow caches and threads without changing a bit.
//
// Packing. Both operands are given by how they lie in memory (sources.h). Packing reads each once a block and lays it
// out in the order in which the micro-kernel reads it. A sliver's columns behind the last are zeros, which are
// multiplied but never stored; a tile has the rows that there are.
#pragma once
#include "core/machine.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "core/taps.h"
#include "gemm/few_rows.h"
#include "gemm/micro_kernel.h"
#include "gemm/product.h"
#include "gemm/sources.h"

namespace striate {
namespace STRIATE_ISA {

// The values of k for which B stays packed while the rows of A pass by, so that a block of C is completed part by part
// while it is in a cache.
constexpr int64_t kPanelDepth = 8 * kDepth;

// So many rows, or columns, of C at most are summed without packing (few_rows.h): kFewLines where both operands lie
// along k, for sums of kFewDepth vectors at least, which are worth adding up lanes for; kFewRows where B lies across k.
constexpr int64_t kFewLines = 16, kFewDepth = 16, kFewRows = 6;

// So many tiles of C at most make a small C, whose K is cut into at most so many parts.
constexpr int64_t kFewTiles = 32, kMostParts = 16;

// The least number of multiply-adds that is worth waking a thread for: some 5 µs.
constexpr int64_t kGrainProducts = int64_t(1) << 17;

namespace gemm_detail {

// What happens to a tile of sums in C.
template <class T>
struct TileResult {
  Product<T> at;     // of the tile's first row and column
  int64_t lanes;     // columns that exist
  bool first, last;  // whether this is the first and the last part of the sum
  bool finishes;     // whether there is more to do than to store a sum that is complete
  bool stream;       // write past the caches
};

template <class T, class Whole>
STRIATE_INLINE void put_sum(Whole whole, const TileResult<T>& r, int64_t j, int64_t n, Vector<T> sum, int64_t lanes) {
  T* to = r.at.c + j * r.at.pitch + n;
  if (!r.first) sum = load_lanes<T>(whole, to, lanes) + sum;
  if (r.last && r.finishes) sum = finish(whole, r.at, sum, j, n, lanes);
  store_lanes(whole, to, sum, lanes);
}

// Adds a tile's products to C. Not inlined: one copy for each size of a tile serves every source. What is done with the
// sums is asked once a tile, because a tile of a shallow product takes no longer than some questions for each vector.
template <class T, class Layout, int M, int V>
__attribute__((noinline)) void tile(const T* a, const T* b, int64_t depth, const TileResult<T>& r) {
  constexpr int64_t L = kLanes<T>;
  T* const c = r.at.c;
  const int64_t pitch = r.at.pitch;
  // C's lines are needed when the sum is complete: fetch them meanwhile.
  if (!r.stream)
    for (int j = 0; j < M; ++j)
      __builtin_prefetch(c + j * pitch, 1), __builtin_prefetch(c + j * pitch + r.lanes - 1, 1);
  const Tile<T, M, V> sums = Layout::template multiply<T, M, V>(a, b, depth);
  const bool finishes = r.last && r.finishes;
  if (r.lanes < V * L) {  // at C's right edge
    T values[M * V * L];
    sums.for_each([&](int j, int v, const Vector<T>& sum)
                      STRIATE_INLINE_LAMBDA { store(values + (j * V + v) * L, sum); });
    for (int64_t j = 0; j < M; ++j)
      for_each_vector<T>(r.lanes, [&](int64_t n, auto whole, int64_t lanes) {
        put_sum(whole, r, j, n, load(values + j * V * L + n), lanes);
      });
  } else if (r.stream && !finishes) {
    sums.for_each([&](int j, int v, const Vector<T>& sum)
                      STRIATE_INLINE_LAMBDA { store_streaming(c + j * pitch + v * L, sum); });
  } else if (r.stream && !r.at.activation.clamps()) {  // activated before it leaves for memory
    T values[M * V * L];
    sums.for_each([&](int j, int v, const Vector<T>& sum) STRIATE_INLINE_LAMBDA {
      store(values + (j * V + v) * L, finish(Constant<true>{}, r.at, sum, j, v * L, L));
    });
    activate(r.at.activation, values, V * L, M, V * L);
    for (int64_t j = 0; j < M; ++j)
      for (int64_t n = 0; n < V * L; n += L) store_streaming(c + j * pitch + n, load(values + j * V * L + n));
    return;
  } else if (r.stream) {
    sums.for_each([&](int j, int v, const Vector<T>& sum) STRIATE_INLINE_LAMBDA {
      store_streaming(c + j * pitch + v * L, finish(Constant<true>{}, r.at, sum, j, v * L, L));
    });
  } else if (finishes) {
    sums.for_each([&](int j, int v, const Vector<T>& sum)
                      STRIATE_INLINE_LAMBDA { put_sum(Constant<true>{}, r, j, v * L, sum, L); });
  } else if (r.first) {
    sums.for_each([&](int j, int v, const Vector<T>& sum) STRIATE_INLINE_LAMBDA { store(c + j * pitch + v * L, sum); });
  } else {
    sums.for_each([&](int j, int v, const Vector<T>& sum)
                      STRIATE_INLINE_LAMBDA { store(c + j * pitch + v * L, load(c + j * pitch + v * L) + sum); });
  }
  if (finishes) activate(r.at, M, r.lanes);
}

// The function for each size of a tile: [V - 1][M - 1].
template <class T, class Layout, int... I>
inline auto tile_of(int64_t vectors, int64_t rows, Indices<I...>) {
  using Run = void (*)(const T*, const T*, int64_t, const TileResult<T>&);
  static constexpr Run one[] = {tile<T, Layout, I + 1, 1>...}, two[] = {tile<T, Layout, I + 1, 2>...};
  return (vectors == 2 ? two : one)[rows - 1];
}

using TileRows = typename CountTo<kMaxRows>::type;

// One rectangle of C: rows [m0, m1), columns [n0, n1), values [k0, k1) of k.
struct Rectangle {
  int64_t m0, m1, n0, n1, k0, k1;
};

// The largest step of `total` that is a multiple of `unit`, at most `most`, and cuts it into nearly equal parts.
inline int64_t equal_steps(int64_t total, int64_t most, int64_t unit) {
  const int64_t parts = ceil_div(total, max(unit, most / unit * unit));
  return ceil_div(ceil_div(total, parts), unit) * unit;
}

// Blocks and rectangles have a multiple of so many rows: whole tiles, and whole runs where moments are taken.
template <class T>
int64_t row_unit(const Product<T>& p) {
  return p.moments.data ? MomentsOfRuns::kRows : kMaxRows;
}

template <class T, class A, class B>
void rectangle(const Rectangle& s, const A& a, const B& b, const Product<T>& p, bool stream) {
  constexpr int64_t L = kLanes<T>, kSliver = 2 * L;
  const int64_t rows = s.m1 - s.m0, columns = s.n1 - s.n0, total = s.k1 - s.k0, size = int64_t(sizeof(T));
  const int64_t longest = min(kDepth, total), panel = min(kPanelDepth, total);
  const int64_t block_rows = equal_steps(rows, band_bytes() / (longest * size), row_unit(p));
  const bool one_block = block_rows >= rows;
  // A strip of slivers is packed at a time, so that lines of memory are read in a row. With one block of rows the next
  // strip takes its place, else all strips of a panel are kept for the next block of rows.
  const int64_t strip = max(1, band_bytes() / (longest * kSliver * size)) * kSliver;
  const int64_t block_columns = one_block ? columns : equal_steps(columns, kept_bytes() / (panel * size), kSliver);
  const int64_t kept =
      one_block ? min(strip, ceil_div(columns, kSliver) * kSliver) : ceil_div(block_columns, kSliver) * kSliver;
  const Scratch<T> packed_a(block_rows * ceil_div(longest, L) * L + 64 * L),
      packed_b(kept * (one_block ? longest : panel) + 64 * L);
  for (int64_t n = s.n0; n < s.n1; n += block_columns) {
    const int64_t n_end = min(s.n1, n + block_columns);
    for (int64_t k_panel = s.k0; k_panel < s.k1; k_panel += kPanelDepth)
      for (int64_t m0 = s.m0; m0 < s.m1; m0 += block_rows)
        for (int64_t k = k_panel; k < min(s.k1, k_panel + kPanelDepth); k += kDepth) {
          const int64_t depth = min(kDepth, s.k1 - k), count = min(block_rows, s.m1 - m0);
          a.pack_rows(m0, count, k, depth, packed_a);
          const int64_t tiles = ceil_div(count, kMaxRows);
          const int64_t k_next = k + depth < min(s.k1, k_panel + kPanelDepth) ? k + depth : k_panel,
                        m_next = k_next > k ? m0 : m0 + block_rows;
          Prefetch next_a;
          if (m_next < s.m1)
            next_a = a.prefetch(m_next, min(block_rows, s.m1 - m_next), k_next, min(kDepth, s.k1 - k_next),
                                tiles * ceil_div(n_end - n, kSliver));
          for (int64_t strip0 = n; strip0 < n_end; strip0 += strip) {
            const int64_t strip_end = min(n_end, strip0 + strip);
            T* slivers = packed_b + (one_block ? 0 : kept * (k - k_panel) + (strip0 - n) * depth);
            if (m0 == s.m0) b.pack_columns(strip0, strip_end - strip0, k, depth, slivers);
            Prefetch next_b;
            if (m0 == s.m0) {
              const int64_t k_after = strip_end < n_end ? k : k + depth,
                            strip_after = strip_end < n_end ? strip_end : n;
              if (k_after < min(s.k1, k_panel + kPanelDepth))
                next_b = b.prefetch(strip_after, min(strip, n_end - strip_after), k_after, min(kDepth, s.k1 - k_after),
                                    tiles * ceil_div(strip_end - strip0, kSliver));
            }
            TileResult<T> r = {p, 0, k == s.k0, k + depth == s.k1, p.finishes(), stream};
            const auto multiply_tile = [&](int64_t column, int64_t t) STRIATE_INLINE_LAMBDA {
              next_a.step(), next_b.step();
              const auto run =
                  tile_of<T, typename A::Layout>(r.lanes > L ? 2 : 1, min(kMaxRows, count - t), TileRows{});
              run(packed_a + t * A::Layout::template row_values<T>(depth), slivers + (column - strip0) * depth, depth,
                  r);
            };
            const auto begin_at = [&](int64_t column, int64_t t) STRIATE_INLINE_LAMBDA {
              r.at = p.from(m0 + t, column), r.lanes = p.images.run(column, min(column + kSliver, strip_end));
            };
            // What streams to memory is written along its rows.
            if (stream)
              for (int64_t t = 0; t < count; t += kMaxRows)
                for (int64_t column = strip0; column < strip_end; column += kSliver)
                  begin_at(column, t), multiply_tile(column, t);
            else
              for (int64_t column = strip0; column < strip_end; column += kSliver) {
                begin_at(column, 0);
                for (int64_t t = 0; t < count; t += kMaxRows, r.at.skip_rows(kMaxRows)) multiply_tile(column, t);
              }
            if (r.last && p.moments.data) p.moments.take(p.c, p.pitch, m0, m0 + count, strip0, strip_end);
          }
        }
  }
  if (stream) fence_streaming_stores();
}

}  // namespace gemm_detail

struct GemmShape {
  int64_t rows, columns, depth;  // M, N, K
};

namespace gemm_detail {

// Cuts [0, count) for threads, in steps of `unit`, and calls body(begin, end).
template <class Body>
void in_parallel(int64_t count, int64_t unit, int64_t products_per_item, const Body& body) {
  const int64_t steps = ceil_div(count, unit);
  parallel_for(steps, kGrainElements * unit * products_per_item / kGrainProducts,
               [=](int64_t begin, int64_t end) { body(begin * unit, min(count, end * unit)); });
}

template <class T>
void finish_nothing(const GemmShape& s, const Product<T>& p) {
  for (int64_t m = 0; m < s.rows; ++m)
    for_each_vector<T>(s.columns, [&](int64_t n, auto whole, int64_t lanes) {
      store_lanes(whole, p.c + m * p.pitch + n, finish(whole, p, Vector<T>{}, m, n, lanes), lanes);
    });
  activate(p, s.rows, s.columns);
}

// Computes a product that is not worth packing, if it is one (few_rows.h).
template <class T>
bool without_packing(const GemmShape& s, const AlongDepth<T>& a, const AlongDepth<T>& b, const Product<T>& p) {
  const int64_t few = min(s.rows, s.columns);
  if (few > kFewLines || (few > 1 && s.depth < kFewDepth * kLanes<T>)) return false;
  const bool swapped = s.rows > s.columns;  // the smaller operand stays in the cache, and the larger one passes by
  in_parallel(max(s.rows, s.columns), 12, min(s.rows, s.columns) * s.depth, [=](int64_t begin, int64_t end) {
    if (swapped)
      few_rows::dot<T>(s.columns, end - begin, s.depth, b.data, b.pitch, a.data + begin * a.pitch, a.pitch, true,
                       p.from(begin, 0));
    else
      few_rows::dot<T>(s.rows, end - begin, s.depth, a.data, a.pitch, b.data + begin * b.pitch, b.pitch, false,
                       p.from(0, begin));
  });
  return true;
}
template <class T, class A>
bool by_rows(const GemmShape& s, const A& a, const AcrossDepth<T>& b, const Product<T>& p) {
  if (s.rows > kFewRows) return false;
  in_parallel(s.columns, 2 * kLanes<T>, s.rows * s.depth, [=](int64_t begin, int64_t end) {
    few_rows::axpy<T>(s.rows, begin, end, s.depth, a.data, a.line_step(), a.depth_step(), b.data, b.pitch, p);
  });
  return true;
}
template <class T>
bool without_packing(const GemmShape& s, const AlongDepth<T>& a, const AcrossDepth<T>& b, const Product<T>& p) {
  if (by_rows(s, a, b, p)) return true;
  if (s.columns > kFewRows || (s.columns > 1 && s.depth < kFewDepth * kLanes<T>)) return false;
  const Scratch<T> lines(s.columns * s.depth);  // B transposed, which takes a fraction of reading A
  for (int64_t n = 0; n < s.columns; ++n)
    for (int64_t k = 0; k < s.depth; ++k) lines[n * s.depth + k] = b.data[k * b.pitch + n];
  return without_packing(s, a, AlongDepth<T>{lines, s.depth}, p);
}
template <class T>
bool without_packing(const GemmShape& s, const AcrossDepth<T>& a, const AcrossDepth<T>& b, const Product<T>& p) {
  if (by_rows(s, a, b, p)) return true;
  if (s.columns > kFewRows) return false;
  const Scratch<T> transposed(s.columns * s.rows);
  by_rows(GemmShape{s.columns, s.rows, s.depth}, b, a, Product<T>{transposed, s.rows});
  for (int64_t m = 0; m < s.rows; ++m)
    for (int64_t n = 0; n < s.columns; ++n)
      p.c[m * p.pitch + n] = finish_one(p, static_cast<const T*>(transposed)[n * s.rows + m], m, n);
  activate(p, s.rows, s.columns);
  return true;
}
template <class T, class A>
bool without_packing(const GemmShape& s, const A& a, const ImagesAcrossDepth<T>& b, const Product<T>& p) {
  if (s.rows > kFewRows) return false;
  const Images images = b.images;
  const auto image = [=](int64_t number) {
    const int64_t first = number * images.width;
    by_rows(GemmShape{s.rows, images.pixels, s.depth}, a, b.image_of(first), p.from(0, first));
  };
  // An image's columns are shared by threads where there are fewer images than threads.
  if (images.count < thread_count())
    for (int64_t number = 0; number < images.count; ++number) image(number);
  else
    parallel_for(images.count, s.rows * images.pixels * s.depth / (kGrainProducts / kGrainElements),
                 [=](int64_t begin, int64_t end) {
                   for (int64_t number = begin; number < end; ++number) image(number);
                 });
  return true;
}
template <class T, class A, class B>
bool without_packing(const GemmShape&, const A&, const B&, const Product<T>&) {
  return false;
}

// Computes a product of packed operands. Returns whether the moments are taken.
template <class T, class A, class B>
bool with_packing(const GemmShape& s, const A& a, const B& b, const Product<T>& p) {
  constexpr int64_t kSliver = 2 * kLanes<T>;
  const int64_t tiles = ceil_div(s.rows, kMaxRows), slivers = ceil_div(s.columns, kSliver);
  // Where C is small and K long, as in the weight gradient of a layer with few channels, K is cut for the threads.
  const int64_t parts = tiles * slivers > kFewTiles ? 1 : max(1, min(kMostParts, s.depth / (4 * kDepth)));
  const Scratch<T> memory(parts > 1 ? parts * s.rows * s.columns : 0);
  T* const sums = memory;
  const int64_t work = tiles * kMaxRows * slivers * kSliver * s.depth;
  // As many units, parts times rectangles, as give every thread the same number.
  const int64_t of_part = thread_count() / common_divisor(thread_count(), parts);
  const int64_t threads = max(1, min(min(of_part, tiles * slivers), work / parts / kGrainProducts));
  // As many rectangles as threads, cut such that the slowest thread is done soonest: a multiply-add counts 1/16 of what
  // reading and packing a value does.
  int64_t across = 1, least = -1;
  for (int64_t columns = 1; columns <= min(threads, slivers); ++columns) {
    const int64_t rows = min(tiles, threads / columns);
    const int64_t tall = ceil_div(tiles, rows) * kMaxRows, wide = ceil_div(slivers, columns) * kSliver;
    const int64_t cost = tall * wide + 16 * (tall + wide);
    if (least < 0 || cost < least) least = cost, across = columns;
  }
  const int64_t unit = row_unit(p), units = ceil_div(s.rows, unit), down = min(units, threads / across);
  const bool stream = parts == 1 && s.depth <= kDepth && p.pitch % kSliver == 0 && uintptr_t(p.c) % kVectorBytes == 0 &&
                      !p.moments.data && passes_caches(s.rows * s.columns * int64_t(sizeof(T)));
  const int64_t whole_parts = ceil_div(s.depth, kDepth);
  parallel_for(parts * across * down, work / (parts * across * down) / (kGrainProducts / kGrainElements),
               [=](int64_t begin, int64_t end) {
                 for (int64_t number = begin; number < end; ++number) {
                   const int64_t i = number / across % down, j = number % across, part = number / across / down;
                   const Rectangle r = {i * units / down * unit,
                                        min(s.rows, (i + 1) * units / down * unit),
                                        j * slivers / across * kSliver,
                                        min(s.columns, (j + 1) * slivers / across * kSliver),
                                        part * whole_parts / parts * kDepth,
                                        min(s.depth, (part + 1) * whole_parts / parts * kDepth)};
                   rectangle<T>(r, a, b, parts == 1 ? p : Product<T>{sums + part * s.rows * s.columns, s.columns},
                                stream);
                 }
               });
  if (parts == 1) return true;
  for (int64_t m = 0; m < s.rows; ++m)
    p.images.for_each_run(0, s.columns, [&](int64_t first, int64_t count) {
      const Product<T> row = p.from(m, first);
      for_each_vector<T>(count, [&](int64_t n, auto whole, int64_t lanes) {
        Vector<T> sum = load_lanes<T>(whole, sums + m * s.columns + first + n, lanes);
        for (int64_t part = 1; part < parts; ++part)
          sum += load_lanes<T>(whole, sums + (part * s.rows + m) * s.columns + first + n, lanes);
        store_lanes(whole, row.c + n, finish(whole, row, sum, 0, n, lanes), lanes);
      });
      activate(row, 1, count);
    });
  return false;
}

}  // namespace gemm_detail

// Computes C = A·B in parallel. Where K is 0 the sums are 0.
template <class T, class A, class B>
void gemm(const GemmShape& s, const A& a, const B& b, const Product<T>& p) {
  using namespace gemm_detail;
  if (s.depth == 0)
    finish_nothing(s, p);
  else if (!without_packing(s, a, b, p) && with_packing(s, a, b, p))
    return;
  if (p.moments.data) p.moments.take(p.c, p.pitch, 0, s.rows, 0, s.columns);
}

}  // namespace STRIATE_ISA
}  // namespace striate
