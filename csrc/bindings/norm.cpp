// Batch, instance, group, layer and RMS norm. The schemas are at the end.
#include <limits>
#include <type_traits>

#include "bindings/common.h"
#include "core/dispatch.h"

namespace striate {
namespace {

// The integers of the operators' argument `along` stand for kernels/norm/norm.h's AffineAxis; ops/norm/ has the same.
constexpr int64_t kAffineChannels = 0, kAffineElements = 1, kAffinePositions = 2;

NormShape norm_shape(const Tensor& x, int64_t batches, int64_t groups, int64_t along, bool channels_last) {
  check(batches > 0 && groups > 0, "a normalization has batches and groups");
  if (along == kAffineElements) {
    check(x.numel() % batches == 0, "rows divide what there is");
    return {batches, 1, 1, 1, x.numel() / batches, false, AffineAxis::kElements};
  }
  check(x.dim() >= 2, "an input has a batch and channels");
  const int64_t N = x.size(0), C = x.size(1);
  int64_t positions = 1;
  for (int64_t d = 2; d < x.dim(); ++d) positions *= x.size(d);
  if (along == kAffinePositions) {
    if (channels_last || positions == 1) return {N * positions, 1, 1, 1, C, false, AffineAxis::kElements};
    return {N, 1, 1, C, positions, false, AffineAxis::kPositions};
  }
  check(along == kAffineChannels && N % batches == 0 && C % groups == 0,
        "batches divide the batch, and groups the channels");
  return {batches, N / batches, groups, C / groups, positions, channels_last || positions == 1, AffineAxis::kChannels};
}

// The number of values of gamma and of beta.
int64_t scaled(const NormShape& s) { return s.affine == AffineAxis::kElements ? s.positions : s.all_channels(); }

// gamma or beta in the memory order of x.
OptionalTensor scale_with_layout(const OptionalTensor& parameter, const Tensor& x, const NormShape& shape,
                                 int64_t along, bool channels_last) {
  if (!parameter) return parameter;
  check(parameter->numel() == scaled(shape), "scale and shift have a number for each of what they run along");
  check(parameter->scalar_type() == x.scalar_type(), "scale and shift are of the input's type");
  if (along != kAffineElements || !channels_last) return with_layout(*parameter, false);
  return with_layout(torch::stable::unsqueeze(*parameter, 0), true);
}
Tensor new_scale(const Tensor& x, const Tensor& parameter, int64_t along, bool channels_last, bool wanted) {
  if (!wanted) return new_tensor({0}, x.scalar_type());
  const auto have = parameter.sizes();
  Ints sizes(have.begin(), have.end());
  if (along != kAffineElements || !channels_last) return new_tensor(sizes, x.scalar_type(), false);
  sizes.insert(sizes.begin(), 1);
  return new_tensor(sizes, x.scalar_type(), true);
}

OptionalTensor residual_with_layout(const OptionalTensor& residual, const Tensor& x, bool channels_last) {
  if (!residual) return residual;
  const auto sizes = x.sizes();
  check_sizes(*residual, Ints(sizes.begin(), sizes.end()), "residual");
  check(residual->scalar_type() == x.scalar_type(), "residual is of the input's type");
  return with_layout(*residual, channels_last);
}

NormActivation activation_of(int64_t number) {
  check(number >= 0 && number <= 3, "an activation is 0, 1, 2 or 3");
  return static_cast<NormActivation>(number);
}

Tensor norm_measure(const Tensor& input, int64_t batches, int64_t groups, int64_t along, bool channels_last,
                    bool centered) {
  const Tensor x = with_layout(input, channels_last);
  const NormShape shape = norm_shape(x, batches, groups, along, channels_last);
  Tensor statistics = new_statistics(shape.reductions());
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    NormForward<T> f = {};
    f.x = pointer<T>(x), f.mean = statistics_row(statistics, shape.reductions(), 0),
    f.variance = statistics_row(statistics, shape.reductions(), 1);
    f.centered = centered;
    kernels<T>().norm->forward(shape, f);
  });
  return statistics;
}

std::tuple<Tensor, Tensor> norm(const Tensor& input, const OptionalTensor& given_residual, const OptionalTensor& weight,
                                const OptionalTensor& bias, const OptionalTensor& mean, const OptionalTensor& variance,
                                int64_t batches, int64_t groups, int64_t along, bool channels_last, bool centered,
                                double eps, int64_t activation, double slope, const OptionalTensor& measured) {
  const Tensor x = with_layout(input, channels_last);
  const NormShape shape = norm_shape(x, batches, groups, along, channels_last);
  const OptionalTensor residual = residual_with_layout(given_residual, x, channels_last);
  const OptionalTensor gamma = scale_with_layout(weight, x, shape, along, channels_last),
                       beta = scale_with_layout(bias, x, shape, along, channels_last);
  const auto sizes = x.sizes();
  Tensor y = new_tensor(Ints(sizes.begin(), sizes.end()), x.scalar_type(), channels_last);
  const int64_t reductions = shape.reductions();
  Tensor statistics = new_statistics(reductions);
  double *means = statistics_row(statistics, reductions, 0), *variances = statistics_row(statistics, reductions, 1);
  if (mean) {
    check(variance && mean->numel() == reductions && variance->numel() == reductions,
          "a mean and a variance are given for each set");
    const Tensor from[2] = {with_layout(*mean, false), with_layout(*variance, false)};
    for (int k = 0; k < 2; ++k)
      for_float(from[k], [&](auto zero) {
        using T = decltype(zero);
        for (int64_t i = 0; i < reductions; ++i)
          means[k * reductions + i] = double(static_cast<const T*>(from[k].data_ptr())[i]);
      });
    for (int64_t i = 0; i < reductions; ++i)
      check(!(variances[i] < 0), "running variances are at least 0, got " + std::to_string(variances[i]) +
                                     " in channel " + std::to_string(i) + ". reset_running_stats() starts them anew.");
  }
  bool known = measured.has_value();
  if (known) {
    const double* from[2] = {statistics_row(*measured, reductions, 0), statistics_row(*measured, reductions, 1)};
    for (int64_t i = 0; i < reductions; ++i) {
      means[i] = from[0][i], variances[i] = from[1][i];
      // Where squares overflowed, the statistics are measured again.
      known = known && variances[i] < std::numeric_limits<double>::infinity();
    }
  }
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    const NormForward<T> f = {pointer<T>(x),
                              pointer<T>(residual),
                              pointer<T>(gamma),
                              pointer<T>(beta),
                              pointer<T>(y),
                              means,
                              variances,
                              mean.has_value() || known,
                              centered,
                              eps,
                              activation_of(activation),
                              T(slope)};
    kernels<T>().norm->forward(shape, f);
  });
  return {y, statistics};
}

template <class Run>
void with_backward(const Tensor& gradient, const Tensor& input, const OptionalTensor& given_residual,
                   const OptionalTensor& weight, const OptionalTensor& bias, const Tensor& statistics, int64_t batches,
                   int64_t groups, int64_t along, bool channels_last, bool centered, double eps, int64_t activation,
                   double slope, const Run& run) {
  const Tensor x = with_layout(input, channels_last), dy = with_layout(gradient, channels_last);
  const auto sizes = x.sizes();
  check_sizes(dy, Ints(sizes.begin(), sizes.end()), "dy");
  check(dy.scalar_type() == x.scalar_type(), "dy is of the input's type");
  const NormShape shape = norm_shape(x, batches, groups, along, channels_last);
  const OptionalTensor residual = residual_with_layout(given_residual, x, channels_last);
  const OptionalTensor gamma = scale_with_layout(weight, x, shape, along, channels_last),
                       beta = scale_with_layout(bias, x, shape, along, channels_last);
  const Tensor kept = with_layout(statistics, false);
  for_float(x, [&](auto zero) {
    using T = decltype(zero);
    NormBackward<T> b = {};
    b.dy = pointer<T>(dy), b.x = pointer<T>(x), b.residual = pointer<T>(residual), b.gamma = pointer<T>(gamma),
    b.beta = pointer<T>(beta);
    b.mean = statistics_row(kept, shape.reductions(), 0), b.variance = statistics_row(kept, shape.reductions(), 1);
    b.centered = centered, b.eps = eps, b.activation = activation_of(activation), b.slope = T(slope);
    run(shape, b);
  });
}

// wanted: 1 dx, 2 dresidual, 4 dweight, 8 dbias; the others come back empty.
std::tuple<Tensor, Tensor, Tensor, Tensor> norm_backward(const Tensor& dy, const Tensor& x,
                                                         const OptionalTensor& residual, const OptionalTensor& weight,
                                                         const OptionalTensor& bias, const Tensor& statistics,
                                                         const OptionalTensor& means, int64_t batches, int64_t groups,
                                                         int64_t along, bool channels_last, bool centered, double eps,
                                                         int64_t activation, double slope, bool constant,
                                                         int64_t wanted) {
  const auto have = x.sizes();
  const Ints sizes(have.begin(), have.end());
  const auto like_x = [&](bool is_wanted) {
    return is_wanted ? new_tensor(sizes, x.scalar_type(), channels_last) : new_tensor({0}, x.scalar_type());
  };
  check((!(wanted & 4) || weight) && (!(wanted & 8) || bias), "gradients are of what there is");
  Tensor dx = like_x(wanted & 1), dresidual = like_x(wanted & 2);
  Tensor dweight = new_scale(x, weight.value_or(x), along, channels_last, wanted & 4);
  Tensor dbias = new_scale(x, bias.value_or(x), along, channels_last, wanted & 8);
  with_backward(dy, x, residual, weight, bias, statistics, batches, groups, along, channels_last, centered, eps,
                activation, slope, [&](const NormShape& shape, auto b) {
                  using T = std::remove_const_t<std::remove_pointer_t<decltype(b.dx)>>;
                  b.dx = pointer<T>(dx), b.dresidual = pointer<T>(dresidual), b.dgamma = pointer<T>(dweight),
                  b.dbeta = pointer<T>(dbias);
                  b.constant = constant;
                  if (means)
                    b.gradient_mean = statistics_row(*means, shape.reductions(), 0),
                    b.product_mean = statistics_row(*means, shape.reductions(), 1);
                  kernels<T>().norm->backward(shape, b);
                });
  const auto as_parameter = [&](const Tensor& d, bool is_wanted) {
    return is_wanted && along == kAffineElements && channels_last ? torch::stable::squeeze(d, 0) : d;
  };
  return {dx, dresidual, as_parameter(dweight, wanted & 4), as_parameter(dbias, wanted & 8)};
}

Tensor norm_sums(const Tensor& dy, const Tensor& x, const OptionalTensor& residual, const OptionalTensor& weight,
                 const OptionalTensor& bias, const Tensor& statistics, bool channels_last, double eps,
                 int64_t activation, double slope) {
  const int64_t C = x.size(1);
  Tensor sums = new_statistics(C);
  with_backward(dy, x, residual, weight, bias, statistics, 1, C, kAffineChannels, channels_last, true, eps, activation,
                slope, [&](const NormShape& shape, auto b) {
                  using T = std::remove_const_t<std::remove_pointer_t<decltype(b.dx)>>;
                  b.constant = true, b.sums = statistics_row(sums, C, 0);
                  kernels<T>().norm->backward(shape, b);
                });
  return sums;
}

// Updates running statistics: r ← (1 - momentum)·r + momentum·batch, where batch is the mean over all reductions of a
// channel; the variance is unbiased, of `count` values.
void norm_update(const Tensor& mean, const Tensor& variance, const Tensor& statistics, int64_t count, double momentum) {
  const int64_t reductions = statistics.size(1), C = mean.numel();
  check(variance.numel() == C && C > 0 && reductions % C == 0, "running statistics are one number a channel");
  for (const Tensor* r : {&mean, &variance}) for_float(*r, [](auto) {});  // raises before either changes
  const double unbiased = double(count) / double(count - 1);
  const Tensor* running[2] = {&mean, &variance};
  for (int k = 0; k < 2; ++k) {
    const double *batch = statistics_row(statistics, reductions, k), times = k == 0 ? 1 : unbiased;
    const int64_t stride = running[k]->stride(0);
    for_float(*running[k], [&](auto zero) {
      using T = decltype(zero);
      T* r = static_cast<T*>(running[k]->data_ptr());
      for (int64_t c = 0; c < C; ++c) {
        double sum = 0;
        for (int64_t i = c; i < reductions; i += C) sum += batch[i];
        r[c * stride] = T((1 - momentum) * double(r[c * stride]) + momentum * times * (sum / double(reductions / C)));
      }
    });
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(striate, m) {
  m.def(
      "norm(Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? variance, SymInt batches, "
      "SymInt groups, int along, bool channels_last, bool centered, float eps, int activation, float slope, "
      "Tensor? measured=None) -> (Tensor, Tensor)");
  m.def(
      "norm_backward(Tensor dy, Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor statistics, "
      "Tensor? means, SymInt batches, SymInt groups, int along, bool channels_last, bool centered, float eps, "
      "int activation, float slope, bool constant, int wanted) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "norm_measure(Tensor x, SymInt batches, SymInt groups, int along, bool channels_last, bool centered) -> Tensor");
  m.def(
      "norm_sums(Tensor dy, Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor statistics, "
      "bool channels_last, float eps, int activation, float slope) -> Tensor");
  m.def("norm_update(Tensor(a!) mean, Tensor(b!) variance, Tensor statistics, SymInt count, float momentum) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(striate, CPU, m) {
  m.impl("norm", TORCH_BOX(&norm));
  m.impl("norm_backward", TORCH_BOX(&norm_backward));
  m.impl("norm_measure", TORCH_BOX(&norm_measure));
  m.impl("norm_sums", TORCH_BOX(&norm_sums));
  m.impl("norm_update", TORCH_BOX(&norm_update));
}

}  // namespace striate
