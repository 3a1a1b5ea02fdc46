"""Rules about the optimizer's parameter groups: weight decay, and parameters that are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import Parameter

from ...._torch import InstanceNormBase
from ....nn.norm import BATCH_NORMS
from ....render.numbers import short
from ....training.parameters import parameter_groups
from ..context import Context
from ..rule import Found, rule
from .norm import LAYERS, followers

OPTIMIZER = "optimizer"
NAMED = 3  # a message names at most so many parameters


@rule(
    "decay-on-norm-or-bias", "warning", "He et al., Bag of tricks for image classification with CNNs, 2019, section 3.1"
)
def decay_on_norm_or_bias(context: Context) -> Iterator[Found]:
    """Decay pulls a weight towards 0, that is towards a simpler function. But a norm's scale of 0 switches its channel
    off, and a shift or bias of 0 is an offset like any other: neither is simpler, and they are too few to overfit.
    """
    decaying = _decaying(context)
    exempt = {id(p) for p in parameter_groups(context.model, 0.0)[1]["params"]}
    named = [(name, p) for name, p in context.model.named_parameters() if id(p) in exempt and id(p) in decaying]
    if named:
        most = max(decaying[id(p)] for _, p in named)
        yield Found(
            OPTIMIZER,
            (
                f"weight_decay={most:g} pulls {_format_count(named)} towards 0, which are scales, shifts and "
                f"biases: {_format_names(named)}."
            ),
            f"Give it striate.training.parameter_groups(model, weight_decay={most:g}).",
        )


@rule(
    "decay-on-scale-invariant", "note", "van Laarhoven, L2 regularization versus batch and weight normalization, 2017"
)
def decay_on_scale_invariant(context: Context) -> Iterator[Found]:
    """A norm makes the function independent of the scale of the weights before it: f(c·w) = f(w), and the gradient at
    c·w is 1/c of that at w. Decay therefore does not make the function simpler; by keeping ‖w‖ small it sets the
    effective learning rate lr/‖w‖². Plain SGD with decay reaches equilibrium where a step rotates w by √(2·lr·decay).
    """
    decaying = _decaying(context)
    named = []
    for layer, module in context.first(*LAYERS):
        rows = [row for row, other in context.of(*LAYERS) if other is module]
        weight = module._parameters.get("weight")
        if weight is not None and id(weight) in decaying and all(_is_invariant(context, row, module) for row in rows):
            named.append((f"{context.path(layer)}.weight".lstrip("."), weight))
    if named:
        most = max(decaying[id(weight)] for _, weight in named)
        yield Found(
            OPTIMIZER,
            f"weight_decay={most:g} does not restrain {_format_count(named)}, since a norm behind them takes their "
            f"size away: it sets how fast they learn, lr/‖w‖² ({_format_names(named)}).",
            "Keep it if the learning rate was found with it; change the two together.",
        )


def _is_invariant(context: Context, row: object, module: object) -> bool:
    """Whether norms cancel a factor on a layer's weight. A bias is not scaled with it, so it must be cancelled too."""
    behind = followers(context, row)  # type: ignore[arg-type]
    bias = getattr(module, "bias", None) is not None
    return bool(behind) and (
        not bias or all(isinstance(context.module(norm), (*BATCH_NORMS, InstanceNormBase)) for norm in behind)
    )


@rule(
    "parameters-not-in-optimizer",
    "warning",
    "pytorch.org, torch.optim: an optimizer updates the parameters that it was given",
)
def parameters_not_in_optimizer(context: Context) -> Iterator[Found]:
    """Layers that are created or replaced after the optimizer are not in it: they get gradients but keep their initial
    values.
    """
    if context.optimizer is None:
        return
    held = {id(p) for group in context.optimizer.param_groups for p in group["params"]}
    learning = [(name, p) for name, p in context.model.named_parameters() if p.requires_grad]
    missing = [(name, p) for name, p in learning if id(p) not in held]
    if missing:
        yield Found(
            OPTIMIZER,
            (
                f"{_format_count(missing)} of {len(learning)} that learn are in none of its groups and stay as they "
                f"are: {_format_names(missing)}."
            ),
            "Make the optimizer when the model is complete, or add them with add_param_group.",
        )


def _decaying(context: Context) -> dict[int, float]:
    """Maps the id of each parameter with weight decay to that decay."""
    if context.optimizer is None:
        return {}
    groups = context.optimizer.param_groups
    return {
        id(p): group["weight_decay"] for group in groups if group.get("weight_decay", 0) > 0 for p in group["params"]
    }


def _format_count(named: Sequence[tuple[str, Parameter]]) -> str:
    count = sum(p.numel() for _, p in named)
    return f"{len(named)} parameter{'s' if len(named) > 1 else ''} ({short(count)} number{'s' if count > 1 else ''})"


def _format_names(named: Sequence[tuple[str, torch.Tensor]]) -> str:
    return ", ".join(name for name, _ in named[:NAMED]) + (", …" if len(named) > NAMED else "")
