"""A small layer worked through by hand: forward, then backward, cell by cell. The numbers are the references', in
float64.

Every convolution is Σ dy·w·x over triples of indices: which values meet. Its three passes sum the same triples, each
for another factor: y that of x and w, dx that of dy and w, dw that of dy and x. :func:`triples` lists all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod

import torch
from torch import Tensor

from ...reference import conv, local, norm, pool
from ...window import Window
from .cells import Index, all_indices, cell, counting, factor, filled, matrices, number, sampled, sum_text
from .result import Row
from .steps import Step, tensor_names

__all__ = ["LEGEND", "Section", "convolution", "normalization", "pooling", "triples"]

Section = tuple[str, list[Row]]  # a heading and its rows
# Whole numbers to fill a small tensor with, over and over: cycles of a prime length, so that rows differ.
INPUTS = (1, 3, 2, 0, 4, 2, 1, 5, 2, 0, 3, 1, 1, 4, 0, 2, 3)
WEIGHTS = (1, 0, -1, 2, 1, -1, 0, 1, -2, 0, 1)
LEGEND = "In brackets: sample, channel and slice, as far as there are several, then row and column."
ROUNDED = "Numbers are rounded to 4 digits behind the point."


def triples(step: Step) -> list[tuple[Index, Index, Index]]:
    """The indices (in y, x and w) of the values that one product joins, ordered by y's."""
    p = step.plan
    filters, channels = p.filters // p.groups, p.channels // p.groups
    axes = p.window.axes
    found = []
    for n, k, *o in all_indices(p.y_shape):
        at = tuple(o)
        for c in range(channels):
            for t in product(*(a.valid_taps(i) for a, i in zip(axes, at, strict=True))):
                source = tuple(a.position(i, tap) for a, i, tap in zip(axes, at, t, strict=True))
                x, y = (n, k // filters * channels + c, *source), (n, k, *at)
                w = (k, c, *at, *t) if step.kind == "local" else (k, c, *t)
                found.append((x, y, w) if step.kind == "transposed" else (y, x, w))
    return found


def _passes(
    step: Step, x: Tensor, w: Tensor, b: Tensor | None
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """y, and a function that computes (dx, dw) from dy, both by the reference."""
    p = step.plan
    if step.kind == "local":
        geometry = (p.stride, step.padding, p.dilation)
        return local.local(x, w, b, *geometry), lambda dy: local.local_backward(dy, x, w, *geometry)[:2]
    window, groups = p.window, p.groups
    if step.kind == "transposed":
        y = conv.conv_backward_data(x, w, window, groups)
    else:
        y = conv.conv_forward(x, w, window, groups)

    def back(dy: Tensor) -> tuple[Tensor, Tensor]:
        if step.kind == "transposed":
            return conv.conv_forward(dy, w, window, groups), conv.conv_backward_weights(x, dy, window, groups)
        return conv.conv_backward_data(dy, w, window, groups), conv.conv_backward_weights(dy, x, window, groups)

    return (y if b is None else y + b.reshape(-1, *[1] * p.dims)), back


def convolution(
    steps: Sequence[Step], x: Tensor | None = None, weight: Tensor | None = None, dy: Tensor | None = None
) -> tuple[list[Section], dict[str, Tensor]]:
    """Works through the steps forward, then backward. A tensor not given is filled with small whole numbers, dy with
    ones.
    """
    values: dict[str, Tensor] = {}
    through, numbers = tensor_names(len(steps))
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
        y, back = _passes(step, a, w, b)
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
    """Writes some values of a result as the sums that give them.

    own: the position in a triple of the result's index; first, second: the factors, each with the position of its
    index.
    """
    sums: dict[Index, list[str]] = {}
    for places in met:
        a, b = (float(t[places[which]]) for t, which in (first, second))
        sums.setdefault(places[own], []).append(f"{factor(a)}·{factor(b)}")
    shape = tuple(result.shape)
    rows: list[Row] = []
    for index in sampled(shape, 2)[:2] if few else sampled(shape):
        terms = list(sums.get(index, []))
        if bias is not None:
            terms.append(factor(float(bias[index[1:]] if bias.dim() > 1 else bias[index[1]])))
        rows.append((cell(name, shape, index), sum_text(terms, float(result[index]))))
    return rows


def _bias_cell(name: str, result: Tensor, dy: Tensor) -> Row:
    index = (0,) * result.dim()
    summed = dy.movedim(0, -1)[index]
    return (
        cell(name, tuple(result.shape), index, 1),
        sum_text((factor(v) for v in summed.flatten().tolist()), float(result[index])),
    )


def pooling(
    maximum: bool,
    window: Window,
    shape: Sequence[int],
    include_pad: bool = True,
    x: Tensor | None = None,
    dy: Tensor | None = None,
) -> tuple[list[Section], dict[str, Tensor]]:
    """Works through a pooling and its gradient; dy counts 1, 2, 3, … if it is not given, to show where each value goes.
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
    seen: dict[Index, list[Index]] = {}  # the inputs that each output sees
    shares: dict[Index, list[str]] = {}  # the summands of each input's gradient
    for o in all_indices(y.shape):
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
    for o in sampled(y.shape):
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
        backward.append((cell("dx", tuple(x.shape), place), sum_text(shares[place], float(dx[place]))))
    if maximum:
        backward.append(("", "Every other dx is 0: it did not win."))
    law = "the largest of each window" if maximum else "the mean of each window"
    back = "dy goes to the winner" if maximum else "dy is shared out evenly"
    return [(f"Forward: {law}", forward), (f"Backward: {back}", backward)], values


def normalization(
    layer: str, shape: Sequence[int], groups: int = 1, x: Tensor | None = None, dy: Tensor | None = None
) -> tuple[list[Section], dict[str, Tensor]]:
    """Works through a norm and its gradients, with the first statistic written out."""
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

    indices = all_indices(x.shape)
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
        backward.append((cell("dβ", places, at, 1), sum_text((factor(float(dy[i])) for i in own), float(back[2][at]))))
        if set(own) <= set(members):
            told = sum_text((f"{factor(float(dy[i]))}·{factor(hats[i])}" for i in own), float(back[1][at]))
            backward.append((cell("dγ", places, at, 1), told))
    backward += [("", ""), matrices(("dx", back[0]))]
    if affine:
        backward += [("", ""), matrices(("dγ", back[1]), ("dβ", back[2]), lead=1)]
    backward.append(("", ROUNDED))
    return [
        ("Forward: measure, bring to mean 0 and variance 1, scale and shift", forward),
        ("Backward", backward),
    ], values
