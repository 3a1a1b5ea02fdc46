"""Normalization. Its kernels are to come: today the one candidate of each operation is torch's operator.

Every function has the signature of its namesake in ``torch.nn.functional``.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .choose import Candidate, always, choose

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm"]

METHODS = {
    name: (Candidate("torch", always, getattr(F, name)),)
    for name in ("batch_norm", "layer_norm", "instance_norm", "group_norm", "rms_norm", "local_response_norm")
}


def _run(name: str, *arguments: Any) -> Tensor:
    return choose(METHODS[name], *arguments)(*arguments)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``γ·(x - μ)/√(σ² + ε) + β``, μ and σ² per channel: the batch's in training, else the running ones.

    >>> import torch
    >>> batch_norm(torch.tensor([[1.0], [3.0]]), None, None, training=True, eps=1e-9)
    tensor([[-1.],
            [ 1.]])
    """
    return _run("batch_norm", input, running_mean, running_var, weight, bias, training, momentum, eps)


def layer_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """``γ·(x - μ)/√(σ² + ε) + β``, μ and σ² over the last axes, those of ``normalized_shape``.

    >>> import torch
    >>> layer_norm(torch.tensor([[1.0, 3.0]]), [2], eps=0.0)
    tensor([[-1.,  1.]])
    """
    return _run("layer_norm", input, normalized_shape, weight, bias, eps)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``γ·(x - μ)/√(σ² + ε) + β``, μ and σ² per sample and channel.

    >>> import torch
    >>> instance_norm(torch.tensor([[[1.0, 3.0]]]), eps=0.0)
    tensor([[[-1.,  1.]]])
    """
    return _run("instance_norm", input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def group_norm(input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """``γ·(x - μ)/√(σ² + ε) + β``, μ and σ² per sample and group of channels.

    >>> import torch
    >>> group_norm(torch.tensor([[[1.0], [3.0]]]), 1, eps=0.0).flatten()
    tensor([-1.,  1.])
    """
    return _run("group_norm", input, num_groups, weight, bias, eps)


def rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """``γ·x/√(mean(x²) + ε)`` over the last axes.

    >>> import torch
    >>> rms_norm(torch.tensor([[3.0, 3.0]]), [2], eps=0.0)
    tensor([[1., 1.]])
    """
    return _run("rms_norm", input, normalized_shape, weight, eps)


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """``x/(k + α·mean(x² over size neighbouring channels))^β`` (Krizhevsky et al. 2012).

    >>> import torch
    >>> local_response_norm(torch.ones(1, 1, 1, 1), 1, alpha=3.0, beta=0.5).flatten()
    tensor([0.5000])
    """
    return _run("local_response_norm", input, size, alpha, beta, k)
