"""What TorchScript compiles for layers with padding that ``torch.nn`` does not have: functions that call torch's
operators, for any number of axes.

The padding is ``"same"`` with a stride, in pooling, or in a transposed convolution, and every padding mode of a
transposed convolution. The functions are written in the subset of Python that TorchScript compiles; sizes are lists
with one number for each axis.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.padding import folded
from ..window import same_padding

__all__ = ["avg_pool", "conv", "conv_transpose", "max_pool", "same"]


def same(x: Tensor, size: list[int], stride: list[int], dilation: list[int]) -> list[int]:
    """The padding that ``"same"`` stands for, in the order of ``torch.nn.functional.pad``.

    >>> torch.jit.script(same)(torch.ones(1, 6, 7), [3, 2], [2, 2], [1, 1])
    [0, 1, 0, 1]
    """
    margins: list[int] = []
    for axis in range(len(size)):
        before, after = same_padding(x.shape[axis - len(size)], size[axis], stride[axis], dilation[axis])
        margins = [before, after] + margins  # noqa: RUF005
    return margins


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    margins: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
    mode: str,
) -> Tensor:
    """A convolution of ``x`` after padding by ``margins``, in the order of ``torch.nn.functional.pad``, with a mode.

    >>> conv(torch.ones(1, 1, 4), torch.ones(1, 1, 3), None, [1, 1], [1], [1], 1, "zeros")
    tensor([[[2., 3., 3., 2.]]])
    """
    x = F.pad(x, margins, "constant" if mode == "zeros" else mode)
    none = [0] * len(stride)
    batch = x if x.dim() == weight.dim() else x.unsqueeze(0)
    y = torch.convolution(batch, weight, bias, stride, none, dilation, False, none, groups)
    return y if x.dim() == weight.dim() else y.squeeze(0)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int] | None,
    output_padding: list[int],
    dilation: list[int],
    groups: int,
    mode: str,
    output_size: list[int] | None,
) -> Tensor:
    """The adjoint of a convolution whose padding has a mode; ``None`` in ``padding`` is ``"same"``.

    >>> x, w = torch.tensor([[[1.0, 10, 100]]]), torch.tensor([[[1.0, 2, 3]]])
    >>> conv_transpose(x, w, None, [1], [1], [0], [1], 1, "circular", None)
    tensor([[[312., 123., 231.]]])
    """
    dims = len(stride)
    before: list[int] = []
    after: list[int] = []
    tail: list[int] = []
    for axis in range(dims):
        inputs, step = x.shape[axis - dims], stride[axis]
        extent = dilation[axis] * (weight.shape[2 + axis] - 1) + 1
        unpadded = (inputs - 1) * step + extent
        outputs = inputs * step if padding is None else unpadded - 2 * padding[axis] + output_padding[axis]
        if output_size is not None:
            outputs = output_size[len(output_size) - dims + axis]
        if padding is None:
            p, q = same_padding(outputs, weight.shape[2 + axis], step, dilation[axis])
        else:
            p, q = padding[axis], padding[axis]
        before.append(p)
        after.append(q)
        tail.append(outputs + p + q - unpadded)
    batch = x if x.dim() == weight.dim() else x.unsqueeze(0)
    y = torch.convolution(batch, weight, None, stride, [0] * dims, dilation, True, tail, groups)
    y = folded(y, before, after, mode)
    if bias is not None:
        y = y + bias.to(y.dtype).reshape([-1] + [1] * dims)
    return y if x.dim() == weight.dim() else y.squeeze(0)


def max_pool(
    x: Tensor, size: list[int], stride: list[int], padding: str, dilation: list[int], ceil_mode: bool
) -> tuple[Tensor, Tensor]:
    """Maxima with padding "same" or "valid", and the index of each in its channel.

    >>> max_pool(torch.tensor([[1.0, 3, 2]]), [2], [2], "same", [1], False)
    (tensor([[3., 2.]]), tensor([[1, 2]]))
    """
    dims = len(size)
    margins = same(x, size, stride, dilation) if padding == "same" else [0] * (2 * dims)
    padded = F.pad(x, margins, "constant", -float("inf"))
    none = [0] * dims
    if dims == 1:
        y, position = F.max_pool1d_with_indices(padded, size, stride, none, dilation, ceil_mode)
    elif dims == 2:
        y, position = F.max_pool2d_with_indices(padded, size, stride, none, dilation, ceil_mode)
    else:
        y, position = F.max_pool3d_with_indices(padded, size, stride, none, dilation, ceil_mode)
    index = torch.zeros_like(position)
    pitch = 1  # distance in x of neighbours on the axis
    for axis in range(dims):  # from the last axis to the first
        width = padded.shape[-1 - axis]
        c = position % width - margins[2 * axis]
        # a window whose values are all -inf gives its first tap inside x
        index = index + torch.where(c < 0, c % dilation[-1 - axis], c) * pitch
        position, pitch = position // width, pitch * x.shape[-1 - axis]
    return y, index


def avg_pool(
    x: Tensor,
    size: list[int],
    stride: list[int],
    padding: str,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Means with padding "same" or "valid".

    >>> x = torch.tensor([[2.0, 4, 6]])
    >>> [avg_pool(x, [2], [2], "same", False, count_include_pad, None).tolist() for count_include_pad in (False, True)]
    [[[3.0, 6.0]], [[3.0, 3.0]]]
    """
    dims = len(size)
    padded = F.pad(x, same(x, size, stride, [1] * dims)) if padding == "same" else x
    y = _means(padded, size, stride, ceil_mode, divisor_override)
    if count_include_pad or divisor_override is not None:
        return y
    inside = F.pad(torch.ones_like(x), same(x, size, stride, [1] * dims)) if padding == "same" else torch.ones_like(x)
    return y / _means(inside, size, stride, ceil_mode, None)


def _means(x: Tensor, size: list[int], stride: list[int], ceil_mode: bool, divisor_override: int | None) -> Tensor:
    none = [0] * len(size)
    if len(size) == 1:  # torch's function has no divisor_override
        return F.avg_pool1d(x, size, stride, none, ceil_mode)
    elif len(size) == 2:
        return F.avg_pool2d(x, size, stride, none, ceil_mode, True, divisor_override)
    else:
        return F.avg_pool3d(x, size, stride, none, ceil_mode, True, divisor_override)
