"""Sliding windows: which inputs each output of a layer reads, as one relation for each axis.

.. math:: input = output · stride + tap · dilation - before

From it follow the output size, the taps that fall inside the input, the outputs that read an input, exact multiply
counts, the divisors of average pooling and, by composition, the receptive field. Convolution, pooling and locally
connected layers share it; N dimensions are a tuple of axes. This module does not need torch.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import gcd, lcm, prod

__all__ = ["AdaptiveAxis", "Axis", "Field", "Look", "Window", "output_size", "same_padding"]


def output_size(
    input: int, size: int, stride: int = 1, dilation: int = 1, before: int = 0, after: int = 0, ceil: bool = False
) -> int:
    """How many outputs fit: ``floor((input + before + after - dilation*(size-1) - 1) / stride) + 1``.

    With ``ceil`` the division rounds up, but no window may start in the padding behind the input (torch's rule). The
    result is below 1 where the window is larger than the padded input; with ``ceil``, where it is larger by the stride
    or more.

    >>> output_size(32, 5, before=2, after=2)
    32
    >>> output_size(7, 2, 2), output_size(7, 2, 2, ceil=True)
    (3, 4)
    """
    room = input + before + after - dilation * (size - 1) - 1
    count = (room + stride - 1 if ceil else room) // stride + 1
    if ceil and (count - 1) * stride >= input + before:
        count -= 1
    return count


def same_padding(input: int, size: int, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """The padding (before, after) for which the output has ``ceil(input / stride)`` values.

    Where the total is odd, the larger part goes behind.

    >>> same_padding(28, 5), same_padding(7, 2, stride=2), same_padding(8, 3, stride=2)
    ((2, 2), (0, 1), (0, 1))
    """
    count = -(-input // stride)
    total = max((count - 1) * stride + dilation * (size - 1) + 1 - input, 0)
    return total // 2, total - total // 2


@dataclass(frozen=True)
class Axis:
    """One axis of a sliding window, with all numbers resolved.

    >>> a = Axis(input=5, output=3, size=3, stride=2, before=1, after=1)
    >>> [a.taps(o) for o in range(a.output)]
    [[0, 1], [1, 2, 3], [3, 4]]
    >>> a.outputs(1)
    [(0, 2), (1, 0)]
    >>> a.interior, list(a.edges), a.tap_count
    (range(1, 2), [0, 2], 7)
    """

    input: int
    output: int
    size: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0

    @property
    def extent(self) -> int:
        """The number of inputs from the first tap to the last, holes of the dilation included."""
        return (self.size - 1) * self.dilation + 1

    def position(self, output: int, tap: int) -> int:
        """The input position that a tap of an output reads. Positions below 0 or from ``input`` on are padding."""
        return output * self.stride + tap * self.dilation - self.before

    def valid_taps(self, output: int) -> range:
        """The taps of an output that fall inside the input, by their numbers."""
        start = self.position(output, 0)
        first = max(0, -(start // self.dilation))
        last = min(self.size, (self.input - 1 - start) // self.dilation + 1)
        return range(first, max(first, last))

    def taps(self, output: int) -> list[int]:
        """The input positions that an output reads."""
        return [self.position(output, tap) for tap in self.valid_taps(output)]

    def outputs(self, input: int) -> list[tuple[int, int]]:
        """The (output, tap) pairs that read an input, which are the terms of its gradient."""
        pairs = []
        for tap in reversed(range(self.size)):
            at = input + self.before - tap * self.dilation
            if at >= 0 and at % self.stride == 0 and at // self.stride < self.output:
                pairs.append((at // self.stride, tap))
        return pairs

    @property
    def look(self) -> Look:
        """The axis as a pattern without ends, which composes with others."""
        return Look((range(-self.before, self.extent - self.before, self.dilation),), self.stride)

    @property
    def look_back(self) -> Look:
        """The pattern of the adjoint, the transposed convolution, whose outputs are this axis's inputs."""
        from_tap = [
            [i + self.before - tap * self.dilation for tap in reversed(range(self.size))] for i in range(self.stride)
        ]
        return Look(tuple(tuple(at // self.stride for at in row if at % self.stride == 0) for row in from_tap), 1)

    @property
    def interior(self) -> range:
        """The outputs all of whose taps fall inside the input."""
        first = -(-self.before // self.stride)
        last = (self.input + self.before - self.extent) // self.stride + 1
        return range(min(first, self.output), max(min(first, self.output), min(last, self.output)))

    @property
    def edges(self) -> Iterator[int]:
        """The outputs before and behind the interior. They are few, however long the axis is."""
        return chain(range(self.interior.start), range(self.interior.stop, self.output))

    @property
    def tap_count(self) -> int:
        """The number of taps inside the input over all outputs: a convolution's multiplications along this axis."""
        return len(self.interior) * self.size + sum(len(self.valid_taps(o)) for o in self.edges)

    def counted(self, output: int, include_pad: bool = True) -> int:
        """The number of taps that average pooling divides by.

        With ``include_pad`` taps in the padding count, but not those beyond it.
        """
        if not include_pad:
            return len(self.valid_taps(output))
        room = self.input + self.after - self.position(output, 0)
        return max(0, min(self.size, -(-room // self.dilation)))


@dataclass(frozen=True)
class AdaptiveAxis:
    """An axis whose windows vary so that they cover the input evenly: output o reads ``[⌊o·I/O⌋, ⌈(o+1)·I/O⌉)``.

    >>> [AdaptiveAxis(input=5, output=3).taps(o) for o in range(3)]
    [[0, 1], [1, 2, 3], [3, 4]]
    """

    input: int
    output: int

    def taps(self, output: int) -> list[int]:
        return list(range(output * self.input // self.output, -(-(output + 1) * self.input // self.output)))

    def outputs(self, input: int) -> list[tuple[int, int]]:
        first, last = input * self.output // self.input, -(-(input + 1) * self.output // self.input)
        return [(o, input - o * self.input // self.output) for o in range(first, last)]

    def counted(self, output: int, include_pad: bool = True) -> int:
        return len(self.taps(output))

    @property
    def look(self) -> Look:
        repeats = gcd(self.input, self.output)
        return Look(tuple(tuple(self.taps(o)) for o in range(self.output // repeats)), self.input // repeats)


@dataclass(frozen=True)
class Window:
    """A window over one, two or three axes.

    >>> w = Window((Axis(4, 2, size=2, stride=2), Axis(4, 2, size=2, stride=2)))
    >>> w.output, w.size, w.tap_count
    ((2, 2), (2, 2), 16)
    """

    axes: tuple[Axis, ...]

    @property
    def input(self) -> tuple[int, ...]:
        return tuple(a.input for a in self.axes)

    @property
    def output(self) -> tuple[int, ...]:
        return tuple(a.output for a in self.axes)

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(a.size for a in self.axes)

    @property
    def stride(self) -> tuple[int, ...]:
        return tuple(a.stride for a in self.axes)

    @property
    def dilation(self) -> tuple[int, ...]:
        return tuple(a.dilation for a in self.axes)

    @property
    def before(self) -> tuple[int, ...]:
        return tuple(a.before for a in self.axes)

    @property
    def after(self) -> tuple[int, ...]:
        return tuple(a.after for a in self.axes)

    @property
    def taps(self) -> int:
        """The number of taps of one whole window, those in the padding included."""
        return prod(self.size)

    @property
    def tap_count(self) -> int:
        """The number of taps inside the input, over all outputs.

        Times the channels of a group and the output channels, it is the exact number of multiply-adds.
        """
        return prod(a.tap_count for a in self.axes)

    def __iter__(self) -> Iterator[Axis]:
        return iter(self.axes)


@dataclass(frozen=True)
class Look:
    """The tap pattern of one operation on one axis: the positions that each output reads, also beyond the input's ends.

    The pattern repeats: output ``o + period`` reads the positions of output ``o``, moved by ``shift``.

    positions: those of the first ``period`` outputs.

    >>> Axis(8, 4, size=3, stride=2, before=1).look.at(3)
    [5, 6, 7]
    >>> up = Axis(8, 4, size=3, stride=2, before=1).look_back  # of the transposed convolution: 4 inputs, 8 outputs
    >>> [up.at(o) for o in range(4)]
    [[0], [0, 1], [1], [1, 2]]
    """

    positions: tuple[Sequence[int], ...] = ((0,),)
    shift: int = 1

    @property
    def period(self) -> int:
        return len(self.positions)

    def at(self, output: int) -> list[int]:
        times, phase = divmod(output, self.period)
        return [p + times * self.shift for p in self.positions[phase]]

    def inputs(self, outputs: Iterable[int], size: int) -> frozenset[int]:
        """The positions from 0 to below ``size`` that any of these outputs reads."""
        return frozenset(p for o in outputs for p in self.at(o) if 0 <= p < size)

    def outputs(self, inputs: Container[int], size: int) -> frozenset[int]:
        """The outputs from 0 to below ``size`` that read any of these positions."""
        return frozenset(o for o in range(size) if any(p in inputs for p in self.at(o)))


@dataclass(frozen=True)
class Field:
    """The receptive field of a stack of operations on one axis.

    Output o sees the inputs from ``first(o)`` to ``last(o)``. For windows with whole strides

    .. math:: r ← r + (extent - 1)·j, \\quad j ← j·stride, \\quad start ← start - before·j

    Where the stack has a transposed convolution or an upsampling, outputs differ by their phase, and each phase has a
    field of its own: ``spans`` are the first and last inputs of outputs 0 to period - 1 (None where an output sees
    nothing), and output ``o + period`` sees the inputs of output ``o``, moved by ``shift``.

    size: the number of inputs that one output sees, in the phase that sees most [px]; jump: the distance in the input
    between neighbouring outputs [px]; start: the first input that output 0 sees, negative where it sees padding.

    >>> f = Field()
    >>> for _ in range(3):
    ...     f = f.then(Axis(32, 32, size=3, before=1, after=1).look)
    >>> f.size, f.jump, f.start
    (7, 1, -3)
    >>> up = f.then(Axis(64, 32, size=2, stride=2).look_back)  # twice as many outputs
    >>> up.size, up.jump, up.span(0), up.span(1)
    (7, Fraction(1, 2), (-3, 3), (-3, 3))
    """

    spans: tuple[tuple[int, int] | None, ...] = ((0, 0),)
    shift: int = 1

    @classmethod
    def of(cls, size: int = 1, jump: int = 1, start: int = 0) -> Field:
        """A field in which all outputs see equally many inputs."""
        return cls(((start, start + size - 1),), jump)

    @property
    def period(self) -> int:
        return len(self.spans)

    @property
    def size(self) -> int:
        return max((b - a + 1 for a, b in filter(None, self.spans)), default=0)

    @property
    def jump(self) -> int | Fraction:
        jump = Fraction(self.shift, self.period)
        return int(jump) if jump.denominator == 1 else jump

    @property
    def start(self) -> int:
        return self.first(0)

    def span(self, output: int) -> tuple[int, int] | None:
        """The first and the last input that an output sees."""
        times, phase = divmod(output, self.period)
        span = self.spans[phase]
        return None if span is None else (span[0] + times * self.shift, span[1] + times * self.shift)

    def first(self, output: int) -> int:
        span = self.span(output)
        if span is None:
            raise ValueError(f"output {output} sees no input")
        return span[0]

    def last(self, output: int) -> int:
        span = self.span(output)
        if span is None:
            raise ValueError(f"output {output} sees no input")
        return span[1]

    def over(self, first: int, last: int) -> tuple[int, int] | None:
        """The first and the last input that any of the outputs from ``first`` to ``last`` sees."""
        ends = {
            *range(first, min(last, first + self.period - 1) + 1),
            *range(max(first, last - self.period + 1), last + 1),
        }
        spans = [span for o in ends if (span := self.span(o)) is not None]
        return (min(a for a, _ in spans), max(b for _, b in spans)) if spans else None

    def phases(self, look: Look) -> int:
        """The period of the field after one more operation, before it is shortened."""
        return look.period * (self.period // gcd(self.period, look.shift) if look.shift else 1)

    def then(self, look: Look) -> Field:
        """The field after one more operation."""
        count = self.phases(look)
        repeats = count // look.period
        spans = []
        for output in range(count):
            seen = look.at(output)
            spans.append(self.over(min(seen), max(seen)) if seen else None)
        return Field(*_shortest(spans, self.shift * look.shift * repeats // self.period))

    def union(self, other: Field) -> Field:
        """The field of two branches that meet."""
        if self.shift * other.period != other.shift * self.period:
            raise ValueError(f"branches that meet have the same jump, got {self.jump} and {other.jump}")
        period = lcm(self.period, other.period)
        spans = []
        for output in range(period):
            both = [span for span in (self.span(output), other.span(output)) if span is not None]
            spans.append((min(a for a, _ in both), max(b for _, b in both)) if both else None)
        return Field(*_shortest(spans, self.shift * period // self.period))


def _shortest(spans: list[tuple[int, int] | None], shift: int) -> tuple[tuple[tuple[int, int] | None, ...], int]:
    """The same spans and shift, with the shortest period."""
    period = len(spans)
    for part in (p for p in range(1, period) if period % p == 0 and shift * p % period == 0):
        step = shift * part // period
        moved = (None if span is None else (span[0] + step, span[1] + step) for span in spans[:-part])
        if all(a == b for a, b in zip(moved, spans[part:], strict=True)):
            return tuple(spans[:part]), step
    return tuple(spans), shift
