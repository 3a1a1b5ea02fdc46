"""Makes the methods of one convolution into calls that :mod:`striate.tuning.measure` times in turns."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .. import _torch
from ..tuning.measure import Contest, Shape
from .conv import METHODS, NATIVE, ConvProblem
from .conv.geometry import resolve
from .fused import CONV_METHODS, FusedConv

__all__ = ["TUNED", "contest"]

TUNED = tuple(method.name for method in METHODS if method.name not in ("torch", "reference"))
_OTHER = 2**23  # values that are read between two calls: 32 MiB, more than a core's caches hold


def contest(shape: Shape, pass_: str, channels_last: bool) -> Contest:
    """The calls of all methods that can compute a pass of a convolution of that shape. The pass "fused" is forward for
    inference, with a ReLU.

    >>> one = contest(Shape(1, 4, 4, 1, (6, 6), 3), "forward", True)
    >>> one.geometry.output, one.rival, sorted(one.calls)[-1]
    ((6, 6), 'torch', 'winograd_4x4')
    """
    x = (shape.batch, shape.channels, *shape.input)
    weight = (shape.filters, shape.channels // shape.groups, *[shape.size] * len(shape.input))
    padding = shape.size // 2 * shape.dilation
    arguments = (shape.stride, padding, shape.dilation, shape.groups)
    geometry = resolve(x, weight, len(shape.input), *arguments, "tune")
    problem = ConvProblem("forward" if pass_ == "fused" else pass_, geometry, channels_last, torch.float32, None)
    return _fused(problem) if pass_ == "fused" else _plain(problem)


def _tensor(shape: tuple[int, ...], channels_last: bool) -> Tensor:
    if not channels_last:
        return torch.randn(shape)
    batch, channels, *axes = shape
    return torch.randn(batch, *axes, channels).movedim(-1, 1)  # has NHWC strides even with a single channel


def _plain(problem: ConvProblem) -> Contest:
    p, last = problem.geometry, problem.channels_last
    tensors = {"x": _tensor(p.x_shape, last), "y": _tensor(p.y_shape, last), "w": _tensor(p.weight_shape, False)}
    names = {"forward": "xw", "backward_data": "yw", "backward_weights": "yx"}[problem.pass_]
    a, b = (tensors[name] for name in names)
    runs = {m.name: m.run for m in METHODS if m.name in (*TUNED, "torch") and m.refuse(problem) is None}

    def call(name: str) -> Tensor:
        with torch.no_grad(), _torch.below_autograd():
            return runs[name](problem, a, b)

    return Contest(p, {name: partial(call, name) for name in runs}, "torch")


def _fused(problem: ConvProblem) -> Contest:
    """The contest of the pass "fused". Before each call the weights leave the cache and x enters it: that is the state
    in which a network calls a layer.
    """
    p = problem.geometry
    weight, bias = torch.randn(p.weight_shape), torch.randn(p.filters)
    layer = FusedConv(weight, bias, p.stride, p.before, p.dilation, p.groups, low=0.0)
    x, other = _tensor(p.x_shape, True), torch.ones(_OTHER)
    supported = [m for m in CONV_METHODS if m.name in (*NATIVE, "onednn") and m.refuse(problem) is None]
    runs = {m.name: m.run(layer, problem) for m in supported}

    def call(name: str) -> Tensor:
        with torch.no_grad():
            return runs[name](x, None, False)

    return Contest(p, {name: partial(call, name) for name in runs}, "onednn", lambda: (other.sum(), x.sum()))
