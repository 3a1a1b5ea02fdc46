"""Batch norm with the statistics of a whole batch that passes through the model in parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, build
from ..moments import Moments
from ..ops import norm, sync_batch_norm
from .norm import BATCH_NORMS, GhostBatchNorm2d, SyncBatchNorm
from .norm.batch import _BatchNorm

__all__ = ["whole_batch_statistics"]


class _Measured(Exception):
    """Ends a pass after a layer has measured its input, since later layers are not needed."""


class _WholeBatch:
    """The statistics that the layers of one model have measured; a layer calls :meth:`forward` instead of normalizing
    by itself.
    """

    def __init__(self, model: torch.nn.Module, stop: bool) -> None:
        found: list[tuple[str, Any]] = [(name, m) for name, m in model.named_modules() if isinstance(m, _BatchNorm)]
        own = (SyncBatchNorm, GhostBatchNorm2d)  # these define for themselves which samples share statistics
        self.names = {m: name for name, m in found if m.training and not m.frozen and not isinstance(m, own)}
        self.stop = stop  # end a pass at the first layer whose statistics are not known yet
        self.measuring = True
        self.moments: dict[Any, Moments] = {}
        self.known: dict[Any, Moments] = {}
        self.called: set[Any] = set()

    def forward(self, layer: Any, x: Tensor, residual: Tensor | None) -> Tensor:
        if layer in self.called:
            expects = "each batch norm to be called once in a forward pass"
            hint = "Give each place a layer of its own, or leave this one out by freezing it."
            raise ArgumentError(
                build("whole_batch_statistics", expects, f"two calls of {self.names[layer]}", hint=hint)
            )
        self.called.add(layer)
        where = type(layer).__name__
        given = (x, None, None, layer.weight, layer.bias, True, 0.0, layer.eps, residual, layer.activation, where)
        _, eps = norm.check_channel_arguments(*given)
        sync_batch_norm.check_plain(where, x, residual, layer.weight, layer.bias)
        if layer not in self.known and self.measuring:
            self.moments[layer] = self.moments.get(layer, Moments.empty(x.shape[1])).merge(sync_batch_norm.measure(x))
            if self.stop:
                raise _Measured
        moments = self.known.get(layer)
        if moments is None:  # no measuring pass reached this layer: uses this part's own statistics
            moments = sync_batch_norm.measure(x)
        norm.check_more_than_one(int(moments.count), x, where, "channel")
        count = max(1, x.numel() // x.shape[1])
        arguments = (x, residual, layer.weight, layer.bias, eps, layer.activation, layer.negative_slope)
        return sync_batch_norm.normalize_with(moments, lambda sums: sums / count, *arguments)

    def learn(self) -> bool:
        """Adds the statistics that a round of passes has measured to the known ones; returns whether any were new."""
        new = {layer: moments for layer, moments in self.moments.items() if layer not in self.known}
        self.known |= new
        return bool(new)


@contextmanager
def whole_batch_statistics(
    model: torch.nn.Module, parts: Iterable[Any], *, layer_by_layer: bool = True
) -> Iterator[None]:
    """In this context every batch norm of ``model`` in training normalizes with the statistics of all ``parts``.

    It is meant for gradient accumulation: a batch too large for memory passes in k parts, and batch norm normalizes
    them as one batch (pytorch issue 46516). On entry the parts pass through the model without gradients, and each layer
    merges its moments over them; in the context, call the model with the same parts again, with gradients. The running
    statistics take one step, for the whole batch.

    Exact: statistics, outputs and running statistics are those of one pass of the whole batch, up to rounding. With
    ``layer_by_layer`` that holds in networks of any depth: a layer's input is right only when the statistics of the
    layers before it are known, so a model of L batch norms costs about L/2 forward passes more. Without it there is one
    such pass: only layers that depend on no other batch norm are exact; the others were measured after layers that
    normalized each part by itself.

    Not exact: gradients. Each part's dx subtracts its own ``mean(γ·g)`` and ``x̂·mean(γ·g·x̂)``, not the whole batch's,
    which are known only when all backward passes are done; the gradients of scale and shift are exact for the dy they
    get. Dropout and other randomness differ between the passes unless you make them repeat.

    parts: inputs, each a tensor or a tuple of the model's arguments. Call the model itself, because its call begins a
    pass. Layers in evaluation, frozen ones, ghost and synchronized batch norm work as usual. All parts should take the
    same path through the model. Raises ArgumentError if there is no part, if all batch norms are torch's, or if a layer
    is called twice in a pass, as activation checkpointing does.

    >>> from striate import nn
    >>> layer, whole, x = nn.BatchNorm1d(3), nn.BatchNorm1d(3), torch.randn(8, 3)
    >>> with whole_batch_statistics(layer, x.split(2)):
    ...     y = torch.cat([layer(part) for part in x.split(2)])
    >>> torch.allclose(y, whole(x), atol=1e-6), torch.allclose(layer.running_var, whole.running_var)
    (True, True)
    """
    inputs = [part if isinstance(part, tuple) else (part,) for part in parts]
    if not inputs:
        hint = "Split the batch with x.split(size)."
        raise ArgumentError(build("whole_batch_statistics", "at least one part of the batch", 0, hint=hint))
    session = _WholeBatch(model, layer_by_layer)
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS)]
    if norms and not any(isinstance(m, _BatchNorm) for m in norms):
        got, hint = f"only torch's, {len(norms)} of them", "Call striate.accelerate(model) first."
        raise ArgumentError(build("whole_batch_statistics", "batch norms of striate's", got, hint=hint))
    buffers = [(b, b.clone()) for b in model.buffers()]  # of all layers, since measuring passes change them

    def begin(*_: Any) -> None:
        session.called.clear()

    hook = model.register_forward_pre_hook(begin)
    for layer in session.names:
        layer.whole_batch = session
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            while True:
                session.moments.clear()
                for arguments in inputs:
                    try:
                        model(*arguments)
                    except _Measured:
                        continue
                if not session.learn() or not layer_by_layer:
                    break
        session.measuring = False
        for b, before in buffers:
            b.copy_(before)
        for layer, moments in session.known.items():
            if layer.running_mean is not None and layer.track_running_stats and int(moments.count) > 1:
                sync_batch_norm.step(layer.running_mean, layer.running_var, moments, float(layer._count_batch()))
        yield
    finally:
        hook.remove()
        for layer in session.names:
            layer.whole_batch = None
