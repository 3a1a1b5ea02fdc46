"""Layers of timm's by our kernels: for each of its classes a subclass with the same state, which ``accelerate`` puts in
its place.

timm is never imported for it: :func:`striate.nn.swap.plan` looks whether somebody did. A class is made when it is first
asked for, by its name (``adapters.BatchNormAct2d``), so that a model that has it can be pickled and loaded. Each
computes what timm's computes; under torch's tools by torch's operators. TorchScript compiles timm's ``forward``.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

import torch
from torch import Tensor

from ..ops import conv as conv_ops
from ..ops import gate
from ..ops import norm as norm_ops
from ..ops import pool as pool_ops
from . import container, norm
from .namesake import as_torch, recorded

__all__ = ["behind", "computes_its_weight", "imported", "is_known", "made", "pads_itself"]


class _Adapter:
    """Stands before timm's class in the bases; ``_adapted`` is what we do."""

    _theirs: Any

    def forward(self: Any, x):  # type: ignore[no-untyped-def]  # TorchScript infers what comes out
        if torch.jit.is_scripting():
            return self._as_torch(x)
        else:
            return self._adapted(x) if isinstance(x, Tensor) else recorded(self, self._theirs_of, x)

    def _theirs_of(self, x: Any) -> Any:
        return self._theirs.forward(self, x)


class _Norm(_Adapter):
    """A norm, and the ``drop`` and ``act`` that some have behind it: the activation in the norm's pass where nobody
    looks between.
    """

    def _adapted(self: Any, x: Tensor) -> Tensor:
        if getattr(self, "_fast_norm", False):
            y: Tensor = self._theirs_of(x)
            return y
        if not hasattr(self, "act"):
            return self._normalized(x, None)
        alone = (
            type(self.drop) is torch.nn.Identity
            and container.is_plain(self.drop)
            and not container.looked_at()
            and gate.is_open(x)
        )
        following = container.activation_of(self.act) if alone else None
        y = self._normalized(x, following)
        return y if following is not None else self.act(self.drop(y))

    def _told(self, following: tuple[str, float] | None) -> dict[str, Any]:
        name, slope = following or (None, 0.01)
        return {"activation": name, "slope": slope, "where": type(self).__name__}


class _GroupNorm(_Norm):
    def _normalized(self: Any, x: Tensor, following: tuple[str, float] | None) -> Tensor:
        return norm_ops.by_group(x, self.num_groups, self.weight, self.bias, self.eps, **self._told(following))


class _LayerNorm(_Norm):
    def _normalized(self: Any, x: Tensor, following: tuple[str, float] | None) -> Tensor:
        return norm_ops.by_element(x, self.normalized_shape, self.weight, self.bias, self.eps, **self._told(following))


class _LayerNorm2d(_Norm):
    def _normalized(self: Any, x: Tensor, following: tuple[str, float] | None) -> Tensor:
        if gate.is_open(x):
            x = x.contiguous(memory_format=torch.channels_last)  # timm's gives that order whatever comes
        return norm_ops.layer_norm_2d(x, self.weight, self.bias, self.eps, **self._told(following))


class _InFloat32(_Norm):
    """Of the classes that compute in float32 whatever comes: theirs, unless that is what comes."""

    def _adapted(self: Any, x: Tensor) -> Tensor:
        y: Tensor = (
            super()._adapted(x)
            if gate.is_open(x, self.weight, self.bias) and x.dtype is torch.float32
            else self._theirs_of(x)
        )
        return y


class _LayerNormFp32(_InFloat32, _LayerNorm):
    pass


class _LayerNorm2dFp32(_InFloat32, _LayerNorm2d):
    pass


class _BatchNormAct(_Norm, norm._BatchNorm):
    _ranks, _shape = (4,), "(N, C, H, W)"

    def _normalized(self: Any, x: Tensor, following: tuple[str, float] | None) -> Tensor:
        return norm._BatchNorm._compute(self, x, following=following)


class _Conv(_Adapter):
    """A convolution, of weights that some normalize filter by filter, and of padding that some reckon at each call."""

    _channels_last = False  # see nn/conv.py

    def _adapted(self: Any, x: Tensor) -> Tensor:
        padding = "same" if getattr(self, "same_pad", False) else self.padding
        return self._convolved(x, self.weight, padding)

    def _convolved(self: Any, x: Tensor, weight: Tensor, padding: Any) -> Tensor:
        geometry = (self.stride, padding, self.dilation, self.groups)
        told: dict[str, Any] = {"dims": 2, "where": type(self).__name__, "channels_last": self._channels_last}
        return conv_ops.conv(x, weight, self.bias, *geometry, **told)


class _ConvSame(_Conv):
    same_pad = True


class _StdConv(_Conv):
    def _convolved(self: Any, x: Tensor, weight: Tensor, padding: Any) -> Tensor:
        scale = (self.gain * self.scale).view(-1) if hasattr(self, "gain") else None
        rows = weight.reshape(1, self.out_channels, -1)
        weight = norm_ops.batch_norm(rows, None, None, scale, None, True, 0.0, self.eps).reshape_as(weight)
        return super()._convolved(x, weight, padding)


class _AvgPoolSame(_Adapter):
    def _adapted(self: Any, x: Tensor) -> Tensor:
        if self.ceil_mode or any(self.padding):
            return self._theirs_of(x)
        return pool_ops.avg_pool(x, self.kernel_size, self.stride, "same", dims=2, where=type(self).__name__)


class _MaxPoolSame(_Adapter):
    def _adapted(self: Any, x: Tensor) -> Tensor:
        if self.ceil_mode or any(self.padding):
            return self._theirs_of(x)
        return pool_ops.max_pool(
            x, self.kernel_size, self.stride, "same", self.dilation, dims=2, where=type(self).__name__
        )


_BODIES: dict[str, type] = {
    "AvgPool2dSame": _AvgPoolSame,
    "BatchNormAct2d": _BatchNormAct,
    "Conv2dSame": _ConvSame,
    "GroupNorm": _GroupNorm,
    "GroupNorm1": _GroupNorm,
    "GroupNorm1Act": _GroupNorm,
    "GroupNorm1NoBias": _GroupNorm,
    "GroupNormAct": _GroupNorm,
    "LayerNorm": _LayerNorm,
    "LayerNorm2d": _LayerNorm2d,
    "LayerNorm2dNoBias": _LayerNorm2d,
    "LayerNorm2dFp32": _LayerNorm2dFp32,
    "LayerNormAct": _LayerNorm,
    "LayerNormAct2d": _LayerNorm2d,
    "LayerNormActFp32": _LayerNormFp32,
    "LayerNormFp32": _LayerNormFp32,
    "LayerNormNoBias": _LayerNorm,
    "MaxPool2dSame": _MaxPoolSame,
    "ScaledStdConv2d": _StdConv,
    "ScaledStdConv2dSame": _StdConv,
    "StdConv2d": _StdConv,
    "StdConv2dSame": _StdConv,
}
_ELSEWHERE = {
    "GroupNorm1NoBias": "timm.models.metaformer",
    "LayerNorm2dNoBias": "timm.models.metaformer",
    "LayerNormNoBias": "timm.models.metaformer",
    "MaxPool2dSame": "timm.layers.pool2d_same",
}


def imported() -> list[type]:
    """timm's classes that can be adapted, of the parts of it that are imported."""
    modules = ((name, sys.modules.get(_ELSEWHERE.get(name, "timm.layers"))) for name in _BODIES)
    found = (getattr(module, name, None) for name, module in modules)
    return [kind for kind in found if isinstance(kind, type)]


def _body(module: Any) -> Any:
    """What is known of a module that is exactly of a class of timm's, or of ours in its place; None for any other."""
    theirs = type(module).__dict__.get("_theirs", type(module))
    return _BODIES[theirs.__name__] if theirs in imported() else None


def is_known(module: Any) -> bool:
    """Whether its formula is known: that of its base of torch's, but for what the functions below tell."""
    return _body(module) is not None


def computes_its_weight(module: Any) -> bool:
    """Whether a convolution makes its weight at each call from the one that it holds."""
    return _body(module) is _StdConv


def pads_itself(module: Any) -> bool:
    """Whether a convolution puts zeros around its input beside those that its ``padding`` tells."""
    return _body(module) in (_ConvSame, _StdConv) and bool(getattr(module, "same_pad", True))


def behind(norm: Any) -> torch.nn.Module | None:
    """What timm's norm calls after it has normalized, None if nothing.

    >>> behind(torch.nn.BatchNorm2d(3))
    """
    parts = (
        [m for m in (norm.drop, norm.act) if type(m) is not torch.nn.Identity]
        if is_known(norm) and hasattr(norm, "act")
        else []
    )
    return None if not parts else parts[0] if len(parts) == 1 else torch.nn.Sequential(*parts)


@functools.cache
def made(theirs: type) -> type:
    """Our subclass of one of them."""
    name = theirs.__name__
    told = f"``timm.layers.{name}``, computed by striate."
    kind: Any = type(
        name,
        (_BODIES[name], theirs),
        {"__module__": __name__, "__qualname__": name, "__doc__": told, "_theirs": theirs},
    )
    kind._as_torch = as_torch(kind._theirs.forward)
    return kind


def __getattr__(name: str) -> Any:
    if name not in _BODIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return made(getattr(importlib.import_module(_ELSEWHERE.get(name, "timm.layers")), name))
