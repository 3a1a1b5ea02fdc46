r"""Convolutions and linear layers for inference, with weights packed once and a fused sum and activation.

.. math:: y = f(x * w + b + r)

r is the residual, the other operand of a sum; f is an :class:`~striate.ops.activation.Activation`. There is no
gradient. A layer chooses a method for each shape of x and number of threads when it first sees them, and remembers it.

A method is a :class:`~striate.ops.dispatch.Candidate` whose ``run(layer, problem)`` packs the layer's weight, or takes
it packed from :meth:`_Fused.packed`, and returns a function that computes y from x, the residual, and whether the
residual may be overwritten.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from math import inf, prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import native
from ..errors import ArgumentError, ShapeError, build
from ..tuning import select
from . import gate
from .activation import NONE, Activation, activated_in_place, clamp, operator_arguments
from .conv import METHODS, NATIVE, NUMBERS, ConvProblem, conv, geometry_for
from .conv.methods import split_padding, torch_refusal
from .dispatch import AS_MEASURED, Candidate, always, explain_choice, first, preferred
from .geometry import Sizes
from .layout import FORMATS
from .linear import not_preferred as linear_not_preferred
from .precision import is_strict

__all__ = ["CONV_METHODS", "LINEAR_METHODS", "FusedConv", "FusedLinear", "Product", "finish"]

Run = Callable[[Tensor, Tensor | None, bool], Tensor]
_CLOCK = itertools.count()
MOST_SHAPES = 32  # that a layer remembers, some KiB each; the least recently used is dropped
# Products of at least so many rows, by a matrix of at least so many weights, are faster with packed weights: up to 3
# times, for VGG's 25088×4096.
MIN_ROWS, MIN_WEIGHTS = 4, 2**20


def finish(y: Tensor, residual: Tensor | None = None, activation: Activation = NONE) -> Tensor:
    """Adds the residual and activates, in place: ``y = f(y + residual)``. NaN stays NaN.

    >>> finish(torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 0.5]), clamp(low=0.0))
    tensor([0.0000, 2.5000])
    """
    if residual is not None:
        y.add_(residual)
    return activated_in_place(y, activation)


class _Fused:
    """A layer's weight, its activation, and the function that computes each shape of x seen. It is thread-safe."""

    methods: tuple[Candidate, ...]

    def __init__(
        self, weight: Tensor, bias: Tensor | None, low: float, high: float, activation: Activation | None, where: str
    ) -> None:
        if not low <= high:
            raise ArgumentError(
                build(where, "low to be at most high", f"{low} and {high}", hint="Leave out what does not bound.")
            )
        self.weight, self.bias, self.where = weight, bias, where
        self.activation = clamp(low, high) if activation is None else activation
        self._packed: dict[Any, Any] = {}
        self._runs: dict[Any, tuple[str, Run]] = {}
        self._asked: dict[Any, int] = {}  # the time of the last call, by the keys of _runs

    def packed(self, key: Any, make: Callable[[], Any]) -> Any:
        """The result of ``make``, which packs the weight, kept by key.

        Two threads may both make it, and then share one of the two.
        """
        return self._packed[key] if key in self._packed else self._packed.setdefault(key, make())

    def problem_for(self, x: Tensor, strict: bool) -> Any:
        """The problem that a method is chosen for. Raises for an x that does not fit the layer."""
        raise NotImplementedError

    def method(self, x: Tensor) -> str:
        """The name of the method that computes x."""
        return self._chosen(x)[0]

    def explain_methods(self, x: Tensor) -> list[tuple[str, str | None]]:
        """The methods in order of preference for x, up to the chosen one, each with the reason against it."""
        return explain_choice(self.methods, self.problem_for(x, is_strict()))

    def _chosen(self, x: Tensor) -> tuple[str, Run]:
        # read once, since another thread may change the settings of the process meanwhile
        strict, method = is_strict(), preferred() or AS_MEASURED
        key = x.shape, x.dtype, strict, method, torch.get_num_threads()
        found = self._runs.get(key)
        if found is None:
            problem = self.problem_for(x, strict)
            candidate = first(self.methods, problem, method=method)
            while len(self._runs) >= MOST_SHAPES:
                longest_ago = min(list(self._runs), key=lambda key: self._asked.get(key, 0))
                self._runs.pop(longest_ago, None), self._asked.pop(longest_ago, None)  # another thread may have done it
            found = self._runs[key] = candidate.name, candidate.run(self, problem)
        self._asked[key] = next(_CLOCK)
        return found


class FusedConv(_Fused):
    r"""A convolution with a constant weight, then a sum and an activation.

    .. math:: y = f(conv(x, w) + b + r)

    weight, bias, stride, padding, dilation, groups: as :func:`striate.ops.conv.conv` takes them. activation: f; where
    none is given, low and high are the bounds of a clamp.

    ``conv(x, residual, reuse)``: with ``reuse`` y may overwrite the residual.
    ``conv.exact(x, residual)``: computes by torch's operator, with torch's NaN and infinity (oneDNN's ReLU turns NaN
    into 0).

    Shapes: x (N, C, \*axes), residual and y (N, K, \*output); of two and three axes in NHWC.

    Raises as :func:`striate.ops.conv.conv` does, ShapeError for x without a batch, and ArgumentError where low is above
    high.

    >>> conv = FusedConv(torch.ones(1, 2, 3, 3), torch.tensor([-5.0]), padding=1, high=10.0)
    >>> conv(torch.ones(1, 2, 3, 3), torch.ones(1, 1, 3, 3)).flatten()
    tensor([ 4.,  8.,  4.,  8., 10.,  8.,  4.,  8.,  4.])
    >>> [name for name, _ in conv.explain_methods(torch.ones(1, 2, 3, 3))][-1] in {m.name for m in CONV_METHODS}
    True
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        low: float = -inf,
        high: float = inf,
        where: str = "conv",
        activation: Activation | None = None,
    ) -> None:
        self.dims, self.format = weight.dim() - 2, FORMATS.get(weight.dim())
        super().__init__(
            weight if self.format is None else weight.contiguous(memory_format=self.format),
            *(bias, low, high, activation, where),
        )
        self.arguments = stride, padding, dilation, groups
        self.methods = CONV_METHODS

    def problem_for(self, x: Tensor, strict: bool) -> ConvProblem:
        if x.dim() != self.dims + 2:
            raise ShapeError(
                build(self.where, f"x of {self.dims + 2} axes", tuple(x.shape), hint="Add the batch with unsqueeze(0).")
            )
        geometry = geometry_for(x, self.weight, self.bias, *self.arguments, dims=self.dims, where=self.where)
        refusal = gate.reason(x, self.weight, self.bias)
        return ConvProblem("forward", geometry, self.format is not None, x.dtype, refusal, strict=strict)

    def __call__(self, x: Tensor, residual: Tensor | None = None, reuse: bool = False) -> Tensor:
        return self._chosen(x)[1](x, residual, reuse)

    def exact(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = conv(x, self.weight, self.bias, *self.arguments, dims=self.dims, where=self.where, method="torch")
        return finish(y, residual, self.activation)


class Product(NamedTuple):
    """The problem that the method of a linear layer is chosen for: a product of matrices."""

    rows: int
    inputs: int
    outputs: int
    refusal: str | None


class FusedLinear(_Fused):
    r"""A linear layer with a constant weight, then an activation.

    .. math:: y = f(x wᵀ + b)

    activation: f; where none is given, low and high are the bounds of a clamp.

    Shapes: x (\*, in), weight (out, in), bias (out,), y (\*, out). ``linear.exact(x)``: as :meth:`FusedConv.exact`.

    Raises ArgumentError where low is above high, ShapeError for x of another number of features.

    >>> FusedLinear(torch.eye(2), torch.tensor([0.5, 0.5]), low=0.0)(torch.tensor([[-1.0, 2.0]]))
    tensor([[0.0000, 2.5000]])
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        low: float = -inf,
        high: float = inf,
        where: str = "linear",
        activation: Activation | None = None,
    ) -> None:
        super().__init__(weight, bias, low, high, activation, where)
        self.methods = LINEAR_METHODS

    def problem_for(self, x: Tensor, strict: bool) -> Product:
        features = self.weight.shape[1]
        if x.dim() == 0 or x.shape[-1] != features:
            hint = f"Set in_features={x.shape[-1] if x.dim() else 1}, or check the layer before."
            raise ShapeError(build(self.where, f"{features} features", tuple(x.shape), hint=hint))
        refusal = gate.reason(x, self.weight, self.bias)
        return Product(prod(x.shape[:-1]), features, self.weight.shape[0], refusal)

    def __call__(self, x: Tensor) -> Tensor:
        return self._chosen(x)[1](x, None, False)

    def exact(self, x: Tensor) -> Tensor:
        return finish(F.linear(x, self.weight, self.bias), None, self.activation)


# --------------------------------------------------------------------------------------------------------------- oneDNN
# torch.ops.mkldnn has the operators that torch.compile calls for inference. They take a packed weight, and add and
# activate in the same pass.


def _onednn_missing(refusal: str | None) -> str | None:
    if refusal is not None and refusal != native.missing:
        return refusal
    return None if torch.backends.mkldnn.is_available() else "torch was built without oneDNN"


# oneDNN's names of activations, and of their algorithms.
_ONEDNN = {
    "clamp": ("hardtanh", ""),
    "leaky_relu": ("leaky_relu", ""),
    "silu": ("swish", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "hardswish": ("hardswish", ""),
}
_RELU = clamp(low=0.0)


def _attribute(activation: Activation) -> tuple[str, list[float], str]:
    """oneDNN's name for the activation, the numbers it takes, and its algorithm."""
    if activation in (NONE, _RELU):
        return "none" if activation == NONE else "relu", [], ""
    name, algorithm = _ONEDNN[activation.name]
    return name, list(activation.numbers), algorithm


def _onednn_refusal(problem: ConvProblem) -> str | None:
    missing = _onednn_missing(problem.refusal)
    if missing is not None:
        return missing
    if problem.geometry.dims == 1 or problem.dtype is not torch.float32:
        return "it is for two and three axes, in float32"
    if any(n < 1 for n in (*problem.geometry.x_shape, *problem.geometry.y_shape)):
        return "there is nothing to compute"
    return torch_refusal(problem)


def _onednn(layer: FusedConv, problem: ConvProblem) -> Run:
    ops, p = torch.ops.mkldnn, problem.geometry
    pointwise, summed = ops._convolution_pointwise.default, ops._convolution_pointwise.binary
    summed_in_place = ops._convolution_pointwise_.binary
    symmetric_pad, extra_pad = split_padding(p)
    is_asymmetric = any(extra_pad)
    padded = [i + b + a - 2 * n for i, b, a, n in zip(p.input, p.before, p.after, symmetric_pad, strict=True)]
    geometry = symmetric_pad, list(p.stride), list(p.dilation), p.groups

    def pack() -> Any:  # the layout depends on the image's size and, as far as was measured, not on the batch
        return ops._reorder_convolution_weight.default(layer.weight, *geometry, [p.batch, p.channels, *padded])

    # The layout depends on the number of threads too. oneDNN packs again in each call with another number, which took a
    # layer of MobileNet from 0.07 to 16 ms.
    packed = layer.packed(("onednn", torch.get_num_threads(), *padded), pack)
    bias, activation, attribute = layer.bias, layer.activation, _attribute(layer.activation)
    relu, rest = None, activation
    if activation.name == "clamp" and activation.numbers[0] == 0:  # after a sum it fuses only ReLU
        relu, rest = "relu", clamp(high=activation.numbers[1])

    def run(x: Tensor, residual: Tensor | None, reuse: bool) -> Tensor:
        x = F.pad(x, extra_pad) if is_asymmetric else x
        if residual is None:
            return pointwise(x, packed, bias, *geometry, *attribute)
        if reuse:
            y = summed_in_place(residual, x, packed, bias, *geometry, "add", 1.0, relu, [], "")
        else:
            y = summed(x, residual, packed, bias, *geometry, "add", 1.0, relu, [], "")
        return finish(y, None, rest)

    return run


def _onednn_product_refusal(product: Product) -> str | None:
    few = product.rows < MIN_ROWS or product.inputs * product.outputs < MIN_WEIGHTS
    return _onednn_missing(product.refusal) or (
        f"packing pays from {MIN_ROWS} rows and {MIN_WEIGHTS:,} weights on" if few else None
    )


def _onednn_product(layer: FusedLinear, product: Product) -> Run:
    ops = torch.ops.mkldnn
    key = ("onednn", torch.get_num_threads())
    packed = layer.packed(key, lambda: ops._reorder_linear_weight.default(layer.weight, None))
    linear, attribute, bias = ops._linear_pointwise.default, _attribute(layer.activation), layer.bias
    return lambda x, residual, reuse: linear(x, packed, bias, *attribute)


# ----------------------------------------------------------------------------------------------- methods of convolution


def _native(name: str) -> Callable[[FusedConv, ConvProblem], Run]:
    """Computes by ``striate::conv_fused``, with the weight packed where the method has a packed layout."""
    number = NUMBERS[name]

    def prepare(layer: FusedConv, problem: ConvProblem) -> Run:
        ops, p, last = torch.ops.striate, problem.geometry, problem.channels_last
        packed = layer.packed(name, lambda: ops.conv_pack.default(layer.weight, p.groups, number))
        before = (layer.weight, packed if packed.numel() else None, layer.bias)
        geometry = (p.output, p.stride, p.dilation, p.before, p.groups, last, number)
        after = (*operator_arguments(layer.activation), *geometry)
        fused = ops.conv_fused.default
        return lambda x, residual, reuse: fused(x, *before, residual, *after)

    return prepare


def _native_product(layer: FusedLinear, product: Product) -> Run:
    weight = layer.packed("native", layer.weight.contiguous)
    rest = (layer.bias, *operator_arguments(layer.activation))
    linear = torch.ops.striate.linear.default
    return lambda x, residual, reuse: linear(x, weight, *rest)


def _product_not_preferred(product: Product) -> str | None:
    if _onednn_product_refusal(product) is None:
        return "oneDNN's packed weights are read faster"
    return linear_not_preferred(product.rows, product.inputs, product.outputs, "fused")


def _then_finish(candidate: Candidate) -> Callable[[FusedConv, ConvProblem], Run]:
    """Computes by a method of :mod:`striate.ops.conv`, then adds and activates in place."""

    def prepare(layer: FusedConv, problem: ConvProblem) -> Run:
        def run(x: Tensor, residual: Tensor | None, reuse: bool) -> Tensor:
            x = x if layer.format is None else x.contiguous(memory_format=layer.format)
            return finish(candidate.run(problem, x, layer.weight, layer.bias), residual, layer.activation)

        return run

    return prepare


def _not_preferred(candidate: Candidate) -> Callable[[ConvProblem], str | None]:
    """Decides by the tuning table's rows for inference, where oneDNN stands in for torch.

    Where oneDNN refuses or the table has no such row, the rows for training decide.
    """

    def not_preferred(problem: ConvProblem) -> str | None:
        fused = problem._replace(pass_="fused")
        measured = _onednn_refusal(problem) is None and select.row_for(fused) is not None
        return select.not_preferred(candidate.name, fused) if measured else candidate.not_preferred(problem)

    return not_preferred


CONV_METHODS = (
    *(c._replace(run=_native(c.name), not_preferred=_not_preferred(c)) for c in METHODS if c.name in NATIVE),
    Candidate("onednn", _onednn_refusal, _onednn),
    *(c._replace(run=_then_finish(c)) for c in METHODS if c.name not in NATIVE),
)
LINEAR_METHODS = (
    Candidate("native", lambda product: product.refusal, _native_product, _product_not_preferred),
    Candidate("onednn", _onednn_product_refusal, _onednn_product),
    Candidate("torch", always, lambda layer, product: lambda x, residual, reuse: layer.exact(x)),
)
