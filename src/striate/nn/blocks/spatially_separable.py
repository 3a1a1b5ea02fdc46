"""Convolutions in two steps: down the columns, then along the rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError, ArgumentTypeError, ShapeError, build
from ...ops.arguments import per_axis, whole
from ...ops.padding import MODES
from ..conv import Conv2d
from .arguments import Sizes

__all__ = ["SpatiallySeparableConv2d"]


class SpatiallySeparableConv2d(torch.nn.Module):
    r"""A convolution in two steps, down the columns with K_h×1 taps (``vertical``), then along the rows with 1×K_w
    (``horizontal``).

    .. math::
        z[n, m, i, w] = Σ_c Σ_s x[n, c, i + s, w] · u[m, c, s], \quad
        y[n, k, i, j] = b[k] + Σ_m Σ_t z[n, m, i, j + t] · v[k, m, t]

    Together they are the convolution with ``w[k, c, s, t] = Σ_m u[m, c, s]·v[k, m, t]``: the (C·K_h)×(C_out·K_w) matrix
    of its weights has rank ``middle`` at most. middle: the channels of z; None for out_channels. The other arguments
    are those of a convolution; of each pair the first applies to the vertical step, the second to the horizontal step.
    Only the horizontal step has a bias.

    Shapes: x (N, in_channels, H, W) or (in_channels, H, W); z has H-K_h+1 rows of W; y H-K_h+1 rows of W-K_w+1 (no
    padding, stride 1).

    Cost: middle·(in_channels·K_h + out_channels·K_w) parameters and out_channels for the bias;
    in_channels·middle·K_h·|z| + middle·out_channels·K_w·|y| MACs.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no convolution can have.

    Source: Rigamonti et al., *Learning separable filters*, 2013; Szegedy et al., *Rethinking the Inception
    architecture*, 2016.

    >>> layer = SpatiallySeparableConv2d(3, 8, (3, 5))
    >>> x = torch.ones(1, 3, 9, 9)
    >>> layer.vertical(x).shape, layer(x).shape
    (torch.Size([1, 8, 7, 9]), torch.Size([1, 8, 7, 5]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        middle: int | None = None,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        in_channels, out_channels = whole(in_channels, "in_channels", where), whole(out_channels, "out_channels", where)
        middle = out_channels if middle is None else whole(middle, "middle", where)
        size, step, dilations = (
            per_axis(value, 2, 1, what, where)
            for what, value in (("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation))
        )
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                hint = 'Use "same" for ceil(input / stride) outputs.'
                raise ArgumentError(build(where, 'padding "same", "valid" or a number', repr(padding), hint=hint))
            vertical: Any = padding
            horizontal: Any = padding
        else:
            rows, columns = per_axis(padding, 2, 0, "padding", where)
            vertical, horizontal = (rows, 0), (0, columns)
        if padding_mode not in MODES:
            raise ArgumentError(
                build(
                    where, "a padding_mode that exists", repr(padding_mode), hint=f"Choose one of {', '.join(MODES)}."
                )
            )
        rest: Any = {"padding_mode": padding_mode, "device": device, "dtype": dtype}
        self.vertical = Conv2d(
            in_channels, middle, (size[0], 1), (step[0], 1), vertical, (dilations[0], 1), bias=False, **rest
        )
        self.horizontal = Conv2d(
            middle, out_channels, (1, size[1]), (1, step[1]), horizontal, (1, dilations[1]), bias=bias, **rest
        )

    def forward(self, input: Tensor) -> Tensor:
        return self.horizontal(self.vertical(input))

    @classmethod
    def from_kernel(
        cls,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        padding_mode: str = "zeros",
        tolerance: float = 1e-5,
    ) -> SpatiallySeparableConv2d:
        r"""The layer that computes the convolution with ``weight``, up to rounding, if each of its kernels is an outer
        product.

        .. math:: W_{kc} = u_{kc} v_{kc}ᵀ

        weight: one kernel (K_h, K_w), or (out_channels, in_channels, K_h, K_w); bias: (out_channels,) or None. A
        singular value decomposition of all kernels together gives the fewest ``middle`` channels: 1 for one kernel, and
        for several at most min(in_channels·K_h, out_channels·K_w). It is computed in float64.

        Raises ArgumentError where a kernel's ``‖W - uvᵀ‖ / ‖W‖`` for the best u and v is above ``tolerance``: a sum of
        more outer products could represent any kernel, but would save nothing.

        >>> W = torch.tensor([[3.0, 6, 9], [4, 8, 12], [5, 10, 15]])  # [3 4 5]ᵀ[1 2 3]
        >>> layer, x = SpatiallySeparableConv2d.from_kernel(W), torch.arange(16.0).view(1, 4, 4)
        >>> layer(x).round().int().tolist(), torch.nn.functional.conv2d(x, W.view(1, 1, 3, 3)).int().tolist()
        ([[[432, 504], [720, 792]]], [[[432, 504], [720, 792]]])
        """
        where = f"{cls.__name__}.from_kernel"
        kernels = _checked_kernels(weight, bias, tolerance, where)
        filters, channels, height, width = kernels.shape
        matrix = kernels.permute(1, 2, 0, 3).reshape(channels * height, filters * width)
        u, sigma, v = torch.linalg.svd(matrix, full_matrices=False)
        precision = torch.finfo(weight.dtype if weight.is_floating_point() else torch.float32)
        rounding = float(sigma[0]) * max(matrix.shape) * precision.eps  # singular values up to this count as 0
        middle = max(1, int((sigma > rounding).sum()))
        root = sigma[:middle].sqrt()
        dtype = weight.dtype if weight.is_floating_point() else torch.get_default_dtype()
        factory: Any = {"padding_mode": padding_mode, "device": weight.device, "dtype": dtype}
        learns_bias = bias is not None
        layer = cls(channels, filters, (height, width), stride, padding, dilation, middle, learns_bias, **factory)
        vertical = (u[:, :middle] * root).T.reshape(middle, channels, height, 1)
        horizontal = (root[:, None] * v[:middle]).reshape(middle, filters, 1, width).transpose(0, 1)
        with torch.no_grad():
            layer.vertical.weight.copy_(vertical)
            layer.horizontal.weight.copy_(horizontal)
            if bias is not None and layer.horizontal.bias is not None:
                layer.horizontal.bias.copy_(bias)
        return layer


def _checked_kernels(weight: Any, bias: Any, tolerance: Any, where: str) -> Tensor:
    """Returns the kernels in float64, (out_channels, in_channels, K_h, K_w); raises if one of them has not rank 1."""
    if not isinstance(weight, Tensor):
        raise ArgumentTypeError(
            build(where, "weight to be a tensor", type(weight).__name__, hint="Call torch.as_tensor on it first.")
        )
    shape = tuple(weight.shape)
    if weight.dim() not in (2, 4) or 0 in shape:
        hint = "Give a kernel (K_h, K_w) or a convolution's weight."
        raise ShapeError(build(where, "a weight of shape (K_h, K_w) or (out, in, K_h, K_w)", shape, hint=hint))
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
        hint = "Leave it out for what float32 rounds to."
        raise ArgumentError(build(where, "a tolerance from 0 to below 1", repr(tolerance), hint=hint))
    filters, channels = shape[:2] if weight.dim() == 4 else (1, 1)
    if bias is not None and (not isinstance(bias, Tensor) or tuple(bias.shape) != (filters,)):
        given = tuple(bias.shape) if isinstance(bias, Tensor) else repr(bias)
        raise ShapeError(
            build(where, f"a bias of shape ({filters},)", given, hint="Give one number for each filter.")
        )
    kernels = weight.detach().reshape(filters, channels, *shape[-2:]).double()
    if not bool(torch.isfinite(kernels).all()):
        raise ArgumentError(build(where, "finite weights", "inf or NaN", hint="Look at what the training did."))
    values = torch.linalg.svdvals(kernels)
    residual = torch.linalg.vector_norm(values[..., 1:], dim=-1) / torch.linalg.vector_norm(values, dim=-1).clamp(
        min=1e-300
    )
    worst = int(residual.argmax())
    if float(residual.flatten()[worst]) > tolerance:
        first, second = values.reshape(-1, values.shape[-1])[worst][:2].tolist()
        at = f" [{worst // channels}, {worst % channels}]" if weight.dim() == 4 else ""
        got = f"kernel{at} whose second singular value is {second / first:.3g} of the first"
        error = f"{float(residual.flatten()[worst]):.3g}, above the tolerance {tolerance:g}"
        hint = "Keep the convolution, or train this layer in its place."
        raise ArgumentError(build(where, "kernels of rank 1", got, hint=hint, **{"residual ‖W - uvᵀ‖/‖W‖": error}))
    return kernels
