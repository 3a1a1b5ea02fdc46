// Convolution of one tap without padding, as a product of matrices (gemm/gemm.h) that reads pixels where they lie.
//
//   y[p, k] = Σ_c x[i(p), c]·w[k, c],   dx[i(p), c] = Σ_k dy[p, k]·w[k, c],   dw[k, c] = Σ_p dy[p, k]·x[i(p), c]
//
// Layout. In NHWC a pixel's channels are contiguous: all pixels of the batch are the rows of one product, (pixels ×
// channels) · (channels × filters). In NCHW a channel's pixels are: those of one image after the other are the columns
// of a product (filters × channels) · (channels × pixels), and in the weight gradient the sum goes through them.
//
// Stride. The pixels that a larger stride reads are gathered first, a fourth of x with stride 2; in backward_data they
// are scattered, and all others get what a sum of nothing is.
#include "gemm/gemm.h"
#include "kernels/conv/conv.h"
#include "kernels/conv/epilogue.h"

namespace striate {
namespace STRIATE_ISA {
namespace {

struct Pixels {
  int64_t images, inputs, outputs;    // pixels of an image of x and of y
  int64_t channels, filters, groups;  // channels and filters of a group
  bool strided;                       // y reads some of x's pixels only

  int64_t all_channels() const { return groups * channels; }
  int64_t all_filters() const { return groups * filters; }
};

// Whether a pixel's channels are contiguous. Images of one pixel lie alike in both orders.
bool by_pixels(const ConvShape& s, const Pixels& p) { return s.channels_last || p.outputs == 1; }

Pixels pixels_of(const ConvShape& s) {
  const Window& w = s.window;
  return {s.batch,
          w.depth.input * w.height.input * w.width.input,
          w.depth.output * w.height.output * w.width.output,
          s.channels / s.groups,
          s.filters / s.groups,
          s.groups,
          w.depth.input != w.depth.output || w.height.input != w.height.output || w.width.input != w.width.output};
}

// The first pixel of a row of y, the number-th of an image, in x.
int64_t first_input(const Window& w, int64_t number) {
  const int64_t d = number / w.height.output, h = number % w.height.output;
  return (d * w.depth.stride * w.height.input + h * w.height.stride) * w.width.input;
}

// Copies `count` pixels of `run` values each, from and to every from_step-th and to_step-th pixel.
template <class T>
void copy_pixels(const T* from, int64_t from_step, T* to, int64_t to_step, int64_t count, int64_t run) {
  if (run == 1)
    for (int64_t i = 0; i < count; ++i) to[i * to_step] = from[i * from_step];
  else
    for (int64_t i = 0; i < count; ++i)
      memcpy(to + i * to_step * run, from + i * from_step * run, size_t(run) * sizeof(T));
}

// The pixels of x that y reads, in y's order.
template <class T>
void gather(const ConvShape& s, const T* x, T* to) {
  const Pixels p = pixels_of(s);
  const Window w = s.window;
  const int64_t planes = s.channels_last ? p.images : p.images * p.all_channels(),
                run = s.channels_last ? p.all_channels() : 1, rows = w.depth.output * w.height.output;
  parallel_for(planes * rows, w.width.output * run, [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      copy_pixels(x + (row / rows * p.inputs + first_input(w, row % rows)) * run, w.width.stride,
                  to + row * w.width.output * run, 1, w.width.output, run);
  });
}

// Puts the products for y's pixels where x has them, zeros elsewhere, and finishes all of them.
template <class T>
void scatter(const ConvShape& s, const T* products, const Epilogue<T>& given, T* dx) {
  const Pixels p = pixels_of(s);
  const Window w = s.window;
  const Epilogue<T> e = given;
  const bool last = s.channels_last;
  const int64_t planes = last ? p.images : p.images * p.all_channels(), run = last ? p.all_channels() : 1,
                rows = w.depth.input * w.height.input, width = w.width.input * run;
  parallel_for(planes * rows, width, [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t plane = row / rows, d = row % rows / w.height.input, h = row % w.height.input;
      T* to = dx + row * width;
      memset(to, 0, size_t(width) * sizeof(T));
      const int64_t od = d / w.depth.stride, oh = h / w.height.stride;
      if (d % w.depth.stride == 0 && h % w.height.stride == 0 && od < w.depth.output && oh < w.height.output)
        copy_pixels(products + (plane * p.outputs + (od * w.height.output + oh) * w.width.output) * run, 1, to,
                    w.width.stride, w.width.output, run);
      if (!e.bias && !e.finishes()) continue;
      for (int64_t pixel = 0; pixel < (last ? w.width.input : 1); ++pixel)
        for_each_vector<T>(last ? run : width, [&](int64_t i, auto whole, int64_t lanes) {
          const int64_t at = row * width + pixel * run + i;
          Vector<T> sum = load_lanes<T>(whole, dx + at, lanes);
          if (e.bias)
            sum += last ? load_lanes<T>(whole, e.bias + i, lanes) : broadcast(e.bias[plane % p.all_channels()]);
          store_lanes(whole, dx + at, finish<T>(whole, e, sum, at, lanes), lanes);
        });
      activate(e.activation, to, width, 1, width);
    }
  });
}

template <class T>
Product<T> product_of(const Epilogue<T>& e, T* y, int64_t at, int64_t pitch, int64_t channel, bool channels_last,
                      const Images& images, const MomentsOfRuns& moments) {
  return {y + at,         pitch,        e.bias ? e.bias + channel : nullptr,
          !channels_last, e.activation, e.residual ? e.residual + at : nullptr,
          images,         moments};
}

// The products of forward, or with Adjoint of backward_data: of `from` channels to `to` channels in each group.
template <class T, bool Adjoint>
void products(const Pixels& p, bool channels_last, const T* x, const T* weight, const Epilogue<T>& given, T* y) {
  const int64_t from = Adjoint ? p.filters : p.channels, to = Adjoint ? p.channels : p.filters;
  const Epilogue<T> e = given;
  // In NCHW the columns are pixels of images that lie as far apart as all their channels take.
  const auto images = [=](int64_t channels) {
    return Images::in_units_of(2 * kLanes<T>, p.images, p.outputs, p.groups * channels * p.outputs);
  };
  const int64_t runs = e.mean ? ceil_div(p.images * p.outputs, MomentsOfRuns::kRows) : 0, all = p.groups * to;
  const Scratch<Moments> moments(runs * all);
  for (int64_t g = 0; g < p.groups; ++g) {
    const MomentsOfRuns of_group = {runs > 0 ? moments + g * to : nullptr, all};
    const T* w = weight + g * p.filters * p.channels;
    const auto weights = [=] {
      if constexpr (Adjoint)
        return AcrossDepth<T>{w, p.channels};
      else
        return AlongDepth<T>{w, p.channels};
    }();
    if (channels_last)
      gemm<T>({p.images * p.outputs, to, from}, AlongDepth<T>{x + g * from, p.groups * from}, weights,
              product_of(e, y, g * to, all, g * to, true, {}, of_group));
    else
      gemm<T>({to, images(to).positions(), from}, weights,
              ImagesAcrossDepth<T>{x + g * from * p.outputs, p.outputs, images(from)},
              product_of(e, y, g * to * p.outputs, p.outputs, g * to, false, images(to), of_group));
  }
  if (e.mean) merge_rows(moments, runs, all, e.mean, e.variance);
}

template <class T>
void forward(const ConvShape& s, const T* x, Weight<T> weight, const Epilogue<T>& e, T* y) {
  const Pixels p = pixels_of(s);
  const Scratch<T> gathered(p.strided ? p.images * p.outputs * p.all_channels() : 0);
  if (p.strided) gather(s, x, static_cast<T*>(gathered));
  products<T, false>(p, by_pixels(s, p), p.strided ? gathered : x, weight.data, e, y);
}

template <class T>
void backward_data(const ConvShape& s, const T* dy, Weight<T> weight, const Epilogue<T>& e, T* dx) {
  const Pixels p = pixels_of(s);
  if (!p.strided) return products<T, true>(p, by_pixels(s, p), dy, weight.data, e, dx);
  const Scratch<T> apart(p.images * p.outputs * p.all_channels());
  const Epilogue<T> none = {nullptr, nullptr, {}, nullptr, nullptr};
  products<T, true>(p, by_pixels(s, p), dy, weight.data, none, static_cast<T*>(apart));
  scatter(s, static_cast<const T*>(apart), e, dx);
}

template <class T>
void backward_weights(const ConvShape& s, const T* dy, const T* x, T* dw) {
  const Pixels p = pixels_of(s);
  const Scratch<T> gathered(p.strided ? p.images * p.outputs * p.all_channels() : 0);
  if (p.strided) gather(s, x, static_cast<T*>(gathered));
  const T* source = p.strided ? gathered : x;
  for (int64_t g = 0; g < p.groups; ++g) {
    const Product<T> to = {dw + g * p.filters * p.channels, p.channels};
    if (by_pixels(s, p)) {
      gemm<T>({p.filters, p.channels, p.images * p.outputs}, AcrossDepth<T>{dy + g * p.filters, p.all_filters()},
              AcrossDepth<T>{source + g * p.channels, p.all_channels()}, to);
    } else {
      const auto pixels = [=](const T* from, int64_t channels, int64_t group) {
        const Images images = Images::in_units_of(kLanes<T>, p.images, p.outputs, p.groups * channels * p.outputs);
        return ImagesAlongDepth<T>{from + group * channels * p.outputs, p.outputs, images};
      };
      const ImagesAlongDepth<T> gradients = pixels(dy, p.filters, g), inputs = pixels(source, p.channels, g);
      gemm<T>({p.filters, p.channels, gradients.images.positions()}, gradients, inputs, to);
    }
  }
}

}  // namespace

extern const ConvKernels<float> pointwise_f32;
extern const ConvKernels<double> pointwise_f64;
const ConvKernels<float> pointwise_f32 = {forward<float>, backward_data<float>, backward_weights<float>, nullptr,
                                          nullptr};
const ConvKernels<double> pointwise_f64 = {forward<double>, backward_data<double>, backward_weights<double>, nullptr,
                                           nullptr};

}  // namespace STRIATE_ISA
}  // namespace striate
