"""Swaps a model's torch layers for striate's, and back, in place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch.nn.parameter import is_lazy

from ..ops import handover
from . import blocks, container, conv, norm, pool
from .norm import _Activated

__all__ = ["Left", "accelerate", "fusions", "plan", "restore"]

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
_FUSED = "_striate_fused"  # on a layer that computes the activation beside it
_GUARD = "_striate_guard"  # the handle of the hook that keeps a layer left to torch from a call that torch breaks on
_MARK = "_striate_relaid"  # the parameters whose memory format accelerate changed, kept on the module that owns them


class _Absorbed:
    """An activation that the norm before it or the pooling behind it computes: it hands on what it gets."""

    hands_on = True

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input

    def extra_repr(self) -> str:
        told: str = super().extra_repr()  # type: ignore[misc]
        return (told + ", " if told else "") + "computed by the layer beside it"


class AbsorbedReLU(_Absorbed, torch.nn.ReLU):
    """A ReLU that the layer beside it computes."""


class AbsorbedReLU6(_Absorbed, torch.nn.ReLU6):
    """A ReLU6 that the layer beside it computes."""


class AbsorbedLeakyReLU(_Absorbed, torch.nn.LeakyReLU):
    """A leaky ReLU that the layer beside it computes."""


# Activations that another layer can compute: what it calls them, and the class they get.
FUSED: dict[type, tuple[str, type]] = {
    torch.nn.ReLU: ("relu", AbsorbedReLU),
    torch.nn.ReLU6: ("relu6", AbsorbedReLU6),
    torch.nn.LeakyReLU: ("leaky_relu", AbsorbedLeakyReLU),
}


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


def fusions(model: torch.nn.Module) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
    """Each layer that can compute the activation beside it in a ``Sequential``, and that activation.

    A norm computes the one behind it, in one pass. Max pooling computes the one before it, where a convolution is before that: a rising
    function of the maximum is the maximum of the function's values, of which there are more (see :func:`commutes`).

    All must be used at one place only, have no hooks (which might look at what lies between), and be no subclasses.

    >>> block = [torch.nn.Conv2d(3, 3, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    >>> model = torch.nn.Sequential(*block, torch.nn.BatchNorm2d(3), torch.nn.ReLU())
    >>> [tuple(type(layer).__name__ for layer in pair) for pair in fusions(model)]
    [('BatchNorm2d', 'ReLU'), ('MaxPool2d', 'ReLU')]
    """
    places: dict[torch.nn.Module, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        places[module] = places.get(module, 0) + 1

    def lone(module: torch.nn.Module) -> bool:
        return places[module] == 1 and not module._forward_hooks and not module._forward_pre_hooks and not module._backward_hooks

    norms = [(layer, act) for layer, act in _neighbours(model) if fits(layer, act)]
    # behind a convolution, whose output nobody else sees: an activation may work in place
    pools = [
        (layer, act)
        for before, act, layer in _neighbours(model, 3)
        if SWAPS.get(type(before), type(before)).__module__ == conv.__name__ and lone(before) and commutes(act, layer)
    ]
    return [(layer, act) for layer, act in norms + pools if lone(layer) and lone(act)]


def _neighbours(model: torch.nn.Module, count: int = 2) -> Iterator[tuple[torch.nn.Module, ...]]:
    """Each ``count`` layers of which each but the first, in a ``Sequential``, takes what the one before it gives."""
    for module in model.modules():
        if isinstance(module, torch.nn.Sequential) and type(module).forward in (torch.nn.Sequential.forward, container.Sequential.forward):
            layers = list(module)
            yield from zip(*(layers[k:] for k in range(count)), strict=False)


def fits(layer: torch.nn.Module, activation: torch.nn.Module) -> bool:
    """Whether ``layer`` is a norm, ours or one that becomes ours, that can compute ``activation`` in its own pass.

    >>> fits(torch.nn.BatchNorm2d(3), torch.nn.ReLU()), fits(torch.nn.BatchNorm2d(3), torch.nn.GELU())
    (True, False)
    """
    kind = SWAPS.get(type(layer), type(layer))
    able = issubclass(kind, _Activated) and not issubclass(kind, pool._Max) and kind in BACK
    return able and getattr(layer, "activation", None) is None and type(activation) in FUSED


def commutes(activation: torch.nn.Module, layer: torch.nn.Module) -> bool:
    """Whether ``layer`` is max pooling, ours or one that becomes ours, and gives the same before and behind ``activation``, gradients too.

    ReLU and ReLU6 rise, and where they make different inputs equal their gradient is 0, so that it does not matter which the window
    picks. A leaky ReLU's rounding makes some equal, too. A dilated window may take in padding alone, whose maximum is -inf.

    >>> [commutes(act, torch.nn.MaxPool2d(2)) for act in (torch.nn.ReLU(), torch.nn.LeakyReLU())]
    [True, False]
    """
    kind: Any = SWAPS.get(type(layer), type(layer))
    if not (issubclass(kind, pool._Max) and kind in BACK) or layer.return_indices or getattr(layer, "activation", None) is not None:
        return False
    steps = layer.dilation if isinstance(layer.dilation, tuple | list) else [layer.dilation]
    return all(step == 1 for step in steps) and type(activation) in FUSED and FUSED[type(activation)][0] in pool.ACTIVATIONS


def fuse(layer: torch.nn.Module, activation: torch.nn.Module) -> None:
    """Makes ``layer`` compute ``activation``, and ``activation`` hand on what it gets; :func:`restore` undoes it.

    >>> layer, activation = norm.BatchNorm2d(3), torch.nn.ReLU()
    >>> fuse(layer, activation)
    >>> layer.activation, activation
    ('relu', AbsorbedReLU(computed by the layer beside it))
    """
    name, absorbed = FUSED[type(activation)]
    layer.__dict__ |= {"activation": name, "negative_slope": getattr(activation, "negative_slope", 0.01), _FUSED: True}
    activation.__class__ = absorbed


def accelerate(model: Model) -> Model:
    """Makes ``model`` use striate's layers and the channels_last memory format, in place, and returns it.

    Every layer whose class is exactly one of torch's becomes striate's namesake; its parameters, buffers, hooks, mode and
    name stay. A subclass keeps its class, because its code may count on it: a warning names each (see :func:`plan`). Where channels_last
    would bring torch's operator to break (one tap with a stride, oneDNN's issue 6035; the gradient of a group norm's scale and shift
    alone), such a layer gets a forward pre-hook that lays its input out contiguous.
    Where a ReLU, ReLU6 or leaky ReLU follows a norm in a ``Sequential`` the norm computes both in one pass, and between a convolution and
    max pooling a ReLU or ReLU6 is computed behind the pooling (see :func:`fusions`).
    Weights of two and three axes are laid out channels_last, so that activations follow.

    >>> model = accelerate(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.MaxPool2d(2)))
    >>> type(model[1]).__module__, model(torch.ones(1, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last)
    ('striate.nn.pool', True)
    """
    swapped, left = plan(model)
    fused = fusions(model)
    modules = dict(model.named_modules())
    for name in swapped:
        module = modules[name]
        module.__class__ = SWAPS[type(module)]
    for module in modules.values():
        if type(module) is torch.nn.Sequential:
            module.__class__ = container.Sequential
    for layer, activation in fused:
        fuse(layer, activation)
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
        if module.__dict__.pop(_FUSED, False):
            del module.__dict__["activation"], module.__dict__["negative_slope"]
        if type(module) is container.Sequential:
            module.__class__ = torch.nn.Sequential  # type: ignore[assignment]
        if isinstance(module, _Absorbed):
            module.__class__ = type(module).__bases__[1]
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
