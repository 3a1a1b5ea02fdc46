"""Batch normalization, by statistics of each channel over the batch, measured or running."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import _torch
from ...errors import ArgumentError, build
from ...ops import norm as ops
from ...ops.arguments import as_int
from ..namesake import as_torch
from .base import FusedActivation, WithResidual, check_dimensions, set_activation

__all__ = ["BATCH_NORMS", "REFUSALS", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "BatchNormAct2d"]

# The errors raised for an invalid batch, which is then not counted. Other exceptions may end a valid call: activation
# checkpointing stops a call when it has recomputed the tensors that it needs.
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError)


class _BatchNorm(FusedActivation):
    """The body of every batch norm: it chooses the statistics and updates the running ones."""

    whole_batch: Any = None  # inside whole_batch_statistics (nn/statistics.py): the statistics of all parts
    _ranks: tuple[int, ...] = (2, 3, 4, 5)
    _shape = "(N, C) or (N, C, *axes)"

    def freeze(self: Any, parameters: bool = False) -> Any:
        """Normalizes with the running statistics from now on and leaves them alone, in training too; returns the layer.

        Only :meth:`unfreeze` undoes this, ``train()`` and ``eval()`` do not. With ``parameters`` scale and shift get no
        gradient either, until ``unfreeze(parameters=True)``. A copy or an unpickled layer is frozen too; ``state_dict``
        does not record it.

        A frozen layer would never measure its statistics again, so they are not reset either: ``reset_running_stats()``
        does nothing, nor does ``torch.optim.swa_utils.update_bn``, which calls it first; ``reset_parameters()`` resets
        scale and shift only. Unfreeze the layer first to reset the statistics.

        Raises ArgumentError without running statistics.

        >>> layer = BatchNorm2d(3).freeze().train()
        >>> y = layer(torch.full((2, 3, 4, 4), 5.0))
        >>> layer.running_mean, layer.num_batches_tracked
        (tensor([0., 0., 0.]), tensor(0))
        """
        if self.running_mean is None:
            hint = "Build the layer with track_running_stats=True and train it."
            raise ArgumentError(build(f"{type(self).__name__}.freeze", "running statistics", None, hint=hint))
        self.frozen = True
        return self._set_requires_grad(False) if parameters else self

    def unfreeze(self: Any, parameters: bool = False) -> Any:
        """Undoes :meth:`freeze`; returns the layer.

        >>> BatchNorm2d(3).freeze().unfreeze().frozen
        False
        """
        self.frozen = False
        return self._set_requires_grad(True) if parameters else self

    def reset_running_stats(self: Any) -> None:
        """Sets the running statistics to 0 and 1 and the count of batches to 0; those of a frozen layer stay."""
        if not self.frozen:
            super().reset_running_stats()  # type: ignore[misc]

    def _set_requires_grad(self: Any, whether: bool) -> Any:
        for p in (self.weight, self.bias):
            if p is not None:
                p.requires_grad_(whether)
        return self

    def _check_input_dim(self, input: Any) -> None:
        if not torch.jit.is_scripting():
            self._check_rank(input)

    def _check_rank(self, input: Any) -> None:
        check_dimensions(input, self._ranks, type(self).__name__, self._shape)

    def _count_batch(self: Any) -> float:
        """Counts a batch and returns its weight in the running statistics."""
        batches = self.num_batches_tracked
        if batches is not None:
            batches.add_(1)
            if self.momentum is None:  # the mean of all batches so far
                return 1.0 / float(batches)
        return 0.0 if self.momentum is None else self.momentum

    def _torch_norm(self, input: Tensor) -> Tensor:
        if self.frozen:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        else:
            return self._as_torch(input)

    def _compute(
        self: Any,
        input: Tensor,
        residual: Tensor | None = None,
        following: tuple[str, float] | None = None,
        *,
        statistics: Tensor | None = None,
        fresh: bool = False,
    ) -> Tensor:
        """Normalizes, adds ``residual`` and computes an activation.

        A container passes the other arguments: following, the activation after the layer; statistics and fresh, the
        ``statistics`` and ``rematerialize_residual`` of :func:`striate.ops.norm.by_channel`.
        """
        self._check_input_dim(input)
        if self.whole_batch is not None and self.training and not self.frozen:
            return self.whole_batch.forward(self, input, residual)
        measured = (self.training and not self.frozen) or self.running_mean is None
        momentum, mean, var = 0.0, self.running_mean, self.running_var
        if measured and mean is not None:
            if self.track_running_stats:
                momentum = self._count_batch()
            else:
                mean = var = None
        try:
            return self._by_channel(
                input,
                mean,
                var,
                measured,
                momentum,
                residual=residual,
                **self._kernel_options(following),
                statistics=statistics if measured else None,
                rematerialize_residual=fresh,
            )
        except REFUSALS:
            self._uncount_batch(measured and mean is not None)
            raise

    def _by_channel(
        self: Any, input: Tensor, mean: Tensor | None, var: Tensor | None, measured: bool, momentum: float, **given: Any
    ) -> Tensor:
        """Normalizes with the batch's statistics, if ``measured``, and moves the running ones by ``momentum``."""
        return ops.by_channel(input, mean, var, self.weight, self.bias, measured, momentum, self.eps, **given)

    def _uncount_batch(self: Any, counted: bool) -> None:
        """Undoes :meth:`_count_batch` for a batch that raised an error."""
        if counted and self.num_batches_tracked is not None:
            self.num_batches_tracked.sub_(1)

    def extra_repr(self: Any) -> str:
        return super().extra_repr() + (", frozen=True" if self.frozen else "")


BATCH_NORMS: tuple[Any, ...] = (_torch.BatchNormBase, _BatchNorm)  # torch's and striate's


class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    r"""Batch normalization of (N, C) or (N, C, L); arguments and state as in ``torch.nn``.

    .. math:: y = γ_c·(x - μ_c)/\sqrt{σ²_c + ε} + β_c

    Source: Ioffe, Szegedy, *Batch normalization*, 2015.

    >>> BatchNorm1d(4)(torch.randn(8, 4)).shape
    torch.Size([8, 4])
    """

    _ranks, _shape = (2, 3), "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    r"""Batch normalization of (N, C, H, W); arguments and state as in ``torch.nn``.

    .. math:: y = γ_c·(x - μ_c)/\sqrt{σ²_c + ε} + β_c

    μ and σ² are the batch's in training, the running ones in evaluation and when frozen (:meth:`freeze`).

    Source: Ioffe, Szegedy, *Batch normalization*, 2015.

    >>> BatchNorm2d(4)(torch.randn(8, 4, 2, 2)).shape
    torch.Size([8, 4, 2, 2])
    """

    _ranks, _shape = (4,), "(N, C, H, W)"


class BatchNorm3d(_BatchNorm, torch.nn.BatchNorm3d):
    r"""Batch normalization of (N, C, D, H, W); arguments and state as in ``torch.nn``.

    .. math:: y = γ_c·(x - μ_c)/\sqrt{σ²_c + ε} + β_c

    Source: Ioffe, Szegedy, *Batch normalization*, 2015.

    >>> BatchNorm3d(4)(torch.randn(8, 4, 2, 2, 2)).shape
    torch.Size([8, 4, 2, 2, 2])
    """

    _ranks, _shape = (5,), "(N, C, D, H, W)"


class _BatchNormState(torch.nn.Module):
    """The parameters and buffers of torch's batch norm, under the same names, without torch's class as a base."""

    _version = 2  # of the state_dict, which has num_batches_tracked since version 2

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = as_int(num_features), eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        factory = {"device": device, "dtype": dtype}
        for name, learns in (("weight", affine), ("bias", affine and bias)):
            self.register_parameter(name, torch.nn.Parameter(torch.empty(num_features, **factory)) if learns else None)
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, torch.empty(num_features, **factory) if track_running_stats else None)
        counted = torch.tensor(0, dtype=torch.long, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", counted)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        if self.track_running_stats:
            self.running_mean.zero_()  # type: ignore[operator]
            self.running_var.fill_(1)  # type: ignore[operator]
            self.num_batches_tracked.zero_()  # type: ignore[operator]

    def reset_parameters(self: Any) -> None:
        self.reset_running_stats()
        for parameter, fill in ((self.weight, torch.nn.init.ones_), (self.bias, torch.nn.init.zeros_)):
            if parameter is not None:
                fill(parameter)

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        key = f"{prefix}num_batches_tracked"
        old = metadata.get("version", None)
        if (old is None or old < 2) and self.track_running_stats and key not in state:
            counted = self.num_batches_tracked
            state[key] = counted if counted is not None and not counted.is_meta else torch.tensor(0, dtype=torch.long)
        super()._load_from_state_dict(state, prefix, metadata, *rest)

    def extra_repr(self) -> str:
        text = (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )
        return f"{text}, track_running_stats={self.track_running_stats}"


class BatchNormAct2d(WithResidual, _BatchNorm, _BatchNormState):
    r"""Batch normalization, the sum with a residual if one is given, and an activation, in one pass forward and
    backward.

    .. math:: y = act(γ_c·(x - μ_c)/\sqrt{σ²_c + ε} + β_c + residual)

    For backward it saves x, the statistics and the residual if there is one, but not its output. In a container a
    convolution that follows does not save that output either, but recomputes it (see ops/rematerialize.py).

    x, residual: (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W). activation: None, "relu", "leaky_relu", "relu6" or
    "silu" (SiLU takes a separate pass); negative_slope: of the leaky ReLU. The other arguments and the state are those
    of :class:`BatchNorm2d`.

    It does not derive from torch's batch norms, because torch's functions that convert these would lose the activation:
    ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` and ``torch.optim.swa_utils.update_bn`` leave it unchanged, and
    :meth:`SyncBatchNorm.convert_sync_batchnorm` of striate converts it.

    Raises ArgumentError for any other activation.

    >>> layer = BatchNormAct2d(4)
    >>> bool((layer(torch.randn(8, 4, 2, 2), residual=torch.ones(8, 4, 2, 2)) >= 0).all())
    True
    """

    _as_torch = as_torch(_torch.BatchNormBase.forward)

    def __init__(
        self,
        num_features: int,
        *args: Any,
        activation: str | None = "relu",
        negative_slope: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_features, *args, **kwargs)
        set_activation(self, activation, negative_slope)
