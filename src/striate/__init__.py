"""Convolutional networks on PyTorch: fast, exact and visible on the CPU you have."""

__version__ = "0.1.0"

from . import models, nn
from .allocator import tune_allocator
from .analysis import explain, inspect
from .deploy.fold import fold
from .deploy.freeze import freeze
from .deploy.freeze import load as load_frozen
from .diagnostics.profile import profile
from .native import native_info
from .nn.swap import accelerate, restore
from .ops.precision import precision

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
    "tune_allocator",
]
