"""Rules about normalization: what it cancels, which statistics it computes, and over how many values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from inspect import signature
from math import gcd, prod, sqrt
from typing import Any

import torch
from torch.nn import Dropout, Dropout1d, Dropout2d, Dropout3d, Module

from .... import nn
from ...._torch import ConvBase, InstanceNormBase
from ....nn.norm import BATCH_NORMS, GROUP_NORMS
from ...inspect.rows import Layer
from ..context import Context
from ..rule import Found, rule
from .depth import linear_sums

__all__ = ["DROPOUTS", "LAYERS", "NORMS", "TRACKING", "followers", "is_frozen"]

LAYERS = (ConvBase, torch.nn.Linear)
TRACKING = (*BATCH_NORMS, InstanceNormBase)  # may keep running statistics
OF_SAMPLES = (*GROUP_NORMS, torch.nn.LayerNorm, nn.LayerNorm2d)  # compute statistics for each sample, in any mode
NORMS = (*TRACKING, *OF_SAMPLES, torch.nn.RMSNorm)
ACTIVATIONS = ("activation", "relu", "sigmoid", "tanh")  # kinds of operators, as the op table names them
DROPOUTS = (Dropout, Dropout1d, Dropout2d, Dropout3d)  # alpha dropout is not among them: it preserves mean and variance

SAMPLES = 8  # batches smaller than this are known to lose accuracy with batch statistics
GROUPS = 32  # the paper's default
KERAS = 0.9  # a momentum of at least this was probably meant as the weight of the old statistics, as in Keras
LEAST_EPS, MOST_EPS = 1e-12, 1e-2
PAPER = "Ioffe, Szegedy, Batch normalization, 2015, section 3.2"
GROUP_PAPER = "Wu, He, Group normalization, 2018"
PAGE = "pytorch.org, torch.nn.BatchNorm2d"


def is_frozen(norm: Any) -> bool:
    return bool(getattr(norm, "frozen", False))


def _measures(norm: Any) -> bool:
    """Whether the norm, in its present mode, normalizes with statistics of the current batch."""
    return norm.running_mean is None or (norm.training and not is_frozen(norm))


def followers(context: Context, layer: Layer) -> list[Layer]:
    """The norms that read the output of a row; an empty list if anything else reads it too."""
    found = context.after(layer)
    for row in found:
        call = context.call(row)
        if call is None or not isinstance(call.module, NORMS):
            return []
        is_layer = [context.recording.origin(value) == layer.value for value in call.inputs]
        if is_layer != [True, *[False] * (len(call.inputs) - 1)]:
            return []  # a further operand, such as the residual, is this output
    return [] if context.is_output(layer) else found


# ------------------------------------------------------------------------------------------------- layers before a norm


@rule("bias-before-norm", "warning", PAPER)
def bias_before_norm(context: Context) -> Iterator[Found]:
    """A norm that subtracts each channel's mean also cancels the bias of the layer before it: (x + b) - mean(x + b) =
    x - mean(x).
    """
    for layer, module in context.first(*LAYERS):
        bias = module._parameters.get("bias")
        if bias is None or not _bias_stays_inside(context, module, bias):
            continue
        rows = [row for row, other in context.of(*LAYERS) if other is module]
        behind = [followers(context, row) for row in rows]
        if not all(
            found and all(_centers(context, row, norm, module) for norm in found)
            for row, found in zip(rows, behind, strict=True)
        ):
            continue
        norms = [norm for found in behind for norm in found]
        name, kind = norms[0].name, norms[0].type
        yield Found(
            layer.name,
            (
                f"The {bias.numel()} values of its bias do nothing: {name} ({kind}) subtracts each channel's mean, and "
                "the bias with it."
            ),
            "Build it with bias=False.",
            _without_bias(context, layer, norms),
        )


def _bias_stays_inside(context: Context, module: Module, bias: torch.nn.Parameter) -> bool:
    """Whether no operation outside the layer reads its bias."""
    recording = context.recording
    parameters = dict(recording.model.named_parameters(remove_duplicate=False))
    own = {
        value.index
        for value in recording.values
        if value.is_parameter and value.name and parameters[value.name] is bias
    }
    readers = [op for op in recording.operations if own & set(op.inputs)]
    return all(op.call is not None and recording.calls[op.call].module is module for op in readers)


def _centers(context: Context, row: Layer, behind: Layer, module: Module) -> bool:
    """Whether a norm subtracts the mean of each channel, and its channels are the layer's output channels."""
    call = context.call(behind)
    assert call is not None
    norm: Any = call.module
    if call.inputs[0] != row.value:  # reshaped in between, so that its channels may differ
        return False
    by_channel = isinstance(norm, InstanceNormBase) or (
        isinstance(norm, GROUP_NORMS) and norm.num_groups == norm.num_channels
    )
    if not by_channel and not isinstance(norm, BATCH_NORMS):
        return False
    if (
        isinstance(norm, TRACKING)
        and (is_frozen(norm) or (context.model.training and not norm.training))
        and norm.running_mean is not None
    ):
        return False  # it subtracts a constant, its running mean
    rank = len(row.output_shape)
    if isinstance(module, ConvBase):
        axes = len(module.kernel_size)
        return rank == axes + 2 or (rank == axes + 1 and isinstance(norm, InstanceNormBase))
    return rank == 2 and not isinstance(norm, InstanceNormBase)


def _without_bias(context: Context, layer: Layer, behind: list[Layer]) -> Callable[[Module], None] | None:
    """Makes a fix that removes the bias and subtracts it from the running means, so that evaluation does not change.

    Returns None if one of the running means also covers outputs of other layers.
    """
    paths = {context.path(row) for row in behind}
    tracking = [path for path in paths if getattr(context.model.get_submodule(path), "running_mean", None) is not None]
    if any(
        sum(call.path == path for call in context.recording.calls) != sum(context.path(row) == path for row in behind)
        for path in tracking
    ):
        return None  # the norm is also called behind other layers
    own = context.path(layer)

    def apply_fix(model: Module) -> None:
        changed: Any = model.get_submodule(own)
        with torch.no_grad():
            for path in tracking:
                norm: Any = model.get_submodule(path)
                norm.running_mean.sub_(changed.bias)
        changed.bias = None

    return apply_fix


@rule("norm-after-activation", "note", PAPER)
def norm_after_activation(context: Context) -> Iterator[Found]:
    """Before the activation a channel is close to normally distributed, and mean and variance describe it fully. After
    a ReLU half of its values are 0, its mean is 0.40 and its standard deviation 0.58: the norm maps all those zeros to
    -0.68.
    """
    recording = context.recording
    for layer, norm in context.of(*TRACKING, *OF_SAMPLES):
        call = context.call(layer)
        assert call is not None
        maker = recording.maker(recording.origin(call.inputs[0])) if call.inputs else None
        if maker is not None and maker.is_a(*ACTIVATIONS) and not _is_branch(context, layer):
            word = maker.name.removeprefix("aten.").strip("_").removesuffix("_kernel")
            yield Found(
                layer.name,
                (
                    f"{type(norm).__name__} stands behind {word}: the {_statistics(norm)} it measures are of values "
                    "that it has bent already."
                ),
                "Put the norm before the activation, unless that was tried and is worse.",
            )


def _is_branch(context: Context, layer: Layer) -> bool:
    """Whether a norm is the identity branch of a re-parameterised block: it reads the same feature map as a convolution
    and the two outputs are added.
    """
    call = context.call(layer)
    assert call is not None
    rows = [context.row(op) for op in context.readers.get(call.inputs[0], []) if op.is_a("convolution")]
    sums = linear_sums(context, layer) if rows else set()
    return any(sums & linear_sums(context, row) for row in rows if row is not None)


def _statistics(norm: Any) -> str:
    if isinstance(norm, TRACKING):
        return f"means and variances of {norm.num_features} channels"
    if isinstance(norm, GROUP_NORMS):
        return f"means and variances of {norm.num_groups} group{'s' if norm.num_groups != 1 else ''}"
    return (
        "mean and variance of "
        f"{norm.num_channels if isinstance(norm, nn.LayerNorm2d) else prod(norm.normalized_shape)} values each"
    )


@rule(
    "dropout-before-batch-norm",
    "warning",
    "Li et al., Understanding the disharmony between dropout and batch normalization, 2018",
)
def dropout_before_batch_norm(context: Context) -> Iterator[Found]:
    """Dropout preserves the mean of its input, but not the variance: that is E[x²]/(1 - p) - E[x]² in training and
    E[x²] - E[x]² in evaluation. A batch norm behind it learns the first and divides by it in evaluation.
    """
    for layer, dropout in context.first(*DROPOUTS):
        if not 0 < dropout.p < 1:
            continue
        met = [row for row in _reached(context, layer) if _follows(context.module(row))]
        if met:
            norms = f"{len(met)} batch norm{'s' if len(met) > 1 else ''}"
            yield Found(
                layer.name,
                f"p={dropout.p:g} stands before {norms}, first {met[0].name}: for values of mean 0 the running "
                f"variance is {1 / (1 - dropout.p):.3g} times that of evaluation, whose outputs are "
                f"{sqrt(1 - dropout.p):.2g} of "
                "what they should be.",
                "Drop behind the last batch norm, or not at all.",
            )


def _follows(norm: Any) -> bool:
    """Whether a norm divides by running statistics that were accumulated in training."""
    return isinstance(norm, BATCH_NORMS) and norm.running_mean is not None and not is_frozen(norm)


def _reached(context: Context, layer: Layer) -> list[Layer]:
    """All rows that depend on a row, in the order of the report."""
    found: dict[int, Layer] = {}
    waiting = [layer]
    while waiting:
        for row in context.after(waiting.pop()):
            if id(row) not in found:
                found[id(row)] = row
                waiting.append(row)
    return [row for row in context.layers if id(row) in found]


# ----------------------------------------------------------------------------------- how many values a statistic covers


@rule(
    "one-value-norm",
    "error",
    "torch.nn.functional.batch_norm, which refuses it; arithmetic: x - mean(x) = 0 for one value",
)
def one_value_norm(context: Context) -> Iterator[Found]:
    """One value is its own mean, so that only the shift remains after the norm. A batch norm in training meets this
    with a batch of 1 on a map of 1×1, and torch raises an error; group and layer norm meet it with one channel per
    group on a map of 1×1, and torch says nothing.
    """
    # Instance norm of one value raises an error, so that there is no recording.
    for layer, norm in context.of(*BATCH_NORMS, *OF_SAMPLES):
        shape = context.input_shape(layer)
        if shape is None:
            continue
        if isinstance(norm, BATCH_NORMS):
            if _samples_are_meant(context, norm) and _samples(context, layer, norm) * prod(shape[2:]) == 1:
                yield Found(
                    layer.name,
                    (
                        f"Each of its {norm.num_features} channels has 1 value a step, which has no variance: training "
                        "stops here."
                    ),
                    "Train on more samples at once, and drop a last batch of 1.",
                )
        elif _values(norm, shape) == 1:
            yield Found(
                layer.name,
                "Its means are of 1 value each, so that it returns its shift, whatever comes in.",
                "Leave it out, or give it more channels a group.",
            )


def _values(norm: Any, shape: tuple[int, ...]) -> int:
    """The number of values over which one statistic of a sample is computed."""
    if isinstance(norm, GROUP_NORMS):
        return norm.num_channels // norm.num_groups * prod(shape[2:])
    return norm.num_channels if isinstance(norm, nn.LayerNorm2d) else prod(norm.normalized_shape)


def _samples_are_meant(context: Context, norm: Any) -> bool:
    """Whether the batch size is that of training. An input of one sample usually only serves to inspect the model."""
    return _measures(norm) and context.model.training and (context.batch_given or context.batch_size > 1)


def _samples(context: Context, layer: Layer, norm: Any) -> int:
    """The number of samples over which a norm computes its statistics. If the model turns one sample into several, such
    as frames or regions, these count.
    """
    shape = context.input_shape(layer)
    given = context.report.input_shapes
    assert shape is not None
    n = shape[0] * context.batch_size // max(1, given[0][0]) if given and given[0] else context.batch_size
    return min(n, norm.ghost_batch_size) if isinstance(norm, nn.GhostBatchNorm2d) else n


@rule("small-batch-norm", "warning", f"{GROUP_PAPER}, table 2")
def small_batch_norm(context: Context) -> Iterator[Found]:
    """The fewer samples, the noisier the batch statistics, and the further they are from the running statistics of
    evaluation. The error of ResNet-50 on ImageNet is 23.6 % with 32 samples a step, 24.8 % with 8, 27.3 % with 4 and
    34.7 % with 2; with group norm it is 24.0 to 24.2 % in each case.
    """
    for layer, norm in context.first(*BATCH_NORMS):
        shape = context.input_shape(layer)
        if (
            shape is None
            or isinstance(norm, (nn.SyncBatchNorm, torch.nn.SyncBatchNorm))
            or not _samples_are_meant(context, norm)
        ):
            continue
        samples = _samples(context, layer, norm)
        if samples < SAMPLES and samples * prod(shape[2:]) > 1:
            groups = _groups(norm.num_features, prod(shape[2:]))
            yield Found(
                layer.name,
                f"It measures {samples} sample{'s' if samples != 1 else ''} at once, {samples * prod(shape[2:])} "
                f"values a channel, and fewer than {SAMPLES} samples are known to cost accuracy.",
                f"Use GroupNorm({groups}, {norm.num_features}), whose statistics are of one sample, or more samples.",
                _as_group_norm(context, layer, norm, groups),
            )


def _groups(channels: int, positions: int) -> int:
    """The largest divisor of 32 that divides the channels and leaves more than one channel in a group; one group for
    feature maps of a single position.
    """
    groups = gcd(GROUPS, channels)
    return 1 if positions == 1 else groups // 2 if groups == channels and channels > 1 else groups


def _as_group_norm(context: Context, layer: Layer, norm: Any, groups: int) -> Callable[[Module], None] | None:
    native_classes = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.BatchNormAct2d)
    torch_classes = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
    path = context.path(layer)
    if type(norm) not in (*native_classes, *torch_classes) or not path:
        return None

    def apply_fix(model: Module) -> None:
        old: Any = model.get_submodule(path)
        kind: Any = nn.GroupNorm if type(old) in native_classes else torch.nn.GroupNorm
        if isinstance(old, nn.BatchNormAct2d):
            kind = functools.partial(nn.GroupNormAct2d, activation=old.activation, negative_slope=old.negative_slope)
        new: Any = kind(groups, old.num_features, old.eps, old.affine).train(old.training)
        new.weight, new.bias = old.weight, old.bias
        for parent in list(model.modules()):
            for name, child in parent._modules.items():
                if child is old:
                    parent._modules[name] = new

    return apply_fix


@rule("norm-reused", "warning", "Yu, Yang, Xu, Yang, Huang, Slimmable neural networks, 2019, section 3.2")
def norm_reused(context: Context) -> Iterator[Found]:
    """In training each call is normalized with its own statistics; in evaluation all share one mixture, whose variance
    is the mean of the variances plus the variance of the means.
    """
    for layer, norm in context.first(*TRACKING):
        calls = sum(call.module is norm for call in context.recording.calls)
        if calls > 1 and norm.running_mean is not None and not is_frozen(norm):
            yield Found(
                layer.name,
                (
                    f"It is called {calls} times in a pass: training measures each place by itself, and the running "
                    "statistics mix them."
                ),
                "Give each place a norm of its own.",
            )


@rule(
    "norm-on-output", "warning", "arithmetic: the mean of a norm's outputs is its shift, and their deviation its scale"
)
def norm_on_output(context: Context) -> Iterator[Found]:
    """The shift and scale of a norm on the output fix the mean and the spread of the scores, whatever the features are.
    Reported if the output is a vector for each sample, or if a loss or task is given, since it is then compared with a
    target.
    """
    for layer, norm in context.of(*NORMS):
        # Instance norm reads two axes as channels and positions.
        row = len(layer.output_shape) == 2 and not isinstance(norm, InstanceNormBase)
        compared = row or context.loss is not None or context.task is not None
        if not compared or not context.is_output(layer) or getattr(norm, "activation", None) is not None:
            continue
        outputs = layer.output_shape[1] if len(layer.output_shape) > 1 else layer.output_shape[0]
        over = "over the batch" if isinstance(norm, BATCH_NORMS) else "in each sample"
        yield Found(
            layer.name,
            (
                f"{type(norm).__name__} is the last layer: its shift and scale are the mean and spread of the "
                f"{outputs} outputs {over}."
            ),
            "Leave it out, or put it before the last layer.",
        )


# ------------------------------------------------------------------------------------------------------------ arguments


@rule("norm-momentum", "warning", PAGE)
def norm_momentum(context: Context) -> Iterator[Found]:
    """torch's momentum m is the weight of the new batch: running ← (1 - m)·running + m·batch. With 0 the running
    statistics stay 0 and 1, with 1 they are those of the last batch. A value of 0.9 or more was probably meant as in
    Keras, where momentum is the weight of the old statistics.
    """
    for layer, norm in context.first(*TRACKING):
        momentum = 0.0 if norm.momentum is None and isinstance(norm, InstanceNormBase) else norm.momentum
        if norm.running_mean is None or is_frozen(norm) or momentum is None or 0 < momentum < KERAS:
            continue
        meant = round(1 - momentum, 12) if KERAS <= momentum < 1 else 0.1
        if momentum == 0:
            message = (
                "momentum=0 leaves the running mean and variance as they are, 0 and 1 in a new layer, and "
                "evaluation uses them."
            )
        elif KERAS <= momentum < 1:
            share = f"{100 * momentum:g} % of the running statistics are the last batch's"
            message = f"momentum={momentum:g} is the weight of the new batch in torch: {share}."
        elif momentum == 1:
            message = "momentum=1 forgets all batches but the last: evaluation uses the statistics of 1 batch."
        else:
            message = (
                f"momentum={momentum:g} gives the old statistics a weight of {1 - momentum:g}: they do not stay "
                "within the batches'."
            )
        yield Found(layer.name, message, f"Set momentum={meant:g}.", _with(context.path(layer), "momentum", meant))


@rule("cumulative-average", "note", PAGE)
def cumulative_average(context: Context) -> Iterator[Found]:
    """With momentum=None the running statistics are the mean over all batches since the layer was created. Batches from
    early in training count as much as the last ones, which suits a pass over data with weights that no longer change.
    """
    for layer, norm in context.first(*BATCH_NORMS):
        if norm.running_mean is not None and norm.momentum is None and not is_frozen(norm):
            yield Found(
                layer.name,
                (
                    "momentum=None averages all batches alike: after 1,000 of them the last counts 0.1 %, and so does "
                    "the first."
                ),
                "Set momentum=0.1 to train; None is for measuring again with weights that stay.",
            )


@rule("norm-eps", "warning", "arithmetic of y = x/√(σ² + ε); float32 has 7 digits")
def norm_eps(context: Context) -> Iterator[Found]:
    """ε protects channels that do not vary: their gradient is multiplied by 1/√ε, a million for 1e-12, and with ε = 0
    their output is 0/0 = NaN. If ε is not small compared with the variance, it dominates: with 1e-2 a variance of 1
    becomes 0.99, and one of 0.01 becomes 0.5.
    """
    for layer, norm in context.first(*NORMS):
        eps = norm.eps
        if eps is None or LEAST_EPS <= eps <= MOST_EPS:  # None, RMSNorm's default, means torch.finfo(dtype).eps
            continue
        if eps <= 0:
            message = f"eps={eps:g} divides a channel that does not vary by 0, and the result is not a number."
        elif eps < LEAST_EPS:
            message = f"eps={eps:g} multiplies the gradient of a channel that does not vary by {eps**-0.5:.3g}."
        else:
            small = 0.01 / (0.01 + eps)
            message = (
                f"eps={eps:g} is added to the variance: one of 1 comes out as {1 / (1 + eps):.3g}, one of 0.01 as "
                f"{small:.3g}."
            )
        usual = 1e-6 if isinstance(norm, nn.LayerNorm2d) else 1e-5
        yield Found(layer.name, message, f"Set eps={usual:g}.", _with(context.path(layer), "eps", usual))


def _with(path: str, name: str, value: float) -> Callable[[Module], None]:
    return functools.partial(_set, path=path, name=name, value=value)


def _set(model: Module, path: str, name: str, value: float) -> None:
    if hasattr(layer := model.get_submodule(path), name):  # another fix may have replaced it by a group norm
        setattr(layer, name, value)


@rule("groups-are-instance-norm", "note", f"{GROUP_PAPER}, section 3")
def groups_are_instance_norm(context: Context) -> Iterator[Found]:
    """With as many groups as channels each channel is normalized by itself, and its strength relative to the others is
    lost.
    """
    for layer, norm in context.first(*GROUP_NORMS):
        if norm.num_groups == norm.num_channels:
            yield Found(
                layer.name,
                f"{norm.num_groups} groups of 1 channel are instance norm.",
                "Say InstanceNorm2d(…, affine=True) if that is meant, or use fewer groups.",
            )


@rule("groups-are-layer-norm", "note", f"{GROUP_PAPER}, section 3")
def groups_are_layer_norm(context: Context) -> Iterator[Found]:
    """One group is layer norm over channels and positions together, with a scale for each channel. LayerNorm2d, as in
    ConvNeXt, differs: it normalizes the channels of each position separately.
    """
    for layer, norm in context.first(*GROUP_NORMS):
        chosen = "num_groups" in signature(type(norm)).parameters  # a class that only has one group intends it
        if norm.num_groups == 1 < norm.num_channels and chosen:
            yield Found(
                layer.name,
                f"1 group of {norm.num_channels} channels is layer norm over channels and places together.",
                "Leave it if that is meant; LayerNorm2d does it at each place by itself.",
            )
