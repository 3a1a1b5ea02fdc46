"""A recording as folding looks at it: a step for each call of a layer, and for each operation outside of layers.

A layer is a convolution, a linear layer or a batch norm with all that it calls, and any other module of torch's or
striate's that calls none. What a step reads was made by other steps, is an input of the model, or is constant.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.lazy import LazyModuleMixin

from ... import source
from ...errors import ArgumentError, build, describe_error
from ...graph.conditions import conditions
from ...graph.recording import WRITTEN, ModuleCall, Operation, Recording, record
from ...nn.norm import BATCH_NORMS
from ..copying import copy_model
from ..root import Root
from .layers import LAYERS, how_changed, is_library
from .run import same_random_numbers, tensors_of

__all__ = ["Step", "Steps", "record_steps"]

PREFIX = "model."
CAUSE = (
    "Fold the parts of the model that can be traced one by one, or take what depends on the input's values out of "
    "forward."
)
# What Python calls an operation, where torch records another name; beside what _function cuts off a name.
FUNCTIONS = {"_to_copy": "to", "_unsafe_view": "view", "addmm": "linear", "cudnn_batch_norm": "batch_norm"}


@dataclass(eq=False)
class Step:
    """The call of a layer, an operation, or what stands for the model's inputs, constants and outputs."""

    name: str  # of the module; else what messages call it
    layer: bool = False  # the call of a layer
    shape: tuple[int, ...] = ()  # of the first tensor that it makes
    writes: bool = False  # an operation that makes no tensor, but writes into the first that it reads
    sources: list[Step] = field(default_factory=list)  # the steps whose tensors it reads
    users: list[Step] = field(default_factory=list)  # the steps that read its tensors, each once

    def take_out(self) -> None:
        """Connects the steps that read this one's tensor to the step whose tensor this one reads first."""
        source = self.sources[0]
        place = source.users.index(self)
        source.users[place : place + 1] = [user for user in self.users if user not in source.users]
        for user in self.users:
            user.sources = [source if step is self else step for step in user.sources]


def record_steps(model: Module, inputs: tuple[Tensor, ...]) -> Steps:
    """The steps of a model, recorded on tensors without values.

    Raises ArgumentError where a recording holds for this input only.
    """
    root = _Flat(copy_model(model, "fold"))
    with same_random_numbers(model):
        if any(isinstance(m, LazyModuleMixin) and m.has_uninitialized_params() for m in root.modules()):
            root(*(x.detach().clone() for x in inputs))  # which gives them their shapes
        try:
            # autograd would only stand in the way: it forbids writing into some views
            recording = record(root.requires_grad_(False), tuple(x.detach().clone() for x in inputs))
        except Exception as error:
            got = describe_error(error)
            raise ArgumentError(build("fold", "a model that can be recorded", got, hint=CAUSE)) from error
    if recording.reason is not None:
        raise ArgumentError(build("fold", "a model that runs on tensors without values", recording.reason, hint=CAUSE))
    # On what a layer asks for within its own call nothing depends that folding changes. Where the conditions cannot be
    # found out, as of quantized layers, there is an error in place of a line.
    asked = conditions(root, inputs, {}, apart=lambda m: isinstance(m, (*LAYERS, *BATCH_NORMS)), exact=False)
    lines = [one for one in asked if re.fullmatch(r".+\.py:\d+", one)]
    if lines:
        got = f"one{source.at(Path(lines[0]).name)}"
        raise ArgumentError(build("fold", "a model whose code asks for no size in a condition", got, hint=CAUSE))
    return Steps(recording)


class _Flat(Root):
    """A model that returns its tensors in one list, whatever it holds them in."""

    def forward(self, *inputs: Any) -> list[Tensor]:
        return tensors_of(self.model(*inputs))


class Steps:
    """The steps of a recording, in order."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.calls = Counter(map(_name, recording.calls))  # of each module, by its name
        self.within: dict[str, str] = {}  # a module that a layer calls → that layer
        self.all: list[Step] = []
        self._input, self._constant = Step("the model's input"), Step("a constant")
        self._output = Step("the model's output")
        self._readers: dict[int, list[Step]] = {}  # a value that no step made → the steps that read it
        self._named = _named_values(recording)
        self._makers: dict[int, Step] = dict.fromkeys(recording.inputs, self._input)
        self._functions: list[Operation] = []

        layers = [self._layer_of(call) for call in recording.calls]  # of each call, the layer's that it is part of
        inside: dict[int, list[Operation]] = {}
        events: list[tuple[int, int, Any]] = []
        for call, layer in zip(recording.calls, layers, strict=True):
            if layer is call:
                events.append((call.start, call.index, call))
            elif layer is not None:
                self.within[_name(call)] = _name(layer)
        for operation in recording.operations:
            layer = None if operation.call is None else layers[operation.call]
            if layer is None:
                events.append((operation.index, len(layers), operation))
            else:
                inside.setdefault(layer.index, []).append(operation)
        events.sort(key=lambda event: event[:2])
        # first who makes what: a call may read what is joined from parts only when it begins
        steps = [self._step(one, inside) for *_, one in events]
        for step, (*_, one) in zip(steps, events, strict=True):
            self._read(step, one, inside)
        for value in recording.outputs:
            self._connect(self._output, value)

    def functions(self, part: str) -> list[str]:
        """The names of the operations outside of layers that have ``part`` in them, numbered from the second on."""
        found: Counter[str] = Counter()
        names = []
        for operation in self._functions:
            name = _function(operation)
            if part in name and not self._is_of_instances(operation):
                names.append(f"{name}_{found[name]}" if found[name] else name)
                found[name] += 1
        return names

    def is_read_outside(self, layer: str, key: str) -> bool:
        """Whether a step reads a parameter that belongs to a layer, other than a layer that holds it."""
        tensor = getattr(self._module(layer), key)
        readers = self._readers.get(self._named.get(id(tensor), -1), [])
        return any(
            not (step.layer and any(p is tensor for p in self._module(step.name)._parameters.values()))
            for step in readers
        )

    def _module(self, name: str) -> Any:
        return self.recording.model.get_submodule(PREFIX + name if name else PREFIX[:-1])

    def _layer_of(self, call: ModuleCall) -> ModuleCall | None:
        """The outermost layer's call that a call is or is part of."""
        parent = None if call.parent is None else self._layer_of(self.recording.calls[call.parent])
        if parent is not None:
            return parent
        if isinstance(call.module, (*LAYERS, *BATCH_NORMS)):
            return call
        if call.has_calls or not is_library(call.module) or isinstance(call.module, torch.nn.Sequential):
            return None
        # which does nothing, as a norm that was folded
        is_nothing = type(call.module) is torch.nn.Identity and how_changed(call.module, "it") is None
        return None if is_nothing else call

    def _step(self, one: ModuleCall | Operation, inside: dict[int, list[Operation]]) -> Step:
        values = self.recording.values
        shape = values[one.outputs[0]].shape if one.outputs else ()
        if isinstance(one, ModuleCall):
            step = Step(_name(one), layer=True, shape=shape)
            made = [value for operation in inside.get(one.index, []) for value in operation.outputs]
        else:
            step = Step(self._word(one), shape=shape, writes=_writes(one))
            self._functions.append(one)
            made = list(one.outputs)
        self._makers.update(dict.fromkeys(made, step))
        self.all.append(step)
        return step

    def _word(self, operation: Operation) -> str:
        if operation.name == WRITTEN:
            writer = self.recording.maker(operation.inputs[1])
            return WRITTEN if writer is None else self._word(writer)
        return _function(operation)

    def _read(self, step: Step, one: ModuleCall | Operation, inside: dict[int, list[Operation]]) -> None:
        for value in one.inputs:
            self._connect(step, value)
        if isinstance(one, Operation):
            return
        for operation in inside.get(one.index, []):
            for value in operation.inputs:
                if value not in one.inputs and self._makers.get(value) is not step:
                    self._connect(step, value)
        for value in one.outputs:  # what it was given and gives back unchanged: those after it read it from here
            if self._makers.get(value) is not step:
                self._makers[value] = step

    def _connect(self, step: Step, value: int) -> None:
        maker = self._makers.get(value, self._constant)
        step.sources.append(maker)
        if step not in maker.users:
            maker.users.append(step)
        if maker is self._constant:
            self._readers.setdefault(value, []).append(step)

    def _is_of_instances(self, operation: Operation) -> bool:
        """Whether a batch norm is a part of an instance norm, which makes of N images with C channels one with N·C."""
        values, x = self.recording.values, operation.inputs[0]
        view = self.recording.maker(x)
        if view is None or view.name != "aten.view" or not operation.arguments.get("training"):
            return False
        before, after = values[view.inputs[0]].shape, values[x].shape
        return after[:1] == (1,) and len(before) > 1 and after[1:] == (before[0] * before[1], *before[2:])


def _name(call: ModuleCall) -> str:
    return call.path[len(PREFIX) :] if call.path else "the recorded root"


def _writes(operation: Operation) -> bool:
    return bool(operation.inputs) and (operation.name.endswith("_") or operation.name == WRITTEN)


def _function(operation: Operation) -> str:
    """Nearly what Python calls an operation; ``y[0] = 1`` is "fill_"."""
    name = operation.name.partition(".")[2]
    if name == "convolution":
        transposed = "_transpose" if operation.arguments.get("transposed") else ""
        return f"conv{transposed}{len(operation.arguments['stride'])}d"
    name = FUNCTIONS.get(name, name)
    return name.lstrip("_").removeprefix("native_").removesuffix("_with_indices")


def _named_values(recording: Recording) -> dict[int, int]:
    """The values of the model's parameters and buffers, by the tensors' ids."""
    model = recording.model
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    return {id(tensors[value.name]): value.index for value in recording.values if value.name is not None}
