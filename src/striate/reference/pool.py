r"""Pooling: the maximum or the mean of the inputs in a window, channel by channel.

Every function takes a window, or a tuple of adaptive axes. In formulas o is a position in the output, t a tap, and
i(o, t) the input position that it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod

import torch
from torch import Tensor

from striate.reference.conv import Axes, windows, windows_backward
from striate.window import AdaptiveAxis

__all__ = [
    "avg_pool",
    "avg_pool_backward",
    "global_avg_pool",
    "global_avg_pool_backward",
    "global_max_pool",
    "global_max_pool_backward",
    "max_pool",
    "max_pool_backward",
]


def max_pool(x: Tensor, window: Axes) -> tuple[Tensor, Tensor]:
    r"""The largest value in each window, and its position.

    .. math:: y[n, c, o] = \max_t x[n, c, i(o, t)], \quad index[n, c, o] = i(o, \operatorname{argmax}_t)

    As in torch, the first of equal values wins, a NaN wins over every number, and of several NaNs the index is that of
    the last. A window that reads no input gives -inf (an integer type's lowest value) and index -1.

    x: (N, C, *input). Result: y and index, (N, C, *output); index counts positions of the unpadded plane, row by row.

    Raises RuntimeError where x and window do not fit.

    Source: Scherer, Müller, Behnke, *Evaluation of pooling operations in convolutional architectures for object
    recognition*, 2010.

    >>> from striate.window import Axis, Window
    >>> x = torch.tensor([[[[1, 3, 2, 1], [4, 2, 1, 5], [2, 0, 3, 1], [1, 5, 2, 2]]]])
    >>> y, index = max_pool(x, Window((Axis(4, 2, size=2, stride=2),) * 2))
    >>> y.tolist(), index.tolist()
    ([[[[4, 5], [5, 3]]]], [[[[4, 7], [13, 10]]]])
    """
    axes = tuple(window)
    input = tuple(a.input for a in axes)
    seen = windows(x, axes, fill=-inf if x.is_floating_point() else torch.iinfo(x.dtype).min).flatten(x.ndim)
    at = windows(torch.arange(prod(input), device=x.device).reshape(input), axes, fill=-1).flatten(len(axes))
    taps = seen.shape[-1]
    t = torch.arange(taps, device=x.device)
    best = (seen == seen.amax(-1, keepdim=True)) & (at >= 0)  # all False where there is a NaN
    # the last NaN, or else the first of the largest values
    winner = torch.where(seen.isnan(), t + 1, torch.where(best, taps - t, 0)).argmax(-1, keepdim=True)
    return seen.gather(-1, winner).squeeze(-1), at.expand(seen.shape).gather(-1, winner).squeeze(-1)


def max_pool_backward(dy: Tensor, index: Tensor, input: Sequence[int]) -> Tensor:
    r"""The gradient of :func:`max_pool`: the gradient of each output goes to the one input that was its maximum.

    .. math:: dx[n, c, i] = Σ_{o: index[n, c, o] = i} dy[n, c, o]

    dy, index: (N, C, *output); input: the spatial sizes. Result: (N, C, *input).

    Source: Scherer, Müller, Behnke, 2010.

    >>> max_pool_backward(torch.tensor([[[5, 7]]]), torch.tensor([[[1, 1]]]), (3,))
    tensor([[[ 0, 12,  0]]])
    """
    lead = dy.ndim - len(input)
    dy, index = dy.masked_fill(index < 0, 0).flatten(lead), index.clamp(min=0).flatten(lead)
    dx = dy.new_zeros(*dy.shape[:lead], prod(input)).scatter_add(-1, index, dy)
    return dx.reshape(*dx.shape[:-1], *input)


def _divisor(window: Axes, count_include_pad: bool, divisor_override: int | None, like: Tensor) -> Tensor:
    """The divisor of each output's sum, (*output): the product of the axes' counts."""
    divisor = torch.ones((), dtype=torch.long)
    for a in window:
        divisor = divisor[..., None] * torch.tensor(
            [a.counted(o, count_include_pad) for o in range(a.output)], dtype=torch.long
        )
    # at least 1, so that an empty sum gives 0
    divisor = divisor.clamp(min=1) if divisor_override is None else torch.full_like(divisor, divisor_override)
    return divisor.to(like.device, like.dtype if like.is_floating_point() else None)

def _wide(x: Tensor) -> Tensor:
    """x in the type of its sums, at least float32: a sum in float16 may be infinite where its mean is not."""
    return x.to(torch.promote_types(x.dtype, torch.float32)) if x.is_floating_point() else x


def avg_pool(x: Tensor, window: Axes, count_include_pad: bool = True, divisor_override: int | None = None) -> Tensor:
    r"""The mean of the inputs in each window, in which padding counts as zeros or not at all.

    .. math:: y[n, c, o] = \frac{1}{count(o)} Σ_t x[n, c, i(o, t)]

    count(o) is ``divisor_override`` if given, else the number of the window's taps: those in the padding count only
    with ``count_include_pad``, and those beyond it, which rounding up (``ceil``) adds, never do. float16 and bfloat16
    are summed in float32 and rounded once.

    x: (N, C, *input). Result: (N, C, *output).

    Raises RuntimeError where x and window do not fit.

    Source: LeCun, Bottou, Bengio, Haffner, *Gradient-based learning applied to document recognition*, 1998.

    >>> from striate.window import Axis, Window
    >>> x = torch.tensor([[[[1.0, 3, 2, 1], [4, 2, 1, 5], [2, 0, 3, 1], [1, 5, 2, 2]]]])
    >>> avg_pool(x, Window((Axis(4, 2, size=2, stride=2),) * 2)).tolist()
    [[[[2.5, 2.25], [2.0, 2.0]]]]
    """
    wide = _wide(x)
    y = windows(wide, window).flatten(x.ndim).sum(-1) / _divisor(window, count_include_pad, divisor_override, wide)
    return y.to(x.dtype) if x.is_floating_point() else y


def avg_pool_backward(
    dy: Tensor, window: Axes, count_include_pad: bool = True, divisor_override: int | None = None
) -> Tensor:
    r"""The gradient of :func:`avg_pool`, which spreads the gradient of each output evenly over its window.

    .. math:: dx[n, c, i] = Σ_{(o, t): i(o, t) = i} dy[n, c, o] / count(o)

    dy: (N, C, *output). Result: (N, C, *input).

    Source: LeCun, Bottou, Bengio, Haffner, 1998.

    >>> from striate.window import Axis
    >>> avg_pool_backward(torch.tensor([[[1.0, 3.0]]]), (Axis(4, 2, size=2, stride=2),)).tolist()
    [[[0.5, 0.5, 1.5, 1.5]]]
    """
    axes = tuple(window)
    taps = [
        a.size if not isinstance(a, AdaptiveAxis) else max((len(a.taps(o)) for o in range(a.output)), default=1)
        for a in axes
    ]
    wide = _wide(dy)
    shared = wide / _divisor(axes, count_include_pad, divisor_override, wide)
    dx = windows_backward(shared.reshape(*dy.shape, *[1] * len(taps)).expand(*dy.shape, *taps), axes)
    return dx.to(dy.dtype) if dy.is_floating_point() else dx


def global_avg_pool(x: Tensor) -> Tensor:
    r"""The mean of each channel over all positions.

    .. math:: y[n, c] = \frac{1}{HW} Σ_{h, w} x[n, c, h, w]

    x: (N, C, *input). Result: (N, C, 1, ..., 1).

    Source: Lin, Chen, Yan, *Network in network*, 2013.

    >>> global_avg_pool(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])).tolist()
    [[[[3.0]]]]
    """
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def global_avg_pool_backward(dy: Tensor, input: Sequence[int]) -> Tensor:
    r"""The gradient of :func:`global_avg_pool`, which is the same for every position.

    .. math:: dx[n, c, h, w] = dy[n, c] / HW

    dy: (N, C, 1, ..., 1); input: the spatial sizes. Result: (N, C, *input).

    Source: Lin, Chen, Yan, 2013.

    >>> global_avg_pool_backward(torch.tensor([[[[8.0]]]]), (2, 2)).tolist()
    [[[[2.0, 2.0], [2.0, 2.0]]]]
    """
    return (dy / prod(input)).expand(*dy.shape[:2], *input)


def global_max_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""The largest value of each channel over all positions, and its position: max pooling with one window.

    .. math:: y[n, c] = \max_{h, w} x[n, c, h, w]

    Ties and NaN are treated as in :func:`max_pool`. x: (N, C, *input). Result: y and index, (N, C, 1, ..., 1).

    Source: Oquab, Bottou, Laptev, Sivic, *Is object localization for free?*, 2015.

    >>> y, index = global_max_pool(torch.tensor([[[[1.0, 6.0], [6.0, 2.0]]]]))
    >>> y.tolist(), index.tolist()
    ([[[[6.0]]]], [[[[1]]]])
    """
    return max_pool(x, tuple(AdaptiveAxis(size, 1) for size in x.shape[2:]))


def global_max_pool_backward(dy: Tensor, index: Tensor, input: Sequence[int]) -> Tensor:
    r"""The gradient of :func:`global_max_pool`: all of it goes to the one input at ``index``, also in case of ties.

    .. math:: dx[n, c, i] = dy[n, c] \text{ if } i = index[n, c] \text{ else } 0

    dy, index: (N, C, 1, ..., 1); input: the spatial sizes. Result: (N, C, *input).

    Source: Oquab, Bottou, Laptev, Sivic, 2015.

    >>> global_max_pool_backward(torch.tensor([[[[3.0]]]]), torch.tensor([[[[2]]]]), (2, 2)).tolist()
    [[[[0.0, 0.0], [3.0, 0.0]]]]
    """
    return max_pool_backward(dy, index, input)
