"""Convolutional networks on PyTorch: fast, exact and visible on the CPU you have."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

from . import _torch, models, nn
from .allocator import tune_allocator
from .deploy.fold import fold
from .deploy.freeze import freeze
from .deploy.freeze import load as load_frozen
from .diagnostics.profile import profile
from .native import native_info
from .nn.swap import accelerate, restore
from .ops.precision import precision, set_precision

_torch.warn()

if TYPE_CHECKING:
    from .analysis.explain import explain
    from .analysis.inspection import inspect

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


def __getattr__(name: str) -> Any:
    """Imports what many programs do not need when it is first asked for: it takes as long as all the rest."""
    if name in ("explain", "inspect"):
        from . import analysis

        return getattr(analysis, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
