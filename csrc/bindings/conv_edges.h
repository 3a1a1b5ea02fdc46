// What lies in the padding takes no part in a sum, as in torch's operators in float. Kernels multiply its zeros all the
// same, which changes nothing unless a weight (in backward_weights: dy) is NaN or infinite: 0 · NaN is NaN. Results
// that such a product contaminated are computed again here, one by one. Where there are none, the check costs a look at
// a few results of each channel. Compiled once, with the bindings: it uses standard templates, which kernels must not.
#pragma once
#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "kernels/conv/conv.h"

namespace striate {

// An axis of a convolution's forward pass, or with `adjoint` of backward_data, seen from the destination.
struct EdgeAxis {
  Axis axis;
  bool adjoint;

  static constexpr int64_t kPadding = -1, kNoSource = -2;  // a source in the padding; no source at all

  int64_t destinations() const { return adjoint ? axis.input : axis.output; }
  int64_t sources() const { return adjoint ? axis.output : axis.input; }
  // The source that destination `at` sums through a tap.
  int64_t source(int64_t at, int64_t tap) const {
    const int64_t position =
        adjoint ? at + axis.before - tap * axis.dilation : at * axis.stride - axis.before + tap * axis.dilation;
    if (adjoint && position % axis.stride != 0) return kNoSource;
    const int64_t source = adjoint ? position / axis.stride : position;
    return source >= 0 && source < sources() ? source : kPadding;
  }
  bool reads_padding(int64_t at) const {
    for (int64_t t = 0; t < axis.size; ++t)
      if (source(at, t) == kPadding) return true;
    return false;
  }
  // A sample of destinations: a tap that reads padding for any destination does so for one of these, and a tap that
  // reads a source for any does so for one of these.
  std::vector<int64_t> samples() const {
    const int64_t n = destinations(), kinds = adjoint ? axis.stride : 1;
    const bool all = n <= 3 * kinds || (axis.size - 1) * axis.dilation >= axis.input;
    std::vector<int64_t> at;
    for (int64_t i = 0; i < n; ++i)
      if (all || i < kinds || i >= n - kinds || (i >= n / 2 && i < n / 2 + kinds)) at.push_back(i);
    return at;
  }
};

struct EdgePosition {
  int64_t d, h, w;
};

struct Edges {
  EdgeAxis depth, height, width;

  Edges(const Window& w, bool adjoint) : depth{w.depth, adjoint}, height{w.height, adjoint}, width{w.width, adjoint} {}
  int64_t destinations() const { return depth.destinations() * height.destinations() * width.destinations(); }
  int64_t sources() const { return depth.sources() * height.sources() * width.sources(); }
  int64_t destination(const EdgePosition& p) const {
    return (p.d * height.destinations() + p.h) * width.destinations() + p.w;
  }

  // The source of a position through a tap of all axes, or kPadding or kNoSource.
  int64_t source(const EdgePosition& p, int64_t tap) const {
    const int64_t wide = width.axis.size, high = height.axis.size;
    const int64_t d = depth.source(p.d, tap / wide / high), h = height.source(p.h, tap / wide % high),
                  w = width.source(p.w, tap % wide);
    if (d == EdgeAxis::kNoSource || h == EdgeAxis::kNoSource || w == EdgeAxis::kNoSource) return EdgeAxis::kNoSource;
    if (d == EdgeAxis::kPadding || h == EdgeAxis::kPadding || w == EdgeAxis::kPadding) return EdgeAxis::kPadding;
    return (d * height.sources() + h) * width.sources() + w;
  }
  // The positions that read padding, of all destinations or of the samples.
  std::vector<EdgePosition> positions(bool all) const {
    const auto of = [all](const EdgeAxis& a) {
      std::vector<int64_t> at = all ? std::vector<int64_t>(size_t(a.destinations())) : a.samples();
      for (size_t i = 0; all && i < at.size(); ++i) at[i] = int64_t(i);
      return at;
    };
    std::vector<EdgePosition> found;
    for (int64_t d : of(depth))
      for (int64_t h : of(height))
        for (int64_t w : of(width))
          if (depth.reads_padding(d) || height.reads_padding(h) || width.reads_padding(w)) found.push_back({d, h, w});
    return found;
  }
};

// The index of channel c of image n at position p of `positions`.
inline int64_t value_at(bool channels_last, int64_t n, int64_t c, int64_t channels, int64_t p, int64_t positions) {
  return channels_last ? (n * positions + p) * channels + c : (n * channels + c) * positions + p;
}

// Computes contaminated results of the forward pass, or of backward_data, again.
template <class T>
void recompute_edges(const ConvShape& s, bool adjoint, const T* source, Weight<T> weight, const Epilogue<T>& e,
                     Activate<T> activate, T* y) {
  const Edges edges(s.window, adjoint);
  const std::vector<EdgePosition> samples = edges.positions(false);
  if (samples.empty()) return;
  const int64_t to = adjoint ? s.channels : s.filters, from = adjoint ? s.filters : s.channels, taps = s.taps();
  const int64_t positions = edges.destinations(), group_sources = from / s.groups, inputs = s.channels / s.groups;
  const auto weight_of = [&](int64_t c, int64_t q, int64_t tap) {  // q: among the sources of c's group
    const int64_t filter = adjoint ? c / inputs * group_sources + q : c, input = adjoint ? c % inputs : q;
    return weight.data[filter * inputs * taps + (weight.channels_last ? tap * inputs + input : input * taps + tap)];
  };
  std::vector<int64_t> contaminated;
  for (int64_t c = 0; c < to; ++c) {
    bool nan = false, finite = true;
    for (const EdgePosition& p : samples)
      nan = nan || std::isnan(y[value_at(s.channels_last, 0, c, to, edges.destination(p), positions)]);
    for (int64_t q = 0; nan && finite && q < group_sources; ++q)
      for (int64_t tap = 0; tap < taps; ++tap) finite = finite && std::isfinite(weight_of(c, q, tap));
    if (!finite) contaminated.push_back(c);
  }
  if (contaminated.empty()) return;
  const std::vector<EdgePosition> all = edges.positions(true);
  const auto recompute = [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t c = contaminated[k], first = c / (to / s.groups) * group_sources;
      for (int64_t n = 0; n < s.batch; ++n)
        for (const EdgePosition& p : all) {
          double sum = e.bias ? double(e.bias[c]) : 0;
          for (int64_t tap = 0; tap < taps && !std::isnan(sum); ++tap) {
            const int64_t at = edges.source(p, tap);
            for (int64_t q = 0; at >= 0 && q < group_sources && !std::isnan(sum); ++q)
              sum += double(weight_of(c, q, tap)) *
                     double(source[value_at(s.channels_last, n, first + q, from, at, edges.sources())]);
          }
          const int64_t at = value_at(s.channels_last, n, c, to, edges.destination(p), positions);
          y[at] = T(sum) + (e.residual ? e.residual[at] : T(0));
          activate(e.activation, y + at, 1, 1, 1);
        }
      if (!e.mean) continue;
      double count = 0, mean = 0, squares = 0;
      for (int64_t n = 0; n < s.batch; ++n)
        for (int64_t p = 0; p < positions; ++p) {
          const double z = double(y[value_at(s.channels_last, n, c, to, p, positions)]), d = z - mean;
          mean += d / ++count, squares += d * (z - mean);
        }
      e.mean[c] = mean, e.variance[c] = squares / count;
    }
  };
  parallel_ranges(
      int64_t(contaminated.size()), 1,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<decltype(recompute)*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&recompute)));
}

// Computes contaminated results of backward_weights again.
template <class T>
void recompute_weight_edges(const ConvShape& s, const T* dy, const T* x, T* dw) {
  const Edges edges(s.window, false);
  if (edges.positions(false).empty()) return;
  const int64_t taps = s.taps(), inputs = s.channels / s.groups, positions = edges.destinations(),
                sources = edges.sources();
  const auto at = [&](int64_t k, int64_t c, int64_t tap) { return k * inputs * taps + s.weight_at(c * taps + tap); };
  const auto gradient = [&](int64_t n, int64_t k, const EdgePosition& p) {
    return dy[value_at(s.channels_last, n, k, s.filters, edges.destination(p), positions)];
  };
  std::vector<EdgePosition> edge_positions;
  const auto recompute = [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k)
      for (int64_t tap = 0; tap < taps; ++tap) {
        if (!std::isnan(dw[at(k, 0, tap)])) continue;
        bool contaminated = false;
        for (int64_t n = 0; n < s.batch && !contaminated; ++n)
          for (const EdgePosition& p : edge_positions)
            contaminated =
                contaminated || (!std::isfinite(gradient(n, k, p)) && edges.source(p, tap) == EdgeAxis::kPadding);
        bool nan = !contaminated;  // a NaN inside the input makes every sum NaN: nothing to compute
        std::vector<double> sums(size_t(inputs), 0.0);
        for (int64_t n = 0; n < s.batch && !nan; ++n)
          for (int64_t d = 0; d < edges.depth.destinations() && !nan; ++d)
            for (int64_t h = 0; h < edges.height.destinations() && !nan; ++h)
              for (int64_t w = 0; w < edges.width.destinations() && !nan; ++w) {
                const int64_t source = edges.source({d, h, w}, tap);
                if (source < 0) continue;
                const double g = double(gradient(n, k, {d, h, w}));
                nan = std::isnan(g);
                for (int64_t c = 0; c < inputs; ++c)
                  sums[size_t(c)] += g * double(x[value_at(s.channels_last, n, k / (s.filters / s.groups) * inputs + c,
                                                           s.channels, source, sources)]);
              }
        for (int64_t c = 0; c < inputs && !nan; ++c) dw[at(k, c, tap)] = T(sums[size_t(c)]);
      }
  };
  bool any = false;
  for (int64_t k = 0; k < s.filters && !any; ++k)
    for (int64_t tap = 0; tap < taps; ++tap) any = any || std::isnan(dw[at(k, 0, tap)]);
  if (!any) return;
  edge_positions = edges.positions(true);
  parallel_ranges(
      s.filters, 1,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<decltype(recompute)*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&recompute)));
}

}  // namespace striate
