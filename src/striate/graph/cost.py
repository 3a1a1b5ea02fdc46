"""Counts the multiply-adds of an operation on the recording, forward and backward.

A multiply-add (MAC) is one product added to a sum. Operations that consist of them are counted: convolutions and
transposed convolutions, matrix products and attention. FLOPs are 2 for each MAC; neither number includes biases,
activations, norms and pooling.

A convolution has two counts: ``macs`` includes all taps, also those that fall into the padding, as is usual;
``macs_inside`` only the taps on the input, which are those that a direct convolution multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

from ..window import Axis, Window
from .optable import Column
from .recording import Operation, Recording, Ref

__all__ = ["FLOPS_PER_MAC", "Macs", "backward_macs", "conv_macs", "macs", "macs_inside"]

FLOPS_PER_MAC = 2


class Macs(NamedTuple):
    """Multiply-adds: with all taps, and only with those on the input."""

    all: int
    inside: int


def conv_macs(window: Window, samples: int, channels: int, filters: int, groups: int = 1) -> Macs:
    r"""The multiply-adds of a convolution of (samples, channels, \*input) with ``filters`` filters, or of a locally
    connected layer: ``samples · filters · channels / groups`` times the number of taps of all outputs. For a transposed
    convolution the window is that of its adjoint, which reads the output at each position of the input.

    >>> axis = Axis(input=5, output=5, size=3, before=1, after=1)
    >>> conv_macs(Window((axis, axis)), 1, 2, 4)
    Macs(all=1800, inside=1352)
    """
    each = samples * filters * (channels // groups)
    return Macs(each * prod(window.output) * prod(window.size), each * window.tap_count)


def macs(recording: Recording, op: Operation) -> int | None:
    """The forward multiply-adds of one operation, with all taps; None if they are not known.

    >>> from striate.graph.recording import record
    >>> from torch.nn import Conv2d
    >>> recording = record(Conv2d(3, 10, 5, padding=2), (1, 3, 32, 32))
    >>> macs(recording, recording.operations[0]), macs_inside(recording, recording.operations[0])
    (768000, 711480)
    """
    counted = _count(recording, op)
    return None if counted is None else counted.all


def macs_inside(recording: Recording, op: Operation) -> int | None:
    """The forward multiply-adds without the taps that fall into the padding; None if they are not known."""
    counted = _count(recording, op)
    return None if counted is None else counted.inside


def _count(recording: Recording, op: Operation) -> Macs | None:
    if not op.outputs:
        return Macs(0, 0)
    count = COUNTS.get(op.name)
    if count is not None:
        return count(recording, op)
    return Macs(0, 0) if op.name.startswith("aten.") else None


def backward_macs(recording: Recording, op: Operation) -> int | None:
    """The multiply-adds of its gradients, with all taps: the gradient of each factor that needs one takes as many as
    forward.
    """
    forward = macs(recording, op)
    if not forward:
        return forward
    if op.is_a("attention"):  # backward computes five products, forward two
        return forward * 5 // 2 if any(op.needs[:3]) else 0
    if op.is_a("recurrent"):
        of_input, of_state = _recurrent(recording, op)
        x, input_weight, state_weight, _, _, state, *_ = op.needs
        # An initial state of zeros needs no gradient, which saves one step.
        steps = recording.values[op.inputs[0]].shape[0]
        through = of_state if state else of_state // max(1, steps) * (steps - 1)
        return of_input * (x + input_weight) + of_state * state_weight + through if any(op.needs) else 0
    names = FACTORS.get(op.name)
    factors = op.inputs[:2] if names is None else [v for v in (_ref(op, name) for name in names) if v is not None]
    asked = {value: need for value, need in zip(op.inputs, op.needs, strict=True)}
    return forward * sum(asked.get(value, False) for value in factors)


# -------------------------------------------------------------------------------------------------- by kind of operator

Count = Callable[[Recording, Operation], "Macs | None"]
COUNTS: Column[Count] = Column("multiply-adds")
FACTORS: Column[tuple[str, str]] = Column("what is multiplied, by the names of the arguments")

FACTORS.of("aten.mm", "aten.bmm")(("self", "mat2"))
FACTORS.of("aten.addmm")(("mat1", "mat2"))
FACTORS.of("aten.baddbmm")(("batch1", "batch2"))
FACTORS.of("striate.linear")(("x", "weight"))
FACTORS.of("aten.mv")(("self", "vec"))
FACTORS.of("aten.addmv")(("mat", "vec"))
FACTORS.of("aten.dot")(("self", "tensor"))
FACTORS.of("aten.vdot")(("self", "other"))


@COUNTS.of_kinds("convolution")
def _convolution(recording: Recording, op: Operation) -> Macs:
    x, weight, y = (recording.values[v].shape for v in (*op.inputs[:2], op.outputs[0]))
    dims, arguments = len(weight) - 2, op.arguments
    # The adjoint of a transposed convolution reads its output.
    source, target = (y, x) if arguments.get("transposed") else (x, y)
    lists = (_each(arguments.get(name), dims, one) for name, one in (("stride", 1), ("dilation", 1), ("padding", 0)))
    stride, dilation, padding = lists
    sizes = zip(source[-dims:], target[-dims:], weight[2:], stride, dilation, padding, padding, strict=True)
    window = Window(tuple(Axis(*of_axis) for of_axis in sizes))
    samples = prod(target[:-dims]) // max(1, target[-dims - 1])
    return conv_macs(window, samples, weight[1], target[-dims - 1])


@COUNTS.of_kinds("local_convolution")
def _local_convolution(recording: Recording, op: Operation) -> Macs:
    layer, x = op.arguments["layer"], recording.values[op.inputs[0]].shape
    margins = layer.margins  # in the order of torch.nn.functional.pad: the last axis first
    shapes = (layer.input_size, layer.output_size, layer.kernel_size, layer.stride, layer.dilation)
    axes = (Axis(*of_axis) for of_axis in zip(*shapes, margins[-2::-2], margins[::-2], strict=True))
    return conv_macs(Window(tuple(axes)), prod(x[: -layer.dims - 1]), layer.in_channels, layer.out_channels)


@COUNTS.of_kinds("matrix_product", "batched_product", "vector_product")
def _product(recording: Recording, op: Operation) -> Macs | None:
    names = FACTORS.get(op.name)
    left, right = (None, None) if names is None else (_shape(recording, op, name) for name in names)
    if left is None or right is None:
        return None
    count = prod(left) * (right[-1] if len(right) > 1 else 1)
    return Macs(count, count)


@COUNTS.of("striate.linear")
def _linear(recording: Recording, op: Operation) -> Macs | None:
    x, weight = _shape(recording, op, "x"), _shape(recording, op, "weight")
    if x is None or weight is None:
        return None
    count = prod(x) * weight[0]
    return Macs(count, count)


@COUNTS.of_kinds("attention")
def _attention(recording: Recording, op: Operation) -> Macs:
    query, key, value = (recording.values[v].shape for v in op.inputs[:3])
    count = prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return Macs(count, count)


@COUNTS.of_kinds("recurrent")
def _recurrent_layer(recording: Recording, op: Operation) -> Macs:
    count = sum(_recurrent(recording, op))
    return Macs(count, count)


@COUNTS.of_kinds("uncounted_product")
def _uncounted(recording: Recording, op: Operation) -> Macs | None:
    return None


@COUNTS.of_kinds("written")
def _none(recording: Recording, op: Operation) -> Macs:
    return Macs(0, 0)


# Kinds of operators that compute no multiply-adds, or that never occur in a recording, since composite operators are
# decomposed.
_NO_PRODUCTS = """
backward batch_norm norm norm_statistics activation gate relu sigmoid tanh clamp softmax log_softmax max_pool
avg_pool adaptive_avg_pool adaptive_max_pool pad sum scale mean total reduction scan view identity cast creation
generation rearrangement concatenation stacking dropout dropout_with_mask resampling lookup other_product pointwise
random value size_query layout packing
"""
COUNTS.none("transposed_convolution", "linear", *_NO_PRODUCTS.split())
_COUNTED_OTHERWISE = ("convolution", "local_convolution", "attention", "recurrent", "uncounted_product", "written")
FACTORS.none("transposed_convolution", "linear", "batched_product", *_COUNTED_OTHERWISE, *_NO_PRODUCTS.split())


def _recurrent(recording: Recording, op: Operation) -> tuple[int, int]:
    """The MACs of one direction of an LSTM layer over all steps: those of x (steps, N, in) with the input weight, and
    those of the states with the recurrent weight.
    """
    x, *weights = (recording.values[v].shape for v in op.inputs[:3])
    of_input, of_state = (prod(x[:-1]) * prod(weight) for weight in weights)
    return of_input, of_state


def _each(given: Sequence[int] | int | None, dims: int, otherwise: int) -> list[int]:
    listed = [otherwise] if given is None else [given] if isinstance(given, int) else list(given)
    return listed * dims if len(listed) == 1 else listed


def _ref(op: Operation, name: str) -> int | None:
    given = op.arguments.get(name)
    return given.value if isinstance(given, Ref) else None


def _shape(recording: Recording, op: Operation, name: str) -> tuple[int, ...] | None:
    value = _ref(op, name)
    return None if value is None else recording.values[value].shape
