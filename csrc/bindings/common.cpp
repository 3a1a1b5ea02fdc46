#include "bindings/common.h"

#include <stdexcept>

namespace striate {

// -------------------------------------------------------------------------------------------------------------- checks

void check(bool ok, const std::string& message) {
  if (!ok) throw std::runtime_error("striate: " + message);
}

void check_sizes(const Tensor& x, const Ints& sizes, const char* name) {
  check(sizes_of(x) == sizes, std::string(name) + " has another shape than the window gives");
}

void check_same_type(const Tensor& x, const Tensor& other, const char* name) {
  check(other.scalar_type() == x.scalar_type(), std::string(name) + " is of the input's type");
}

// ------------------------------------------------------------------------------------------------------------- tensors

namespace {

// The k-th dimension from the innermost: width … depth, channels, batch; or in NHWC channels, width … depth, batch.
int64_t dimension_from_innermost(int64_t k, int64_t dims, bool channels_last) {
  const int64_t dim = dims - 1 - k;
  if (!channels_last || dims <= 2 || dim == 0) return dim;
  return k == 0 ? 1 : dim + 1;
}

MemoryFormat memory_format(int64_t dims, bool channels_last) {
  if (!channels_last || dims < 4) return MemoryFormat::Contiguous;
  return dims == 4 ? MemoryFormat::ChannelsLast : MemoryFormat::ChannelsLast3d;
}

int32_t dtype_number(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return aoti_torch_dtype_float32();
    case ScalarType::Double:
      return aoti_torch_dtype_float64();
    case ScalarType::Long:
      return aoti_torch_dtype_int64();
    default:
      return aoti_torch_dtype_uint8();
  }
}

}  // namespace

bool has_layout(const Tensor& x, bool channels_last) {
  const auto sizes = x.sizes(), strides = x.strides();
  const int64_t dims = int64_t(sizes.size());
  int64_t expected = 1;
  for (int64_t k = 0; k < dims; ++k) {
    const int64_t dim = dimension_from_innermost(k, dims, channels_last);
    if (sizes[dim] == 0) return true;
    if (sizes[dim] != 1 && strides[dim] != expected) return false;
    expected *= sizes[dim];
  }
  return true;
}

Tensor with_layout(const Tensor& x, bool channels_last) {
  if (has_layout(x, channels_last)) return x;
  if (channels_last && x.dim() == 3)  // torch has no channels_last for three dimensions: store (N, L, C)
    return torch::stable::transpose(torch::stable::contiguous(torch::stable::transpose(x, 1, 2)), 1, 2);
  return torch::stable::contiguous(x, memory_format(x.dim(), channels_last));
}

// Calls the C function: going through the dispatcher would cost a microsecond more for each tensor.
Tensor new_tensor(const Ints& sizes, ScalarType dtype, bool channels_last) {
  const int64_t dims = int64_t(sizes.size());
  Ints strides(sizes.size());
  int64_t pitch = 1;
  for (int64_t k = 0; k < dims; ++k) {
    const int64_t dim = dimension_from_innermost(k, dims, channels_last);
    strides[dim] = pitch;
    check(!__builtin_mul_overflow(pitch, sizes[dim] > 1 ? sizes[dim] : int64_t(1), &pitch),
          "a result has fewer than 2^63 values");
  }
  AtenTensorHandle out;
  check(aoti_torch_empty_strided(dims, sizes.data(), strides.data(), dtype_number(dtype), aoti_torch_device_type_cpu(),
                                 0, &out) == 0,
        "no memory for a result");
  return Tensor(out);
}

Ints spatial_sizes(const Tensor& x, size_t axes) {
  check(x.dim() == int64_t(axes) + 2, "an input has a batch, channels and the window's axes");
  const auto sizes = x.sizes();
  return Ints(sizes.begin() + 2, sizes.end());
}

Ints with_spatial_sizes(const Tensor& x, const Ints& spatial) {
  Ints sizes = {x.size(0), x.size(1)};
  sizes.insert(sizes.end(), spatial.begin(), spatial.end());
  return sizes;
}

Tensor new_statistics(int64_t count) { return new_tensor({2, count}, ScalarType::Double); }

double* statistics_row(const Tensor& statistics, int64_t count, int row) {
  check(statistics.scalar_type() == ScalarType::Double && statistics.numel() == 2 * count &&
            has_layout(statistics, false),
        "statistics are a mean and a variance for each set, in float64");
  return static_cast<double*>(statistics.data_ptr()) + row * count;
}

// ------------------------------------------------------------------------------------------------------------- windows

namespace {

Axis resolve_axis(int64_t input, int64_t output, int64_t size, int64_t stride, int64_t dilation, int64_t before,
                  int64_t after) {
  check(input > 0 && output > 0 && size >= 0 && stride > 0 && dilation > 0 && before >= 0 && after >= 0,
        "a window's sizes, stride and dilation are at least 1 and its padding at least 0");
  __int128 reach = __int128(output - 1) * stride + __int128(size > 0 ? size - 1 : 0) * dilation;
  check(reach < kMaxExtent && stride <= kMaxExtent && dilation <= kMaxExtent && before <= kMaxExtent &&
            after <= kMaxExtent,
        "a window reaches past 2^62");
  return {input, output, size, stride, dilation, before, after};
}

}  // namespace

Window resolve(const Ints& input, const Ints& output, const Ints& size, const Ints& stride, const Ints& dilation,
               const Ints& before, const Ints& after) {
  const size_t axes = output.size();
  check(axes >= 1 && axes <= 3, "a window has one to three axes");
  check(input.size() == axes && size.size() == axes && stride.size() == axes && dilation.size() == axes &&
            before.size() == axes && (after.empty() || after.size() == axes),
        "a window's lists are all as long as it has axes");
  const Axis point = {1, 1, 1, 1, 1, 0, 0};
  Axis axis[3] = {point, point, point};
  for (size_t k = 0; k < axes; ++k)
    axis[3 - axes + k] =
        resolve_axis(input[k], output[k], size[k], stride[k], dilation[k], before[k], after.empty() ? 0 : after[k]);
  __int128 outputs = 1;
  for (const Axis& a : axis) outputs = outputs > kMaxExtent ? outputs : outputs * a.output;
  check(outputs < (int64_t(1) << 48), "an output has no more than 2^48 places");
  return {axis[0], axis[1], axis[2]};
}

}  // namespace striate
