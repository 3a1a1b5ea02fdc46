"""The layers of a model as one call uses them, and edits of its modules that keep the names of the others."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from .. import nn
from .._torch import ConvBase, NormBase
from ..errors import ArgumentError, build, describe_error
from ..graph.neighbours import Neighbours, Part
from ..graph.recording import Operation, record
from ..graph.running import tensors_like
from ..nn.norm import BATCH_NORMS, GROUP_NORMS

__all__ = ["NORMS", "WEIGHTED", "Places", "channels_axis", "skeleton"]

WEIGHTED: tuple[Any, ...] = (ConvBase, torch.nn.Linear)  # the layers that sum with weights
NORMS: tuple[Any, ...] = (
    NormBase,  # batch and instance norm of every kind
    *BATCH_NORMS,
    *GROUP_NORMS,
    torch.nn.LayerNorm,
    torch.nn.RMSNorm,
    nn.LayerNorm2d,
)


def skeleton(model: Module) -> Module:
    """A copy of the modules that shares their parameters, buffers and other tensors with ``model``.

    Raises ArgumentError if some other part of the model cannot be copied.

    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> made = skeleton(model)
    >>> made[0] is model[0], made[0].weight is model[0].weight
    (False, True)
    """
    held = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers(), *held)}
    try:
        return copy.deepcopy(model, shared)
    except Exception as error:
        hint = "Take out what keeps copy.deepcopy(model) from working."
        raise ArgumentError(build("vary", "a model that can be copied", describe_error(error), hint=hint)) from error


class Places:
    """The parts of one call of ``model`` on two samples of ``sample_shape`` in evaluation, in order.

    Raises ShapeError where the model does not run on such samples.

    >>> places = Places(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)), (1, 8, 8))
    >>> [places.path(part) for part in places.of(WEIGHTED)], places.is_hidden(places.of(WEIGHTED)[0])
    (['0', '3'], True)
    """

    def __init__(self, model: Module, sample_shape: tuple[int, ...]) -> None:
        self.model = model
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            self.recording = record(model, (2, *sample_shape))
        finally:
            for module, training in modes:
                module.training = training
        self.neighbours = Neighbours(self.recording)
        self.parts = self.neighbours.parts
        self.factory = tensors_like(model)  # dtype and device of new layers

    # ------------------------------------------------------------------------------------------------------- questions

    def of(self, kinds: tuple[Any, ...]) -> list[Part]:
        """The calls of modules of these classes."""
        return [part for part in self.parts if part.call is not None and isinstance(part.call.module, kinds)]

    def path(self, part: Part) -> str:
        """The name of the module of a part; for an operation outside of modules its name and line."""
        if part.call is not None:
            return part.call.path
        operation = part.operations[0]
        return operation.name.removeprefix("aten.") + (f" at {operation.line}" if operation.line else "")

    def module(self, part: Part) -> Any:
        return None if part.call is None else part.call.module

    def calls(self, module: Module) -> int:
        """How often the model calls a module."""
        return sum(part.call is not None and part.call.module is module for part in self.parts)

    def shape_before(self, part: Part) -> tuple[int, ...]:
        return self.recording.values[part.inputs[0]].shape

    def shape_behind(self, part: Part) -> tuple[int, ...]:
        return self.recording.values[part.outputs[0]].shape

    def output_shape(self) -> tuple[int, ...]:
        """The shape of the model's first output, batch included."""
        return self.recording.values[self.recording.outputs[0]].shape

    def before(self, part: Part) -> Part | None:
        """The only part that a part reads; None if there are several or none."""
        found = self.neighbours.before(part)
        return found[0] if len(found) == 1 else None

    def next(self, part: Part) -> Part | None:
        """The only part that reads the value of a part, where it reads that very value and not a view of it."""
        reader = self.neighbours.reader(part)
        return reader if reader is not None and part.outputs[0] in reader.inputs else None

    def readers(self, part: Part) -> list[Operation]:
        """The operations that read the value of a part."""
        return self.neighbours.readers.get(part.outputs[0], [])

    def leads_to(self, part: Part, wanted: Callable[[Part], bool]) -> bool:
        """Whether a part that is ``wanted`` reads what comes of this one, through any number of others."""
        seen, waiting = {part.index}, self.neighbours.after(part)[:]
        while waiting:
            one = waiting.pop()
            if wanted(one):
                return True
            fresh = [after for after in self.neighbours.after(one) if after.index not in seen]
            seen.update(after.index for after in fresh)
            waiting += fresh
        return False

    def is_hidden(self, part: Part) -> bool:
        """Whether a layer with weights reads what comes of this part."""
        return self.leads_to(part, lambda one: isinstance(self.module(one), WEIGHTED))

    def operations_outside(self, *kinds: str) -> list[Part]:
        """Operations of these kinds of the op table that the model calls as functions, not by a layer."""
        return [p for p in self.parts if p.call is None and p.operations[0].is_a(*kinds)]

    # ----------------------------------------------------------------------------------------------------------- edits

    def _holders(self, module: Module) -> list[tuple[Module, str]]:
        parents = list(self.model.modules())
        return [(p, name) for p in parents for name, child in p._modules.items() if child is module]

    def _in_chain(self, parent: Module, module: Module) -> bool:
        """Whether ``parent`` is a container that calls its layers one after the other, ``module`` among them."""
        kind: Any = type(parent)
        if kind.forward not in (torch.nn.Sequential.forward, nn.Sequential.forward):
            return False
        calls = self.recording.calls
        around = [calls[c.parent].module if c.parent is not None else None for c in calls if c.module is module]
        return all(one is parent for one in around)

    def replace(self, old: Module, new: Module) -> None:
        """Puts ``new`` where ``old`` is, under its name."""
        new.train(old.training)
        for parent, name in self._holders(old):
            parent._modules[name] = new

    def remove(self, module: Module) -> None:
        """Takes a module out of its container; where other code calls it, an Identity takes its name."""
        for parent, name in self._holders(module):
            if self._in_chain(parent, module):
                del parent._modules[name]
            else:
                parent._modules[name] = nn.Identity()

    def put_behind(self, module: Module, new: Module, role: str) -> None:
        """Calls ``new`` on the output of ``module``."""
        self._put(module, new, role, behind=True)

    def put_before(self, module: Module, new: Module, role: str) -> None:
        """Calls ``new`` on the input of ``module``."""
        self._put(module, new, role, behind=False)

    def _put(self, module: Module, new: Module, role: str, behind: bool) -> None:
        new.train(module.training)
        for parent, name in self._holders(module):
            if self._in_chain(parent, module):
                added = f"{role}_{name}"  # a name that leaves those of the other layers as they are
                while added in parent._modules:
                    added += "_"
                pair = [(name, module), (added, new)] if behind else [(added, new), (name, module)]
                items = [(key, child) for key, child in parent._modules.items()]
                at = [key for key, _ in items].index(name)
                items[at : at + 1] = pair
                parent._modules.clear()
                parent._modules.update(items)
            else:
                kind = type(module).__name__.lower()
                pair = [(kind, module), (role, new)] if behind else [(role, new), (kind, module)]
                parent._modules[name] = nn.Sequential(OrderedDict(pair)).train(module.training)

    def swap(self, first: Module, second: Module, roles: tuple[str, str]) -> None:
        """Exchanges two layers of which the second reads the first."""
        for parent, name in self._holders(first):
            other = next((n for p, n in self._holders(second) if p is parent), None)
            if other is not None and self._in_chain(parent, first) and self._in_chain(parent, second):
                order = [key for key in parent._modules if key != name]
                order.insert(order.index(other) + 1, name)
                items = [(key, parent._modules[key]) for key in order]
                parent._modules.clear()
                parent._modules.update(items)
                return
        pair = nn.Sequential(OrderedDict([(roles[1], second), (roles[0], first)])).train(first.training)
        self.remove(second)
        self.replace(first, pair)


def channels_axis(module: Any, rank: int) -> int:
    """The axis of the channels in what a layer gives, for a value of so many axes.

    >>> channels_axis(nn.Conv2d(1, 1, 1), 4), channels_axis(nn.Linear(1, 1), 3), channels_axis(nn.LayerNorm(4), 4)
    (1, 2, 3)
    """
    return rank - 1 if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm | torch.nn.RMSNorm) else 1
