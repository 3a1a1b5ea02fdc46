"""The functions that norm layers call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import _torch
from ...errors import ArgumentTypeError, ShapeError, build
from .. import gate, torch_calls
from ..dispatch import choose
from ..layout import FORMATS, is_channels_last, owned
from .checks import (
    check_activation,
    check_channel_arguments,
    check_channels,
    check_eps,
    check_group_arguments,
    check_input,
    check_more_than_one,
    check_normalized_shape,
)
from .geometry import CHANNELS, ELEMENTS, POSITIONS
from .methods import METHODS, activated

__all__ = [
    *("batch_norm", "by_channel", "by_element", "by_group", "group_norm", "instance", "instance_norm", "layer_norm"),
    *("layer_norm_2d", "rms_norm"),
]

_ops = torch.ops.striate


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``γ·(x - μ)/√(σ² + ε) + β``, μ and σ² per channel: the batch's in training, else the running ones.

    In training the running statistics become ``(1 - momentum)·r + momentum·batch``, with the batch's unbiased variance.
    input: (N, C) or (N, C, *axes); the others: (C,).

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError.

    Source: Ioffe, Szegedy, *Batch normalization*, 2015.

    >>> batch_norm(torch.tensor([[1.0], [3.0]]), None, None, training=True, eps=1e-9)
    tensor([[-1.],
            [ 1.]])
    """
    return by_channel(input, running_mean, running_var, weight, bias, training, momentum, eps)


def by_channel(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    measured: bool,
    momentum: float,
    eps: float,
    *,
    batches: int | None = 1,
    residual: Tensor | None = None,
    activation: str | None = None,
    slope: float = 0.01,
    where: str = "batch_norm",
    statistics: Tensor | None = None,
    rematerialize_residual: bool = False,
    any_order: bool = True,
) -> Tensor:
    """Batch, ghost and instance norm: if ``measured``, μ and σ² are those of each channel in each of ``batches`` equal
    parts of the batch; otherwise they are the running statistics.

    ``batches`` of None means one a sample, as in instance norm, for which torch has a separate operator. any_order: the
    result is channels_last where x is; otherwise it is contiguous, as that of torch's instance norm is. Only containers
    (:mod:`striate.nn.container`) pass statistics, which are the batch's if the convolution that computed x measured
    them, and rematerialize_residual, which is true if a norm computed the residual and nothing else refers to it:
    backward may recompute it then.

    The running statistics take one step towards the mean over the batches. ``residual`` is added to the normalized
    values, then ``activation`` is applied, one of ACTIVATIONS.

    >>> by_channel(torch.tensor([[1.0], [3.0]]), None, None, None, None, True, 0.1, 1e-9, activation="relu")
    tensor([[0.],
            [1.]])
    """
    closed = gate.closed(x, residual, weight, bias, running_mean, running_var)
    symbolic = closed is not None and closed.symbolic
    per_sample = batches is None
    if not symbolic:
        given = (x, running_mean, running_var, weight, bias, measured, momentum, eps, residual, activation)
        momentum, eps = check_channel_arguments(*given, where, per_sample)
    channels = x.shape[1]
    batches = (x.shape[0] if measured and not symbolic else 1) if batches is None else batches
    count = x.numel() // (channels * batches) if not symbolic and channels and batches else 0
    if measured and not symbolic:
        check_more_than_one(count, x, where, "channel" if batches == 1 else "channel of a sample")
        if batches > 1 and x.shape[0] % batches != 0:
            hint = "Measure equal parts of the batch."
            raise ShapeError(
                build(where, f"a batch that {batches} parts divide", x.shape[0], hint=hint, x=tuple(x.shape))
            )

    def torch_norm() -> Tensor:
        if not symbolic and x.numel() == 0 and (per_sample or batches != 1):
            # torch's instance norm refuses an empty batch, its batch norm an eps of 0
            return F.batch_norm(x, None, None, weight, bias, True, momentum, eps or 1.0)
        if per_sample:
            return F.instance_norm(x, running_mean, running_var, weight, bias, measured, momentum, eps)
        if batches == 1 or not measured:
            return F.batch_norm(x, running_mean, running_var, weight, bias, measured, momentum, eps)
        if running_mean is None or running_var is None:
            return torch.cat(
                [F.batch_norm(part, None, None, weight, bias, True, momentum, eps) for part in x.chunk(batches)]
            )
        running = [(running_mean.clone(), running_var.clone()) for _ in range(batches)]
        parts = zip(x.chunk(batches), running, strict=True)
        y = torch.cat([F.batch_norm(part, *pair, weight, bias, True, momentum, eps) for part, pair in parts])
        for r, steps in zip((running_mean, running_var), zip(*running, strict=True), strict=True):
            r.copy_(torch.stack(steps).mean(0))
        return y

    def step(statistics: Tensor) -> None:
        _ops.norm_update.default(running_mean, running_var, statistics, count, momentum)

    # Activation checkpointing stops its second forward pass as soon as all saved tensors are recomputed, and the last
    # may be one that this norm saves. torch's batch norm has updated the running statistics by then; its instance norm
    # updates them later.
    step_first = batches == 1 and not per_sample and not torch.compiler.is_compiling() and _torch.saved_tensors_hooked()
    measured_apart = batches if measured else 1
    arguments = (
        *(closed, x, residual, weight, bias, running_mean, running_var, measured, measured_apart, channels, CHANNELS),
        *(any_order, True, eps, activation, slope, torch_norm),
        *(statistics, rematerialize_residual, step if measured and running_mean is not None else None, step_first),
    )
    y: Tensor = choose(METHODS, *arguments)(*arguments)
    return y


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``γ·(x - μ)/√(σ² + ε) + β``, μ and σ² per sample and channel, or the running ones (``use_input_stats=False``).

    input: (N, C, *axes); the others: (C,). Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError.

    Source: Ulyanov, Vedaldi, Lempitsky, *Instance normalization*, 2016.

    >>> instance_norm(torch.tensor([[[1.0, 3.0]]]), eps=1e-9)
    tensor([[[-1.,  1.]]])
    """
    return instance(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def instance(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    measured: bool,
    momentum: float,
    eps: float,
    *,
    activation: str | None = None,
    slope: float = 0.01,
    where: str = "instance_norm",
    any_order: bool = False,
) -> Tensor:
    """Instance norm and an activation: batch norm of batches of one sample.

    >>> instance(torch.tensor([[[1.0, 3.0]]]), None, None, None, None, True, 0.1, 1e-9, activation="relu")
    tensor([[[0., 1.]]])
    """
    more: Any = {"batches": None, "activation": activation, "slope": slope, "where": where, "any_order": any_order}
    return by_channel(x, running_mean, running_var, weight, bias, measured, momentum, eps, **more)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """``γ·(x - μ)/√(σ² + ε) + β``, μ and σ² per sample and group of neighbouring channels.

    input: (N, C, *axes), C a multiple of num_groups; weight, bias: (C,). Raises ArgumentError, ArgumentTypeError,
    ShapeError or DtypeError.

    Source: Wu, He, *Group normalization*, 2018.

    >>> group_norm(torch.tensor([[[1.0], [3.0]]]), 1, eps=1e-9).flatten()
    tensor([-1.,  1.])
    """
    return by_group(input, num_groups, weight, bias, eps)


def by_group(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
    slope: float = 0.01,
    where: str = "group_norm",
) -> Tensor:
    """Group norm, the sum with ``residual``, and an activation.

    >>> by_group(torch.tensor([[[1.0], [3.0]]]), 1, None, None, 1e-9, activation="relu").flatten()
    tensor([0., 1.])
    """
    closed = gate.closed(x, residual, weight, bias)
    if closed is None or not closed.symbolic:
        groups, eps = check_group_arguments(x, groups, weight, bias, eps, residual, activation, where)

    def torch_norm() -> Tensor:
        return torch_calls.group_norm(x, groups, weight, bias, eps)

    arguments = (
        *(closed, x, residual, weight, bias, None, None, True, x.shape[0], groups, CHANNELS),
        *(True, True, eps, activation, slope, torch_norm),
    )
    y: Tensor = choose(METHODS, *arguments)(*arguments)
    return y


def layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """``γ·(x - μ)/√(σ² + ε) + β``, μ and σ² over the last axes, those of ``normalized_shape``; γ and β have that shape.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError.

    Source: Ba, Kiros, Hinton, *Layer normalization*, 2016.

    >>> layer_norm(torch.tensor([[1.0, 3.0]]), [2], eps=1e-9)
    tensor([[-1.,  1.]])
    """
    return by_element(input, normalized_shape, weight, bias, eps)


def rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """``γ·x/√(mean(x²) + ε)`` over the last axes, those of ``normalized_shape``; ε is the type's epsilon if None.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError.

    Source: Zhang, Sennrich, *Root mean square layer normalization*, 2019.

    >>> rms_norm(torch.tensor([[3.0, 3.0]]), [2], eps=1e-9)
    tensor([[1., 1.]])
    """
    return by_element(input, normalized_shape, weight, None, eps, centered=False, where="rms_norm")


def by_element(
    x: Tensor,
    normalized_shape: Any,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float | None,
    *,
    centered: bool = True,
    activation: str | None = None,
    slope: float = 0.01,
    where: str = "layer_norm",
) -> Tensor:
    """Layer norm, or RMS norm if not ``centered``, and an activation.

    >>> by_element(torch.tensor([[1.0, 3.0]]), [2], None, None, 1e-9, activation="relu")
    tensor([[0., 1.]])
    """
    closed = gate.closed(x, weight, bias)
    if closed is not None and closed.symbolic:
        sizes = normalized_shape if isinstance(normalized_shape, Sequence) else (normalized_shape,)
        if centered:
            return activated(F.layer_norm(x, sizes, weight, bias, 1e-5 if eps is None else eps), activation, slope)
        return activated(F.rms_norm(x, sizes, weight, eps), activation, slope)
    check_input(x, where, 1, "(*, *normalized_shape)", complex_too=not centered)  # torch accepts them
    shape = check_normalized_shape(x, normalized_shape, where)
    given_eps = eps
    if eps is None and not centered:
        eps = torch.finfo(x.dtype).eps
    eps = check_eps(eps, where)
    for name, p in (("weight", weight), ("bias", bias)):
        if p is not None and not isinstance(p, Tensor):
            hint = "Scale and shift have a number for each normalized element."
            raise ArgumentTypeError(build(where, f"{name} to be a tensor or None", type(p).__name__, hint=hint))
        if p is not None and tuple(p.shape) != shape:
            hint = "Scale and shift have a number for each normalized element."
            raise ShapeError(
                build(where, f"{name} of the normalized shape, {shape}", tuple(p.shape), hint=hint, x=tuple(x.shape))
            )
    if activation is not None:
        check_activation(activation, where)
    rows = 1
    for size in x.shape[: x.dim() - len(shape)]:
        rows = rows * size

    def torch_norm() -> Tensor:
        if x.numel() == 0:  # torch's operator would still allocate statistics for each row, perhaps for 2^31
            y = x.clone() if weight is None else x * weight
            return (y if bias is None else y + bias).to(x.dtype)
        if centered:
            return F.layer_norm(x, shape, weight, bias, eps)
        return F.rms_norm(x, shape, weight, given_eps)

    arguments = (
        *(closed, x, None, weight, bias, None, None, True, rows, 1, ELEMENTS),
        *(False, centered, eps, activation, slope, torch_norm),
    )
    y: Tensor = choose(METHODS, *arguments)(*arguments)
    if closed is None and not centered and is_channels_last(x):  # as torch's RMS norm returns it
        y = y.contiguous(memory_format=FORMATS[x.dim()])
    return y


def layer_norm_2d(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    slope: float = 0.01,
    where: str = "layer_norm_2d",
) -> Tensor:
    """``γ·(x - μ)/√(σ² + ε) + β``, μ and σ² over all channels at one position, as in ConvNeXt.

    x: (N, C, *axes); weight, bias: (C,). Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError.

    Source: Liu et al., *A ConvNet for the 2020s*, 2022.

    >>> layer_norm_2d(torch.tensor([[[1.0], [3.0]]]), eps=1e-9).flatten()
    tensor([-1.,  1.])
    """
    closed = gate.closed(x, weight, bias)
    if closed is None or not closed.symbolic:
        check_input(x, where, 2, "(N, C, *axes)")
        eps = check_eps(eps, where)
        check_channels(x, where, weight=weight, bias=bias)
        if activation is not None:
            check_activation(activation, where)

    def torch_norm() -> Tensor:
        last = x.dim() - 1  # the ONNX exporter that traces does not support negative axes
        y = F.layer_norm(x.movedim(1, last), (x.shape[1],), weight, bias, eps)
        return owned(Tensor.movedim, y, last, 1) if isinstance(y, Tensor) else y.movedim(last, 1)

    arguments = (
        *(closed, x, None, weight, bias, None, None, True, x.shape[0], 1, POSITIONS),
        *(True, True, eps, activation, slope, torch_norm),
    )
    y: Tensor = choose(METHODS, *arguments)(*arguments)
    return y
