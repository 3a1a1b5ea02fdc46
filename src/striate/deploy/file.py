"""Saves programs: a safetensors file contains the constants, and the operators as JSON in its metadata.

A file contains no code. When it is read, each operator is checked to be one that only computes
(:func:`.operators.operator_of`); any other is refused.
"""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import tensorfile
from ..errors import CheckpointError, build, describe_error
from ..ops import conv
from ..ops.activation import NAMES, NONE, clamp, operator_arguments
from ..ops.layout import FORMATS
from .operators import ARGUMENTS, CONSTANTS, FUSED_CONV, FUSED_LINEAR, draws, operator_of
from .program import Node, Program, Refusal, walk

__all__ = ["FORMAT", "decode", "encode", "not_running", "read", "save"]

# The format version of the program in a file, increased with each change that older code would misread. In format 2 the
# method of a convolution is a number, in format 1 it was a name. Format 3 has the new names of RENAMED. In format 4
# the activation of a convolution or linear layer is a name and numbers, before it was the bounds of a clamp.
FORMAT = 4
# Maps names of operators in earlier formats to those in format 3, and names of methods in format 1 to the present ones.
RENAMED = {"striate.conv_input.default": "striate.conv_backward_data.default"}
RENAMED_METHODS = {"unfolded": "implicit_gemm"}
# The values of torch that may be arguments in a program, by their names in files.
VALUES: dict[str, Any] = {
    **{str(v).removeprefix("torch."): v for v in tensorfile.DTYPES.values()},
    **{
        str(v).removeprefix("torch."): v
        for v in (torch.contiguous_format, torch.preserve_format, *FORMATS.values(), torch.strided)
    },
    "cpu": torch.device("cpu"),
}


def save(program: Program, path: str | os.PathLike[str]) -> None:
    """Writes a program so that a crash at any moment leaves the old file or the new one.

    Raises CheckpointError if the name does not end in ``.safetensors``, the program holds a value that no file can, or
    the file cannot be written.
    """
    tensorfile.check_name(Path(path))
    metadata, tensors = encode(program)
    tensorfile.write(Path(path), tensorfile.encode(tensors, metadata))


def read(path: Path) -> Program:
    """Reads the program that :func:`save` wrote. A file of an older format is converted.

    Raises CheckpointError, in one line, for a file that is missing, damaged (even in a single bit), of another kind, of
    a newer striate, or with an unknown operator or method.
    """

    def check(places: dict[str, tensorfile.Place], metadata: dict[str, Any]) -> None:
        format = metadata.get("frozen")
        if type(format) is not int:
            hint = "Load a checkpoint with striate.training.load, or freeze its model."
            raise _refusal(path, "a file of something else", hint)
        if format > FORMAT:
            got = f"one of format {format}, where this striate knows up to {FORMAT}"
            raise _refusal(path, got, "Use a newer striate.")

    try:
        tensors, metadata = tensorfile.read(path, check)
    except tensorfile.Damaged as found:
        raise _refusal(path, str(found)) from None
    try:
        return decode(metadata, tensors)
    except Refusal as unknown:
        raise _refusal(path, *unknown.args) from None
    except Exception as error:
        raise not_running(path, error) from None


def not_running(path: Path, error: Exception) -> CheckpointError:
    """The error for a sound file whose program cannot be read or run."""
    return _refusal(path, f"a graph that does not run ({describe_error(error)})")


def _refusal(path: Path, got: str, hint: str = "Copy the file afresh, or freeze the model again.") -> CheckpointError:
    return CheckpointError(build("load_frozen", "a sound frozen model", got, path=path, hint=hint))


def encode(program: Program) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Encodes a program as JSON types, and the tensors that they refer to by name.

    >>> x = Node("input", shape=("N", 3), dtype=torch.float32, name="input 0")
    >>> y = Node("aten.relu.default", (x,), shape=("N", 3), name="relu")
    >>> encode(Program([x], [y], output=y))[0]["nodes"]
    [{'op': 'aten.relu.default', 'args': {'tuple': [{'node': 0}]}, 'kwargs': {}, 'shape': ('N', 3), 'name': 'relu'}]
    """
    tensors: dict[str, Tensor] = {}
    names: dict[Node, str] = {}
    for constant in program.constants():
        name = constant.name or "constant"
        names[constant] = name = name if constant.name not in tensors else f"{name}.{len(tensors)}"
        tensors[name] = constant.value
    numbers = {node: number for number, node in enumerate([*program.inputs, *program.nodes])}

    def plain(value: Any) -> Any:
        if isinstance(value, Node):
            return {"tensor": names[value]} if value.op == "constant" else {"node": numbers[value]}
        if isinstance(value, tuple | list):
            return {"tuple" if isinstance(value, tuple) else "list": [plain(v) for v in value]}
        if isinstance(value, dict):
            return {"dict": {key: plain(v) for key, v in value.items()}}
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": str(value)}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        found = [name for name, known in VALUES.items() if type(known) is type(value) and known == value]
        if not found:
            got, hint = f"{type(value).__name__} {value}", "Freeze the parts of the model without it."
            raise CheckpointError(build("save", "a graph of numbers, text and tensors", got, hint=hint))
        return {"torch": found[0]}

    nodes = [
        {
            "op": node.op,
            "args": plain(node.args),
            "kwargs": {key: plain(value) for key, value in node.kwargs.items()},
            "shape": node.shape,
            "name": node.name,
        }
        for node in program.nodes
    ]
    inputs = [
        {"shape": node.shape, "dtype": str(node.dtype).removeprefix("torch."), "name": node.name}
        for node in program.inputs
    ]
    rest = {"ranges": program.ranges, "example": program.example, "difference": plain(program.difference)}
    return {"frozen": FORMAT, "inputs": inputs, "nodes": nodes, "output": plain(program.output), **rest}, tensors


def decode(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> Program:
    """Decodes the result of :func:`encode`.

    Raises Refusal for an operator or method that this striate does not have, and any other exception for invalid data.
    """
    program = Program()
    known: list[Node] = []
    constants: dict[str, Node] = {}

    def value_of(plain: Any) -> Any:
        if plain is None or isinstance(plain, bool | int | float | str):
            return plain
        ((kind, inner),) = plain.items()
        if kind == "node" and type(inner) is int and inner >= 0:
            return known[inner]
        if kind == "tensor":
            return constants.setdefault(
                inner, Node("constant", name=inner, shape=tuple(tensors[inner].shape), value=tensors[inner])
            )
        if kind in ("tuple", "list"):
            return (tuple if kind == "tuple" else list)(map(value_of, inner))
        if kind == "dict":
            return {str(key): value_of(v) for key, v in inner.items()}
        if kind == "float":
            return float(inner)
        if kind == "torch":
            return VALUES[inner]
        raise ValueError(f"a {kind} in a graph")

    def shape_of(plain: Any) -> tuple[int | str, ...] | None:
        return None if plain is None else tuple(n if type(n) is int and n >= 0 else str(n) for n in plain)

    for one in metadata["inputs"]:
        known.append(Node("input", shape=shape_of(one["shape"]), dtype=VALUES[one["dtype"]], name=str(one["name"])))
    program.inputs = known.copy()
    for one in metadata["nodes"]:
        args, kwargs = value_of(one["args"]), {str(key): value_of(value) for key, value in one["kwargs"].items()}
        op = str(one["op"])
        op = RENAMED.get(op, op) if metadata["frozen"] < 3 else op
        if metadata["frozen"] < 4:
            args, kwargs = _with_activation(op, args, kwargs)
        node = Node(op, args, kwargs, shape_of(one["shape"]), name=str(one["name"]))
        _check_operator(node)
        if metadata["frozen"] == 1 and node.op.startswith("striate.conv"):
            node.args, node.kwargs = walk(partial(_method_number, node.op), (node.args, node.kwargs))
        known.append(node)
        program.nodes.append(node)
    program.output = value_of(metadata["output"])
    program.ranges = {
        str(k): (int(least), None if most is None else int(most)) for k, (least, most) in metadata["ranges"].items()
    }
    program.example = {str(k): int(v) for k, v in metadata["example"].items()}
    program.difference = float(value_of(metadata["difference"]))
    return program


def _check_operator(node: Node) -> None:
    """Raises Refusal for an operator that may not run, and ValueError for wrong arguments of a fused operator."""
    if node.op not in ARGUMENTS:
        if operator_of(node.op) is None or draws(node):
            got = f"operator {node.op!r}, which is not one it runs"
            raise Refusal(got, "Use the striate and torch it was frozen with.")
        return
    wanted = ARGUMENTS[node.op]
    fixed = [node.kwargs.get(key) for key in CONSTANTS if key in wanted]
    constant = all(value is None or (isinstance(value, Node) and value.op == "constant") for value in fixed)
    if node.args or node.kwargs.keys() != set(wanted) or not constant:
        raise ValueError(f"arguments that {node.op} does not have")
    activation = node.kwargs["activation"]
    if node.op in (FUSED_CONV, FUSED_LINEAR) and activation is not None and activation[0] not in NAMES:
        got = f"activation {activation[0]!r} of {node.op}, which is not one it has"
        raise Refusal(got, "Use the striate it was frozen with.")


def _with_activation(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Converts the arguments of an operator from format 3, in which each activation is a clamp, to 4."""
    if op in (FUSED_CONV, FUSED_LINEAR):
        low, high = kwargs["low"], kwargs["high"]
        bounds = clamp(-math.inf if low is None else low, math.inf if high is None else high)
        rest = {name: value for name, value in kwargs.items() if name not in ("low", "high")}
        return args, {**rest, "activation": None if bounds == NONE else bounds}
    if op == "striate.linear.default":
        number = operator_arguments(NONE)[0]
        return ((*args[:3], number, *args[3:]), kwargs) if len(args) > 3 else (args, {**kwargs, "activation": number})
    return args, kwargs


def _method_number(op: str, value: Any) -> Any:
    """Converts an argument of a convolution from format 1 to 2. Its only string argument is the name of the method."""
    if not isinstance(value, str):
        return value
    name = RENAMED_METHODS.get(value, value)
    if name not in conv.NUMBERS:
        raise Refusal(f"method {value!r} of {op}, which is not one it has", "Use the striate it was frozen with.")
    return conv.NUMBERS[name]
