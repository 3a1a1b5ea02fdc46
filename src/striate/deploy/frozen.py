"""The module that :func:`striate.freeze` returns: it checks inputs, runs the program, and describes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError, build
from ..ops.activation import Activation, describe
from ..ops.fused import FusedConv, FusedLinear
from ..ops.layout import FORMATS
from .execute import Executable
from .file import save
from .operators import ARGUMENTS, FUSED_NORM, LOWERINGS, base_of
from .program import Node, Program

__all__ = ["Frozen"]


class Frozen(Module):
    r"""A model that :func:`striate.freeze` made: it computes outputs, and has nothing to train or to change.

    ``frozen(*inputs)``: tensors of the example's shapes, with any batch size, float32 ones on the CPU; returns what the
    model returned. Nothing is kept for a gradient. Results are channels_last where they have four or five axes. Threads
    may call it at once: each gets the bits it would get alone.

    It has no parameters and no ``state_dict``, stays in evaluation mode whatever ``train()`` says, and is saved with
    :meth:`save`. Copies share its weights, which never change.

    Raises ShapeError, DtypeError or ArgumentError for inputs it was not frozen for.

    >>> import striate
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    >>> frozen = striate.freeze(model, torch.ones(1, 3, 8, 8))
    >>> frozen(torch.ones(5, 3, 8, 8)).shape
    torch.Size([5, 8, 6, 6])
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.training = False
        self._executable = Executable(program)

    @property
    def difference(self) -> float:
        """The largest difference from the model's outputs at the time of freezing, relative to their root mean square.
        """
        return self._executable.program.difference

    def forward(self, *inputs: Tensor) -> Any:
        given = self._checked(inputs)
        if torch.is_autocast_enabled("cpu"):
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                return self._executable(given)
        with torch.no_grad():
            return self._executable(given)

    def _checked(self, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
        program = self._executable.program
        sizes: dict[str, int] = {}
        if len(inputs) != len(program.inputs):
            expects = _count(len(program.inputs), "input")
            _refuse(ArgumentTypeError, expects, len(inputs), "Give what the model takes.")
        given = []
        for node, x in zip(program.inputs, inputs, strict=True):
            if not isinstance(x, Tensor):
                hint = "Call torch.as_tensor on it first."
                _refuse(ArgumentTypeError, f"{node.name} to be a tensor", x.__class__.__name__, hint)
            shape, before = node.shape or (), sizes.copy()
            wanted = [
                sizes.setdefault(n, size) if isinstance(n, str) else n for n, size in zip(shape, x.shape, strict=False)
            ]
            if x.dim() != len(shape) or list(x.shape) != wanted:
                hint = "Freeze the model with an example of that shape."
                _refuse(ShapeError, f"{node.name} of shape {_format_shape(shape)}", tuple(x.shape), hint, **before)
            if x.dtype is not node.dtype or not x.is_cpu:
                dtype, got = (str(d).removeprefix("torch.") for d in (node.dtype, x.dtype))
                expects = f"{node.name} of {dtype} on the CPU"
                _refuse(DtypeError, expects, f"{got} on {x.device.type}", "Convert it with .to().")
            if x.requires_grad and torch.is_grad_enabled():
                hint = "Call it under torch.no_grad(), or train with the model it was frozen from."
                _refuse(ArgumentError, f"{node.name} without a gradient", "one that requires it", hint)
            given.append(x.detach().contiguous(memory_format=FORMATS[x.dim()]) if x.dim() in FORMATS else x.detach())
        for symbol, size in sizes.items():
            least, most = program.ranges.get(symbol, (0, None))
            if size < least or (most is not None and size > most):
                bound = f"{symbol} of at least {least}" if size < least else f"{symbol} of at most {most}"
                _refuse(ShapeError, bound, size, "The model was traced for those.")
        return tuple(given)

    # Description.

    def explain(self) -> dict[str, list[tuple[str, str | None]]]:
        """Lists, for each convolution and linear layer on the example's shape, the methods in the order in which they
        are tried, up to the chosen one, each with the reason against it.

        >>> import striate
        >>> frozen = striate.freeze(torch.nn.Conv2d(8, 8, 3), torch.ones(1, 8, 8, 8))
        >>> [methods[-1][1] for methods in frozen.explain().values()]
        [None]
        """
        layers = self._named_layers()
        return {name: layer.explain_methods(self._example(node.kwargs["x"])) for name, node, layer in layers}

    def _named_layers(self) -> list[tuple[str, Node, FusedConv | FusedLinear]]:
        named: dict[str, tuple[Node, FusedConv | FusedLinear]] = {}
        for node, layer in self._executable.layers.items():
            name = node.name
            while name in named:
                name += "'"
            named[name] = node, layer
        return [(name, *of) for name, of in named.items()]

    def _example(self, node: Node) -> Tensor:
        """A tensor of the shape that a node has for the example, expanded from a single number."""
        sizes = self._executable.program.example
        shape = [sizes.get(n, 1) if isinstance(n, str) else n for n in node.shape or ()]
        return torch.empty(1).expand(shape)

    def __repr__(self) -> str:
        program, names = self._executable.program, {node: name for name, node, _ in self._named_layers()}
        rows = [("operator", "of", "method", "output")]
        for node in program.nodes:
            layer = self._executable.layers.get(node)
            if layer is not None:
                method = layer.method(self._example(node.kwargs["x"]))
            else:
                method = "torch" if LOWERINGS.get(node.op) is None and node.op != FUSED_NORM else "striate"
            output = "" if node.shape is None else _format_shape(node.shape)
            rows.append((describe_operator(node), names.get(node, node.name), method, output))
        widths = [max(len(row[k]) for row in rows) for k in range(3)]
        table = ["  ".join([*(f"{row[k]:{widths[k]}}" for k in range(3)), row[3]]).rstrip() for row in rows]
        inputs = ", ".join(
            f"{_format_shape(node.shape or ())} {str(node.dtype).removeprefix('torch.')}" for node in program.inputs
        )
        numbers = sum(c.value.numel() for c in self._executable.constants if isinstance(c.value, Tensor))
        head = f"Frozen: {inputs}; {_count(len(program.nodes), 'operator')}, {numbers:,} numbers"
        return "\n  ".join([head, *table])

    # Methods of a module that a frozen model does not support.

    def state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: a frozen model has no parameters."""
        hint = "Keep the model it was frozen from: that has the state. Save this one with .save(path)."
        _refuse(ArgumentError, "to be saved whole", "a call of state_dict", hint)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: a frozen model has no parameters."""
        hint = "Load it into the model it was frozen from, and freeze that again."
        _refuse(ArgumentError, "its weights to stay", "a call of load_state_dict", hint)

    def train(self, mode: bool = True) -> Frozen:
        """No effect: it stays in evaluation mode, also as a part of a model that trains."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        moved = fn(torch.zeros(1))
        if moved.dtype is not torch.float32 or not moved.is_cpu:
            got = f"{str(moved.dtype).removeprefix('torch.')} on {moved.device.type}"
            _refuse(ArgumentError, "to stay float32 on the CPU", got, "Convert the model it was frozen from.")
        return self

    def __copy__(self) -> Frozen:
        twin = self.__class__.__new__(self.__class__)
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return self.__copy__()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        hint = "Save it with .save(path), and load that with striate.load_frozen(path)."
        _refuse(ArgumentError, "to be kept in a file of numbers and text", "a call of pickle", hint)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one safetensors file: the weights, and the program as JSON in its metadata. A SHA-256 covers each
        byte; there is no code in it.

        A crash at any moment leaves the old file or the new one. ``striate.load_frozen`` reads it.

        Raises CheckpointError if the name does not end in ``.safetensors`` or the file cannot be written.

        >>> import striate, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> frozen = striate.freeze(torch.nn.Linear(2, 1), torch.ones(1, 2))
        >>> frozen.save(folder.name + "/model.safetensors")
        >>> again = striate.load_frozen(folder.name + "/model.safetensors")
        >>> torch.equal(again(torch.ones(3, 2)), frozen(torch.ones(3, 2)))
        True
        """
        save(self._executable.program, path)


def _refuse(error: type[Exception], expects: str, got: Any, hint: str, **facts: Any) -> NoReturn:
    raise error(build("Frozen", expects, got, hint=hint, **facts))


def _format_shape(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def describe_operator(node: Node) -> str:
    """The short name of an operator, with the sum and activation fused into it: conv + sum + relu."""
    if node.op not in ARGUMENTS:
        return base_of(node.op) or node.op
    given, text = node.kwargs, node.op.partition(".")[2]
    text += " + sum" if given.get("residual") is not None else ""
    after = given["activation"]
    if after is not None and node.op != FUSED_NORM:
        after = describe(Activation(*after))
    return f"{text} + {after}" if after else text
