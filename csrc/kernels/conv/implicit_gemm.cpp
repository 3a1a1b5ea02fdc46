// Convolution as a product of matrices: what each destination sees is unfolded to a row (Chellapilla, Puri, Simard
// 2006), block by block.
//
//   y[p, k] = Σ_{t, c} x[i(p, t), c] · w[t, c, k]: (places × (taps · channels)) · ((taps · channels) × filters)
//
// Layout, in channels order. A block's places run on from row to row and image to image, M at a time for the
// micro-kernel of product.h: [tile][run][vector][place][lane], zeros beyond the edges. A run is what lies side by side
// in memory: the channels of a tap, or of a whole row of taps, so that few channels fill vectors too. Weights: [two
// vectors of filters][tap][channel][lane]. Sums become results in registers: with the bias, the residual and the clamp
// they are written once.
//
// A block's rows stay in the second-level cache while the filters pass by, two vectors at a time: these are the units
// that threads share. A thread unfolds a block when it comes to it.
//
// The input gradient of stride 1 is the same sum with mirrored taps, channels and filters exchanged.
#include "kernels/conv/epilogue.h"
#include "core/moments.h"
#include "gemm/micro_kernel.h"
#include "gemm/packed_b.h"
#include "kernels/conv/pack_weights.h"
#include "core/window.h"
#include "kernels/conv/conv.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

constexpr int64_t kSourceBytes = int64_t(1) << 20;  // of a block's rows: half of a second-level cache of 2 MiB
constexpr int64_t kMostPlaces = 112;                // of a block

// -------------------------------------------------------------------------------------------------------------- view

// A map seen from its destination: o sums sources o · stride - before + t · dilation; `before` may be negative.
struct View {
  Axis depth, height, width;
  int64_t batch, groups, to_channels, from_channels;

  int64_t all_to() const { return groups * to_channels; }
  int64_t all_from() const { return groups * from_channels; }
  int64_t places() const { return batch * depth.output * height.output * width.output; }
  int64_t sum() const { return depth.size * height.size * width.size * from_channels; }
  int64_t run_taps() const { return groups == 1 && width.dilation == 1 ? width.size : 1; }
  int64_t run() const { return run_taps() * from_channels; }
  int64_t runs() const { return sum() / run(); }
};

View view_of(const ConvShape& s, bool adjoint) {
  const auto turned = [=](Axis a) {
    return adjoint ? Axis{a.output, a.input, a.size, 1, a.dilation, (a.size - 1) * a.dilation - a.before, 0} : a;
  };
  const int64_t channels = s.channels / s.groups, filters = s.filters / s.groups;
  return {turned(s.window.depth),       turned(s.window.height),     turned(s.window.width), s.batch, s.groups,
          adjoint ? channels : filters, adjoint ? filters : channels};
}

// ------------------------------------------------------------------------------------------------------------
// unfolding

// The run at x of which only the values [begin, end) lie inside: zeros elsewhere.
template <class T>
void copy_part(const T* x, int64_t begin, int64_t end, int64_t run, T* to, int64_t vector) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t i = 0; i < run; i += L, to += vector) {
    const bool some = i < end && i + L > begin, whole = begin <= i && i + L <= end;
    store(to, whole ? load(x + i) : Vector<T>{});
    if (some && !whole)
      for (int64_t k = max(i, begin); k < min(i + L, end); ++k) to[k - i] = x[k];
  }
}

// What `rows` destinations from `place` on see. Vectors may be read up to `last`. Not inlined: its loops are short of
// registers.
template <class T>
__attribute__((noinline)) void unfold(const View& s, const T* x, const T* last, int64_t place, int64_t rows, T* to) {
  constexpr int64_t L = kLanes<T>;
  const Axis &depth = s.depth, &height = s.height, &width = s.width;
  const int64_t all = s.all_from(), channels = s.from_channels, run = s.run(), run_taps = s.run_taps(),
                vector = rows * L;
  const int64_t of_run = tiles(run, L) * vector, reach = (run - 1) / L * L;
  for (int64_t row = 0, count; row < rows; row += count, to += count * L) {  // places side by side
    const int64_t line = (place + row) / width.output, w = (place + row) % width.output, h = line % height.output,
                  d = line / height.output % depth.output, n = line / height.output / depth.output;
    count = min(rows - row, width.output - w);
    T* target = to;
    for (int64_t td = 0; td < depth.size; ++td)
      for (int64_t th = 0; th < height.size; ++th) {
        const int64_t i = d * depth.stride - depth.before + td * depth.dilation,
                      j = h * height.stride - height.before + th * height.dilation;
        const bool inside = i >= 0 && i < depth.input && j >= 0 && j < height.input;
        const T* source = x + ((n * depth.input + i) * height.input + j) * width.input * all;
        for (int64_t tw = 0; tw < width.size; tw += run_taps, target += of_run) {
          int64_t k = w * width.stride - width.before + tw * width.dilation;
          for (int64_t at = 0; at < count * L; at += L, k += width.stride) {
            const T* from = source + k * all;
            if (inside && k >= 0 && k + run_taps <= width.input && from + reach <= last) {
              T* put = target + at;  // what lies behind the run goes to lanes that nobody reads
              for (int64_t c = 0; c <= reach; c += L, put += vector) store(put, load(from + c));
            } else {
              const int64_t begin = min(run_taps, max(0, -k)), end = inside ? min(run_taps, width.input - k) : 0;
              copy_part(from, begin * channels, end * channels, run, target + at, vector);
            }
          }
        }
      }
  }
}

// ---------------------------------------------------------------------------------------------------------- from the
// sums

// What becomes of the sums of a tile, for results at y[at] and on.
template <class T, class Whole>
struct Finish {
  const Epilogue<T>& e;
  T* y;
  int64_t at, pitch, lanes;  // of both vectors
  Vector<T> bias[2];

  STRIATE_INLINE void operator()(int j, int v, const Vector<T>& sum) const {
    constexpr int64_t L = kLanes<T>;
    const int64_t to = at + j * pitch + v * L, n = min(L, lanes - v * L);
    store_lanes(Whole{}, y + to, finish(Whole{}, e, sum + bias[v], to, n), n);
  }
};

// Sums of what a block wrote to two vectors of channels, as deviations from its first place.
template <class T>
struct Measure {
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
      T of_tile[2][L];
      store(of_tile[0], sum), store(of_tile[1], square);
      for (int64_t l = 0; l < L; l += D) {
        store(sums + c + l, load(sums + c + l) + load_widened(of_tile[0] + l));
        store(squares + c + l, load(squares + c + l) + load_widened(of_tile[1] + l));
      }
    }
    count += double(rows);
  }
  void put(Moments* moments, int64_t lanes) const {
    for (int64_t l = 0; l < lanes; ++l) moments[l] = shifted_moments(count, double(shift[l]), sums[l], squares[l]);
  }
};

// --------------------------------------------------------------------------------------------------------------- maps

template <class T>
int64_t packed_values(const View& s) {
  return s.groups * Pairs<T>{tiles(s.to_channels, kLanes<T>), s.sum()}.point();
}

template <class T>
void pack(const ConvShape& shape, bool adjoint, Weight<T> weight, T* packed) {
  const View s = view_of(shape, adjoint);
  const Pairs<T> pairs = {tiles(s.to_channels, kLanes<T>), s.sum()};
  const int64_t taps = shape.taps(), channels = s.from_channels;
  over_weights(shape, adjoint, weight, [=](int64_t group, int64_t v, int64_t c, const T* from, int64_t of_tap) {
    T* to = packed + group * pairs.point();
    for (int64_t t = 0; t < taps; ++t) store(to + pairs.at(v, t * channels + c), load(from + t * of_tap));
  });
}

// Places of a block: as many as their rows take kSourceBytes, whole micro-kernels, blocks as even as can be.
template <class T>
int64_t block_places(const View& s, int64_t of_place) {
  const int64_t fitting = kSourceBytes / (of_place * int64_t(sizeof(T))) / kMostRows * kMostRows;
  const int64_t most = max(kMostRows, min(kMostPlaces / kMostRows * kMostRows, fitting));
  return tiles(s.places(), tiles(s.places(), most));
}

template <class T>
void activations(const View& s, const T* x, const T* packed, const Epilogue<T>& e, T* y) {
  constexpr int64_t L = kLanes<T>;
  const Pairs<T> pairs = {tiles(s.to_channels, L), s.sum()};
  const int64_t run = s.run(), runs = s.runs(), of_place = runs * tiles(run, L) * L, all = s.all_to(),
                places = s.places();
  const int64_t block = block_places<T>(s, of_place), blocks = tiles(places, block);
  const int64_t at_once = tiles(block, tiles(block, kMostRows));  // of the micro-kernel: as even as can be
  const T* last =
      x + s.batch * s.depth.input * s.height.input * s.width.input * s.all_from() - L;  // where a vector may begin
  const bool measures = e.mean != nullptr;
  const Scratch<Moments> moments(measures ? blocks * all : 0);
  Moments* measured = moments;
  parallel_for(blocks * s.groups * pairs.count(), block * s.sum() * L / 16, [=](int64_t begin, int64_t end) {
    const Scratch<T> rows(block * of_place);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t pair = unit % pairs.count(), group = unit / pairs.count() % s.groups,
                    number = unit / pairs.count() / s.groups;
      const int64_t first = number * block, count = min(places - first, block);
      if (unit == begin || pair == 0)
        for (int64_t t = 0; t < count; t += at_once)
          unfold(s, x + group * s.from_channels, last, first + t, min(at_once, count - t), rows + t * of_place);
      const int64_t lanes = min(2 * L, s.to_channels - 2 * pair * L), channel = group * s.to_channels + 2 * pair * L;
      const T* weights = packed + group * pairs.point() + pairs.at(pair);
      Vector<T> bias[2] = {};
      if (e.bias)
        for (int64_t c = 0; c < lanes; c += L)
          bias[c / L] = load_first<Vector<T>>(e.bias + channel + c, min(L, lanes - c));
      Measure<T> measure;
      for (int64_t t = 0; t < count; t += at_once) {
        const int64_t at = (first + t) * all + channel;
        for (int64_t j = 0; j < min(at_once, count - t);
             ++j)  // results go where nothing was read: the lines come while the sums are made
          for (int64_t c = 0; c < lanes; c += L) {
            __builtin_prefetch(y + at + j * all + c, 1);
            if (e.residual) __builtin_prefetch(e.residual + at + j * all + c);
          }
        with_number<kMostRows>(min(at_once, count - t), [&](auto m) {
          constexpr int M = decltype(m)::value;
          const auto product = [&](auto vectors, auto whole) {
            const Finish<T, decltype(whole)> put = {e, y, at, all, lanes, {bias[0], bias[1]}};
            multiply<T, M, decltype(vectors)::value>(rows + t * of_place, M * L, run, runs, weights, put);
          };
          if (lanes == 2 * L)
            product(Constant<2>{}, Constant<true>{});
          else if (lanes > L)
            product(Constant<2>{}, Constant<false>{});
          else
            product(Constant<1>{}, Constant<false>{});
        });
        if (measures) measure.add(y + at, all, min(at_once, count - t), lanes);
      }
      if (measures) measure.put(measured + number * all + channel, lanes);
    }
  });
  if (measures)
    for (int64_t c = 0; c < all; ++c) {
      Moments of_all;
      for (int64_t b = 0; b < blocks; ++b) of_all.merge(measured[b * all + c]);
      e.mean[c] = of_all.mean, e.variance[c] = of_all.variance();
    }
}

// -------------------------------------------------------------------------------------------------------------- entry

template <class T, bool Adjoint>
void run(const ConvShape& shape, const T* x, Weight<T> weight, const Epilogue<T>& e, T* y) {
  const View s = view_of(shape, Adjoint);
  if (weight.packed) return activations(s, x, weight.packed, e, y);
  const Scratch<T> packed(packed_values<T>(s));
  pack(shape, Adjoint, weight, static_cast<T*>(packed));
  activations(s, x, static_cast<const T*>(packed), e, y);
}
template <class T>
int64_t packed_size(const ConvShape& shape) {
  return packed_values<T>(view_of(shape, false));
}
template <class T>
void pack_weight(const ConvShape& shape, Weight<T> weight, T* packed) {
  pack(shape, false, weight, packed);
}

}  // namespace

extern const ConvKernels<float> unfolded_f32;
extern const ConvKernels<double> unfolded_f64;
#define STRIATE_UNFOLDED(T) {run<T, false>, run<T, true>, nullptr, packed_size<T>, pack_weight<T>}
const ConvKernels<float> unfolded_f32 = STRIATE_UNFOLDED(float);
const ConvKernels<double> unfolded_f64 = STRIATE_UNFOLDED(double);

}  // namespace STRIATE_ISA
}  // namespace striate
