"""What probes of batch norms share: the norms of a model, batches, and passes with the statistics of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, ArgumentTypeError, ShapeError, build, describe_error
from ..moments import Moments
from ..nn.norm import BATCH_NORMS

__all__ = ["batch_norms", "batch_statistics", "fits", "inputs_of", "moments_of", "output_of", "set_statistics"]


def moments_of(x: Tensor) -> Moments:
    """Of each channel: x ``(N, C, …)``."""
    return Moments.of(x, [axis for axis in range(x.dim()) if axis != 1])


def fits(module: Any, args: Any) -> bool:
    """Whether a norm takes its input; else its own error tells why not."""
    x = args[0] if args else None
    return isinstance(x, Tensor) and x.dim() > 1 and x.shape[1] == len(module.running_mean)


def set_statistics(module: Any, moments: Moments, unbiased: bool = True) -> None:
    """Gives a norm these moments as its running statistics, in place."""
    module.running_mean.copy_(moments.mean)
    module.running_var.copy_(moments.variance(unbiased))


@contextmanager
def batch_statistics(norms: dict[Any, str], see: Callable[[Any, Moments], None]) -> Iterator[None]:
    """In this context these norms, in evaluation mode, normalize with the statistics of the batch, which ``see`` gets.

    A norm computes with its running statistics, which are replaced before each call: noise and sub-batches of special
    norms, and what training counts, stay out of it.
    """
    before = {module: (module.running_mean.clone(), module.running_var.clone()) for module in norms}

    def replace(module: Any, args: Any) -> None:
        if not fits(module, args):
            return
        moments = moments_of(args[0])
        see(module, moments)
        set_statistics(module, moments, unbiased=False)

    with ExitStack() as hooks:
        for module in norms:
            hooks.callback(module.register_forward_pre_hook(replace).remove)
        yield
    for module, (mean, variance) in before.items():
        module.running_mean.copy_(mean)
        module.running_var.copy_(variance)


def batch_norms(where: str, model: torch.nn.Module) -> dict[Any, str]:
    """The batch norms with running statistics that are not frozen, with their names."""
    found = {
        module: name or type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, BATCH_NORMS) and module.running_mean is not None and not getattr(module, "frozen", False)
    }
    if not found:
        expects = "a model with a batch norm that has running statistics"
        raise ArgumentError(build(where, expects, "none", hint="Other norms have one kind of statistics only."))
    return found


def inputs_of(where: str, batches: Sequence[Any]) -> list[Tensor]:
    """The inputs of batches that are tensors, or pairs of input and target."""
    if isinstance(batches, Tensor) or not hasattr(batches, "__iter__"):
        hint = "Put it into a list."
        raise ArgumentTypeError(build(where, "a sequence of batches", type(batches).__name__, hint=hint))
    found: list[Tensor] = []
    for batch in batches:
        x = batch[0] if isinstance(batch, tuple | list) and len(batch) == 2 else batch
        if not isinstance(x, Tensor):
            hint = "Take them from a loader, as list(loader)[:8]."
            wanted = "batches that are tensors, or pairs (x, target)"
            raise ArgumentTypeError(build(where, wanted, type(batch).__name__, hint=hint))
        found.append(x)
    if not found:
        raise ArgumentError(build(where, "a batch at least", "none", hint="Give a list of inputs."))
    return found


def output_of(where: str, model: torch.nn.Module, x: Tensor) -> Any:
    try:
        return model(x)
    except ArgumentError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        hint = "Call the model on it to see why."
        expects = f"batches that {type(model).__name__} takes"
        got = f"one of shape {tuple(x.shape)}: {describe_error(error)}"
        raise ShapeError(build(where, expects, got, hint=hint)) from error
