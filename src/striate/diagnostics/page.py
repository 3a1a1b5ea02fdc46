"""Formats a profile as text and as an HTML page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, build
from ..measure import ABOUT_BEYOND
from ..render import html
from ..render.numbers import sizes
from ..render.text import columns

if TYPE_CHECKING:
    from .profile.result import LayerTime, StepTimes

__all__ = ["page", "table", "times"]

LEAST_WIDTH = 80
# A warning is shown from this spread, or this number of interruptions a second, on: both suggest other work on the
# machine.
RESTLESS = 0.1, 20.0
CLOSE = 0.97  # another method counts as faster if it takes less than this fraction of the time
MAPS = {"forward": "forward", "input": "input gradient", "weight": "weight gradient"}
ABOUT_LAYERS = "Milliseconds. share: of the whole step; limit: least time by the rates above over the time taken."
NO_REST = "≈ 0"  # in place of what would be negative
ABOUT_NO_REST = f"{NO_REST}: timing the layers costs more than what lies between them."
ABOUT_MAPS = "One call of each map; + 2: and of 2 layers alike. ratio: the next best's time over the method's."


def facts(profile: StepTimes) -> list[str]:
    """Describes, in one line each, the model, the machine and the whole step, with a warning if times are unreliable.
    """
    shapes = ", ".join(map(sizes, profile.input_shapes))
    timed = (
        "training step"
        if profile.backward and profile.training
        else "forward and backward"
        if profile.backward
        else "forward"
    )
    mode = (
        "" if profile.training == profile.backward else ", training mode" if profile.training else ", evaluation mode"
    )
    order = "channels" if profile.channels_last else "planes"
    machine = profile.machine
    threads = f"{profile.threads} thread" + ("s" if profile.threads != 1 else "")
    parts = (
        ""
        if profile.backward_ms is None
        else f" = forward {profile.forward_ms:.2f} + backward {profile.backward_ms:.2f}"
    )
    lines = [
        f"{profile.model}: {timed}{mode}, x {shapes} in {order} order, {profile.dtype}",
        f"{machine['processor']}, {threads}, {machine['isa']}: {rates(profile)}",
        f"step {profile.step_ms:.2f} ms{parts}; medians of {profile.rounds} rounds, spread {100 * profile.spread:.0f} "
        "%",
    ]
    if profile.spread >= RESTLESS[0] or profile.interruptions_per_s >= RESTLESS[1]:
        often = f"interrupted the steps {profile.interruptions_per_s:.0f} times a second"
        lines.append(f"Other work on this machine {often}: do not trust these times, measure again when it is idle.")
    return lines


def rates(profile: StepTimes) -> str:
    """The machine's rates, and where the product of matrices stands in for the micro-kernel, that it does."""
    inside = profile.cached_copy_gb_per_s
    cached = "" if inside is None else f" ({inside:.1f} in the last-level cache)"
    way = "multiplies" if profile.micro_kernel else "torch multiplies matrices"
    return f"copies {profile.copy_gb_per_s:.1f} GB/s{cached}, {way} at {profile.peak_gflops:.0f} GFLOP/s"


def number(ms: float | None) -> str:
    return "" if ms is None else NO_REST if ms < 0 else f"{ms:.3f}"


def percent(share: float | None) -> str:
    return "" if share is None else NO_REST if share < 0 else f"{100 * share:.0f} %"


def of_limit(layer: LayerTime) -> str:
    return layer.beyond_limit or percent(layer.share_of_limit)


def of_map_limit(layer: LayerTime, pass_: str) -> str:
    share, words = layer.map_share(pass_)
    return words or percent(share)


def about_layers(profile: StepTimes, shown: Sequence[LayerTime]) -> str:
    """What the columns of the layers mean, and the words in them."""
    words = {layer.beyond_limit for layer in shown} | {
        layer.map_share(pass_)[1] for layer in shown for pass_ in layer.map_ms
    }
    told = [f"{word}: {about}." for word, about in ABOUT_BEYOND.items() if word in words]
    if any(ms < 0 for _, *times in sums(profile, shown) for ms in times):
        told.append(ABOUT_NO_REST)
    return " ".join([ABOUT_LAYERS, *told])


def kind(layer: LayerTime) -> str:
    return layer.type + (f" ×{layer.calls}" if layer.calls > 1 else "")


def sums(profile: StepTimes, shown: Sequence[LayerTime]) -> list[tuple[str, float, float]]:
    """The rows below the layers, each with forward and backward [ms]: the layers that are not shown, the time outside
    of layers, and the whole step.
    """
    rows = []
    left = [layer for layer in profile.layers if not any(layer is one for one in shown)]
    if left:
        rows.append(
            (
                f"{len(left)} more",
                sum(layer.forward_ms for layer in left),
                sum(layer.backward_ms or 0.0 for layer in left),
            )
        )
    rows.append(("not in layers", profile.outside_forward_ms, profile.outside_backward_ms or 0.0))
    return [*rows, ("whole step", profile.forward_ms, profile.backward_ms or 0.0)]


def alike(layers: Sequence[LayerTime]) -> list[tuple[str, LayerTime]]:
    """The convolutions whose methods were timed. Those that share a measurement are listed once, under a common name.
    """
    groups: list[list[LayerTime]] = []
    for layer in layers:
        same = next(
            (group for group in groups if (layer.method, layer.map_ms) == (group[0].method, group[0].map_ms)), None
        )
        if same is not None:
            same.append(layer)
        elif layer.map_ms:
            groups.append([layer])
    return [(group[0].path + (f" + {len(group) - 1}" if len(group) > 1 else ""), group[0]) for group in groups]


# ----------------------------------------------------------------------------------------------------------------- text


def table(profile: StepTimes, width: int, top: int | None) -> str:
    if width < LEAST_WIDTH:
        raise ArgumentError(
            build("Profile.table", f"a width of at least {LEAST_WIDTH}", width, hint="Leave it out for 100.")
        )
    shown = profile.slowest(top)
    rows = [["layer", "type", "output", "forward", "backward", "share", "limit", "method"]]
    for layer in shown:
        times = [
            number(layer.forward_ms),
            number(layer.backward_ms),
            percent(profile.share(layer.ms)),
            of_limit(layer),
        ]
        rows.append([layer.path, kind(layer), sizes(layer.output_shape), *times, layer.methods])
    for name, forward_ms, backward_ms in sums(profile, shown):
        rows.append(
            [
                name,
                "",
                "",
                number(forward_ms),
                number(backward_ms),
                percent(profile.share(forward_ms + backward_ms)),
                "",
                "",
            ]
        )
    hidden = () if profile.backward else (4,)
    lines = [
        *facts(profile),
        "",
        *columns(rows, "<<<>>>><", width, {0: 14, 1: 8, 2: 8, 7: 8}, hidden),
        "",
        about_layers(profile, shown),
    ]
    rows = [["layer", "map", "method", "ms", "limit", "next best", "ms", "ratio"]]
    for name, layer in alike(shown):
        for pass_, ms in layer.map_ms.items():
            other, other_ms = layer.next_best.get(pass_, ("none", None))
            ratio = "" if other_ms is None else f"{other_ms / ms:.2f}"
            path = name if pass_ == next(iter(layer.map_ms)) else ""
            times = [number(ms), of_map_limit(layer, pass_), other, number(other_ms), ratio]
            rows.append([path, MAPS[pass_], layer.method[pass_], *times])
    if len(rows) > 1:
        lines += ["", *columns(rows, "<<<>><>>", width, {0: 8, 2: 8, 5: 8}), "", ABOUT_MAPS]
    return "\n".join(part for line in lines for part in (textwrap.wrap(line, width) if len(line) > width else [line]))


# ----------------------------------------------------------------------------------------------------------------- page


def page(profile: StepTimes) -> str:
    """Renders ``render/templates/profile.html`` with the numbers of a profile."""
    title, machine, _, *notes = facts(profile)
    what = title.removeprefix(f"{profile.model}: ")
    versions = profile.machine
    sums = [("step", profile.step_ms), ("forward", profile.forward_ms)]
    if profile.backward_ms is not None:
        sums.append(("backward", profile.backward_ms))
    sums.append(("not in layers", profile.outside_ms))
    return html.page(
        "profile.html",
        title=f"{profile.model}: profile",
        model=profile.model,
        about=what[:1].upper() + what[1:],
        rounds=profile.rounds,
        spread=percent(profile.spread),
        machine=machine,
        versions=f"torch {versions['torch']}, striate {versions['striate']}, Python {versions['python']}",
        notes=notes,
        facts=[(word, NO_REST if ms < 0 else f"{ms:.2f}", "ms") for word, ms in sums],
        times=times(profile),
        about_convolutions=ABOUT_MAPS,
        convolutions=_convolutions(profile),
    )


def times(profile: StepTimes) -> dict[str, Any]:
    """What ``render/templates/times.html`` shows, on this page and others: the time of each layer."""
    title, machine, *_ = facts(profile)
    return {
        "step": title.removeprefix(f"{profile.model}: "),
        "machine": machine,
        "about": about_layers(profile, profile.layers),
        "backward": profile.backward,
        "most": max(*(layer.ms for layer in profile.layers), profile.outside_ms, 1e-9),
        "layers": _layers(profile),
        "sums": _sums(profile),
    }


def _layers(profile: StepTimes) -> list[dict[str, Any]]:
    return [
        {
            "name": layer.path,
            "about": f"{kind(layer)} {sizes(layer.output_shape)}",
            "parts": [("f", layer.forward_ms), ("b", layer.backward_ms or 0.0)],
            "limit_ms": None if layer.beyond_limit else layer.limit_ms,
            "ms": number(layer.ms),
            "share": percent(profile.share(layer.ms)),
            "limit": of_limit(layer),
            "methods": layer.methods,
        }
        for layer in profile.layers
    ]


def _sums(profile: StepTimes) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "is_whole": name == "whole step",
            "parts": [("f", forward_ms), ("b", backward_ms)],
            "ms": number(forward_ms + backward_ms),
            "share": percent(profile.share(forward_ms + backward_ms)),
        }
        for name, forward_ms, backward_ms in sums(profile, profile.layers)
    ]


def _convolutions(profile: StepTimes) -> list[dict[str, Any]]:
    """Makes a row for each pass of each convolution; only the first row of a layer names it."""
    rows: list[dict[str, Any]] = []
    for name, layer in alike(profile.layers):
        for row, (pass_, ms) in enumerate(layer.map_ms.items(), 1):
            other, other_ms = layer.next_best.get(pass_, ("none", None))
            limit_ms = None if layer.map_share(pass_)[1] else layer.map_limit_ms[pass_]
            rows.append(
                {
                    "name": name if row == 1 else "",
                    "about": f"{layer.type} {sizes(layer.output_shape)}",
                    "more": row < len(layer.map_ms),
                    "pass_": MAPS[pass_],
                    "method": layer.method[pass_],
                    "ms": number(ms),
                    "limit": of_map_limit(layer, pass_),
                    "length": ms,
                    "limit_ms": limit_ms,
                    "other_length": other_ms or 0.0,
                    "most": max(ms, other_ms or 0.0, limit_ms or 0.0),
                    "other": other,
                    "other_ms": number(other_ms),
                    "is_slower": other_ms is not None and other_ms < CLOSE * ms,
                    "ratio": "" if other_ms is None else f"{other_ms / ms:.2f}",
                }
            )
    return rows
