"""Rematerialization: a norm's output is recomputed in backward from what the norm saves, instead of being saved too.

In conv → norm and activation → conv, the norm saves its input, and the second convolution would save the norm's output:
as much memory again. Instead it saves references to the norm's input, scale, shift and statistics, from which one pass
recomputes the same bits. Only norms without a residual allow that, so recomputing one output never requires recomputing
another. Scale and shift are copied: torch never saves a norm's shift for backward, so code that changes it through
``.data`` before backward works with torch and has to work here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import _torch

__all__ = ["allow_recompute", "save_or_recompute"]


def allow_recompute(y: Tensor, recompute: Callable[..., Tensor], parameters: tuple[int, ...]) -> None:
    """Marks ``y`` as recomputable: ``recompute`` computes it from the tensors that its autograd node saved.
    ``parameters`` are the positions of a layer's parameters among those tensors.
    """
    if torch.compiler.is_compiling() or type(y) is not Tensor or y.grad_fn is None or _torch.saved_tensors_hooked():
        return
    node: Any = y.grad_fn
    # this attribute holds no tensor, so it prolongs no tensor's life
    node.recompute = (recompute, parameters, y._version, y.data_ptr())


def save_or_recompute(x: Tensor, y: Tensor, index: int = 0) -> None:
    """If ``y``'s node saved ``x`` as its ``index``-th tensor, makes it release x and recompute x in backward. Does
    nothing if :func:`allow_recompute` did not mark x, or x was changed since.
    """
    if torch.compiler.is_compiling() or y.grad_fn is None:
        return
    node: Any = x.grad_fn
    recompute, parameters, *marked = getattr(node, "recompute", (None, ()))
    if recompute is None or marked != [x._version, x.data_ptr()] or _torch.saved_tensors_hooked():
        return
    of_function = getattr(y.grad_fn, "_raw_saved_tensors", None)  # of an autograd.Function
    saved = of_function[index] if of_function else getattr(y.grad_fn, "_raw_saved_input", None)  # torch's convolution
    if saved is None:
        return
    try:
        parts = node.saved_tensors
    except RuntimeError:  # backward has freed them, or one was changed in place: autograd raises where that matters
        return
    # the parameters as forward used them: x's node may already have copies
    applied = dict(zip(parameters, getattr(node, "applied", ()), strict=False))
    with torch.no_grad():
        parts = [
            (applied[k] if k in applied else p.clone()) if k in parameters and p is not None else p
            for k, p in enumerate(parts)
        ]
    saved.register_hooks(lambda _: [(p, p if p is None else p._version) for p in parts], partial(_computed, recompute))


def _computed(recompute: Callable[..., Tensor], parts: list[tuple[Tensor | None, int]]) -> Tensor:
    for p, version in parts:
        if p is not None and p._version != version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"{list(p.shape)} is at version {p._version}; expected version {version} instead."
            )
    with _torch.below_autograd():  # autograd connects the returned tensor to x's node
        return recompute(*(p for p, _ in parts))
