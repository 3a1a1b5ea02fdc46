"""What the probes are given: a model, batches, which are pairs ``(x, target)``, and the loss of output and target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, ArgumentTypeError, build, describe_error

__all__ = ["Batch", "Loss", "check_hooks", "loss_of", "number", "pairs", "plain"]

Batch = tuple[Any, Any]
Loss = Callable[[Any, Any], Tensor]


def pairs(where: str, batches: Iterable[Batch]) -> list[Batch]:
    """The batches as a list. Raises ArgumentError for none or an empty one, ArgumentTypeError for what is no pair.

    >>> [(x.shape[0], target) for x, target in pairs("example", [(torch.ones(2, 3), None)])]
    [(2, None)]
    """
    found = list(batches)
    if not found:
        raise ArgumentError(build(where, "a batch at least", "none", hint="Give a list of pairs (x, target)."))
    for batch in found:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            got = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
            hint = "Put one batch into a list: [(x, target)]."
            raise ArgumentTypeError(build(where, "batches that are pairs (x, target)", got, hint=hint))
        if any(isinstance(part, Tensor) and part.numel() == 0 for part in batch):
            raise ArgumentError(build(where, "batches with samples", "an empty one", hint="Leave it out."))
    return [(x, target) for x, target in found]


def check_hooks(where: str, model: object) -> None:
    """Raises ArgumentTypeError for a model of TorchScript, whose layers take no hooks.

    >>> check_hooks("example", torch.nn.Linear(2, 3))
    """
    modules = model.modules() if isinstance(model, torch.nn.Module) else []
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules):
        hint = "Give the model as it was before torch.jit."
        raise ArgumentTypeError(build(where, "a model whose layers take hooks", "one of TorchScript", hint=hint))


def loss_of(where: str, loss: Loss, output: Any, target: Any) -> Tensor:
    """The loss, a tensor of one number. Raises ArgumentError for a loss that cannot be taken, or is anything else.

    >>> loss_of("example", torch.nn.functional.mse_loss, torch.ones(3), torch.zeros(3))
    tensor(1.)
    """
    try:
        value = loss(output, target)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        hint = "Give loss(output, target) that fits both, as torch.nn.functional.cross_entropy."
        got = describe_error(error)
        raise ArgumentError(build(where, "a loss that takes the model's output", got, hint=hint)) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(build(where, "a loss that is one number", got, hint="Take its mean over the samples."))
    return value.reshape(())


def plain(x: Any) -> Any:
    """A tensor that autograd may keep: a copy of one that was made in inference mode; anything else as it is.

    >>> with torch.inference_mode():
    ...     target = torch.arange(3)
    >>> target.is_inference(), plain(target).is_inference()
    (True, False)
    """
    return x.clone() if isinstance(x, Tensor) and x.is_inference() else x


def number(value: float | None) -> float | None:
    """A number as JSON holds it: None for what is not known or not finite.

    >>> number(1.5), number(float("nan"))
    (1.5, None)
    """
    return None if value is None or not math.isfinite(value) else value
