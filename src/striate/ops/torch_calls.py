"""Calls of torch's operators, with arguments changed where torch or oneDNN would access memory out of bounds.

These calls are known to read or write out of bounds, in plain torch too and in any type:

- The weight gradient of one tap with a stride in channels_last (oneDNN's issue 6035). Here the input is sliced by the
  stride before the operator.
- One tap with a dilation, a stride and padding on an axis of one value. Here the dilation of one tap, which has no
  effect, is set to 1.
- The gradient of a group norm's scale and shift in channels_last where the gradient of its input is not wanted: torch
  writes that one all the same. Here it is requested.
- Max pooling with a window that may lie entirely in the padding: its index lies outside of the input, and backward
  writes there. The reference computes such calls (see ``_torch_max_refusal`` in :mod:`.pool`).

Under torch's tracers the arguments arrive here unchecked, and sizes may be symbols or tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, compiler

from .. import _torch
from .layout import FORMATS, is_channels_last

__all__ = [
    "CONV",
    "TRANSPOSE",
    "clamp_stride",
    "conv",
    "conv_transpose",
    "conv_transpose_unchecked",
    "conv_unchecked",
    "for_group_norm",
    "group_norm",
    "pad_list",
    "resolved_pad_list",
    "same_pads",
    "strided_slice",
]

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def clamp_stride(stride: int, extent: int) -> int:
    """The stride, limited to ``extent``, the padded size of the axis: any larger one gives a single output too.

    >>> clamp_stride(2**63 - 1, 8), clamp_stride(2, 8)
    (8, 2)
    """
    return stride if stride == 1 or stride <= extent else max(1, extent)


def conv(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
    dims: int,
) -> Tensor:
    """``torch.nn.functional.conv{dims}d``.

    padding: the number of zeros on each side of each axis, or torch's word.

    >>> conv(torch.ones(1, 1, 5), torch.ones(1, 1, 1), None, [2], [0], [1], 1, 1)
    tensor([[[1., 1., 1.]]])
    """
    if isinstance(x, Tensor) and isinstance(weight, Tensor) and not isinstance(padding, str) and 1 in weight.shape[2:]:
        dilation = [1 if k == 1 else d for k, d in zip(weight.shape[2:], dilation, strict=True)]
        if _strides_one_tap(x, weight, stride):
            x = strided_slice(F.pad(x, pad_list([(p, p) for p in padding])) if any(padding) else x, stride)
            stride, padding = [1] * dims, [0] * dims
    return CONV[dims](x, weight, bias, stride, padding, dilation, groups)


def conv_transpose(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    dims: int,
) -> Tensor:
    """``torch.nn.functional.conv_transpose{dims}d``.

    >>> conv_transpose(torch.ones(1, 1, 2), torch.ones(1, 1, 1), None, [2], [0], [1], 1, [1], 1)
    tensor([[[1., 0., 1., 0.]]])
    """
    if isinstance(x, Tensor) and isinstance(weight, Tensor) and _strides_one_tap(x, weight, stride):
        y = CONV[dims](x, _adjoint(weight, groups), None, groups=groups)
        y = _spread(y, stride, padding, output_padding, dims)
        return y if bias is None else y + bias.reshape(-1, *[1] * dims).to(y.dtype)
    return TRANSPOSE[dims](x, weight, bias, stride, padding, output_padding, groups, dilation)


def _strides_one_tap(x: Tensor, weight: Tensor, stride: Sequence[int]) -> bool:
    """Whether the weight gradient would be that of one tap with a stride, and possibly in channels_last."""
    if any(k != 1 for k in weight.shape[2:]) or all(s == 1 for s in stride):
        return False
    if compiler.is_dynamo_compiling() or _torch.is_transformed(x) or _torch.is_transformed(weight):
        return True  # their strides cannot be read, so they may be channels_last
    return not (x.is_contiguous() and weight.stride(-1) == 1)


def strided_slice(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Every ``stride``-th value of the last axes, which are the values that one tap reads."""
    where: Any = (..., *(slice(None, None, s) for s in stride))
    seen = x[where]
    if compiler.is_dynamo_compiling() or _torch.is_transformed(x) or not is_channels_last(x) or is_channels_last(seen):
        return seen
    return seen.contiguous(memory_format=FORMATS[x.dim()])  # on a short axis its strides do not show it


def _adjoint(weight: Tensor, groups: int) -> Tensor:
    """The weight of the convolution that equals a transposed convolution of one tap and stride 1.

    (in, out / groups, …) → (out, in / groups, …).
    """
    into, out, *taps = weight.shape
    return (
        weight.reshape(groups, into // groups, out, *taps).transpose(1, 2).reshape(groups * out, into // groups, *taps)
    )


def _spread(y: Tensor, stride: Sequence[int], padding: Sequence[int], more: Sequence[int], dims: int) -> Tensor:
    """y's values ``stride`` apart with zeros between them, cut by the padding, and ``more`` zeros added behind."""
    for dim, (s, p, m) in enumerate(zip(stride, padding, more, strict=True), y.dim() - dims):
        if s > 1:
            apart = torch.stack([y, *[torch.zeros_like(y)] * (s - 1)], dim + 1).reshape(
                *y.shape[:dim], -1, *y.shape[dim + 1 :]
            )
            y = apart.narrow(dim, 0, apart.shape[dim] - (s - 1))
        behind = m - p
        y = F.pad(y, [0, 0] * (y.dim() - 1 - dim) + [-p, behind]) if p or behind else y
    return y


def group_norm(x: Any, groups: int, weight: Any, bias: Any, eps: float) -> Tensor:
    """``torch.nn.functional.group_norm``.

    >>> group_norm(torch.tensor([[[1.0], [3.0]]]), 1, None, None, 1e-9).flatten()
    tensor([-1.,  1.])
    """
    if _learns_in_channels_last(x, weight, bias) and _torch.takes_functions():
        given = [t for t in (x, weight, bias) if t is not None]
        made = iter(_GradientsTogether.apply(*given))  # type: ignore[no-untyped-call]
        x, weight, bias = (None if t is None else next(made) for t in (x, weight, bias))
    return F.group_norm(x, groups, weight, bias, eps)


class _GradientsTogether(torch.autograd.Function):
    """The identity of several tensors. If the gradient of one of them is wanted, autograd computes those of all."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return tangents


def for_group_norm(x: Any, weight: Any, bias: Any) -> Any:
    """x for a group norm that is called elsewhere, made contiguous where torch's gradient would write out of bounds.

    >>> x = torch.ones(1, 2, 2, 2).contiguous(memory_format=torch.channels_last)
    >>> [for_group_norm(x, torch.ones(2).requires_grad_(learns), None).is_contiguous() for learns in (True, False)]
    [True, False]
    """
    return x.contiguous() if _learns_in_channels_last(x, weight, bias) else x


def _learns_in_channels_last(x: Any, weight: Any, bias: Any) -> bool:
    if not isinstance(x, Tensor) or x.dim() not in (4, 5) or not torch.is_grad_enabled():
        return False
    return any(p is not None and p.requires_grad for p in (weight, bias)) and not x.is_contiguous()


# ----------------------------------------------------------------------------------------------------- unchecked calls


def conv_unchecked(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int, dims: int
) -> Any:
    """torch's convolution of a tracer's proxies or of tensors with symbolic sizes, of which nothing can be checked.

    >>> conv_unchecked(torch.ones(1, 1, 7), torch.ones(1, 1, 3), None, 2, "same", 1, 1, 1)
    tensor([[[2., 3., 3., 2.]]])
    """
    if padding == "same" and any(s != 1 for s in _each(stride, dims)):  # torch refuses "same" with a stride
        x, padding = F.pad(x, resolved_pad_list(x, weight, stride, padding, dilation, dims)), 0
    return CONV[dims](x, weight, bias, stride, padding, dilation, groups)


def conv_transpose_unchecked(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
    dims: int,
) -> Any:
    """torch's transposed convolution, the adjoint of :func:`conv_unchecked`, equally unchecked.

    >>> conv_transpose_unchecked(torch.ones(1, 1, 2), torch.ones(1, 1, 3), None, 2, "same", 0, 1, 1, 1)
    tensor([[[1., 1., 2., 1.]]])
    """
    if padding != "same":
        return TRANSPOSE[dims](
            x, weight, bias, stride, 0 if padding == "valid" else padding, output_padding, groups, dilation
        )
    y = TRANSPOSE[dims](x, weight, None, stride, 0, 0, groups, dilation)
    taps = [int(n) if isinstance(n, Tensor) else n for n in (weight.shape[2 + k] for k in range(dims))]
    reach = [d * (k - 1) + 1 - s for k, s, d in zip(taps, _each(stride, dims), _each(dilation, dims), strict=True)]
    # a window that reaches less far than its stride leaves zeros behind
    before = [torch.sym_max(0, n) // 2 for n in reach]
    y = F.pad(y, pad_list([(-b, b - n) for b, n in zip(before, reach, strict=True)]))
    return y if bias is None else y + bias.reshape(-1, *[1] * dims)


def resolved_pad_list(x: Any, weight: Any, stride: Any, padding: Any, dilation: Any, dims: int) -> list[Any]:
    """The padding given as a word or as numbers, resolved and in :func:`pad_list`'s order.

    >>> x, w = torch.ones(1, 1, 7), torch.ones(1, 1, 2)
    >>> resolved_pad_list(x, w, 2, "same", 1, 1), resolved_pad_list(None, None, 1, (1, 2), 1, 2)
    ([0, 1], [2, 2, 1, 1])
    """
    if padding == "same":
        size = [weight.shape[2 + k] for k in range(dims)]
        return pad_list(same_pads(x, size, _each(stride, dims), _each(dilation, dims)))
    return pad_list([(p, p) for p in _each(0 if padding == "valid" else padding, dims)])


def same_pads(x: Any, size: Sequence[Any], stride: Sequence[Any], dilation: Sequence[Any]) -> list[tuple[Any, Any]]:
    """The padding before and behind each axis that ``"same"`` stands for.

    >>> same_pads(torch.ones(1, 1, 7), [2], [2], [1])
    [(0, 1)]
    """
    pads = []
    for n, k, s, d in zip(
        [x.shape[axis - len(size)] for axis in range(len(size))], size, stride, dilation, strict=True
    ):
        n, k = (int(v) if isinstance(v, Tensor) else v for v in (n, k))  # torch.jit.trace has tensors for sizes
        total = torch.sym_max(0, ((n + s - 1) // s - 1) * s + d * (k - 1) + 1 - n)
        pads.append((total // 2, total - total // 2))
    return pads


def pad_list(pads: Sequence[tuple[Any, Any]]) -> list[Any]:
    """Flattens (before, after) pairs into ``torch.nn.functional.pad``'s order, the last axis first.

    >>> pad_list([(1, 2), (3, 4)])
    [3, 4, 1, 2]
    """
    return [n for pair in reversed(pads) for n in pair]


def _each(value: Any, dims: int) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,) * dims
