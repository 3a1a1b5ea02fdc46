"""How the gradient flows back through a network, layer by layer, beside what mean field theory expects of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import ArgumentError, build
from ..extras import needs
from ..guard import probing
from ..render import figure
from ..render.text import columns
from .batches import Batch, Loss, check_hooks, loss_of, number, pairs, plain

__all__ = ["FlowRow", "GradientFlow", "gradient_flow"]

# From here on a flow has a name. He et al. (2015, section 2.2) trained 22 layers that lose 1/√2 each, 5·10⁻⁴ in all,
# and not 30, which lose all but 3·10⁻⁵: the limit is between these.
VANISHING = 1e-4
EXPLODING = 1 / VANISHING


@dataclass(frozen=True)
class FlowRow:
    """A call of a layer with weights: what its gradients are, and what the stage that begins with it does to them.

    The stage goes from the layer's input x to the input x' of the next layer with weights that sees its output, or to
    the output of the model: the layer, then norms, activation, pooling, the sum with a residual.

    name: the layer's, with ``(call 2)`` and so on where the model calls it more than once; kind: its class.
    input_gradient: ``‖∂L/∂x‖``, by all paths; None where x has no gradient, as the numbers of an embedding have none.
    weight_gradient: ``‖∂L/∂w‖``, None where w does not learn. factor: what the stage makes of the norm of the gradient,
    ``‖Jᵀg'‖/‖g'‖`` with ``g' = ∂L/∂x'`` and J the Jacobian of the stage; along a chain of layers it is
    ``input_gradient/‖g'‖``. gain, slope, expected: see :func:`gradient_flow`. update: rate·‖∂L/∂w‖/‖w‖, None without a
    rate. zeros: the share of the weights whose gradient is exactly 0: they learn nothing of this batch.
    """

    name: str
    kind: str
    input_gradient: float | None
    weight_gradient: float | None
    factor: float | None
    gain: float | None
    slope: float | None
    update: float | None
    zeros: float | None

    @property
    def expected(self) -> float | None:
        """The factor that theory expects: gain·slope."""
        return None if self.gain is None or self.slope is None else self.gain * self.slope


@dataclass(frozen=True)
class GradientFlow(Sequence[FlowRow]):
    """The result of :func:`gradient_flow`: a row a call of a layer with weights, in the order of the calls.

    rows: these; loss: of the batch; output_gradient: ``‖∂L/∂output‖``, None for an output that is no tensor; rate: as
    given.
    """

    rows: tuple[FlowRow, ...]
    loss: float
    output_gradient: float | None
    rate: float | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> FlowRow: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[FlowRow, ...]: ...
    def __getitem__(self, index: int | slice) -> FlowRow | tuple[FlowRow, ...]:
        return self.rows[index]

    @property
    def total(self) -> float | None:
        """The norm of the gradient by the input of the first layer, in parts of that by the output of the model."""
        known = [row.input_gradient for row in self.rows if row.input_gradient is not None]
        last = self.output_gradient
        if last is None:
            last = next((norm for norm in reversed(known) if norm), 0.0)  # not that of a layer of no effect on the loss
        return known[0] / last if known and last else None

    @property
    def mean_factor(self) -> float | None:
        """The geometric mean of the factor of a layer that the total comes from."""
        return None if self.total is None else self.total ** (1 / max(1, self._stages))

    @property
    def _stages(self) -> int:
        """How many stages are between the two gradients that the total compares."""
        return sum(row.input_gradient is not None for row in self.rows) - (self.output_gradient is None)

    @property
    def kind(self) -> str:
        """In a word: "vanishing" if the total is below 10⁻⁴, "exploding" if it is above 10⁴, "not finite", "fine".

        "no gradient" where the loss gives none to the output.

        Source of the limit: He et al., 2015, section 2.2, whose nets of 22 and 30 layers of factor 1/√2 do and do not
        train.
        """
        norms = [self.output_gradient, *(row.input_gradient for row in self.rows)]
        if not all(math.isfinite(norm) for norm in norms if norm is not None):
            return "not finite"
        if self.total is None:
            return "no gradient"
        return "vanishing" if self.total < VANISHING else "exploding" if self.total > EXPLODING else "fine"

    @property
    def verdict(self) -> str:
        """The kind and the numbers that it comes from, in a sentence."""
        if self.kind == "not finite":
            first = next((row.name for row in reversed(self.rows) if not _is_finite(row.input_gradient)), "the output")
            return f"not finite: on its way back the gradient is infinite or NaN first at {first}."
        if self.total is None or self.mean_factor is None:
            return "no gradient: that of the loss by the output of the model is 0."
        change = f"a factor of {self.mean_factor:.3g} a layer, {self.total:.3g} over {self._stages} of them"
        return f"{self.kind}: the norm of the gradient changes by {change}."

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON holds them; None stands for what is not finite."""
        rows = [{**asdict(row), "expected": row.expected} for row in self.rows]
        return {
            "kind": self.kind,
            "verdict": self.verdict,
            "loss": number(self.loss),
            "rate": self.rate,
            "output_gradient": number(self.output_gradient),
            "total": number(self.total),
            "mean_factor": number(self.mean_factor),
            "rows": [
                {key: number(value) if isinstance(value, float) else value for key, value in row.items()}
                for row in rows
            ],
        }

    def table(self, width: int = 100) -> str:
        """The rows and the verdict as text of at most ``width`` columns."""
        head = ["layer", "class", "‖∂L/∂x‖", "‖∂L/∂w‖", "factor", "expected", "update", "zeros"]
        rows = [
            [
                row.name,
                row.kind,
                _scientific(row.input_gradient),
                _scientific(row.weight_gradient),
                _short(row.factor),
                _short(row.expected),
                _scientific(row.update),
                "" if row.zeros is None else f"{100 * row.zeros:.0f} %",
            ]
            for row in self.rows
        ]
        hidden = [] if self.rate is not None else [6]
        lines = columns([head, *rows], "<<>>>>>>", width, {0: 8, 1: 6}, hidden)
        return "\n".join([*lines, "", self.verdict])

    def picture(self) -> str:
        """The norm of the gradient by layer, logarithmic, and the factors beside the expected ones, as SVG.

        Needs matplotlib.
        """
        needs("gradient_flow", "matplotlib")
        drawn = figure.blank(9, 5.2)
        above, below = drawn.subplots(2, 1, sharex=True)
        places = range(len(self.rows))
        norms = [number(row.input_gradient) or math.nan for row in self.rows]
        above.plot(places, norms, "o-", color=figure.BLUE, markersize=4)
        above.set(ylabel="‖∂L/∂x‖")
        factors = [number(row.factor) or math.nan for row in self.rows]
        expected = [number(row.expected) or math.nan for row in self.rows]
        below.plot(places, expected, color=figure.ORANGE, linewidth=2, label="expected", drawstyle="steps-mid")
        below.plot(places, factors, "o", color=figure.BLUE, markersize=4, label="measured")
        below.axhline(1, color=figure.GREY, linewidth=0.8)
        below.set(ylabel="factor of a stage")
        below.set_xticks(places, [row.name for row in self.rows], rotation=90 if len(self.rows) > 6 else 0)
        below.legend(frameon=False)
        for axes in (above, below):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}" if axes is below else "")
            figure.plain(axes)
        drawn.suptitle(self.verdict, color=figure.INK, fontsize=11)
        return figure.svg_text(drawn)

    def __str__(self) -> str:
        return self.table()


def gradient_flow(
    model: nn.Module, loss: Loss, batch: Batch, *, rate: float | None = None, seed: int = 0
) -> GradientFlow:
    r"""Measures the gradient at each layer with weights, and the factor of each stage; see :class:`FlowRow`.

    .. math:: factor_l = \frac{‖J_l^T g_{l+1}‖}{‖g_{l+1}‖}, \quad g_l = \frac{∂L}{∂x_l}, \quad
              expected_l = \sqrt{E[w²]·fan_{in}} · \sqrt{E[φ'²]} = gain_l · slope_l

    Theory takes the gradient for independent of the weights and of what they see. A gradient of mean square 1 in all
    directions then has, behind a linear layer or convolution, the mean norm gain, and behind an activation φ the norm
    slope. Both are measured, by a product with random signs v: ``gain = ‖Wᵀv‖/‖v‖`` by the layer, which counts its
    padding, stride and groups too, and ``slope = ‖Dᵀv‖/‖v‖`` by all that stands between its output and the next layer's
    input. For an activation alone that is √E[φ'²] exactly, since v² = 1; a norm, pooling or dropout is in it with its
    own factor, of a batch norm ``γ/σ`` and the part that its mean and variance take out. With ReLU the slope is about
    1/√2: He's weights (gain √2) keep the gradient, Xavier's (gain 1) lose 1/√2 a layer. A sigmoid's slope is 1/4 at
    most. For the mean square instead of the norm fan_out stands for fan_in, as in He et al.; both are the same between
    layers of one width, and the norm is what a step of gradient descent sees.

    model: in the mode that it is in: training mode measures with the batch's statistics. loss: of the model's output
    and the target, one number; batch: ``(x, target)``; rate: the learning rate η, for the ratio of update and weight
    ``η‖∂L/∂w‖/‖w‖``, which should be near 10⁻³; seed: of the random signs.

    Cost: a forward pass and about three backward passes, and a copy of each layer's output. The model and the random
    generators are bit for bit as before (:func:`striate.guard.probing`).

    Raises ArgumentError where no layer with weights passes a gradient on, or the loss is not one number;
    ArgumentTypeError for a scripted model, whose layers take no hooks.

    Source: K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", 2015 (E[w²]); S. Schoenholz, J. Gilmer,
    S. Ganguli, J. Sohl-Dickstein, "Deep Information Propagation", 2017 (χ = σ_w²·E[φ'²]); A. Karpathy, "CS231n: Neural
    Networks Part 3", 2015 (the ratio).

    >>> chain = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(3)))
    >>> for layer in chain:
    ...     _ = nn.init.constant_(layer.weight, 0.3)
    >>> flow = gradient_flow(chain, lambda output, target: output.sum(), (torch.ones(1, 1), None))
    >>> [(row.name, round(row.factor, 4), round(row.expected, 4)) for row in flow]
    [('0', 0.3, 0.3), ('1', 0.3, 0.3), ('2', 0.3, 0.3)]
    >>> flow.verdict
    'fine: the norm of the gradient changes by a factor of 0.3 a layer, 0.027 over 3 of them.'
    """
    ((x, target),) = pairs("gradient_flow", [batch])
    check_hooks("gradient_flow", model)
    if rate is not None and not 0 < rate < math.inf:
        raise ArgumentError(build("gradient_flow", "a rate above 0", rate, hint="Give the optimizer's learning rate."))
    with probing(model), torch.inference_mode(False), torch.enable_grad(), parametrize.cached():
        with _recorded(model) as calls:
            output = model(_own(x))
        value = loss_of("gradient_flow", loss, output, plain(target))
        if not value.requires_grad:
            got = "one that depends on no weight and no input"
            hint = "Compute it by torch, from the model's output, and do not detach it."
            raise ArgumentError(build("gradient_flow", "a loss with a gradient", got, hint=hint))
        if not calls:
            got = "none that passes a gradient on"
            hint = "A layer counts if it is a module with a weight of two axes or more, and runs with gradients."
            raise ArgumentError(build("gradient_flow", "a layer with weights", got, hint=hint))
        return _flow(calls, output if isinstance(output, Tensor) else None, value, rate, seed)


def _own(x: Any) -> Any:
    """A copy of the input, through which the gradient reaches the first layer."""
    if not isinstance(x, Tensor):
        return x
    # not a leaf: the first layer may work in place
    return x.detach().clone().requires_grad_().clone() if x.is_floating_point() else x.clone()


# -------------------------------------------------------------------------------------------------------- the recording


class _Call(NamedTuple):
    """A call of a layer with weights."""

    name: str
    kind: str
    x: Tensor
    y: Tensor
    weights: list[Tensor]


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[_Call]]:
    """In this context the calls of layers with weights are added to a list, in their order."""
    calls: list[_Call] = []
    counts: Counter[str] = Counter()

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
            x = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            is_tuple = isinstance(output, tuple) and bool(output)
            y = output[0] if is_tuple else output
            counts[name] += 1
            if x is None or not isinstance(y, Tensor) or not y.requires_grad:
                return None
            called = name if counts[name] == 1 else f"{name} (call {counts[name]})"
            calls.append(_Call(called, type(module).__name__, x, y, _weights(module)))
            copy = y.clone()  # what follows may write into it: y is to stay the output of the layer
            return (copy, *output[1:]) if is_tuple else copy

        return hook

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if _weights(module):
                handle = module.register_forward_hook(hook_of(name or "model"), with_kwargs=True)
                hooks.callback(handle.remove)
        yield calls


def _weights(module: nn.Module) -> list[Tensor]:
    """The matrices or filters of a layer; [] for all others, as norms, whose scale multiplies one by one."""
    if hasattr(module, "normalized_shape"):
        return []
    weight = getattr(module, "weight", None)  # a parameter, or computed by a parametrization
    if isinstance(weight, Tensor):
        return [weight] if weight.ndim > 1 else []
    own = module.named_parameters(recurse=False)
    return [p for name, p in own if "weight" in name and p.ndim > 1]  # of recurrent layers and attention


# ------------------------------------------------------------------------------------------------------- the quantities


def _flow(calls: list[_Call], output: Tensor | None, loss: Tensor, rate: float | None, seed: int) -> GradientFlow:
    weights = {id(w): w for call in calls for w in call.weights if w.requires_grad}
    inputs = {id(call.x): call.x for call in calls if call.x.requires_grad}
    wanted = {**weights, **inputs}
    if output is not None and output.requires_grad:
        wanted[id(output)] = output
    found = torch.autograd.grad(loss, list(wanted.values()), retain_graph=True, allow_unused=True)
    gradients = dict(zip(wanted, found, strict=True))
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for place, call in enumerate(calls):
        ends = [later.x for later in calls[place + 1 :]] + ([] if output is None else [output])
        factor, slope = _stage(call, [end for end in ends if gradients.get(id(end)) is not None], gradients, generator)
        gain = _scaling(call.y, call.x, generator) if call.x.requires_grad else None
        rows.append(_row(call, gradients, factor, gain, slope, rate))
    output_gradient = None if output is None else _norm(gradients.get(id(output)))
    return GradientFlow(tuple(rows), loss.item(), output_gradient, rate)


def _stage(
    call: _Call, ends: Sequence[Tensor], gradients: Mapping[int, Tensor | None], generator: torch.Generator
) -> tuple[float | None, float | None]:
    """The factor of the stage of a call, and its slope. It ends at the first of ``ends`` that its output reaches.

    No layer with weights is between them: that would have been called before, and reached.
    """
    for end in ends:
        slope = _scaling(end, call.y, generator)
        if slope is None:
            continue
        gradient = gradients[id(end)]
        assert gradient is not None
        norm = _norm(gradient)
        if not call.x.requires_grad or norm == 0:
            return None, slope
        at_output = _transposed(end, call.y, gradient)
        assert at_output is not None
        return _norm(_transposed(call.y, call.x, at_output)) / norm, slope
    return None, None


def _scaling(y: Tensor, x: Tensor, generator: torch.Generator) -> float | None:
    """‖Jᵀv‖/‖v‖ for the Jacobian J of y by x and random signs v; None where y does not depend on x."""
    signs = torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1
    back = _transposed(y, x, signs)
    return None if back is None else _norm(back) / math.sqrt(y.numel())


def _transposed(y: Tensor, x: Tensor, v: Tensor) -> Tensor | None:
    """Jᵀv for the Jacobian J of y by x; None where y does not depend on x."""
    (back,) = torch.autograd.grad(y, x, v, retain_graph=True, allow_unused=True)
    return back


def _norm(x: Tensor | None) -> float:
    """In float64: the squares of numbers below 10⁻²³ are 0 in float32. 0 for a gradient that nothing depends on."""
    return 0.0 if x is None else float(torch.linalg.vector_norm(x.detach().double()))


def _row(
    call: _Call,
    gradients: Mapping[int, Tensor | None],
    factor: float | None,
    gain: float | None,
    slope: float | None,
    rate: float | None,
) -> FlowRow:
    learning = [w for w in call.weights if w.requires_grad]
    by_weight = [gradients[id(w)] for w in learning]
    norm = math.hypot(*map(_norm, by_weight)) if learning else None
    size = math.hypot(*map(_norm, learning))
    zeros = sum(w.numel() if g is None else int((g == 0).sum()) for w, g in zip(learning, by_weight, strict=True))
    return FlowRow(
        call.name,
        call.kind,
        _norm(gradients[id(call.x)]) if call.x.requires_grad else None,
        norm,
        factor,
        gain,
        slope,
        None if rate is None or norm is None or size == 0 else rate * norm / size,
        zeros / sum(w.numel() for w in learning) if learning else None,
    )


def _is_finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def _scientific(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
