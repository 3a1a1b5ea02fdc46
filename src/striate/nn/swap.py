"""Swaps a model's torch layers for striate's, and back, in place."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch.nn.parameter import is_lazy

from ..ops import handover
from . import blocks, container, conv, norm, pool

__all__ = ["Left", "accelerate", "plan", "restore"]

Model = TypeVar("Model", bound=torch.nn.Module)

# From torch's class to striate's: a subclass with the same state, so that changing a module's class is the whole swap.
# Parameters, buffers, hooks, mode and identity stay because the object stays.
SWAPS: dict[type, type] = {
    theirs: getattr(family, name)
    for family in (blocks, conv, norm, pool)
    for name in family.__all__
    if (theirs := getattr(torch.nn, name, None)) is not None and issubclass(getattr(family, name), theirs)
}
OWN = {getattr(family, name) for family in (blocks, conv, norm, pool) for name in family.__all__}
BACK = {ours: theirs for theirs, ours in SWAPS.items()}
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
_GUARD = "_striate_guard"  # the handle of the hook that keeps a layer left to torch from a call that torch breaks on
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
        elif type(module) not in OWN:
            base = next((b for b in SWAPS if isinstance(module, b)), None)
            if base is not None:
                kind = type(module).__name__
                reason = f"{kind} is a subclass of {base.__name__} with code of its own"
                if (guard := _guard(module)) is not None:
                    reason += f", whose input is laid out contiguous: in channels_last {guard.why}"
                left.append(Left(name, kind, reason))
    return swapped, left


class _Guard(NamedTuple):
    """What keeps a layer that is left to torch from a call that torch breaks on (see :mod:`striate.ops.handover`)."""

    why: str
    hook: Callable[[torch.nn.Module, tuple[Any, ...]], tuple[Any, ...]]  # before forward: the arguments, laid out contiguous


def _guard(module: torch.nn.Module) -> _Guard | None:
    layer: Any = module
    kinds = tuple(theirs for theirs in SWAPS if "Conv" in theirs.__name__)
    if isinstance(module, kinds) and max(layer.kernel_size) == 1 and max(layer.stride) > 1:
        return _Guard("oneDNN's gradient of one tap with a stride is unsafe", _contiguous)
    if isinstance(module, torch.nn.GroupNorm):
        return _Guard("torch's gradient of scale and shift alone is unsafe", _contiguous_for_group_norm)
    return None


def _contiguous(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.contiguous() if isinstance(a, torch.Tensor) else a for a in args)


def _contiguous_for_group_norm(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(handover.for_group_norm(a, module.weight, module.bias) for a in args)


def accelerate(model: Model) -> Model:
    """Makes ``model`` use striate's layers and the channels_last memory format, in place, and returns it.

    Every layer whose class is exactly one of torch's becomes striate's namesake; its parameters, buffers, hooks, mode and
    name stay. A subclass keeps its class, because its code may count on it: a warning names each (see :func:`plan`). Where channels_last
    would bring torch's operator to break (one tap with a stride, oneDNN's issue 6035; the gradient of a group norm's scale and shift
    alone), such a layer gets a forward pre-hook that lays its input out contiguous.
    A ``Sequential``, and a subclass that has its ``forward``, gets a class of striate's that calls neighbours together where nobody looks
    between them (see :mod:`striate.nn.container`): ``isinstance`` holds, ``type(m) is torch.nn.Sequential`` does not. Every module still
    computes what its name says: index, slice, hook and replace them as before.
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
        kind: Any = type(module)
        if isinstance(module, torch.nn.Sequential) and kind.forward is torch.nn.Sequential.forward:
            module.__class__ = container.container_of(kind)
    for one in left:
        module = modules[one.name]
        guard = _guard(module)
        if guard is not None and _GUARD not in module.__dict__:
            module.__dict__[_GUARD] = module.register_forward_pre_hook(guard.hook)
    for module in modules.values():
        if _GUARD in module.__dict__:  # its weight decides the memory order too
            continue
        relaid = []
        for name, parameter in module.named_parameters(recurse=False):
            if is_lazy(parameter):  # it has no shape yet
                continue
            format = _FORMATS.get(parameter.dim())
            if format is not None and parameter.is_contiguous():
                laid = parameter.data.to(memory_format=format)  # where a lone channel leaves only strides to tell, those too
                if laid.stride() != parameter.stride():
                    parameter.data = laid
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
        if _GUARD in module.__dict__:
            module.__dict__.pop(_GUARD).remove()
        theirs = container.theirs_of(type(module))
        if theirs is not None:
            module.__class__ = theirs
        if type(module) in BACK:
            if getattr(module, "frozen", False):
                name = type(module).__name__
                warnings.warn(f"restore thaws a frozen {name}: torch's own can only be put in eval mode, which it is.", stacklevel=2)
                module.__dict__.pop("frozen")
                module.eval()
            module.__class__ = BACK[type(module)]
        for name in module.__dict__.pop(_MARK, []):
            parameter = getattr(module, name)
            parameter.data = parameter.data.to(memory_format=torch.contiguous_format)
    return model
