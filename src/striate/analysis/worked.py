"""A small layer worked through by hand: forward, then backward, cell by cell. The numbers are the references', in
float64.

Every convolution is Σ dy·w·x over triples of places: who meets whom. Its three maps sum the same triples, each for
another factor: y that of x and w, dx that of dy and w, dw that of dy and x. So :func:`triples` spells out all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..reference import conv, local, norm, pool
from ..window import Window, output_size

if TYPE_CHECKING:
    from .explain import Step

__all__ = [
    "EXAMPLES",
    "PLACES",
    "Example",
    "Row",
    "convolution",
    "letters",
    "normalization",
    "pooling",
    "shrink",
    "triples",
]

Row = tuple[str | None, str]
Section = tuple[str, list[Row]]  # a heading and its rows
Index = tuple[int, ...]

WIDTH = 96
GAP = 3  # between matrices
# Whole numbers to fill a small tensor with, over and over: cycles of a prime length, so that rows differ.
INPUTS = (1, 3, 2, 0, 4, 2, 1, 5, 2, 0, 3, 1, 1, 4, 0, 2, 3)
WEIGHTS = (1, 0, -1, 2, 1, -1, 0, 1, -2, 0, 1)
PLACES = "In brackets: sample, channel and slice, as far as there are several, then row and column."
ROUNDED = "Numbers are rounded to 4 digits behind the point."


@dataclass(frozen=True)
class Example:
    """A layer with numbers that are given. about: a sentence; more: rows that follow the forward pass, made from y."""

    layer: str
    about: str
    x: Tensor
    options: dict[str, Any]
    weight: Tensor | None = None
    dy: Tensor | None = None
    more: Callable[[Tensor], Section] | None = field(default=None)


# ----------------------------------------------------------------------------------------------------------------- text


def number(value: float) -> str:
    """To four digits behind the point, with a minus that is one.

    >>> number(-2.0), number(0.1 + 0.2), number(-1e-9)
    ('−2', '0.3', '0')
    """
    rounded = round(value, 4) + 0.0  # no −0
    return f"{rounded:.4f}".rstrip("0").rstrip(".").replace("-", "−")


def factor(value: float) -> str:
    """As a factor or a summand: in parentheses if it is negative."""
    told = number(value)
    return f"({told})" if told.startswith("−") else told


def cell(name: str, shape: Sequence[int], index: Index, lead: int = 2) -> str:
    """``x[0,2]``: the place of a value, without those of the ``lead`` first axes that have one value only.

    >>> cell("x", (1, 3, 4, 4), (0, 2, 1, 0)), cell("b", (1,), (0,), 1)
    ('x[2,1,0]', 'b')
    """
    kept = [str(i) for d, i in enumerate(index) if d >= lead or shape[d] > 1]
    return f"{name}[{','.join(kept)}]" if kept else name


def planes(name: str, t: Tensor, lead: int = 2) -> list[tuple[str, list[str]]]:
    """The matrices that a tensor consists of, each with its name and its lines."""
    shape = tuple(t.shape)
    if t.dim() < 2:
        t, shape = t.reshape(1, -1), (1, *shape)
    found = []
    for place in product(*(range(n) for n in shape[:-2])):
        rows = [[number(v) for v in row] for row in t[place].tolist()]
        wide = [max(len(row[d]) for row in rows) for d in range(shape[-1])]
        lines = [" ".join(f"{v:>{w}}" for v, w in zip(row, wide, strict=True)) for row in rows]
        kept = [str(i) for d, i in enumerate(place) if d >= lead or shape[d] > 1]
        found.append((f"{name}[{','.join(kept)}]" if kept else name, lines))
    return found


def matrices(*named: tuple[str, Tensor], lead: int = 2, width: int = WIDTH) -> Row:
    """Tensors as matrices next to one another, as many as fit.

    >>> print(matrices(("x", torch.arange(4.0).reshape(1, 1, 2, 2)), ("b", torch.tensor([-1.0])))[1])
    x     b
    0 1   −1
    2 3
    """
    blocks = [block for name, t in named for block in planes(name, t, lead)]
    bands: list[list[tuple[str, list[str]]]] = [[]]
    used = 0
    for label, lines in blocks:
        wide = max([len(label), *map(len, lines)]) + GAP
        if bands[-1] and used + wide - GAP > width:
            bands.append([])
            used = 0
        bands[-1].append((label, lines))
        used += wide
    told = []
    for band in bands:
        height = max(len(lines) for _, lines in band)
        for row in range(-1, height):
            parts = []
            for label, lines in band:
                text = label if row < 0 else lines[row] if row < len(lines) else ""
                parts.append(text.ljust(max([len(label), *map(len, lines)])))
            told.append((" " * GAP).join(parts).rstrip())
        told.append("")
    return (None, "\n".join(told[:-1]))


def total(terms: Iterable[str], result: float) -> str:
    """``= 1·2 + 0·3 = 2``; a sum of nothing is 0, and a lone number says itself."""
    told, value = " + ".join(terms) or "0", number(result)
    return f"= {value}" if told in (value, f"({value})") else f"= {told} = {value}"


def some(shape: Sequence[int], most: int = 4) -> list[Index]:
    """All places if there are few, else the first, the one in the middle and the last."""
    middle = tuple(n // 2 for n in shape)
    few = [(0,) * len(shape), middle, tuple(n - 1 for n in shape)]
    return every(shape) if prod(shape) <= most else list(dict.fromkeys(few))


def every(shape: Sequence[int]) -> list[Index]:
    return list(product(*(range(n) for n in shape)))


def filled(shape: Sequence[int], cycle: Sequence[float]) -> Tensor:
    count = prod(shape)
    return torch.tensor([cycle[i % len(cycle)] for i in range(count)], dtype=torch.float64).reshape(tuple(shape))


def counting(shape: Sequence[int]) -> Tensor:
    return torch.arange(1, prod(shape) + 1, dtype=torch.float64).reshape(tuple(shape))


# --------------------------------------------------------------------------------------------------------- convolutions


def triples(step: Step) -> list[tuple[Index, Index, Index]]:
    """The places (of y, of x, of w) whose values meet in a product, in the order of y."""
    p = step.plan
    filters, channels = p.filters // p.groups, p.channels // p.groups
    axes = p.window.axes
    found = []
    for n, k, *o in every(p.y_shape):
        at = tuple(o)
        for c in range(channels):
            for t in product(*(a.valid_taps(i) for a, i in zip(axes, at, strict=True))):
                source = tuple(a.position(i, tap) for a, i, tap in zip(axes, at, t, strict=True))
                x, y = (n, k // filters * channels + c, *source), (n, k, *at)
                w = (k, c, *at, *t) if step.kind == "local" else (k, c, *t)
                found.append((x, y, w) if step.kind == "transposed" else (y, x, w))
    return found


def _maps(
    step: Step, x: Tensor, w: Tensor, b: Tensor | None
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """y, and what makes (dx, dw) of dy: the references'."""
    p = step.plan
    if step.kind == "local":
        geometry = (p.stride, step.padding, p.dilation)
        return local.local(x, w, b, *geometry), lambda dy: local.local_backward(dy, x, w, *geometry)[:2]
    window, groups = p.window, p.groups
    if step.kind == "transposed":
        y = conv.conv_input(x, w, window, groups)
        back = lambda dy: (conv.conv_forward(dy, w, window, groups), conv.conv_weight(x, dy, window, groups))  # noqa: E731
    else:
        y = conv.conv_forward(x, w, window, groups)
        back = lambda dy: (conv.conv_input(dy, w, window, groups), conv.conv_weight(dy, x, window, groups))  # noqa: E731
    return (y if b is None else y + b.reshape(-1, *[1] * p.dims)), back


def letters(steps: int) -> tuple[list[str], list[str]]:
    """The names of what goes through one step or two, x first, and the numbers behind W and b.

    >>> letters(1), letters(2)
    ((['x', 'y'], ['']), (['x', 'z', 'y'], ['1', '2']))
    """
    return (["x", "y"], [""]) if steps == 1 else (["x", "z", "y"], ["1", "2"])


def convolution(
    steps: Sequence[Step], x: Tensor | None = None, weight: Tensor | None = None, dy: Tensor | None = None
) -> tuple[list[Section], dict[str, Tensor]]:
    """The steps one after the other, and back. What is not given is made of small whole numbers; dy of ones."""
    values: dict[str, Tensor] = {}
    through, numbers = letters(len(steps))
    forward: list[Row] = []
    backs = []
    values["x"] = filled(steps[0].x_shape, INPUTS) if x is None else x
    for place, step in enumerate(steps):
        n, source, target = numbers[place], through[place], through[place + 1]
        a = values[source]
        w = values[f"W{n}"] = (
            filled(step.weight_shape, WEIGHTS[3 * place :] + WEIGHTS[: 3 * place]) if weight is None else weight
        )
        b = filled(step.bias_shape, (1, -1)) if step.bias else None
        y, back = _maps(step, a, w, b)
        values[target] = y
        backs.append(back)
        shown = [(f"W{n}", w)]
        if place == 0:
            shown.insert(0, (source, a))
        if b is not None:
            values[f"b{n}"] = b
            shown.append((f"b{n}", b))
        forward += [matrices(*shown), ("", ""), matrices((target, y)), ("", "")]
        forward += _cells(target, y, triples(step), 0, (a, 1), (w, 2), b)
        if place + 1 < len(steps):
            forward.append(("", ""))
    plus, likewise = ", plus b" if any(step.bias for step in steps) else "", " (z likewise)" if len(steps) > 1 else ""
    sections: list[Section] = [(f"Forward: y sums x·W over what it sees{likewise}{plus}", forward)]
    values["dy"] = torch.ones_like(values["y"]) if dy is None else dy
    backward: list[Row] = []
    for place in reversed(range(len(steps))):
        step, n, source, target = steps[place], numbers[place], through[place], through[place + 1]
        g, a, w = values[f"d{target}"], values[source], values[f"W{n}"]
        dx, dw = backs[place](g)
        values[f"d{source}"], values[f"dW{n}"] = dx, dw
        shown = [(f"d{target}", g)] if target == "y" else []
        shown += [(f"d{source}", dx), (f"dW{n}", dw)]
        if step.bias:
            over = 0 if step.kind == "local" else (0, *range(2, g.dim()))
            values[f"db{n}"] = g.sum(over)
            shown.append((f"db{n}", values[f"db{n}"]))
        met = triples(step)
        backward += [matrices(*shown), ("", "")]
        backward += _cells(f"d{source}", dx, met, 1, (g, 0), (w, 2), few=True)
        backward += _cells(f"dW{n}", dw, met, 2, (a, 1), (g, 0), few=True)
        if step.bias:
            backward.append(_bias_cell(f"db{n}", values[f"db{n}"], g))
        if place:
            backward.append(("", ""))
    sections.append(("Backward: each gradient sums the same products, with its own factor left out", backward))
    return sections, values


def _cells(
    name: str,
    result: Tensor,
    met: Sequence[tuple[Index, Index, Index]],
    own: int,
    first: tuple[Tensor, int],
    second: tuple[Tensor, int],
    bias: Tensor | None = None,
    few: bool = False,
) -> list[Row]:
    """Some cells of a result as the sums that they are.

    own: which of a triple's places are the result's; first, second: the factors, with which of the places are theirs.
    """
    sums: dict[Index, list[str]] = {}
    for places in met:
        a, b = (float(t[places[which]]) for t, which in (first, second))
        sums.setdefault(places[own], []).append(f"{factor(a)}·{factor(b)}")
    shape = tuple(result.shape)
    rows: list[Row] = []
    for index in some(shape, 2)[:2] if few else some(shape):
        terms = list(sums.get(index, []))
        if bias is not None:
            terms.append(factor(float(bias[index[1:]] if bias.dim() > 1 else bias[index[1]])))
        rows.append((cell(name, shape, index), total(terms, float(result[index]))))
    return rows


def _bias_cell(name: str, result: Tensor, dy: Tensor) -> Row:
    index = (0,) * result.dim()
    summed = dy.movedim(0, -1)[index]
    return (
        cell(name, tuple(result.shape), index, 1),
        total((factor(v) for v in summed.flatten().tolist()), float(result[index])),
    )


# -------------------------------------------------------------------------------------------------------------- pooling


def pooling(
    maximum: bool,
    window: Window,
    shape: Sequence[int],
    include_pad: bool = True,
    x: Tensor | None = None,
    dy: Tensor | None = None,
) -> tuple[list[Section], dict[str, Tensor]]:
    """A pooling of x and its gradient; dy counts from 1 on if it is not given, so that one sees where each of its
    values goes.
    """
    x = filled(shape, INPUTS) if x is None else x
    input = tuple(x.shape[2:])
    if maximum:
        y, index = pool.max_pool(x, window)
    else:
        y = pool.avg_pool(x, window, include_pad)
    dy = counting(y.shape) if dy is None else dy
    dx = pool.max_pool_backward(dy, index, input) if maximum else pool.avg_pool_backward(dy, window, include_pad)
    values = {"x": x, "y": y, "dy": dy, "dx": dx}
    seen: dict[Index, list[Index]] = {}  # of each output the inputs
    shares: dict[Index, list[str]] = {}  # of each input
    for o in every(y.shape):
        places = list(product(*(a.taps(i) for a, i in zip(window.axes, o[2:], strict=True))))
        seen[o] = [(*o[:2], *place) for place in places]
        divisor = max(1, prod(a.counted(i, include_pad) for a, i in zip(window.axes, o[2:], strict=True)))
        won = int(index[o]) if maximum else -1
        for place in seen[o]:
            flat = 0
            for at, size in zip(place[2:], input, strict=True):
                flat = flat * size + at
            if not maximum or flat == won:
                shares.setdefault(place, []).append(
                    cell("dy", tuple(dy.shape), o) if maximum else f"{factor(float(dy[o]))}/{divisor}"
                )
    forward: list[Row] = [matrices(("x", x), ("y", y)), ("", "")]
    for o in some(y.shape):
        inside = [float(x[place]) for place in seen[o]]
        if maximum:
            told = f"= max({', '.join(map(number, inside))}) = {number(float(y[o]))}"
        else:
            divisor = max(1, prod(a.counted(i, include_pad) for a, i in zip(window.axes, o[2:], strict=True)))
            told = f"= ({' + '.join(map(factor, inside)) or '0'})/{divisor} = {number(float(y[o]))}"
        forward.append((cell("y", tuple(y.shape), o), told))
    backward: list[Row] = [matrices(("dy", dy), ("dx", dx)), ("", "")]
    chosen = sorted(shares)
    for place in chosen if len(chosen) <= 4 else [chosen[0], chosen[len(chosen) // 2], chosen[-1]]:
        backward.append((cell("dx", tuple(x.shape), place), total(shares[place], float(dx[place]))))
    if maximum:
        backward.append(("", "Every other dx is 0: it did not win."))
    law = "the largest of each window" if maximum else "the mean of each window"
    back = "dy goes to the winner" if maximum else "dy is shared out evenly"
    return [(f"Forward: {law}", forward), (f"Backward: {back}", backward)], values


# ---------------------------------------------------------------------------------------------------------------- norms


def normalization(
    layer: str, shape: Sequence[int], groups: int = 1, x: Tensor | None = None, dy: Tensor | None = None
) -> tuple[list[Section], dict[str, Tensor]]:
    """A norm of x and its gradients, with the first statistic spelled out."""
    x = filled(shape, INPUTS) if x is None else x
    channels = x.shape[1]
    if layer == "layernorm":
        gamma, beta = torch.ones(x.shape[1:], dtype=torch.float64), torch.zeros(x.shape[1:], dtype=torch.float64)
    else:
        gamma, beta = filled((channels,), (1, 2)), filled((channels,), (0, 1))
    affine = layer != "instancenorm"
    given = (gamma, beta) if affine else (None, None)
    dy = filled(x.shape, (1, 0, 0, 2, 0)) if dy is None else dy
    over = (1,) if layer == "layernorm2d" else None
    back: Sequence[Tensor]
    if layer == "batchnorm":
        y, back = norm.batch_norm(x, *given), norm.batch_norm_backward(dy, x, given[0])
    elif layer.startswith("layernorm"):
        y, back = (
            norm.layer_norm(x, given[0], given[1], dims=over),
            norm.layer_norm_backward(dy, x, given[0], dims=over),
        )
    else:
        count = groups if layer == "groupnorm" else channels
        y, back = norm.group_norm(x, count, *given), norm.group_norm_backward(dy, x, count, given[0])
    values = {"x": x, "y": y, "dy": dy, "dx": back[0]}
    if affine:
        values |= {"γ": gamma, "β": beta, "dγ": back[1], "dβ": back[2]}

    def statistic(index: Index) -> Index:
        n, c, *place = index
        if layer == "batchnorm":
            return (c,)
        if layer == "layernorm":
            return (n,)
        if layer == "layernorm2d":
            return (n, *place)
        return (n, c * groups // channels) if layer == "groupnorm" else (n, c)

    def scale(index: Index) -> tuple[float, float]:
        if not affine:
            return 1.0, 0.0
        at = index[1:] if layer == "layernorm" else index[1:2]
        return float(gamma[at]), float(beta[at])

    indices = every(x.shape)
    members = [i for i in indices if statistic(i) == statistic(indices[0])]
    inside = [float(x[i]) for i in members]
    m = len(inside)
    mean = sum(inside) / m
    variance = sum((v - mean) ** 2 for v in inside) / m
    root = (variance + 1e-5) ** 0.5
    first = members[0]
    hats = {i: (float(x[i]) - mean) / root for i in members}
    γ, β = scale(first)

    def name(letter: str, index: Index) -> str:
        return cell(letter, tuple(x.shape), index)

    which = {
        "batchnorm": "channel",
        "instancenorm": "channel",
        "groupnorm": "group",
        "layernorm": "sample",
        "layernorm2d": "place",
    }[layer]
    forward: list[Row] = [matrices(("x", x)), ("", ""), ("", f"The first {which}:")]
    forward.append(("μ", f"= ({' + '.join(map(factor, inside))})/{m} = {number(mean)}"))
    squares = " + ".join(f"({factor(v)}−{factor(mean)})²" for v in inside)
    forward.append(("σ²", f"= ({squares})/{m} = {number(variance)}"))
    forward.append(
        (
            name("x̂", first),
            f"= ({factor(inside[0])} − {factor(mean)})/√({number(variance)} + ε) = {number(hats[first])}",
        )
    )
    told = f"{factor(γ)}·{factor(hats[first])} + {factor(β)} = {number(float(y[first]))}"
    forward += [(name("y", first), f"= γ·x̂ + β = {told}"), ("", "")]
    shown = [("y", y)] + ([("γ", gamma), ("β", beta)] if affine and layer != "layernorm" else [])
    forward.append(matrices(*shown))
    if layer == "batchnorm":
        moved = norm.running_statistics(
            x, torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)
        )
        values |= {"running_mean": moved[0], "running_var": moved[1]}
        forward += [("", ""), ("running mean", f"← 0.9·0 + 0.1·{factor(mean)} = {number(float(moved[0][0]))}")]
        forward.append(("running σ²", f"← 0.9·1 + 0.1·{number(variance)}·{m}/{m - 1} = {number(float(moved[1][0]))}"))
    forward.append(("", ROUNDED))
    g = {i: scale(i)[0] * float(dy[i]) for i in members}
    mean_g = sum(g.values()) / m
    mean_gx = sum(g[i] * hats[i] for i in members) / m
    backward: list[Row] = [matrices(("dy", dy)), ("", ""), ("", f"The first {which}, with g = γ·dy:")]
    backward.append(("mean(g)", f"= ({' + '.join(factor(g[i]) for i in members)})/{m} = {number(mean_g)}"))
    backward.append(
        ("mean(g·x̂)", (
            f"= ({' + '.join(f'{factor(g[i])}·{factor(hats[i])}' for i in members)})/{m} = {number(mean_gx)}"
        ))
    )
    told = f"({factor(g[first])} − {factor(mean_g)} − {factor(hats[first])}·{factor(mean_gx)})/{number(root)}"
    backward.append((name("dx", first), f"= {told} = {number(float(back[0][first]))}"))
    if affine:
        own = [
            i
            for i in indices
            if (i[1:] if layer == "layernorm" else i[1:2]) == (first[1:] if layer == "layernorm" else first[1:2])
        ]
        places = tuple(gamma.shape)
        at = (0,) * len(places)
        backward.append((cell("dβ", places, at, 1), total((factor(float(dy[i])) for i in own), float(back[2][at]))))
        if set(own) <= set(members):
            told = total((f"{factor(float(dy[i]))}·{factor(hats[i])}" for i in own), float(back[1][at]))
            backward.append((cell("dγ", places, at, 1), told))
    backward += [("", ""), matrices(("dx", back[0]))]
    if affine:
        backward += [("", ""), matrices(("dγ", back[1]), ("dβ", back[2]), lead=1)]
    backward.append(("", ROUNDED))
    return [
        ("Forward: measure, bring to mean 0 and variance 1, scale and shift", forward),
        ("Backward", backward),
    ], values


# ------------------------------------------------------------------------------------------------------------ shrinking


def shrink(
    family: str, shape: Sequence[int], dims: int, options: dict[str, Any]
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """A smaller input and smaller options of the same kind: few channels, at most three taps an axis, two outputs or
    more.
    """
    if not dims or family == "layernorm":
        n, c, *axes = shape
        groups = min(2, options.get("groups", 1))
        each = min(2, c // options.get("groups", 1)) if dims == 0 else min(3, c)  # any two values become −1 and 1
        small = (min(2, n), groups * each, *(min(2, a) for a in axes))
        return small, ({"groups": groups} if "groups" in options else {})
    changed = dict(options)

    def listed(name: str, default: Any) -> list[int]:
        value = options.get(name, default)
        given = list(value) if isinstance(value, list | tuple) else [value]
        return given * dims if len(given) == 1 else given

    size = listed("kernel", 3)
    new_size = [min(3, k) for k in size]
    new_stride = [min(3, s) for s in listed("stride", new_size if family.endswith("pool") else 1)]
    dilation = listed("dilation", 1)
    new_dilation = [min(2, d) for d in dilation]
    changed["kernel"] = new_size
    if "stride" in options:
        changed["stride"] = new_stride
    if "dilation" in options:
        changed["dilation"] = new_dilation
    pads: Any = options.get("padding", 0)
    new_pads = [0] * dims
    if not isinstance(pads, str):
        zipped = zip(listed("padding", 0), size, dilation, new_size, new_dilation, strict=True)
        new_pads = [
            min(2, p if k <= 3 and d <= 2 else p * (n - 1) * e // max(1, (k - 1) * d)) for p, k, d, n, e in zipped
        ]
        changed["padding"] = new_pads
    if "output_padding" in options:
        extra = listed("output_padding", 0)
        changed["output_padding"] = [
            min(e, max(s, d) - 1) for e, s, d in zip(extra, new_stride, new_dilation, strict=True)
        ]
    axes = []
    keep, least = {1: (8, 5), 2: (6, 4), 3: (4, 3)}[dims]
    for i, k, s, d, p in zip(shape[2:], new_size, new_stride, new_dilation, new_pads, strict=True):
        if family == "convtranspose":  # large enough for an output
            i = min(i, 2 if s > 1 else 3)
            while pads != "same" and (i - 1) * s - 2 * p + d * (k - 1) < 0:
                i += 1
        elif pads != "same":
            i, most = (i, i) if i <= keep else (least, i)
            while (count := output_size(i, k, s, d, p, p)) < 1 or (count < 2 and i < most):
                i += 1
        else:
            i = i if i <= keep else least
        axes.append(i)
    channels, filters = _channels(family, shape[1], dims, options, changed)
    if "out" in changed or family == "depthwise":
        changed["out"] = filters
    return (1, channels, *axes), changed


def _channels(
    family: str, channels: int, dims: int, options: dict[str, Any], changed: dict[str, Any]
) -> tuple[int, int]:
    """Few of x's, and few of y's."""
    out, groups = options.get("out", channels), options.get("groups", 1)
    if family.endswith("pool"):
        return 1, 1
    if family == "depthwise":
        return min(2, channels), min(2, channels) * min(2, out // channels)
    if groups > 1:
        changed["groups"] = 2
        return 2, 2
    if "middle" in options or family in ("bottleneck", "spatial"):
        changed["middle"] = 1
    return (1 if dims == 3 or family in ("spatial", "local") else min(2, channels)), 1


# ------------------------------------------------------------------------------------------------------------- examples


def _tensor(*rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _magnitude(y: Tensor) -> Section:
    gx, gy = y[0]
    size = (gx.square() + gy.square()).sqrt()
    rows: list[Row] = [matrices(("G", size), lead=0), ("", "")]
    for at in every(size.shape):
        a, b = float(gx[at]), float(gy[at])
        rows.append(
            (cell("G", tuple(size.shape), at, 0), f"= √({factor(a)}² + {factor(b)}²) = {number(float(size[at]))}")
        )
    return "Edges: G = √(Gx² + Gy²), Gx = y[0], Gy = y[1]", rows


_POOLED = _tensor([[[1, 3, 2, 1], [4, 2, 1, 5], [2, 0, 3, 1], [1, 5, 2, 2]]])
_UPSTREAM = _tensor([[[0.2, -0.3], [0.4, 0.1]]])
EXAMPLES = {
    "sobel": Example(
        "conv2d",
        "Two filters that find edges along rows and down columns; no kernel is flipped.",
        _tensor([[[0, 0, 3, 3], [0, 0, 3, 3], [0, 0, 3, 3], [4, 4, 7, 7]]]),
        {"out": 2, "kernel": 3, "bias": False},
        _tensor([[[1, 0, -1], [2, 0, -2], [1, 0, -1]]], [[[1, 2, 1], [0, 0, 0], [-1, -2, -1]]]),
        more=_magnitude,
    ),
    "conv1d": Example(
        "conv1d",
        "Three channels, one filter, a stride of 2.",
        _tensor([[2, 3, 1, 0, 4], [1, 2, 0, 1, 3], [0, 1, 2, 3, 1]]),
        {"out": 1, "kernel": 3, "stride": 2, "bias": False},
        _tensor([[1, 0, -1], [-1, 1, 0], [0, -1, 1]]),
    ),
    "conv3d": Example(
        "conv3d",
        "A volume of four slices, one filter of three.",
        _tensor(
            [
                [
                    [[1, -2, 5, 2], [-1, 1, 4, -3], [1, 5, 5, 2], [-1, -2, 2, 2]],
                    [[-3, 0, -1, -4], [2, 0, -4, -1], [-5, 4, 0, 3], [-5, 5, 5, 4]],
                    [[-3, 1, -2, 3], [-3, -1, -3, 1], [-1, 3, 1, -4], [-2, 3, -4, 4]],
                    [[3, 4, -1, -4], [-2, 1, 2, -3], [-5, -2, -4, 2], [-2, -4, 0, 0]],
                ]
            ]
        ),
        {"out": 1, "kernel": 3, "bias": False},
        _tensor(
            [
                [
                    [[-2, 0, 2], [1, 3, -2], [-2, 0, -2]],
                    [[-2, 2, 0], [2, 3, 3], [2, 3, 0]],
                    [[-3, 2, 1], [1, -2, 3], [1, -2, -3]],
                ]
            ]
        ),
    ),
    "max-pool": Example(
        "maxpool2d", "Four windows side by side, and the gradient that goes back.", _POOLED, {"kernel": 2}, dy=_UPSTREAM
    ),
    "avg-pool": Example(
        "avgpool2d", "Four windows side by side, and the gradient that goes back.", _POOLED, {"kernel": 2}, dy=_UPSTREAM
    ),
    "batchnorm": Example(
        "batchnorm",
        "Two samples of two channels with two values each.",
        _tensor([[1, 5], [0, 10]], [[1, 5], [10, 0]]),
        {},
        dy=_tensor([[1, 0], [1, 0]], [[0, 0], [0, 0]]),
    ),
}
