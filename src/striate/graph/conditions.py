"""Where a model's own code asks for the size of a tensor in a condition: ``if x.shape[-1] > 32``, ``range(n)``,
``int(h)``. What such a model does with one input it need not do with an input of another size.

The model runs once more, on fake tensors whose sizes are symbols with a value (torch's ShapeEnv): arithmetic on sizes
stays symbolic, and only a conversion to bool, int or float asks for the value. torch's own code asks too, to check
shapes; what counts is a conversion that the model's code itself makes.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from .. import source
from .._torch import size_symbols, tree_map
from .running import Shape, describe_failure, tensors_like, unchanged

__all__ = ["conditions"]


def conditions(model: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, ...]:
    """The lines of the model's code, as "/path/net.py:12", at which a size is asked for its value, each once; what went
    wrong, if the model's forward fails on such tensors.

    args, kwargs: of :func:`.running.arguments`. All sizes of all their tensors are symbols. What the model is stays as
    it is.

    >>> conditions(torch.nn.Conv2d(3, 8, 3), (torch.ones(1, 3, 8, 8),), {})
    ()
    """
    found: dict[str, None] = {}
    mode, fake = size_symbols(lambda: _note(found))
    like = tensors_like(model)

    def given(one: Any) -> Any:
        if isinstance(one, Shape):
            one = torch.empty(one.shape, **like)
        return fake(one, True) if isinstance(one, Tensor) else one

    try:
        with unchanged(model), torch.random.fork_rng(devices=[]):
            args, kwargs = tree_map(given, (args, kwargs))
            with mode:
                same: dict[int, Tensor] = {}
                tensors = {
                    name: same.setdefault(id(t), t if id(t) in same else fake(t, False))
                    for name, t in [
                        *model.named_parameters(remove_duplicate=False),
                        *model.named_buffers(remove_duplicate=False),
                    ]
                }
                torch.func.functional_call(model, tensors, args, kwargs)
    except (Exception, SystemExit) as error:
        return (*found, describe_failure(error))
    return tuple(found)


def _note(found: dict[str, None]) -> None:
    """Adds the line of the model's code that converts a size; none where torch's code does."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_name not in CONVERSIONS:
        if source.is_users(frame.f_code.co_filename):
            return  # the conversion was made in C++, for a function of torch's that this line calls
        frame = frame.f_back
    while frame is not None and frame.f_code.co_name in CONVERSIONS:
        frame = frame.f_back
    if frame is not None and source.is_users(frame.f_code.co_filename):
        found[f"{frame.f_code.co_filename}:{frame.f_lineno}"] = None


CONVERSIONS = ("__bool__", "__int__", "__float__", "__index__", "__round__", "__floor__", "__ceil__", "__trunc__")
