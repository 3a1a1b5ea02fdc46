"""What a norm made is made again in backward from what the norm keeps, in place of being kept beside it.

In conv → norm and activation → conv, the norm keeps its input, and the second convolution would keep the norm's output:
as much again. It keeps the output's recipe instead: the norm's input, scale, shift and statistics, of which one pass
makes the same bits. Only a norm without a residual gives one, so no recipe needs another. Scale and shift are copied:
nothing in torch keeps a norm's shift for backward, so whoever changes it through ``.data`` before then expects no
trouble.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import _torch

__all__ = ["keep", "offer"]


def offer(y: Tensor, make: Callable[..., Tensor], parameters: tuple[int, ...]) -> None:
    """Gives ``y`` a recipe: ``make`` makes it of the tensors that its node keeps for backward, at some places a layer's
    parameters.
    """
    if torch.compiler.is_compiling() or type(y) is not Tensor or y.grad_fn is None or _torch.saved_tensors_hooked():
        return
    node: Any = y.grad_fn
    # the node's, with none of its tensors: nothing lives longer
    node.recipe = (make, parameters, y._version, y.data_ptr())


def keep(x: Tensor, y: Tensor, place: int = 0) -> None:
    """Where ``y``'s node keeps ``x``, its ``place``-th tensor, it keeps x's recipe from now on; unless x has none or
    was changed since.
    """
    if torch.compiler.is_compiling() or y.grad_fn is None:
        return
    made: Any = x.grad_fn
    make, parameters, *then = getattr(made, "recipe", (None, ()))
    if make is None or then != [x._version, x.data_ptr()] or _torch.saved_tensors_hooked():
        return
    ours = getattr(y.grad_fn, "_raw_saved_tensors", None)
    saved = ours[place] if ours else getattr(y.grad_fn, "_raw_saved_input", None)  # torch's convolution
    if saved is None:
        return
    try:
        parts = made.saved_tensors
    except RuntimeError:  # a backward gave them up, or one was changed since: autograd says so where it minds
        return
    # as they were: x's node may have copies of its own
    applied = dict(zip(parameters, getattr(made, "applied", ()), strict=False))
    with torch.no_grad():
        parts = [
            (applied[k] if k in applied else p.clone()) if k in parameters and p is not None else p
            for k, p in enumerate(parts)
        ]
    saved.register_hooks(lambda _: [(p, p if p is None else p._version) for p in parts], partial(_made, make))


def _made(make: Callable[..., Tensor], parts: list[tuple[Tensor | None, int]]) -> Tensor:
    for p, version in parts:
        if p is not None and p._version != version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"{list(p.shape)} is at version {p._version}; expected version {version} instead."
            )
    with _torch.below_autograd():  # autograd ties what comes back to x's node
        return make(*(p for p, _ in parts))
