"""Computes receptive fields on the recording: which part of the input a unit of any layer sees, and which units depend
on an input pixel.

There are two computations over the same links. *Fields* are propagated forward through the whole recording once and
hold for every unit: on each axis of the input a periodic interval (:class:`striate.window.Field`), which includes
padding and extends beyond the image. *Sets* are computed backward for one unit, or forward for one pixel, and contain
the exact positions inside the image, with the gaps of dilation.

Each axis is followed separately. Where branches meet, the set is the union on each axis. If no branch contains the
others (a row and a column that form a cross), the true set is smaller than the product of the axes, and the result is
marked as an upper bound. The interval remains exact.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

from ...graph.links import SAME, Along, Anywhere, Link, Regroup, links_of
from ...graph.recording import Recording
from ...window import Field, Look

__all__ = ["Extent", "Fields", "Seen", "reached_from", "seen_by"]

Axes = tuple[int, int]  # an input of the model, and an axis of it
PHASES = 2**16  # a field with more phases is replaced by an interval that covers what all its units see


class Place(NamedTuple):
    """The part of a tensor's axis that selects a unit's field: ``index // inner % size``. An axis that was merged from
    several has one place for each.
    """

    axis: int
    inner: int
    size: int


class Extent(NamedTuple):
    """The receptive field on one axis of the input."""

    field: Field
    exact: bool


class _State:
    """The fields of a tensor: for each axis of an input, the fields by place, and the span that all its units see."""

    def __init__(self) -> None:
        self.fields: dict[Axes, dict[Place, Field]] = {}
        self.always: dict[Axes, tuple[int, int]] = {}
        self.narrowed: set[Place] = set()  # units at some of these places see less than their fields
        self.exact = True

    def see(self, axis: Axes | None, span: tuple[int, int] | None) -> None:
        if span is not None and axis is not None:
            old = self.always.get(axis, span)
            self.always[axis] = (min(old[0], span[0]), max(old[1], span[1]))

    def add(self, axis: Axes | None, place: Place, field: Field) -> None:
        if axis is None:
            self.narrowed.add(place)
            return
        fields = self.fields.setdefault(axis, {})
        old = fields.get(place)
        try:
            fields[place] = field if old is None else old.union(field)
        except ValueError:  # their jumps differ: each is replaced by a span that covers all its units
            assert old is not None
            del fields[place]
            for one in (old, field):
                self.see(axis, one.over(0, place.size - 1))
            self.exact = False


class Fields:
    """The fields of all tensors of a recording.

    axes: the axes of the inputs that are followed, all except the first two (batch and channels).
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.states: dict[int, _State] = {}
        self.axes: list[Axes] = []
        for number, value in enumerate(recording.inputs):
            shape, state = recording.values[value].shape, _State()
            for axis in range(2, len(shape)):
                self.axes.append((number, axis))
                state.add((number, axis), Place(axis, 1, shape[axis]), Field())
            self.states[value] = state
        for op in recording.operations:
            for output, links in zip(op.outputs, links_of(recording, op), strict=True):
                self.states[output] = _joined(recording, self.states, output, links)

    def extent(self, value: int, axis: Axes) -> Extent | None:
        """The receptive field of a tensor's units on an axis of an input; None if they see nothing of it."""
        state = self.states.get(value)
        if state is None:
            return None
        fields, always = state.fields.get(axis, {}), state.always.get(axis)
        if not fields and always is None:
            return None
        if len(fields) == 1 and always is None:
            return Extent(next(iter(fields.values())), state.exact and not state.narrowed)
        spans = [span for place, field in fields.items() if (span := field.over(0, place.size - 1)) is not None]
        if always is not None:
            spans.append(always)
        whole = Field(((min(a for a, _ in spans), max(b for _, b in spans)),), 0)
        covered = always is not None and always[0] <= 0 and always[1] >= self.size(axis) - 1
        return Extent(whole, state.exact and not state.narrowed and (covered or not fields))

    def size(self, axis: Axes) -> int:
        return self.recording.values[self.recording.inputs[axis[0]]].shape[axis[1]]

    def place(self, value: int, axis: Axes) -> Place | None:
        """The place in a tensor that follows an axis of the input; None if there is none or more than one."""
        state = self.states.get(value)
        places = list(state.fields.get(axis, {})) if state is not None else []
        return places[0] if len(places) == 1 else None


def _joined(recording: Recording, states: dict[int, _State], output: int, links: Sequence[Link]) -> _State:
    made = _State()
    several = len({link.value for link in links if link.value in states}) > 1
    for link in links:
        state = states.get(link.value)
        if state is None or not (state.fields or state.always):
            continue
        made.exact &= state.exact and link.exact
        if several and link.within is not None and link.within[0] > 1:
            # Batch and channels (axes 0 and 1) do not narrow fields, since a unit counts with all its channels.
            made.narrowed.add(Place(link.within[0], 1, recording.values[output].shape[link.within[0]]))
        if link.narrows is not None:
            made.narrowed.add(Place(link.narrows, 1, recording.values[output].shape[link.narrows]))
        for axis, span in state.always.items():
            made.see(axis, span)
        for axis, fields in state.fields.items():
            for place, field in fields.items():
                _follow(recording, link, axis, place, field, made, output)
        for place in state.narrowed:
            _follow(recording, link, None, place, Field(), made, output)
    return made


def _follow(
    recording: Recording, link: Link, axis: Axes | None, place: Place, field: Field, made: _State, output: int
) -> None:
    """Adds to ``made`` what a field becomes over a link. axis: None for a place that narrows the fields of others."""
    whole = recording.values[link.value].shape[place.axis]
    if isinstance(link.axes, Regroup):
        _regrouped(recording, link, axis, place, field, made, output)
        return
    along = link.axes[place.axis]
    alone = place.inner == 1 and place.size == whole
    size = recording.values[output].shape[along.axis] if isinstance(along, Along) else 0
    if isinstance(along, Along) and along.look == SAME and size == whole:
        made.add(axis, place._replace(axis=along.axis), field)
    elif isinstance(along, Along) and alone and (axis is None or field.phases(along.look) <= PHASES):
        made.add(axis, Place(along.axis, 1, size), field if axis is None else field.then(along.look))
        made.exact &= along.ends is None
    elif isinstance(along, Anywhere) and alone and along.positions:
        made.see(axis, field.over(along.positions[0], along.positions[-1]))
        made.exact &= axis is not None or len(along.positions) == whole
    else:
        made.see(axis, field.over(0, place.size - 1))
        made.exact &= isinstance(along, Anywhere) and len(along.positions) == whole


def _regrouped(
    recording: Recording, link: Link, axis: Axes | None, place: Place, field: Field, made: _State, output: int
) -> None:
    assert isinstance(link.axes, Regroup)
    before, after = recording.values[link.value].shape, recording.values[output].shape
    input_axes, output_axes = next(group for group in link.axes.groups if place.axis in group[0])
    # Position numbers within the group are index // left % size.
    left, size = place.inner * prod(before[k] for k in input_axes if k > place.axis), place.size
    for k in reversed(output_axes):
        n = after[k]
        if left >= n and left % n == 0:
            left //= n
            continue
        room = n // left
        if n % left == 0 and size <= room and (room % size == 0 or k == output_axes[0]):
            made.add(axis, Place(k, left, size), field)
            return
        if n % left or size % room:  # the split does not align with the place
            made.see(axis, field.over(0, place.size - 1))
            made.exact = False
            return
        # The place is split between this axis and those before it: those keep a coarser field, which the position on
        # this axis narrows.
        made.narrowed.add(Place(k, left, room))
        field, size, left = field.then(Look((range(room),), room)), size // room, 1
    if size == 1:
        made.see(axis, field.over(0, 0))


# ----------------------------------------------------------------------------------------------------------------- sets

Set = Collection[int]  # of positions on an axis


class Seen(NamedTuple):
    """Positions on each axis of a tensor; exact: False where the true set may be smaller than their product."""

    axes: tuple[Set, ...]
    exact: bool = True


def _met(one: Seen | None, other: Seen) -> Seen:
    """The union of two sets; not exact if neither contains the other and they differ on more than one axis."""
    if one is None:
        return other
    more = [_missing(b, a) for a, b in zip(one.axes, other.axes, strict=True)]
    less = [_missing(a, b) for a, b in zip(one.axes, other.axes, strict=True)]
    contained = not any(more) or not any(less)
    one_axis = sum(bool(m) or bool(n) for m, n in zip(more, less, strict=True)) <= 1
    axes = tuple(
        a if not m else b if not n else frozenset(a).union(m)
        for a, b, m, n in zip(one.axes, other.axes, more, less, strict=True)
    )
    return Seen(axes, one.exact and other.exact and (contained or one_axis))


def _missing(one: Set, other: Set) -> Set:
    """The elements of one set that are not in the other."""
    if isinstance(other, range) and one and other.start <= min(one) and max(one) < other.stop:
        return ()
    return set(one).difference(other)


def _all(shape: Sequence[int]) -> tuple[range, ...]:
    return tuple(map(range, shape))


def seen_by(recording: Recording, value: int, units: Seen) -> dict[int, Seen]:
    """Maps the number of each model input to the positions of it that these units of a tensor see."""
    wanted: dict[int, Seen] = {value: units}
    for op in reversed(recording.operations):
        if not any(output in wanted for output in op.outputs):
            continue
        for output, links in zip(op.outputs, links_of(recording, op), strict=True):
            given = wanted.get(output)
            if given is None or not all(map(len, given.axes)):
                continue
            for link in links:
                if link.within is not None and not any(p in link.within[1] for p in given.axes[link.within[0]]):
                    continue
                found = _backward(recording, link, given, recording.values[output].shape)
                if all(map(len, found.axes)):
                    wanted[link.value] = _met(wanted.get(link.value), found)
    return {number: wanted[v] for number, v in enumerate(recording.inputs) if v in wanted}


def _backward(recording: Recording, link: Link, units: Seen, shape: Sequence[int]) -> Seen:
    size = recording.values[link.value].shape
    if isinstance(link.axes, Regroup):
        found, exact = _reindexed(link.axes, units.axes, shape, size, back=True)
        return Seen(found, units.exact and link.exact and exact)
    axes: list[Set] = []
    for n, along in zip(size, link.axes, strict=True):
        if isinstance(along, Anywhere):
            axes.append(along.positions)
        else:
            given = units.axes[along.axis]
            look = along.ends or along.look
            axes.append(given if look == SAME and n == shape[along.axis] else look.inputs(given, n))
    return Seen(tuple(axes), units.exact and link.exact)


def reached_from(recording: Recording, value: int, pixels: dict[int, Seen]) -> Seen | None:
    """The units of a tensor that see any of these positions. pixels: by the number of the input. None if no unit does.
    """
    reached = {recording.inputs[number]: seen for number, seen in pixels.items()}
    if value in reached:
        return reached[value]
    for op in recording.operations:
        if not any(v in reached for v in op.inputs):
            continue
        for output, links in zip(op.outputs, links_of(recording, op), strict=True):
            for link in links:
                given = reached.get(link.value)
                found = None if given is None else _forward(recording, link, given, recording.values[output].shape)
                if found is not None:
                    reached[output] = _met(reached.get(output), found)
        if value in op.outputs:
            break
    return reached.get(value)


def _forward(recording: Recording, link: Link, given: Seen, shape: Sequence[int]) -> Seen | None:
    size = recording.values[link.value].shape
    if isinstance(link.axes, Regroup):
        found, exact = _reindexed(link.axes, given.axes, size, shape, back=False)
        return Seen(found, given.exact and link.exact and exact)
    axes: list[Set] = list(_all(shape))
    if link.within is not None:
        axes[link.within[0]] = link.within[1]
    for n, positions, along in zip(size, given.axes, link.axes, strict=True):
        if isinstance(along, Anywhere):
            if not any(p in along.positions for p in positions):
                return None
        elif along.look == SAME and along.ends is None and n == shape[along.axis]:
            axes[along.axis] = _both(axes[along.axis], positions)
        else:
            axes[along.axis] = _both(
                axes[along.axis], (along.ends or along.look).outputs(frozenset(positions), shape[along.axis])
            )
    return Seen(tuple(axes), given.exact and link.exact) if all(map(len, axes)) else None


def _both(one: Set, other: Set) -> Set:
    return other if not _missing(other, one) else frozenset(one) & frozenset(other)


def _reindexed(
    regroup: Regroup, given: Sequence[Set], have: Sequence[int], want: Sequence[int], back: bool
) -> tuple[tuple[Set, ...], bool]:
    """Maps positions over merged or split axes. The result is exact if each group's set is a product of its new axes.
    """
    axes: list[Set] = list(_all(want))
    exact = True
    for input_axes, output_axes in regroup.groups:
        source, target = (output_axes, input_axes) if back else (input_axes, output_axes)
        if all(len(given[k]) == have[k] for k in source):
            continue
        steps = [prod(have[k] for k in source if k > j) for j in source]
        numbers = {sum(p * s for p, s in zip(at, steps, strict=True)) for at in product(*(given[k] for k in source))}
        count = 1
        for k in target:
            step = prod(want[j] for j in target if j > k)
            axes[k] = frozenset(number // step % want[k] for number in numbers)
            count *= len(axes[k])
        exact &= count == len(numbers)
    return tuple(axes), exact


def units_of(shape: Sequence[int], unit: Iterable[int], axes: Sequence[int] | None = None) -> Seen:
    """The set of one unit of the first sample, in all channels: its positions on ``axes``, by default all except batch
    and channels.
    """
    found: list[Set] = list(_all(shape))
    where = range(2, len(shape)) if axes is None else axes
    if shape and 0 not in where:
        found[0] = range(1)
    for axis, place in zip(where, unit, strict=True):
        found[axis] = range(place, place + 1)
    return Seen(tuple(found))
