"""Computes layers of timm by native kernels: each supported class has a subclass with the same state, and
``accelerate`` changes the class of its instances to that.

A subclass is made at its first use, as an attribute of this module (``adapters.BatchNormAct2d``), so that a model of it
can be pickled and loaded. Only a look-up of such an attribute imports timm: :func:`striate.nn.swap.plan` uses what is
imported already. Each subclass computes what timm's class computes; under torch's tools it uses torch's operators.
TorchScript compiles timm's ``forward``.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

import torch
from torch import Tensor

from .._renamed import accept_old_names
from ..ops import conv as conv_ops
from ..ops import gate
from ..ops import linear as linear_ops
from ..ops import norm as norm_ops
from ..ops import pool as pool_ops
from . import fusion
from .namesake import as_torch, recorded
from .norm.batch import _BatchNorm

__all__ = ["adapter_of", "behind", "computes_its_weight", "imported_classes", "is_known", "pads_itself"]


class _Adapter:
    """Precedes timm's class in the bases; ``_adapted`` computes by striate's operations."""

    _timm_class: Any

    def forward(self: Any, x):  # type: ignore[no-untyped-def]  # TorchScript infers what comes out
        if torch.jit.is_scripting():
            return self._as_torch(x)
        else:
            return self._adapted(x) if isinstance(x, Tensor) else recorded(self, self._timm_forward, x)

    def _timm_forward(self, x: Any) -> Any:
        return self._timm_class.forward(self, x)


class _Norm(_Adapter):
    """A norm, and the ``drop`` and ``act`` that some classes call after it; the norm's pass also computes the
    activation where nobody observes the value between them.
    """

    def _adapted(self: Any, x: Tensor) -> Tensor:
        if getattr(self, "_fast_norm", False):
            y: Tensor = self._timm_forward(x)
            return y
        if not hasattr(self, "act"):
            return self._normalized(x, None)
        unobserved = (
            type(self.drop) is torch.nn.Identity
            and fusion.is_plain(self.drop)
            and not fusion.calls_are_observed()
            and gate.is_open(x)
        )
        following = fusion.activation_of(self.act) if unobserved else None
        y = self._normalized(x, following)
        return y if following is not None else self.act(self.drop(y))

    def _kernel_options(self, following: tuple[str, float] | None) -> dict[str, Any]:
        name, slope = following or (None, 0.01)
        return {"activation": name, "slope": slope, "where": type(self).__name__}


class _GroupNorm(_Norm):
    def _normalized(self: Any, x: Tensor, following: tuple[str, float] | None) -> Tensor:
        options = self._kernel_options(following)
        return norm_ops.by_group(x, self.num_groups, self.weight, self.bias, self.eps, **options)


class _LayerNorm(_Norm):
    def _normalized(self: Any, x: Tensor, following: tuple[str, float] | None) -> Tensor:
        options = self._kernel_options(following)
        return norm_ops.by_element(x, self.normalized_shape, self.weight, self.bias, self.eps, **options)


class _LayerNorm2d(_Norm):
    def _normalized(self: Any, x: Tensor, following: tuple[str, float] | None) -> Tensor:
        if gate.is_open(x):
            x = x.contiguous(memory_format=torch.channels_last)  # as timm's class does for every input
        return norm_ops.layer_norm_2d(x, self.weight, self.bias, self.eps, **self._kernel_options(following))


class _InFloat32(_Norm):
    """For classes that compute in float32 for any dtype: calls timm's forward unless the input is float32."""

    def _adapted(self: Any, x: Tensor) -> Tensor:
        y: Tensor = (
            super()._adapted(x)
            if gate.is_open(x, self.weight, self.bias) and x.dtype is torch.float32
            else self._timm_forward(x)
        )
        return y


class _LayerNormFp32(_InFloat32, _LayerNorm):
    pass


class _LayerNorm2dFp32(_InFloat32, _LayerNorm2d):
    pass


class _BatchNormAct(_Norm, _BatchNorm):
    _ranks, _shape = (4,), "(N, C, H, W)"

    def _normalized(self: Any, x: Tensor, following: tuple[str, float] | None) -> Tensor:
        return _BatchNorm._compute(self, x, following=following)


class _Conv(_Adapter):
    """A convolution; some classes normalize the weights of each filter, some compute their padding at each call."""

    _channels_last = False  # see nn/conv.py

    def _adapted(self: Any, x: Tensor) -> Tensor:
        padding = "same" if getattr(self, "same_pad", False) else self.padding
        return self._convolved(x, self.weight, padding)

    def _convolved(self: Any, x: Tensor, weight: Tensor, padding: Any) -> Tensor:
        geometry = (self.stride, padding, self.dilation, self.groups)
        options: dict[str, Any] = {"dims": 2, "where": type(self).__name__, "channels_last": self._channels_last}
        return conv_ops.conv(x, weight, self.bias, *geometry, **options)


class _ConvSame(_Conv):
    same_pad = True


class _StdConv(_Conv):
    def _convolved(self: Any, x: Tensor, weight: Tensor, padding: Any) -> Tensor:
        scale = (self.gain * self.scale).view(-1) if hasattr(self, "gain") else None
        rows = weight.reshape(1, self.out_channels, -1)
        weight = norm_ops.batch_norm(rows, None, None, scale, None, True, 0.0, self.eps).reshape_as(weight)
        return super()._convolved(x, weight, padding)


class _Linear(_Adapter):
    def _adapted(self: Any, x: Tensor) -> Tensor:
        return linear_ops.linear(x, self.weight, self.bias, where=type(self).__name__)


class _AvgPoolSame(_Adapter):
    def _adapted(self: Any, x: Tensor) -> Tensor:
        if self.ceil_mode or any(self.padding):
            return self._timm_forward(x)
        return pool_ops.avg_pool(x, self.kernel_size, self.stride, "same", dims=2, where=type(self).__name__)


class _MaxPoolSame(_Adapter):
    def _adapted(self: Any, x: Tensor) -> Tensor:
        if self.ceil_mode or any(self.padding):
            return self._timm_forward(x)
        return pool_ops.max_pool(
            x, self.kernel_size, self.stride, "same", self.dilation, dims=2, where=type(self).__name__
        )


_ADAPTERS: dict[str, type] = {
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
    "Linear": _Linear,
    "MaxPool2dSame": _MaxPoolSame,
    "ScaledStdConv2d": _StdConv,
    "ScaledStdConv2dSame": _StdConv,
    "StdConv2d": _StdConv,
    "StdConv2dSame": _StdConv,
}
_MODULES = {
    "GroupNorm1NoBias": "timm.models.metaformer",
    "LayerNorm2dNoBias": "timm.models.metaformer",
    "LayerNormNoBias": "timm.models.metaformer",
    "MaxPool2dSame": "timm.layers.pool2d_same",
}


def imported_classes() -> list[type]:
    """The classes of timm that can be adapted, in those of its modules that are imported already."""
    modules = ((name, sys.modules.get(_MODULES.get(name, "timm.layers"))) for name in _ADAPTERS)
    found = (getattr(module, name, None) for name, module in modules)
    return [kind for kind in found if isinstance(kind, type)]


def _adapter(module: Any) -> Any:
    """The adapter of a module whose class is exactly a class of timm or its striate subclass; None for any other."""
    timm_class = type(module).__dict__.get("_timm_class", type(module))
    return _ADAPTERS[timm_class.__name__] if timm_class in imported_classes() else None


def is_known(module: Any) -> bool:
    """Whether the module computes the same as its torch base class, except as the functions below report."""
    return _adapter(module) is not None


def computes_its_weight(module: Any) -> bool:
    """Whether a convolution computes its weight at each call from its parameter."""
    return _adapter(module) is _StdConv


def pads_itself(module: Any) -> bool:
    """Whether a convolution pads its input with zeros in addition to its ``padding``."""
    return _adapter(module) in (_ConvSame, _StdConv) and bool(getattr(module, "same_pad", True))


def behind(norm: Any) -> torch.nn.Module | None:
    """The layers that timm's norm calls after normalizing, None if there are none.

    >>> behind(torch.nn.BatchNorm2d(3))
    """
    parts = (
        [m for m in (norm.drop, norm.act) if type(m) is not torch.nn.Identity]
        if is_known(norm) and hasattr(norm, "act")
        else []
    )
    return None if not parts else parts[0] if len(parts) == 1 else torch.nn.Sequential(*parts)


@functools.cache
def adapter_of(timm_class: type) -> type:
    """The striate subclass of one of :func:`imported_classes`."""
    name = timm_class.__name__
    text = f"``timm.layers.{name}``, computed by striate."
    kind: Any = type(
        name,
        (_ADAPTERS[name], timm_class),
        {"__module__": __name__, "__qualname__": name, "__doc__": text, "_timm_class": timm_class},
    )
    kind._as_torch = as_torch(kind._timm_class.forward)
    return kind


def __getattr__(name: str) -> Any:
    if name not in _ADAPTERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return adapter_of(getattr(importlib.import_module(_MODULES.get(name, "timm.layers")), name))

accept_old_names(__name__)
