"""Rematerialization: a norm's output is computed again in backward from what the norm saves, instead of being saved
beside it.

In conv → norm and activation → conv, the norm saves its input, and the second convolution would save the norm's output:
as much again. It saves references to the norm's input, scale, shift and statistics instead, from which one pass
computes the same bits. Only a norm without a residual allows that, so no output that is recomputed needs another that
is. Scale and shift are copied: nothing in torch saves a norm's shift for backward, so whoever changes it through
``.data`` before then expects no trouble.
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
    """Marks ``y`` as one that ``recompute`` computes from the tensors that its autograd node saved. ``parameters``:
    which of those are a layer's parameters.
    """
    if torch.compiler.is_compiling() or type(y) is not Tensor or y.grad_fn is None or _torch.saved_tensors_hooked():
        return
    node: Any = y.grad_fn
    # an attribute of the node, which holds no tensor: nothing lives longer for it
    node.recompute = (recompute, parameters, y._version, y.data_ptr())


def save_or_recompute(x: Tensor, y: Tensor, index: int = 0) -> None:
    """Where ``y``'s node saved ``x``, as its ``index``-th tensor, it computes x again in backward from now on; unless
    x is not marked by :func:`allow_recompute`, or was changed since.
    """
    if torch.compiler.is_compiling() or y.grad_fn is None:
        return
    node: Any = x.grad_fn
    recompute, parameters, *then = getattr(node, "recompute", (None, ()))
    if recompute is None or then != [x._version, x.data_ptr()] or _torch.saved_tensors_hooked():
        return
    of_function = getattr(y.grad_fn, "_raw_saved_tensors", None)  # of an autograd.Function
    saved = of_function[index] if of_function else getattr(y.grad_fn, "_raw_saved_input", None)  # torch's convolution
    if saved is None:
        return
    try:
        parts = node.saved_tensors
    except RuntimeError:  # a backward gave them up, or one was changed since: autograd says so where it minds
        return
    # as they were: x's node may have copies of its own
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
    with _torch.below_autograd():  # autograd connects what comes back to x's node
        return recompute(*(p for p, _ in parts))
