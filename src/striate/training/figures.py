"""Draws figures of a training: its curves, the filters of the first layer, and the confusion matrix."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ..errors import DataError, ShapeError, build
from ..extras import needs
from ..render.figure import BLUE, GREY, INK, LIGHT, ORANGE, RUN_COLORS, blank, plain
from ..render.png import write_png
from .evaluation import confusion_blocks
from .history import History

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["comparison", "confusion", "curves", "filters", "first_filters", "rates"]

DPI = 150
MONITORED = {"val": "validation", "test": "test"}
GAP = 0.12  # between two pictures of filters, in parts of one
MOST_CELLS = 256  # pictures in one figure; with more, a 5×5 filter is too small to see
# The confusion matrix: the side of a cell, up to how many rows it has that, with how many it has counts and lines.
CELL_IN, LARGE, MOST_NUMBERED, MOST_GRID = 0.52, 20, 40, 100
MOST_ROWS = 1000  # 1.6 pixels each
LEAST_PT, LABEL_IN = 5.0, 0.2  # of a count, and from one name to the next
STEPS = tuple(factor * 10**power for power in range(4) for factor in (1, 2, 5))  # classes from one name to the next
MOST_LETTERS = 16  # of the name of a class


def curves(history: History, path: str | os.PathLike[str]) -> None:
    """Draws loss and accuracy over the epochs, of training and of the monitored part, in two panels, as a PNG file.

    Raises DataError if the history is empty.
    """
    if not history:
        raise DataError(build("figures.curves", "an epoch at least", "none", hint="Train first."))
    needs("figures.curves", "matplotlib")
    from matplotlib.ticker import MaxNLocator

    numbers = [epoch.number for epoch in history]
    style: dict[str, Any] = {"linewidth": 2, "marker": "o", "markersize": 4, "clip_on": False}
    figure = blank(10, 4)
    epochs = f"{len(history)} epoch" + "s" * (len(history) > 1)
    parts = [("training", BLUE, history.train_loss, history.train_accuracy)]
    loss, accuracy = ([value for value in values if value is not None] for values in (history.loss, history.accuracy))
    monitored = MONITORED.get(history[-1].monitored or "")
    if monitored is not None:
        parts.append((monitored, ORANGE, loss, accuracy))
    last = 100 * parts[-1][3][-1]
    figure.suptitle(f"{last:.1f} % of the {parts[-1][0]} images right after {epochs}", color=INK, fontsize=14)
    left, right = figure.subplots(1, 2)

    for name, color, losses, _ in parts:
        left.plot(numbers, losses, color=color, label=f"{name} images", **style)
    left.set(
        title="Loss",
        xlabel="epoch",
        ylabel="mean cross entropy [nats]",
        ylim=(0, 1.05 * max(value for part in parts for value in part[2])),
    )
    left.legend(frameon=False)

    for name, color, _, accuracies in parts:
        right.plot(numbers, [100 * share for share in accuracies], color=color, label=f"{name} images", **style)
    lowest = 100 * min(value for part in parts for value in part[3])
    right.set(
        title="Accuracy", xlabel="epoch", ylabel="classified rightly [%]", ylim=(max(0, min(lowest - 5, 95)), 100)
    )
    right.annotate(
        f"{last:.1f}",
        (numbers[-1], last),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        color=parts[-1][1],
        weight="bold",
    )
    for axes in (left, right):
        plain(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(numbers[0] - (len(numbers) == 1), numbers[-1] + (len(numbers) == 1))
    write_png(figure, path, DPI)


def comparison(histories: Mapping[str, History], path: str | os.PathLike[str]) -> None:
    """Draws loss and accuracy of several trainings over one another, in two panels, as a PNG file.

    histories: by name. Solid lines are of the monitored part, dotted ones of the training images. Raises DataError if
    none of them has an epoch.
    """
    if not any(histories.values()):
        hint = "Train for an epoch at least."
        raise DataError(build("figures.comparison", "an epoch at least", "none", hint=hint))
    needs("figures.comparison", "matplotlib")
    from matplotlib.ticker import MaxNLocator

    figure = blank(11, 4.4)
    figure.suptitle("Solid: validation or test images after the epoch. Dotted: training images", color=INK, fontsize=11)
    left, right = figure.subplots(1, 2)
    lowest = 100.0
    for number, (name, history) in enumerate(histories.items()):
        style: dict[str, Any] = {"color": RUN_COLORS[number % len(RUN_COLORS)], "linewidth": 2, "clip_on": False}
        epochs = [epoch.number for epoch in history]
        has_part = bool(history) and history[-1].monitored is not None
        for axes, train, part in (
            (left, history.train_loss, history.loss),
            (right, [100 * share for share in history.train_accuracy],
             [None if share is None else 100 * share for share in history.accuracy]),
        ):  # fmt: skip
            axes.plot(epochs, train, linestyle=(0, (1, 2)), **{**style, "linewidth": 1.4})
            if has_part:
                axes.plot(epochs, part, marker="o", markersize=4, **style)
            axes.plot([], [], label=_drawable(name, f"run {number + 1}"), **style)
        shares = [*history.train_accuracy, *history.accuracy]
        lowest = min([lowest, *(100 * share for share in shares if share is not None)])
    left.set(title="Loss", xlabel="epoch", ylabel="mean cross entropy [nats]")
    left.set_ylim(bottom=0)
    right.set(title="Accuracy", xlabel="epoch", ylabel="classified rightly [%]", ylim=(max(0, lowest - 5), 100))
    left.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        plain(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    write_png(figure, path, DPI)


def filters(weight: Tensor, path: str | os.PathLike[str]) -> None:
    """Draws a layer's filters side by side on one colour scale, white at zero, as a PNG file.

    weight: ``(F, C, h, w)``; with one channel the F filters fill a grid row by row, else each column of the grid shows
    the C channels of one filter.

    Raises ShapeError for another number of axes, or for more than 256 pictures.
    """
    if weight.ndim != 4 or not 0 < weight.shape[0] * weight.shape[1] <= MOST_CELLS:
        wanted = f"a weight (F, C, h, w) of 1 to {MOST_CELLS} pictures"
        raise ShapeError(
            build("figures.filters", wanted, tuple(weight.shape), hint="Pick some filters: weight[:16, :3].")
        )
    needs("figures.filters", "matplotlib")
    from matplotlib.patches import Rectangle

    count, channels, height, width = weight.shape
    if channels == 1:
        square = math.isqrt(count - 1) + 1
        # a grid without empty cells, if there is one close to square
        columns = next((c for c in range(square, 2 * square) if count % c == 0), square)
        rows = -(-count // columns)
    else:
        columns, rows = count, channels
    pictures = weight.detach().cpu().float().transpose(0, 1).reshape(-1, height, width).numpy()
    largest = float(abs(pictures).max()) or 1.0

    names_in = 0.25 * (rows if channels == 1 else 1)
    figure = blank(max(4.5, 1.1 * columns + 1.6), max(2.5, 1.1 * rows * height / width + names_in + 0.7), pad_in=0.06)
    size = f"{height}×{width}" + f" on {channels} channels" * (channels > 1)
    figure.suptitle(f"The {count} filter{'s' * (count > 1)} of the first layer, {size}", color=INK, fontsize=14)
    axes, tall = figure.subplots(), height / width
    named = 0.3 if channels == 1 else GAP  # where a number stands above each picture
    for index, picture in enumerate(pictures):
        # one set of axes for all: with its own for each, the layout would take seconds
        left, top = index % columns * (1 + GAP), index // columns * (tall + named)
        extent = (left, left + 1, top + tall, top)
        image = axes.imshow(picture, extent=extent, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
        axes.add_patch(Rectangle((left, top), 1, tall, fill=False, edgecolor=GREY, linewidth=0.6))
        if index < count:
            axes.text(left + 0.5, top - 0.05, index, fontsize=9, color=GREY, ha="center", va="bottom")
        if channels > 1 and index % columns == 0:
            name = f"channel {index // columns}"
            axes.text(-0.1, top + tall / 2, name, fontsize=9, color=GREY, rotation=90, ha="right", va="center")
    axes.set(xlim=(-0.02, columns * (1 + GAP)), ylim=(rows * (tall + named), -0.02), aspect="equal")
    axes.axis("off")
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=30)
    bar.set_label("weight (red adds, blue subtracts)" if rows * height > width else "weight", color=INK, fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=INK)
    write_png(figure, path, DPI)


def first_filters(model: Module) -> Tensor | None:
    """The first layer's weight as :func:`filters` draws it, at most 256 pictures; None if it is no picture.

    The weight of a linear layer for square images becomes an image a row.

    >>> from torch import nn
    >>> first_filters(nn.Sequential(nn.Flatten(), nn.Linear(49, 10))).shape
    torch.Size([10, 1, 7, 7])
    """
    weight = next((p.detach() for p in model.parameters() if p.ndim > 1), None)
    if weight is not None and weight.ndim == 2 and math.isqrt(weight.shape[1]) ** 2 == weight.shape[1]:
        side = math.isqrt(weight.shape[1])
        weight = weight.reshape(-1, 1, side, side)
    if weight is None or weight.ndim != 4 or not 0 < weight.shape[1] <= MOST_CELLS:
        return None
    return weight[: MOST_CELLS // weight.shape[1]]


def confusion(
    predictions: Tensor, labels: Tensor, path: str | os.PathLike[str], classes: Sequence[str] = ()
) -> None:
    """Draws the confusion matrix, true classes by predicted classes, with the counts in its cells, as a PNG file.

    Mistakes are orange, right answers blue; cells with a count of zero stay empty, so that mistakes stand out. The
    picture grows up to 20 classes. With more, cells get smaller, then lose their counts, and some classes only are
    named; with more than 1,000, a row stands for several classes, and a cell has the colour of the larger count.

    predictions, labels: ``(N,)`` whole numbers from 0; classes: their names, by default these numbers. Raises DataError
    if they differ in length or are empty.
    """
    if len(labels) == 0 or predictions.shape != labels.shape:
        got = f"{len(predictions)} for {len(labels)}"
        raise DataError(
            build("figures.confusion", "a prediction for each label", got, hint="Take both from evaluate().")
        )
    needs("figures.confusion", "matplotlib")
    import numpy as np
    from matplotlib.colors import to_rgb

    count = len(classes) or int(max(predictions.max(), labels.max())) + 1
    right, wrong = (t.numpy() for t in confusion_blocks(predictions.cpu(), labels.cpu(), count, MOST_ROWS))
    rows, block = len(right), -(-count // MOST_ROWS)
    names = [_drawable(_short(name), str(number)) for number, name in enumerate(classes or map(str, range(count)))]

    right_share = right / np.maximum((right + wrong).sum(1, keepdims=True), 1)
    wrong_share = 0.25 + 0.6 * wrong / max(wrong.max(), 1)
    is_wrong = wrong > right
    colors = np.where(is_wrong[..., None], np.array(to_rgb(ORANGE)), np.array(to_rgb(BLUE)))
    cells = 1 - np.where(is_wrong, wrong_share, right_share)[..., None] * (1 - colors)

    cell_in = CELL_IN * min(1.0, LARGE / rows)
    names_in = 0.09 * max(map(len, names))
    side = max(4.5, cell_in * rows + names_in + 0.9)
    figure = blank(side, side + 0.3)
    axes = figure.subplots()
    axes.imshow(cells, interpolation="nearest")
    counts = right + wrong
    size = min(10.0, 0.75 * 72 * cell_in / (0.6 * len(str(counts.max()))))  # pt: a digit is 0.6 of it wide
    for row, column in zip(*counts.nonzero(), strict=True) if rows <= MOST_NUMBERED and size >= LEAST_PT else ():
        color = "white" if cells[row, column].mean() < 0.62 else INK
        text = axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=size, color=color)
        text.set_in_layout(False)  # which takes seconds with a thousand of them
    mistakes = int(wrong.sum())
    title = f"{len(labels) - mistakes:,} of {len(labels):,} images right, {mistakes:,} mistaken"
    figure.suptitle(title, color=INK, fontsize=13)
    axes.set_xlabel("predicted class", color=INK)
    axes.set_ylabel("true class", color=INK)
    named = range(0, rows, next(step for step in STEPS if step * cell_in >= LABEL_IN))
    is_long = max(len(names[place * block]) for place in named) * 0.09 > cell_in * named.step
    axes.set_xticks(named, [names[place * block] for place in named], rotation=90 if is_long else 0)
    axes.set_yticks(named, [names[place * block] for place in named])
    if rows <= MOST_GRID:
        axes.set_xticks(np.arange(-0.5, rows), minor=True)
        axes.set_yticks(np.arange(-0.5, rows), minor=True)
        axes.grid(which="minor", color=LIGHT, linewidth=0.8 * min(1.0, LARGE / rows))
    axes.tick_params(which="both", length=0, colors=INK)
    for spine in axes.spines.values():
        spine.set_color(LIGHT)
    write_png(figure, path, DPI)


@cache
def _letters() -> frozenset[int]:
    """The letters that the font of matplotlib has."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def _drawable(name: str, instead: str) -> str:
    """A name as matplotlib is to draw it letter by letter; ``instead`` where its font lacks one."""
    return name.replace("$", r"\$") if all(ord(letter) in _letters() for letter in name) else instead


def _short(name: str) -> str:
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…"


def rates(
    learning_rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestion: float | None,
    path: str | os.PathLike[str],
) -> None:
    """Draws a range test, the loss over the learning rate on a logarithmic scale, as a PNG file.

    Raises DataError if there are no losses.
    """
    if not losses:
        raise DataError(build("figures.rates", "a loss at least", "none", hint="Begin at a lower learning rate."))
    needs("figures.rates", "matplotlib")

    figure = blank(8, 4.2)
    axes = figure.subplots()
    axes.plot(learning_rates, losses, ".", color=BLUE, alpha=0.35, markersize=5, label="loss of a step", clip_on=True)
    axes.plot(learning_rates, smoothed, color=BLUE, linewidth=2, label="smoothed")
    title = "The loss does not fall"
    if suggestion is not None:
        title = f"Learning rate: try {suggestion:.2g}"
        axes.axvline(suggestion, color=ORANGE, linewidth=2, label=f"suggestion, {suggestion:.2g}")
        lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
        rate = learning_rates[lowest]
        axes.plot(rate, smoothed[lowest], "o", color=INK, label=f"lowest, at {rate:.2g}")
    highest = 1.25 * max(smoothed[0], *(value for value in smoothed if math.isfinite(value)))
    axes.set(xscale="log", xlabel="learning rate", ylabel="mean cross entropy [nats]", ylim=(0, highest))
    axes.set_title(title, color=INK, fontsize=14, pad=12)
    axes.legend(frameon=False, loc="lower left")
    plain(axes)
    write_png(figure, path, DPI)
