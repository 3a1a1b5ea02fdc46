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
// Blocks. A block's rows stay in the second-level cache while the filters are streamed, two vectors at a time: these
// are the units that threads share. A thread makes the rows of a block when it comes to it. Where results are measured,
// blocks are whole runs: the moments of a run, whose length follows from the shape alone, are taken together.
//
// backward_data of stride 1 is the same product with mirrored taps, channels and filters exchanged. backward_weights is
// the product over positions, (filters × positions) · (positions × (taps · channels)), on the core of gemm/gemm.h,
// whose operand B is made from x as it is packed (tap_rows.h).
#include "core/machine.h"
#include "core/moments.h"
#include "core/window.h"
#include "gemm/gemm.h"
#include "gemm/micro_kernel.h"
#include "gemm/packed_b.h"
#include "kernels/conv/conv.h"
#include "kernels/conv/epilogue.h"
#include "kernels/conv/pack_weights.h"
#include "kernels/conv/tap_rows.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

constexpr int64_t kMaxPositions = 112 / kMaxRows * kMaxRows;  // of a block
constexpr int64_t kRunValues = 65536;                         // of the rows of a run, about

// ------------------------------------------------------------------------------------------------------------ geometry

// A pass as a product, seen from its destination: destination o sums the sources o · stride - before + t · dilation;
// `before` may be negative. A sum of depth_of_sum() terms is a batch of gemm_batch() products of gemm_depth() terms,
// which are contiguous in memory: the channels of one tap, or of a row of taps.
struct GemmView {
  Axis depth, height, width;
  int64_t batch, groups, to_channels, from_channels;

  int64_t all_to() const { return groups * to_channels; }
  int64_t all_from() const { return groups * from_channels; }
  int64_t positions() const { return batch * depth.output * height.output * width.output; }
  int64_t depth_of_sum() const { return depth.size * height.size * width.size * from_channels; }
  int64_t block_taps() const { return groups == 1 && width.dilation == 1 ? width.size : 1; }
  int64_t gemm_depth() const { return block_taps() * from_channels; }
  int64_t gemm_batch() const { return depth_of_sum() / gemm_depth(); }
};

GemmView gemm_view(const ConvShape& s, bool adjoint) {
  const auto of_pass = [=](Axis a) {
    return adjoint ? Axis{a.output, a.input, a.size, 1, a.dilation, (a.size - 1) * a.dilation - a.before, 0} : a;
  };
  const int64_t channels = s.channels / s.groups, filters = s.filters / s.groups;
  return {of_pass(s.window.depth),      of_pass(s.window.height),    of_pass(s.window.width), s.batch, s.groups,
          adjoint ? channels : filters, adjoint ? filters : channels};
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

// Makes the rows of `rows` destinations from `position` on. Vectors may be loaded up to `last`. Not inlined, because
// its loops are short of registers.
template <class T>
__attribute__((noinline)) void im2row(const GemmView& s, const T* x, const T* last, int64_t position, int64_t rows,
                                      T* to) {
  constexpr int64_t L = kLanes<T>;
  const Axis &depth = s.depth, &height = s.height, &width = s.width;
  const int64_t all = s.all_from(), channels = s.from_channels, block_depth = s.gemm_depth(),
                block_taps = s.block_taps(), vector = rows * L;
  const int64_t block_stride = ceil_div(block_depth, L) * vector, reach = (block_depth - 1) / L * L;
  for (int64_t row = 0, count; row < rows; row += count, to += count * L) {  // the destinations of one row of the image
    const int64_t line = (position + row) / width.output, w = (position + row) % width.output, h = line % height.output,
                  d = line / height.output % depth.output, n = line / height.output / depth.output;
    count = min(rows - row, width.output - w);
    T* target = to;
    for (int64_t td = 0; td < depth.size; ++td)
      for (int64_t th = 0; th < height.size; ++th) {
        const int64_t i = d * depth.stride - depth.before + td * depth.dilation,
                      j = h * height.stride - height.before + th * height.dilation;
        const bool inside = i >= 0 && i < depth.input && j >= 0 && j < height.input;
        const T* source = x + ((n * depth.input + i) * height.input + j) * width.input * all;
        for (int64_t tw = 0; tw < width.size; tw += block_taps, target += block_stride) {
          int64_t k = w * width.stride - width.before + tw * width.dilation;
          for (int64_t at = 0; at < count * L; at += L, k += width.stride) {
            const T* from = source + k * all;
            if (inside && k >= 0 && k + block_taps <= width.input && from + reach <= last) {
              T* put = target + at;  // values behind the last channel go to lanes that are never read
              for (int64_t c = 0; c <= reach; c += L, put += vector) store(put, load(from + c));
            } else {
              const int64_t begin = min(block_taps, max(0, -k)), end = inside ? min(block_taps, width.input - k) : 0;
              copy_part(from, begin * channels, end * channels, block_depth, target + at, vector);
            }
          }
        }
      }
  }
}

// ------------------------------------------------------------------------------------------------------------ epilogue

// Finishes and stores the sums of a tile, for results from y[at] on.
template <class T, class Whole>
struct Finish {
  const Epilogue<T>& e;
  T* y;
  int64_t at, pitch, lanes;  // lanes of both vectors together
  Vector<T> bias[2];

  STRIATE_INLINE void operator()(int j, int v, const Vector<T>& sum) const {
    constexpr int64_t L = kLanes<T>;
    const int64_t to = at + j * pitch + v * L, n = min(L, lanes - v * L);
    store_lanes(Whole{}, y + to, finish(Whole{}, e, sum + bias[v], to, n), n);
  }
};

// Moments of the results of a run for two vectors of channels, as deviations from its first position.
template <class T>
struct ChannelMoments {
  static constexpr int64_t L = kLanes<T>, D = kLanes<double>;
  double count = 0;
  T shift[2 * L];
  double sums[2 * L] = {}, squares[2 * L] = {};

  void add(const T* y, int64_t pitch, int64_t rows, int64_t lanes) {
    for (int64_t c = 0; c < lanes; c += L) {
      const int64_t n = min(L, lanes - c);
      if (count == 0) store(shift + c, load_first<Vector<T>>(y + c, n));
      const Vector<T> from = load(shift + c);
      Vector<T> sum = {}, square = {};
      for (int64_t j = 0; j < rows; ++j) {
        const Vector<T> deviation = load_first<Vector<T>>(y + j * pitch + c, n) - from;
        sum += deviation, square += deviation * deviation;
      }
      T tile_sums[2][L];
      store(tile_sums[0], sum), store(tile_sums[1], square);
      for (int64_t l = 0; l < L; l += D) {
        store(sums + c + l, load(sums + c + l) + load_widened(tile_sums[0] + l));
        store(squares + c + l, load(squares + c + l) + load_widened(tile_sums[1] + l));
      }
    }
    count += double(rows);
  }
  void put(Moments* moments, int64_t lanes) const {
    for (int64_t l = 0; l < lanes; ++l) moments[l] = shifted_moments(count, double(shift[l]), sums[l], squares[l]);
  }
};

// -------------------------------------------------------------------------------------------------------------- passes

template <class T>
int64_t packed_values(const GemmView& s) {
  return s.groups * PackedB<T>{ceil_div(s.to_channels, kLanes<T>), s.depth_of_sum()}.size();
}

template <class T>
void pack(const ConvShape& shape, bool adjoint, Weight<T> weight, T* packed) {
  const GemmView s = gemm_view(shape, adjoint);
  const PackedB<T> layout = {ceil_div(s.to_channels, kLanes<T>), s.depth_of_sum()};
  const int64_t taps = shape.taps(), channels = s.from_channels;
  for_each_weight_vector(shape, adjoint, weight,
                         [=](int64_t group, int64_t v, int64_t c, const T* from, int64_t tap_stride) {
                           T* to = packed + group * layout.size();
                           for (int64_t t = 0; t < taps; ++t)
                             store(to + layout.at(v, t * channels + c), load(from + t * tap_stride));
                         });
}

// The positions of a run: whole micro-kernels, two at least.
inline int64_t run_positions(int64_t position_values) {
  return max(2 * kMaxRows, min(kMaxPositions, kRunValues / position_values / kMaxRows * kMaxRows));
}

// The positions of a block: as many as block_bytes() hold, whole micro-kernels, and blocks of nearly equal size; or
// with `run`, whole runs.
template <class T>
int64_t block_positions(const GemmView& s, int64_t position_values, int64_t run) {
  const int64_t fitting = block_bytes() / (position_values * int64_t(sizeof(T)));
  if (run > 0) return min(s.positions(), max(1, min(kMaxPositions, fitting) / run) * run);
  const int64_t most = max(kMaxRows, min(kMaxPositions, fitting / kMaxRows * kMaxRows));
  return ceil_div(s.positions(), ceil_div(s.positions(), most));
}

template <class T>
void activations(const GemmView& s, const T* x, const T* packed, const Epilogue<T>& e, T* y) {
  constexpr int64_t L = kLanes<T>;
  const PackedB<T> layout = {ceil_div(s.to_channels, L), s.depth_of_sum()};
  const int64_t block_depth = s.gemm_depth(), gemm_batch = s.gemm_batch(),
                position_values = gemm_batch * ceil_div(block_depth, L) * L, all = s.all_to(),
                positions = s.positions();
  const bool measures = e.mean != nullptr;
  const int64_t run = measures ? run_positions(position_values) : 0, runs = measures ? ceil_div(positions, run) : 0;
  const int64_t block = block_positions<T>(s, position_values, run), blocks = ceil_div(positions, block);
  // Rows of the micro-kernel: tiles of nearly equal size. Results are added to moments tile by tile.
  const int64_t tile_rows = measures ? kMaxRows : ceil_div(block, ceil_div(block, kMaxRows));
  const T* last = x + s.batch * s.depth.input * s.height.input * s.width.input * s.all_from() -
                  L;  // the last address where a vector may begin
  const Scratch<Moments> moments(runs * all);
  Moments* run_moments = moments;
  parallel_for(blocks * s.groups * layout.count(), block * s.depth_of_sum() * L / 16, [=](int64_t begin, int64_t end) {
    const Scratch<T> rows(block * position_values);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t pair = unit % layout.count(), group = unit / layout.count() % s.groups,
                    number = unit / layout.count() / s.groups;
      const int64_t first = number * block, count = min(positions - first, block);
      if (unit == begin || pair == 0)
        for (int64_t t = 0; t < count; t += tile_rows)
          im2row(s, x + group * s.from_channels, last, first + t, min(tile_rows, count - t),
                 rows + t * position_values);
      const int64_t lanes = min(2 * L, s.to_channels - 2 * pair * L), channel = group * s.to_channels + 2 * pair * L;
      const T* weights = packed + group * layout.size() + layout.at(pair);
      Vector<T> bias[2] = {};
      if (e.bias)
        for (int64_t c = 0; c < lanes; c += L)
          bias[c / L] = load_first<Vector<T>>(e.bias + channel + c, min(L, lanes - c));
      ChannelMoments<T> measure;
      for (int64_t t = 0; t < count; t += tile_rows) {
        const int64_t at = (first + t) * all + channel;
        // Results go to lines that were not read: fetch them during the sums.
        for (int64_t j = 0; j < min(tile_rows, count - t); ++j)
          for (int64_t c = 0; c < lanes; c += L) {
            __builtin_prefetch(y + at + j * all + c, 1);
            if (e.residual) __builtin_prefetch(e.residual + at + j * all + c);
          }
        with_constant<kMaxRows>(min(tile_rows, count - t), [&](auto m) {
          constexpr int M = decltype(m)::value;
          const auto product = [&](auto vectors, auto whole) {
            const Finish<T, decltype(whole)> put = {e, y, at, all, lanes, {bias[0], bias[1]}};
            micro_kernel<T, M, decltype(vectors)::value>(rows + t * position_values, M * L, block_depth, gemm_batch,
                                                         weights)
                .for_each(put);
          };
          if (lanes == 2 * L)
            product(Constant<2>{}, Constant<true>{});
          else if (lanes > L)
            product(Constant<2>{}, Constant<false>{});
          else
            product(Constant<1>{}, Constant<false>{});
        });
        activate(e.activation, y + at, all, min(tile_rows, count - t), lanes);
        if (!measures) continue;
        measure.add(y + at, all, min(tile_rows, count - t), lanes);
        if ((t + tile_rows) % run == 0 || t + tile_rows >= count) {
          measure.put(run_moments + (first + t) / run * all + channel, lanes);
          measure = ChannelMoments<T>();
        }
      }
    }
  });
  if (measures) merge_rows(run_moments, runs, all, e.mean, e.variance);
}

template <class T>
void backward_weights(const ConvShape& shape, const T* dy, const T* x, T* dw) {
  const GemmView s = gemm_view(shape, false);
  const int64_t taps = shape.taps(), channels = s.from_channels, row = taps * channels;
  const bool as_made = shape.weight_channels_last || taps == 1;  // the order of rows (tap, channel) is the weight's own
  const Scratch<T> apart(as_made ? 0 : s.to_channels * row);
  T* const made = apart;
  for (int64_t g = 0; g < s.groups; ++g) {
    T* group = dw + g * s.to_channels * row;
    const TapRows<T> rows = {x + g * channels, s.depth, s.height, s.width, channels, s.all_from(), s.block_taps()};
    gemm<T>({s.to_channels, row, s.positions()}, AcrossDepth<T>{dy + g * s.to_channels, s.all_to()}, rows,
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
  const GemmView s = gemm_view(shape, Adjoint);
  if (weight.packed) return activations(s, x, weight.packed, e, y);
  const Scratch<T> packed(packed_values<T>(s));
  pack(shape, Adjoint, weight, static_cast<T*>(packed));
  activations(s, x, static_cast<const T*>(packed), e, y);
}
template <class T>
int64_t packed_size(const ConvShape& shape) {
  return packed_values<T>(gemm_view(shape, false));
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
