// The contiguous pattern: the values of a reduction are contiguous, or form a few contiguous segments. Vectors run
// along them and their lanes are added up at the end (moments.h). Batch, instance, group and ghost norm in NCHW, and
// the forward pass of layer norm with long rows. A part of norm.cpp.
#pragma once
#include "core/moments.h"
#include "kernels/norm/formulas.h"
#include "kernels/norm/passes.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

// The memory of a reduction, samples × channels × positions. A segment is what is contiguous: all channels of a group
// in one sample.
struct ContiguousLayout {
  int64_t samples, groups, channels, positions, length, pitch, size;
  Segments segments;

  explicit ContiguousLayout(const NormShape& s)
      : samples(s.samples),
        groups(s.groups),
        channels(s.channels),
        positions(s.positions),
        length(s.channels * s.positions),
        pitch(s.groups * s.channels * s.positions),
        size(s.reduction_size()),
        segments{length, pitch} {}

  int64_t offset(int64_t set) const { return set / groups * samples * pitch + set % groups * length; }
  int64_t piece() const { return segments.whole(kPiece); }
  int64_t pieces() const { return max(1, ceil_div(size, piece())); }

  // Calls body(channel of the group, offset, count) for each stretch of one channel in a piece.
  template <class Body>
  STRIATE_INLINE void over_channels_of(int64_t piece_number, const Body& body) const {
    const int64_t begin = piece_number * piece(), end = min(size, begin + piece());
    segments.over(begin, end, [&](int64_t at, int64_t count) {
      const int64_t first = at % pitch;
      for (int64_t c = first / positions, from = first; from < first + count; ++c) {
        const int64_t upto = min((c + 1) * positions, first + count);
        body(c, at - first + from, upto - from);
        from = upto;
      }
    });
  }
};

template <class T>
struct ContiguousForward {
  NormShape shape;
  ContiguousLayout layout;
  NormForward<T> f;
  bool streaming;  // whether to write y by streaming stores

  struct Work {
    Scratch<Moments> pieces;
    Work(const ContiguousForward& body, int64_t slots) : pieces(slots * body.layout.pieces()) {}
  };
  bool measures() const { return !f.given; }
  bool applies() const { return f.y != nullptr; }

  void prepare(int64_t, const Work&, int64_t) const {}
  void measure(int64_t s, int64_t piece, const Work& work, int64_t slot) const {
    const int64_t begin = piece * layout.piece(), end = min(layout.size, begin + layout.piece());
    work.pieces[slot * layout.pieces() + piece] =
        striate::STRIATE_ISA::measure(f.x + layout.offset(s), layout.segments, begin, end, f.centered);
  }
  void finish(int64_t s, const Work& work, int64_t slot) const {
    if (f.given) return;
    Moments total;
    for (int64_t p = 0; p < layout.pieces(); ++p) total.merge(work.pieces[slot * layout.pieces() + p]);
    f.mean[s] = total.mean, f.variance[s] = total.variance();
  }
  void apply(int64_t s, int64_t piece, const Work&, int64_t) const {
    const Center<T> center(f.mean[s], f.variance[s], f.eps);
    const Vector<T> high = broadcast(center.high), low = broadcast(center.low);
    const int64_t base = layout.offset(s), first = s % layout.groups * layout.channels;
    if (shape.affine == AffineAxis::kElements) return apply_elements(base + piece * layout.piece(), piece, center);
    layout.over_channels_of(piece, [&](int64_t c, int64_t at, int64_t count) {
      const Vector<T> scale = broadcast(T(f.gamma ? double(f.gamma[first + c]) * center.scale : center.scale));
      const Vector<T> shift = broadcast(f.beta ? f.beta[first + c] : T(0));
      over_result<T>(streaming, f.y + base + at, count, [&](int64_t i, auto whole, int64_t lanes) {
        forward_vector<T>(whole, f, streaming, base + at + i, lanes, high, low, scale, shift);
      });
    });
  }
  // For layer norm: a reduction is one segment, and its i-th element has its own gamma and beta.
  void apply_elements(int64_t base, int64_t piece, const Center<T>& center) const {
    const int64_t begin = piece * layout.piece(), count = min(layout.size - begin, layout.piece());
    const Vector<T> high = broadcast(center.high), low = broadcast(center.low), rstd = broadcast(T(center.scale));
    over_result<T>(streaming, f.y + base, count, [&](int64_t i, auto whole, int64_t lanes) {
      const Vector<T> scale = f.gamma ? rstd * load_lanes(whole, f.gamma + begin + i, lanes) : rstd;
      const Vector<T> shift = f.beta ? load_lanes(whole, f.beta + begin + i, lanes) : Vector<T>{};
      forward_vector<T>(whole, f, streaming, base + i, lanes, high, low, scale, shift);
    });
  }
};

// Adds Σ g and Σ g·x̂ of values [begin, end), all with the same gamma and beta, to sum[0] and sum[1].
template <class T>
inline void gradient_sums(const NormBackward<T>& b, const Center<T>& center, T gamma, T beta, int64_t base,
                          const Segments& segments, int64_t begin, int64_t end, double* sum) {
  constexpr int64_t L = kLanes<T>;
  const Vector<T> high = broadcast(center.high), low = broadcast(center.low), rstd = broadcast(T(center.scale));
  const Vector<T> scale = broadcast(T(double(gamma) * center.scale)), shift = broadcast(beta);
  const int64_t chunk = segments.whole(kChunk);
  for (; begin < end; begin += chunk) {
    Vector<T> s[4] = {}, t[4] = {};
    segments.over(begin, min(end, begin + chunk), [&](int64_t at, int64_t count) {
      Vector<T> g, x_hat;
      int64_t i = 0;
      for (; i + 4 * L <= count; i += 4 * L)
        for (int k = 0; k < 4; ++k) {
          backward_vector<T>(Constant<true>{}, b, base + at + i + k * L, L, high, low, rstd, scale, shift, &g, &x_hat);
          s[k] += g, t[k] += g * x_hat;
        }
      for_each_vector<T>(count - i, [&](int64_t j, auto whole, int64_t lanes) {
        backward_vector<T>(whole, b, base + at + i + j, lanes, high, low, rstd, scale, shift, &g, &x_hat);
        s[0] += mask_lanes<T>(whole, g, lanes), t[0] += mask_lanes<T>(whole, g * x_hat, lanes);
      });
    });
    sum[0] += double(sum_lanes<T>((s[0] + s[1]) + (s[2] + s[3])));
    sum[1] += double(sum_lanes<T>((t[0] + t[1]) + (t[2] + t[3])));
  }
}

template <class T>
struct ContiguousBackward {
  NormShape shape;
  ContiguousLayout layout;
  NormBackward<T> b;
  bool streaming;      // whether to write dx by streaming stores
  double* by_channel;  // Σ g and Σ g·x̂ of each batch and channel, or null

  struct Work {
    Scratch<double> sums;  // of each piece and channel
    Scratch<Means> means;
    Work(const ContiguousBackward& body, int64_t slots)
        : sums(slots * body.layout.pieces() * body.layout.channels * 2), means(slots) {}
  };
  bool measures() const { return by_channel != nullptr; }
  bool applies() const { return b.dx != nullptr || b.dresidual != nullptr; }
  T gamma(int64_t channel) const { return b.gamma ? b.gamma[channel] : T(1); }
  T beta(int64_t channel) const { return b.beta ? b.beta[channel] : T(0); }

  void prepare(int64_t, const Work&, int64_t) const {}
  void measure(int64_t s, int64_t piece, const Work& work, int64_t slot) const {
    const Center<T> center(b.mean[s], b.variance[s], b.eps);
    double* sums = work.sums + (slot * layout.pieces() + piece) * layout.channels * 2;
    for (int64_t k = 0; k < layout.channels * 2; ++k) sums[k] = 0;
    const int64_t first = s % layout.groups * layout.channels, base = layout.offset(s);
    if (layout.channels == 1) {  // segments may be short: one sum for many
      const int64_t begin = piece * layout.piece(), end = min(layout.size, begin + layout.piece());
      return gradient_sums(b, center, gamma(first), beta(first), base, layout.segments, begin, end, sums);
    }
    layout.over_channels_of(piece, [&](int64_t c, int64_t at, int64_t count) {
      gradient_sums(b, center, gamma(first + c), beta(first + c), base + at, Segments{count, count}, 0, count,
                    sums + 2 * c);
    });
  }
  void finish(int64_t s, const Work& work, int64_t slot) const {
    Means means = given_means(b, s);
    if (measures()) {
      const int64_t first = s % layout.groups * layout.channels, stride = layout.channels * 2;
      const double* pieces = work.sums + slot * layout.pieces() * stride;
      double* out = by_channel + (s / layout.groups * shape.all_channels() + first) * 2;
      Means total;
      for (int64_t k = 0; k < stride; ++k) {
        out[k] = 0;
        for (int64_t p = 0; p < layout.pieces(); ++p) out[k] += pieces[p * stride + k];
        (k % 2 == 0 ? total.gradient : total.product) += double(gamma(first + k / 2)) * out[k];
      }
      if (!b.constant && !b.gradient_mean)
        means = {b.centered ? total.gradient / double(layout.size) : 0, total.product / double(layout.size)};
    }
    work.means[slot] = means;
  }
  void apply(int64_t s, int64_t piece, const Work& work, int64_t slot) const {
    const Center<T> center(b.mean[s], b.variance[s], b.eps);
    const int64_t first = s % layout.groups * layout.channels, base = layout.offset(s);
    const Vector<T> high = broadcast(center.high), low = broadcast(center.low), rstd = broadcast(T(center.scale));
    const Vector<T> mean = broadcast(T(work.means[slot].gradient * center.scale));
    const Vector<T> product_mean = broadcast(T(work.means[slot].product * center.scale));
    layout.over_channels_of(piece, [&](int64_t c, int64_t at, int64_t count) {
      const Vector<T> scale = broadcast(T(double(gamma(first + c)) * center.scale)), shift = broadcast(beta(first + c));
      over_result<T>(streaming && b.dx, b.dx + base + at, count, [&](int64_t i, auto whole, int64_t lanes) {
        Vector<T> g, x_hat;
        backward_vector<T>(whole, b, base + at + i, lanes, high, low, rstd, scale, shift, &g, &x_hat);
        if (b.dx)
          store_result(whole, streaming, b.dx + base + at + i, scale * g - (mean + x_hat * product_mean), lanes);
        if (b.dresidual) store_result(whole, streaming, b.dresidual + base + at + i, g, lanes);
      });
    });
  }
};

}  // namespace
}  // namespace STRIATE_ISA
}  // namespace striate
