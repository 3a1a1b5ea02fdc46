// Pooling: y[o] = max or mean of x over the taps of output o.
//
// Layout. Vectors run across channels: lane k is channel k of one pixel, so that strides, edges and row lengths never
// cut a vector. In NHWC the data is in this order. In NCHW a band of as many planes as a vector has lanes is packed
// (transposed in the cache), pooled by the same code, and unpacked: four shuffles a vector, where vectors along a row
// cost 100 cycles a row of 7 outputs (docs/kernels/pool.md has the losing versions).
//
// Tile. The unit of work is a row of outputs (backward: of inputs), cut into columns where it is long, or in NCHW a
// band of rows that fits the second-level cache. Each value is computed whole by one unit, its terms in one order: the
// bits do not depend on where the work is cut.
//
// Gather or scatter. Backward in NHWC gathers: the gradient of each input is summed from the outputs that cover it and
// written once. In NCHW max pooling scatters, into bands that belong to one thread each: one scalar addition an output
// is less work than packing the data.
//
// Wide windows, and those whose taps vary (adaptive, global), are reduced in runs of consecutive values instead.
#include "kernels/pool/pool.h"

#include "kernels/pool/avg_pool.h"
#include "kernels/pool/max_pool.h"

namespace striate {
namespace STRIATE_ISA {

extern const PoolKernels<float> pool_f32;
extern const PoolKernels<double> pool_f64;
#define STRIATE_POOL(T) \
  {max_offset<T>, max_offset_backward<T>, offset_to_index, max_index<T>, max_index_backward<T>, avg<T>, avg_backward<T>}
const PoolKernels<float> pool_f32 = STRIATE_POOL(float);
const PoolKernels<double> pool_f64 = STRIATE_POOL(double);

}  // namespace STRIATE_ISA
}  // namespace striate
