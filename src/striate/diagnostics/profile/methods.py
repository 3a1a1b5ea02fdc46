"""Times the methods of a convolution against each other, separately for each pass, to find the next best one."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...measure import in_turns, timed_ms
from ...ops import conv as ops
from ...ops.conv import ConvProblem
from .work import Work

__all__ = ["Contest"]

BEHIND = 1.5  # a method that takes more than this times the best other in the first round is not timed again


class Contest(NamedTuple):
    """One pass of a convolution, and the methods that can compute it.

    what: layer and pass as progress shows them; pass_: "forward", "input" or "weight", from the layer's point of view;
    method: the one that the layer uses; x_last: whether its input is channels_last; work: the least work of the pass.
    """

    what: str
    pass_: str
    call: ConvProblem
    method: str
    x_last: bool
    weight: Tensor
    bias: Tensor | None
    work: Work

    @property
    def key(self) -> Any:
        """The key of a contest. Contests with the same key take the same times."""
        return self.call, self.method, self.x_last, self.weight.stride(), self.bias is None

    def run(self, rounds: int) -> dict[str, float]:
        """Medians by method [ms], for the layer's own method and those within ``BEHIND`` of the best in the first
        round.
        """
        call, arguments = self.call, self._arguments()
        supported = [
            c for c in ops.METHODS if c.name == self.method or (c.name != "reference" and c.refuse(call) is None)
        ]

        def turn(method: Any) -> Callable[[], float]:
            return lambda: timed_ms(lambda: method.run(call, *arguments))

        def near(first: Mapping[str, float]) -> Collection[str]:
            best = min((ms for name, ms in first.items() if name != self.method), default=0.0)
            return [name for name, ms in first.items() if name == self.method or ms <= BEHIND * best]

        with torch.no_grad():
            times = in_turns({method.name: turn(method) for method in supported}, rounds, keep=near)
        return {name: statistics.median(measured) for name, measured in times.items() if len(measured) == rounds}

    def _arguments(self) -> tuple[Any, ...]:
        """Random tensors of the shapes and memory format that the pass receives in the layer."""
        call, geometry = self.call, self.call.geometry
        # Gradients are converted to the output's memory format; an input arrives in its own.
        last = self.x_last if self.pass_ == "forward" else call.channels_last
        x, y = (_random(shape, call.dtype, last) for shape in (geometry.x_shape, geometry.y_shape))
        w = self.weight.detach()
        operands = {"forward": (x, w), "backward_data": (y, w), "backward_weights": (y, x)}
        arguments: tuple[Any, ...] = operands[call.pass_]
        if self.pass_ == "forward":
            return (*arguments, None if self.bias is None else self.bias.detach())
        return arguments


def _random(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool) -> Tensor:
    x = torch.randn(shape, dtype=dtype)
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else x
