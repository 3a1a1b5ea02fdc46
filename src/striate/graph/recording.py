"""Records what a model does with an input: every operation, the tensors it reads and writes, and the layer that called
it.

The model runs once on tensors that have shapes but no values (torch's fake tensors): the recording contains branches,
shared layers and functions called in between as they happen, and no arithmetic is done. If code needs a value (``if
x.sum() > 0``), which such a tensor does not have, the model runs on one input with values instead, and
:attr:`Recording.reason` says so.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import Module
from torch.utils.weak import WeakTensorKeyDictionary

from .. import source
from .._torch import TorchDispatchMode, fake_tensors, tree_leaves, tree_map
from ..errors import ArgumentError, ArgumentTypeError, ShapeError, build
from .conditions import conditions
from .optable import is_free, is_kind, kind_of
from .running import Shape, arguments, describe_failure, tensors_like, unchanged

__all__ = ["WRITTEN", "ModuleCall", "Operation", "Recording", "Ref", "Saved", "Value", "record"]

WRITTEN = "written"  # the operation that represents how a write into a view changes the tensors that share its memory


@dataclass(eq=False)
class Value:
    """A tensor: an input, a parameter or buffer of the model, a constant, or the output of an operation."""

    index: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    bytes: int
    name: str | None = None  # if it is a parameter or buffer of the model
    is_parameter: bool = False
    operation: int | None = None  # the operation that computed it


@dataclass(frozen=True)
class Ref:
    """Represents a tensor among the arguments of an operation, by the index of its value."""

    value: int


@dataclass(eq=False)
class Operation:
    """One call of a torch operator."""

    index: int
    name: str  # as "aten.convolution"
    arguments: dict[str, Any]  # by the names in the operator's schema, with Ref for tensors
    inputs: tuple[int, ...]  # indices of values, as are outputs
    outputs: tuple[int, ...]
    needs: tuple[bool, ...]  # for each input, whether backward from the model's outputs computes its gradient
    call: int | None  # the innermost module call around it
    line: str | None  # the line of the model's code, as "net.py:12"

    @property
    def is_free(self) -> bool:
        """Whether it costs nothing: it only reads the same values in another way, or creates a tensor without reading
        one.
        """
        return is_free(self.name)

    @property
    def kind(self) -> str:
        """Its kind in the op table."""
        return kind_of(self.name)

    def is_a(self, *kinds: str) -> bool:
        """Whether it is of one of these kinds of the op table."""
        return is_kind(self.name, *kinds)


@dataclass(eq=False)
class ModuleCall:
    """One call of a module."""

    index: int
    path: str
    module: Module
    number: int  # number among the calls of this module, from 0
    training: bool
    line: str | None
    start: int  # index of the first operation within it
    parent: int | None = None  # the call that contains it
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    has_calls: bool = False  # whether it calls other modules


@dataclass(eq=False)
class Saved:
    """A tensor that autograd saves for the backward pass."""

    bytes: int
    call: int | None
    operation: int  # the operation that saves it


@dataclass(eq=False)
class Recording:
    """The values, operations, module calls and saved tensors of one run, each in order."""

    model: Module
    training: bool
    values: list[Value] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    calls: list[ModuleCall] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    reason: str | None = None  # why it holds for one input only; None if it holds for any of these shapes
    # Lines of the model's code, as "/path/net.py:12", that use a size in a condition, so that the recording may hold
    # for these shapes only; or why they could not be found; None if record() was not asked for them.
    conditions: tuple[str, ...] | None = None

    def leaf_of(self, operation: Operation) -> ModuleCall | None:
        """The call that an operation belongs to, if that calls no other module."""
        call = None if operation.call is None else self.calls[operation.call]
        return None if call is None or call.has_calls else call

    def maker(self, value: int) -> Operation | None:
        """The operation that computed a value; None for inputs, constants, parameters and buffers."""
        made_by = self.values[value].operation
        return None if made_by is None else self.operations[made_by]

    def origin(self, value: int) -> int:
        """The value that a tensor is a view of, through any number of free operations; else the tensor itself."""
        while (op := self.maker(value)) is not None and op.is_free and op.inputs:
            value = op.inputs[0]
        return value

    def readers(self) -> dict[int, list[Operation]]:
        """Maps each value to the operations that read it."""
        found: dict[int, list[Operation]] = {}
        for operation in self.operations:
            for value in dict.fromkeys(operation.inputs):
                found.setdefault(value, []).append(operation)
        return found


def record(model: Module, example: Any, symbolic: bool = False) -> Recording:
    """Runs ``model`` once and records what happens.

    example: a shape, a tensor, or a tuple or dictionary of these and of other arguments. Tensors for shapes are created
    with the dtype and on the device of the model's first weight, which may be "meta".
    symbolic: whether to find conditions on sizes too (:mod:`striate.graph.conditions`), by a second run.
    The model does not change: parameters, running statistics, mode, and all other attributes of its modules are
    restored.

    Raises ShapeError if the model's forward fails on tensors of these shapes, ArgumentTypeError for anything but a
    module.

    >>> recording = record(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()), (1, 3, 8, 8))
    >>> [operation.name for operation in recording.operations], recording.values[recording.outputs[0]].shape
    (['aten.convolution', 'aten.relu'], (1, 8, 6, 6))
    """
    if not isinstance(model, Module):
        raise ArgumentTypeError(
            build("inspect", "a torch.nn.Module", type(model).__name__, hint="Give the model itself.")
        )
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        fix = "Inspect the model that it was made of."
        raise ArgumentTypeError(build("inspect", "a model whose code is Python", "a torch.jit.ScriptModule", hint=fix))
    if isinstance(model, torch.nn.DataParallel):
        raise ArgumentTypeError(
            build("inspect", "a model by itself", "a torch.nn.DataParallel", hint="Inspect its .module.")
        )
    args, kwargs = arguments(example)
    lazy = [n for n, p in model.named_parameters() if isinstance(p, torch.nn.parameter.UninitializedParameter)]
    if lazy:
        raise ArgumentError(
            build(
                "inspect", "a model whose parameters exist", f"{lazy[0]} without a shape", hint="Call the model once."
            )
        )
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    # It would print a traceback for what is reported in one sentence here.
    was_disabled, logger.disabled = logger.disabled, True
    try:
        recording = _run(model, args, kwargs, fake=True)
        if symbolic:
            recording.conditions = conditions(model, args, kwargs)
        return recording
    except (Exception, SystemExit) as error:
        why, fake_error = describe_failure(error), error
    finally:
        logger.disabled = was_disabled
    try:
        recording = _run(model, args, kwargs, fake=False)
    except (Exception, SystemExit) as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tree_leaves((args, kwargs)) if isinstance(t, (Tensor, Shape)))
        of_shapes = isinstance(error, (RuntimeError, ValueError))
        fix = (
            "Give the shape the model is for, batch and channels first."
            if of_shapes
            else "Call it on such an input to see why."
        )
        given = f"x {shapes}" if shapes else "no tensor"
        expects = f"a forward that runs on {given}"
        raise ShapeError(build("inspect", expects, describe_failure(error), hint=fix)) from fake_error
    recording.reason = why
    return recording


def _line() -> str | None:
    """The line of the model's code that is running, as "/path/net.py:12"; None if there is none."""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_code is not _run.__code__:  # frames beyond belong to the caller of record()
        if source.is_users(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return None


def _run(model: Module, args: tuple[Any, ...], kwargs: dict[str, Any], fake: bool) -> Recording:
    recording = Recording(model, model.training)
    with ExitStack() as stack:
        stack.enter_context(unchanged(model))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        mode = fake_tensors(allow_non_fake_inputs=True) if fake else None
        if mode is not None:
            stack.enter_context(mode)
        else:
            torch.manual_seed(0)

        def own(t: Tensor) -> Tensor:  # parameters are only read, buffers may be written to
            return (
                mode.from_tensor(t)
                if mode is not None
                else t
                if isinstance(t, torch.nn.Parameter)
                else t.detach().clone()
            )

        like = tensors_like(model)

        def given(one: Any) -> Any:
            if isinstance(one, Shape):
                return torch.empty(one.shape, **like) if mode is not None else torch.randn(one.shape, **like)
            if isinstance(one, Tensor) and mode is not None:
                return mode.from_tensor(one)
            return one

        tensors: dict[str, Tensor] = {}
        same: dict[int, Tensor] = {}
        for name, tensor in [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]:
            tensors[name] = same.setdefault(id(tensor), own(tensor) if id(tensor) not in same else tensor)
        args, kwargs = tree_map(given, (args, kwargs))
        recorder = _Recorder(recording)
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        for name, tensor in tensors.items():
            recorder.add(tensor, name=name, is_parameter=name in parameters)
        recording.inputs = tuple(recorder.add(t).index for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
        stack.enter_context(_hooks(model, recorder))
        stack.enter_context(torch.enable_grad())
        with recorder, saved_tensors_hooks(recorder.keep, lambda t: t):
            y = torch.func.functional_call(model, tensors, args, kwargs)
        recording.outputs = tuple(recorder.find(t).index for t in _tensors(y))
        if recording.outputs:
            recorder.settle({recorder.find(t).index for t in _tensors(y) if t.requires_grad})
    return recording


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@contextmanager
def _hooks(model: Module, recorder: _Recorder) -> Iterator[None]:
    handles = []
    for path, module in model.named_modules():
        if "parametrizations" in path.split("."):
            continue  # the computation of a layer's weight belongs to the layer
        handles.append(module.register_forward_pre_hook(recorder.enter(path), with_kwargs=True))
        handles.append(module.register_forward_hook(recorder.leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Recorder(TorchDispatchMode):
    def __init__(self, recording: Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = recording
        self.known: Any = WeakTensorKeyDictionary()  # tensor → value
        self.stack: list[ModuleCall] = []
        self.numbers: dict[Module, int] = {}
        self.stored: set[int] = set()  # storages of parameters, buffers, and tensors that are saved already
        # Operations that autograd did not track: under no_grad, or within an autograd.Function of the model.
        self.hidden: set[int] = set()
        self.written: dict[int, Value] = {}  # storage → the value after the last write into it

    # ----------------------------------------------------------------------------------------------------------- values

    def add(
        self, tensor: Tensor, name: str | None = None, is_parameter: bool = False, operation: int | None = None
    ) -> Value:
        recording = self.recording
        if name is not None and tensor in self.known:  # shared between modules
            return self.known[tensor]
        size = tensor.numel() * tensor.element_size()
        value = Value(len(recording.values), tuple(tensor.shape), tensor.dtype, size, name, is_parameter, operation)
        recording.values.append(value)
        self.known[tensor] = value
        if name is not None:
            self.stored.add(_storage(tensor))
        return value

    def find(self, tensor: Tensor) -> Value:
        value = self.known.get(tensor)
        if value is None:
            return self.add(tensor)  # a constant of the model's code
        last = self.written.get(_storage(tensor)) if self.written else None
        if last is None or last.operation is None or value is last:
            return value
        if value.operation is not None and value.operation >= last.operation:
            return value
        return self._join(tensor, value, last)  # memory that it shares was written to since

    # ------------------------------------------------------------------------------------------------------------ calls

    def enter(self, path: str) -> Any:
        def hook(module: Module, args: Any, kwargs: Any) -> None:
            number = self.numbers.get(module, 0)
            self.numbers[module] = number + 1
            if self.stack:
                self.stack[-1].has_calls = True
            recording = self.recording
            start = len(recording.operations)
            call = ModuleCall(len(recording.calls), path, module, number, module.training, _line(), start)
            call.parent = self.stack[-1].index if self.stack else None
            call.inputs = tuple(self.find(t).index for t in _tensors((args, kwargs)))
            self.recording.calls.append(call)
            self.stack.append(call)

        return hook

    def leave(self, module: Module, args: Any, y: Any) -> None:
        call = self.stack.pop()
        call.outputs = tuple(self.find(t).index for t in _tensors(y))
        name = getattr(type(module), "recorded_as", None)
        if name is not None:
            self._replace_operations(call, name)

    def _replace_operations(self, call: ModuleCall, name: str) -> None:
        """Replaces the operations of a layer's call by a single one: theirs are details of how the layer is
        implemented.
        """
        operations = self.recording.operations
        inside = operations[call.start :]
        asked = {v: need for op in inside for v, need in zip(op.inputs, op.needs, strict=True)}
        own = {v: need for v, need in asked.items() if v in call.inputs or self.recording.values[v].is_parameter}
        del operations[call.start :]
        operation = Operation(
            call.start,
            name,
            {"layer": call.module},
            tuple(own),
            call.outputs,
            tuple(own.values()),
            call.index,
            call.line,
        )
        operations.append(operation)
        for value in call.outputs:
            self.recording.values[value].operation = operation.index

    # ------------------------------------------------------------------------------------------------------- operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = f"{func.namespace}.{func._schema.name.split('::')[1]}"
        if is_kind(name, "size_query"):
            return func(*args, **kwargs)
        tensors = _tensors((args, kwargs))
        read = [self.find(t).index for t in tensors]
        needs = tuple(t.requires_grad for t in tensors)
        defaults = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
        named = defaults | {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | kwargs
        arguments = {key: _plain(value, self) for key, value in named.items()}
        y = func(*args, **kwargs)
        recording = self.recording
        operation = Operation(
            len(recording.operations),
            name,
            arguments,
            tuple(read),
            (),
            needs,
            self.stack[-1].index if self.stack else None,
            _line(),
        )
        recording.operations.append(operation)
        operation.outputs = tuple(self.add(t, operation=operation.index).index for t in _tensors(y))
        if not torch.is_grad_enabled():
            self.hidden.add(operation.index)
        if name.endswith("_") and tensors and operation.outputs:
            base, part = tensors[0]._base, recording.values[operation.outputs[0]]
            self.written[_storage(tensors[0])] = (
                part if base is None else self._join(base, self.known.get(base) or self.add(base), part)
            )
        return y

    def _join(self, tensor: Tensor, value: Value, part: Value) -> Value:
        """Adds an operation by which a tensor contains what was written into memory that it shares."""
        call = self.stack[-1].index if self.stack else None
        index, inputs = len(self.recording.operations), (value.index, part.index)
        written = Operation(index, WRITTEN, {}, inputs, (), (True, True), call, _line())
        self.recording.operations.append(written)
        made = self.add(tensor, operation=written.index)
        written.outputs = (made.index,)
        return made

    # --------------------------------------------------------------------------------------------------------- backward

    def settle(self, asked: set[int]) -> None:
        """Restricts ``needs`` to the gradients that backward from these values computes.

        Autograd does not track operations within an autograd.Function of the model; they count as if it did.
        """
        values = self.recording.values
        for operation in reversed(self.recording.operations):
            if asked.isdisjoint(operation.outputs):
                operation.needs = (False,) * len(operation.inputs)
            elif operation.index in self.hidden:
                made = (values[v].operation is not None for v in operation.inputs)
                operation.needs = tuple(need or m for need, m in zip(operation.needs, made, strict=True))
            asked.update(v for v, need in zip(operation.inputs, operation.needs, strict=True) if need)

    def keep(self, tensor: Tensor) -> Tensor:
        storage = _storage(tensor)
        if storage not in self.stored:
            self.stored.add(storage)
            value = self.known.get(tensor)
            last = len(self.recording.operations) - 1
            made_now = value is not None and value.operation == last
            call = self.stack[-1].index if self.stack else None
            size = tensor.untyped_storage().nbytes()
            self.recording.saved.append(Saved(size, call, last if made_now else last + 1))
        return tensor


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _plain(given: Any, recorder: _Recorder) -> Any:
    if isinstance(given, Tensor):
        return Ref(recorder.find(given).index)
    if isinstance(given, (list, tuple)):
        return [_plain(one, recorder) for one in given]
    return given
