"""Rules about batch norm and dropout layers whose mode, training or evaluation, differs from that of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.nn import Module

from ....nn.norm import BATCH_NORMS
from ...inspect.rows import Layer
from ..context import Context
from ..rule import Found, rule
from .norm import DROPOUTS, TRACKING, is_frozen

MODES = "pytorch.org, torch.nn.Module.train"


@rule("norm-in-training-mode", "warning", MODES)
def norm_in_training_mode(context: Context) -> Iterator[Found]:
    """In training mode a norm computes batch statistics and updates its running statistics: an evaluation then changes
    the model, and its results depend on which samples share a batch.
    """
    for layer, norm in _tracking(context):
        if norm.training and not context.model.training:
            step = "1/batches" if norm.momentum is None else f"{norm.momentum:g}"
            yield Found(
                layer.name,
                (
                    "It is in training mode and the model is not: each batch it sees moves its running statistics by "
                    f"{step} of the way."
                ),
                "Call eval() on the model after the last train(), or on this layer.",
                _with_mode(context, layer, False),
            )


@rule("mixed-modes", "warning", MODES)
def mixed_modes(context: Context) -> Iterator[Found]:
    """train() and eval() set the mode of all submodules; one with another mode was set by itself or added later."""
    training = context.model.training
    for layer, dropout in context.first(*DROPOUTS):
        if dropout.training and not training and dropout.p > 0:
            message = f"It is in training mode and the model is not: it drops {100 * dropout.p:g} % of what it gets."
        elif training and not dropout.training and dropout.p > 0:
            message = (
                f"It is in evaluation mode and the model is not: it drops nothing, where p={dropout.p:g} is asked."
            )
        else:
            continue
        mode = "train" if training else "eval"
        yield Found(
            layer.name, message, f"Call {mode}() on the model, or on this layer.", _with_mode(context, layer, training)
        )
    for layer, norm in _tracking(context):
        learning = sum(p.numel() for p in norm.parameters() if p.requires_grad)
        if training and not norm.training and learning:
            yield Found(
                layer.name,
                (
                    f"It is in evaluation mode and the model is not: its running statistics stay, and its {learning} "
                    "scales and shifts learn."
                ),
                "Call train() on the model, or freeze() on this layer if that is meant.",
            )


@rule("frozen-norm-thaws", "warning", MODES)
def frozen_norm_thaws(context: Context) -> Iterator[Found]:
    """eval() on a layer lasts until the next train() on the model, which training loops call in each epoch: the running
    statistics then change, although the parameters are frozen. freeze() of striate's batch norms persists.
    """
    for layer, norm in _tracking(context):
        if context.model.training and not norm.training and not any(p.requires_grad for p in norm.parameters()):
            yield Found(
                layer.name,
                (
                    f"It is frozen by eval() alone: with the next train() its {norm.num_features} running means and "
                    "variances move again."
                ),
                "Call freeze() on striate's batch norm, or eval() on this layer after each train().",
                _frozen(context, layer) if hasattr(norm, "freeze") else None,
            )


@rule("batch-statistics-at-evaluation", "warning", "pytorch.org, torch.nn.BatchNorm2d, track_running_stats")
def batch_statistics_at_evaluation(context: Context) -> Iterator[Found]:
    """Without running statistics a batch norm uses batch statistics in evaluation too: the prediction for a sample
    depends on the others in its batch.
    """
    for layer, norm in context.first(*BATCH_NORMS):
        if norm.running_mean is None and not context.model.training:
            yield Found(
                layer.name,
                (
                    f"It keeps no running statistics: in evaluation its {norm.num_features} channels are normalized by "
                    "what is in the batch."
                ),
                "Build it with track_running_stats=True and train it, or use GroupNorm.",
            )


def _tracking(context: Context) -> Iterator[tuple[Layer, Any]]:
    """Yields the norms that behave differently in training and in evaluation."""
    for layer, norm in context.first(*TRACKING):
        if norm.running_mean is not None and not is_frozen(norm):
            yield layer, norm


def _with_mode(context: Context, layer: Layer, training: bool) -> Callable[[Module], None]:
    path = context.path(layer)

    def apply_fix(model: Module) -> None:
        model.get_submodule(path).train(training)

    return apply_fix


def _frozen(context: Context, layer: Layer) -> Callable[[Module], None]:
    path = context.path(layer)

    def apply_fix(model: Module) -> None:
        norm: Any = model.get_submodule(path)
        norm.freeze().train(model.training)

    return apply_fix
