"""Swaps a model's torch layers for striate's, and back, in place."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch

from ..errors import ArgumentError, build
from ..ops import torch_calls
from . import adapters, blocks, container, conv, norm, pool

__all__ = ["Left", "accelerate", "adapt", "plan", "restore"]

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
BASES = tuple(SWAPS)
BACK = {ours: theirs for theirs, ours in SWAPS.items()}
_GUARD = "_striate_guard"  # the handle of the hook that keeps a layer left to torch from a call that torch breaks on
NAMED = 3  # of the layers of a class, in a warning
_LAST = "_channels_last"  # set on a layer whose output is to have that memory format


class Left(NamedTuple):
    """A layer that accelerate leaves alone, and why."""

    name: str
    kind: str
    reason: str


def adapt(theirs: type, ours: type) -> None:
    """Has :func:`accelerate` give the class ``ours`` to modules that are exactly of the class ``theirs``, and
    :func:`restore` take it back.

    For a library's subclass of a layer of torch's, which accelerate would leave alone: write a subclass of it with the
    same state whose ``forward`` computes the same by ``striate.nn.functional``. Nothing but the class of the module is
    changed, so ``ours`` must need nothing that its ``__init__`` would set. A later call for the same class takes the
    place of an earlier one. timm's layers are adapted already.

    Raises ArgumentError where ``ours`` is no subclass of ``theirs``, either is no class of modules, or ``theirs`` is
    swapped as torch's.

    >>> from striate.nn import functional
    >>> class Standardized(torch.nn.Conv2d):
    ...     def forward(self, x):
    ...         w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
    ...         return torch.nn.functional.conv2d(x, w, self.bias, self.stride, self.padding)
    >>> class Ours(Standardized):
    ...     def forward(self, x):
    ...         w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
    ...         return functional.conv2d(x, w, self.bias, self.stride, self.padding)
    >>> adapt(Standardized, Ours)
    >>> model = accelerate(torch.nn.Sequential(Standardized(3, 8, 3)))
    >>> type(model[0]).__name__, type(restore(model)[0]).__name__
    ('Ours', 'Standardized')
    """
    for kind in (theirs, ours):
        if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
            raise ArgumentError(
                build("adapt", "two classes of modules", repr(kind), hint="Give their class and a subclass of it.")
            )
    if ours is theirs or not issubclass(ours, theirs):
        raise ArgumentError(
            build("adapt", f"a subclass of {theirs.__name__}", ours.__name__, hint=f"Derive {ours.__name__} from it.")
        )
    if theirs in BACK or (theirs in SWAPS and SWAPS[theirs] in OWN):
        hint = "Give the class of another library."
        raise ArgumentError(build("adapt", "a class that accelerate leaves alone", theirs.__name__, hint=hint))
    SWAPS[theirs] = ours
    BACK[ours] = theirs


def _adapt_what_is_imported() -> None:
    for theirs in adapters.imported():
        if theirs not in SWAPS:
            adapt(theirs, adapters.made(theirs))


def plan(model: torch.nn.Module) -> tuple[list[str], list[Left]]:
    """What :func:`accelerate` would do: the names of the layers it swaps, and those it leaves, with the reason.

    >>> class Mine(torch.nn.Conv2d):
    ...     pass
    >>> plan(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.MaxPool2d(2), Mine(1, 1, 1)))
    (['1'], [Left(name='2', kind='Mine', reason='a subclass of Conv2d with code of its own')])
    """
    _adapt_what_is_imported()
    swapped, left = [], []
    for name, module in model.named_modules():
        if type(module) in SWAPS:
            swapped.append(name)
        elif type(module) not in OWN and type(module) not in BACK:
            base = next((b for b in BASES if isinstance(module, b)), None)
            if base is not None:
                kind = type(module).__name__
                reason = f"a subclass of {base.__name__} with code of its own"
                if (guard := _guard(module)) is not None:
                    reason += f", whose input is laid out contiguous: in channels_last {guard.why}"
                left.append(Left(name, kind, reason))
    return swapped, left


class _Guard(NamedTuple):
    """Keeps a layer that is left to torch from a call that torch breaks on (see :mod:`striate.ops.torch_calls`)."""

    why: str
    # before forward: the arguments, laid out contiguous
    hook: Callable[[torch.nn.Module, tuple[Any, ...]], tuple[Any, ...]]


def _guard(module: torch.nn.Module) -> _Guard | None:
    layer: Any = module
    kinds = tuple(theirs for theirs in BASES if "Conv" in theirs.__name__)
    if isinstance(module, kinds) and max(layer.kernel_size) == 1 and max(layer.stride) > 1:
        return _Guard("oneDNN's gradient of one tap with a stride is unsafe", _contiguous)
    if isinstance(module, torch.nn.GroupNorm):
        return _Guard("torch's gradient of scale and shift alone is unsafe", _contiguous_for_group_norm)
    return None


def _contiguous(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.contiguous() if isinstance(a, torch.Tensor) else a for a in args)


def _contiguous_for_group_norm(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(torch_calls.for_group_norm(a, module.weight, module.bias) for a in args)


def accelerate(model: Model, *, memory_format: torch.memory_format = torch.preserve_format) -> Model:
    """Makes ``model`` use striate's layers, in place, and returns it.

    Every layer whose class is exactly one of torch's becomes striate's namesake; its parameters, buffers, hooks, mode
    and name stay. A subclass keeps its class, because its code may count on it: a warning counts them by class, and
    :func:`plan` names each. Where channels_last would bring torch's operator to break (one tap with a stride, oneDNN's
    issue 6035; the gradient of a group norm's scale and shift alone), such a layer gets a forward pre-hook that lays
    its input out contiguous. A ``Sequential``, and a subclass that has its ``forward``, gets a class of striate's that
    calls neighbours together where nobody looks between them (see :mod:`striate.nn.container`): ``isinstance`` holds,
    ``type(m) is torch.nn.Sequential`` does not. Every module still
    computes what its name says: index, slice, hook and replace them as before.
    Parameters and buffers are not touched: who shares, ties or views their memory goes on doing so.

    memory_format: ``torch.preserve_format``, and each layer's output has the memory format that torch's layer would
    give it; or ``torch.channels_last``, and convolutions of two and three axes give channels_last outputs
    (channels_last_3d ones of three), which the layers behind them keep. ``y.view(n, -1)`` then fails, as it does after
    ``model.to(memory_format=torch.channels_last)``: write ``y.flatten(1)``. The last call's choice holds.

    Raises ArgumentError for any other memory format.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.MaxPool2d(2))
    >>> type(accelerate(model)[1]).__module__, model(torch.ones(1, 3, 8, 8)).is_contiguous()
    ('striate.nn.pool', True)
    >>> accelerate(model, memory_format=torch.channels_last)(torch.ones(1, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last)
    True
    """
    if memory_format not in (torch.preserve_format, torch.channels_last):
        expects, hint = (
            "memory_format to be torch.preserve_format or torch.channels_last",
            "Leave it out for what torch's layers give.",
        )
        raise ArgumentError(build("accelerate", expects, memory_format, hint=hint))
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
        module.__dict__.pop(_LAST, None)
        if memory_format is torch.channels_last and hasattr(type(module), _LAST):
            module.__dict__[_LAST] = True
    if left:
        warnings.warn(
            f"accelerate left {len(left)} of {len(left) + len(swapped)} layers to torch: {_by_class(left)}.",
            stacklevel=2,
        )
    return model


def _by_class(left: list[Left]) -> str:
    """How many of each class, which, and why."""
    alike: dict[tuple[str, str], list[str]] = {}
    for one in left:
        alike.setdefault((one.kind, one.reason), []).append(one.name or "the model")
    told = []
    for (kind, reason), names in alike.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        told.append(f"{len(names)} {kind} ({', '.join(names[:NAMED])}{more}), {reason}")
    return "; ".join(told)


def restore(model: Model) -> Model:
    """Undoes :func:`accelerate`, in place: torch's classes.

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
                warnings.warn(
                    f"restore thaws a frozen {name}: torch's own can only be put in eval mode, which it is.",
                    stacklevel=2,
                )
                module.__dict__.pop("frozen")
                module.eval()
            module.__class__ = BACK[type(module)]
        module.__dict__.pop(_LAST, None)
    return model
