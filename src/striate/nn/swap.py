"""Swaps a model's torch layers for striate's, and back, in place."""

from __future__ import annotations

import warnings
from typing import NamedTuple, TypeVar

import torch

from . import conv, norm, pool

__all__ = ["Left", "accelerate", "plan", "restore"]

Model = TypeVar("Model", bound=torch.nn.Module)

# From torch's class to striate's: a subclass with the same state, so that changing a module's class is the whole swap.
# Parameters, buffers, hooks, mode and identity stay because the object stays.
SWAPS: dict[type, type] = {
    getattr(torch.nn, name): getattr(family, name) for family in (conv, norm, pool) for name in family.__all__ if hasattr(torch.nn, name)
}
BACK = {ours: theirs for theirs, ours in SWAPS.items()}
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
_MARK = "_striate_relaid"  # the parameters whose memory format accelerate changed, kept on the module that owns them


class Left(NamedTuple):
    """A layer that accelerate leaves alone, and why."""

    name: str
    kind: str
    reason: str


def plan(model: torch.nn.Module) -> tuple[list[str], list[Left]]:
    """What :func:`accelerate` would do: the names of the layers it swaps, and those it leaves, with the reason.

    >>> class Mine(torch.nn.Conv2d):
    ...     pass
    >>> plan(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.MaxPool2d(2), Mine(1, 1, 1)))
    (['1'], [Left(name='2', kind='Mine', reason='Mine is a subclass of Conv2d with code of its own')])
    """
    swapped, left = [], []
    for name, module in model.named_modules():
        if type(module) in SWAPS:
            swapped.append(name)
        elif type(module) not in BACK:
            base = next((b for b in SWAPS if isinstance(module, b)), None)
            if base is not None:
                kind = type(module).__name__
                left.append(Left(name, kind, f"{kind} is a subclass of {base.__name__} with code of its own"))
    return swapped, left


def accelerate(model: Model) -> Model:
    """Makes ``model`` use striate's layers and the channels_last memory format, in place, and returns it.

    Every layer whose class is exactly one of torch's becomes striate's namesake; its parameters, buffers, hooks, mode and
    name stay. A subclass keeps its class, because its code may count on it: a warning names each (see :func:`plan`).
    Weights of two and three axes are laid out channels_last, so that activations follow.

    >>> model = accelerate(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.MaxPool2d(2)))
    >>> type(model[1]).__module__, model(torch.ones(1, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last)
    ('striate.nn.pool', True)
    """
    swapped, left = plan(model)
    modules = dict(model.named_modules())
    for name in swapped:
        module = modules[name]
        module.__class__ = SWAPS[type(module)]
    for module in modules.values():
        relaid = []
        for name, parameter in module.named_parameters(recurse=False):
            format = _FORMATS.get(parameter.dim())
            if format is not None and parameter.is_contiguous() and not parameter.is_contiguous(memory_format=format):
                parameter.data = parameter.data.contiguous(memory_format=format)
                relaid.append(name)
        if relaid:
            module.__dict__.setdefault(_MARK, []).extend(relaid)
    if left:
        told = "; ".join(f"{one.name or 'the model'}: {one.reason}" for one in left)
        warnings.warn(f"accelerate left {len(left)} of {len(left) + len(swapped)} layers to torch. {told}.", stacklevel=2)
    return model


def restore(model: Model) -> Model:
    """Undoes :func:`accelerate`, in place: torch's classes and the memory formats there were.

    >>> type(restore(accelerate(torch.nn.Sequential(torch.nn.MaxPool2d(2))))[0])
    <class 'torch.nn.modules.pooling.MaxPool2d'>
    """
    for module in model.modules():
        if type(module) in BACK:
            module.__class__ = BACK[type(module)]
        for name in module.__dict__.pop(_MARK, []):
            parameter = getattr(module, name)
            parameter.data = parameter.data.contiguous()
    return model
