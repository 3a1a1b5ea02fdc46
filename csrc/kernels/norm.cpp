// Normalization: y = act(γ·x̂ + β + residual), x̂ = (x - μ)/√(σ² + ε), and backward, with g = dy·act',
//   dβ = Σ g,   dγ = Σ g·x̂,   dx = (γ·g - mean(γ·g) - x̂·mean(γ·g·x̂)) / √(σ² + ε).
// One formula for batch, layer, instance, group, ghost and RMS norm: they differ in what is measured together (norm.h).
//
// Layout. Two patterns. Runs: what is measured together is consecutive, or a few stretches of it; vectors run along it
// and their lanes are added up at the end (moments.h). Columns: it lies one row apart, as a channel does in
// channels_last; vectors run across, and lane k stays column k. Narrow rows are glued together until a row fills some
// vectors: 32 pixels of 3 channels are one row of 96 columns, of which each third one belongs to the same channel and
// merges with it.
//
// Passes. The statistics need all of x before y can begin, and dx all of x and dy: two passes each. Where what is
// measured together fits a second-level cache, both run at once on one thread, and memory is read once; else all
// threads do the first, then the second. Either way pieces of a fixed size are measured in the same order and merged in
// the same order: the bits depend on neither the choice nor the threads.
//
// Results of 4 MiB and more are written past the caches, where whole lines allow it: they would not stay there, and a
// line written by ordinary stores is read first. That took a quarter to a third off large forward passes.
//
// Accuracy. μ and σ are doubles. x - μ is (x - high) - low with μ = high + low in T: the first difference is exact for
// x near μ, so no digits are lost far from zero. Sums of T are chunks of some thousand terms, added up in double.
#include "norm.h"

#include "../moments.h"
#include "../parallel.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

constexpr int64_t kPiece = 32768;            // values measured by one unit of work: 128 KiB of float
constexpr int64_t kTogetherBytes = 1 << 20;  // half of a large second-level cache, all of a small one
constexpr int64_t kTogetherSets = 16;        // fewer might leave threads idle

constexpr int64_t kStreamBytes = int64_t(4) << 20;  // results that no second-level cache keeps

// One vector of a result.
template <class T, class Whole>
STRIATE_INLINE void store_result(Whole whole, bool past_caches, T* p, const Vector<T>& v, int64_t lanes) {
  if (Whole::value && past_caches && reinterpret_cast<uintptr_t>(p) % sizeof v == 0)
    stream(p, v);
  else
    store_lanes(whole, p, v, lanes);
}

// over_vectors, from where whole vectors of what is written past the caches are aligned.
template <class T, class Body>
STRIATE_INLINE void over_result(bool past_caches, const T* to, int64_t count, const Body& body) {
  const int64_t off = reinterpret_cast<uintptr_t>(to) % kVectorBytes / sizeof(T);
  const int64_t head = past_caches && off > 0 ? min(count, kLanes<T> - off) : 0;
  if (head > 0) body(0, Constant<false>{}, head);
  over_vectors<T>(count - head, [&](int64_t i, auto whole, int64_t lanes) { body(head + i, whole, lanes); });
}

// Runs body.prepare(set, work, slot), .measure(set, piece, work, slot), .finish(set, work, slot) and .apply(set, piece,
// work, slot), see Passes. Work(body, slots) is the memory between them, of one set at a time or of all.
template <class Body>
void in_passes(const Body& body, int64_t sets, int64_t pieces, int64_t set_size, int64_t element_bytes) {
  using Work = typename Body::Work;
  if (pieces == 1 || (sets >= kTogetherSets && set_size * element_bytes <= kTogetherBytes)) {
    parallel_for(sets, set_size * 2, [=](int64_t begin, int64_t end) {
      const Work work(body, 1);
      for (int64_t set = begin; set < end; ++set) {
        body.prepare(set, work, 0);
        if (body.measures())
          for (int64_t p = 0; p < pieces; ++p) body.measure(set, p, work, 0);
        body.finish(set, work, 0);
        if (body.applies())
          for (int64_t p = 0; p < pieces; ++p) body.apply(set, p, work, 0);
      }
      settle();
    });
    return;
  }
  const Work all(body, sets), *work = &all;
  const auto each_piece = [&](const auto& run) {
    parallel_for(sets * pieces, set_size / pieces, [=](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) run(unit / pieces, unit % pieces);
      settle();
    });
  };
  for (int64_t set = 0; set < sets; ++set) body.prepare(set, *work, set);
  if (body.measures()) each_piece([=](int64_t set, int64_t piece) { body.measure(set, piece, *work, set); });
  for (int64_t set = 0; set < sets; ++set) body.finish(set, *work, set);
  if (body.applies()) each_piece([=](int64_t set, int64_t piece) { body.apply(set, piece, *work, set); });
}

// ------------------------------------------------------------------------------------------------------------ formulas

// μ = high + low and 1/√(σ² + ε).
template <class T>
struct Center {
  T high, low;
  double scale;
  Center(double mean, double variance, double eps)
      : high(T(mean)), low(T(mean - double(T(mean)))), scale(1 / __builtin_sqrt(variance + eps)) {}
};

template <class T>
STRIATE_INLINE Vector<T> deviation(const Vector<T>& x, const Vector<T>& high, const Vector<T>& low) {
  return (x - high) - low;
}

// What comes before the activation: the same expression forward and backward.
template <class T, class Whole, class Norm>
STRIATE_INLINE Vector<T> before_activation(Whole whole, const Norm& n, const Vector<T>& d, const Vector<T>& scale,
                                           const Vector<T>& shift, int64_t at, int64_t lanes) {
  const Vector<T> z = d * scale + shift;
  return n.residual ? z + load_lanes(whole, n.residual + at, lanes) : z;
}

template <class T>
STRIATE_INLINE Vector<T> activate(Activation activation, T slope, const Vector<T>& z) {
  if (activation == Activation::kNone) return z;
  if (activation == Activation::kRelu) return z <= Vector<T>{} ? Vector<T>{} : z;  // NaN stays
  if (activation == Activation::kRelu6) return clamp<T>(z, T(0), T(6));
  return z > Vector<T>{} ? z : z * broadcast(slope);
}
template <class T>
STRIATE_INLINE Vector<T> activate_backward(Activation activation, T slope, const Vector<T>& z, const Vector<T>& dy) {
  if (activation == Activation::kRelu) return z <= Vector<T>{} ? Vector<T>{} : dy;
  if (activation == Activation::kRelu6) return z <= Vector<T>{} ? Vector<T>{} : z >= broadcast(T(6)) ? Vector<T>{} : dy;
  return z > Vector<T>{} ? dy : dy * broadcast(slope);
}

// One vector of y.
template <class T, class Whole>
STRIATE_INLINE void forward_vector(Whole whole, const NormForward<T>& f, bool past_caches, int64_t at, int64_t lanes,
                                   const Vector<T>& high, const Vector<T>& low, const Vector<T>& scale,
                                   const Vector<T>& shift) {
  const Vector<T> d = deviation<T>(load_lanes(whole, f.x + at, lanes), high, low);
  const Vector<T> z = before_activation<T>(whole, f, d, scale, shift, at, lanes);
  store_result(whole, past_caches, f.y + at, activate(f.activation, f.slope, z), lanes);
}

// g and x̂ of one vector; scale is γ/√(σ² + ε), and with shift only needed for the sign of what was activated.
template <class T, class Whole>
STRIATE_INLINE void backward_vector(Whole whole, const NormBackward<T>& b, int64_t at, int64_t lanes,
                                    const Vector<T>& high, const Vector<T>& low, const Vector<T>& rstd,
                                    const Vector<T>& scale, const Vector<T>& shift, Vector<T>* g, Vector<T>* x_hat) {
  const Vector<T> d = deviation<T>(load_lanes(whole, b.x + at, lanes), high, low);
  *x_hat = d * rstd;
  *g = load_lanes(whole, b.dy + at, lanes);
  if (b.activation != Activation::kNone)
    *g = activate_backward(b.activation, b.slope, before_activation<T>(whole, b, d, scale, shift, at, lanes), *g);
}

// --------------------------------------------------------------------------------------------------- runs: γ by
// channel

// A set is samples × channels × places; a run is what lies together of it: all channels of a group in one sample.
struct RunSet {
  int64_t samples, groups, channels, places, length, pitch, size;
  Runs runs;

  explicit RunSet(const NormShape& s)
      : samples(s.samples),
        groups(s.groups),
        channels(s.channels),
        places(s.places),
        length(s.channels * s.places),
        pitch(s.groups * s.channels * s.places),
        size(s.set_size()),
        runs{length, pitch} {}

  int64_t offset(int64_t set) const { return set / groups * samples * pitch + set % groups * length; }
  int64_t piece() const { return runs.whole(kPiece); }
  int64_t pieces() const { return max(1, tiles(size, piece())); }

  // Calls body(channel of the group, offset, count) for what a piece has of each run's channels.
  template <class Body>
  STRIATE_INLINE void over_channels_of(int64_t piece_number, const Body& body) const {
    const int64_t begin = piece_number * piece(), end = min(size, begin + piece());
    runs.over(begin, end, [&](int64_t at, int64_t count) {
      const int64_t first = at % pitch;
      for (int64_t c = first / places, from = first; from < first + count; ++c) {
        const int64_t upto = min((c + 1) * places, first + count);
        body(c, at - first + from, upto - from);
        from = upto;
      }
    });
  }
};

template <class T>
struct RunsForward {
  NormShape shape;
  RunSet set;
  NormForward<T> f;
  bool past;  // the caches: how y is written

  struct Work {
    Scratch<Moments> pieces;
    Work(const RunsForward& body, int64_t slots) : pieces(slots * body.set.pieces()) {}
  };
  bool measures() const { return !f.given; }
  bool applies() const { return f.y != nullptr; }

  void prepare(int64_t, const Work&, int64_t) const {}
  void measure(int64_t s, int64_t piece, const Work& work, int64_t slot) const {
    const int64_t begin = piece * set.piece(), end = min(set.size, begin + set.piece());
    work.pieces[slot * set.pieces() + piece] =
        striate::STRIATE_ISA::measure(f.x + set.offset(s), set.runs, begin, end, f.centered);
  }
  void finish(int64_t s, const Work& work, int64_t slot) const {
    if (f.given) return;
    Moments total;
    for (int64_t p = 0; p < set.pieces(); ++p) total.merge(work.pieces[slot * set.pieces() + p]);
    f.mean[s] = total.mean, f.variance[s] = total.variance();
  }
  void apply(int64_t s, int64_t piece, const Work&, int64_t) const {
    const Center<T> center(f.mean[s], f.variance[s], f.eps);
    const Vector<T> high = broadcast(center.high), low = broadcast(center.low);
    const int64_t base = set.offset(s), first = s % set.groups * set.channels;
    if (shape.along == Along::kElements) return apply_elements(base + piece * set.piece(), piece, center);
    set.over_channels_of(piece, [&](int64_t c, int64_t at, int64_t count) {
      const Vector<T> scale = broadcast(T(f.gamma ? double(f.gamma[first + c]) * center.scale : center.scale));
      const Vector<T> shift = broadcast(f.beta ? f.beta[first + c] : T(0));
      over_result<T>(past, f.y + base + at, count, [&](int64_t i, auto whole, int64_t lanes) {
        forward_vector<T>(whole, f, past, base + at + i, lanes, high, low, scale, shift);
      });
    });
  }
  // A set is one run; its i-th element has its own gamma and beta.
  void apply_elements(int64_t base, int64_t piece, const Center<T>& center) const {
    const int64_t begin = piece * set.piece(), count = min(set.size - begin, set.piece());
    const Vector<T> high = broadcast(center.high), low = broadcast(center.low), rstd = broadcast(T(center.scale));
    over_result<T>(past, f.y + base, count, [&](int64_t i, auto whole, int64_t lanes) {
      const Vector<T> scale = f.gamma ? rstd * load_lanes(whole, f.gamma + begin + i, lanes) : rstd;
      const Vector<T> shift = f.beta ? load_lanes(whole, f.beta + begin + i, lanes) : Vector<T>{};
      forward_vector<T>(whole, f, past, base + i, lanes, high, low, scale, shift);
    });
  }
};

// Layer norm of rows so short that each lane's sum has at most kTerms terms: four rows at a time. One row's sums across
// lanes, its root and its divisions wait for each other, some 150 cycles; four rows' do not.
template <class T>
struct ShortRows {
  NormForward<T> f;
  bool past;
  int64_t rows, length;

  static bool fits(int64_t length) { return length <= kTerms * kLanes<T>; }

  template <int Rows>
  void measure(int64_t row) const {
    const T* x[Rows];
    T shift[Rows];
    Vector<T> from[Rows], s[Rows] = {}, q[Rows] = {};
    for (int k = 0; k < Rows; ++k)
      x[k] = f.x + (row + k) * length, shift[k] = f.centered ? x[k][0] : T(0), from[k] = broadcast(shift[k]);
    if (f.centered) {
      over_vectors<T>(length, [&](int64_t i, auto whole, int64_t lanes) {
        for (int k = 0; k < Rows; ++k)
          s[k] += only_lanes<T>(whole, load_lanes(whole, x[k] + i, lanes) - from[k], lanes);
      });
      for (int k = 0; k < Rows; ++k)
        shift[k] += sum_lanes<T>(s[k]) / T(length), from[k] = broadcast(shift[k]), s[k] = Vector<T>{};
    }
    over_vectors<T>(length, [&](int64_t i, auto whole, int64_t lanes) {
      for (int k = 0; k < Rows; ++k) {
        const Vector<T> d = only_lanes<T>(whole, load_lanes(whole, x[k] + i, lanes) - from[k], lanes);
        s[k] += d, q[k] += d * d;
      }
    });
    for (int k = 0; k < Rows; ++k) {
      Vector<double> squares = {};
      add_widened<T>(q[k], squares);
      const double square = sum_lanes<double>(squares), n = double(length);
      Moments m = f.centered ? shifted_moments(n, shift[k], double(sum_lanes<T>(s[k])), square) : Moments{n, 0, square};
      if (!(square < __builtin_inf())) m = wide_moments(x[k], Runs{length, length}, 0, length, f.centered);
      f.mean[row + k] = m.mean, f.variance[row + k] = m.variance();
    }
  }
  template <int Rows>
  void apply(int64_t row) const {
    Vector<T> high[Rows], low[Rows], rstd[Rows];
    for (int k = 0; k < Rows; ++k) {
      const Center<T> center(f.mean[row + k], f.variance[row + k], f.eps);
      high[k] = broadcast(center.high), low[k] = broadcast(center.low), rstd[k] = broadcast(T(center.scale));
    }
    over_vectors<T>(length, [&](int64_t i, auto whole, int64_t lanes) {
      const Vector<T> gamma = f.gamma ? load_lanes(whole, f.gamma + i, lanes) : broadcast(T(1));
      const Vector<T> beta = f.beta ? load_lanes(whole, f.beta + i, lanes) : Vector<T>{};
      for (int k = 0; k < Rows; ++k)
        forward_vector<T>(whole, f, past, (row + k) * length + i, lanes, high[k], low[k], rstd[k] * gamma, beta);
    });
  }
  template <int Rows>
  void run(int64_t row) const {
    if (!f.given) measure<Rows>(row);
    if (f.y) apply<Rows>(row);
  }
  void run() const {
    const ShortRows self = *this;
    parallel_for(rows, length * 2, [=](int64_t begin, int64_t end) {
      int64_t row = begin;
      for (; row + 4 <= end; row += 4) self.template run<4>(row);
      for (; row < end; ++row) self.template run<1>(row);
      settle();
    });
  }
};

// What dx needs of a set besides its center: mean(γ·g) and mean(γ·g·x̂).
struct Means {
  double gradient = 0, product = 0;
};

template <class T>
inline Means given_means(const NormBackward<T>& b, int64_t set) {
  return b.gradient_mean ? Means{b.gradient_mean[set], b.product_mean[set]} : Means{};
}

// Σ g and Σ g·x̂ of values [begin, end) of equally scaled runs, added to sum[0] and sum[1].
template <class T>
inline void gradient_sums(const NormBackward<T>& b, const Center<T>& center, T gamma, T beta, int64_t base,
                          const Runs& runs, int64_t begin, int64_t end, double* sum) {
  constexpr int64_t L = kLanes<T>;
  const Vector<T> high = broadcast(center.high), low = broadcast(center.low), rstd = broadcast(T(center.scale));
  const Vector<T> scale = broadcast(T(double(gamma) * center.scale)), shift = broadcast(beta);
  const int64_t chunk = runs.whole(kChunk);
  for (; begin < end; begin += chunk) {
    Vector<T> s[4] = {}, t[4] = {};
    runs.over(begin, min(end, begin + chunk), [&](int64_t at, int64_t count) {
      Vector<T> g, x_hat;
      int64_t i = 0;
      for (; i + 4 * L <= count; i += 4 * L)
        for (int k = 0; k < 4; ++k) {
          backward_vector<T>(Constant<true>{}, b, base + at + i + k * L, L, high, low, rstd, scale, shift, &g, &x_hat);
          s[k] += g, t[k] += g * x_hat;
        }
      over_vectors<T>(count - i, [&](int64_t j, auto whole, int64_t lanes) {
        backward_vector<T>(whole, b, base + at + i + j, lanes, high, low, rstd, scale, shift, &g, &x_hat);
        s[0] += only_lanes<T>(whole, g, lanes), t[0] += only_lanes<T>(whole, g * x_hat, lanes);
      });
    });
    sum[0] += double(sum_lanes<T>((s[0] + s[1]) + (s[2] + s[3])));
    sum[1] += double(sum_lanes<T>((t[0] + t[1]) + (t[2] + t[3])));
  }
}

template <class T>
struct RunsBackward {
  NormShape shape;
  RunSet set;
  NormBackward<T> b;
  bool past;           // the caches: how dx is written
  double* by_channel;  // Σ g and Σ g·x̂ of each batch and channel, or null

  struct Work {
    Scratch<double> sums;  // of each piece and channel
    Scratch<Means> means;
    Work(const RunsBackward& body, int64_t slots)
        : sums(slots * body.set.pieces() * body.set.channels * 2), means(slots) {}
  };
  bool measures() const { return by_channel != nullptr; }
  bool applies() const { return b.dx != nullptr || b.dresidual != nullptr; }
  T gamma(int64_t channel) const { return b.gamma ? b.gamma[channel] : T(1); }
  T beta(int64_t channel) const { return b.beta ? b.beta[channel] : T(0); }

  void prepare(int64_t, const Work&, int64_t) const {}
  void measure(int64_t s, int64_t piece, const Work& work, int64_t slot) const {
    const Center<T> center(b.mean[s], b.variance[s], b.eps);
    double* sums = work.sums + (slot * set.pieces() + piece) * set.channels * 2;
    for (int64_t k = 0; k < set.channels * 2; ++k) sums[k] = 0;
    const int64_t first = s % set.groups * set.channels, base = set.offset(s);
    if (set.channels == 1) {  // runs may be short: one sum for many
      const int64_t begin = piece * set.piece(), end = min(set.size, begin + set.piece());
      return gradient_sums(b, center, gamma(first), beta(first), base, set.runs, begin, end, sums);
    }
    set.over_channels_of(piece, [&](int64_t c, int64_t at, int64_t count) {
      gradient_sums(b, center, gamma(first + c), beta(first + c), base + at, Runs{count, count}, 0, count,
                    sums + 2 * c);
    });
  }
  void finish(int64_t s, const Work& work, int64_t slot) const {
    Means means = given_means(b, s);
    if (measures()) {
      const int64_t first = s % set.groups * set.channels, stride = set.channels * 2;
      const double* pieces = work.sums + slot * set.pieces() * stride;
      double* out = by_channel + (s / set.groups * shape.all_channels() + first) * 2;
      Means total;
      for (int64_t k = 0; k < stride; ++k) {
        out[k] = 0;
        for (int64_t p = 0; p < set.pieces(); ++p) out[k] += pieces[p * stride + k];
        (k % 2 == 0 ? total.gradient : total.product) += double(gamma(first + k / 2)) * out[k];
      }
      if (!b.constant && !b.gradient_mean)
        means = {b.centered ? total.gradient / double(set.size) : 0, total.product / double(set.size)};
    }
    work.means[slot] = means;
  }
  void apply(int64_t s, int64_t piece, const Work& work, int64_t slot) const {
    const Center<T> center(b.mean[s], b.variance[s], b.eps);
    const int64_t first = s % set.groups * set.channels, base = set.offset(s);
    const Vector<T> high = broadcast(center.high), low = broadcast(center.low), rstd = broadcast(T(center.scale));
    const Vector<T> mean = broadcast(T(work.means[slot].gradient * center.scale));
    const Vector<T> slant = broadcast(T(work.means[slot].product * center.scale));
    set.over_channels_of(piece, [&](int64_t c, int64_t at, int64_t count) {
      const Vector<T> scale = broadcast(T(double(gamma(first + c)) * center.scale)), shift = broadcast(beta(first + c));
      over_result<T>(past && b.dx, b.dx + base + at, count, [&](int64_t i, auto whole, int64_t lanes) {
        Vector<T> g, x_hat;
        backward_vector<T>(whole, b, base + at + i, lanes, high, low, rstd, scale, shift, &g, &x_hat);
        if (b.dx) store_result(whole, past, b.dx + base + at + i, scale * g - (mean + x_hat * slant), lanes);
        if (b.dresidual) store_result(whole, past, b.dresidual + base + at + i, g, lanes);
      });
    });
  }
};

// Adds up [batches][channels] pairs in order.
template <class T>
void reduce_channels(const NormShape& shape, const NormBackward<T>& b, const double* by_channel) {
  const int64_t C = shape.all_channels();
  for (int64_t c = 0; c < C; ++c) {
    double gradient = 0, product = 0;
    for (int64_t n = 0; n < shape.batches; ++n)
      gradient += by_channel[(n * C + c) * 2], product += by_channel[(n * C + c) * 2 + 1];
    if (b.dbeta) b.dbeta[c] = T(gradient);
    if (b.dgamma) b.dgamma[c] = T(product);
    if (b.sums) b.sums[c] = gradient, b.sums[C + c] = product;
  }
}

// --------------------------------------------------------------------------------------------------- runs: γ by
// element

// Rows of D elements, measured apart, scaled alike: dγ and dβ are sums down the columns. Units are blocks of rows, each
// with its own partial sums; rows too long for a cache are cut into columns too, and measured before.
template <class T>
struct ElementsBackward {
  NormBackward<T> b;
  bool past;
  int64_t rows, length;

  static constexpr int64_t kLongRow = 16384, kColumns = 2048;
  bool is_long() const { return length > kLongRow; }
  int64_t block() const { return is_long() ? 64 : max(8, min(256, kPiece / length)); }
  int64_t columns() const { return is_long() ? kColumns : length; }
  bool scaled() const { return b.dgamma != nullptr || b.dbeta != nullptr; }

  Center<T> center(int64_t row) const { return Center<T>(b.mean[row], b.variance[row], b.eps); }

  // Σ γ·g and Σ γ·g·x̂ of elements [begin, end) of `Rows` rows, over chunks.
  template <int Rows>
  void sums(int64_t row, int64_t begin, int64_t end, Means* total) const {
    constexpr int64_t chunk = 4 * kTerms * kLanes<T>;
    Vector<T> high[Rows], low[Rows], rstd[Rows];
    for (int k = 0; k < Rows; ++k) {
      const Center<T> c = center(row + k);
      high[k] = broadcast(c.high), low[k] = broadcast(c.low), rstd[k] = broadcast(T(c.scale)), total[k] = Means{};
    }
    for (int64_t at = begin; at < end; at += chunk) {
      Vector<T> s[Rows] = {}, t[Rows] = {};
      over_vectors<T>(min(chunk, end - at), [&](int64_t i, auto whole, int64_t lanes) {
        const Vector<T> gamma = b.gamma ? load_lanes(whole, b.gamma + at + i, lanes) : broadcast(T(1));
        const Vector<T> beta = b.beta ? load_lanes(whole, b.beta + at + i, lanes) : Vector<T>{};
        for (int k = 0; k < Rows; ++k) {
          Vector<T> g, x_hat;
          backward_vector<T>(whole, b, (row + k) * length + at + i, lanes, high[k], low[k], rstd[k], rstd[k] * gamma,
                             beta, &g, &x_hat);
          g = only_lanes<T>(whole, g * gamma, lanes);
          s[k] += g, t[k] += only_lanes<T>(whole, g * x_hat, lanes);
        }
      });
      for (int k = 0; k < Rows; ++k) {
        total[k].gradient += double(sum_lanes<T>(s[k]));
        total[k].product += double(sum_lanes<T>(t[k]));
      }
    }
  }
  Means means(const Means& total) const {
    if (b.constant) return {};
    return {b.centered ? total.gradient / double(length) : 0, total.product / double(length)};
  }

  // What a row's elements share.
  struct Row {
    Vector<T> high, low, rstd, mean, slant;
  };
  Row row_parameters(int64_t row, const Means& m) const {
    const Center<T> c = center(row);
    return {broadcast(c.high), broadcast(c.low), broadcast(T(c.scale)), broadcast(T(m.gradient * c.scale)),
            broadcast(T(m.product * c.scale))};
  }

  // dx of elements [begin, end) of `Rows` rows; adds g·x̂ and g to what the block has of dγ and dβ, once for all of
  // them.
  template <int Rows>
  void apply(int64_t row, int64_t begin, int64_t end, const Means* m, T* dgamma, T* dbeta) const {
    Row of[Rows];
    for (int k = 0; k < Rows; ++k) of[k] = row_parameters(row + k, m[k]);
    over_vectors<T>(end - begin, [&](int64_t i, auto whole, int64_t lanes) {
      const Vector<T> gamma = b.gamma ? load_lanes(whole, b.gamma + begin + i, lanes) : broadcast(T(1));
      const Vector<T> beta = b.beta ? load_lanes(whole, b.beta + begin + i, lanes) : Vector<T>{};
      Vector<T> gradient = {}, product = {};
      for (int k = 0; k < Rows; ++k) {
        Vector<T> g, x_hat;
        const int64_t at = (row + k) * length + begin + i;
        const Vector<T> scale = of[k].rstd * gamma;
        backward_vector<T>(whole, b, at, lanes, of[k].high, of[k].low, of[k].rstd, scale, beta, &g, &x_hat);
        if (b.dx) store_result(whole, past, b.dx + at, scale * g - (of[k].mean + x_hat * of[k].slant), lanes);
        if (b.dresidual) store_result(whole, past, b.dresidual + at, g, lanes);
        gradient += g, product += g * x_hat;
      }
      if (dgamma) {
        store_lanes(whole, dgamma + i, load_lanes(whole, dgamma + i, lanes) + product, lanes);
        store_lanes(whole, dbeta + i, load_lanes(whole, dbeta + i, lanes) + gradient, lanes);
      }
    });
  }

  void run() const {
    const int64_t D = length, blocks = tiles(rows, block()), across = tiles(D, columns());
    const Scratch<Means> by_row(is_long() ? rows : 0);
    const Scratch<T> partial(scaled() ? blocks * 2 * D : 0);
    const ElementsBackward self = *this;
    if (is_long()) measure_rows(by_row);
    Means* row_means = by_row;
    T* parts = scaled() ? static_cast<T*>(partial) : nullptr;
    parallel_for(blocks * across, block() * columns() * 3, [=](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t k = unit / across, first = unit % across * self.columns(), last = min(D, first + self.columns());
        T *dgamma = parts ? parts + k * 2 * D + first : nullptr, *dbeta = parts ? dgamma + D : nullptr;
        if (parts)
          for (int64_t i = 0; i < last - first; ++i) dgamma[i] = dbeta[i] = 0;
        const int64_t end = min(self.rows, (k + 1) * self.block());
        const auto rows_at = [&](auto count, int64_t row) {
          constexpr int Rows = decltype(count)::value;
          Means m[Rows];
          for (int k = 0; k < Rows; ++k) m[k] = self.is_long() ? row_means[row + k] : Means{};
          if (!self.is_long()) {
            self.template sums<Rows>(row, 0, D, m);
            for (int k = 0; k < Rows; ++k) m[k] = self.means(m[k]);
          }
          self.template apply<Rows>(row, first, last, m, dgamma, dbeta);
        };
        int64_t row = k * self.block();
        for (; row + 4 <= end; row += 4) rows_at(Constant<4>{}, row);
        for (; row < end; ++row) rows_at(Constant<1>{}, row);
      }
      settle();
    });
    if (scaled())
      parallel_for(D, blocks * 2, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          double product = 0, gradient = 0;
          for (int64_t k = 0; k < blocks; ++k)
            product += double(parts[k * 2 * D + i]), gradient += double(parts[k * 2 * D + D + i]);
          if (self.b.dgamma) self.b.dgamma[i] = T(product);
          if (self.b.dbeta) self.b.dbeta[i] = T(gradient);
        }
      });
  }

  void measure_rows(Means* by_row) const {
    const int64_t pieces = tiles(length, kPiece);
    const Scratch<Means> of_pieces(rows * pieces);
    Means* parts = of_pieces;
    const ElementsBackward self = *this;
    parallel_for(rows * pieces, kPiece, [=](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t row = unit / pieces, first = unit % pieces * kPiece;
        self.template sums<1>(row, first, min(self.length, first + kPiece), parts + unit);
      }
    });
    for (int64_t row = 0; row < rows; ++row) {
      Means total;
      for (int64_t p = 0; p < pieces; ++p)
        total.gradient += parts[row * pieces + p].gradient, total.product += parts[row * pieces + p].product;
      by_row[row] = means(total);
    }
  }
};

// ------------------------------------------------------------------------------------------------------------- columns

constexpr int64_t kChunkRows = 64;  // of a chunk: the terms of one sum of T
constexpr int64_t kWidest = 1024;   // columns at a time: their sums stay in the first-level cache
constexpr int64_t kStrip = 4;       // rows at a time: a column's parameters are loaded once for them

template <class T>
inline int64_t padded(int64_t width) {
  return tiles(width, kLanes<T>) * kLanes<T>;
}

// Per column: Σ d and Σ d·d of `rows` rows, d = x - shift. The squares in parts of kTerms rows, `apart` from each
// other.
template <class T>
inline void column_deviations(const T* x, int64_t rows, int64_t pitch, int64_t width, const T* shift, T* sum, T* square,
                              int64_t apart) {
  for (int64_t i = 0; i < rows; i += 8) {
    const int64_t n = min(8, rows - i);
    const T* from = x + i * pitch;
    T* part = square + i / kTerms * apart;
    over_vectors<T>(width, [&](int64_t w, auto whole, int64_t lanes) {
      const Vector<T> center = load(shift + w);
      Vector<T> s = i == 0 ? Vector<T>{} : load(sum + w), q = i % kTerms == 0 ? Vector<T>{} : load(part + w);
      const auto add = [&](int64_t row) {
        const Vector<T> d = load_lanes(whole, from + row * pitch + w, lanes) - center;
        s += d, q += d * d;
      };
      if (n == 8)
        for (int64_t row = 0; row < 8; ++row) add(row);
      else
        for (int64_t row = 0; row < n; ++row) add(row);
      store(sum + w, s), store(part + w, q);
    });
  }
}

constexpr int64_t kParts = kChunkRows / kTerms;
static_assert(kParts == 4);

// The mean and m2 of each column of some rows. `room`: 2 + kParts padded widths of T.
template <class T>
inline void measure_columns(const T* x, int64_t rows, int64_t pitch, int64_t width, T* room, double* mean, double* m2) {
  const int64_t apart = padded<T>(width);
  T *shift = room, *sum = room + apart, *square = sum + apart;
  for (int64_t at = 0; at < rows; at += kChunkRows) {
    const int64_t n = min(kChunkRows, rows - at);
    const T* from = x + at * pitch;
    const double count = double(n), share = count / double(at + n), weight = double(at) * share;
    if (at ==
        0) {  // as in moments.h: the first chunk is read twice, from a shift that constant columns do not differ from
      for (int64_t w = 0; w < width; ++w) shift[w] = x[w];
      column_deviations(from, n, pitch, width, shift, sum, square, apart);
      for (int64_t w = 0; w < width; ++w) shift[w] += sum[w] / T(n), mean[w] = double(shift[w]), m2[w] = 0;
    } else {
      for (int64_t w = 0; w < width; ++w) shift[w] = T(mean[w]);
    }
    column_deviations(from, n, pitch, width, shift, sum, square, apart);
    for (int64_t part = tiles(n, kTerms); part < kParts; ++part)
      for (int64_t w = 0; w < width; ++w) square[part * apart + w] = 0;
    int overflow = 0;
    const T *q0 = square, *q1 = q0 + apart, *q2 = q1 + apart, *q3 = q2 + apart;
    for (int64_t w = 0; w < width; ++w) overflow |= !((q0[w] + q1[w]) + (q2[w] + q3[w]) < T(__builtin_inf()));
    const Scratch<Moments> wide(overflow ? width : 0);  // of the columns that overflow; the others keep their bits
    const auto overflows = [&](int64_t w) { return !((q0[w] + q1[w]) + (q2[w] + q3[w]) < T(__builtin_inf())); };
    for (int64_t w = 0; overflow && w < width; ++w)
      if (overflows(w)) {
        wide[w] = {double(at), mean[w], m2[w]};
        wide[w].merge(wide_moments(from + w, Runs{1, pitch}, 0, n, true));
      }
    for (int64_t w = 0; w < width; ++w) {  // Moments::merge, where the first chunk has share 1 and weight 0
      const double q = (double(q0[w]) + double(q1[w])) + (double(q2[w]) + double(q3[w]));
      const double step = double(sum[w]) / count, spread = q - double(sum[w]) * step;
      const double delta = double(shift[w]) + step - mean[w];
      mean[w] += delta * share, m2[w] += (spread < 0 ? 0 : spread) + delta * delta * weight;
    }
    for (int64_t w = 0; overflow && w < width; ++w)
      if (overflows(w)) mean[w] = wide[w].mean, m2[w] = wide[w].m2;
  }
}

// A slab is one batch: samples·places rows of all channels. `glue` rows make one of `width` columns; what is left of
// them, `tail` values, is the last piece's.
struct Slab {
  int64_t channels, glue, width, rows, tail, size;

  explicit Slab(const NormShape& s) : channels(s.all_channels()), size(s.samples * s.places * s.all_channels()) {
    glue = 1;
    if (channels < 64) {
      while (channels * glue % 16 != 0) ++glue;
      glue *= tiles(64, channels * glue);
    }
    width = channels * glue;
    rows = size / width;
    tail = size % width;
  }
  int64_t piece() const { return max(kChunkRows, kPiece * 2 / width / kChunkRows * kChunkRows); }
  int64_t pieces() const { return max(1, tiles(rows, piece())); }
  bool has_tail(int64_t p) const { return tail > 0 && p == pieces() - 1; }
  int64_t rows_of(int64_t p) const { return min(piece(), rows - p * piece()); }
  int64_t values_per_channel(int64_t p) const { return rows_of(p) * glue + (has_tail(p) ? tail / channels : 0); }

  // Calls body(offset, rows, first column, columns) for what a piece has, no more than kWidest columns at a time.
  template <class Body>
  STRIATE_INLINE void blocks(int64_t p, const Body& body) const {
    const int64_t at = p * piece() * width;
    for (int64_t w = 0; w < width; w += kWidest) body(at + w, rows_of(p), w, min(kWidest, width - w));
    if (has_tail(p)) body(rows * width, 1, 0, tail);
  }
};

// The parameters of a slab's columns: arrays of one padded width each.
template <class T>
struct Columns {
  T* at;
  int64_t width;
  T* operator[](int k) const { return at + k * width; }
};
enum { kHigh, kLow, kRstd, kScale, kShift, kMean, kSlant, kParameters };

// Fills the parameters that center and scale, from each set's statistics.
template <class T, class Norm>
inline void fill_columns(const NormShape& shape, const Slab& slab, const Norm& n, int64_t batch,
                         const Columns<T>& out) {
  for (int64_t c = 0; c < slab.channels; ++c) {
    const int64_t set = batch * shape.groups + c / shape.channels;
    const Center<T> center(n.mean[set], n.variance[set], n.eps);
    out[kHigh][c] = center.high, out[kLow][c] = center.low, out[kRstd][c] = T(center.scale);
    out[kScale][c] = T((n.gamma ? double(n.gamma[c]) : 1) * center.scale), out[kShift][c] = n.beta ? n.beta[c] : T(0);
  }
  for (int k = kHigh; k <= kShift; ++k)
    for (int64_t w = slab.channels; w < slab.width; ++w) out[k][w] = out[k][w - slab.channels];
}

// Calls body(w, whole, lanes, offset in x) for every vector, a strip of rows at a time.
template <class T, class Load, class Body>
STRIATE_INLINE void over_strips(int64_t offset, int64_t rows, int64_t pitch, int64_t width, const Load& load_parameters,
                                const Body& body) {
  for (int64_t i = 0; i < rows; i += kStrip) {
    const int64_t n = min(kStrip, rows - i), from = offset + i * pitch;
    over_vectors<T>(width, [&](int64_t w, auto whole, int64_t lanes) {
      const auto parameters = load_parameters(w);
      if (n == kStrip)
        for (int64_t row = 0; row < kStrip; ++row) body(parameters, w, whole, lanes, from + row * pitch + w);
      else
        for (int64_t row = 0; row < n; ++row) body(parameters, w, whole, lanes, from + row * pitch + w);
    });
  }
}

template <class T>
struct VectorParameters {
  Vector<T> high, low, rstd, scale, shift, mean, slant;
};

template <class T>
struct ColumnsForward {
  NormShape shape;
  Slab slab;
  NormForward<T> f;
  bool past;  // the caches: how y is written

  struct Work {
    Scratch<double> moments;  // of each piece: means, then m2s
    Scratch<T> parameters;
    Work(const ColumnsForward& body, int64_t slots)
        : moments(slots * body.slab.pieces() * body.slab.channels * 2),
          parameters(slots * kParameters * padded<T>(body.slab.width)) {}
  };
  bool measures() const { return !f.given; }
  bool applies() const { return f.y != nullptr; }
  Columns<T> columns(const Work& work, int64_t slot) const {
    const int64_t width = padded<T>(slab.width);
    return {work.parameters + slot * kParameters * width, width};
  }

  void prepare(int64_t, const Work&, int64_t) const {}
  void measure(int64_t batch, int64_t piece, const Work& work, int64_t slot) const {
    const int64_t C = slab.channels, rows = slab.rows_of(piece);
    const Scratch<T> room((2 + kParts) * padded<T>(min(slab.width, kWidest)));
    const Scratch<double> mean(slab.width), m2(slab.width);
    const T* x = f.x + batch * slab.size;
    for (int64_t w = 0; w < slab.width; w += kWidest)
      measure_columns<T>(x + piece * slab.piece() * slab.width + w, rows, slab.width, min(kWidest, slab.width - w),
                         room, mean + w, m2 + w);
    const T* tail = x + slab.rows * slab.width;
    double* out = work.moments + (slot * slab.pieces() + piece) * C * 2;
    for (int64_t c = 0; c < C; ++c) {
      Moments total;
      for (int64_t w = c; w < slab.width; w += C) {
        if (rows > 0) total.merge({double(rows), mean[w], m2[w]});
        if (slab.has_tail(piece) && w < slab.tail) total.merge({1, double(tail[w]), 0});
      }
      out[c] = total.mean, out[C + c] = total.m2;
    }
  }
  void finish(int64_t batch, const Work& work, int64_t slot) const {
    const int64_t C = slab.channels;
    if (!f.given)
      for (int64_t g = 0; g < shape.groups; ++g) {
        Moments total;
        for (int64_t c = g * shape.channels; c < (g + 1) * shape.channels; ++c)
          for (int64_t p = 0; p < slab.pieces(); ++p) {
            const double* piece = work.moments + (slot * slab.pieces() + p) * C * 2;
            total.merge({double(slab.values_per_channel(p)), piece[c], piece[C + c]});
          }
        f.mean[batch * shape.groups + g] = total.mean, f.variance[batch * shape.groups + g] = total.variance();
      }
    if (applies()) fill_columns(shape, slab, f, batch, columns(work, slot));
  }
  void apply(int64_t batch, int64_t piece, const Work& work, int64_t slot) const {
    const Columns<T> p = columns(work, slot);
    slab.blocks(piece, [&](int64_t offset, int64_t rows, int64_t first, int64_t width) {
      over_strips<T>(
          batch * slab.size + offset, rows, slab.width, width,
          [&](int64_t w) {
            w += first;
            return VectorParameters<T>{
                load(p[kHigh] + w), load(p[kLow] + w), {}, load(p[kScale] + w), load(p[kShift] + w), {}, {}};
          },
          [&](const VectorParameters<T>& v, int64_t, auto whole, int64_t lanes, int64_t at) {
            forward_vector<T>(whole, f, past, at, lanes, v.high, v.low, v.scale, v.shift);
          });
    });
  }
};

template <class T>
struct ColumnsBackward {
  NormShape shape;
  Slab slab;
  NormBackward<T> b;
  bool past;
  double* by_channel;

  struct Work {
    Scratch<double> sums;  // of each piece, a pair for each channel
    Scratch<T> parameters;
    Work(const ColumnsBackward& body, int64_t slots)
        : sums(slots * body.slab.pieces() * body.slab.channels * 2),
          parameters(slots * kParameters * padded<T>(body.slab.width)) {}
  };
  bool measures() const { return by_channel != nullptr; }
  bool applies() const { return b.dx != nullptr || b.dresidual != nullptr; }
  Columns<T> columns(const Work& work, int64_t slot) const {
    const int64_t width = padded<T>(slab.width);
    return {work.parameters + slot * kParameters * width, width};
  }
  static VectorParameters<T> load_columns(const Columns<T>& p, int64_t w) {
    return {load(p[kHigh] + w),  load(p[kLow] + w),  load(p[kRstd] + w), load(p[kScale] + w),
            load(p[kShift] + w), load(p[kMean] + w), load(p[kSlant] + w)};
  }

  void prepare(int64_t batch, const Work& work, int64_t slot) const {
    fill_columns(shape, slab, b, batch, columns(work, slot));
  }
  void measure(int64_t batch, int64_t piece, const Work& work, int64_t slot) const {
    const Columns<T> p = columns(work, slot);
    const int64_t widest = padded<T>(min(slab.width, kWidest));
    const Scratch<T> room(2 * widest);
    T *sum = room, *product = room + widest;
    double* out = work.sums + (slot * slab.pieces() + piece) * slab.channels * 2;
    for (int64_t c = 0; c < slab.channels * 2; ++c) out[c] = 0;
    slab.blocks(piece, [&](int64_t offset, int64_t rows, int64_t first, int64_t width) {
      for (int64_t row = 0; row < rows; row += kChunkRows) {
        for (int64_t w = 0; w < padded<T>(width); ++w) sum[w] = product[w] = 0;
        column_gradients(batch * slab.size + offset + row * slab.width, min(kChunkRows, rows - row), width, p, first,
                         sum, product);
        for (int64_t w = 0, c = first % slab.channels; w < width; ++w, c = c + 1 == slab.channels ? 0 : c + 1)
          out[2 * c] += double(sum[w]), out[2 * c + 1] += double(product[w]);
      }
    });
  }
  void column_gradients(int64_t offset, int64_t rows, int64_t width, const Columns<T>& p, int64_t first, T* sum,
                        T* product) const {
    for (int64_t i = 0; i < rows; i += kStrip) {
      const int64_t n = min(kStrip, rows - i), from = offset + i * slab.width;
      over_vectors<T>(width, [&](int64_t w, auto whole, int64_t lanes) {
        const VectorParameters<T> v = load_columns(p, first + w);
        Vector<T> s = load(sum + w), t = load(product + w), g, x_hat;
        const auto add = [&](int64_t row) {
          backward_vector<T>(whole, b, from + row * slab.width + w, lanes, v.high, v.low, v.rstd, v.scale, v.shift, &g,
                             &x_hat);
          s += g, t += g * x_hat;
        };
        if (n == kStrip)
          for (int64_t row = 0; row < kStrip; ++row) add(row);
        else
          for (int64_t row = 0; row < n; ++row) add(row);
        store(sum + w, s), store(product + w, t);
      });
    }
  }
  void finish(int64_t batch, const Work& work, int64_t slot) const {
    const Columns<T> p = columns(work, slot);
    const int64_t C = slab.channels;
    const double count = double(shape.set_size());
    double* out = measures() ? by_channel + batch * C * 2 : nullptr;
    if (measures())
      for (int64_t c = 0; c < C * 2; ++c) {
        out[c] = 0;
        for (int64_t k = 0; k < slab.pieces(); ++k) out[c] += work.sums[(slot * slab.pieces() + k) * C * 2 + c];
      }
    for (int64_t g = 0; g < shape.groups; ++g) {
      const int64_t set = batch * shape.groups + g, first = g * shape.channels, last = first + shape.channels;
      Means means = given_means(b, set);
      if (measures() && !b.constant && !b.gradient_mean) {
        for (int64_t c = first; c < last; ++c) {
          const double gamma = b.gamma ? double(b.gamma[c]) : 1;
          means.gradient += gamma * out[2 * c], means.product += gamma * out[2 * c + 1];
        }
        means = {b.centered ? means.gradient / count : 0, means.product / count};
      }
      const double scale = Center<T>(b.mean[set], b.variance[set], b.eps).scale;
      for (int64_t w = 0; w < slab.width; w += C)
        for (int64_t c = first; c < last; ++c)
          p[kMean][w + c] = T(means.gradient * scale), p[kSlant][w + c] = T(means.product * scale);
    }
  }
  void apply(int64_t batch, int64_t piece, const Work& work, int64_t slot) const {
    const Columns<T> p = columns(work, slot);
    slab.blocks(piece, [&](int64_t offset, int64_t rows, int64_t first, int64_t width) {
      over_strips<T>(
          batch * slab.size + offset, rows, slab.width, width, [&](int64_t w) { return load_columns(p, first + w); },
          [&](const VectorParameters<T>& v, int64_t, auto whole, int64_t lanes, int64_t at) {
            Vector<T> g, x_hat;
            backward_vector<T>(whole, b, at, lanes, v.high, v.low, v.rstd, v.scale, v.shift, &g, &x_hat);
            if (b.dx) store_result(whole, past, b.dx + at, v.scale * g - (v.mean + x_hat * v.slant), lanes);
            if (b.dresidual) store_result(whole, past, b.dresidual + at, g, lanes);
          });
    });
  }
};

// ------------------------------------------------------------------------------------------------ columns: γ by row

// Every place is measured over all channels, a row each: blocks of places are units of their own, read twice through
// the cache.
template <class T>
struct PlaceBlock {
  int64_t batch, first, width, offset;
  PlaceBlock(const NormShape& s, int64_t unit) {
    const int64_t block = places(s), blocks = tiles(s.places, block);
    batch = unit / blocks, first = unit % blocks * block, width = min(block, s.places - first);
    offset = batch * s.channels * s.places + first;
  }
  // At most 256 KiB of float at a time, and a few cache lines at least.
  static int64_t places(const NormShape& s) { return max(64, min(kWidest, kPiece * 2 / s.channels / 64 * 64)); }
  static int64_t units(const NormShape& s) { return s.batches * tiles(s.places, places(s)); }
};

template <class T>
void places_forward(const NormShape& shape, const NormForward<T>& f, bool past) {
  const int64_t C = shape.channels, S = shape.places;
  parallel_for(PlaceBlock<T>::units(shape), C * PlaceBlock<T>::places(shape) * 2, [=](int64_t begin, int64_t end) {
    const int64_t widest = padded<T>(PlaceBlock<T>::places(shape));
    const Scratch<T> room((2 + kParts) * widest);
    T *high = room, *low = high + widest, *rstd = low + widest;
    for (int64_t unit = begin; unit < end; ++unit) {
      const PlaceBlock<T> block(shape, unit);
      double *mean = f.mean + block.batch * S + block.first, *variance = f.variance + block.batch * S + block.first;
      if (!f.given) {
        measure_columns<T>(f.x + block.offset, C, S, block.width, room, mean, variance);
        for (int64_t w = 0; w < block.width; ++w) variance[w] /= double(C);
      }
      if (f.y == nullptr) continue;
      for (int64_t w = 0; w < block.width; ++w) {
        const Center<T> center(mean[w], variance[w], f.eps);
        high[w] = center.high, low[w] = center.low, rstd[w] = T(center.scale);
      }
      for (int64_t c = 0; c < C; ++c) {
        const Vector<T> gamma = broadcast(f.gamma ? f.gamma[c] : T(1)), beta = broadcast(f.beta ? f.beta[c] : T(0));
        over_vectors<T>(block.width, [&](int64_t w, auto whole, int64_t lanes) {
          forward_vector<T>(whole, f, past, block.offset + c * S + w, lanes, load(high + w), load(low + w),
                            load(rstd + w) * gamma, beta);
        });
      }
    }
    settle();
  });
}

template <class T>
void places_backward(const NormShape& shape, const NormBackward<T>& b, bool past, double* by_unit) {
  const int64_t C = shape.channels, S = shape.places;
  parallel_for(PlaceBlock<T>::units(shape), C * PlaceBlock<T>::places(shape) * 3, [=](int64_t begin, int64_t end) {
    const int64_t widest = padded<T>(PlaceBlock<T>::places(shape));
    const Scratch<T> room(5 * widest);
    T *high = room, *low = high + widest, *rstd = low + widest, *sum = rstd + widest, *product = sum + widest;
    const Scratch<double> gradient(widest), slope(widest);
    for (int64_t unit = begin; unit < end; ++unit) {
      const PlaceBlock<T> block(shape, unit);
      const int64_t padded_width = padded<T>(block.width);
      for (int64_t w = 0; w < block.width; ++w) {
        const int64_t set = block.batch * S + block.first + w;
        const Center<T> center(b.mean[set], b.variance[set], b.eps);
        high[w] = center.high, low[w] = center.low, rstd[w] = T(center.scale), gradient[w] = slope[w] = 0;
      }
      const auto each = [&](int64_t c, const auto& body) {
        const Vector<T> gamma = broadcast(b.gamma ? b.gamma[c] : T(1)), beta = broadcast(b.beta ? b.beta[c] : T(0));
        over_vectors<T>(block.width, [&](int64_t w, auto whole, int64_t lanes) {
          Vector<T> g, x_hat;
          const Vector<T> scale = load(rstd + w) * gamma;
          backward_vector<T>(whole, b, block.offset + c * S + w, lanes, load(high + w), load(low + w), load(rstd + w),
                             scale, beta, &g, &x_hat);
          body(w, whole, lanes, g, x_hat, gamma, scale);
        });
      };
      for (int64_t first = 0; first < C; first += kChunkRows) {
        for (int64_t w = 0; w < padded_width; ++w) sum[w] = product[w] = 0;
        for (int64_t c = first; c < min(C, first + kChunkRows); ++c)
          each(c, [&](int64_t w, auto, int64_t, const Vector<T>& g, const Vector<T>& x_hat, const Vector<T>& gamma,
                      const Vector<T>&) {
            const Vector<T> scaled = g * gamma;
            store(sum + w, load(sum + w) + scaled), store(product + w, load(product + w) + scaled * x_hat);
          });
        for (int64_t w = 0; w < block.width; ++w) gradient[w] += double(sum[w]), slope[w] += double(product[w]);
      }
      for (int64_t w = 0; w < block.width; ++w) {
        sum[w] = b.constant || !b.centered ? T(0) : T(gradient[w] / double(C) * double(rstd[w]));
        product[w] = b.constant ? T(0) : T(slope[w] / double(C) * double(rstd[w]));
      }
      for (int64_t c = 0; c < C; ++c) {
        Vector<T> s = {}, t = {};
        each(c, [&](int64_t w, auto whole, int64_t lanes, const Vector<T>& g, const Vector<T>& x_hat, const Vector<T>&,
                    const Vector<T>& scale) {
          const int64_t at = block.offset + c * S + w;
          if (b.dx)
            store_result(whole, past, b.dx + at, scale * g - (load(sum + w) + x_hat * load(product + w)), lanes);
          if (b.dresidual) store_result(whole, past, b.dresidual + at, g, lanes);
          s += only_lanes<T>(whole, g, lanes), t += only_lanes<T>(whole, g * x_hat, lanes);
        });
        if (by_unit)
          by_unit[(unit * C + c) * 2] = double(sum_lanes<T>(s)),
                                   by_unit[(unit * C + c) * 2 + 1] = double(sum_lanes<T>(t));
      }
    }
    settle();
  });
}

// --------------------------------------------------------------------------------------------------------------- entry

template <class T>
void forward(const NormShape& shape, const NormForward<T>& f) {
  if (shape.sets() == 0 || shape.set_size() == 0) return;
  const bool past = shape.sets() * shape.set_size() * int64_t(sizeof(T)) >= kStreamBytes;
  if (shape.along == Along::kRows) return places_forward(shape, f, past);
  if (shape.channels_last && shape.along == Along::kChannels) {
    const ColumnsForward<T> body = {shape, Slab(shape), f, past};
    return in_passes(body, shape.batches, body.slab.pieces(), body.slab.size, sizeof(T));
  }
  if (shape.along == Along::kElements && ShortRows<T>::fits(shape.places))
    return ShortRows<T>{f, past, shape.batches, shape.places}.run();
  const RunsForward<T> body = {shape, RunSet(shape), f, past};
  in_passes(body, shape.sets(), body.set.pieces(), body.set.size, sizeof(T));
}

template <class T>
void backward(const NormShape& shape, const NormBackward<T>& b) {
  const bool empty = shape.sets() == 0 || shape.set_size() == 0;
  const bool past = shape.sets() * shape.set_size() * int64_t(sizeof(T)) >= kStreamBytes;
  if (shape.along == Along::kElements) {
    if (!empty) return ElementsBackward<T>{b, past, shape.batches, shape.places}.run();
    for (int64_t i = 0; i < shape.places; ++i) {
      if (b.dgamma) b.dgamma[i] = 0;
      if (b.dbeta) b.dbeta[i] = 0;
    }
    return;
  }
  const bool sums = b.dgamma || b.dbeta || b.sums || (!b.constant && !b.gradient_mean);
  NormShape parts = shape;  // of whose channels there are sums
  if (shape.along == Along::kRows) parts.batches = empty ? 0 : PlaceBlock<T>::units(shape);
  if (empty) parts.batches = 0;
  const Scratch<double> by_channel(sums ? parts.batches * parts.all_channels() * 2 : 0);
  double* out = sums ? static_cast<double*>(by_channel) : nullptr;
  if (!empty && shape.along == Along::kRows) {
    places_backward(shape, b, past, out);
  } else if (!empty && shape.channels_last) {
    const ColumnsBackward<T> body = {shape, Slab(shape), b, past, out};
    in_passes(body, shape.batches, body.slab.pieces(), body.slab.size, sizeof(T));
  } else if (!empty) {
    const RunsBackward<T> body = {shape, RunSet(shape), b, past, out};
    in_passes(body, shape.sets(), body.set.pieces(), body.set.size, sizeof(T));
  }
  if (b.dgamma || b.dbeta || b.sums) reduce_channels(parts, b, out);
}

}  // namespace

extern const NormKernels<float> norm_f32;
extern const NormKernels<double> norm_f64;
const NormKernels<float> norm_f32 = {forward<float>, backward<float>};
const NormKernels<double> norm_f64 = {forward<double>, backward<double>};

}  // namespace STRIATE_ISA
}  // namespace striate
