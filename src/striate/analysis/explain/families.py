"""The layers that can be explained: their names, the options that each takes, and the checks of what is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from ...errors import ArgumentError, build, did_you_mean
from ...ops.arguments import is_int
from ...render.numbers import sizes

__all__ = ["BARE", "FAMILIES", "Family", "check_options", "check_room", "checked_shape", "family_of", "names"]

MOST = 2**31  # values of a tensor: loops over all outputs still end in seconds


@dataclass(frozen=True)
class Family:
    """The layers of one name. dims: the numbers of axes they exist for; needs: options that must be given; takes:
    options that may be given.
    """

    dims: tuple[int, ...]
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()


_WINDOW = ("stride", "padding", "dilation")
FAMILIES = {
    "conv": Family((1, 2, 3), ("out", "kernel"), (*_WINDOW, "groups", "bias")),
    "depthwise": Family((1, 2, 3), ("kernel",), ("out", *_WINDOW, "bias")),
    "separable": Family((1, 2, 3), ("out", "kernel"), (*_WINDOW, "bias")),
    "spatial": Family((2,), ("out", "kernel"), (*_WINDOW, "middle", "bias")),
    "bottleneck": Family((2,), ("out",), ("kernel", *_WINDOW, "middle", "bias")),
    "convtranspose": Family((1, 2, 3), ("out", "kernel"), (*_WINDOW, "output_padding", "groups", "bias")),
    "local": Family((1, 2, 3), ("out", "kernel"), (*_WINDOW, "bias")),
    "maxpool": Family((1, 2, 3), ("kernel",), (*_WINDOW, "ceil")),
    "avgpool": Family((1, 2, 3), ("kernel",), ("stride", "padding", "ceil", "count_include_pad")),
    "batchnorm": Family((), ()),
    "layernorm": Family((2,), ()),  # layernorm2d normalizes the channels at each position
    "instancenorm": Family((), ()),
    "groupnorm": Family((), ("groups",)),
}
BARE = ("batchnorm", "layernorm", "instancenorm", "groupnorm")  # whose names hold no number of axes: they take any


def names() -> list[str]:
    """The layers that can be explained.

    >>> names()[:5]
    ['conv1d', 'conv2d', 'conv3d', 'depthwise1d', 'depthwise2d']
    """
    found = []
    for family, about in FAMILIES.items():
        found += [family] * (family in BARE) + [f"{family}{dims}d" for dims in about.dims]
    return found


def family_of(layer: str) -> tuple[str, int]:
    """Splits a name into the family and the number of axes, 0 where the name has none."""
    if layer in names():
        bare = layer in BARE
        return (layer, 0) if bare else (layer[:-2], int(layer[-2]))
    fix = f"Choose one of these names.{did_you_mean(layer, names())}"
    kinds = [family + "/".join(f"{d}d" for d in about.dims) for family, about in FAMILIES.items() if family not in BARE]
    raise ArgumentError(
        build("explain", f"one of {', '.join(kinds)}, {', '.join(BARE)}, layernorm2d", repr(layer), hint=fix)
    )


def check_options(layer: str, about: Family, options: dict[str, Any]) -> None:
    for name in options:
        if name not in about.needs + about.takes:
            known = ", ".join(about.needs + about.takes)
            raise ArgumentError(build("explain", f"{layer} with {known or 'no option'}", name, hint="Leave it away."))
    for name in about.needs:
        if name not in options:
            hint = f"Add one, as {'3' if name == 'kernel' else '2' if name == 'groups' else '16'}."
            raise ArgumentError(build("explain", f"{layer} with its {name}", "none", hint=hint))
    for name in ("out", "middle", "groups"):
        value = options.get(name, 1)
        if not is_int(value) or not 1 <= value <= MOST:
            raise ArgumentError(
                build("explain", f"{name} from 1 to 2^31", repr(value), hint=f"Choose a whole number for {name}.")
            )


def checked_shape(layer: str, family: str, dims: int, given: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(given)
    norm = family in BARE
    if not norm and len(shape) == dims + 1:
        shape = (1, *shape)
    example = "16x64x56x56" if norm else "x".join(("16", "64", *("56",) * dims))
    if norm and (len(shape) < 2 or (dims and len(shape) != 4)):
        expects = f"an input of {'4' if dims else '2 or more'} numbers"
        raise ArgumentError(
            build("explain", expects, sizes(shape) or "none", hint=f"Write batch, channels and axes, as {example}.")
        )
    if not norm and len(shape) != dims + 2:
        expects = f"an input of {dims + 1} or {dims + 2} numbers"
        raise ArgumentError(
            build("explain", expects, sizes(shape) or "none", hint=f"Write batch, channels and axes, as {example}.")
        )
    if not all(is_int(n) and n >= 1 for n in shape):
        raise ArgumentError(
            build("explain", "an input of whole numbers from 1 on", sizes(given), hint=f"Write as {example}.")
        )
    check_room("x", shape)
    return shape


def check_room(what: str, shape: Sequence[int]) -> None:
    if prod(shape) > MOST:
        raise ArgumentError(
            build("explain", f"{what} of at most 2^31 values", sizes(shape), hint="Choose smaller numbers.")
        )
