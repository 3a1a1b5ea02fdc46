"""Lipschitz constants of operators: a column of the op table, with a function for each kind of operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor

from ..graph.optable import Column
from ..graph.recording import Operation, Recording, Ref
from ..window import AdaptiveAxis
from .bounds import Convolution, fourier_bound, overlap, row_and_column_bound
from .jacobian import Jacobian
from .replay import replay

__all__ = ["CONSTANTS", "Site"]


@dataclass(frozen=True)
class Site:
    """An operation of a recording, as its rule sees it.

    tensors: the model's parameters and buffers by name, in float64; known: a Lipschitz constant for each value that
    depends on the model's input.
    """

    recording: Recording
    operation: Operation
    tensors: Mapping[str, Tensor]
    known: Mapping[int, float]

    def __getitem__(self, name: str) -> Any:
        return self.operation.arguments.get(name)

    @property
    def data(self) -> list[int]:
        """The inputs that depend on the model's input."""
        return [value for value in dict.fromkeys(self.operation.inputs) if value in self.known]

    @property
    def before(self) -> float | None:
        """The constant of the only such input, the first; None if it is another, or if there are more."""
        first, data = self.operation.inputs[0], self.data
        return self.known[first] if data == [first] else None

    def shape(self, value: int) -> tuple[int, ...]:
        return self.recording.values[value].shape

    def tensor(self, given: Any) -> Tensor | None:
        """A parameter or buffer among the arguments, also where it is viewed in another way; None for others."""
        if not isinstance(given, Ref):
            return None
        value = self.recording.values[self.recording.origin(given.value)]
        return self.tensors.get(value.name) if value.name is not None else None


Rule = Callable[[Site], "float | None"]  # a constant for the outputs; None where none is known
CONSTANTS: Column[Rule] = Column("Lipschitz constants")
_of, _of_kinds = CONSTANTS.of, CONSTANTS.of_kinds


def _times(constant: float) -> Rule:
    return lambda site: None if site.before is None else constant * site.before


_of_kinds("relu", "tanh", "clamp", "view", "identity", "cast")(_times(1.0))
_of("aten.relu6", "aten.hardtanh", "aten.clamp", "aten.clamp_min", "aten.celu", "aten.softplus", "aten.log_sigmoid",
    "aten.log_sigmoid_forward")(_times(1.0))  # fmt: skip
_of("aten.gelu")(_times(1.129))  # the largest derivatives, rounded up: tests/test_lipschitz.py has them
_of("aten.silu")(_times(1.0999))
_of("aten.mish")(_times(1.0885))
_of("aten.hardswish")(_times(1.5))
_of("aten.hardsigmoid")(_times(0.166667))
_of_kinds("sigmoid")(_times(0.25))
_of_kinds("softmax")(_times(0.5))  # ‖diag(p) − p pᵀ‖ is at most ½, at two equal probabilities


@_of_kinds("log_softmax")
def log_softmax(site: Site) -> float | None:
    """‖I − 1 pᵀ‖ is at most √n, at a probability of 1."""
    shape = site.shape(site.operation.inputs[0])
    return None if site.before is None else site.before * sqrt(shape[site["dim"]] if shape else 1)


@_of("aten.leaky_relu")
def leaky_relu(site: Site) -> float | None:
    return None if site.before is None else site.before * max(1.0, abs(float(site["negative_slope"])))


@_of("aten.elu")
def elu(site: Site) -> float | None:
    """scale · x above 0, scale · alpha · (exp(input_scale · x) − 1) below."""
    if site.before is None:
        return None
    alpha, scale, input_scale = (float(site[name]) for name in ("alpha", "scale", "input_scale"))
    return site.before * abs(scale) * max(1.0, abs(alpha * input_scale))


@_of("aten.prelu", "aten._prelu_kernel")
def prelu(site: Site) -> float | None:
    slopes = site.tensor(site["weight"])
    return None if site.before is None or slopes is None else site.before * max(1.0, float(slopes.abs().max()))


# --------------------------------------------------------------------------------------------------- sums and products


@_of_kinds("sum")
def added(site: Site) -> float | None:
    """x + alpha · y."""
    alpha = site["alpha"]
    total, scale = 0.0, 1.0 if alpha is None else abs(float(alpha))
    for name, factor in (("self", 1.0), ("other", scale)):
        given = site[name]
        if isinstance(given, Ref):
            total += factor * site.known.get(given.value, 0.0)
    return None if site.operation.is_a("sum") and "rsub" in site.operation.name and scale != 1.0 else total


@_of_kinds("scale")
def scaled(site: Site) -> float | None:
    """x · c and c · x, and x / c for a number c."""
    one, other, is_division = site["self"], site["other"], site.operation.name.startswith("aten.div")
    if isinstance(one, Ref) and one.value not in site.known and not is_division:
        one, other = other, one
    if len(site.data) != 1 or one != Ref(site.data[0]) or other == one or site["rounding_mode"]:
        return None
    before = site.known[site.data[0]]
    if isinstance(other, int | float) and not (is_division and other == 0):
        return before * abs(1 / other if is_division else other)
    tensor = site.tensor(other)
    return None if tensor is None or is_division else before * float(tensor.abs().max())


@_of_kinds("matrix_product")
def matrix_product(site: Site) -> float | None:
    """x W, and W x, for a parameter W, and plus a constant."""
    names = ("mat1", "mat2") if site["mat1"] is not None else ("self", "mat2")
    data = [site[name] for name in names if isinstance(site[name], Ref) and site[name].value in site.known]
    other = [site.tensor(site[name]) for name in names if site[name] not in data]
    if len(data) != 1 or len(site.data) != 1 or not other or other[0] is None or other[0].dim() != 2:
        return None
    alpha = 1.0 if site["alpha"] is None else abs(float(site["alpha"]))
    return site.known[data[0].value] * alpha * float(torch.linalg.matrix_norm(other[0], 2))


@_of_kinds("convolution", "transposed_convolution")
def convolution(site: Site) -> float | None:
    weight = site.tensor(site["weight"])
    if site.before is None or weight is None or site["transposed"] is None:
        return None
    inner, outer = (site.shape(value)[2:] for value in (site.operation.inputs[0], site.operation.outputs[0]))
    sizes = (outer, inner) if site["transposed"] else (inner, outer)
    padding, stride, dilation = (tuple(site[name]) for name in ("padding", "stride", "dilation"))
    conv = Convolution(weight, *sizes, stride, dilation, padding, padding, site["groups"], "zeros")
    return site.before * fourier_bound(conv).value


@_of_kinds("concatenation", "stacking")
def joined(site: Site) -> float | None:
    """‖(x, y)‖² = ‖x‖² + ‖y‖², for inputs that are joined as often as they are there."""
    return sqrt(sum(site.known.get(value, 0.0) ** 2 for value in site.operation.inputs))


# ---------------------------------------------------------------------------------------------------- norms and pooling


@_of_kinds("batch_norm")
def batch_norm(site: Site) -> float | None:
    """|γ|/√(σ² + ε) with running statistics; with the batch's, samples depend on each other."""
    variance = site.tensor(site["running_var"])
    if site.before is None or variance is None or site["training"] or site["use_input_stats"]:
        return None
    return site.before * float((_scale(site) / (variance + float(site["eps"])).sqrt()).abs().max())


@_of_kinds("norm")
def norm(site: Site) -> float | None:
    """|γ|/√ε, which is reached where the normalized values are equal; elsewhere it is |γ|/√(σ² + ε)."""
    eps = site["eps"]
    return None if site.before is None or not eps else site.before * float(_scale(site).abs().max()) / sqrt(eps)


def _scale(site: Site) -> Tensor:
    found = site.tensor(site["weight"])
    return torch.ones((), dtype=torch.float64) if found is None else found


@_of_kinds("max_pool")
def max_pool(site: Site) -> float | None:
    """√m for values that are in m windows at most."""
    size = site["kernel_size"]
    if site.before is None or size is None:
        return None
    stride, dilation = site["stride"] or size, site["dilation"] or [1]
    axes = [list(given) * (len(size) if len(given) == 1 else 1) for given in (size, stride, dilation)]
    return site.before * sqrt(prod(overlap(*axis) for axis in zip(*axes, strict=True)))


@_of_kinds("adaptive_max_pool")
def adaptive_max_pool(site: Site) -> float | None:
    if site.before is None:
        return None
    axes = len(site["output_size"])
    sizes = [site.shape(value)[-axes:] for value in (site.operation.inputs[0], site.operation.outputs[0])]
    windows = [AdaptiveAxis(i, o) for i, o in zip(*sizes, strict=True)]
    return site.before * sqrt(prod(max(len(axis.outputs(p)) for p in range(axis.input)) for axis in windows))


@_of_kinds("avg_pool", "adaptive_avg_pool", "mean", "pad", "rearrangement", "resampling")
@_of("aten.expand", "aten.sum", "aten.repeat")
def averaged(site: Site) -> float | None:
    """Linear operators without negative factors: by the sums of their rows and columns."""
    call = replay(site.operation)
    if site.before is None or call is None or "bicubic" in site.operation.name:
        return None
    x = torch.zeros(site.shape(site.operation.inputs[0]), dtype=torch.float64)
    return site.before * row_and_column_bound(Jacobian(call, x)).value


_NONE = """
activation backward vector_product attention recurrent uncounted_product norm_statistics gate dropout dropout_with_mask
total reduction scan written creation generation lookup other_product pointwise random value size_query layout packing
linear batched_product local_convolution
"""
CONSTANTS.none(*_NONE.split())
