"""A convolution, a norm and an activation, one after the other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import gcd
from typing import Any

import torch

from ..._torch import InstanceNormBase
from ...errors import ArgumentError, ArgumentTypeError, build
from ...ops.arguments import whole
from .. import norm as norms
from ..container import Sequential
from ..conv import Conv1d, Conv2d, Conv3d
from .arguments import Sizes, as_module
from .documented import Documented

__all__ = ["ConvNormAct", "ConvNormAct1d", "ConvNormAct2d", "ConvNormAct3d"]

_CONV: dict[int, Any] = {1: Conv1d, 2: Conv2d, 3: Conv3d}
_NORMS: dict[str, Callable[[int, int], torch.nn.Module]] = {
    "batch": lambda channels, dims: (norms.BatchNorm1d, norms.BatchNorm2d, norms.BatchNorm3d)[dims - 1](channels),
    "instance": lambda channels, dims: (norms.InstanceNorm1d, norms.InstanceNorm2d, norms.InstanceNorm3d)[dims - 1](
        channels, affine=True
    ),
    "group": lambda channels, dims: norms.GroupNorm(gcd(32, channels), channels),
    "layer": lambda channels, dims: norms.GroupNorm(1, channels),
}
_ORDERS = ("conv-norm-act", "conv-act-norm", "norm-act-conv")


class _ConvNormAct(Documented, Sequential):
    dims: int
    text = """A convolution over {axes}, a norm and an activation, in one of three orders.

    .. math:: y = \\text{act}(\\text{norm}(\\text{conv}(x)))

    norm: a class or function of the number of channels (``nn.BatchNorm2d``, ``partial(nn.GroupNorm, 8)``), or "batch",
    "instance" (with scale and shift), "group" (32 groups, or as many of their divisors as divide the channels), "layer"
    (each sample's channels and axes together, one group); None for none. activation: a class, a function that makes a
    module, or a module; None for none. order: "conv-norm-act", "conv-act-norm", or "norm-act-conv" (pre-activation).
    The other arguments are those of a convolution.

    bias: whether the convolution has one; None gives it one unless the norm right after it subtracts each channel's own
    mean (batch, instance, as many groups as channels), which would cancel the bias. True and False apply with any norm,
    so that states of other implementations can be loaded.

    A ReLU, ReLU6 or leaky ReLU right after a norm of striate is computed by the norm's kernel, in one pass, as in any
    :class:`Sequential` of striate; each child is a module of its own that can be inspected or replaced.

    Shapes: x (N, in_channels, {letters}); y (N, out_channels, {letters}). Children ``conv``, ``norm``, ``act``, in
    their order.

    Cost: that of the convolution, and two parameters per channel of the norm.

    Raises ArgumentError or ArgumentTypeError for arguments that make no module, order or convolution.

    Source: Ioffe, Szegedy, *Batch normalization*, 2015; He et al., *Identity mappings in deep residual networks*, 2016
    (pre-activation).

    >>> from striate import nn
    >>> block = nn.ConvNormAct{dims}d(3, 8, 3, padding=1)
    >>> block(torch.randn(2, 3, *[6] * {dims})).shape[1], list(block.state_dict())[:3], block.act
    (8, ['conv.weight', 'norm.weight', 'norm.bias'], ReLU())
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool | None = None,
        padding_mode: str = "zeros",
        norm: Any = "batch",
        activation: Any = torch.nn.ReLU,
        order: str = "conv-norm-act",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        in_channels, out_channels = whole(in_channels, "in_channels", where), whole(out_channels, "out_channels", where)
        if order not in _ORDERS:
            hint = "Name what comes first first."
            raise ArgumentError(build(where, f"an order of {', '.join(map(repr, _ORDERS))}", repr(order), hint=hint))
        normed = _norm(norm, in_channels if order == "norm-act-conv" else out_channels, self.dims, where)
        if normed is not None and (device is not None or dtype is not None):
            normed.to(device=device, dtype=dtype)
        act = None if activation is None else as_module(activation, "activation", where)
        if bias is None:
            follows = normed if order == "conv-norm-act" or (order == "conv-act-norm" and act is None) else None
            bias = not _centers(follows)
        if not isinstance(bias, bool):
            raise ArgumentTypeError(
                build(where, "bias to be True, False or None", repr(bias), hint="None drops it where it is useless.")
            )
        rest: Any = {"groups": groups, "bias": bias, "padding_mode": padding_mode, "device": device, "dtype": dtype}
        convolution = _CONV[self.dims](in_channels, out_channels, kernel_size, stride, padding, dilation, **rest)
        children = {"conv": convolution, "norm": normed, "act": act}
        for name in order.split("-"):
            if children[name] is not None:
                self.add_module(name, children[name])

    def __getitem__(self, idx: Any) -> Any:
        """Returns a child, or a plain Sequential of a slice of the children."""
        if isinstance(idx, slice):
            return Sequential(OrderedDict(list(self._modules.items())[idx]))
        return super().__getitem__(idx)


def _norm(given: Any, channels: int, dims: int, where: str) -> torch.nn.Module | None:
    if given is None:
        return None
    if isinstance(given, str):
        if given not in _NORMS:
            hint = "Or give a class or function of the number of channels."
            raise ArgumentError(build(where, f"a norm of {', '.join(map(repr, _NORMS))}", repr(given), hint=hint))
        return _NORMS[given](channels, dims)
    made = given(channels) if callable(given) and not isinstance(given, torch.nn.Module) else None
    if not isinstance(made, torch.nn.Module):
        hint = "Give a class such as nn.BatchNorm2d, or a function of the number of channels that makes a module."
        raise ArgumentTypeError(build(where, "norm to make a module", repr(given), hint=hint))
    return made


def _centers(norm: torch.nn.Module | None) -> bool:
    """Whether the norm subtracts each channel's own mean."""
    if isinstance(norm, norms.GROUP_NORMS):
        return norm.num_groups == norm.num_channels
    return isinstance(norm, (*norms.BATCH_NORMS, InstanceNormBase))


class ConvNormAct1d(_ConvNormAct, dims=1):
    pass


class ConvNormAct2d(_ConvNormAct, dims=2):
    pass


class ConvNormAct3d(_ConvNormAct, dims=3):
    pass


ConvNormAct = ConvNormAct2d
