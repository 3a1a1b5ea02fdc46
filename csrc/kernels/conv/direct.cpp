// Direct convolution, without im2row, for any number of channels:
//
//   y[k, o] = b[k] + Σ_r w[k, r] · x[position(r) + o],   r = (c, t) through the channels and taps of a group
//
// Layout. A band of the source is copied into planes whose rows are padded with zeros and split by the stride (column i
// goes to part i mod stride): the sources of neighbouring destinations are then neighbours for every r, and r is one
// list of offsets, whatever the memory order, dimensions, stride or dilation. In backward_data the destinations of a
// row have as many phases as the stride; each phase has its own list.
//
// Tiles of sums that stay in registers while r runs:
//   filters in lanes   M columns × V vectors of filters; each source is broadcast. 14×2: 28 sums, 2 weights and a
//   source
//                      take 31 of 32 registers.
//   columns in lanes   F filters × vectors of columns, where there are fewer filters than half a vector; each weight is
//                      broadcast.
//   backward_weights   up to 12 r × V vectors of filters; sources are broadcast, dy is the vector.
//
// backward_weights sums some rows in registers, some blocks in float, and from there on in double, in blocks and chunks
// that depend on the shape alone.
#include "core/chunks.h"
#include "core/transpose.h"
#include "kernels/conv/bands.h"
#include "kernels/conv/conv.h"
#include "kernels/conv/epilogue.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

constexpr bool kManyRegisters = kVectorBytes == 64;

// One term r of a sum: offsets of its source and its weight from those of the first destination and of r = 0.
struct Term {
  int32_t source, weight;
};

// The band as planes of padded rows: [channel][depth][row][part][column].
struct PlaneLayout {
  int64_t step, part, row, plane;  // parts of a row; distances from part to part, row to row, channel to channel
  int64_t depths, rows;
};

PlaneLayout plane_layout(const PassShape& s, const Blocks& blocks) {
  const int64_t step = s.width.adjoint ? 1 : s.width.axis.stride;
  const int64_t part =
      ceil_div(s.width.reach(0, blocks.wide).size() + 2, step) + 32;  // the last tile may read past the last column
  const int64_t rows = max_sources(s.height, blocks.high), depths = max_sources(s.depth, blocks.deep);
  return {step, part, step * part, depths * rows * step * part, depths, rows};
}

// Transposes `count` pixels of `planes` channels, `pitch` values apart, into planes that are `apart` values apart.
template <class T>
void transpose_to_planes(const T* x, int64_t pitch, int64_t count, int64_t planes, T* to, int64_t apart) {
  constexpr int64_t L = kLanes<T>;
  int64_t c = 0;
  for (; c + L <= planes; c += L) {
    int64_t i = 0;
    for (; i + L <= count; i += L) {
      Vector<T> rows[L];
#pragma GCC unroll 16
      for (int k = 0; k < L; ++k) rows[k] = load(x + (i + k) * pitch + c);
      transpose<T>(rows);
#pragma GCC unroll 16
      for (int k = 0; k < L; ++k) store(to + (c + k) * apart + i, rows[k]);
    }
    for (; i < count; ++i)
      for (int64_t k = 0; k < L; ++k) to[(c + k) * apart + i] = x[i * pitch + c + k];
  }
  for (; c < planes; ++c)
    for (int64_t i = 0; i < count; ++i) to[c * apart + i] = x[i * pitch + c];
}

template <class T>
STRIATE_INLINE void copy_values(const T* from, int64_t count, T* to) {
  for_each_vector<T>(count, [&](int64_t i, auto whole, int64_t lanes) {
    store_lanes(whole, to + i, load_lanes(whole, from + i, lanes), lanes);
  });
}

// The columns of a band that hold sources; all others are zeros and stay zeros.
struct FilledColumns {
  int64_t left = -1, count = -1;
};

// Copies the band of block b for one group. `line` is a buffer for a row of all its channels, used in NHWC with a
// stride.
template <class T>
void pack_band(const PassShape& s, const Block& b, const PlaneLayout& p, const T* source, int64_t group, T* line,
               T* band, FilledColumns& filled) {
  const int64_t D = s.depth.sources(), H = s.height.sources(), W = s.width.sources(), channels = s.all_from_channels(),
                q = s.from_channels;
  const Range reach = s.width.reach(b.w0, b.w1);
  const int64_t begin = max(0, reach.first), end = max(begin, min(W, reach.last)), left = begin - reach.first,
                count = end - begin;
  if (filled.left != left || filled.count != count) {
    for (int64_t i = 0; i < q * p.plane; ++i) band[i] = 0;
    filled = {left, count};
  }
  const T* image = source + b.n * D * H * W * channels;
  for (int64_t d = b.deep.first; d < b.deep.last; ++d)
    for (int64_t h = b.high.first; h < b.high.last; ++h) {
      const int64_t at = (d * H + h) * W + begin;
      T* row = band + ((d - b.deep.first) * p.rows + h - b.high.first) * p.row;
      const T* from = image + group * q * D * H * W + at;
      int64_t apart = D * H * W;
      if (s.channels_last) {
        T* to = p.step == 1 ? row + left : line;
        apart = p.step == 1 ? p.plane : p.row;
        transpose_to_planes(image + at * channels + group * q, channels, count, q, to, apart);
        if (p.step == 1) continue;
        from = line;
      }
      for (int64_t c = 0; c < q; ++c, from += apart) {
        if (p.step == 1) {
          copy_values(from, count, row + c * p.plane + left);
          continue;
        }
        for (int64_t part = 0; part < p.step; ++part) {
          // Column i·step + part - left of the row goes to position i of this part.
          const int64_t first = left <= part ? 0 : (left - part + p.step - 1) / p.step;
          const int64_t last = left + count <= part ? 0 : (left + count - part + p.step - 1) / p.step;
          T* to = row + c * p.plane + part * p.part;
          const T* x = from + part - left;
          for (int64_t i = first; i < last; ++i) to[i] = x[i * p.step];
        }
      }
    }
}

// Lists the terms of a phase's destinations of a row, the first of which sums from column `first` on; offsets count
// from the beginning of the band. Rows with the same taps share the list: only where the row begins differs.
int64_t find_terms(const PassShape& s, const PlaneLayout& p, const Sources& deep, const Sources& high,
                   const Phase& phase, int64_t first, int64_t weight_values, Term* terms) {
  const int64_t KD = s.depth.axis.size, KH = s.height.axis.size, KW = s.width.axis.size;
  int64_t count = 0;
  for (int64_t c = 0; c < s.from_channels; ++c)
    for (int64_t i = 0; i < deep.count; ++i)
      for (int64_t j = 0; j < high.count; ++j) {
        const int64_t row = c * p.plane + (i * deep.step * p.rows + j * high.step) * p.row;
        const int64_t tap = ((c * KD + deep.tap + i * deep.tap_step) * KH + high.tap + j * high.tap_step) * KW;
        for (int64_t t = 0; t < phase.taps; ++t) {
          const int64_t column = first + t * phase.shift_step;
          terms[count++] = {int32_t(row + column % p.step * p.part + column / p.step),
                            int32_t((tap + phase.tap + t * phase.tap_step) * weight_values)};
        }
      }
  return count;
}
inline int64_t row_at(const PlaneLayout& p, const Block& b, const Sources& deep, const Sources& high) {
  return ((deep.first - b.deep.first) * p.rows + high.first - b.high.first) * p.row;
}

// Packs the weights of one group: [two vectors of destination channels][c][tap][lanes of both]; `lanes` of each vector.
template <class T>
void pack(const ConvShape& s, const PassShape& side, bool adjoint, int64_t lanes, Weight<T> weight, int64_t group,
          T* packed) {
  const int64_t taps = s.taps(), inputs = s.channels / s.groups;
  const int64_t tap_pitch = weight.channels_last ? inputs : 1, channel_pitch = weight.channels_last ? 1 : taps;
  for (int64_t v = 0; v < side.to_channels; v += 2 * lanes) {
    const int64_t width = side.to_channels - v > lanes ? 2 * lanes : lanes;
    for (int64_t c = 0; c < side.from_channels; ++c)
      for (int64_t t = 0; t < taps; ++t, packed += width)
        for (int64_t k = 0; k < width; ++k) {
          const int64_t filter = group * (adjoint ? side.from_channels : side.to_channels) + (adjoint ? c : v + k),
                        channel = adjoint ? v + k : c;
          packed[k] = v + k < side.to_channels
                          ? weight.data[filter * inputs * taps + channel * channel_pitch + t * tap_pitch]
                          : T(0);
        }
  }
}

// ---------------------------------------------------------------------------------------------------- filters in lanes

template <class T, int M, int V>
STRIATE_INLINE void micro_kernel(const T* x, const T* w, const Term* terms, int64_t count, Vector<T> (&sum)[M][V]) {
  for (int64_t r = 0; r < count; ++r) {
    const T *source = x + terms[r].source, *from = w + terms[r].weight;
    Vector<T> weight[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) weight[v] = load(from + v * kLanes<T>);
#pragma GCC unroll 16
    for (int j = 0; j < M; ++j) {
      const Vector<T> value = broadcast(source[j]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[j][v] += value * weight[v];
    }
  }
}

// Where a tile's sums go: columns are `pitch` values apart, vectors `apart`, and the last vector has `lanes` lanes.
// With an epilogue the sums are finished for the results at y[at].
template <class T>
struct Target {
  T* to;
  int64_t pitch, apart, lanes;
  const Epilogue<T>* epilogue = nullptr;
  int64_t at = 0;
};
// Not inlined: among the addresses of a loop over columns one of 6×2 sums does not stay in 16 registers, and each of
// its additions waits for memory.
template <class T, int M, int V>
__attribute__((noinline)) void compute_tile(const T* x, const T* w, const Term* terms, int64_t count,
                                            const Vector<T>* bias, const Target<T>& out, int64_t columns) {
  Vector<T> sum[M][V];
#pragma GCC unroll 16
  for (int j = 0; j < M; ++j)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[j][v] = bias[v];
  micro_kernel<T, M, V>(x, w, terms, count, sum);
#pragma GCC unroll 16
  for (int j = 0; j < M; ++j)
    if (j < columns)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        const int64_t at = j * out.pitch + v * out.apart, lanes = v == V - 1 ? out.lanes : kLanes<T>;
        if (out.epilogue) sum[j][v] = finish(Constant<false>{}, *out.epilogue, sum[j][v], out.at + at, lanes);
        store_first(out.to + at, sum[j][v], lanes);
      }
}

// The number of a tile's columns for a row of n that wastes least; one column more stands for the fixed cost of a tile.
constexpr int kMaxColumns = kManyRegisters ? 14 : 6;
inline int64_t best_tile(int64_t n) {
  int64_t best = 1;
  for (int64_t size = 1; size <= kMaxColumns; ++size)
    if (ceil_div(n, size) * (size + 1) <= ceil_div(n, best) * (best + 1)) best = size;
  return best;
}

template <class T, int V>
void sum_columns(const T* x, const T* w, const Term* terms, int64_t count, const Vector<T>* bias, const Target<T>& out,
                 int64_t n) {
  with_constant<kMaxColumns>(best_tile(n), [&](auto m) {
    constexpr int M = decltype(m)::value;
    for (int64_t j = 0; j < n; j += M)
      compute_tile<T, M, V>(
          x + j, w, terms, count, bias,
          {out.to + j * out.pitch, out.pitch, out.apart, out.lanes, out.epilogue, out.at + j * out.pitch}, n - j);
  });
}

// ---------------------------------------------------------------------------------------------------- columns in lanes

// One vector of columns of a row: the address of its sources and of its results.
template <class T>
struct Line {
  const T* x;
  T* to;
  int64_t columns;
};
constexpr int kMaxLines = kManyRegisters ? 8 : 4;

template <class T, int F, int N>
void lines_micro_kernel(const Line<T>* lines, int64_t lines_count, const T* w, const Term* terms, int64_t count,
                        const T* bias, int64_t pitch, int64_t apart) {
  Vector<T> sum[F][N];
  const T* x[N];
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n) x[n] = lines[min(n, lines_count - 1)].x;
#pragma GCC unroll 4
  for (int f = 0; f < F; ++f)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sum[f][n] = bias ? broadcast(bias[f]) : Vector<T>{};
  for (int64_t r = 0; r < count; ++r) {
    const int64_t source = terms[r].source;
    const T* from = w + terms[r].weight;
    Vector<T> value[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) value[n] = load(x[n] + source);
#pragma GCC unroll 4
    for (int f = 0; f < F; ++f) {
      const Vector<T> weight = broadcast(from[f]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sum[f][n] += weight * value[n];
    }
  }
  for (int64_t n = 0; n < lines_count; ++n)
    for (int f = 0; f < F; ++f) {
      T* to = lines[n].to + f * apart;
      if (pitch == 1) {
        store_first(to, sum[f][n], lines[n].columns);
      } else {
        T values[kLanes<T>];
        store(values, sum[f][n]);
        for (int64_t j = 0; j < lines[n].columns; ++j) to[j * pitch] = values[j];
      }
    }
}

// ------------------------------------------------------------------------------------------- forward and backward_data

template <class T>
void activations(const ConvShape& shape, bool adjoint, const T* source, Weight<T> weight, const Epilogue<T>& e, T* to) {
  constexpr int64_t L = kLanes<T>;
  const PassShape s = pass_shape(shape, adjoint);
  const int64_t max_terms = s.from_channels * shape.taps(), all = s.all_to_channels();
  // Puts columns in lanes where a group has few destination channels; and in NCHW, where filters in lanes would have to
  // be transposed, where a sum is short.
  const bool columns_in_lanes = s.to_channels * 2 <= L || (!s.channels_last && s.to_channels <= 32 && max_terms <= 160);
  const int64_t lanes = columns_in_lanes ? s.to_channels : L,
                vectors = columns_in_lanes ? 1 : ceil_div(s.to_channels, L);
  const int64_t D = s.depth.destinations(), H = s.height.destinations(), W = s.width.destinations(),
                positions = D * H * W;
  const Blocks blocks = make_blocks(s, Band{s.from_channels, int64_t(sizeof(T)), true}, s.groups);
  const PlaneLayout planes = plane_layout(s, blocks);
  const int64_t packed_values = (vectors + vectors % 2) * lanes * max_terms, phases = s.width.phases();
  const Scratch<T> packed(s.groups * packed_values);
  for (int64_t g = 0; g < s.groups; ++g) pack(shape, s, adjoint, lanes, weight, g, packed + g * packed_values);
  const T* weights = packed;
  const int64_t vector_values = blocks.positions() * L + L * L;  // unpack_lanes reads whole squares
  const int64_t work = blocks.positions() * s.to_channels * min(max_terms, 256) / 16;
  const T* bias = e.bias;
  const bool finishes = e.finishes(), in_blocks = !s.channels_last || s.groups == 1;
  parallel_for(s.batch * blocks.per_image * s.groups, work, [=](int64_t begin, int64_t end) {
    Scratch<T> band(s.from_channels * planes.plane), line(s.from_channels * planes.row),
        transposed(s.channels_last || columns_in_lanes ? 0 : 2 * vector_values);
    FilledColumns filled;
    Scratch<Term> terms(max_terms);  // of all phases together: each tap is in one phase
    Scratch<int64_t> begins(phases), counts(phases);
    Scratch<Line<T>> lines(phases * kMaxLines);
    Scratch<int64_t> waiting(phases);
    for (int64_t unit = begin; unit < end; ++unit) {
      const Block b = block_at(s, blocks, unit / s.groups);
      const int64_t group = unit % s.groups, first = group * s.to_channels, columns = b.w1 - b.w0,
                    reach = s.width.reach(b.w0, b.w1).first;
      pack_band(s, b, planes, source, group, static_cast<T*>(line), static_cast<T*>(band), filled);
      for (int64_t v = 0; v < vectors; v += 2) {
        const int64_t two = min(2, vectors - v), channel = first + v * L,
                      in_last = columns_in_lanes ? s.to_channels : min(L, s.to_channels - (v + two - 1) * L);
        const T* w = weights + group * packed_values + v * L * max_terms;
        Vector<T> start[2] = {};
        if (bias && !columns_in_lanes)
          for (int64_t k = 0; k < two; ++k)
            start[k] = load_first<Vector<T>>(bias + channel + k * L, k == two - 1 ? in_last : L);
        Sources deep = {0, -1, 0, 0, 0}, high = deep;
        for (int64_t p = 0; p < phases; ++p) waiting[p] = 0;
        const auto flush = [&](int64_t p) {
          if (waiting[p] == 0) return;
          const int64_t pitch = s.width.phase(p).apart * (s.channels_last ? all : 1),
                        apart = s.channels_last ? 1 : positions;
          const Term* phase_terms = terms + begins[p];
          const Line<T>* l = lines + p * kMaxLines;
          for (int64_t f = 0; f < s.to_channels; f += 4) {
            const auto run = [&](auto count_known) {
              constexpr int F = decltype(count_known)::value, N = kManyRegisters ? (F < 3    ? 8
                                                                                    : F == 3 ? 6
                                                                                             : 4)
                                                                  : F == 1       ? 4
                                                                                 : 2;
              for (int64_t n = 0; n < waiting[p]; n += N) {
                Line<T> some[N];
                const int64_t now = min(N, waiting[p] - n);
                for (int64_t k = 0; k < now; ++k) some[k] = {l[n + k].x, l[n + k].to + f * apart, l[n + k].columns};
                lines_micro_kernel<T, F, N>(some, now, w + f, phase_terms, counts[p], bias ? bias + first + f : nullptr,
                                            pitch, apart);
              }
            };
            with_constant<4>(min(4, s.to_channels - f), run);
          }
          waiting[p] = 0;
        };
        for (int64_t d = b.d0; d < b.d1; ++d)
          for (int64_t h = b.h0; h < b.h1; ++h) {
            const Sources row_deep = s.depth.of(d), row_high = s.height.of(h);
            if (!row_deep.same_taps(deep) || !row_high.same_taps(high)) {
              for (int64_t p = 0; p < phases; ++p) flush(p);
              for (int64_t p = 0, found = 0; p < phases; ++p, found += counts[p - 1]) {
                const Phase phase = s.width.phase(p);
                const int64_t from = phase_range(phase, b.w0, b.w1).first * phase.step + phase.shift - reach;
                begins[p] = found;
                counts[p] = find_terms(s, planes, row_deep, row_high, phase, from, two * lanes, terms + found);
              }
            }
            deep = row_deep, high = row_high;
            const T* row = band + row_at(planes, b, deep, high);
            for (int64_t p = 0; p < phases; ++p) {
              const Phase phase = s.width.phase(p);
              const Range some = phase_range(phase, b.w0, b.w1);
              if (some.size() == 0) continue;
              const int64_t column = phase.first + some.first * phase.apart;
              const int64_t pixel = ((b.n * D + d) * H + h) * W + column;
              if (columns_in_lanes) {
                T* out = s.channels_last ? to + pixel * all + first
                                         : to + (b.n * all + first) * positions + (d * H + h) * W + column;
                const int64_t step = phase.apart * (s.channels_last ? all : 1);
                for (int64_t j = 0; j < some.size(); j += L) {
                  lines[p * kMaxLines + waiting[p]++] = {row + j, out + j * step, min(L, some.size() - j)};
                  if (waiting[p] == kMaxLines) flush(p);
                }
              } else {
                Target<T> out = {to + pixel * all + channel, phase.apart * all,    L, in_last,
                                 finishes ? &e : nullptr,    pixel * all + channel};
                if (!s.channels_last) {
                  out = {transposed + (((d - b.d0) * (b.h1 - b.h0) + h - b.h0) * columns + column - b.w0) * L,
                         phase.apart * L, vector_values, L};
                }
                const Term* phase_terms = terms + begins[p];
                two == 2 ? sum_columns<T, 2>(row, w, phase_terms, counts[p], start, out, some.size())
                         : sum_columns<T, 1>(row, w, phase_terms, counts[p], start, out, some.size());
              }
            }
          }
        for (int64_t p = 0; p < phases; ++p) flush(p);
        if (s.channels_last && !columns_in_lanes)
          for (int64_t d = b.d0; d < b.d1; ++d)
            for (int64_t h = b.h0; h < b.h1; ++h)
              activate(e.activation, to + (((b.n * D + d) * H + h) * W + b.w0) * all + channel, all, columns,
                       (two - 1) * L + in_last);
        if (!s.channels_last && !columns_in_lanes)
          for (int64_t k = 0; k < two; ++k)
            for (int64_t d = b.d0; d < b.d1; ++d) {
              const int64_t at = (b.n * all + channel + k * L) * positions + (d * H + b.h0) * W + b.w0,
                            planes_ = k == two - 1 ? in_last : L;
              unpack_lanes_block<T>(
                  static_cast<const T*>(transposed) + k * vector_values + (d - b.d0) * (b.h1 - b.h0) * columns * L,
                  b.h1 - b.h0, columns, W, to + at, positions, planes_);
            }
        if (!s.channels_last && !columns_in_lanes && finishes)
          finish_block(e, to, s, b, channel, (two - 1) * L + in_last);
      }
      if (columns_in_lanes && finishes && in_blocks) finish_block(e, to, s, b, first, s.to_channels);
    }
  });
  if (columns_in_lanes && finishes && !in_blocks) finish_all(e, s.batch, to, s);
}

template <class T, bool Adjoint>
void run(const ConvShape& s, const T* source, Weight<T> weight, const Epilogue<T>& e, T* to) {
  activations(s, Adjoint, source, weight, e, to);
}

// ---------------------------------------------------------------------------------------------------- backward_weights

// A row of a block for backward_weights: its sources and its dy.
template <class T>
struct GradientRow {
  const T *x, *dy;
};

// Adds to sums[r] = Σ_rows Σ_j x[source(r) + j] · dy[j] for R terms and V vectors of filters.
template <class T, int R, int V>
void weight_micro_kernel(const GradientRow<T>* rows, int64_t rows_count, const Term* terms, int64_t dy_vector,
                         int64_t columns, T* sums) {
  constexpr int64_t L = kLanes<T>;
  Vector<T> sum[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[r][v] = Vector<T>{};
  for (int64_t row = 0; row < rows_count; ++row) {
    const T *source[R], *dy = rows[row].dy;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) source[r] = rows[row].x + terms[r].source;
    for (int64_t j = 0; j < columns; ++j) {
      Vector<T> g[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) g[v] = load(dy + v * dy_vector + j * L);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vector<T> value = broadcast(source[r][j]);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[r][v] += value * g[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      T* to = sums + terms[r].weight + v * L;
      store(to, load(to) + sum[r][v]);
    }
}

template <class T, int V>
void accumulate_rows(const GradientRow<T>* rows, int64_t rows_count, const Term* terms, int64_t count,
                     int64_t dy_vector, int64_t columns, T* sums) {
  constexpr int most = kManyRegisters ? 12 : V == 2 ? 6 : 10;
  while (count > 0) {
    const int64_t n = ceil_div(count, ceil_div(count, most));
    const auto run = [&](auto known) {
      weight_micro_kernel<T, decltype(known)::value, V>(rows, rows_count, terms, dy_vector, columns, sums);
    };
    with_constant<most>(n, run);
    terms += n, count -= n;
  }
}

// Packs dy of a block for one vector of filters: columns as vectors, row after row.
template <class T>
void copy_gradient(const PassShape& s, const Block& b, const T* dy, int64_t first, int64_t lanes, T* to) {
  constexpr int64_t L = kLanes<T>;
  const int64_t D = s.depth.destinations(), H = s.height.destinations(), W = s.width.destinations(),
                all = s.all_to_channels(), columns = b.w1 - b.w0;
  for (int64_t d = b.d0; d < b.d1; ++d) {
    if (!s.channels_last) {
      pack_lanes_block<T>(dy + (b.n * all + first) * D * H * W + (d * H + b.h0) * W + b.w0, D * H * W, lanes, H, W, 1,
                          1, b.h1 - b.h0, columns, to);
      to += (b.h1 - b.h0) * columns * L;
      continue;
    }
    for (int64_t h = b.h0; h < b.h1; ++h) {
      const T* from = dy + (((b.n * D + d) * H + h) * W + b.w0) * all + first;
      if (lanes == L)
        for (int64_t j = 0; j < columns; ++j, to += L, from += all) store(to, load(from));
      else
        for (int64_t j = 0; j < columns; ++j, to += L, from += all) store(to, load_first<Vector<T>>(from, lanes));
    }
  }
}

constexpr int64_t kMaxTotals = int64_t(1) << 22;  // 32 MiB of doubles

template <class T>
void backward_weights(const ConvShape& shape, const T* dy, const T* x, T* dweight) {
  constexpr int64_t L = kLanes<T>;
  const PassShape s = pass_shape(shape, false);
  const int64_t vectors = ceil_div(s.to_channels, L), pairs = ceil_div(vectors, 2),
                max_terms = s.from_channels * shape.taps(), group_values = vectors * L * max_terms;
  const SumBlocks blocks = make_sum_blocks(s, Band{s.from_channels + 2 * L, int64_t(sizeof(T)), true});
  const PlaneLayout planes = plane_layout(s, blocks.together());
  const int64_t items = s.batch * blocks.one.per_image,
                shares = s.groups * pairs;  // of a chunk: two vectors of a group's filters each
  const int64_t chunks = sum_chunks(items, shares, min(64 / shares, kMaxTotals / (s.groups * group_values)));
  const Scratch<double> totals(chunks * s.groups * group_values);
  double* partial = totals;
  parallel_for(chunks * shares, kGrainElements, [=](int64_t begin, int64_t end) {
    const int64_t dy_vector = blocks.together().positions() * L;
    Scratch<T> band(s.from_channels * planes.plane), line(s.from_channels * planes.row), gradient(2 * dy_vector),
        sum(2 * L * max_terms);
    FilledColumns filled;
    Scratch<Term> terms(max_terms);
    Scratch<GradientRow<T>> rows(blocks.one.deep * blocks.one.high);
    const Phase phase = s.width.phase(0);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t chunk = unit / shares, group = unit % shares / pairs, v = unit % pairs * 2,
                    two = min(2, vectors - v);
      const int64_t last = (chunk + 1) * items / chunks;
      ChunkSum<T> total(partial + (chunk * s.groups + group) * group_values + v * L * max_terms, sum,
                        two * L * max_terms);
      int64_t added = 0;
      for (int64_t item = chunk * items / chunks; item < last;) {
        const int64_t joined = blocks.joined_at(item, last);
        const Block b = block_at(s, blocks.one, item, joined);
        const int64_t columns = b.w1 - b.w0, from = b.w0 * phase.step + phase.shift - s.width.reach(b.w0, b.w1).first;
        pack_band(s, b, planes, x, group, static_cast<T*>(line), static_cast<T*>(band), filled);
        for (int64_t k = 0; k < two; ++k)
          copy_gradient(s, b, dy, group * s.to_channels + (v + k) * L, min(L, s.to_channels - (v + k) * L),
                        gradient + k * dy_vector);
        Sources deep = {0, -1, 0, 0, 0}, high = deep;
        int64_t count = 0, gathered = 0;  // rows with the same taps are added together
        const auto flush = [&] {
          if (gathered == 0) return;
          const GradientRow<T>* r = rows;
          T* to = sum;
          two == 2 ? accumulate_rows<T, 2>(r, gathered, terms, count, dy_vector, columns, to)
                   : accumulate_rows<T, 1>(r, gathered, terms, count, dy_vector, columns, to);
          gathered = 0;
        };
        for (const int64_t stop = item + joined; item < stop; ++item) {
          const Block own = block_at(s, blocks.one, item);
          for (int64_t d = own.d0; d < own.d1; ++d)
            for (int64_t h = own.h0; h < own.h1; ++h) {
              const Sources row_deep = s.depth.of(d), row_high = s.height.of(h);
              if (!row_deep.same_taps(deep) || !row_high.same_taps(high)) {
                flush();
                count = find_terms(s, planes, row_deep, row_high, phase, from, two * L, static_cast<Term*>(terms));
              }
              deep = row_deep, high = row_high;
              rows[gathered++] = {band + row_at(planes, b, deep, high),
                                  gradient + ((d - b.d0) * (b.h1 - b.h0) + h - b.h0) * columns * L};
              if (gathered * columns >= 256) flush();  // longer sums in float would lose digits
            }
          flush();
          added += (own.d1 - own.d0) * (own.h1 - own.h0) * columns;
          if (added >= kFloatPositions || item + 1 == last) total.add(), added = 0;
        }
      }
    }
  });
  merge_chunks(partial, chunks, s.groups * group_values);
  for (int64_t k = 0; k < s.all_to_channels(); ++k) {
    const int64_t group = k / s.to_channels, in = k % s.to_channels, pair = in / (2 * L) * 2,
                  width = min(2, vectors - pair) * L;
    const double* filter_sums = partial + group * group_values + pair * L * max_terms + in - pair * L;
    for (int64_t r = 0; r < max_terms; ++r) dweight[k * max_terms + shape.weight_at(r)] = T(filter_sums[r * width]);
  }
}

}  // namespace

extern const ConvKernels<float> direct_f32;
extern const ConvKernels<double> direct_f64;
const ConvKernels<float> direct_f32 = {run<float, false>, run<float, true>, backward_weights<float>, nullptr, nullptr};
const ConvKernels<double> direct_f64 = {run<double, false>, run<double, true>, backward_weights<double>, nullptr,
                                        nullptr};

}  // namespace STRIATE_ISA
}  // namespace striate
