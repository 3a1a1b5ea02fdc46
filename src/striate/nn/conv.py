"""Convolution layers: drop-ins for torch.nn's, with ``"same"`` padding at any stride and padding modes for the
transposed ones too.

Each kind has one class body; its 1d, 2d and 3d classes differ only in the number of axes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, ArgumentTypeError, ShapeError, build
from ..ops import conv as ops
from ..ops.arguments import LARGEST, as_int, is_int, per_axis
from ..ops.padding import MODES, padded_conv, padded_conv_transpose
from . import scripted
from .documentation import for_axes
from .namesake import as_torch, recorded

__all__ = [*(f"{lazy}Conv{kind}{d}d" for lazy in ("", "Lazy") for kind in ("", "Transpose") for d in (1, 2, 3))]

# The last example of the documentation, for each number of axes.
_EXAMPLES = (
    """>>> layer = nn.Conv1d(3, 1, 3, stride=2, bias=False)
    >>> layer.weight.data = torch.tensor([[[1.0, 0, -1], [-1, 1, 0], [0, -1, 1]]])
    >>> layer(torch.tensor([[2.0, 3, 1, 0, 4], [1, 2, 0, 1, 3], [0, 1, 2, 3, 1]])).tolist()
    [[3.0, -4.0]]""",
    """>>> nn.Conv2d(3, 6, 5)(torch.ones(1, 3, 32, 32)).shape
    torch.Size([1, 6, 28, 28])
    >>> sobel = nn.Conv2d(1, 1, 3, bias=False)
    >>> sobel.weight.data = torch.tensor([[[[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]]])
    >>> sobel(torch.arange(16.0).view(1, 4, 4)).tolist()
    [[[-8.0, -8.0], [-8.0, -8.0]]]""",
    """>>> nn.Conv3d(1, 2, 3, padding=1, padding_mode="replicate")(torch.ones(1, 1, 4, 4, 4)).shape
    torch.Size([1, 2, 4, 4, 4])""",
)


class _AnyConv:
    """The base of all convolutions: gives each class its documentation and constructor, by its number of axes."""

    dims: int
    documentation: str
    # Whether the output is channels_last whatever the input is; accelerate sets it on an instance.
    _channels_last = False

    def _kernel_options(self) -> dict[str, Any]:
        return {"dims": self.dims, "where": type(self).__name__, "channels_last": self._channels_last}

    def __init_subclass__(cls, dims: int = 0) -> None:
        super().__init_subclass__()
        if dims:
            cls.dims = dims
            examples = {
                "parameters": str(10 * (3 * 5**dims + 1)),
                "macs": str(10 * 3 * 5**dims * 32**dims),
                "example": _EXAMPLES[dims - 1],
            }
            cls.__doc__ = for_axes(cls.documentation, dims, **examples)
            torch_class: Any = cls.__bases__[-1]
            cls.__init__ = _constructor(cls, torch_class.__init__)  # type: ignore[method-assign]
            cls._as_torch = as_torch(
                torch_class.forward if issubclass(cls, _ConvTranspose) else torch_class._conv_forward
            )


def _constructor(cls: Any, torch_constructor: Any) -> Callable[..., None]:
    """Returns a constructor with torch's signature that checks the arguments and accepts padding that torch refuses."""
    signature = inspect.signature(torch_constructor)

    @functools.wraps(torch_constructor)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            torch_constructor(self, *args, **kwargs)  # its error names the argument that is missing or unexpected
            raise
        bound.apply_defaults()
        given = _checked(bound.arguments, cls.dims, type(self).__name__)
        kept = {name: given[name] for name in ("stride", "padding", "padding_mode")}
        if given["padding"] == "same":
            given["stride"] = (1,) * cls.dims
        if "output_padding" in given:  # torch's transposed convolutions pad with zeros only, and not by name
            given["padding_mode"] = "zeros"
            given["padding"] = (0,) * cls.dims if isinstance(given["padding"], str) else given["padding"]
        del given["self"]
        super(cls, self).__init__(**given)
        self.__dict__ |= kept

    return construct


def _checked(arguments: dict[str, Any], dims: int, where: str) -> dict[str, Any]:
    """Returns the constructor's arguments as plain integers, one for each axis; raises for values no layer can have."""
    a = dict(arguments)
    for name, least in (("in_channels", 0), ("out_channels", 1), ("groups", 1)):
        if name not in a:  # a lazy layer's in_channels
            continue
        value = a[name] = as_int(a[name])
        if not is_int(value):
            raise ArgumentTypeError(build(where, f"{name} to be an integer", repr(value), hint="Give one integer."))
        if value < least:
            raise ArgumentError(build(where, f"{name} of at least {least}", value, hint="Choose a larger one."))
    for name in ("in_channels", "out_channels"):
        if a.get(name, 0) % a["groups"]:
            raise ArgumentError(
                build(where, f"groups that divide {name}, {a[name]}", a["groups"], hint="Choose a divisor.")
            )
    for name, least in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("output_padding", 0), ("dilation", 1)):
        if name not in a:
            continue
        if name == "padding" and isinstance(a[name], str):
            if a[name] not in ("same", "valid"):
                fix = f'Use "same" for {"input · stride" if "output_padding" in a else "ceil(input / stride)"} outputs.'
                raise ArgumentError(build(where, 'padding "same", "valid" or a number', repr(a[name]), hint=fix))
            continue
        most = 2**63 - 1 if name in ("stride", "dilation") else LARGEST  # a call checks the upper limit
        a[name] = per_axis(a[name], dims, least, name, where, most=most)
    if a["padding"] == "same" and any(a.get("output_padding", ())):
        fix = "Leave output_padding out."
        raise ArgumentError(build(where, 'no output_padding beside padding "same"', a["output_padding"], hint=fix))
    if a["padding_mode"] not in MODES:
        fix = f"Choose one of {', '.join(MODES)}."
        raise ArgumentError(build(where, "a padding_mode that exists", repr(a["padding_mode"]), hint=fix))
    if prod((a.get("in_channels", 1), a["out_channels"], *a["kernel_size"])) > 2**40:
        raise ArgumentError(
            build(where, "a weight that fits memory", a["kernel_size"], hint="Choose a smaller kernel_size.")
        )
    return a


class _Conv(_AnyConv):
    documentation = """Convolution over {axes}: every output is a weighted sum of what its window sees.

    .. math:: y[n, k, o] = b[k] + Σ_c Σ_t x[n, c, o · stride + t · dilation - before] · w[k, c, t]

    c runs over the in_channels / groups channels of k's group, t over the taps. It is a cross-correlation: the kernel
    is not flipped. The size of each axis is ``⌊(I + before + after - dilation·(kernel_size - 1) - 1) / stride⌋ + 1``.

    Arguments as in ``torch.nn``, and ``padding="same"`` at any stride: as much padding as gives ``⌈I / stride⌉``
    outputs, with the extra value of an odd total at the end. ``padding_mode`` chooses the values of the padding, of
    ``"same"`` too: "zeros", "reflect", "replicate" or "circular".

    Shapes: x (N, in_channels, {letters}) or (in_channels, {letters}); y (N, out_channels, {letters}) or without N;
    weight (out_channels, in_channels / groups, *kernel_size), bias (out_channels,).

    Cost: ``out_channels · (in_channels / groups · taps + 1)`` parameters; ``in_channels / groups · taps`` MACs
    (multiply-adds) per output, those on padding included.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no convolution can have.

    Source: LeCun et al. 1989; Dumoulin, Visin 2016, "A guide to convolution arithmetic for deep learning".

    >>> from striate import nn
    >>> layer = nn.Conv{dims}d(3, 10, 5, padding=2)
    >>> y = layer(torch.ones(1, 3, *[32] * {dims}))
    >>> sum(p.numel() for p in layer.parameters()), y.numel() * layer.weight[0].numel()  # parameters and MACs
    ({parameters}, {macs})
    >>> nn.Conv{dims}d(1, 1, 3, stride=2, padding="same")(torch.ones(1, *[7] * {dims})).shape[1:].numel() == 4**{dims}
    True
    {example}
    """

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._conv_forward(input, self.weight, self.bias)
        else:
            return (
                self._conv_forward(input, self.weight, self.bias)
                if isinstance(input, Tensor)
                else recorded(self, self._compute_input, input)
            )

    def _compute_input(self: Any, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.jit.is_scripting():
            if isinstance(self.padding, str):  # a separate if, which TorchScript resolves at compile time
                same = self.padding == "same" and max(self.stride) > 1
                if same:
                    margins = scripted.same(input, self.kernel_size, self.stride, self.dilation)
                    return scripted.conv(
                        input, weight, bias, margins, self.stride, self.dilation, self.groups, self.padding_mode
                    )
            return self._as_torch(input, weight, bias)
        else:
            return self._compute(input, weight, bias)

    def _compute(
        self: Any, input: Tensor, weight: Tensor, bias: Tensor | None, *, measure: bool = False, fresh: bool = False
    ) -> Tensor:
        """Computes the convolution; ``measure`` and ``fresh``, which a container sets, are the ``emit_batch_stats`` and
        ``rematerialize`` of :func:`striate.ops.conv.conv`.
        """
        rest = (self.stride, self.padding, self.dilation, self.groups)
        if self.padding_mode != "zeros":
            return padded_conv(input, weight, bias, *rest, self.padding_mode, **self._kernel_options())
        options = self._kernel_options()
        return ops.conv(input, weight, bias, *rest, **options, emit_batch_stats=measure, rematerialize=fresh)


class _ConvTranspose(_AnyConv):
    documentation = """The adjoint of a convolution over {axes}, as a layer: each input adds to a window of outputs.

    .. math:: y[n, k, i] = b[k] + Σ_{(o, t): o·stride + t·dilation - before = i} Σ_c x[n, c, o] · w[c, k, t]

    c runs over the in_channels / groups channels of k's group. The size of each axis is ``(I - 1)·stride - 2·padding +
    dilation·(kernel_size - 1) + 1 + output_padding``: a convolution of y with the same arguments has x's size.

    Arguments as in ``torch.nn``, and ``padding="same"``: the output has ``I · stride`` values; ``"valid"``: no padding.
    ``padding_mode`` other than "zeros" gives the adjoint of a convolution with that mode: values that fall into the
    padding are not dropped but added to the outputs that the padding repeats, with "circular" those at the other end.
    ``forward(x, output_size)`` chooses one of the sizes that such a convolution maps to x's size.

    Shapes: x (N, in_channels, {letters}) or (in_channels, {letters}); y (N, out_channels, {letters}) or without N;
    weight (in_channels, out_channels / groups, *kernel_size), bias (out_channels,).

    Cost: ``in_channels · out_channels / groups · taps + out_channels`` parameters; ``out_channels / groups · taps``
    MACs (multiply-adds) per input.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments no transposed convolution can have.

    Source: Zeiler et al. 2010, "Deconvolutional networks"; Dumoulin, Visin 2016, "A guide to convolution arithmetic for
    deep learning".

    >>> from striate import nn
    >>> layer = nn.ConvTranspose{dims}d(2, 1, 3, stride=2, padding="same")
    >>> layer(torch.ones(1, 2, *[4] * {dims})).shape[2:].numel() == 8**{dims}
    True
    >>> circular = dict(kernel_size=3, padding=1, padding_mode="circular", bias=False)
    >>> conv, back = nn.Conv{dims}d(1, 1, **circular), nn.ConvTranspose{dims}d(1, 1, **circular)
    >>> back.load_state_dict(conv.state_dict())
    <All keys matched successfully>
    >>> x, y = torch.randn(2, 1, *[5] * {dims})
    >>> torch.allclose((conv(x) * y).sum(), (x * back(y)).sum(), atol=1e-4)  # by definition of the adjoint
    True
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if torch.jit.is_scripting():
            rest = (self.dilation, self.groups, self.padding_mode, output_size)
            if isinstance(self.padding, str):
                padding = None if self.padding == "same" else [0] * len(self.stride)
                return scripted.conv_transpose(
                    input, self.weight, self.bias, self.stride, padding, self.output_padding, *rest
                )
            elif self.padding_mode != "zeros":
                return scripted.conv_transpose(
                    input, self.weight, self.bias, self.stride, self.padding, self.output_padding, *rest
                )
            else:
                return self._as_torch(input, output_size)
        else:
            sized = (input,) if output_size is None else (input, output_size)
            return (
                self._compute(input, output_size)
                if isinstance(input, Tensor)
                else recorded(self, self._compute, *sized)
            )

    def _compute(
        self: Any,
        input: Tensor,
        output_size: Sequence[int] | None = None,
        *,
        measure: bool = False,
        fresh: bool = False,
    ) -> Tensor:
        rest = (
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )
        if self.padding_mode != "zeros" or output_size is not None:
            return padded_conv_transpose(*rest, self.padding_mode, output_size, **self._kernel_options())
        return ops.conv_transpose(*rest, **self._kernel_options(), rematerialize=fresh)


class _Lazy:
    """A layer that takes in_channels from its first input and then changes its class to ``cls_to_become``."""

    def initialize_parameters(self: Any, input: Tensor, *args: Any, **kwargs: Any) -> None:
        if self.has_uninitialized_params():
            channels = self._get_in_channels(input)
            if channels % self.groups:
                expects, fix = f"groups that divide x's channels, {channels}", "Choose a divisor."
                raise ArgumentError(build(type(self).__name__, expects, self.groups, hint=fix, x=tuple(input.shape)))
        super().initialize_parameters(input, *args, **kwargs)  # type: ignore[misc]

    def _get_in_channels(self: Any, input: Any) -> int:
        where, dims = type(self).__name__, self.dims
        if not isinstance(input, Tensor):
            raise ArgumentTypeError(
                build(where, "x to be a tensor", type(input).__name__, hint="Call torch.as_tensor on it first.")
            )
        if input.dim() not in (dims + 1, dims + 2):
            letters = ("L", "H, W", "D, H, W")[dims - 1]
            expects, fix = (
                f"x of shape (N, C, {letters}) or (C, {letters})",
                "Add or drop axes with unsqueeze or flatten.",
            )
            raise ShapeError(build(where, expects, tuple(input.shape), hint=fix))
        channels: int = input.shape[-dims - 1]
        if channels == 0:  # torch would leave the bias uninitialized
            raise ShapeError(
                build(where, "x of at least one channel", tuple(input.shape), hint="Give the first input channels.")
            )
        return channels


class _LazyConv(_Lazy, _Conv):
    documentation = """:class:`Conv{dims}d` that takes ``in_channels`` from its first input, and is one from then on.

    Arguments as in ``torch.nn``, with the extensions of :class:`Conv{dims}d`.

    Raises as :class:`Conv{dims}d` does, and ArgumentError where ``groups`` does not divide the channels.

    >>> from striate import nn
    >>> layer = nn.LazyConv{dims}d(8, 3, stride=2, padding="same")
    >>> y = layer(torch.ones(1, 4, *[6] * {dims}))
    >>> type(layer).__name__, layer.in_channels, y.shape[2]
    ('Conv{dims}d', 4, 3)
    """


class _LazyConvTranspose(_Lazy, _ConvTranspose):
    documentation = """:class:`ConvTranspose{dims}d` that takes ``in_channels`` from its first input, and is one from
    then on.

    Arguments as in ``torch.nn``, with the extensions of :class:`ConvTranspose{dims}d`.

    Raises as :class:`ConvTranspose{dims}d` does, and ArgumentError where ``groups`` does not divide the channels.

    >>> from striate import nn
    >>> layer = nn.LazyConvTranspose{dims}d(8, 3, stride=2, padding="same")
    >>> y = layer(torch.ones(1, 4, *[6] * {dims}))
    >>> type(layer).__name__, layer.in_channels, y.shape[2]
    ('ConvTranspose{dims}d', 4, 12)
    """


class Conv1d(_Conv, torch.nn.Conv1d, dims=1):
    pass


class Conv2d(_Conv, torch.nn.Conv2d, dims=2):
    pass


class Conv3d(_Conv, torch.nn.Conv3d, dims=3):
    pass


class ConvTranspose1d(_ConvTranspose, torch.nn.ConvTranspose1d, dims=1):
    pass


class ConvTranspose2d(_ConvTranspose, torch.nn.ConvTranspose2d, dims=2):
    pass


class ConvTranspose3d(_ConvTranspose, torch.nn.ConvTranspose3d, dims=3):
    pass


class LazyConv1d(_LazyConv, torch.nn.LazyConv1d, dims=1):  # type: ignore[misc]
    cls_to_become = Conv1d


class LazyConv2d(_LazyConv, torch.nn.LazyConv2d, dims=2):  # type: ignore[misc]
    cls_to_become = Conv2d


class LazyConv3d(_LazyConv, torch.nn.LazyConv3d, dims=3):  # type: ignore[misc]
    cls_to_become = Conv3d


class LazyConvTranspose1d(_LazyConvTranspose, torch.nn.LazyConvTranspose1d, dims=1):  # type: ignore[misc]
    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(_LazyConvTranspose, torch.nn.LazyConvTranspose2d, dims=2):  # type: ignore[misc]
    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(_LazyConvTranspose, torch.nn.LazyConvTranspose3d, dims=3):  # type: ignore[misc]
    cls_to_become = ConvTranspose3d
