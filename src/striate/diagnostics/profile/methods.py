"""A convolution's methods timed against each other, each pass by itself: what the next best would have cost."""

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

BEHIND = 1.5  # a method that took that many times the best of the others in the first round is not timed again


class Contest(NamedTuple):
    """One pass of a convolution, and the methods that can compute it.

    what: the layer and the pass, for people; pass_: "forward", "input" or "weight", as the layer has them; method: the
    one that the layer uses; x_last: whether its input is channels_last; work: what the pass has to do.
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
        """Equal for contests that would take the same times."""
        return self.call, self.method, self.x_last, self.weight.stride(), self.bias is None

    def run(self, rounds: int) -> dict[str, float]:
        """Medians by method [ms], of the layer's own and of those that the first round did not leave far behind."""
        call, arguments = self.call, self._arguments()
        able = [c for c in ops.METHODS if c.name == self.method or (c.name != "reference" and c.refuse(call) is None)]

        def turn(method: Any) -> Callable[[], float]:
            return lambda: timed_ms(lambda: method.run(call, *arguments))

        def near(first: Mapping[str, float]) -> Collection[str]:
            best = min((ms for name, ms in first.items() if name != self.method), default=0.0)
            return [name for name, ms in first.items() if name == self.method or ms <= BEHIND * best]

        with torch.no_grad():
            times = in_turns({method.name: turn(method) for method in able}, rounds, keep=near)
        return {name: statistics.median(measured) for name, measured in times.items() if len(measured) == rounds}

    def _arguments(self) -> tuple[Any, ...]:
        """Random tensors of the shapes and in the memory order that the pass gets in the layer."""
        call, plan = self.call, self.call.geometry
        # gradients are brought to the output's memory order, an input comes as it is
        last = self.x_last if self.pass_ == "forward" else call.channels_last
        x, y = (_random(shape, call.dtype, last) for shape in (plan.x_shape, plan.y_shape))
        w = self.weight.detach()
        operands = {"forward": (x, w), "backward_data": (y, w), "backward_weights": (y, x)}
        arguments: tuple[Any, ...] = operands[call.pass_]
        if self.pass_ == "forward":
            return (*arguments, None if self.bias is None else self.bias.detach())
        return arguments


def _random(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool) -> Tensor:
    x = torch.randn(shape, dtype=dtype)
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else x
