"""How much layers and networks can enlarge a difference of two inputs: operator norms and Lipschitz constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from .. import nn
from .._torch import ConvBase
from ..errors import ArgumentError, ArgumentTypeError, ShapeError, build, describe_error
from ..extras import needs
from ..graph.recording import ModuleCall, Operation, Recording, record
from ..guard import probing
from ..ops.padding import padded_conv, padded_conv_transpose
from ..render.figure import BLUE, GREY, ORANGE, blank, plain, svg_text
from ..render.text import columns, facts
from ..window import same_padding
from .bounds import Bound, Convolution, diagonal_bound, fourier_bound, is_same_matrix, row_and_column_bound
from .constants import CONSTANTS, Site, averaged
from .jacobian import ROUNDING, Jacobian, Largest, doubles, largest_singular_value

__all__ = ["Factor", "LipschitzBounds", "OperatorNorm", "lipschitz", "operator_norm"]

TOLERANCE = 1e-5  # of ‖AᵀA v − θ v‖/θ: half of it is what the norm may differ from a singular value by, as a share
LINEAR = 1e-6  # of a function's change: what it may deviate from its derivative by
LARGEST = 2048  # rows or columns of a weight whose singular values are computed all: about 5 s
LOCAL = (nn.LocallyConnected1d, nn.LocallyConnected2d, nn.LocallyConnected3d)


class OperatorNorm(float):
    """The operator norm of a layer, as :func:`operator_norm` finds it: a number, its best estimate from below.

    lower, upper: it is between these; by: what gives the upper one; steps: the estimate after each product with the
    layer and its adjoint; residual: ‖AᵀA v − θ v‖/θ at the end. All without unit: lengths of outputs per input.

    >>> norm = OperatorNorm(3.0, 2.9, 3.1, "the Fourier transform of the kernel", (2.5, 2.9), 1e-6)
    >>> norm + 1, norm.lower, norm.upper
    (4.0, 2.9, 3.1)
    """

    lower: float
    upper: float
    by: str
    steps: tuple[float, ...]
    residual: float

    def __new__(
        cls, value: float, lower: float, upper: float, by: str, steps: Sequence[float], residual: float
    ) -> OperatorNorm:
        made = super().__new__(cls, value)
        made.lower, made.upper, made.by, made.steps, made.residual = lower, upper, by, tuple(steps), residual
        return made

    def __getnewargs__(self) -> Any:
        return float(self), self.lower, self.upper, self.by, self.steps, self.residual

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them; None stands for an upper bound that is not known."""
        return {
            "norm": float(self),
            "lower": self.lower,
            "upper": None if self.upper == inf else self.upper,
            "by": self.by,
            "steps": list(self.steps),
            "residual": self.residual,
        }

    def table(self) -> str:
        """Estimate, bounds and what they are from, a line each."""
        upper = "not known" if self.upper == inf else f"{self.upper:.6g}, by {self.by}"
        steps = f"{len(self.steps)} products with the layer and its adjoint"
        return facts({"operator norm": f"{self:.6g}", "lower bound": f"{self.lower:.6g}, by {steps}",
                      "upper bound": upper})  # fmt: skip

    def picture(self) -> str:
        """The estimates after each step, and the upper bound, as SVG. Needs matplotlib."""
        needs("OperatorNorm.picture", "matplotlib")
        figure = blank(6, 3.5)
        axes = figure.subplots()
        axes.plot(range(1, len(self.steps) + 1), self.steps, color=BLUE, marker="o", markersize=3, label="from below")
        if self.upper < inf:
            axes.axhline(self.upper, color=ORANGE, label=f"upper bound, by {self.by}")
        axes.set(xlabel="products with the layer and its adjoint", ylabel="operator norm")
        axes.legend(frameon=False, fontsize=8)
        plain(axes)
        return svg_text(figure)


def operator_norm(
    layer: torch.nn.Module, input_shape: Sequence[int], *, tolerance: float = TOLERANCE, seed: int = 0
) -> OperatorNorm:
    r"""The operator norm of a linear layer in evaluation mode: by how much it lengthens an input at most.

    .. math:: ‖A‖ = \max_x ‖A x‖_2/‖x‖_2 = σ_{max}(A), \qquad layer(x) = A x + b

    From below it is the Lanczos iteration on AᵀA, which is power iteration with the layer and its adjoint that forgets
    no vector, in float64; it ends where ‖AᵀA v − θ v‖ is below ``tolerance`` · θ. From above it is the least of those
    bounds that hold for the layer: the Fourier transform of a convolution's kernel (:func:`.bounds.fourier_bound`), the
    sums of rows and columns, the singular values of a linear layer's weight, the factors of a norm. ``.by`` names it.

    layer: a convolution with any stride, dilation, groups, padding and padding mode, also transposed; a linear or
    locally connected layer; a norm with running statistics; average pooling, or any other module that is linear in
    evaluation mode, up to a constant, as a Sequential of these. input_shape: ``(N, C, H, W)`` for a layer of two axes;
    the norm depends on the sizes, not on N. The weight is taken as the layer uses it, so that parametrizations count.
    seed: of the first vector.

    Cost: a forward pass and a backward pass by the input for each of ``.steps``, some tens, each of one sample in
    float64; for the Fourier transform see there.

    :func:`torch.nn.utils.parametrizations.spectral_norm` divides by the norm of the weight as a matrix
    ``(C_out, C_in · taps)``, which is not that of the convolution: it may be off by up to the root of the taps.

    Raises ArgumentTypeError for what is no module, ShapeError for a shape that the layer does not take, ArgumentError
    for a layer that is not linear.

    Source: J. Kuczyński, H. Woźniakowski, "Estimating the Largest Eigenvalue by the Power and Lanczos Algorithms with a
    Random Start", 1992; T. Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018.

    >>> from striate import nn
    >>> layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
    >>> _ = nn.init.ones_(layer.weight)
    >>> norm = operator_norm(layer, (1, 1, 8, 8))
    >>> round(norm, 6), round(norm.upper, 6), norm.by
    (9.0, 9.0, 'the Fourier transform of the kernel')
    """
    _check_layer(layer, input_shape, tolerance)
    with probing(layer):
        layer.eval()
        weights: list[Tensor] = []
        jacobian = _derivative(layer, _one_sample(layer, input_shape), weights)
        v = torch.randn(jacobian.x.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
        _check_linear(layer, jacobian, v)
        largest = largest_singular_value(jacobian, tolerance, seed)
        bound = _least_bound(layer, jacobian, weights, v, largest)
    below, above = largest.value * (1 - ROUNDING), bound.value * (1 + ROUNDING)
    return OperatorNorm(largest.value, below, above, bound.by, largest.steps, largest.residual)


def _check_layer(layer: torch.nn.Module, shape: Sequence[int], tolerance: float) -> None:
    if not isinstance(layer, torch.nn.Module):
        hint = "Give the layer itself, and a tensor of weights as a layer with them."
        raise ArgumentTypeError(build("operator_norm", "a layer, a torch.nn.Module", type(layer).__name__, hint=hint))
    if isinstance(shape, str) or not all(type(n) is int and n > 0 for n in shape) or not len(shape):
        hint = "Give (1, 3, 32, 32) for a convolution of two axes."
        raise ShapeError(build("operator_norm", "an input_shape of whole numbers from 1 on", shape, hint=hint))
    if not 0 < tolerance < 1:
        raise ArgumentError(build("operator_norm", "a tolerance between 0 and 1", tolerance, hint="Leave it out."))


def _one_sample(layer: torch.nn.Module, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape with a batch of one: the matrix of a batch is that of a sample, repeated on the diagonal."""
    if isinstance(layer, torch.nn.Linear):
        return (shape[-1],)
    if isinstance(layer, ConvBase):
        return (1, *shape[-len(layer.kernel_size) - 1 :])
    return tuple(shape)


def _derivative(layer: torch.nn.Module, shape: tuple[int, ...], weights: list[Tensor]) -> Jacobian:
    """The layer's matrix; ``weights`` gets the weight that its forward pass uses, if it has one."""
    tensors = doubles(layer)
    device = next((tensor.device for tensor in tensors.values()), None)

    def note(module: torch.nn.Module, args: Any) -> None:
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor):
            weights.append(weight.detach())

    layer.register_forward_pre_hook(note)
    try:
        x = torch.zeros(shape, dtype=torch.float64, device=device)
        return Jacobian(lambda t: functional_call(layer, tensors, (t,)), x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        hint = "Give the shape of its input, batch and channels first."
        expects = f"an input_shape that {type(layer).__name__} takes"
        got = f"{tuple(shape)}: {describe_error(error)}"
        raise ShapeError(build("operator_norm", expects, got, hint=hint)) from error


def _check_linear(layer: torch.nn.Module, jacobian: Jacobian, v: Tensor) -> None:
    tensors = doubles(layer)
    with torch.no_grad():
        change = functional_call(layer, tensors, (v.to(jacobian.x),)) - jacobian.y
    linear = jacobian.times(v)
    off, size = float((change - linear).norm()), float(change.norm() + linear.norm())
    if not off <= LINEAR * size + ROUNDING * float(jacobian.y.norm()):
        hint = "Take its linear parts one by one, or lipschitz(model, x) for a network."
        expects = "a layer that is linear in evaluation mode, up to a constant"
        got = f"{type(layer).__name__}, whose output changes by {float(change.norm()):.3g} instead of "
        raise ArgumentError(build("operator_norm", expects, f"{got}{float(linear.norm()):.3g}", hint=hint))


def _least_bound(
    layer: torch.nn.Module, jacobian: Jacobian, weights: Sequence[Tensor], v: Tensor, largest: Largest
) -> Bound:
    found = [Bound(inf, "none")]
    diagonal = diagonal_bound(jacobian, v)
    if diagonal is not None:
        return diagonal
    if largest.complete:
        found.append(Bound(largest.value, "all singular values", exact=True))
    if isinstance(layer, ConvBase) and weights:
        found += _convolution_bounds(layer, jacobian, weights[-1], v)
    elif isinstance(layer, torch.nn.Linear) and weights:
        found += _linear_bounds(jacobian, weights[-1], v)
    elif type(layer) in LOCAL:
        absolute = {name: tensor.abs() for name, tensor in doubles(layer).items()}
        found.append(row_and_column_bound(Jacobian(lambda x: functional_call(layer, absolute, (x,)), jacobian.x)))
    elif _has_no_negative_factors(layer, jacobian):
        found.append(row_and_column_bound(jacobian))
    return min(found, key=lambda bound: bound.value)


def _linear_bounds(jacobian: Jacobian, weight: Tensor, v: Tensor) -> list[Bound]:
    """Those of a linear layer; none if it computes another product, as a subclass may."""
    if not is_same_matrix(jacobian, lambda x: F.linear(x, weight), v):
        return []
    if min(weight.shape) <= LARGEST:
        value = float(torch.linalg.matrix_norm(weight, 2))
        return [Bound(value, "the singular values of the weight", exact=True)]
    absolute = Jacobian(lambda x: F.linear(x, weight.abs()), jacobian.x)
    return [Bound(float(weight.norm()), "the root of all squares"), row_and_column_bound(absolute)]


def _has_no_negative_factors(layer: torch.nn.Module, jacobian: Jacobian) -> bool:
    """Whether the layer only averages, pads and moves values, as its recording shows."""
    operations = record(layer, tuple(jacobian.x.shape)).operations
    return bool(operations) and all(op.is_free or CONSTANTS.get(op.name) is averaged for op in operations)


def _convolution_bounds(layer: Any, jacobian: Jacobian, weight: Tensor, v: Tensor) -> list[Bound]:
    """Those of a convolution with the arguments that the layer has; none if it computes another, as a subclass may."""
    dims, mode = len(layer.kernel_size), layer.padding_mode

    def computed(x: Tensor, weight: Tensor) -> Tensor:
        rest = (layer.stride, layer.padding)
        if layer.transposed:
            more = (layer.output_padding, layer.groups, layer.dilation)
            return padded_conv_transpose(x, weight, None, *rest, *more, mode, dims=dims)
        return padded_conv(x, weight, None, *rest, layer.dilation, layer.groups, mode, dims=dims)

    if not is_same_matrix(jacobian, lambda x: computed(x, weight), v):
        return []
    sizes = [tuple(x.shape[-dims:]) for x in (jacobian.x, jacobian.y)]
    if layer.transposed:
        sizes.reverse()
    before, after = _margins(layer, sizes[0])
    geometry = (*sizes, tuple(layer.stride), tuple(layer.dilation), before, after, layer.groups, mode)
    absolute = Jacobian(lambda x: computed(x, weight.abs()), jacobian.x)
    return [fourier_bound(Convolution(weight, *geometry)), row_and_column_bound(absolute)]


def _margins(layer: Any, sizes: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The padding before and after each axis. sizes: of the convolution's input."""
    if layer.padding == "same":
        axes = zip(sizes, layer.kernel_size, layer.stride, layer.dilation, strict=True)
        before, after = zip(*(same_padding(*axis) for axis in axes), strict=True)
        return before, after
    margins = (0,) * len(sizes) if layer.padding == "valid" else tuple(layer.padding)
    return margins, margins


# ------------------------------------------------------------------------------------------------------------- networks


class Factor(NamedTuple):
    """What one layer or operation contributes to the bound of a network.

    name: the layer's, or its operator's; type: of the layer, or the operator; factor: an upper bound of its own
    constant, None where it joins several values; by: what gives it; after: the constant from the model's input up to
    its output.
    """

    name: str
    type: str
    factor: float | None
    by: str
    after: float


@dataclass(frozen=True)
class LipschitzBounds:
    """Between which numbers the Lipschitz constant of a network is, as :func:`lipschitz` finds them.

    upper: by the product of the layers' constants (sums where branches meet), which holds for all inputs; lower: the
    largest operator norm of the derivative at the inputs that were given; samples: that of each of them; factors: of
    the layers, in order. Without unit: lengths of outputs per input.
    """

    model: str
    lower: float
    upper: float
    samples: tuple[float, ...]
    factors: tuple[Factor, ...]

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them."""
        return asdict(self) | {"samples": list(self.samples), "factors": [one._asdict() for one in self.factors]}

    def table(self, width: int = 100) -> str:
        """The two bounds, and the factor of each layer, as text."""
        rows = [["layer", "type", "factor", "up to here", "by"]]
        for one in self.factors:
            own = "" if one.factor is None else f"{one.factor:.4g}"
            rows.append([one.name, one.type, own, f"{one.after:.4g}", one.by])
        lower = f"{self.lower:.4g}, the largest derivative at {len(self.samples)} inputs"
        head = facts({"lower bound": lower, "upper bound": f"{self.upper:.4g}, the product of the layers"})
        return "\n".join([head, "", *columns(rows, "<<>><", width, {0: 12, 1: 10, 4: 12})])

    def picture(self) -> str:
        """The bound after each layer, and the derivatives at the inputs, as SVG. Needs matplotlib."""
        needs("LipschitzBounds.picture", "matplotlib")
        figure = blank(7, 3.8)
        axes = figure.subplots()
        after = [one.after for one in self.factors]
        axes.plot(range(len(after)), after, color=ORANGE, marker="o", markersize=3, label="upper bound up to here")
        axes.plot([max(0, len(after) - 1)] * len(self.samples), self.samples, "o", color=BLUE, alpha=0.5,
                  label="derivative at an input")  # fmt: skip
        if min([*after, *self.samples]) > 0:
            axes.set_yscale("log")
        axes.set_xticks(range(len(after)), [one.name for one in self.factors], rotation=60, ha="right", color=GREY)
        axes.set(ylabel="output per input", title=f"{self.model}: at least {self.lower:.3g}, at most {self.upper:.3g}")
        axes.legend(frameon=False, fontsize=8)
        plain(axes)
        return svg_text(figure)


def lipschitz(model: torch.nn.Module, x: Tensor, *, tolerance: float = 1e-4, seed: int = 0) -> LipschitzBounds:
    r"""The Lipschitz constant of a network in evaluation mode, from above and from below.

    .. math:: \max_i ‖J(x_i)‖_2 \;≤\; \sup_{x ≠ y} \frac{‖f(x) - f(y)‖_2}{‖x - y‖_2} \;≤\; Π_l ‖A_l‖ · Lip(φ_l)

    The upper bound holds for all inputs of this size: it multiplies the upper bounds of :func:`operator_norm` and the
    constants of all other operations of a recording (:data:`.constants.CONSTANTS`); where values are added it adds,
    where they are joined it adds squares. It is large where layers lengthen different directions. The lower bound is
    the largest singular value of the derivative J at the given inputs, ``x_i``.

    x: inputs ``(N, …)``, for the lower bound and the sizes. Layer norm and group norm count with |γ|/√ε, which they
    reach at constant inputs only.

    Cost: for each input and each layer some tens of forward and backward passes in float64, of one sample (for a model
    of K outputs, K passes each suffice).

    Raises ArgumentTypeError for another x, ArgumentError where an operation's constant is not known, as of a product of
    two values, or the model's output is no tensor.

    Source: C. Szegedy et al., "Intriguing properties of neural networks", 2014, section 4.3, for the product;
    A. Virmaux, K. Scaman, "Lipschitz regularity of deep neural networks", NeurIPS 2018, for how far it may be off.

    >>> from striate import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False), nn.ReLU())
    >>> _ = nn.init.eye_(model[1].weight).data.mul_(3)
    >>> bounds = lipschitz(model, torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[1.0, -2.0], [3.0, 4.0]]]))
    >>> round(bounds.lower, 6), round(bounds.upper, 6), [round(one, 6) for one in bounds.samples]
    (3.0, 3.0, [3.0, 3.0])
    """
    if not isinstance(x, Tensor) or x.dim() == 0 or len(x) == 0 or not x.is_floating_point():
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        hint = "Give a batch of images (N, C, H, W)."
        raise ArgumentTypeError(build("lipschitz", "x, a tensor of floating-point inputs", got, hint=hint))
    with probing(model):
        model.eval()
        tensors = doubles(model)
        factors, upper = _Walk(record(model, torch.cat([x[:1]] * 2)), tensors, tolerance, seed).run()

        def function(one: Tensor) -> Tensor:
            y: Tensor = functional_call(model, tensors, (one,))
            return y

        samples = []
        for one in x.split(1):
            jacobian = Jacobian(function, one.to(torch.float64))
            samples.append(largest_singular_value(jacobian, tolerance, seed).value)
    return LipschitzBounds(type(model).__name__, max(samples), upper, tuple(samples), tuple(factors))


class _Walk:
    """Goes through a recording with a Lipschitz constant for each value."""

    def __init__(self, recording: Recording, tensors: dict[str, Tensor], tolerance: float, seed: int) -> None:
        self.recording, self.tensors = recording, tensors
        self.norms: dict[tuple[int, tuple[int, ...]], OperatorNorm] = {}
        self.norm: Callable[[Any, tuple[int, ...]], OperatorNorm] = lambda layer, shape: operator_norm(
            layer, shape, tolerance=tolerance, seed=seed
        )
        self.known: dict[int, float] = {}
        self.factors: list[Factor] = []

    def run(self) -> tuple[list[Factor], float]:
        recording = self.recording
        if len(recording.outputs) != 1:
            got = f"{len(recording.outputs)} of them"
            hint = "Wrap it in a module that returns the one you mean."
            raise ArgumentError(build("lipschitz", "a model whose output is one tensor", got, hint=hint))
        self.known[recording.inputs[0]] = 1.0
        done: set[int] = set()
        for operation in recording.operations:
            call = recording.leaf_of(operation)
            if call is not None and call.index in done:
                continue
            if call is not None and self._is_linear(call):
                done.add(call.index)
                self._layer(call)
            elif any(value in self.known for value in operation.inputs):
                self._operation(operation, call)
        return self.factors, self.known.get(recording.outputs[0], 0.0)

    def _is_linear(self, call: ModuleCall) -> bool:
        is_layer = isinstance(call.module, (ConvBase, torch.nn.Linear, *LOCAL))
        return is_layer and len(call.inputs) == 1 and call.inputs[0] in self.known and len(call.outputs) == 1

    def _layer(self, call: ModuleCall) -> None:
        shape = self.recording.values[call.inputs[0]].shape
        key = (id(call.module), shape)
        if key not in self.norms:
            self.norms[key] = self.norm(call.module, shape)
        norm = self.norms[key]
        after = self.known[call.outputs[0]] = self.known[call.inputs[0]] * norm.upper
        self.factors.append(Factor(call.path, type(call.module).__name__, norm.upper, norm.by, after))

    def _operation(self, operation: Operation, call: ModuleCall | None) -> None:
        rule = CONSTANTS.get(operation.name)
        site = Site(self.recording, operation, self.tensors, self.known)
        after = None if rule is None else rule(site)
        if after is None:
            at = "" if call is None else f" in {call.path} ({type(call.module).__name__})"
            hint = "Take the part of the model before it."
            expects = "operations whose Lipschitz constant is known"
            raise ArgumentError(build("lipschitz", expects, f"{operation.name}{at}", hint=hint))
        self.known.update(dict.fromkeys(operation.outputs, after))
        factor = after / site.before if site.before else None
        if factor != 1.0 and not operation.is_free:
            name = operation.name if call is None else call.path
            kind = "" if call is None else type(call.module).__name__
            self.factors.append(Factor(name, kind, factor, operation.kind.replace("_", " "), after))
