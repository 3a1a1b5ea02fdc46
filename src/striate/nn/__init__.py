"""A drop-in for ``torch.nn``: it has every public name of ``torch.nn``, with striate's classes where there are any.

>>> from striate import nn
>>> nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2))(torch.ones(1, 3, 8, 8)).shape
torch.Size([1, 8, 3, 3])
"""

import sys as _sys
import types as _types
from importlib import import_module as _import_module

import torch
from torch.nn import *  # noqa: F403

from .blocks import *  # noqa: F403
from .container import Sequential as Sequential
from .conv import *  # noqa: F403
from .linear import *  # noqa: F403
from .local import *  # noqa: F403
from .norm import *  # type: ignore[assignment]  # noqa: F403
from .pool import *  # noqa: F403
from .statistics import *  # noqa: F403
from .swap import adapt as adapt

# `from . import functional` would find torch's, which `import *` has just brought.
functional = _import_module(f"{__name__}.functional")

# torch.nn has no __all__: this adds what `import *` leaves out, submodules included, which `import striate.nn.X` finds.
for _name in dir(torch.nn):
    _value = getattr(torch.nn, _name)
    if not _name.startswith("_"):
        globals().setdefault(_name, _value)
        if isinstance(_value, _types.ModuleType) and _name != "functional" and _value.__name__.startswith("torch."):
            _sys.modules.setdefault(f"{__name__}.{_name}", _value)
