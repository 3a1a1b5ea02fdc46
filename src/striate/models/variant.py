"""Variants of a model: another norm, pooling, head, activation or initialization, by exchanging its layers."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.nn import Module, Parameter

from .. import nn
from .._torch import InstanceNormBase
from ..errors import ArgumentError, ShapeError, build, describe_error, did_you_mean
from ..graph.neighbours import Part
from ..nn.norm import BATCH_NORMS, GROUP_NORMS
from ..nn.pool import GlobalAvgPool1d, GlobalAvgPool2d, GlobalAvgPool3d
from .convnext import _Permute
from .initial import LAWS, draw
from .places import NORMS, WEIGHTED, Places, channels_axis, skeleton

__all__ = ["ACTIVATIONS", "GHOST_BATCH_SIZE", "KNOBS", "vary"]

Model = TypeVar("Model", bound=Module)

ACTIVATIONS: dict[str, Callable[[], Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
NORM_NAMES = ("batch", "group", "layer", "instance", "sync", "ghost", "none")
# The knobs and their values; None leaves a model as it is.
KNOBS: dict[str, tuple[str, ...]] = {
    "norm": NORM_NAMES,
    "norm_position": ("before", "after"),
    "pool": ("max", "avg", "stride"),
    "head": ("flatten", "gap"),
    "init": tuple(LAWS),
    "activation": tuple(ACTIVATIONS),
}
GHOST_BATCH_SIZE = 16  # samples
MOST_GROUPS, LEAST_IN_GROUP = 32, 4  # of a group norm: groups, and channels in each

_ACTIVATIONS: tuple[Any, ...] = (*ACTIVATIONS.values(), torch.nn.PReLU, torch.nn.SELU, torch.nn.CELU, torch.nn.Softplus)
_GATES = (torch.nn.Sigmoid, torch.nn.Hardsigmoid, torch.nn.Tanh)  # these may scale other values
_MAX_POOLS = (torch.nn.MaxPool1d, torch.nn.MaxPool2d, torch.nn.MaxPool3d)
_AVG_POOLS = (torch.nn.AvgPool1d, torch.nn.AvgPool2d, torch.nn.AvgPool3d)
_GLOBAL_POOLS = (GlobalAvgPool1d, GlobalAvgPool2d, GlobalAvgPool3d)
_THROUGH = (torch.nn.Flatten, torch.nn.Dropout, torch.nn.Dropout2d, torch.nn.Identity)  # these only pass values on
_ADAPTIVE_POOLS = (torch.nn.AdaptiveAvgPool1d, torch.nn.AdaptiveAvgPool2d, torch.nn.AdaptiveAvgPool3d)


def vary(
    model: Model,
    sample_shape: tuple[int, ...],
    *,
    norm: str | None = None,
    norm_position: str | None = None,
    pool: str | None = None,
    head: str | None = None,
    init: str | None = None,
    activation: str | None = None,
) -> Model:
    r"""Makes a variant of a model for images of ``sample_shape``; None leaves what a knob names as it is.

    norm: each norm becomes one of this kind, or goes ("none"); in a model without norms one is put behind each layer
    with weights but the last. norm_position: norms beside an activation stand before or after it. pool: each max or
    average pooling becomes the other, or a convolution with its window and stride. head: the last feature map is
    flattened, or each of its channels averaged ("gap") for one linear layer. activation: of all hidden layers. init:
    the law that weights of convolutions and linear layers are drawn from anew (:func:`.initial.draw`), by torch's
    random generator, with the :func:`gain` of the activation that a layer reads; biases become 0.

    sample_shape: of one sample, ``(C, H, W)``. Returns a copy, in the same mode; layers that no knob changes share
    their parameters and buffers with ``model``, and keep their names in ``state_dict``. The model stays as it is.

    Raises ArgumentError for another value, and where the model has no place for a knob, with the reason; ShapeError
    where the model does not run on such samples.

    >>> from striate.models import lenet5
    >>> model = vary(lenet5(), (1, 28, 28), norm="batch", pool="avg", head="gap")
    >>> [name for name, layer in model.named_children() if isinstance(layer, nn.BatchNorm2d)], model[-1]
    (['norm_0', 'norm_3'], Linear(in_features=50, out_features=10, bias=True))
    """
    given = {"activation": activation, "pool": pool, "norm": norm, "norm_position": norm_position, "head": head}
    for knob, value in {**given, "init": init}.items():
        if value is not None and value not in KNOBS[knob]:
            near = did_you_mean(value, KNOBS[knob]) if isinstance(value, str) else ""
            hint = f"Choose one of these, or None to leave the model's own.{near}"
            raise ArgumentError(build("vary", f"{knob} to be one of {', '.join(KNOBS[knob])}", repr(value), hint=hint))
    if not isinstance(model, Module) or not list(model.children()):
        hint = "Give the model that holds the layers."
        raise ArgumentError(build("vary", "a model with layers in it", type(model).__name__, hint=hint))
    if not any(given.values()) and init is None:
        return model
    made: Any = skeleton(model)
    places = Places(made, sample_shape)
    scores = places.output_shape()
    steps: dict[str, Callable[[Places, str], None]] = {
        "activation": _change_activation,
        "pool": _change_pool,
        "norm": _change_norm,
        "norm_position": _move_norms,
        "head": _change_head,
    }
    for knob, value in given.items():
        if value is None:
            continue
        steps[knob](places, value)
        try:
            places = Places(made, sample_shape)
            fits, got = places.output_shape() == scores, f"a result of shape {places.output_shape()}"
        except ShapeError as error:
            fits, got = False, describe_error(error)
        if not fits:
            hint = "Its own code depends on the layers that change: change them there."
            raise ArgumentError(build("vary", f"a model that gives {scores} with {knob}={value!r}", got, hint=hint))
    if init is not None:
        draw(made, init, _gains(places))
    varied: Model = made
    return varied


def gain(activation: Module) -> float:
    r"""The factor by which weights must be larger than 1/√fan_in so that an activation keeps the mean square of what
    passes through a network.

    .. math:: g = 1/\sqrt{E[f(z)²]}, \quad z ∼ N(0, 1)

    A layer that reads f(z) of such z then gives values of mean square 1 again.

    Source: K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", 2015, section 2.2, for any f in place of
    the ReLU, whose g is √2.

    >>> round(gain(nn.ReLU()) ** 2, 4), round(gain(nn.LeakyReLU(0.5)) ** 2, 4), round(gain(nn.Tanh()), 3)
    (2.0, 1.6, 1.593)
    """
    step = 1 / 512
    z = torch.arange(-8, 8 + step, step, dtype=torch.float64, device="cpu")
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    with torch.no_grad():
        square = (copy.deepcopy(activation).to("cpu", torch.float64)(z) ** 2 * density).sum().item() * step
    return 1 / math.sqrt(square)


def _gains(places: Places) -> dict[Module, float]:
    """The gain of the activation that each layer with weights reads, through pooling and whatever else keeps values;
    a layer that reads a norm, a sum or another layer has none.
    """
    through = (*_MAX_POOLS, *_AVG_POOLS, *_ADAPTIVE_POOLS, *_GLOBAL_POOLS, *_THROUGH, _Permute)
    found: dict[Module, float] = {}
    for part in places.of(WEIGHTED):
        before = places.before(part)
        while before is not None and isinstance(places.module(before), through):
            before = places.before(before)
        if before is not None and isinstance(places.module(before), _ACTIVATIONS):
            found[places.module(part)] = gain(places.module(before))
    return found


def _refuse(knob: str, value: str, why: str, hint: str | None = None) -> ArgumentError:
    expects = f"a model that can have {knob}={value!r}"
    return ArgumentError(build("vary", expects, why, hint=hint or f"Leave {knob} out for this model."))


# ------------------------------------------------------------------------------------------------------- activations


def _hidden_activations(places: Places) -> list[Part]:
    """The calls of activations, without those whose value the model returns or multiplies with another."""
    found = []
    for part in places.of(_ACTIVATIONS):
        gates = isinstance(places.module(part), _GATES) and any(op.is_a("scale") for op in places.readers(part))
        if not gates and not places.neighbours.is_output(part):
            found.append(part)
    return found


def _activation_of(places: Places) -> Module | None:
    """The activation that the model calls most often."""
    modules = [places.module(part) for part in _hidden_activations(places)]
    kinds = Counter(type(module) for module in modules)
    if not modules:
        return None
    most = kinds.most_common(1)[0][0]
    return next(module for module in modules if type(module) is most)


def _change_activation(places: Places, value: str) -> None:
    functions = places.operations_outside("relu", "activation")
    if functions:
        why = f"one that calls {places.path(functions[0])} as a function"
        raise _refuse("activation", value, why, "Make it a layer, as nn.ReLU().")
    found = {places.module(part): part for part in _hidden_activations(places)}
    if not found:
        raise _refuse("activation", value, "one without activations between its layers")
    _refuse_fused(places, "activation", value)
    for module in found:
        places.replace(module, ACTIVATIONS[value]())


def _refuse_fused(places: Places, knob: str, value: str) -> None:
    """Raises for a norm that computes an activation itself: it is not one layer that can be exchanged."""
    for name, module in places.model.named_modules():
        if isinstance(module, NORMS) and (getattr(module, "activation", None) or list(module.children())):
            hint = "Use a norm and an activation that are layers of their own."
            raise _refuse(knob, value, f"one whose norm {name} computes an activation too", hint)


# ------------------------------------------------------------------------------------------------------------ pooling


def _change_pool(places: Places, value: str) -> None:
    found = {places.module(part): part for part in places.of((*_MAX_POOLS, *_AVG_POOLS))}
    if not found:
        steps = any(max(places.module(part).stride) > 1 for part in places.of(WEIGHTED[:1]))
        if value == "stride" and steps:
            return  # it halves the image by convolutions already
        raise _refuse("pool", value, "one without a max or average pooling between its layers")
    made = {module: _pooling(places, part, value) for module, part in found.items()}
    activation = _activation_of(places)
    for module, new in made.items():
        if new is not None:
            places.replace(module, new)
            if value == "stride" and activation is not None:
                places.put_behind(new, copy.deepcopy(activation), "act")


def _pooling(places: Places, part: Part, value: str) -> Module | None:
    """What takes the place of a pooling; None where it is of that kind already."""
    pool, path = places.module(part), places.path(part)
    is_max = isinstance(pool, _MAX_POOLS)
    dims = next(i for i in (0, 1, 2) if isinstance(pool, (_MAX_POOLS[i], _AVG_POOLS[i])))
    if (value == "max") == is_max and value != "stride":
        return None
    if getattr(pool, "return_indices", False):
        raise _refuse("pool", value, f"one whose {path} gives the places of its maxima too")
    window: dict[str, Any] = {"kernel_size": pool.kernel_size, "stride": pool.stride, "padding": pool.padding}
    dilation = getattr(pool, "dilation", 1)
    if value == "stride":
        channels = places.shape_before(part)[1]
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims]
        made: Module = convolution(channels, channels, **window, dilation=dilation, **places.factory)
        if pool.ceil_mode and _size(made, places, part) != places.shape_behind(part):
            raise _refuse("pool", value, f"one whose {path} rounds its size up")
        return made
    if value == "max":
        return (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dims](**window, ceil_mode=pool.ceil_mode)
    if dilation not in (1, (1,), (1, 1), (1, 1, 1)):
        raise _refuse("pool", value, f"one whose {path} is dilated, which no average pooling is")
    average = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[dims]
    return average(**window, ceil_mode=pool.ceil_mode, count_include_pad=False)


def _size(layer: Any, places: Places, part: Part) -> tuple[int, ...]:
    with torch.device("meta"):
        return tuple(copy.deepcopy(layer).to("meta")(torch.empty(places.shape_before(part))).shape)


# -------------------------------------------------------------------------------------------------------------- norms


def _kind_of(norm: Any) -> str:
    """The name of a norm's kind among those of the knob."""
    if isinstance(norm, nn.SyncBatchNorm | torch.nn.SyncBatchNorm):
        return "sync"
    if isinstance(norm, nn.GhostBatchNorm2d):
        return "ghost"
    if isinstance(norm, InstanceNormBase):
        return "instance"
    if isinstance(norm, BATCH_NORMS):
        return "batch"
    if isinstance(norm, GROUP_NORMS):
        return "layer" if norm.num_groups == 1 else "group"
    return "layer"


def _change_norm(places: Places, value: str) -> None:
    _refuse_fused(places, "norm", value)
    found = {places.module(part): part for part in places.of(NORMS)}
    if not found:
        if value != "none":
            _add_norms(places, value)
        return
    made = {
        module: _norm_like(places, part, value)
        for module, part in found.items()
        if value not in ("none", _kind_of(module))
    }
    for module, part in found.items():
        if value == "none":
            _give_bias(places.module(before) if (before := places.before(part)) is not None else None, places)
            places.remove(module)
        elif module in made:
            places.replace(module, made[module])


def _norm_like(places: Places, part: Part, value: str) -> Module:
    """A norm of another kind for the channels that the norm of a part scales."""
    norm, shape, path = places.module(part), places.shape_before(part), places.path(part)
    axis = channels_axis(norm, len(shape))
    over = getattr(norm, "normalized_shape", (shape[axis],))
    if len(over) > 1:
        if tuple(over) != shape[1:]:
            raise _refuse("norm", value, f"one whose {path} scales the last {len(over)} axes of {len(shape)}")
        axis = 1
    return _norm(value, shape, axis, path, places)


def _add_norms(places: Places, value: str) -> None:
    """Puts a norm behind each layer with weights but the last."""
    made = {}
    for part in places.of(WEIGHTED):
        layer, shape = places.module(part), places.shape_behind(part)
        axis = channels_axis(layer, len(shape))
        if places.is_hidden(part) and not (value == "instance" and math.prod(shape) == shape[0] * shape[axis]):
            made[layer] = _norm(value, shape, axis, places.path(part), places)
    if not made:
        raise _refuse("norm", value, "one without a layer with weights and positions before its last")
    for layer, norm in made.items():
        if places.calls(layer) > 1 and value in ("batch", "sync", "ghost"):
            name = next(name for name, module in places.model.named_modules() if module is layer)
            raise _refuse("norm", value, f"one whose {name} is called twice, with one norm for two distributions")
        places.put_behind(layer, norm, "norm")


def _norm(value: str, shape: tuple[int, ...], axis: int, path: str, places: Places) -> Module:
    channels, rank = shape[axis], len(shape)
    positions = math.prod(shape) // (shape[0] * channels)
    if value == "instance" and positions == 1:
        why = f"one with a single position at {path}: a channel's variance over one value is 0"
        raise _refuse("norm", value, why, "Choose batch, group or layer.")
    made = _MAKE[value](channels, rank - 2, places.factory)
    if axis == 1:
        return made
    first, last = (0, rank - 1, *range(1, rank - 1)), (0, *range(2, rank), 1)
    return nn.Sequential(_Permute(*first), made, _Permute(*last))


_MAKE: dict[str, Callable[[int, int, dict[str, Any]], Module]] = {
    "batch": lambda c, dims, factory: (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims](
        c, **factory
    ),
    "group": lambda c, dims, factory: nn.GroupNorm(_groups(c), c, **factory),
    "layer": lambda c, dims, factory: nn.GroupNorm(1, c, **factory),
    "instance": lambda c, dims, factory: (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 1](
        c, affine=True, **factory
    ),
    "sync": lambda c, dims, factory: nn.SyncBatchNorm(c, **factory),
    "ghost": lambda c, dims, factory: nn.GhostBatchNorm2d(c, GHOST_BATCH_SIZE, **factory),
}


def _groups(channels: int) -> int:
    """32 groups, halved until they divide the channels and each has four at least: one channel alone would be an
    instance norm.
    """
    groups = MOST_GROUPS
    while groups > 1 and (channels % groups or channels // groups < LEAST_IN_GROUP):
        groups //= 2
    return groups


def _give_bias(layer: Any, places: Places) -> None:
    """Gives a layer the bias that the shift of the norm behind it was."""
    if isinstance(layer, WEIGHTED) and layer.bias is None:
        outputs = layer.out_features if isinstance(layer, torch.nn.Linear) else layer.out_channels
        layer.bias = Parameter(torch.zeros(outputs, **places.factory))


def _move_norms(places: Places, value: str) -> None:
    _refuse_fused(places, "norm_position", value)
    if not places.of(NORMS):
        raise _refuse("norm_position", value, "one without norms", "Choose a norm too, as norm='batch'.")
    pairs, beside = [], False
    for first, second in ((NORMS, _ACTIVATIONS), (_ACTIVATIONS, NORMS)):
        for part in places.of(first):
            after = places.next(part)
            if after is None or not isinstance(places.module(after), second):
                continue
            beside = True
            if (first is NORMS) == (value == "after"):
                pairs.append((part, after))
    if not beside:
        raise _refuse("norm_position", value, "one whose norms stand beside no activation")
    for pair in pairs:
        for part in pair:
            if (calls := places.calls(places.module(part))) > 1:
                why = f"one whose {places.path(part)} is one layer at {calls} places of its block's code"
                raise _refuse("norm_position", value, why)
    for part, after in pairs:
        if value == "after":
            _give_bias(places.module(before) if (before := places.before(part)) is not None else None, places)
        roles = ("norm", "act") if value == "after" else ("act", "norm")
        places.swap(places.module(part), places.module(after), roles)


# --------------------------------------------------------------------------------------------------------------- head


def _change_head(places: Places, value: str) -> None:
    layers = places.of(WEIGHTED)
    last = layers[-1] if layers else None
    first = next((part for part in places.of((torch.nn.Linear,)) if _is_of_head(places, part)), None)
    if first is None or last is None or not isinstance(places.module(last), torch.nn.Linear):
        raise _refuse("head", value, "one without a linear layer behind its last feature map")
    between, feature = _before_head(places, first)
    has_maps = any(len(places.shape_behind(part)) > 2 for part in places.of(WEIGHTED[:1]))
    pooled = next((p for p in between if _averages(places, p)), None)
    if value == "gap":
        if not has_maps or feature is None:
            raise _refuse("head", value, "one without a feature map before its linear layers")
        if pooled is None:
            _average_features(places, first, last, between, feature)
    elif pooled is not None:
        _flatten_features(places, first, pooled)


def _is_of_head(places: Places, part: Part) -> bool:
    """Whether a linear layer reads vectors and no convolution follows."""
    convolutions = WEIGHTED[:1]
    return len(places.shape_before(part)) == 2 and not places.leads_to(
        part, lambda one: isinstance(places.module(one), convolutions)
    )


def _before_head(places: Places, linear: Part) -> tuple[list[Part], Part | None]:
    """The parts between the last feature map and the first linear layer, the nearest to it first, and the part that
    makes the feature map; None if that is the model's input.
    """
    between: list[Part] = []
    part = places.before(linear)
    while part is not None:
        averages = _averages(places, part) or isinstance(places.module(part), _ADAPTIVE_POOLS)
        norm = isinstance(places.module(part), NORMS) and not any(_averages(places, p) for p in between)
        if not averages and not norm and not isinstance(places.module(part), _THROUGH):
            return between, part
        between.append(part)
        part = places.before(part)
    return between, None


def _averages(places: Places, part: Part) -> bool:
    """Whether a part reduces each channel of a feature map to one mean."""
    shape = places.shape_behind(part)
    one = math.prod(shape) == shape[0] * shape[1] if len(shape) > 1 else False
    if part.call is None:
        return one and part.operations[0].is_a("mean", "adaptive_avg_pool")
    return one and isinstance(part.call.module, (*_GLOBAL_POOLS, *_ADAPTIVE_POOLS, *_AVG_POOLS))


def _average_features(places: Places, first: Part, last: Part, between: list[Part], feature: Part) -> None:
    """Averages the channels of the last feature map, and puts one linear layer in place of all."""
    chain, part = [], last
    while part is not first:
        chain.append(part)
        before = places.before(part)
        if before is None or part.call is None:
            why = f"one whose linear layers are no chain: see {places.path(part)}"
            raise _refuse("head", "gap", why)
        part = before
    for part in (first, *chain):
        if places.calls(places.module(part)) > 1:
            raise _refuse("head", "gap", f"one that calls {places.path(part)} twice")
    shape = places.shape_behind(feature)
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[len(shape) - 3](1)
    adaptive = next((p for p in between if isinstance(places.module(p), _ADAPTIVE_POOLS)), None)
    flatten = next((p for p in between if isinstance(places.module(p), torch.nn.Flatten)), None)
    if adaptive is not None:
        places.replace(places.module(adaptive), pool)
    elif flatten is not None:
        places.put_before(places.module(flatten), pool, "avgpool")
    elif feature.call is not None:
        places.put_behind(feature.call.module, pool, "avgpool")
    else:
        raise _refuse("head", "gap", f"one that makes its last feature map by {places.path(feature)}")
    _renew(places, places.module(last), shape[1])
    for part in (first, *chain):
        if part is not last:
            places.remove(places.module(part))


def _flatten_features(places: Places, first: Part, pooled: Part) -> None:
    if pooled.call is None:
        raise _refuse("head", "flatten", f"one that averages by {places.path(pooled)}", "Make it a layer.")
    shape = places.shape_before(pooled)
    if isinstance(pooled.call.module, _GLOBAL_POOLS) and len(places.shape_behind(pooled)) == 2:
        places.replace(pooled.call.module, nn.Flatten())
    else:
        places.remove(pooled.call.module)
    _renew(places, places.module(first), math.prod(shape[1:]))


def _renew(places: Places, linear: Any, inputs: int) -> None:
    if inputs != linear.in_features:
        new = nn.Linear(inputs, linear.out_features, bias=linear.bias is not None, **places.factory)
        places.replace(linear, new)
