"""Rules about depth: layers that lose their effect through the layers around them."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from ....graph.recording import Operation
from ....render.numbers import sizes
from ...inspect.rows import Layer
from ..context import Context
from ..rule import Found, rule

__all__ = ["linear_sums"]

# Kinds of operators, as the op table names them.
PRODUCTS = ("matrix_product", "batched_product")
NORMS = ("batch_norm", "norm")
# Linear in their inputs. A "scale" is so too, if all factors but one are parameters or buffers.
MEANS = ("mean", "avg_pool", "adaptive_avg_pool")
LINEAR = ("convolution", *PRODUCTS, "batch_norm", "pad", *MEANS, "sum", "concatenation", "dropout_with_mask")
SLOPES = {"sigmoid": 0.25, "tanh": 0.61}  # of a sigmoid the largest slope, of a tanh its mean over N(0, 1)
# Depthwise convolutions in a row, with something nonlinear between, before channels are mixed: known designs have two.
DEPTHWISE = 2
LEAST = 0.25**4  # saturating activations that leave at most this share of the gradient are reported


def _values(context: Context, layer: Layer) -> list[Operation]:
    """The operations of a row that compute floating-point values, without counters and views."""
    operations = context.operations(layer)
    floating = [
        op for op in operations if op.outputs and context.recording.values[op.outputs[0]].dtype.is_floating_point
    ]
    return [op for op in floating if not op.is_free]


# ----------------------------------------------------------------------------------------------------------- saturation


@rule(
    "deep-saturation",
    "warning",
    "X. Glorot, Y. Bengio, \"Understanding the Difficulty of Training Deep Feedforward Neural Networks\", 2010",
)
def deep_saturation(context: Context) -> Iterator[Found]:
    """The slope of a sigmoid is at most 0.25, of L in a row 0.25^L; that of a tanh averages 0.61 over N(0, 1)."""
    # For each row the share of the gradient that remains on the best path to it, and the number of slopes on that path.
    left: dict[int, tuple[float, int]] = {}
    worst: tuple[float, int, Layer] | None = None
    inputs = set(context.recording.inputs)  # and views of them
    for op in context.recording.operations:
        if op.is_free and inputs & {*op.inputs}:
            inputs |= {*op.outputs}
    for layer in context.layers:
        operations = _values(context, layer)
        best = max((left[id(one)] for one in context.before(layer)), default=(1.0, 0))
        if any(inputs & {*op.inputs} for op in operations):
            best = (1.0, 0)
        if any(op.is_a(*NORMS) for op in operations):
            best = (1.0, 0)
        slope = SLOPES.get(operations[-1].kind, 1.0) if operations else 1.0
        if slope < 1 and not context.is_output(layer):  # a saturating output may belong to the loss
            best = (best[0] * slope, best[1] + 1)
            if best[0] <= LEAST and (worst is None or best[0] < worst[0]):
                worst = (*best, layer)
        left[id(layer)] = best
    if worst is not None:
        share, count, layer = worst
        yield Found(
            layer.name,
            f"It is the last of {count} saturating activations without a norm or a shortcut between, whose slopes "
            f"leave {'at most' if share == 0.25**count else 'about'} {share:.2g} of the gradient.",
            "Use ReLU, a norm before each, or residual blocks.",
        )


# ------------------------------------------------------------------------------------------------------- channel mixing


def _convolution(context: Context, layer: Layer) -> Operation | None:
    return next((op for op in context.operations(layer) if op.is_a("convolution")), None)


def _is_depthwise(context: Context, layer: Layer) -> bool:
    """Whether a row is a depthwise convolution with learned weights, on more than one channel."""
    op = _convolution(context, layer)
    if op is None or layer.weight_shape is None:
        return False
    return bool(op.arguments["groups"] == context.recording.values[op.inputs[0]].shape[1] > 1)


def _mixes(context: Context, layer: Layer) -> bool:
    """Whether each output of a row reads several channels."""
    op = _convolution(context, layer)
    if op is not None:
        return bool(op.arguments["groups"] < context.recording.values[op.inputs[0]].shape[1])
    return any(one.is_a(*PRODUCTS) for one in context.operations(layer))


def _is_linear(context: Context, layer: Layer) -> bool:
    """Whether a row is affine in its input in evaluation, where the statistics of a batch norm are constants."""
    if layer.type in ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d"):
        return True
    return all(one.is_a(*LINEAR) or _scales(context, one) for one in _values(context, layer))


def _scales(context: Context, op: Operation) -> bool:
    """Whether an operation multiplies a computed value by a parameter or buffer, as a layer scale does."""
    computed = [context.recording.values[context.recording.origin(value)].name is None for value in op.inputs]
    return op.is_a("scale") and sum(computed) == 1 and (computed[0] or "mul" in op.name)


def linear_sums(context: Context, layer: Layer) -> set[int]:
    """The ids of the rows that add the output of a row to something, with nothing in between that mixes channels or is
    nonlinear.

    Branches that read the same feature map and meet in such a sum become one convolution once a re-parameterised block
    is deployed: X. Ding et al., "RepVGG", 2021.
    """
    found, ways = set(), [layer]
    for one in ways:
        for after in context.after(one):
            if after in ways or _mixes(context, after) or not _is_linear(context, after):
                continue
            ways.append(after)
            found |= {id(after)} if any(op.is_a("sum") for op in context.operations(after)) else set()
    return found


def _pools_globally(context: Context, layer: Layer) -> bool:
    shape = context.input_shape(layer)
    made = layer.output_shape
    return shape is not None and len(shape) > 2 and shape[:2] == made[:2] and prod(shape[2:]) > 1 == prod(made[2:])


@rule("depthwise-without-pointwise", "warning", "A. Howard et al., \"MobileNets\", 2017, section 3.1")
def depthwise_without_pointwise(context: Context) -> Iterator[Found]:
    """A depthwise convolution works within each channel; without a layer that mixes them, channels never interact. Two
    of them before the mixing are a known design (GhostNet's cheap operations), three are not.
    """
    if sum(layer.weight_shape is not None and (layer.macs or 0) > 0 for layer in context.layers) < 2:
        return
    for layer in context.layers:
        if not _is_depthwise(context, layer):
            continue
        stop = _unmixed(context, layer)
        if stop is not None:
            assert layer.weight_shape is not None
            message = f"Its {layer.weight_shape[0]} channels reach {stop} without being mixed."
            yield Found(layer.name, message, "Add a 1×1 convolution behind it.")


def _unmixed(context: Context, layer: Layer) -> str | None:
    """Names where the channels of a row end up unmixed; None if some layer mixes them."""
    ends, seen = [], set()
    # For each path: its last row, whether anything since the last depthwise convolution was nonlinear, and the number
    # of depthwise convolutions so far.
    ways = [(layer, False, 1)]
    for one, bent, count in ways:
        if context.is_output(one):
            ends.append("the output")
        for after in context.after(one):
            another = _is_depthwise(context, after) and (bent or not _is_linear(context, one))
            way = (after, not another and (bent or not _is_linear(context, after)), count + another)
            if (id(after), *way[1:]) in seen:
                continue
            seen.add((id(after), *way[1:]))
            if _mixes(context, after):
                return None
            if _pools_globally(context, after):
                ends.append(f"the pooling {after.name}")
            elif way[2] > DEPTHWISE:
                ends.append(f"the third depthwise convolution in a row, {after.name},")
            else:
                ways.append(way)
    return ends[0] if ends else None


# -------------------------------------------------------------------------------------------------------- linear chains


@rule("no-nonlinearity", "warning", "arithmetic: W₂·(W₁·x + b₁) + b₂ = (W₂·W₁)·x + (W₂·b₁ + b₂)")
def no_nonlinearity(context: Context) -> Iterator[Found]:
    """Two linear maps in a row equal one. Pairs that save work are not reported: depthwise or grouped convolutions,
    a bottleneck between them, or one axis each.
    """
    for layer in context.layers:
        first = _linear_map(context, layer)
        if first is None or not _is_linear(context, layer):
            continue
        norms, one, second = [], layer, None
        while second is None and not context.is_output(one):
            after = context.after(one)
            if len(after) != 1 or len(context.before(after[0])) != 1:
                break
            one = after[0]
            second = _linear_map(context, one)
            if second is None and not _is_linear(context, one):
                break
            norms += [one.name] if any(op.is_a("batch_norm") for op in context.operations(one)) else []
        if second is None or _saves(first, second):
            continue
        through = f" through {', '.join(norms)}, linear too," if norms else ""
        weights = prod(first.shape) + prod(second.shape)
        yield Found(
            one.name,
            f"It reads {layer.name}{through} with no nonlinearity between: their {weights:,} weights, "
            f"{sizes(first.shape)} and {sizes(second.shape)}, make one linear map.",
            "Put an activation between them, or leave one out.",
        )


class _Linear(NamedTuple):
    """A linear map of channels. shape: that of its weights."""

    inputs: int
    outputs: int
    groups: int
    kernel: tuple[int, ...]
    shape: tuple[int, ...]


def _linear_map(context: Context, layer: Layer) -> _Linear | None:
    """Describes a row that is a convolution or a linear layer; None for other rows."""
    shape, op = layer.weight_shape, _convolution(context, layer)
    if shape is None:
        return None
    if op is not None:
        channels = [context.recording.values[value].shape[1] for value in (op.inputs[0], op.outputs[0])]
        return _Linear(channels[0], channels[1], op.arguments["groups"], shape[2:], shape)
    if [one.is_a(*PRODUCTS) for one in _values(context, layer)] == [True] and len(shape) == 2:
        return _Linear(shape[1], shape[0], 1, (), shape)
    return None


def _saves(first: _Linear, second: _Linear) -> bool:
    """Whether two linear maps are cheaper than their product, which explains the missing activation."""
    narrow = first.outputs < min(first.inputs, second.outputs)
    # The last projection of MobileNet's blocks may keep the width.
    pointwise = prod(first.kernel) == prod(second.kernel) == 1 and bool(first.kernel)
    narrow |= pointwise and first.outputs <= first.inputs and first.outputs < second.outputs
    around = [{axis for axis, size in enumerate(one.kernel) if size > 1} for one in (first, second)]
    crossed = bool(around[0]) and bool(around[1]) and not around[0] & around[1]
    return max(first.groups, second.groups) > 1 or narrow or crossed
