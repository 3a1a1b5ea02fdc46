"""What convolutional networks are built of beside plain convolutions: factored ones, gates, shuffles, and anti-aliased
strides.

Cost is told in parameters and in MACs (multiply-adds) a sample, taps in padding counted. |y| is the number of output
positions.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from math import comb, gcd
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .._torch import InstanceNormBase
from ..errors import ArgumentError, ArgumentTypeError, ShapeError, build
from ..ops import gate as gates
from ..ops.arguments import per_axis, whole
from ..ops.conv import conv
from ..ops.layout import FORMATS, is_channels_last, owned
from ..ops.padding import MODES, pad
from . import norm as norms
from .container import Sequential
from .conv import Conv1d, Conv2d, Conv3d
from .namesake import Namesake
from .pool import GlobalAvgPool2d

__all__ = [
    *(f"{kind}Conv{d}d" for kind in ("Pointwise", "Depthwise", "DepthwiseSeparable") for d in (1, 2, 3)),
    *(f"BlurPool{d}d" for d in (1, 2, 3)),
    "Bottleneck",
    "ChannelShuffle",
    "ConvNormAct",
    *(f"ConvNormAct{d}d" for d in (1, 2, 3)),
    "SpatiallySeparableConv2d",
    "SqueezeExcite",
]

Sizes = int | tuple[int, ...]
_CONV: dict[int, Any] = {1: Conv1d, 2: Conv2d, 3: Conv3d}


class _Documented:
    """Gives each class its kind's documentation, with its number of axes in it."""

    text: str
    facts: ClassVar[dict[int, str]] = {}

    def __init_subclass__(cls, axes: int = 0) -> None:
        super().__init_subclass__()
        if axes:
            cls.dims = axes  # type: ignore[attr-defined]
            words = {
                "{dims}": str(axes),
                "{letters}": ("L", "H, W", "D, H, W")[axes - 1],
                "{axes}": ("one axis", "two axes", "three axes")[axes - 1],
                "{facts}": cls.facts.get(axes, ""),
            }
            text = cls.text
            for name, word in words.items():
                text = text.replace(name, word)
            cls.__doc__ = text.rstrip() + "\n    "


# ------------------------------------------------------------------------------------------------ factored convolutions


class _Pointwise(_Documented):
    text = """A 1×1 convolution: at each position of {axes} the same linear layer over the channels.

    .. math:: y[n, k, o] = b[k] + Σ_c x[n, c, o · stride] · w[k, c]

    Shapes: x (N, in_channels, {letters}) or (in_channels, {letters}); y with ``⌈I / stride⌉`` values an axis. State as a convolution's.

    Cost: out_channels·(in_channels + 1) parameters; in_channels·out_channels·|y| MACs.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no convolution can have.

    Source: Lin, Chen, Yan, *Network in network*, 2014.

    >>> from striate import nn
    >>> nn.PointwiseConv{dims}d(3, 8, stride=2)(torch.ones(1, 3, *[5] * {dims})).shape[1:3]
    torch.Size([8, 3])
    {facts}
    """
    facts: ClassVar[dict[int, str]] = {
        2: """>>> nn.PointwiseConv2d(64, 32)(torch.ones(1, 64, 56, 56)).shape
    torch.Size([1, 32, 56, 56])"""
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        stride: Sizes = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, 1, stride, bias=bias, device=device, dtype=dtype)  # type: ignore[call-arg]


class _Depthwise(_Documented):
    text = """A convolution of each channel by itself, over {axes}: as many groups as channels.

    .. math:: y[n, c·multiplier + m, o] = b[c·multiplier + m] + Σ_t x[n, c, o · stride + t · dilation - before] · w[c·multiplier + m, t]

    multiplier: the filters each channel has. The other arguments as a convolution's.

    Shapes: x (N, channels, {letters}) or (channels, {letters}); y (N, channels·multiplier, {letters}) or without N; weight
    (channels·multiplier, 1, \\*kernel_size).

    Cost: channels·multiplier·(taps + 1) parameters; channels·multiplier·taps·|y| MACs.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no convolution can have.

    Source: Sifre, *Rigid-motion scattering for image classification*, 2014; Chollet, *Xception*, 2017.

    >>> from striate import nn
    >>> layer = nn.DepthwiseConv{dims}d(4, 3, padding=1, multiplier=2)
    >>> layer(torch.ones(1, 4, *[5] * {dims})).shape[1:3], layer.weight.numel() == 8 * 3**{dims}
    (torch.Size([8, 5]), True)
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        multiplier: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        where = type(self).__name__
        channels, multiplier = whole(channels, "channels", where), whole(multiplier, "multiplier", where)
        rest: Any = {"groups": channels, "bias": bias, "padding_mode": padding_mode, "device": device, "dtype": dtype}
        super().__init__(channels, channels * multiplier, kernel_size, stride, padding, dilation, **rest)  # type: ignore[call-arg]


class PointwiseConv1d(_Pointwise, Conv1d, axes=1):
    pass


class PointwiseConv2d(_Pointwise, Conv2d, axes=2):
    pass


class PointwiseConv3d(_Pointwise, Conv3d, axes=3):
    pass


class DepthwiseConv1d(_Depthwise, Conv1d, axes=1):
    pass


class DepthwiseConv2d(_Depthwise, Conv2d, axes=2):
    pass


class DepthwiseConv3d(_Depthwise, Conv3d, axes=3):
    pass


_POINTWISE: dict[int, Any] = {1: PointwiseConv1d, 2: PointwiseConv2d, 3: PointwiseConv3d}
_DEPTHWISE: dict[int, Any] = {1: DepthwiseConv1d, 2: DepthwiseConv2d, 3: DepthwiseConv3d}


class _DepthwiseSeparable(_Documented, torch.nn.Module):
    dims: int
    text = """A convolution in two steps: over {axes} in each channel by itself (``depthwise``), then over the channels (``pointwise``).

    .. math:: y[n, k, o] = b[k] + Σ_j p[k, j] · z[n, j, o], \\quad z = \\text{depthwise}(x)

    multiplier: z's channels for each of x's. bias: of both steps. The other arguments, the depthwise step's, as a convolution's.

    Shapes: x (N, in_channels, {letters}) or (in_channels, {letters}); y (N, out_channels, {letters}) or without N.

    Cost, with multiplier 1 and without bias: in_channels·(taps + out_channels) parameters, and |y| times as many MACs: by
    ``taps·out_channels / (taps + out_channels)`` less than the convolution.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no convolution can have.

    Source: Chollet, *Xception*, 2017; Howard et al., *MobileNets*, 2017.

    >>> from striate import nn
    >>> layer = nn.DepthwiseSeparableConv{dims}d(3, 8, 3, stride=2, padding=1)
    >>> layer(torch.ones(1, 3, *[5] * {dims})).shape[1:3], [name for name, _ in layer.named_children()]
    (torch.Size([8, 3]), ['depthwise', 'pointwise'])
    {facts}
    """
    facts: ClassVar[dict[int, str]] = {
        2: """>>> layer = nn.DepthwiseSeparableConv2d(128, 256, 3, padding="same", bias=False)
    >>> parameters = [p.numel() for p in layer.parameters()]
    >>> parameters, [p * 32 * 32 for p in parameters]  # MACs on 32×32
    ([1152, 32768], [1179648, 33554432])
    >>> sum(parameters), round(128 * 256 * 9 / sum(parameters), 2)
    (33920, 8.69)"""
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        bias: bool = True,
        multiplier: int = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        in_channels, out_channels = whole(in_channels, "in_channels", where), whole(out_channels, "out_channels", where)
        multiplier = whole(multiplier, "multiplier", where)
        factory = {"device": device, "dtype": dtype}
        self.depthwise = _DEPTHWISE[self.dims](
            in_channels, kernel_size, stride, padding, dilation, multiplier, bias, padding_mode, **factory
        )
        self.pointwise = _POINTWISE[self.dims](in_channels * multiplier, out_channels, bias, **factory)

    def forward(self, input: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(input))


class DepthwiseSeparableConv1d(_DepthwiseSeparable, axes=1):
    pass


class DepthwiseSeparableConv2d(_DepthwiseSeparable, axes=2):
    pass


class DepthwiseSeparableConv3d(_DepthwiseSeparable, axes=3):
    pass


class SpatiallySeparableConv2d(torch.nn.Module):
    r"""A convolution in two steps, down the columns with K_h×1 taps (``vertical``), then along the rows with 1×K_w
    (``horizontal``).

    .. math::
        z[n, m, i, w] = Σ_c Σ_s x[n, c, i + s, w] · u[m, c, s], \quad
        y[n, k, i, j] = b[k] + Σ_m Σ_t z[n, m, i, j + t] · v[k, m, t]

    Together they are the convolution with ``w[k, c, s, t] = Σ_m u[m, c, s]·v[k, m, t]``: the (C·K_h)×(C_out·K_w) matrix
    of its weights has rank ``middle`` at most. middle: the channels of z; None for out_channels. Each other argument as
    a convolution's; of each pair the first is the vertical step's, the second the horizontal step's. bias: of the
    second.

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
        size, step, holes = (
            per_axis(value, 2, 1, what, where)
            for what, value in (("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation))
        )
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                hint = 'Use "same" for ceil(input / stride) outputs.'
                raise ArgumentError(build(where, 'padding "same", "valid" or a number', repr(padding), hint=hint))
            down: Any = padding
            along: Any = padding
        else:
            above, left = per_axis(padding, 2, 0, "padding", where)
            down, along = (above, 0), (0, left)
        if padding_mode not in MODES:
            raise ArgumentError(
                build(
                    where, "a padding_mode that exists", repr(padding_mode), hint=f"Choose one of {', '.join(MODES)}."
                )
            )
        rest: Any = {"padding_mode": padding_mode, "device": device, "dtype": dtype}
        self.vertical = Conv2d(in_channels, middle, (size[0], 1), (step[0], 1), down, (holes[0], 1), bias=False, **rest)
        self.horizontal = Conv2d(
            middle, out_channels, (1, size[1]), (1, step[1]), along, (1, holes[1]), bias=bias, **rest
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
        for many at most min(in_channels·K_h, out_channels·K_w). Computed in float64.

        Raises ArgumentError where a kernel's ``‖W - uvᵀ‖ / ‖W‖``, u and v the best there are, is above ``tolerance``:
        with more terms any kernel could be factored, but at no gain.

        >>> W = torch.tensor([[3.0, 6, 9], [4, 8, 12], [5, 10, 15]])  # [3 4 5]ᵀ[1 2 3]
        >>> layer, x = SpatiallySeparableConv2d.from_kernel(W), torch.arange(16.0).view(1, 4, 4)
        >>> layer(x).round().int().tolist(), conv(x, W.view(1, 1, 3, 3), dims=2).int().tolist()
        ([[[432, 504], [720, 792]]], [[[432, 504], [720, 792]]])
        """
        where = f"{cls.__name__}.from_kernel"
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
            told = f"{float(residual.flatten()[worst]):.3g}, above the tolerance {tolerance:g}"
            hint = "Keep the convolution, or train this layer in its place."
            raise ArgumentError(build(where, "kernels of rank 1", got, hint=hint, **{"residual ‖W - uvᵀ‖/‖W‖": told}))
        matrix = kernels.permute(1, 2, 0, 3).reshape(channels * shape[-2], filters * shape[-1])
        u, sigma, v = torch.linalg.svd(matrix, full_matrices=False)
        least = (
            float(sigma[0])
            * max(matrix.shape)
            * torch.finfo(weight.dtype if weight.is_floating_point() else torch.float32).eps
        )
        middle = max(1, int((sigma > least).sum()))
        root = sigma[:middle].sqrt()
        kind = weight.dtype if weight.is_floating_point() else torch.get_default_dtype()
        layer = cls(
            channels,
            filters,
            shape[-2:],
            stride,
            padding,
            dilation,
            middle,
            bias is not None,
            padding_mode,
            weight.device,
            kind,
        )
        with torch.no_grad():
            layer.vertical.weight.copy_((u[:, :middle] * root).T.reshape(middle, channels, shape[-2], 1))
            layer.horizontal.weight.copy_(
                (root[:, None] * v[:middle]).reshape(middle, filters, 1, shape[-1]).transpose(0, 1)
            )
            if bias is not None and layer.horizontal.bias is not None:
                layer.horizontal.bias.copy_(bias)
        return layer


class Bottleneck(torch.nn.Module):
    r"""A convolution through fewer channels: 1×1 to ``middle`` (``reduce``), K×K (``conv``), and with ``expand`` 1×1
    again (``expand``).

    .. math:: y = \text{conv}(\text{reduce}(x)), \quad \text{or} \quad y = \text{expand}(\text{conv}(\text{reduce}(x)))

    in_channels → middle → out_channels; with ``expand`` in_channels → middle → middle → out_channels. stride, padding
    and dilation are the K×K step's, bias is every step's. There is no norm or activation in it: with those, put
    :class:`ConvNormAct2d` in a row.

    Shapes: x (N, in_channels, H, W) or (in_channels, H, W); y as of the K×K convolution.

    Cost without expand: middle·(in_channels + 1) + out_channels·(K²·middle + 1) parameters; middle·(in_channels·|x| +
    K²·out_channels·|y|) MACs.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no convolution can have.

    Source: Lin, Chen, Yan, *Network in network*, 2014; He et al., *Deep residual learning*, 2016.

    >>> one, two = Conv2d(256, 256, 3), Bottleneck(256, 64, 256)
    >>> [sum(p.numel() for p in m.parameters()) for m in (one, two, two.reduce, two.conv)]
    [590080, 164160, 16448, 147712]
    >>> macs = 64 * 256 * 64**2 + 9 * 64 * 256 * 62**2  # on 64×64
    >>> macs, round(590080 / 164160, 1), round(9 * 256 * 256 * 62**2 / macs, 1)
    (633929728, 3.6, 3.6)
    """

    def __init__(
        self,
        in_channels: int,
        middle: int,
        out_channels: int,
        kernel_size: Sizes = 3,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        bias: bool = True,
        expand: bool = False,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        in_channels, middle = whole(in_channels, "in_channels", where), whole(middle, "middle", where)
        out_channels = whole(out_channels, "out_channels", where)
        factory: Any = {"device": device, "dtype": dtype}
        last = middle if expand else out_channels
        self.reduce = PointwiseConv2d(in_channels, middle, bias, **factory)
        rest: Any = (kernel_size, stride, padding, dilation, 1, bias, padding_mode)
        self.conv = Conv2d(middle, last, *rest, **factory)
        self.expand = PointwiseConv2d(middle, out_channels, bias, **factory) if expand else None

    def forward(self, input: Tensor) -> Tensor:
        y = self.conv(self.reduce(input))
        return y if self.expand is None else self.expand(y)


# ------------------------------------------------------------------------------------------------------------- channels


class ChannelShuffle(Namesake, torch.nn.ChannelShuffle):
    r"""Mixes the channels of groups: the G groups of C/G channels in turn become C/G groups of G.

    .. math:: y[n, j·G + g] = x[n, g·C/G + j]

    It is (N, G, C/G, \*) with its two middle axes exchanged. Arguments as in ``torch.nn``; the memory order stays.

    Shapes: x (N, C, \*); y alike. No parameters, no MACs.

    Raises ArgumentError or ArgumentTypeError for groups below 1, ShapeError where they do not divide C.

    Source: Zhang et al., *ShuffleNet*, 2018.

    >>> ChannelShuffle(2)(torch.arange(6.0).view(1, 6, 1)).flatten()
    tensor([0., 3., 1., 4., 2., 5.])
    """

    @functools.wraps(torch.nn.ChannelShuffle.__init__)  # type: ignore[misc]  # for its signature
    def __init__(self, groups: int) -> None:
        super().__init__(whole(groups, "groups", type(self).__name__))

    def _compute(self, input: Tensor) -> Tensor:
        where = type(self).__name__
        if not isinstance(input, Tensor):
            raise ArgumentTypeError(
                build(where, "a tensor", type(input).__name__, hint="Call torch.as_tensor on it first.")
            )
        if input.dim() < 3:
            raise ShapeError(
                build(where, "x of shape (N, C, *axes)", tuple(input.shape), hint="Add axes with unsqueeze.")
            )
        channels = input.shape[1]
        if channels % self.groups:
            expects = f"channels that {self.groups} groups divide"
            raise ShapeError(
                build(where, expects, channels, hint="Choose groups that divide them.", x=tuple(input.shape))
            )
        if channels == 0 or self.groups in (1, channels):  # they stay where they are, in a tensor of its own
            return input.clone(
                memory_format=FORMATS[input.dim()] if is_channels_last(input) else torch.contiguous_format
            )
        if not gates.is_open(input):
            return torch.nn.ChannelShuffle.forward(self, input)
        if is_channels_last(input):
            shuffled = input.movedim(1, -1).unflatten(-1, (self.groups, -1)).transpose(-1, -2)
            return owned(Tensor.movedim, shuffled.flatten(-2), -1, 1)
        # else a view of what was expanded
        return input.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2).contiguous()


class SqueezeExcite(torch.nn.Module):
    r"""Scales each channel by a gate that has seen the means of all.

    .. math:: y[n, c] = x[n, c] · s[n, c], \quad s = \text{gate}(W_2 · \text{act}(W_1 · \operatorname{mean}_{hw} x + b_1) + b_2)

    reduction: channels over the squeezed ones (rounded down, at least 1), or squeeze_channels their number; activation,
    gate: classes or functions that make a module. ``fc1`` and ``fc2`` are 1×1 convolutions, named as torchvision's.

    Shapes: x (N, channels, H, W) or (channels, H, W); y alike.

    Cost, S squeezed channels: S·(channels + 1) + channels·(S + 1) parameters; 2·S·channels MACs, and a multiplication
    each value.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError.

    Source: Hu, Shen, Sun, *Squeeze-and-excitation networks*, 2018.

    >>> layer = SqueezeExcite(64)
    >>> layer(torch.ones(2, 64, 8, 8)).shape, sum(p.numel() for p in layer.parameters())
    (torch.Size([2, 64, 8, 8]), 580)
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        squeeze_channels: int | None = None,
        activation: Any = torch.nn.ReLU,
        gate: Any = torch.nn.Sigmoid,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        channels, reduction = whole(channels, "channels", where), whole(reduction, "reduction", where)
        squeezed = (
            max(1, channels // reduction)
            if squeeze_channels is None
            else whole(squeeze_channels, "squeeze_channels", where)
        )
        factory: Any = {"device": device, "dtype": dtype}
        self.avgpool = GlobalAvgPool2d(keepdim=True)
        self.fc1 = PointwiseConv2d(channels, squeezed, **factory)
        self.activation = _module(activation, "activation", where)
        self.fc2 = PointwiseConv2d(squeezed, channels, **factory)
        self.scale_activation = _module(gate, "gate", where)

    def _check(self, input: Any) -> None:
        if isinstance(input, Tensor) and input.dim() in (3, 4) and input.shape[-3] != self.fc1.in_channels:
            hint = f"Set channels={input.shape[-3]}, or look at what comes before."
            expects = f"{self.fc1.in_channels} channels"
            raise ShapeError(build(type(self).__name__, expects, input.shape[-3], hint=hint, x=tuple(input.shape)))

    def forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            self._check(input)
        means = self.avgpool(input)
        return input * self.scale_activation(self.fc2(self.activation(self.fc1(means))))


def _module(given: Any, what: str, where: str) -> torch.nn.Module:
    """A module, or what a class or function makes."""
    made = given if isinstance(given, torch.nn.Module) else given() if callable(given) else given
    if not isinstance(made, torch.nn.Module):
        hint = "Give a class such as nn.ReLU, a function that makes a module, or a module."
        raise ArgumentTypeError(build(where, f"{what} to make a module", repr(given), hint=hint))
    return made


# ---------------------------------------------------------------------------------------- convolution, norm, activation

_NORMS: dict[str, Callable[[int, int], torch.nn.Module]] = {
    "batch": lambda channels, dims: (norms.BatchNorm1d, norms.BatchNorm2d, norms.BatchNorm3d)[dims - 1](channels),
    "instance": lambda channels, dims: (norms.InstanceNorm1d, norms.InstanceNorm2d, norms.InstanceNorm3d)[dims - 1](
        channels, affine=True
    ),
    "group": lambda channels, dims: norms.GroupNorm(gcd(32, channels), channels),
    "layer": lambda channels, dims: norms.GroupNorm(1, channels),
}
_ORDERS = ("conv-norm-act", "conv-act-norm", "norm-act-conv")


class _ConvNormAct(_Documented, Sequential):
    dims: int
    text = """A convolution over {axes}, a norm and an activation, in one of three orders.

    .. math:: y = \\text{act}(\\text{norm}(\\text{conv}(x)))

    norm: a class or function of the number of channels (``nn.BatchNorm2d``, ``partial(nn.GroupNorm, 8)``), or "batch", "instance" (with
    scale and shift), "group" (32 groups, or as many of their divisors as divide the channels), "layer" (each sample's channels and axes
    together, one group); None for none. activation: a class, a function that makes a module, or a module; None for none.
    order: "conv-norm-act", "conv-act-norm", or "norm-act-conv", pre-activation. The rest as a convolution's.

    bias: None for one where it does something. Right before a norm that subtracts each channel's own mean (batch, instance, as many
    groups as channels) it does not: the mean takes it away again. True and False are kept to, so that such states can be loaded.

    A ReLU, ReLU6 or leaky ReLU right behind one of our norms is computed by the norm's kernel, in one pass, as in any
    :class:`Sequential` of striate's; each child is what it is, to be looked at or replaced.

    Shapes: x (N, in_channels, {letters}); y (N, out_channels, {letters}). Children ``conv``, ``norm``, ``act``, in their order.

    Cost: the convolution's, and two parameters a channel of the norm.

    Raises ArgumentError or ArgumentTypeError for what makes no module, no order or no convolution.

    Source: Ioffe, Szegedy, *Batch normalization*, 2015; He et al., *Identity mappings in deep residual networks*, 2016 (pre-activation).

    >>> from striate import nn
    >>> block = nn.ConvNormAct{dims}d(3, 8, 3, padding=1)
    >>> block(torch.randn(2, 3, *[6] * {dims})).shape[1], list(block.state_dict())[:3], block.act
    (8, ['conv.weight', 'norm.weight', 'norm.bias'], ReLU())
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool | None = None,
        padding_mode: str = "zeros",
        norm: Any = "batch",
        activation: Any = torch.nn.ReLU,
        order: str = "conv-norm-act",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        in_channels, out_channels = whole(in_channels, "in_channels", where), whole(out_channels, "out_channels", where)
        if order not in _ORDERS:
            hint = "Name what comes first first."
            raise ArgumentError(build(where, f"an order of {', '.join(map(repr, _ORDERS))}", repr(order), hint=hint))
        normed = _norm(norm, in_channels if order == "norm-act-conv" else out_channels, self.dims, where)
        if normed is not None and (device is not None or dtype is not None):
            normed.to(device=device, dtype=dtype)
        act = None if activation is None else _module(activation, "activation", where)
        if bias is None:
            behind = normed if order == "conv-norm-act" or (order == "conv-act-norm" and act is None) else None
            bias = not _centers(behind)
        if not isinstance(bias, bool):
            raise ArgumentTypeError(
                build(where, "bias to be True, False or None", repr(bias), hint="None drops it where it is useless.")
            )
        rest: Any = {"groups": groups, "bias": bias, "padding_mode": padding_mode, "device": device, "dtype": dtype}
        convolution = _CONV[self.dims](in_channels, out_channels, kernel_size, stride, padding, dilation, **rest)
        children = {"conv": convolution, "norm": normed, "act": act}
        for name in order.split("-"):
            if children[name] is not None:
                self.add_module(name, children[name])

    def __getitem__(self, idx: Any) -> Any:
        """A child; a slice of them is a plain Sequential."""
        if isinstance(idx, slice):
            return Sequential(OrderedDict(list(self._modules.items())[idx]))
        return super().__getitem__(idx)


def _norm(given: Any, channels: int, dims: int, where: str) -> torch.nn.Module | None:
    if given is None:
        return None
    if isinstance(given, str):
        if given not in _NORMS:
            hint = "Or give a class or function of the number of channels."
            raise ArgumentError(build(where, f"a norm of {', '.join(map(repr, _NORMS))}", repr(given), hint=hint))
        return _NORMS[given](channels, dims)
    made = given(channels) if callable(given) and not isinstance(given, torch.nn.Module) else None
    if not isinstance(made, torch.nn.Module):
        hint = "Give a class such as nn.BatchNorm2d, or a function of the number of channels that makes a module."
        raise ArgumentTypeError(build(where, "norm to make a module", repr(given), hint=hint))
    return made


def _centers(norm: torch.nn.Module | None) -> bool:
    """Whether the norm subtracts each channel's own mean."""
    if isinstance(norm, norms.GROUP_NORMS):
        return norm.num_groups == norm.num_channels
    return isinstance(norm, (*norms.BATCH_NORMS, InstanceNormBase))


class ConvNormAct1d(_ConvNormAct, axes=1):
    pass


class ConvNormAct2d(_ConvNormAct, axes=2):
    pass


class ConvNormAct3d(_ConvNormAct, axes=3):
    pass


ConvNormAct = ConvNormAct2d


# ----------------------------------------------------------------------------------------------------------------- blur


class _BlurPool(_Documented, Namesake, torch.nn.Module):
    if TYPE_CHECKING:  # TorchScript reads annotations, and knows other names
        dims: int
        filter: Tensor
    text = """A stride over {axes} that does not alias: a binomial low-pass filter, then each stride-th value.

    .. math:: y[n, c, o] = Σ_t x[n, c, o · stride + t - ⌊(size - 1)/2⌋] · f[t], \\quad f[t] = \\prod_a \\binom{size - 1}{t_a} / 2^{size - 1}

    size: taps on each axis, from 2 to 7; padding, ⌊(size - 1)/2⌋ before and the rest behind, by padding_mode: "reflect", "zeros",
    "replicate" or "circular".

    Shapes: x (N, channels, {letters}) or (channels, {letters}); y with ``⌈I / stride⌉`` values an axis. No parameters: the filter is a
    buffer that is not in ``state_dict``. channels·size^{dims}·|y| MACs.

    Raises ArgumentError, ArgumentTypeError or ShapeError for sizes that cannot be, ShapeError for inputs smaller than a reflection.

    Source: Zhang, *Making convolutional networks shift-invariant again*, 2019.

    >>> from striate import nn
    >>> x = torch.tensor([0.0, 4, 0, 4, 0, 4]).view(1, 1, -1, *[1] * ({dims} - 1)).expand(1, 1, 6, *[6] * ({dims} - 1))
    >>> nn.BlurPool{dims}d(1)(x).flatten(2)[0, 0, :: 3 ** ({dims} - 1)]  # what MaxPool or a stride makes 0 or 4, as it happens
    tensor([2., 2., 2.])
    """

    def __init__(
        self,
        channels: int,
        size: int = 3,
        stride: Sizes = 2,
        padding_mode: str = "reflect",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        self.channels, self.size = whole(channels, "channels", where), whole(size, "size", where)
        size = self.size
        if not 2 <= size <= 7:
            raise ArgumentError(build(where, "a size from 2 to 7", size, hint="Choose 3, or 5 for a stronger blur."))
        self.stride = per_axis(stride, self.dims, 1, "stride", where)
        if padding_mode not in MODES:
            raise ArgumentError(
                build(
                    where, "a padding_mode that exists", repr(padding_mode), hint=f"Choose one of {', '.join(MODES)}."
                )
            )
        self.padding_mode = padding_mode
        row = torch.tensor([comb(size - 1, t) / 2 ** (size - 1) for t in range(size)], device=device, dtype=dtype)
        taps = functools.reduce(lambda f, _: f.unsqueeze(-1) * row, range(self.dims - 1), row)
        self.register_buffer("filter", taps.repeat(self.channels, 1, *[1] * self.dims), persistent=False)

    def _as_torch(self, input: Tensor) -> Tensor:
        dims, mode = self.filter.dim() - 2, "constant" if self.padding_mode == "zeros" else self.padding_mode
        padded = F.pad(input, [(self.size - 1) // 2, self.size // 2] * dims, mode=mode)
        if dims == 1:
            return F.conv1d(padded, self.filter, None, self.stride, 0, 1, self.channels)
        if dims == 2:
            return F.conv2d(padded, self.filter, None, self.stride, 0, 1, self.channels)
        return F.conv3d(padded, self.filter, None, self.stride, 0, 1, self.channels)

    def _compute(self, input: Tensor) -> Tensor:
        where, dims = type(self).__name__, self.dims
        if not isinstance(input, Tensor):
            raise ArgumentTypeError(
                build(where, "a tensor", type(input).__name__, hint="Call torch.as_tensor on it first.")
            )
        shape = tuple(input.shape)
        if input.dim() not in (dims + 1, dims + 2):
            letters = ", ".join("DHW"[3 - dims :]) if dims > 1 else "L"
            expects = f"x of shape (N, C, {letters}) or (C, {letters})"
            raise ShapeError(build(where, expects, shape, hint="Add or drop axes with unsqueeze or flatten."))
        if shape[-dims - 1] != self.channels:
            hint = f"Set channels={shape[-dims - 1]}, or look at what comes before."
            raise ShapeError(build(where, f"{self.channels} channels", shape[-dims - 1], hint=hint, x=shape))
        before, after = (self.size - 1) // 2, self.size // 2
        least = {"reflect": after + 1, "circular": after}.get(self.padding_mode, 1)
        if min(shape[-dims:]) < least:
            hint = "Choose a smaller size, or padding_mode='replicate'."
            raise ShapeError(
                build(where, f"at least {least} values on each axis", min(shape[-dims:]), hint=hint, x=shape)
            )
        padded = pad(input, [before] * dims, [after] * dims, self.padding_mode)
        return conv(padded, self.filter, None, self.stride, 0, 1, self.channels, dims=dims, where=where)

    def extra_repr(self) -> str:
        return f"{self.channels}, size={self.size}, stride={self.stride}, padding_mode={self.padding_mode!r}"


class BlurPool1d(_BlurPool, axes=1):
    pass


class BlurPool2d(_BlurPool, axes=2):
    pass


class BlurPool3d(_BlurPool, axes=3):
    pass
