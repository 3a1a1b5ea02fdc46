r"""Normalization: one formula, and for each norm the axes that it reduces.

.. math:: y = γ·x̂ + β, \quad x̂ = (x - μ) / \sqrt{σ² + ε}

==========  =============================================  ==================================
norm        μ and σ² are those of                          reduction axes of x: (N, C, H, W)
==========  =============================================  ==================================
batch       one channel of the whole batch                 (N, H, W) per channel
layer       one sample                                     (C, H, W) per sample
layer 2d    all channels at one position                   (C) per sample and position
instance    one channel of one sample                      (H, W) per sample and channel
group       a group of channels of one sample              (C/G, H, W) per sample and group
rms         the last axis, with μ = 0                      (W) per sample, channel and row
==========  =============================================  ==================================

σ² is the biased variance; with μ = 0 it is the mean square. Local response normalization is different: it divides each
value by a power of the sum of squares of its neighbouring channels. :func:`leaky` is the activation behind a norm.

Everything is computed in float64 and rounded once, to the type of the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from striate.moments import Moments
from striate.reference import pool
from striate.window import Axis

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "leaky",
    "local_response_norm",
    "local_response_norm_backward",
    "normalize",
    "normalize_backward",
    "rms_norm",
    "rms_norm_backward",
    "running_statistics",
]


def _broadcast(parameter: Tensor | None, x: Tensor, dims: Sequence[int], missing: float) -> Tensor:
    """Reshapes a parameter of the axes ``dims`` so that it broadcasts with x; the number ``missing`` if it is None."""
    if parameter is None:
        return torch.full((), missing, dtype=torch.float64, device=x.device)
    return parameter.to(torch.float64).reshape([size if d in dims else 1 for d, size in enumerate(x.shape)])


def _standardize(
    x: Tensor,
    dims: Sequence[int],
    eps: float,
    scaled: Sequence[int],
    mean: Tensor | None,
    variance: Tensor | None,
    centered: bool,
) -> tuple[Tensor, Tensor]:
    """x̂ and 1/√(σ² + ε), with given statistics or with those of x."""
    if mean is not None and variance is not None:
        μ, var = _broadcast(mean, x, scaled, 0), _broadcast(variance, x, scaled, 1)
    elif centered:
        moments = Moments.of(x, dims, keepdim=True)
        μ, var = moments.mean, moments.variance()
    else:
        μ, var = _broadcast(None, x, scaled, 0), Moments.of(x.to(torch.float64).square(), dims, keepdim=True).mean
    scale = (var + eps).rsqrt()
    return (x - μ) * scale, scale


def normalize(
    x: Tensor,
    dims: Sequence[int],
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    eps: float = 1e-5,
    scaled: Sequence[int] = (1,),
    mean: Tensor | None = None,
    variance: Tensor | None = None,
    centered: bool = True,
) -> Tensor:
    r"""Normalizes x to mean 0 and variance 1 over the axes ``dims``, then scales and shifts.

    .. math:: y = γ·x̂ + β, \quad x̂ = (x - μ) / \sqrt{σ² + ε}, \quad μ = \text{mean}(x), \quad σ² = \text{mean}((x - μ)²)

    x: any shape; dims: the axes that are reduced; scaled: the axes of gamma and beta, whose shape is that of x on these
    axes; mean, variance: given statistics with that shape too, instead of those of x; centered: if False, μ is taken as
    0, so that σ² is mean(x²). The result has x's shape and type.

    Raises ArgumentError without an axis to reduce, and RuntimeError where shapes do not fit.

    Source: Ioffe, Szegedy, *Batch normalization*, 2015; Wu, He, *Group normalization*, 2018.

    >>> normalize(torch.tensor([[1.0, 3.0], [2.0, 8.0]]), dims=(1,), eps=0)
    tensor([[-1.,  1.],
            [-1.,  1.]])
    """
    x_hat, _ = _standardize(x, dims, eps, scaled, mean, variance, centered)
    return (_broadcast(gamma, x, scaled, 1) * x_hat + _broadcast(beta, x, scaled, 0)).to(x.dtype)


def normalize_backward(
    dy: Tensor,
    x: Tensor,
    dims: Sequence[int],
    gamma: Tensor | None = None,
    eps: float = 1e-5,
    scaled: Sequence[int] = (1,),
    mean: Tensor | None = None,
    variance: Tensor | None = None,
    centered: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The gradients (dx, dgamma, dbeta) of :func:`normalize`.

    .. math::
        g = γ·dy, \quad dx = \frac{1}{\sqrt{σ² + ε}} (g - \text{mean}(g) - x̂·\text{mean}(g·x̂)), \quad
        dγ = Σ dy·x̂, \quad dβ = Σ dy

    The means are over ``dims``, the sums over the axes that are not in ``scaled``. Given statistics are constants, so
    that dx = g/√(σ² + ε). If not ``centered``, μ = 0 is a constant, and the term mean(g) is left out.

    dy: x's shape; the rest as for ``normalize``. dx has x's shape, dgamma and dbeta that of x on the axes ``scaled``.

    Raises as ``normalize`` does.

    Source: Ioffe, Szegedy, *Batch normalization*, 2015.

    >>> x, dy = torch.tensor([[1.0, 3.0, 5.0]]), torch.tensor([[1.0, 0.0, 1.0]])
    >>> dx, dgamma, dbeta = normalize_backward(dy, x, dims=(1,))
    >>> dx.sum().abs() < 1e-6, (dx * x).sum().abs() < 1e-5
    (tensor(True), tensor(True))
    """
    x_hat, scale = _standardize(x, dims, eps, scaled, mean, variance, centered)
    wide = dy.to(torch.float64)
    g = wide * _broadcast(gamma, x, scaled, 1)
    if mean is None or variance is None:
        mean_g = g.mean(tuple(dims), keepdim=True) if centered else 0
        g = g - mean_g - x_hat * (g * x_hat).mean(tuple(dims), keepdim=True)
    spread = [size if d in scaled else 1 for d, size in enumerate(x.shape)]
    shape, kind = [x.shape[d] for d in sorted(scaled)], x.dtype if gamma is None else gamma.dtype
    dgamma, dbeta = (total.sum_to_size(spread).reshape(shape).to(kind) for total in (wide * x_hat, wide))
    return (scale * g).to(x.dtype), dgamma, dbeta


def _but(x: Tensor, dim: int) -> tuple[int, ...]:
    return tuple(d for d in range(x.ndim) if d != dim)


def batch_norm(
    x: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    eps: float = 1e-5,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
) -> Tensor:
    r"""Batch normalization: μ and σ² of each channel over the batch and all positions.

    .. math:: y = γ_c·(x - μ_c) / \sqrt{σ²_c + ε} + β_c

    In evaluation ``mean`` and ``variance`` are the running statistics, and the layer is linear in x.

    x: (N, C, *input); gamma, beta, mean, variance: (C,). The result has x's shape.

    Raises RuntimeError where shapes do not fit.

    Source: Ioffe, Szegedy, *Batch normalization*, 2015.

    >>> x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    >>> batch_norm(x, eps=0)
    tensor([[-1., -1.],
            [ 1.,  1.]])
    >>> batch_norm(x, eps=0, mean=torch.tensor([0.0, 10.0]), variance=torch.tensor([1.0, 4.0]))
    tensor([[ 1.,  0.],
            [ 3., 10.]])
    """
    return normalize(x, _but(x, 1), gamma, beta, eps, (1,), mean, variance)


def batch_norm_backward(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor | None = None,
    eps: float = 1e-5,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The gradients (dx, dgamma, dbeta) of :func:`batch_norm`, in training or in evaluation.

    .. math:: dx = \frac{γ}{\sqrt{σ² + ε}} (dy - \text{mean}(dy) - x̂·\text{mean}(dy·x̂)),
              \quad dγ = Σ dy·x̂, \quad dβ = Σ dy

    With given statistics dx = γ/√(σ² + ε)·dy. dy: x's shape. The results have the shapes of x, gamma and beta.

    Raises RuntimeError where shapes do not fit.

    Source: Ioffe, Szegedy, *Batch normalization*, 2015.

    >>> one = torch.ones(2)
    >>> statistics = {"mean": 0 * one, "variance": 4 * one}
    >>> dx, dgamma, dbeta = batch_norm_backward(torch.ones(3, 2), torch.eye(3, 2), eps=0, **statistics)
    >>> dx[0].tolist(), dgamma.tolist(), dbeta.tolist()
    ([0.5, 0.5], [0.5, 0.5], [3.0, 3.0])
    """
    return normalize_backward(dy, x, _but(x, 1), gamma, eps, (1,), mean, variance)


def running_statistics(x: Tensor, mean: Tensor, variance: Tensor, momentum: float = 0.1) -> tuple[Tensor, Tensor]:
    r"""The running mean and variance after one more batch.

    .. math:: r ← (1 - momentum)·r + momentum·batch

    As in torch, the variance of the batch is the unbiased one here. x: (N, C, *input); mean, variance: (C,).

    Source: Ioffe, Szegedy, *Batch normalization*, 2015.

    >>> running_statistics(torch.tensor([[1.0], [3.0]]), torch.zeros(1), torch.ones(1), momentum=0.5)
    (tensor([1.]), tensor([1.5000]))
    """
    batch = Moments.of(x, _but(x, 1))
    pairs = (mean, batch.mean), (variance, batch.variance(unbiased=True))
    new_mean, new_variance = (((1 - momentum) * old + momentum * new).to(old.dtype) for old, new in pairs)
    return new_mean, new_variance


def _layer_dims(x: Tensor, dims: Sequence[int] | None) -> tuple[int, ...]:
    return _but(x, 0) if dims is None else tuple(d % x.ndim for d in dims)


def layer_norm(
    x: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    eps: float = 1e-5,
    dims: Sequence[int] | None = None,
) -> Tensor:
    r"""Layer normalization: μ and σ² of each sample over all channels and positions, or over the axes ``dims``.

    .. math:: y = γ·(x - μ_n) / \sqrt{σ²_n + ε} + β

    dims: the axes that are reduced and scaled, by default all but the first. torch's ``normalized_shape`` corresponds
    to the last axes; ``dims=(1,)`` reduces all channels at one position (ConvNeXt).

    x: any shape; gamma, beta: x's shape on the axes dims. The result has x's shape.

    Raises RuntimeError where shapes do not fit.

    Source: Ba, Kiros, Hinton, *Layer normalization*, 2016.

    >>> layer_norm(torch.tensor([[1.0, 3.0], [2.0, 8.0]]), eps=0)
    tensor([[-1.,  1.],
            [-1.,  1.]])
    """
    dims = _layer_dims(x, dims)
    return normalize(x, dims, gamma, beta, eps, dims)


def layer_norm_backward(
    dy: Tensor, x: Tensor, gamma: Tensor | None = None, eps: float = 1e-5, dims: Sequence[int] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The gradients (dx, dgamma, dbeta) of :func:`layer_norm`.

    .. math:: dx = \frac{1}{\sqrt{σ² + ε}} (γ·dy - \text{mean}(γ·dy) - x̂·\text{mean}(γ·dy·x̂)),
              \quad dγ = Σ dy·x̂, \quad dβ = Σ dy

    γ varies within a reduction, so it stays inside the means. dy: x's shape. The results have the shapes of x, gamma
    and beta.

    Raises RuntimeError where shapes do not fit.

    Source: Ba, Kiros, Hinton, *Layer normalization*, 2016.

    >>> dx, dgamma, dbeta = layer_norm_backward(torch.ones(2, 2), torch.tensor([[1.0, 3.0], [2.0, 8.0]]), eps=0)
    >>> dx.abs().max().item(), dgamma.tolist(), dbeta.tolist()
    (0.0, [-2.0, 2.0], [2.0, 2.0])
    """
    dims = _layer_dims(x, dims)
    return normalize_backward(dy, x, dims, gamma, eps, dims)


def group_norm(
    x: Tensor, groups: int, gamma: Tensor | None = None, beta: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    r"""Group normalization: μ and σ² of each group of neighbouring channels of a sample.

    .. math:: y = γ_c·(x - μ_{ng}) / \sqrt{σ²_{ng} + ε} + β_c

    x: (N, C, *input); gamma, beta: (C,). The result has x's shape.

    Raises RuntimeError where groups does not divide C.

    Source: Wu, He, *Group normalization*, 2018.

    >>> group_norm(torch.tensor([[1.0, 3.0, 2.0, 8.0]]), 2, eps=0)
    tensor([[-1.,  1., -1.,  1.]])
    """
    split = torch.unflatten(x, 1, (groups, -1))
    return normalize(split, tuple(range(2, split.ndim)), gamma, beta, eps, (1, 2)).flatten(1, 2)


def group_norm_backward(
    dy: Tensor, x: Tensor, groups: int, gamma: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The gradients (dx, dgamma, dbeta) of :func:`group_norm`.

    .. math:: dx = \frac{1}{\sqrt{σ² + ε}} (γ·dy - \text{mean}(γ·dy) - x̂·\text{mean}(γ·dy·x̂)),
              \quad dγ = Σ dy·x̂, \quad dβ = Σ dy

    dy: x's shape. The results have the shapes of x, gamma and beta.

    Raises RuntimeError where groups does not divide C.

    Source: Wu, He, *Group normalization*, 2018.

    >>> dx, dgamma, dbeta = group_norm_backward(torch.ones(1, 4), torch.tensor([[1.0, 3.0, 2.0, 8.0]]), 2, eps=0)
    >>> dx.abs().max().item(), dgamma.tolist(), dbeta.tolist()
    (0.0, [-1.0, 1.0, -1.0, 1.0], [1.0, 1.0, 1.0, 1.0])
    """
    x, dy = torch.unflatten(x, 1, (groups, -1)), torch.unflatten(dy, 1, (groups, -1))
    dx, dgamma, dbeta = normalize_backward(dy, x, tuple(range(2, x.ndim)), gamma, eps, (1, 2))
    return dx.flatten(1, 2), dgamma.flatten(), dbeta.flatten()


def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    r"""Instance normalization: μ and σ² of each channel of a sample; group normalization with groups of one channel.

    .. math:: y = γ_c·(x - μ_{nc}) / \sqrt{σ²_{nc} + ε} + β_c

    Evaluation with running statistics is that of :func:`batch_norm`.

    x: (N, C, *input); gamma, beta: (C,). The result has x's shape.

    Raises RuntimeError where shapes do not fit.

    Source: Ulyanov, Vedaldi, Lempitsky, *Instance normalization: the missing ingredient for fast stylization*, 2016.

    >>> instance_norm(torch.tensor([[[1.0, 3.0], [2.0, 8.0]]]), eps=0)
    tensor([[[-1.,  1.],
             [-1.,  1.]]])
    """
    return group_norm(x, x.shape[1], gamma, beta, eps)


def instance_norm_backward(
    dy: Tensor, x: Tensor, gamma: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The gradients (dx, dgamma, dbeta) of :func:`instance_norm`.

    .. math:: dx = \frac{γ}{\sqrt{σ² + ε}} (dy - \text{mean}(dy) - x̂·\text{mean}(dy·x̂)),
              \quad dγ = Σ dy·x̂, \quad dβ = Σ dy

    dy: x's shape. The results have the shapes of x, gamma and beta.

    Raises RuntimeError where shapes do not fit.

    Source: Ulyanov, Vedaldi, Lempitsky, 2016.

    >>> dx, dgamma, dbeta = instance_norm_backward(torch.ones(1, 2, 2), torch.tensor([[[1.0, 3.0], [2.0, 8.0]]]), eps=0)
    >>> dx.abs().max().item(), dgamma.tolist(), dbeta.tolist()
    (0.0, [0.0, 0.0], [2.0, 2.0])
    """
    return group_norm_backward(dy, x, x.shape[1], gamma, eps)


def _rms_dims(x: Tensor, dims: Sequence[int] | None) -> tuple[int, ...]:
    return _layer_dims(x, (-1,) if dims is None else dims)


def rms_norm(x: Tensor, gamma: Tensor | None = None, eps: float = 1e-5, dims: Sequence[int] | None = None) -> Tensor:
    r"""Root mean square normalization: layer normalization with the mean taken as 0 and without a shift.

    .. math:: y = γ·x / \sqrt{\text{mean}(x²) + ε}

    dims: the axes that are reduced and scaled, by default the last. torch's ``eps=None`` means ``torch.finfo(...).eps``
    of float64, or that of float32 for every narrower type.

    x: any shape; gamma: x's shape on the axes dims. The result has x's shape.

    Raises ArgumentError without an axis, and RuntimeError where shapes do not fit.

    Source: Zhang, Sennrich, *Root mean square layer normalization*, 2019.

    >>> rms_norm(torch.tensor([[1.0, 7.0], [5.0, -5.0]]), eps=0)
    tensor([[ 0.2000,  1.4000],
            [ 1.0000, -1.0000]])
    """
    dims = _rms_dims(x, dims)
    return normalize(x, dims, gamma, None, eps, dims, centered=False)


def rms_norm_backward(
    dy: Tensor, x: Tensor, gamma: Tensor | None = None, eps: float = 1e-5, dims: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    r"""The gradients (dx, dgamma) of :func:`rms_norm`.

    .. math:: dx = \frac{1}{\sqrt{\text{mean}(x²) + ε}} (γ·dy - x̂·\text{mean}(γ·dy·x̂)), \quad dγ = Σ dy·x̂

    dy: x's shape. The results have the shapes of x and gamma.

    Raises ArgumentError without an axis, and RuntimeError where shapes do not fit.

    Source: Zhang, Sennrich, 2019.

    >>> dx, dgamma = rms_norm_backward(torch.tensor([[7.0, -1.0]]), torch.tensor([[1.0, 7.0]]), eps=0)
    >>> dx, dgamma
    (tensor([[ 1.4000, -0.2000]]), tensor([ 1.4000, -1.4000]))
    """
    dims = _rms_dims(x, dims)
    dx, dgamma, _ = normalize_backward(dy, x, dims, gamma, eps, dims, centered=False)
    return dx, dgamma


def _neighbours(x: Tensor, size: int) -> tuple[Axis]:
    """The window over the channels: for channel c, those from c - ⌊size/2⌋ to c + ⌊(size - 1)/2⌋."""
    return (Axis(x.shape[1], x.shape[1], size, before=size // 2, after=(size - 1) // 2),)


def _denominator(x: Tensor, size: int, alpha: float, k: float) -> Tensor:
    """D = k + α·mean(x²), where the mean divides by ``size`` at the first and last channels too."""
    squares = x.to(torch.float64).square().movedim(1, -1)
    return k + alpha * pool.avg_pool(squares, _neighbours(x, size)).movedim(-1, 1)


def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    r"""Local response normalization: each value is divided by a power of its neighbouring channels' sum of squares.

    .. math:: y_c = x_c / D_c^β, \quad D_c = k + \frac{α}{size} Σ_{j = c - ⌊size/2⌋}^{c + ⌊(size - 1)/2⌋} x_j²

    The window ends at the first and the last channel, but α is always divided by ``size``, as in torch. The paper
    multiplies the sum by α itself.

    x: (N, C, *input); size: at least 1. The result has x's shape.

    Raises RuntimeError for a negative size.

    Source: Krizhevsky, Sutskever, Hinton, *ImageNet classification with deep convolutional neural networks*, 2012.

    >>> local_response_norm(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), size=2, alpha=2, beta=1, k=0)
    tensor([[1.0000, 0.4000, 0.2308, 0.1600]])
    """
    return (x / _denominator(x, size, alpha, k) ** beta).to(x.dtype)


def local_response_norm_backward(
    dy: Tensor, x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    r"""The gradient of :func:`local_response_norm`.

    Each channel receives its own term, less one for each channel in whose window it lies.

    .. math:: dx_i = dy_i·D_i^{-β} - \frac{2αβ}{size}·x_i Σ_{j: window(j) ∋ i} dy_j·x_j·D_j^{-β - 1}

    dy: x's shape. The result has x's shape.

    Raises RuntimeError for a negative size, and where shapes do not fit.

    Source: Krizhevsky, Sutskever, Hinton, 2012.

    >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    >>> local_response_norm_backward(torch.tensor([[0.0, 0.0, 1.0, 0.0]]), x, size=2, alpha=2, beta=1, k=0)
    tensor([[ 0.0000, -0.0710, -0.0296,  0.0000]])
    """
    wide, d = dy.to(torch.float64), _denominator(x, size, alpha, k)
    taken = (wide * x * d ** (-beta - 1)).movedim(1, -1)
    shared = pool.avg_pool_backward(taken, _neighbours(x, size)).movedim(-1, 1)
    return (wide * d**-beta - 2 * alpha * beta * (x * shared)).to(x.dtype)


def leaky(z: Tensor, slope: float) -> Tensor:
    r"""Leaky ReLU: values below 0 are multiplied by a slope. A slope of 1 changes nothing; 0 makes it the ReLU.

    .. math:: y = \begin{cases} z & z > 0 \\ slope·z & \text{otherwise} \end{cases}

    With slope 0, -inf becomes 0 too. NaN stays NaN. The derivative at 0 is the slope.

    z: any shape. The result has z's shape.

    Source: Maas, Hannun, Ng, *Rectifier nonlinearities improve neural network acoustic models*, 2013.

    >>> leaky(torch.tensor([-4.0, 0.0, 3.0]), 0.25)
    tensor([-1.,  0.,  3.])
    """
    wide = z.to(torch.float64)
    return (wide.relu() if slope == 0 else torch.where(wide > 0, wide, slope * wide)).to(z.dtype)
