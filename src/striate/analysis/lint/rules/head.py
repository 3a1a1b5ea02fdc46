"""Rules about the head: how it reduces the feature map, and what the loss receives."""

from __future__ import annotations

from collections.abc import Iterator
from math import e, log, log1p, prod

from torch.nn import BCEWithLogitsLoss, CrossEntropyLoss, MultiLabelSoftMarginLoss, NLLLoss

from ....graph.recording import Operation
from ....render.numbers import sizes
from ...inspect.rows import Layer
from ..context import Context
from ..rule import Found, rule

SCORES = ("matrix_product", "convolution", "mean", "relu")  # kinds of operators whose results are unbounded scores
SHARE = 0.5  # a linear layer on a flattened map is reported if it has more than this share of all parameters
NEEDS_SCORES = "https://docs.pytorch.org/docs/stable/generated/torch.nn.{}.html"


@rule("flatten-head", "note", "M. Lin, Q. Chen, S. Yan, \"Network In Network\", 2014, section 3.2")
def flatten_head(context: Context) -> Iterator[Found]:
    """A linear layer on a flattened feature map has weights for each position; global average pooling has none, and
    accepts images of any size.
    """
    everything = context.report.totals["parameters"] or 0
    for layer in context.layers:
        if layer.parameters <= SHARE * everything or layer.weight_shape is None:
            continue
        multiplies = any(op.is_a("matrix_product") for op in context.operations(layer))
        shape = _flattened(context, layer, layer.weight_shape[-1]) if multiplies else None
        if shape is None:
            continue
        positions, share = prod(shape[2:]), layer.parameters / everything
        yield Found(
            layer.name,
            f"Its {layer.parameters:,} parameters, {100 * share:.0f} % of all, read a flattened map of "
            f"{sizes(shape[1:])}; global average pooling before it would leave one in {positions}.",
            "Use AdaptiveAvgPool2d(1) before the flattening, unless places mean something.",
        )


def _flattened(context: Context, layer: Layer, inputs: int) -> tuple[int, ...] | None:
    """The shape of the feature map that a linear layer reads as ``inputs`` flattened values; None if there is none.

    Layers without weights may be in between.
    """
    ways = list(context.before(layer))
    for one in ways:
        shape = one.output_shape
        if len(shape) > 2:
            if prod(shape[1:]) == inputs and prod(shape[2:]) > 1:
                return shape
        elif one.weight_shape is None:
            ways += [before for before in context.before(one) if before not in ways]
    return None


def _made(context: Context, value: int) -> tuple[Layer, Operation] | None:
    """The row and the operation that computed a tensor, views skipped."""
    op = context.recording.maker(context.recording.origin(value))
    if op is None:
        return None
    layer = context.row(op)
    return (layer, op) if layer is not None else None


def _outputs(context: Context, *kinds: str) -> Iterator[tuple[Layer, Operation]]:
    """Yields the row and operation of each model output that an operation of these kinds computes."""
    for value in dict.fromkeys(context.recording.outputs):
        made = _made(context, value)
        if made is not None and made[1].is_a(*kinds):
            yield made


def _classes(context: Context, op: Operation) -> int:
    shape = context.recording.values[op.outputs[0]].shape
    return shape[op.arguments["dim"]]


@rule("double-softmax", "error", NEEDS_SCORES.format("CrossEntropyLoss"))
def double_softmax(context: Context) -> Iterator[Found]:
    """CrossEntropyLoss applies softmax itself; for inputs from 0 to 1 and K classes it is at least log(1 + (K - 1)/e).
    """
    if not isinstance(context.loss, CrossEntropyLoss):
        return
    for layer, op in _outputs(context, "softmax"):
        classes = _classes(context, op)
        yield Found(
            layer.name,
            f"CrossEntropyLoss takes a softmax of this softmax, and cannot fall below {log1p((classes - 1) / e):.3g} "
            f"for {classes} classes.",
            "Return the scores.",
        )


@rule("repeated-log-softmax", "note", "log Σ exp(log softmax(x)) = log 1 = 0: a second log-softmax subtracts nothing")
def repeated_log_softmax(context: Context) -> Iterator[Found]:
    """CrossEntropyLoss applies log-softmax itself; another before it changes no value and costs time and memory."""
    if not isinstance(context.loss, CrossEntropyLoss):
        return
    for layer, op in _outputs(context, "log_softmax"):
        shape = context.recording.values[op.outputs[0]].shape
        message = f"CrossEntropyLoss takes the log-softmax of {sizes(shape)} values a second time, which changes none."
        yield Found(layer.name, message, "Return the scores, or use NLLLoss.")


@rule("softmax-output", "note", NEEDS_SCORES.format("CrossEntropyLoss"))
def softmax_output(context: Context) -> Iterator[Found]:
    """Losses on scores remain exact where probabilities are rounded to 0 or 1: in float32 a probability is 0 from a
    difference in scores of 104 on.
    """
    if context.loss is not None or not context.recording.training:
        return
    for layer, op in _outputs(context, "softmax"):
        yield Found(
            layer.name,
            (
                f"The model returns the softmax of {_classes(context, op)} classes, and CrossEntropyLoss would take "
                "another."
            ),
            "Return the scores in training, or give the loss to inspect.",
        )


@rule("missing-log-softmax", "error", NEEDS_SCORES.format("NLLLoss"))
def missing_log_softmax(context: Context) -> Iterator[Found]:
    """NLLLoss only computes the mean of -x[class]: it expects logarithms of probabilities."""
    if not isinstance(context.loss, NLLLoss):
        return
    for layer, op in _outputs(context, "softmax", *SCORES):  # other operators may compute log-probabilities
        gets = (
            "probabilities, and is between -1 and 0"
            if op.is_a("softmax")
            else "scores, and falls below 0 without end as they grow"
        )
        yield Found(
            layer.name, f"NLLLoss gets {gets}.", "End with LogSoftmax(1), or use CrossEntropyLoss on the scores."
        )


@rule("sigmoid-before-bce-with-logits", "error", NEEDS_SCORES.format("BCEWithLogitsLoss"))
def sigmoid_before_bce_with_logits(context: Context) -> Iterator[Found]:
    """The loss applies the sigmoid itself; for inputs from 0 to 1 that is between 0.5 and 0.731."""
    if not isinstance(context.loss, (BCEWithLogitsLoss, MultiLabelSoftMarginLoss)):
        return
    for layer, _ in _outputs(context, "sigmoid", "softmax"):
        yield Found(
            layer.name,
            f"{type(context.loss).__name__} takes a sigmoid of it, which is at least 0.5 and at most 0.731: a target "
            f"of 0 costs {log(2):.3g} or more, one of 1 {log1p(1 / e):.3g} or more.",
            "Return the scores.",
        )


@rule(
    "softmax-over-wrong-axis",
    "warning",
    "https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.softmax.html",
)
def softmax_over_wrong_axis(context: Context) -> Iterator[Found]:
    """A softmax over axis 0 normalizes across the samples of a batch: the result for a sample depends on the others,
    and is 1 for a batch of one.
    """
    inputs = context.report.input_shapes
    batch = inputs[0][0] if inputs and inputs[0] else None
    for op in context.recording.operations:
        if not op.is_a("softmax", "log_softmax"):
            continue
        shape, layer = context.recording.values[op.outputs[0]].shape, context.row(op)
        if layer is not None and len(shape) > 1 and op.arguments["dim"] % len(shape) == 0 and shape[0] == batch:
            few = "the one sample" if batch == 1 else f"the {batch} samples"
            message = f"Its sums are over axis 0, {few} of the batch, in place of the {shape[1]} values of axis 1."
            yield Found(layer.name, message, "Give dim=1.")
