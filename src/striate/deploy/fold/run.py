"""A run of a copy of the model, and what cannot be read off a recording of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..._torch import tree_leaves
from ...errors import ArgumentError, build
from ...nn.norm import BATCH_NORMS
from ..copying import copy_model
from .layers import LAYERS

__all__ = ["Run", "is_floating", "run", "same_random_numbers", "tensors_of"]

NUMBERS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout, slice, range)


@dataclass
class Run:
    """What one run gave and did. Modules are known by their names."""

    outputs: list[Tensor] = field(default_factory=list)  # the floating-point ones
    calls: Counter[str] = field(default_factory=Counter)  # of layers and batch norms, by whomever
    arguments: dict[str, int] = field(default_factory=dict)  # how many a batch norm was given when it was last called
    # of a batch norm, the first tensor that code outside it asks for
    read: dict[str, str] = field(default_factory=dict)
    # batch norm and layer, where something was written into the norm's input before the layer was called
    overwritten: set[tuple[str, str]] = field(default_factory=set)


def run(model: Module, inputs: tuple[Tensor, ...]) -> Run:
    """Runs a copy of the model, since a run may change its state, on copies of the inputs."""
    copied, found = copy_model(model, "fold"), Run()
    watched: dict[str, tuple[Any, float]] = {}  # a norm's input and the version of its memory
    at_work: Counter[str] = Counter()

    def enter(name: str, is_norm: bool) -> Callable[..., None]:
        def hook(module: Module, args: Any, kwargs: Any) -> None:
            found.calls[name] += 1
            at_work[name] += 1
            if is_norm:
                found.arguments[name] = len(args) + len(kwargs)
                x = args[0] if args else kwargs.get("input")
                watched[name] = x, _version(x)
            found.overwritten.update((norm, name) for norm, (x, version) in watched.items() if _version(x) != version)

        return hook

    def leave(name: str) -> Callable[..., None]:
        return lambda *_: at_work.subtract([name])

    for name, module in copied.named_modules():
        is_norm = isinstance(module, BATCH_NORMS)
        if is_norm or isinstance(module, LAYERS):
            module.register_forward_pre_hook(enter(name, is_norm), with_kwargs=True)
            module.register_forward_hook(leave(name), always_call=True)
        if is_norm:
            for held in ("_parameters", "_buffers"):
                ask = _ask(found.read, at_work, name)
                module.__dict__[held] = _Watched(module.__dict__[held], ask)
    with same_random_numbers(copied):
        output = copied(*(x.detach().clone() for x in inputs))
    found.outputs = [x for x in tensors_of(output) if is_floating(x)]
    return found


class _Watched(dict[str, Any]):
    """A module's parameters or buffers by name; ``ask`` is called with the name of each that is asked for."""

    def __init__(self, tensors: dict[str, Any], ask: Callable[[str], None]) -> None:
        super().__init__(tensors)
        self.ask = ask

    def __getitem__(self, key: str) -> Any:
        self.ask(key)
        return super().__getitem__(key)


def _ask(read: dict[str, str], at_work: Counter[str], name: str) -> Callable[[str], None]:
    def ask(key: str) -> None:
        if not at_work[name]:
            read.setdefault(name, key)

    return ask


def _version(x: Any) -> float:
    """How often something was written into a tensor's memory, also by way of another tensor that shares it. NaN, which
    equals nothing, where torch does not count.
    """
    return x._version if isinstance(x, Tensor) and not x.is_inference() else math.nan


def same_random_numbers(model: Module) -> AbstractContextManager[None]:
    """Each block under this draws the same numbers, and the caller's generators stay as they are."""
    return torch.random.fork_rng(sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"}))


def is_floating(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors in what a model returns: in tuples, lists, dicts, dataclasses, and the attributes of other objects.

    >>> tensors_of({"a": torch.ones(1), "b": [2, "c"]})
    [tensor([1.])]
    """
    return list(_tensors_of(output, set()))


def _tensors_of(output: Any, seen: set[int]) -> Iterator[Tensor]:
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            yield leaf
        elif not isinstance(leaf, NUMBERS) and id(leaf) not in seen:
            seen.add(id(leaf))
            yield from _tensors_of(_inside(leaf), seen)


def _inside(leaf: Any) -> list[Any]:
    if isinstance(leaf, dict):
        return list(leaf.values())
    if isinstance(leaf, (list, tuple, set, frozenset)):
        return list(leaf)
    if is_dataclass(leaf) and not isinstance(leaf, type):
        return [getattr(leaf, one.name) for one in fields(leaf)]
    if hasattr(leaf, "__dict__") and not isinstance(leaf, (type, Module)) and not callable(leaf):
        return list(vars(leaf).values())
    hint = "Return tensors, in tuples, lists, dicts or dataclasses, from forward."
    raise ArgumentError(build("fold", "outputs that tensors can be found in", f"a {type(leaf).__name__}", hint=hint))
