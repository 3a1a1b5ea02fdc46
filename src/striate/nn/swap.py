"""Swaps the torch layers of a model for striate's, and back, in place."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch

from .._renamed import old_keywords
from .._torch import AttentionOutput
from ..errors import ArgumentError, build
from ..ops import torch_calls
from . import adapters, blocks, container, conv, linear, norm, pool

__all__ = ["Left", "accelerate", "adapt", "plan", "restore"]

Model = TypeVar("Model", bound=torch.nn.Module)

# Maps torch's classes to striate's: subclasses with the same state, so that a swap only changes a module's class.
# Parameters, buffers, hooks, mode and identity remain, because the object does.
SWAPS: dict[type, type] = {
    torch_class: getattr(family, name)
    for family in (blocks, conv, linear, norm, pool)
    for name in family.__all__
    if (torch_class := getattr(torch.nn, name, None)) is not None and issubclass(getattr(family, name), torch_class)
}
OWN = {getattr(family, name) for family in (blocks, conv, linear, norm, pool) for name in family.__all__}
BASES = tuple(SWAPS)
BACK = {replacement: original for original, replacement in SWAPS.items()}
_GUARD = "_striate_guard"  # attribute: the handle of the hook that guards a layer left to torch
NAMED = 3  # how many layers of a class a warning names
_CHANNELS_LAST = "_channels_last"  # attribute: set on a layer that gives its output in that memory format


class Left(NamedTuple):
    """A layer that accelerate does not change, with the reason."""

    name: str
    kind: str
    reason: str


@old_keywords(theirs="original", ours="replacement")
def adapt(original: type, replacement: type) -> None:
    """Makes :func:`accelerate` give the class ``replacement`` to modules that are exactly of the class ``original``,
    and :func:`restore` take it back.

    Use it for a library's subclass of a torch layer, which accelerate would leave unchanged: write a subclass of that
    class with the same state whose ``forward`` computes the same by ``striate.nn.functional``. Only the class of the
    module changes, so ``replacement`` must not depend on attributes that its ``__init__`` would set. A later call for
    the same class replaces an earlier one. The layers of timm are adapted already.

    Raises ArgumentError where ``replacement`` is no subclass of ``original``, either is no class of modules, or
    ``original`` is a torch layer that accelerate swaps by itself.

    >>> from striate.nn import functional
    >>> class Standardized(torch.nn.Conv2d):
    ...     def forward(self, x):
    ...         w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
    ...         return torch.nn.functional.conv2d(x, w, self.bias, self.stride, self.padding)
    >>> class Fast(Standardized):
    ...     def forward(self, x):
    ...         w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
    ...         return functional.conv2d(x, w, self.bias, self.stride, self.padding)
    >>> adapt(Standardized, Fast)
    >>> model = accelerate(torch.nn.Sequential(Standardized(3, 8, 3)))
    >>> type(model[0]).__name__, type(restore(model)[0]).__name__
    ('Fast', 'Standardized')
    """
    for kind in (original, replacement):
        if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
            raise ArgumentError(
                build("adapt", "two classes of modules", repr(kind), hint="Give their class and a subclass of it.")
            )
    name = replacement.__name__
    if replacement is original or not issubclass(replacement, original):
        expects = f"a subclass of {original.__name__}"
        raise ArgumentError(build("adapt", expects, name, hint=f"Derive {name} from it."))
    if original in BACK or (original in SWAPS and SWAPS[original] in OWN):
        hint = "Give the class of another library."
        raise ArgumentError(build("adapt", "a class that accelerate leaves alone", original.__name__, hint=hint))
    SWAPS[original] = replacement
    BACK[replacement] = original


def _adapt_imported_libraries() -> None:
    for original in adapters.imported_classes():
        if original not in SWAPS:
            adapt(original, adapters.adapter_of(original))


def plan(model: torch.nn.Module) -> tuple[list[str], list[Left]]:
    """Returns what :func:`accelerate` would do: the names of layers it swaps, and those it leaves, with the reason.

    >>> class Mine(torch.nn.Conv2d):
    ...     pass
    >>> plan(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.MaxPool2d(2), Mine(1, 1, 1)))
    (['1'], [Left(name='2', kind='Mine', reason='a subclass of Conv2d with code of its own')])
    """
    _adapt_imported_libraries()
    swapped, left = [], []
    for name, module in model.named_modules():
        if type(module) in SWAPS:
            swapped.append(name)
        elif type(module) not in OWN and type(module) not in BACK and type(module) is not AttentionOutput:
            base = next((b for b in BASES if isinstance(module, b)), None)
            if base is not None:
                kind = type(module).__name__
                reason = f"a subclass of {base.__name__} with code of its own"
                if (guard := _guard(module)) is not None:
                    reason += f", whose input is laid out contiguous: in channels_last {guard.why}"
                left.append(Left(name, kind, reason))
    return swapped, left


class _Guard(NamedTuple):
    """Keeps a layer that is left to torch from a call that torch computes wrongly (:mod:`striate.ops.torch_calls`)."""

    why: str
    # runs before forward and returns its arguments in contiguous memory
    hook: Callable[[torch.nn.Module, tuple[Any, ...]], tuple[Any, ...]]


def _guard(module: torch.nn.Module) -> _Guard | None:
    layer: Any = module
    kinds = tuple(base for base in BASES if "Conv" in base.__name__)
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
    and name stay. A layer of a subclass keeps its class, because its code may depend on it: a warning reports their
    number for each class, and :func:`plan` names each layer. Where torch's operator would compute wrongly in
    channels_last (one tap with a stride, oneDNN's issue 6035; the gradient of a group norm's scale and shift alone),
    such a layer gets a forward pre-hook that makes its input contiguous. A ``Sequential``, and a subclass that inherits
    its ``forward``, gets a class of striate that computes neighbours together where nobody observes the value between
    them (see :mod:`striate.nn.fusion`): ``isinstance`` holds, ``type(m) is torch.nn.Sequential`` does not. Every module
    still computes what its class says and can be indexed, sliced, hooked and replaced as before. Parameters and buffers
    are not replaced: weight tying, shared memory and views stay.

    memory_format: with ``torch.preserve_format`` each layer's output has the memory format that torch's layer would
    give it; with ``torch.channels_last`` convolutions of two axes give channels_last outputs and those of three axes
    channels_last_3d ones, and the layers that follow preserve that. ``y.view(n, -1)`` then fails, as it does after
    ``model.to(memory_format=torch.channels_last)``: write ``y.flatten(1)``. The last call's choice applies.

    Raises ArgumentError for any other memory format.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.MaxPool2d(2))
    >>> type(accelerate(model)[1]).__module__, model(torch.ones(1, 3, 8, 8)).is_contiguous()
    ('striate.nn.pool', True)
    >>> y = accelerate(model, memory_format=torch.channels_last)(torch.ones(1, 3, 8, 8))
    >>> y.is_contiguous(memory_format=torch.channels_last)
    True
    """
    if memory_format not in (torch.preserve_format, torch.channels_last):
        expects = "memory_format to be torch.preserve_format or torch.channels_last"
        hint = "Leave it out for what torch's layers give."
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
        module.__dict__.pop(_CHANNELS_LAST, None)
        if memory_format is torch.channels_last and hasattr(type(module), _CHANNELS_LAST):
            module.__dict__[_CHANNELS_LAST] = True
    if left:
        warnings.warn(
            f"accelerate left {len(left)} of {len(left) + len(swapped)} layers to torch: {_by_class(left)}.",
            stacklevel=2,
        )
    return model


def _by_class(left: list[Left]) -> str:
    """Describes, for each class, how many layers are left to torch, which ones, and why."""
    alike: dict[tuple[str, str], list[str]] = {}
    for one in left:
        alike.setdefault((one.kind, one.reason), []).append(one.name or "the model")
    parts = []
    for (kind, reason), names in alike.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        parts.append(f"{len(names)} {kind} ({', '.join(names[:NAMED])}{more}), {reason}")
    return "; ".join(parts)


def restore(model: Model) -> Model:
    """Undoes :func:`accelerate`, in place: gives the layers torch's classes again, and returns the model.

    >>> type(restore(accelerate(torch.nn.Sequential(torch.nn.MaxPool2d(2))))[0])
    <class 'torch.nn.modules.pooling.MaxPool2d'>
    """
    for module in model.modules():
        if _GUARD in module.__dict__:
            module.__dict__.pop(_GUARD).remove()
        torch_class = container.torch_container_of(type(module))
        if torch_class is not None:
            module.__class__ = torch_class
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
        module.__dict__.pop(_CHANNELS_LAST, None)
    return model
