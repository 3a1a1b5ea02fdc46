"""Batch normalization over the processes of ``torch.distributed``."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor

from ... import _torch
from ...ops.sync_batch_norm import synchronized_batch_norm
from .base import WithResidual
from .batch import BATCH_NORMS, REFUSALS, _BatchNorm

__all__ = ["SyncBatchNorm"]


class SyncBatchNorm(WithResidual, _BatchNorm, _torch.BatchNormBase):
    r"""Batch normalization over the joint batch of all processes of ``torch.distributed``, on the CPU too (gloo).

    .. math::
        y = γ_c·(x - μ_c)/\sqrt{σ²_c + ε} + β_c, \quad n = Σ n_r, \quad μ, σ² \text{ merged from all ranks' moments}

    Arguments and state as in ``torch.nn``, whose class does not run on the CPU. It does not derive from that class,
    which ``DistributedDataParallel`` refuses there. The results equal those of one process with the whole batch:
    backward divides by the total count, and the running variance is unbiased for it. Ranks may have batches of
    different sizes, including empty ones. In evaluation, frozen, without ``torch.distributed``, with one process or
    outside the group it is :class:`BatchNorm2d`. Each forward gathers 2C + 1 doubles from each rank, each backward 2C.

    x: as for :class:`BatchNormAct2d`. Raises ShapeError where all ranks together have one value per channel,
    ArgumentError where no kernel takes x.

    Source: Chan, Golub, LeVeque, 1979 (merging); Ioffe, Szegedy, 2015.

    >>> import torch
    >>> SyncBatchNorm(4)(torch.randn(8, 4, 2, 2)).shape
    torch.Size([8, 4, 2, 2])
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.process_group = process_group

    def _compute(self, input: Tensor, residual: Tensor | None = None, following: Any = None, **shared: Any) -> Tensor:
        alone = not dist.is_available() or not dist.is_initialized() or dist.get_world_size(self.process_group) <= 1
        if alone or not self.training or self.frozen:
            return super()._compute(input, residual, following, **shared)
        self._check_input_dim(input)
        mean, var = (self.running_mean, self.running_var) if self.track_running_stats else (None, None)
        momentum = 0.0 if mean is None else self._count_batch()
        try:
            return synchronized_batch_norm(
                input,
                mean,
                var,
                self.weight,
                self.bias,
                momentum,
                self.eps,
                self.process_group,
                residual=residual,
                **self._kernel_options(following),
            )
        except REFUSALS:
            self._uncount_batch(mean is not None)
            raise

    @classmethod
    def convert_sync_batchnorm(cls, module: Any, process_group: Any = None) -> Any:
        """Replaces every batch norm in ``module``, torch's and striate's, by a SyncBatchNorm with the same parameters
        and state, and returns the module.

        >>> import torch
        >>> type(SyncBatchNorm.convert_sync_batchnorm(torch.nn.Sequential(torch.nn.BatchNorm2d(4)))[0]).__name__
        'SyncBatchNorm'
        """
        made: dict[Any, Any] = {}  # a layer under two names is converted once

        def converted(layer: Any) -> Any:
            if layer not in made:
                made[layer] = _synchronized(cls, layer, process_group)
            return made[layer]

        if isinstance(module, BATCH_NORMS):
            return converted(module)
        for parent in list(module.modules()):
            for name, child in parent._modules.items():
                if isinstance(child, BATCH_NORMS):
                    parent._modules[name] = converted(child)
        return module


def _synchronized(kind: Any, layer: Any, process_group: Any) -> Any:
    made = kind(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats, process_group)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked", "training"):
        setattr(made, name, getattr(layer, name))
    made.frozen = getattr(layer, "frozen", False)
    made.activation, made.negative_slope = getattr(layer, "activation", None), getattr(layer, "negative_slope", 0.01)
    return made
