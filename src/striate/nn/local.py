"""Locally connected layers: convolutions that do not share their weights between positions."""

from __future__ import annotations

from math import prod, sqrt
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ArgumentError, ShapeError, build
from ..ops import local as ops
from ..ops.arguments import per_axis, whole
from .documentation import for_axes
from .namesake import Namesake

__all__ = ["LocallyConnected1d", "LocallyConnected2d", "LocallyConnected3d"]

Sizes = int | tuple[int, ...]


class _LocallyConnected(Namesake, torch.nn.Module):
    """The body of the layers of one, two and three axes."""

    if TYPE_CHECKING:  # TorchScript reads annotations, and would not resolve these
        dims: int
        bias: torch.nn.Parameter | None
    recorded_as = "locally_connected"  # recordings contain one operation of this name instead of the layer's operations
    documentation = """A convolution over {axes} with separate weights for each output position.

    .. math:: y[n, k, o] = b[k, o] + Σ_c Σ_t x[n, c, o · stride + t · dilation - before] · w[k, c, o, t]

    input_size: the size of x's last axes, one number for all or one for each; it determines the size of the output and
    of the weight. padding: numbers, ``"valid"`` or ``"same"`` (for ``⌈I / stride⌉`` outputs, with the extra value of an
    odd total at the end).

    Shapes: x (N, in_channels, {letters}) or (in_channels, {letters}); y likewise, channels_last where x is; weight
    (out_channels, in_channels, \\*output, \\*kernel_size); bias (out_channels, \\*output). Both are initialized from
    U(±1 / √(in_channels · taps)), as in a convolution.

    Cost: out_channels·|output|·(in_channels·taps + 1) parameters; out_channels·|output|·in_channels·taps MACs per
    sample.

    Raises ArgumentError, ArgumentTypeError or ShapeError for impossible windows and for inputs of another size.

    Source: Gregor, LeCun, *Emergence of complex-like cells in a temporal product network with local receptive fields*,
    2010.

    {example}
    """

    def __init_subclass__(cls, dims: int = 0) -> None:
        super().__init_subclass__()
        if dims:
            cls.dims = dims
            name, size, spread = f"LocallyConnected{dims}d", (8,) * dims, (6,) * dims
            example = f""">>> layer = {name}(3, 4, input_size=8, kernel_size=3)
    >>> layer(torch.ones(2, 3, {", ".join(map(str, size))})).shape, sum(p.numel() for p in layer.parameters())
    (torch.Size([2, 4, {", ".join(map(str, spread))}]), {4 * prod(spread) * (3 * 3**dims + 1)})"""
            cls.__doc__ = for_axes(cls.documentation, dims, example=example)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        input_size: Sizes,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        self.in_channels, self.out_channels = (
            whole(value, what, where) for what, value in (("in_channels", in_channels), ("out_channels", out_channels))
        )
        self.input_size = per_axis(input_size, self.dims, 1, "input_size", where)
        geometry = ops.resolve(
            self.input_size, kernel_size, stride, padding, dilation, where, (self.in_channels, *self.input_size)
        )
        self.kernel_size, self.output_size = geometry.window.size, geometry.window.output
        self.stride, self.padding, self.dilation = geometry.stride, geometry.padding, geometry.dilation
        # in the order of torch.nn.functional.pad
        self.margins = [n for axis in reversed(geometry.window.axes) for n in (axis.before, axis.after)]
        shape = (self.out_channels, self.in_channels, *self.output_size, *self.kernel_size)
        if prod(shape) > 2**40:
            hint = "Choose a larger stride, fewer channels, or a convolution, which shares them."
            raise ArgumentError(build(where, "a weight that fits memory", shape, hint=hint))
        factory = {"device": device, "dtype": dtype}
        self.weight = torch.nn.Parameter(torch.empty(shape, **factory))
        shift = torch.empty(self.out_channels, *self.output_size, **factory) if bias else None
        self.register_parameter("bias", None if shift is None else torch.nn.Parameter(shift))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes weight and bias with new random values."""
        bound = 1 / sqrt(self.in_channels * prod(self.kernel_size))
        for p in self.parameters(recurse=False):
            torch.nn.init.uniform_(p, -bound, bound)

    def _as_torch(self, input: Tensor) -> Tensor:
        dims = self.weight.dim() // 2 - 1
        taps = input if input.dim() > dims + 1 else input.unsqueeze(0)
        taps, axis = F.pad(taps, self.margins), 2
        # TorchScript's zip has no strict
        for size, stride, dilation in zip(self.kernel_size, self.stride, self.dilation):  # noqa: B905
            taps = taps.unfold(axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
            axis += 1
        # (N or out_channels, C, positions, taps)
        taps, weight = taps.flatten(2, dims + 1).flatten(3), self.weight.flatten(2, dims + 1).flatten(3)
        y = torch.bmm(taps.permute(2, 0, 1, 3).flatten(2), weight.permute(2, 1, 3, 0).flatten(1, 2)).permute(1, 2, 0)
        y = y.reshape(list(y.shape[:2]) + list(self.weight.shape[2 : 2 + dims]))
        if self.bias is not None:
            y = y + self.bias
        return y if input.dim() > dims + 1 else y.squeeze(0)

    def _compute(self, input: Tensor) -> Tensor:
        if (
            isinstance(input, Tensor)
            and input.dim() > self.dims
            and tuple(input.shape[-self.dims :]) != self.input_size
        ):
            size = tuple(input.shape[-self.dims :])
            hint = f"Set input_size={size}, or resize x."
            raise ShapeError(
                build(type(self).__name__, f"an input of size {self.input_size}", size, hint=hint, x=tuple(input.shape))
            )
        return ops.local(
            input, self.weight, self.bias, self.stride, self.padding, self.dilation, where=type(self).__name__
        )

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, input_size={self.input_size}, kernel_size={self.kernel_size}"
        text += f", stride={self.stride}"
        if self.padding not in ("valid", (0,) * self.dims):
            text += f", padding={self.padding!r}"
        if self.dilation != (1,) * self.dims:
            text += f", dilation={self.dilation}"
        return text + ("" if self.bias is not None else ", bias=False")


class LocallyConnected1d(_LocallyConnected, dims=1):
    pass


class LocallyConnected2d(_LocallyConnected, dims=2):
    pass


class LocallyConnected3d(_LocallyConnected, dims=3):
    pass
