"""Where a layer looks: one relation on one axis, and everything that follows from it.

.. math:: input = output · stride + tap · dilation - before

It gives the output size, the taps that fall inside the input, the outputs that look at an input, exact multiply counts,
average-pool divisors and, by composition, the receptive field. Convolution, pooling and locally connected layers share it;
N dimensions are a tuple of axes. This module needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

__all__ = ["AdaptiveAxis", "Axis", "Field", "Window", "output_size", "same_padding"]


def output_size(input: int, size: int, stride: int = 1, dilation: int = 1, before: int = 0, after: int = 0, ceil: bool = False) -> int:
    """How many outputs fit: ``floor((input + before + after - dilation*(size-1) - 1) / stride) + 1``.

    With ``ceil`` the division rounds up, but no window may start in the padding behind the input (torch's rule). The result
    is below 1 where the window is larger than the padded input, with ``ceil`` where it is larger by the stride or more.

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
    """The padding (before, after) for which the output has ``ceil(input / stride)`` values; an odd one goes behind.

    >>> same_padding(28, 5), same_padding(7, 2, stride=2), same_padding(8, 3, stride=2)
    ((2, 2), (0, 1), (0, 1))
    """
    count = -(-input // stride)
    total = max((count - 1) * stride + dilation * (size - 1) + 1 - input, 0)
    return total // 2, total - total // 2


@dataclass(frozen=True)
class Axis:
    """One axis of a sliding window, every number resolved.

    >>> a = Axis(input=5, output=3, size=3, stride=2, before=1, after=1)
    >>> [a.taps(o) for o in range(a.output)]
    [[0, 1], [1, 2, 3], [3, 4]]
    >>> a.outputs(1)
    [(0, 2), (1, 0)]
    >>> a.interior, a.tap_count
    (range(1, 2), 7)
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
        """Inputs from the first tap to the last, holes of dilation included."""
        return (self.size - 1) * self.dilation + 1

    def position(self, output: int, tap: int) -> int:
        """The relation itself. Positions below 0 or from ``input`` on are padding."""
        return output * self.stride + tap * self.dilation - self.before

    def valid_taps(self, output: int) -> range:
        """The numbers of the taps that fall inside the input."""
        start = self.position(output, 0)
        first = max(0, -(start // self.dilation))
        last = min(self.size, (self.input - 1 - start) // self.dilation + 1)
        return range(first, max(first, last))

    def taps(self, output: int) -> list[int]:
        """The input positions that an output looks at."""
        return [self.position(output, tap) for tap in self.valid_taps(output)]

    def outputs(self, input: int) -> list[tuple[int, int]]:
        """The (output, tap) pairs that look at an input: where its gradient comes from."""
        pairs = []
        for tap in reversed(range(self.size)):
            at = input + self.before - tap * self.dilation
            if at >= 0 and at % self.stride == 0 and at // self.stride < self.output:
                pairs.append((at // self.stride, tap))
        return pairs

    @property
    def interior(self) -> range:
        """The outputs all of whose taps fall inside the input."""
        first = -(-self.before // self.stride)
        last = (self.input + self.before - self.extent) // self.stride + 1
        return range(min(first, self.output), max(min(first, self.output), min(last, self.output)))

    @property
    def tap_count(self) -> int:
        """Taps inside the input, over all outputs: what a convolution really multiplies on this axis."""
        inside = self.interior
        edges = (o for o in range(self.output) if o not in inside)
        return len(inside) * self.size + sum(len(self.valid_taps(o)) for o in edges)

    def counted(self, output: int, include_pad: bool = True) -> int:
        """The taps that average pooling divides by; with ``include_pad`` those in the padding too, but none beyond it."""
        if not include_pad:
            return len(self.valid_taps(output))
        room = self.input + self.after - self.position(output, 0)
        return max(0, min(self.size, -(-room // self.dilation)))


@dataclass(frozen=True)
class AdaptiveAxis:
    """An axis whose windows vary so that they cover the input evenly: output o looks at ``[⌊o·I/O⌋, ⌈(o+1)·I/O⌉)``.

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
        """Taps of one whole window, padding counted."""
        return prod(self.size)

    @property
    def tap_count(self) -> int:
        """Taps inside the input, over all outputs. Times the channels in a group and the output channels: exact MACs."""
        return prod(a.tap_count for a in self.axes)

    def __iter__(self) -> Iterator[Axis]:
        return iter(self.axes)


@dataclass(frozen=True)
class Field:
    """The receptive field of a stack of windows on one axis: output o sees the inputs ``[first(o), last(o)]``.

    .. math:: r ← r + (extent - 1)·j, \\quad j ← j·stride, \\quad start ← start - before·j

    size: inputs seen by one output [px]; jump: inputs between neighbouring outputs [px]; start: the first input output 0 sees,
    negative where it sees padding.

    >>> f = Field()
    >>> for _ in range(3):
    ...     f = f.then(Axis(32, 32, size=3, before=1, after=1))
    >>> f.size, f.jump, f.start
    (7, 1, -3)
    """

    size: int = 1
    jump: int = 1
    start: int = 0

    def then(self, axis: Axis) -> Field:
        """The field after one more window."""
        return Field(self.size + (axis.extent - 1) * self.jump, self.jump * axis.stride, self.start - axis.before * self.jump)

    def union(self, other: Field) -> Field:
        """The field of two branches that meet."""
        if self.jump != other.jump:
            raise ValueError(f"branches that meet have the same jump, got {self.jump} and {other.jump}")
        start = min(self.start, other.start)
        return Field(max(self.start + self.size, other.start + other.size) - start, self.jump, start)

    def first(self, output: int) -> int:
        return self.start + output * self.jump

    def last(self, output: int) -> int:
        return self.first(output) + self.size - 1
