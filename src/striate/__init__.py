"""Convolutional networks on PyTorch: fast, exact and visible on the CPU you have."""

__version__ = "0.1.0"

from . import models, nn
from .deploy.fold import fold
from .native import native_info
from .nn.swap import accelerate, restore

__all__ = ["__version__", "accelerate", "fold", "models", "native_info", "nn", "restore"]
