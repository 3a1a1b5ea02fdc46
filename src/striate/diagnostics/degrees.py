r"""What becomes of a value when one weight is multiplied by λ > 0: a column of the op table, a function an operator.

.. math:: value(λ w) = λ^d · value(w) + c

A convolution of w with data has degree d = 1, two behind each other with the same w have 2; a norm brings any degree to
0. A bias adds a term c that does not grow with w. A ReLU of u + c is no power of λ any more, but a norm that subtracts
the mean over axes along which c is constant takes c away: batch norm does that with the bias of each channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..graph.links import Along, Regroup, links_of
from ..graph.optable import Column
from ..graph.recording import Operation, Recording, Ref
from .replay import replay

__all__ = ["DEGREES", "FREE", "Place", "Scaling", "convolved"]


class Scaling(NamedTuple):
    """degree: d; added: the axes along which c is constant, None if there is no c."""

    degree: float
    added: frozenset[int] | None = None


FREE = Scaling(0.0)  # does not depend on λ
FACTOR = 8.0
SAMPLES = 1.37 * 2.0 ** torch.arange(-20, 21, dtype=torch.float64)  # wider than what activations bend at


@dataclass(frozen=True)
class Place:
    """An operation of a recording, as its rule sees it. known: the scaling of each value that depends on λ."""

    recording: Recording
    operation: Operation
    known: Mapping[int, Scaling]

    def __getitem__(self, name: str) -> Any:
        return self.operation.arguments.get(name)

    def of(self, given: Any) -> Scaling:
        """The scaling of an argument."""
        return self.known.get(given.value, FREE) if isinstance(given, Ref) else FREE

    def shape(self, given: Any) -> tuple[int, ...]:
        """The shape of an argument; () for a number."""
        return self.recording.values[given.value].shape if isinstance(given, Ref) else ()

    @property
    def output(self) -> tuple[int, ...]:
        return self.recording.values[self.operation.outputs[0]].shape

    @property
    def x(self) -> Ref:
        """The first tensor among the arguments."""
        return Ref(self.operation.inputs[0])

    @property
    def only(self) -> Scaling | None:
        """The scaling of the first tensor; None if another argument depends on λ too."""
        first = self.operation.inputs[0]
        others = any(value in self.known for value in self.operation.inputs if value != first)
        return None if others else self.of(self.x)

    def axes(self) -> frozenset[int]:
        """Those of the output."""
        return frozenset(range(len(self.output)))

    def repeated(self, given: Any) -> frozenset[int]:
        """The axes of the output along which an argument has one value, where it is broadcast."""
        shape, rank = self.shape(given), len(self.output)
        ahead = rank - len(shape)
        return frozenset(a for a in range(rank) if a < ahead or shape[a - ahead] == 1)


Rule = Callable[[Place], "Scaling | None"]  # the scaling of the outputs; None where they have none
DEGREES: Column[Rule] = Column("degrees of homogeneity")
_of, _of_kinds = DEGREES.of, DEGREES.of_kinds


def _constant(scaling: Scaling, shape: Sequence[int], axes: Sequence[int]) -> bool:
    """Whether nothing was added, or what is constant along these axes."""
    return scaling.added is None or all(a in scaling.added or shape[a] == 1 for a in axes)


def _power(exponent: float) -> Rule:
    """x to a power, of either sign: only what has nothing added."""

    def rule(place: Place) -> Scaling | None:
        x = place.only
        return None if x is None or x.added is not None else Scaling(exponent * x.degree)

    return rule


_of("aten.prelu", "aten._prelu_kernel", "aten.linalg_vector_norm", "aten.norm", "aten.cumsum")(_power(1.0))


@_of_kinds("relu", "activation", "sigmoid", "tanh", "clamp", "pointwise")
def by_values(place: Place) -> Scaling | None:
    """A function of one value is homogeneous if it is on a range of values: f(8 x) = 8^p f(x) there, with one p."""
    x, function = place.only, replay(place.operation)
    if x is None or x == FREE or x.added is not None or function is None:
        return FREE if x == FREE else None
    at = torch.cat([SAMPLES, -SAMPLES])
    before, after = function(at.clone()), function(FACTOR * at)
    if before.shape != at.shape or after.shape != at.shape:
        return None
    is_zero = before == 0
    ratios = (after / before)[before.isfinite() & ~is_zero]
    if not torch.equal(is_zero, after == 0) or not torch.equal(before.isnan(), after.isnan()) or not len(ratios):
        return None
    is_power = bool((ratios > 0).all()) and torch.allclose(ratios, ratios[0].expand(len(ratios)), rtol=1e-9)
    return Scaling(x.degree * round(math.log(float(ratios[0]), FACTOR), 9)) if is_power else None


# --------------------------------------------------------------------------------------------------- sums and products


@_of_kinds("sum")
def added(place: Place) -> Scaling | None:
    """Terms of one degree, and constants, which become part of c."""
    terms = [given for name in ("self", "other") if (given := place[name]) is not None]
    return _sum(place, terms)


def _sum(place: Place, terms: Sequence[Any]) -> Scaling | None:
    growing = [place.of(term) for term in terms if place.of(term) != FREE]
    constants = [term for term in terms if place.of(term) == FREE]
    if len({one.degree for one in growing}) != 1:
        return FREE if not growing else None
    parts = [one.added for one in growing if one.added is not None]
    parts += [place.repeated(term) for term in constants]
    return Scaling(growing[0].degree, frozenset.intersection(*parts) if parts else None)


@_of_kinds("scale")
def scaled(place: Place) -> Scaling | None:
    one, other = place.of(place["self"]), place.of(place["other"])
    sign = -1.0 if place.operation.name.startswith("aten.div") else 1.0
    if place["rounding_mode"] or (other.added is not None and (sign < 0 or one != FREE)):
        return None
    if one.added is not None and other != FREE:
        return None
    degree = one.degree + sign * other.degree
    for value, factor in ((one, "other"), (other, "self")):
        if value.added is not None:
            return Scaling(degree, value.added & place.repeated(place[factor]))
    return Scaling(degree)


@_of_kinds("matrix_product", "linear", "batched_product", "vector_product")
def product(place: Place) -> Scaling | None:
    """Rows of x times a matrix, plus a constant: what was added stays constant along the axes of the rows."""
    inputs = list(place.operation.inputs)
    named = [place[name] for name in ("mat1", "mat2", "batch1", "batch2", "mat", "vec") if place[name] is not None]
    factors = named if len(named) == 2 else [Ref(value) for value in inputs[:2]]
    x, w = (place.of(factor) for factor in factors)
    if w.added is not None or (x.added is not None and w != FREE):
        return None
    rows = frozenset(range(len(place.output) - 1))
    degree, kept = x.degree + w.degree, None if x.added is None else x.added & rows
    # the operands that a product is added to; a linear operator has its bias behind both factors
    terms = [place["self"]] if len(named) == 2 else [place["bias"]]
    return _with_bias(place, Scaling(degree, kept), [term for term in terms if isinstance(term, Ref)])


def _with_bias(place: Place, made: Scaling, terms: Sequence[Ref]) -> Scaling | None:
    for term in terms:
        bias = place.of(term)
        if bias != FREE and made != FREE:
            if bias.degree != made.degree:
                return None
            parts = [one.added for one in (bias, made) if one.added is not None]
            made = Scaling(made.degree, frozenset.intersection(*parts) if parts else None)
        elif bias != FREE:  # a constant that is added to a bias that grows: constant nowhere
            made = Scaling(bias.degree, frozenset())
        elif made != FREE:
            repeated = place.repeated(term)
            made = Scaling(made.degree, repeated if made.added is None else made.added & repeated)
    return made


@_of_kinds("convolution", "transposed_convolution")
def convolution(place: Place) -> Scaling | None:
    padding = place["padding"]
    return convolved(place, place.of(place.x), is_padded=padding is None or any(padding) or bool(place["transposed"]))


def convolved(place: Place, x: Scaling, is_padded: bool) -> Scaling | None:
    """A convolution of x. is_padded: whether zeros are put around it, so that what was added varies at the border."""
    weight = place.of(place["weight"])
    if weight.added is not None or (x.added is not None and weight != FREE):
        return None
    axes = place.axes()
    kept = None
    if x.added is not None:
        kept = x.added & {0}
        if not is_padded and axes - {0, 1} <= x.added:
            kept |= axes - {0, 1}
    made = Scaling(x.degree + weight.degree, kept)
    bias = place["bias"]
    if not isinstance(bias, Ref):
        return made
    if place.of(bias) == FREE:  # one value a channel
        return made if made == FREE else Scaling(made.degree, axes - {1} if kept is None else kept & (axes - {1}))
    return _with_bias(place, made, [bias])


@_of("locally_connected")
def local(place: Place) -> Scaling | None:
    """x and a weight for each position; what is added, and the bias there, are constant along the batch alone."""
    layer, values = place["layer"], place.recording.values
    bias = [v for v in place.operation.inputs if layer.bias is not None and values[v].shape == layer.bias.shape]
    factors = [place.known[v] for v in place.operation.inputs if v in place.known and v not in bias]
    if len(factors) > 1 and any(one.added is not None for one in factors):
        return None
    kept = [one.added & {0} for one in factors if one.added is not None]
    made = Scaling(sum(one.degree for one in factors), kept[0] if kept else None)
    return _with_bias(place, made, [Ref(value) for value in bias])


# ---------------------------------------------------------------------------------------------------- norms and pooling


@_of_kinds("batch_norm")
def batch_norm(place: Place) -> Scaling | None:
    """With the batch's statistics it removes any degree, and what is constant in each channel; with the running ones it
    multiplies by constants.
    """
    x, shape = place.of(place.x), place.shape(place.x)
    others = [axis for axis in range(len(shape)) if axis != 1]
    measures = place["training"]
    if measures is None:  # operators that have it in their names
        measures = place.operation.name.endswith("with_update")
    if not measures:
        channels = frozenset(others)
        kept = x if x == FREE else Scaling(x.degree, channels if x.added is None else x.added & channels)
        return kept if _is_free(place, "weight", "bias") else None
    return _affine(place) if _constant(x, shape, others) else None


@_of("aten.native_layer_norm", "aten.layer_norm")
def layer_norm(place: Place) -> Scaling | None:
    shape = place.shape(place.x)
    axes = range(len(shape) - len(place["normalized_shape"]), len(shape))
    return _affine(place) if _constant(place.of(place.x), shape, axes) else None


@_of("aten.native_group_norm", "aten.group_norm")
def group_norm(place: Place) -> Scaling | None:
    shape = place.shape(place.x)
    groups = place["group"] or place["num_groups"]  # as many as channels are instance norm
    axes = range(2 if groups == shape[1] else 1, len(shape))
    return _affine(place) if _constant(place.of(place.x), shape, axes) else None


@_of("aten.rms_norm", "aten._fused_rms_norm")
def rms_norm(place: Place) -> Scaling | None:
    """It subtracts no mean."""
    return _affine(place) if place.of(place.x).added is None else None


def _is_free(place: Place, *names: str) -> bool:
    return all(place.of(place[name]) == FREE for name in names)


def _affine(place: Place) -> Scaling | None:
    """γ · x̂ + β, where x̂ does not depend on λ; γ or β itself may."""
    scale, shift = place.of(place["weight"]), place.of(place["bias"])
    if scale == shift == FREE:
        return FREE
    if shift == FREE and not isinstance(place["bias"], Ref):
        return scale
    return scale if scale == shift else None


@_of_kinds("max_pool", "adaptive_max_pool")
@_of("aten.amax", "aten.amin")
def largest(place: Place) -> Scaling | None:
    """max(λ u + c) = λ max(u) + c for a constant c."""
    x = place.only
    if x is None or x.added is None:
        return x
    shape = place.shape(place.x)
    is_pool = place.operation.is_a("max_pool", "adaptive_max_pool")
    return x if is_pool and _constant(x, shape, range(2, len(shape))) else None


@_of_kinds("avg_pool", "adaptive_avg_pool", "pad", "resampling", "dropout", "dropout_with_mask")
def linear(place: Place) -> Scaling | None:
    """Of what was added, that along the batch stays constant; an adaptive average keeps it along its axes too."""
    x = place.only
    if x is None or x.added is None:
        return x
    if place.operation.is_a("dropout", "dropout_with_mask"):
        return Scaling(x.degree, frozenset())
    is_whole = place.operation.is_a("adaptive_avg_pool") or (
        place.operation.is_a("avg_pool") and not any(place["padding"] or ())
    )
    spatial = range(2, len(place.shape(place.x)))
    return x if is_whole and _constant(x, place.shape(place.x), spatial) else Scaling(x.degree, x.added & {0})


@_of_kinds("mean")
@_of("aten.sum")
def reduced(place: Place) -> Scaling | None:
    x = place.only
    if x is None or x.added is None:
        return x
    shape, dims = place.shape(place.x), place["dim"]
    gone = {d % max(1, len(shape)) for d in ([dims] if isinstance(dims, int) else dims or range(len(shape)))}
    if len(place.output) == len(shape):
        return Scaling(x.degree, x.added | gone)
    kept = [axis for axis in range(len(shape)) if axis not in gone]
    return Scaling(x.degree, frozenset(place for place, axis in enumerate(kept) if axis in x.added))


@_of("aten.var", "aten.std", "aten.var_mean", "aten.std_mean")
def spread(place: Place) -> Scaling | None:
    """Only the spread of what has nothing added, and not together with the mean, which has another degree."""
    x = place.only
    if x is None or x.added is not None:
        return None
    if "mean" in place.operation.name:
        return x if "std" in place.operation.name or x == FREE else None
    return Scaling(x.degree * (2.0 if "var" in place.operation.name else 1.0))


@_of_kinds("concatenation", "stacking")
def joined(place: Place) -> Scaling | None:
    values = [place.known.get(value, FREE) for value in place.operation.inputs]
    if len({value.degree for value in values}) != 1:
        return None
    parts = [value.added for value in values if value.added is not None]
    if not parts:
        return values[0]
    axis = (place["dim"] or 0) % len(place.output)
    kept = frozenset.intersection(*parts) - {axis}
    return Scaling(values[0].degree, kept if place.operation.is_a("concatenation") else frozenset())


@_of_kinds("view", "identity", "cast", "rearrangement")
def moved(place: Place) -> Scaling | None:
    """The same values in other places: an axis of the output along which all axes that it follows are constant."""
    x = place.only
    if x is None or x.added is None:
        return x
    found = links_of(place.recording, place.operation)[0]
    if len(found) != 1 or not found[0].exact:
        return Scaling(x.degree, frozenset())
    shape, axes = place.shape(place.x), found[0].axes
    constant = {a for a, n in enumerate(shape) if a in x.added or n == 1}
    if isinstance(axes, Regroup):
        groups = [out for given, out in axes.groups if constant.issuperset(given)]
        return Scaling(x.degree, frozenset(a for out in groups for a in out))
    varying = {to.axis for a, to in enumerate(axes) if isinstance(to, Along) and a not in constant}
    return Scaling(x.degree, place.axes() - varying)


@_of("aten.embedding")
def looked_up(place: Place) -> Scaling | None:
    return place.of(place["weight"])


@_of_kinds("creation", "generation", "size_query", "random")
def made(place: Place) -> Scaling | None:
    """Only the shape of what it reads matters."""
    return FREE


_NONE = """
local_convolution backward attention recurrent uncounted_product norm norm_statistics softmax gate total
reduction scan lookup other_product value layout packing
"""
DEGREES.none("written", "log_softmax", *_NONE.split())
