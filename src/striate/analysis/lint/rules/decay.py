"""The optimizer's groups beside the layers: what decays, and what is not there."""

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
NAMED = 3  # parameters that a message names


@rule(
    "decay-on-norm-or-bias", "warning", "He et al., Bag of tricks for image classification with CNNs, 2019, section 3.1"
)
def decay_on_norm_or_bias(context: Context) -> Iterator[Found]:
    """Decay pulls a weight towards 0, which is towards a simpler function. A norm's scale of 0 switches its channel
    off, a shift or bias of 0 is one offset among others: neither is simpler, and they are too few to overfit.
    """
    decaying = _decaying(context)
    exempt = {id(p) for p in parameter_groups(context.model, 0.0)[1]["params"]}
    named = [(name, p) for name, p in context.model.named_parameters() if id(p) in exempt and id(p) in decaying]
    if named:
        most = max(decaying[id(p)] for _, p in named)
        yield Found(
            OPTIMIZER,
            (
                f"weight_decay={most:g} pulls {_told(named)} towards 0, which are scales, shifts and biases: "
                f"{_few(named)}."
            ),
            f"Give it striate.training.parameter_groups(model, weight_decay={most:g}).",
        )


@rule(
    "decay-on-scale-invariant", "note", "van Laarhoven, L2 regularization versus batch and weight normalization, 2017"
)
def decay_on_scale_invariant(context: Context) -> Iterator[Found]:
    """A norm takes away the size of the weights before it: f(c·w) = f(w), and the gradient at c·w is 1/c of that at w.
    Decay therefore does not make the function simpler; it keeps ‖w‖ small and with it lr/‖w‖², how far a step turns w.
    Plain SGD and decay are in balance where a step turns it by √(2·lr·decay).
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
            f"weight_decay={most:g} does not restrain {_told(named)}, since a norm behind them takes their size away: "
            f"it sets how fast they learn, lr/‖w‖² ({_few(named)}).",
            "Keep it if the learning rate was found with it; change the two together.",
        )


def _is_invariant(context: Context, row: object, module: object) -> bool:
    """Whether norms undo a factor on a layer's weight. A bias does not grow with it, unless it is subtracted too."""
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
    """Layers that are made or exchanged after the optimizer are not in it: they get gradients and stay as they were
    drawn.
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
                f"{_told(missing)} of {len(learning)} that learn are in none of its groups and stay as they are: "
                f"{_few(missing)}."
            ),
            "Make the optimizer when the model is complete, or add them with add_param_group.",
        )


def _decaying(context: Context) -> dict[int, float]:
    """The decay of each parameter that has one, by its identity."""
    if context.optimizer is None:
        return {}
    groups = context.optimizer.param_groups
    return {
        id(p): group["weight_decay"] for group in groups if group.get("weight_decay", 0) > 0 for p in group["params"]
    }


def _told(named: Sequence[tuple[str, Parameter]]) -> str:
    count = sum(p.numel() for _, p in named)
    return f"{len(named)} parameter{'s' if len(named) > 1 else ''} ({short(count)} number{'s' if count > 1 else ''})"


def _few(named: Sequence[tuple[str, torch.Tensor]]) -> str:
    return ", ".join(name for name, _ in named[:NAMED]) + (", …" if len(named) > NAMED else "")
