"""Normalization layers: drop-ins for torch.nn's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops import norm as ops

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LocalResponseNorm",
    "RMSNorm",
]


class _BatchNorm:
    def forward(self: Any, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        batch_statistics = self.training or self.running_mean is None
        keep = self.training and self.track_running_stats
        momentum = 0.0 if self.momentum is None else self.momentum
        if keep and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # the mean of all batches so far
                momentum = 1.0 / float(self.num_batches_tracked)
        mean, var = (self.running_mean, self.running_var) if keep or not self.training else (None, None)
        return ops.batch_norm(input, mean, var, self.weight, self.bias, batch_statistics, momentum, self.eps)


class _InstanceNorm:
    def _apply_instance_norm(self: Any, input: Tensor) -> Tensor:
        own_statistics = self.training or not self.track_running_stats
        momentum = 0.0 if self.momentum is None else self.momentum
        return ops.instance_norm(input, self.running_mean, self.running_var, self.weight, self.bias, own_statistics, momentum, self.eps)


class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    """Batch normalization of (N, C) or (N, C, L); arguments and state as in ``torch.nn``. Formula: :func:`striate.ops.norm.batch_norm`.

    >>> BatchNorm1d(4)(torch.randn(8, 4)).shape
    torch.Size([8, 4])
    """


class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    """Batch normalization of (N, C, H, W); arguments and state as in ``torch.nn``. Formula: :func:`striate.ops.norm.batch_norm`.

    >>> BatchNorm2d(4)(torch.randn(8, 4, 2, 2)).shape
    torch.Size([8, 4, 2, 2])
    """


class BatchNorm3d(_BatchNorm, torch.nn.BatchNorm3d):
    """Batch normalization of (N, C, D, H, W); arguments and state as in ``torch.nn``. Formula: :func:`striate.ops.norm.batch_norm`.

    >>> BatchNorm3d(4)(torch.randn(8, 4, 2, 2, 2)).shape
    torch.Size([8, 4, 2, 2, 2])
    """


class InstanceNorm1d(_InstanceNorm, torch.nn.InstanceNorm1d):
    """Instance normalization of (N, C, L) or (C, L); arguments and state as in ``torch.nn``.

    >>> InstanceNorm1d(4)(torch.randn(2, 4, 8)).shape
    torch.Size([2, 4, 8])
    """


class InstanceNorm2d(_InstanceNorm, torch.nn.InstanceNorm2d):
    """Instance normalization of (N, C, H, W) or (C, H, W); arguments and state as in ``torch.nn``.

    >>> InstanceNorm2d(4)(torch.randn(2, 4, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """


class InstanceNorm3d(_InstanceNorm, torch.nn.InstanceNorm3d):
    """Instance normalization of (N, C, D, H, W) or (C, D, H, W); arguments and state as in ``torch.nn``.

    >>> InstanceNorm3d(4)(torch.randn(2, 4, 8, 8, 8)).shape
    torch.Size([2, 4, 8, 8, 8])
    """


class LayerNorm(torch.nn.LayerNorm):
    """Layer normalization over the last axes; arguments and state as in ``torch.nn``. Formula: :func:`striate.ops.norm.layer_norm`.

    >>> LayerNorm(4)(torch.randn(2, 4)).shape
    torch.Size([2, 4])
    """

    def forward(self, input: Tensor) -> Tensor:
        return ops.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class GroupNorm(torch.nn.GroupNorm):
    """Group normalization of (N, C, *); arguments and state as in ``torch.nn``. Formula: :func:`striate.ops.norm.group_norm`.

    >>> GroupNorm(2, 4)(torch.randn(2, 4, 8)).shape
    torch.Size([2, 4, 8])
    """

    def forward(self, input: Tensor) -> Tensor:
        return ops.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class RMSNorm(torch.nn.RMSNorm):
    """Root-mean-square normalization over the last axes; arguments and state as in ``torch.nn``.

    >>> RMSNorm(4)(torch.randn(2, 4)).shape
    torch.Size([2, 4])
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class LocalResponseNorm(torch.nn.LocalResponseNorm):
    """Normalization over neighbouring channels; arguments as in ``torch.nn``. Formula: :func:`striate.ops.norm.local_response_norm`.

    >>> LocalResponseNorm(3)(torch.randn(2, 4, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """

    def forward(self, input: Tensor) -> Tensor:
        return ops.local_response_norm(input, self.size, self.alpha, self.beta, self.k)
