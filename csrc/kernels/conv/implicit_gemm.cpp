// Convolution as a product of matrices (implicit GEMM): the sources of each destination form a row (im2row;
// Chellapilla, Puri, Simard 2006), block by block.
//
//   y[p, k] = Σ_{t, c} x[i(p, t), c] · w[t, c, k]: (positions × (taps · channels)) · ((taps · channels) × filters)
//
// Layout, NHWC only. A block's positions continue from row to row and image to image, M at a time for the micro-kernel
// (gemm/micro_kernel.h): [tile][batch][vector][position][lane], zeros in the padding. One element of the batch is what
// is contiguous in memory: the channels of a tap, or of a whole row of taps, so that few channels fill vectors too.
// Weights are a PackedB with k = (tap, channel). Sums become results in registers: bias, residual and clamp are applied
// and the result is stored once.
//
// Blocks. Rows are made and multiplied in parts of kPartDepth values at most, whose sums are added in y. A part of a
// block's rows stays in the second-level cache while the filters are streamed, two vectors at a time: these are the
// units that threads share. A thread makes the rows of a block when it comes to it. Where results are measured, a block
// is a run, whose moments are taken together and whose length follows from the shape alone.
//
// backward_data is a product for each phase (bands.h): the destinations that use the same taps, a stride apart on each
// axis, with channels and filters exchanged. Packed weights are ordered by phase. The forward pass, and backward_data
// of stride 1, have one phase. Phases are neighbouring units, since they read the same sources and divide the taps
// unevenly.
//
// backward_weights is the product over positions, (filters × positions) · (positions × (taps · channels)), on the core
// of gemm/gemm.h, whose operand B is made from x as it is packed (tap_rows.h).
#include "core/machine.h"
#include "core/moments.h"
#include "core/window.h"
#include "gemm/column_moments.h"
#include "gemm/gemm.h"
#include "gemm/micro_kernel.h"
#include "gemm/packed_b.h"
#include "kernels/conv/bands.h"
#include "kernels/conv/conv.h"
#include "kernels/conv/epilogue.h"
#include "kernels/conv/pack_weights.h"
#include "kernels/conv/tap_rows.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

constexpr int64_t kMaxPositions = 112 / kMaxRows * kMaxRows;  // of a block
constexpr int64_t kRunValues = 65536;                         // of a part of the rows of a run, about

// The values of k that are summed in registers, before the sum is added to y in memory. Longer parts leave room for so
// few positions of a block that weights are not read as fast as they are multiplied; with shorter ones reading and
// writing y, and visiting a row's sources again, take as long as that.
constexpr int64_t kPartDepth = 1024;

// ------------------------------------------------------------------------------------------------------------ geometry

// One phase of an axis: `count` of the pass's destinations, and those of `size` taps whose numbers have one residue
// modulo `residues`.
struct GemmAxis {
  Phase phase;
  int64_t sources, destinations, count, size, residues;

  GemmAxis(const PassAxis& a, int64_t number)
      : phase(a.phase(number)),
        sources(a.sources()),
        destinations(a.destinations()),
        count(ceil_div(destinations - phase.first, phase.apart)),
        size(a.axis.size),
        residues(max(phase.tap_step, -phase.tap_step)) {}

  // How many taps are packed before those of this phase: those of smaller residues.
  int64_t packed_before() const {
    const int64_t residue = phase.tap % residues;
    return residue * (size / residues) + min(residue, size % residues);
  }
  int64_t most_taps() const { return ceil_div(size, residues); }  // of any phase
  int64_t source(int64_t position, int64_t tap) const {           // may lie in the padding
    return position * phase.step + phase.shift + tap * phase.shift_step;
  }
};

// One phase of a pass as a product, seen from its destinations. A sum is a batch of gemm_batch() products of
// gemm_depth() terms, which are contiguous in memory: the channels of one tap, or of a row of taps.
struct GemmView {
  GemmAxis depth, height, width;
  int64_t batch, groups, to_channels, from_channels;

  int64_t all_from() const { return groups * from_channels; }
  int64_t positions() const { return batch * depth.count * height.count * width.count; }
  int64_t taps() const { return depth.phase.taps * height.phase.taps * width.phase.taps; }
  int64_t block_taps() const { return groups == 1 && width.phase.shift_step == 1 ? max(1, width.phase.taps) : 1; }
  int64_t gemm_depth() const { return block_taps() * from_channels; }
  int64_t gemm_batch() const { return taps() / block_taps(); }
  template <class T>
  int64_t position_values() const {  // of the rows, for each position
    return gemm_batch() * ceil_div(gemm_depth(), kLanes<T>) * kLanes<T>;
  }
  int64_t packed_before() const {  // how many taps are packed before those of this phase
    const int64_t of_depth = height.packed_before() * width.size + height.phase.taps * width.packed_before();
    return depth.packed_before() * height.size * width.size + depth.phase.taps * of_depth;
  }
};

inline int64_t phases(const PassShape& s) { return s.depth.phases() * s.height.phases() * s.width.phases(); }

GemmView gemm_view(const PassShape& s, int64_t phase) {
  const int64_t wide = s.width.phases(), high = s.height.phases();
  return {{s.depth, phase / wide / high},
          {s.height, phase / wide % high},
          {s.width, phase % wide},
          s.batch,
          s.groups,
          s.to_channels,
          s.from_channels};
}

// As many destinations and taps as any phase has. The first phase has the most destinations.
GemmView largest_view(const PassShape& s) {
  GemmView v = gemm_view(s, 0);
  v.depth.phase.taps = v.depth.most_taps(), v.height.phase.taps = v.height.most_taps(),
  v.width.phase.taps = v.width.most_taps();
  return v;
}

// How sums are cut into parts of kPartDepth values at most, from the shape alone: several products of the batch, or
// where one is longer, some of its values.
struct SumParts {
  int64_t batch, depth, batch_step, depth_step;

  template <class T>
  static SumParts of(const GemmView& s) {
    const int64_t depth = s.gemm_depth(), vectors = ceil_div(depth, kLanes<T>), most = kPartDepth / kLanes<T>;
    return {s.gemm_batch(), depth, max(1, most / vectors), ceil_div(vectors, ceil_div(vectors, most)) * kLanes<T>};
  }
};

// One of them: products [first, first + batch) of the batch, and of each values [begin, begin + depth).
struct SumPart {
  int64_t first, batch, begin, depth;
  template <class T>
  int64_t row_values() const {  // for each position
    return batch * ceil_div(depth, kLanes<T>) * kLanes<T>;
  }
};

// Calls body(at, run, n, d, h, w) for each run of destinations of one row of an image: the at-th of `count` from
// `position` on, how many, and where the first of them is among the phase's.
template <class Body>
STRIATE_INLINE void for_each_run(const GemmView& s, int64_t position, int64_t count, const Body& body) {
  for (int64_t at = 0, run; at < count; at += run) {
    const int64_t row = (position + at) / s.width.count, w = (position + at) % s.width.count, h = row % s.height.count,
                  d = row / s.height.count % s.depth.count, n = row / s.height.count / s.depth.count;
    run = min(count - at, s.width.count - w);
    body(at, run, n, d, h, w);
  }
}

// Finds where the results of destinations begin in y, which has so many channels.
inline void find_results(const GemmView& s, int64_t position, int64_t count, int64_t channels, int64_t* results) {
  const auto index = [](const GemmAxis& a, int64_t j) { return a.phase.first + j * a.phase.apart; };
  for_each_run(s, position, count, [&](int64_t at, int64_t run, int64_t n, int64_t d, int64_t h, int64_t w) {
    const int64_t line = ((n * s.depth.destinations + index(s.depth, d)) * s.height.destinations + index(s.height, h)) *
                         s.width.destinations;
    for (int64_t j = 0; j < run; ++j) results[at + j] = (line + index(s.width, w + j)) * channels;
  });
}

// -------------------------------------------------------------------------------------------------------------- im2row

// Copies one block of `block_depth` contiguous values, of which only [begin, end) exist; the others are zeros.
template <class T>
void copy_part(const T* x, int64_t begin, int64_t end, int64_t block_depth, T* to, int64_t vector) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t i = 0; i < block_depth; i += L, to += vector) {
    const bool some = i < end && i + L > begin, whole = begin <= i && i + L <= end;
    store(to, whole ? load(x + i) : Vector<T>{});
    if (some && !whole)
      for (int64_t k = max(i, begin); k < min(i + L, end); ++k) to[k - i] = x[k];
  }
}

// Makes a part of the rows of `rows` destinations from `position` on. Vectors may be loaded up to `last`. Not inlined,
// because its loops are short of registers.
template <class T>
__attribute__((noinline)) void im2row(const GemmView& s, const SumPart& part, const T* x, const T* last,
                                      int64_t position, int64_t rows, T* to) {
  constexpr int64_t L = kLanes<T>;
  const GemmAxis &depth = s.depth, &height = s.height, &width = s.width;
  const int64_t all = s.all_from(), channels = s.from_channels, block_taps = s.block_taps(), vector = rows * L;
  const int64_t block_stride = ceil_div(part.depth, L) * vector, reach = (part.depth - 1) / L * L;
  const int64_t blocks_wide = max(1, width.phase.taps / block_taps), blocks_high = max(1, height.phase.taps);
  const int64_t first_wide = part.first % blocks_wide * block_taps, first_high = part.first / blocks_wide % blocks_high,
                first_deep = part.first / blocks_wide / blocks_high;
  for_each_run(s, position, rows, [&](int64_t row, int64_t count, int64_t n, int64_t d, int64_t h, int64_t w) {
    T* target = to + row * L;
    int64_t td = first_deep, th = first_high, tw = first_wide;
    for (int64_t block = 0; block < part.batch; ++block, target += block_stride) {
      const int64_t i = depth.source(d, td), j = height.source(h, th);
      const bool inside = i >= 0 && i < depth.sources && j >= 0 && j < height.sources;
      const T* source = x + ((n * depth.sources + i) * height.sources + j) * width.sources * all + part.begin;
      int64_t k = width.source(w, tw);
      for (int64_t at = 0; at < count * L; at += L, k += width.phase.step) {
        const T* from = source + k * all;
        if (inside && k >= 0 && k + block_taps <= width.sources && from + reach <= last) {
          T* put = target + at;  // values behind the last channel go to lanes that are never read
          for (int64_t c = 0; c <= reach; c += L, put += vector) store(put, load(from + c));
        } else {
          const int64_t begin = min(block_taps, max(0, -k)), end = inside ? min(block_taps, width.sources - k) : 0;
          copy_part(from, begin * channels - part.begin, end * channels - part.begin, part.depth, target + at, vector);
        }
      }
      if ((tw += block_taps) < width.phase.taps) continue;
      tw = 0;
      if (++th == height.phase.taps) th = 0, ++td;
    }
  });
}

// --------------------------------------------------------------------------------------------------------------- tiles

// A tile's results: of two vectors of channels from `channel` on, of positions whose results begin in y at results[j].
template <class T>
struct TileResult {
  const Epilogue<T>& e;
  T* y;
  const int64_t* results;
  int64_t channel, lanes;  // lanes of both vectors together
  bool first, last;        // whether this is the first and the last part of the sums
};

// Multiplies, and stores the sums, finished if they are complete. Not inlined: among other values that stay in
// registers one of 6×2 sums does not, and each of its additions waits for memory (a product took 1.7 times as long).
template <class T, int M, int V, class Whole>
__attribute__((noinline)) void tile(const T* rows, int64_t depth, int64_t batch, const T* weights,
                                    const TileResult<T>& r) {
  constexpr int64_t L = kLanes<T>;
  const auto lanes_of = [&](int64_t v) { return min(L, r.lanes - v * L); };
  // Results go to lines that were not read: fetch them during the sums.
  for (int64_t j = 0; j < M; ++j)
    for (int64_t v = 0; v < V; ++v) {
      const int64_t at = r.results[j] + r.channel + v * L;
      __builtin_prefetch(r.y + at, 1);
      if (r.e.residual) __builtin_prefetch(r.e.residual + at);
    }
  const Tile<T, M, V> sums = micro_kernel<T, M, V>(rows, M * L, depth, batch, weights);
  const auto sum_at = [&](int64_t at, int64_t v, const Vector<T>& sum) STRIATE_INLINE_LAMBDA {
    return r.first ? sum : load_lanes<T>(Whole{}, r.y + at, lanes_of(v)) + sum;
  };
  if (!r.last)
    return sums.for_each([&](int j, int v, const Vector<T>& sum) STRIATE_INLINE_LAMBDA {
      const int64_t at = r.results[j] + r.channel + v * L;
      store_lanes(Whole{}, r.y + at, sum_at(at, v, sum), lanes_of(v));
    });
  Vector<T> bias[V] = {};
  if (r.e.bias)
    for (int64_t v = 0; v < V; ++v) bias[v] = load_lanes<T>(Whole{}, r.e.bias + r.channel + v * L, lanes_of(v));
  sums.for_each([&](int j, int v, const Vector<T>& sum) STRIATE_INLINE_LAMBDA {
    const int64_t at = r.results[j] + r.channel + v * L;
    store_lanes(Whole{}, r.y + at, finish(Whole{}, r.e, sum_at(at, v, sum) + bias[v], at, lanes_of(v)), lanes_of(v));
  });
  if (r.e.activation.clamps()) return;
  for (int64_t j = 0; j < M; ++j) activate(r.e.activation, r.y + r.results[j] + r.channel, r.lanes, 1, r.lanes);
}

// -------------------------------------------------------------------------------------------------------------- passes

template <class T>
PackedB<T> packed_layout(const PassShape& s) {
  const int64_t taps = s.depth.axis.size * s.height.axis.size * s.width.axis.size;
  return {ceil_div(s.to_channels, kLanes<T>), taps * s.from_channels};
}
template <class T>
int64_t packed_values(const PassShape& s) {
  return s.groups * packed_layout<T>(s).size();
}

// Lists the taps in the order in which they are packed, as numbers in the order in which a destination meets its
// sources (pack_weights.h).
inline void packed_order(const PassShape& s, int64_t taps, int64_t* order) {
  for (int64_t i = 0; i < taps; ++i) order[i] = 0;  // of an image smaller than the stride some taps are in no phase
  for (int64_t number = 0; number < phases(s); ++number) {
    const GemmView v = gemm_view(s, number);
    const auto tap = [](const GemmAxis& a, int64_t i) { return a.phase.tap + i * a.phase.tap_step; };
    int64_t* to = order + v.packed_before();
    for (int64_t td = 0; td < v.depth.phase.taps; ++td)
      for (int64_t th = 0; th < v.height.phase.taps; ++th)
        for (int64_t tw = 0; tw < v.width.phase.taps; ++tw) {
          const int64_t t = (tap(v.depth, td) * v.height.size + tap(v.height, th)) * v.width.size + tap(v.width, tw);
          *to++ = s.width.adjoint ? taps - 1 - t : t;
        }
  }
}

template <class T>
void pack(const ConvShape& shape, bool adjoint, Weight<T> weight, T* packed) {
  const PassShape s = pass_shape(shape, adjoint);
  const PackedB<T> layout = packed_layout<T>(s);
  const int64_t taps = shape.taps(), channels = s.from_channels;
  const Scratch<int64_t> memory(taps);
  int64_t* const order = memory;
  packed_order(s, taps, order);
  for_each_weight_vector(shape, adjoint, weight,
                         [=](int64_t group, int64_t v, int64_t c, const T* from, int64_t tap_stride) {
                           T* to = packed + group * layout.size();
                           for (int64_t i = 0; i < taps; ++i)
                             store(to + layout.at(v, i * channels + c), load(from + order[i] * tap_stride));
                         });
}

// The positions of a run: whole micro-kernels, two at least.
inline int64_t run_positions(int64_t row_values) {
  return max(2 * kMaxRows, min(kMaxPositions, kRunValues / row_values / kMaxRows * kMaxRows));
}

// The positions of a block: as many as block_bytes() hold, whole micro-kernels, and blocks of nearly equal size.
template <class T>
int64_t block_positions(int64_t positions, int64_t row_values) {
  const int64_t fitting = block_bytes() / (row_values * int64_t(sizeof(T)));
  const int64_t most = max(kMaxRows, min(kMaxPositions, fitting / kMaxRows * kMaxRows));
  return ceil_div(positions, ceil_div(positions, most));
}

template <class T>
void activations(const PassShape& s, const T* x, const T* packed, const Epilogue<T>& e, T* y) {
  constexpr int64_t L = kLanes<T>;
  const PackedB<T> layout = packed_layout<T>(s);
  const bool measures = e.mean != nullptr;
  const GemmView largest = largest_view(s);
  const int64_t most_values = min(kPartDepth, largest.position_values<T>()), positions = largest.positions();
  const int64_t block =
      measures ? min(positions, run_positions(most_values)) : block_positions<T>(positions, most_values);
  const int64_t blocks = ceil_div(positions, block), panels = layout.count(), numbers = phases(s),
                all = s.all_to_channels();
  // Rows of the micro-kernel: tiles of nearly equal size. Results are added to moments tile by tile.
  const int64_t tile_rows = measures ? kMaxRows : ceil_div(block, ceil_div(block, kMaxRows));
  const T* last = x + s.batch * s.sources() * s.all_from_channels() - L;  // the last address where a vector may begin
  const Scratch<Moments> memory(measures ? blocks * all : 0);
  Moments* const moments = memory;
  const int64_t work = block * layout.channels * L / 16 / numbers;  // of a unit
  parallel_for(blocks * numbers * s.groups * panels, work, [=](int64_t begin, int64_t end) {
    const Scratch<T> rows(block * most_values);
    GemmView view = largest;
    int64_t first = 0, count = 0, results[kMaxPositions];
    // The panels of one block, phase and group at a time.
    for (int64_t unit = begin, some; unit < end; unit += some) {
      const int64_t panel0 = unit % panels, group = unit / panels % s.groups,
                    number = unit / panels / s.groups / numbers;
      some = min(panels - panel0, end - unit);
      if (unit == begin || group == 0) {
        view = gemm_view(s, unit / panels / s.groups % numbers);
        first = number * block, count = min(view.positions() - first, block);
        find_results(view, first, count, all, results);
      }
      const SumParts parts = SumParts::of<T>(view);
      for (int64_t b = 0; b < max(1, parts.batch); b += parts.batch_step)
        for (int64_t k = 0; k < parts.depth; k += parts.depth_step) {
          const SumPart part = {b, min(parts.batch_step, parts.batch - b), k, min(parts.depth_step, parts.depth - k)};
          const bool is_first = b + k == 0, is_last = b + part.batch == parts.batch && k + part.depth == parts.depth;
          const int64_t row_values = part.row_values<T>();
          for (int64_t t = 0; t < count; t += tile_rows)
            im2row(view, part, x + group * s.from_channels, last, first + t, min(tile_rows, count - t),
                   rows + t * row_values);
          for (int64_t panel = panel0; panel < panel0 + some; ++panel) {
            const int64_t lanes = min(2 * L, s.to_channels - 2 * panel * L),
                          channel = group * s.to_channels + 2 * panel * L;
            const int64_t before = view.packed_before() * s.from_channels + b * parts.depth + k;
            const T* weights = packed + group * layout.size() + layout.at(panel) + before * layout.width(panel);
            ColumnMoments<T> measure;
            for (int64_t t = 0; t < count; t += tile_rows) {
              const TileResult<T> result = {e, y, results + t, channel, lanes, is_first, is_last};
              with_constant<kMaxRows>(min(tile_rows, count - t), [&](auto m) {
                constexpr int M = decltype(m)::value;
                const T* a = rows + t * row_values;
                if (lanes == 2 * L)
                  tile<T, M, 2, Constant<true>>(a, part.depth, part.batch, weights, result);
                else if (lanes > L)
                  tile<T, M, 2, Constant<false>>(a, part.depth, part.batch, weights, result);
                else
                  tile<T, M, 1, Constant<false>>(a, part.depth, part.batch, weights, result);
              });
              if (measures && is_last) measure.add(y + results[t] + channel, all, min(tile_rows, count - t), lanes);
            }
            if (measures && is_last) measure.put(moments + number * all + channel, lanes);
          }
        }
    }
  });
  if (measures) merge_rows(moments, blocks, all, e.mean, e.variance);
}

template <class T>
void backward_weights(const ConvShape& shape, const T* dy, const T* x, T* dw) {
  const PassShape s = pass_shape(shape, false);
  const GemmView view = gemm_view(s, 0);
  const int64_t taps = shape.taps(), channels = s.from_channels, row = taps * channels;
  const bool as_made = shape.weight_channels_last || taps == 1;  // the order of rows (tap, channel) is the weight's own
  const Scratch<T> apart(as_made ? 0 : s.to_channels * row);
  T* const made = apart;
  for (int64_t g = 0; g < s.groups; ++g) {
    T* group = dw + g * s.to_channels * row;
    const Window& w = shape.window;
    const TapRows<T> rows = {x + g * channels, w.depth,         w.height,         w.width,
                             channels,         view.all_from(), view.block_taps()};
    gemm<T>({s.to_channels, row, view.positions()}, AcrossDepth<T>{dy + g * s.to_channels, s.all_to_channels()}, rows,
            {as_made ? group : made, row});
    if (!as_made)
      parallel_for(s.to_channels, row, [=](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k)
          for (int64_t c = 0; c < channels; ++c)
            for (int64_t t = 0; t < taps; ++t) group[k * row + c * taps + t] = made[k * row + t * channels + c];
      });
  }
}

// --------------------------------------------------------------------------------------------------------------- entry

template <class T, bool Adjoint>
void run(const ConvShape& shape, const T* x, Weight<T> weight, const Epilogue<T>& e, T* y) {
  const PassShape s = pass_shape(shape, Adjoint);
  if (weight.packed) return activations(s, x, weight.packed, e, y);
  const Scratch<T> packed(packed_values<T>(s));
  pack(shape, Adjoint, weight, static_cast<T*>(packed));
  activations(s, x, static_cast<const T*>(packed), e, y);
}
template <class T>
int64_t packed_size(const ConvShape& shape) {
  return packed_values<T>(pass_shape(shape, false));
}
template <class T>
void pack_weight(const ConvShape& shape, Weight<T> weight, T* packed) {
  pack(shape, false, weight, packed);
}

}  // namespace

extern const ConvKernels<float> implicit_gemm_f32;
extern const ConvKernels<double> implicit_gemm_f64;
#define STRIATE_IMPLICIT_GEMM(T) {run<T, false>, run<T, true>, backward_weights<T>, packed_size<T>, pack_weight<T>}
const ConvKernels<float> implicit_gemm_f32 = STRIATE_IMPLICIT_GEMM(float);
const ConvKernels<double> implicit_gemm_f64 = STRIATE_IMPLICIT_GEMM(double);

}  // namespace STRIATE_ISA
}  // namespace striate
