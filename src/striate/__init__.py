"""Convolutional networks on PyTorch: fast, exact and visible on the CPU you have."""

__version__ = "0.1.0"

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

from . import (
    _torch,
    nn,  # the core, with what torch must know of its operators
)
from .allocator import tune_allocator
from .native import native_info
from .nn.swap import accelerate, restore
from .ops.precision import precision, set_precision

_torch.warn()

if TYPE_CHECKING:
    from . import analysis as analysis
    from . import deploy as deploy
    from . import diagnostics as diagnostics
    from . import models
    from . import training as training
    from .analysis.explain import explain
    from .analysis.inspect.inspection import inspect
    from .deploy.fold import fold
    from .deploy.freeze import freeze
    from .deploy.freeze import load as load_frozen
    from .diagnostics.profile import profile

__all__ = [
    "__version__",
    "accelerate",
    "explain",
    "fold",
    "freeze",
    "inspect",
    "load_frozen",
    "models",
    "native_info",
    "nn",
    "precision",
    "profile",
    "restore",
    "set_precision",
    "tune_allocator",
]

_PARTS = ("analysis", "deploy", "diagnostics", "models", "training")
_LATER = {  # where a name is, and its name there
    "explain": ("analysis.explain", "explain"),
    "fold": ("deploy.fold", "fold"),
    "freeze": ("deploy.freeze", "freeze"),
    "inspect": ("analysis.inspect.inspection", "inspect"),
    "load_frozen": ("deploy.freeze", "load"),
    "profile": ("diagnostics.profile", "profile"),
}


def __getattr__(name: str) -> Any:
    """Imports what many programs do not need when it is first asked for. What that saves:
    ``benchmarks/import_time.py``.
    """
    if name in _PARTS:
        return _import_module(f"{__name__}.{name}")
    if name in _LATER:
        module, there = _LATER[name]
        value = globals()[name] = getattr(_import_module(f"{__name__}.{module}"), there)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PARTS, *_LATER})
