"""Convolution and transposed convolution, as layers call them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ... import native
from ...errors import ArgumentError, ShapeError, build
from .. import gate, torch_calls
from ..arguments import per_axis
from ..dispatch import AS_MEASURED, current_name, explain_choice, preferred
from ..geometry import Sizes
from ..layout import is_channels_last, owned
from ..precision import is_strict
from ..rematerialize import save_or_recompute
from .autograd import apply, needs_gradient
from .geometry import ConvGeometry, geometry_for
from .methods import METHODS, NAMES, PASSES, ConvProblem, Pass, dispatch_for

__all__ = ["conv", "conv_transpose", "explain_methods", "follows_channels_last"]


def _run(
    pass_: Pass,
    geometry: ConvGeometry,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    torch_operator: Callable[[], Tensor] | None,
    method: str | None,
    where: str,
    closed: gate.Closed | None,
    emit_batch_stats: bool = False,
    rematerialize: bool = False,
    channels_last: bool = False,
) -> Tensor:
    """Dispatches one pass. ``torch_operator`` calls torch's operator directly; None where none takes these arguments.
    """
    if method is not None and method not in NAMES and (method := current_name(method, where)) not in NAMES:
        hint = "Leave it out for the fastest."
        raise ArgumentError(build(where, f"method to be one of {', '.join(NAMES)}", repr(method), hint=hint))
    refusal = None if closed is None else closed.reason
    batch = x if x.dim() == geometry.dims + 2 else x.unsqueeze(0)
    follows = refusal is None and follows_channels_last(x, weight)
    weight_channels_last = follows and is_channels_last(weight)
    last = follows or (channels_last and refusal is None and geometry.dims > 1)
    method = method or preferred() or AS_MEASURED  # fixed here, so that it applies to the gradients too
    strict = is_strict()
    chosen = dispatch_for(
        ConvProblem(pass_, geometry, last, x.dtype, refusal, method, strict, emit_batch_stats, weight_channels_last)
    )
    plain = chosen.method.name == "torch" and not needs_gradient(x, weight, bias)
    if torch_operator is not None and last == follows and (chosen.all_torch or plain):
        y = torch_operator()
    else:
        y = apply(chosen, batch, weight, bias)
        y = y if batch is x else owned(Tensor.squeeze, y, 0)
    if rematerialize and refusal is None and weight.requires_grad:
        save_or_recompute(x, y)
    return y


def follows_channels_last(x: Tensor, weight: Tensor) -> bool:
    """Whether torch's convolution of these tensors is channels_last.

    For an image without a batch axis the weight alone decides.

    >>> x = torch.ones(1, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    >>> follows_channels_last(x, torch.ones(1, 2, 3, 3)), follows_channels_last(x[0], torch.ones(1, 2, 3, 3))
    (True, False)
    """
    return (x.dim() == weight.dim() and is_channels_last(x)) or is_channels_last(weight)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    *,
    dims: int,
    where: str = "conv",
    method: str | None = None,
    emit_batch_stats: bool = False,
    rematerialize: bool = False,
    channels_last: bool = False,
) -> Tensor:
    """Cross-correlation: ``y[n, k, o] = b[k] + sum over c, t of w[k, c, t] · x[n, c, o·stride + t·dilation - before]``.

    x: (N, C, *axes) or (C, *axes) of ``dims`` axes, weight: (K, C / groups, *taps), bias: (K,); y: (N, K, *outputs).
    padding: numbers, ``"valid"`` (none) or ``"same"`` (ceil(input / stride) outputs; an odd zero goes behind).

    method: one of ``striate.ops.conv.NAMES``, which is used wherever it does not refuse, in place of the one that was
    measured to be fastest.
    emit_batch_stats: a batch norm follows, so that a method that can attaches the statistics of y's channels to y (see
    :mod:`striate.ops.batch_stats`).
    rematerialize: x is the output of a norm that nobody else can see, so that backward may compute it again instead of
    saving it (see :mod:`striate.ops.rematerialize`).
    channels_last: y has that memory format whatever x and weight have; else, as in torch, where one of them has it.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no convolution can have.

    >>> conv(torch.ones(1, 3, 32, 32), torch.ones(10, 3, 5, 5), padding=2, dims=2).shape
    torch.Size([1, 10, 32, 32])
    >>> conv(torch.ones(1, 1, 7), torch.ones(1, 1, 3), stride=2, padding="same", dims=1)
    tensor([[[2., 3., 3., 2.]]])
    """
    closed = gate.closed(x, weight, bias)
    if closed is not None and closed.symbolic:
        return torch_calls.conv_unchecked(x, weight, bias, stride, padding, dilation, groups, dims)
    geometry = geometry_for(x, weight, bias, stride, padding, dilation, groups, dims=dims, where=where)
    arguments = (x, weight, bias, geometry.stride, geometry.before, geometry.dilation, geometry.groups, dims)
    torch_operator: Callable[[], Tensor] | None = None
    if geometry.before == geometry.after:
        torch_operator = lambda: torch_calls.conv(*arguments)  # noqa: E731
    elif closed is not None:
        given = (x, weight, bias, stride, padding, dilation, groups, dims)
        torch_operator = lambda: torch_calls.conv_unchecked(*given)  # noqa: E731
    return _run(
        "forward", geometry, x, weight, bias, torch_operator, method, where, closed,
        emit_batch_stats, rematerialize, channels_last,
    )


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
    *,
    dims: int,
    where: str = "conv_transpose",
    method: str | None = None,
    rematerialize: bool = False,
    channels_last: bool = False,
) -> Tensor:
    """The adjoint of :func:`conv` in x: ``y[n, c, i] = b[c] + sum of w[k, c, t] · x[n, k, o]`` over all o and t with
    ``i = o·stride + t·dilation - before``.

    x: (N, K, *axes) or (K, *axes), weight: (K, C / groups, *taps), bias: (C,); y: (N, C, *outputs) with
    ``(axis - 1)·stride - 2·padding + dilation·(taps - 1) + 1 + output_padding`` values on each axis. padding: numbers,
    ``"valid"`` (none) or ``"same"`` (axis · stride values).

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no transposed convolution can have.

    >>> conv_transpose(torch.ones(1, 8, 16, 16), torch.ones(8, 4, 2, 2), stride=2, dims=2).shape
    torch.Size([1, 4, 32, 32])
    """
    closed = gate.closed(x, weight, bias)
    if closed is not None and closed.symbolic:
        return torch_calls.conv_transpose_unchecked(
            x, weight, bias, stride, padding, output_padding, groups, dilation, dims
        )
    geometry = geometry_for(
        x, weight, bias, stride, padding, output_padding, dilation, groups, dims=dims, where=where, transposed=True
    )
    torch_operator = None
    if not isinstance(padding, str):
        more = per_axis(output_padding, dims, 0, "output_padding", where, geometry.x_shape)
        steps, pads, holes = geometry.stride, geometry.before, geometry.dilation
        arguments = (x, weight, bias, steps, pads, more, geometry.groups, holes, dims)
        torch_operator = lambda: torch_calls.conv_transpose(*arguments)  # noqa: E731
    return _run(
        "backward_data", geometry, x, weight, bias, torch_operator, method, where, closed,
        False, rematerialize, channels_last,
    )


def explain_methods(
    shape: Sequence[int],
    weight: Sequence[int],
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    channels_last: bool = False,
) -> dict[Pass, list[tuple[str, str | None]]]:
    """The methods for each pass of a float32 convolution, in order of preference up to the chosen one, with the reasons
    against the others.

    shape: of x, (N, C, *axes); weight: its shape, (K, C / groups, *taps).

    Raises as :func:`conv` does for arguments no convolution can have.

    >>> [methods[-1] for methods in explain_methods((16, 64, 56, 56), (64, 1, 3, 3), padding=1, groups=64).values()]
    [('depthwise', None), ('depthwise', None), ('depthwise', None)]
    """
    dims = len(weight) - 2
    if dims not in torch_calls.CONV:
        expects, hint = "a weight of one to three axes of taps", "Give (K, C / groups, *taps)."
        raise ShapeError(build("explain", expects, tuple(weight), hint=hint))
    x, w = (torch.empty(tuple(sizes), device="meta") for sizes in (shape, weight))
    geometry = geometry_for(x, w, None, stride, padding, dilation, groups, dims=dims, where="explain")
    rest = (channels_last and dims > 1, torch.float32, native.missing)
    problems = (ConvProblem(pass_, geometry, *rest, strict=is_strict()) for pass_ in PASSES)
    return {problem.pass_: explain_choice(METHODS, problem) for problem in problems}
