"""The data of a profile: the times of a step and its layers, with the limits that they are compared with."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ...measure import beyond

__all__ = ["LayerTime", "StepTimes"]

VERSION = 3  # of the format that to_dict returns


class LayerTime(NamedTuple):
    """The times of one layer in a step, summed over its calls on the same shapes.

    path: its name in the model; type: the name of its class. For neighbours that are computed together both name all of
    them, as in ``0+1``. input_shapes: those of the tensors it was called with; calls: the number of calls on these
    shapes.

    forward_ms, backward_ms: medians over the steps [ms]; backward_ms is None where backward was not timed.
    macs: multiply-adds of forward; macs_inside: without the taps that fall into the padding; moved_bytes: the bytes
    that forward and backward must read and write; limit_ms: the least time for both at the machine's rates, with
    ``macs_inside`` [ms]; limited_by: what decides most of it, "arithmetic", "memory" or "cache". Each number is summed
    over the calls, and None if it is not known for this kind of layer.

    method: for a convolution, by pass ("forward", and "input" and "weight" for the gradients that are computed), the
    name of the method as in ``striate.ops.conv.NAMES``; for any other layer, under "forward", "native" where a kernel
    of striate's ran, "torch", or "none" where nothing had to be computed.
    map_ms, map_limit_ms: for a convolution, time and limit of one call of each pass, timed separately [ms];
    map_limited_by: what decides that limit.
    next_best: by pass, the fastest other method and its time [ms]; no entry if no other method can compute it.
    """

    path: str
    type: str
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    calls: int
    forward_ms: float
    backward_ms: float | None
    macs: int | None
    macs_inside: int | None
    moved_bytes: int | None
    limit_ms: float | None
    limited_by: str | None
    method: dict[str, str]
    map_ms: dict[str, float]
    map_limit_ms: dict[str, float]
    map_limited_by: dict[str, str]
    next_best: dict[str, tuple[str, float]]

    @property
    def ms(self) -> float:
        """Forward and backward together [ms]."""
        return self.forward_ms + (self.backward_ms or 0.0)

    @property
    def share_of_limit(self) -> float | None:
        """``limit_ms / ms``: 1 is as fast as the machine's rates allow. None where the limit is not known or 0."""
        return self.limit_ms / self.ms if self.limit_ms and self.ms > 0 else None

    @property
    def beyond_limit(self) -> str | None:
        """What a share of more than 100 % is, in words of ``striate.measure.ABOUT_BEYOND``; else None."""
        return beyond(self.share_of_limit, self.limited_by, any(map(_takes_fewer_macs, self.method.values())))

    def map_share(self, pass_: str) -> tuple[float, str | None]:
        """The share of its limit that one pass of a convolution reaches, and what it is above 100 %."""
        share = self.map_limit_ms[pass_] / self.map_ms[pass_]
        return share, beyond(share, self.map_limited_by[pass_], _takes_fewer_macs(self.method[pass_]))

    @property
    def methods(self) -> str:
        """The names of :attr:`method`, each once.

        >>> method = {"forward": "direct", "input": "direct", "weight": "torch"}
        >>> LayerTime("0", "Conv2d", (), (), 1, 1.0, 2.0, 0, 0, 0, 1.0, "cache", method, {}, {}, {}, {}).methods
        'direct, torch'
        """
        return ", ".join(dict.fromkeys(self.method.values()))


def _takes_fewer_macs(method: str) -> bool:
    return method.startswith("winograd")


@dataclass(frozen=True)
class StepTimes:
    """The numbers of a profile, for the whole step and for each layer.

    model: name of the class; input_shapes: those of the example; channels_last: its memory format; training: the
    model's mode;
    backward: whether backward was timed; machine: processor, instruction set and versions.
    copy_gb_per_s: bytes read and written by a copy far outside the last-level cache [GB/s]; cached_copy_gb_per_s: by
    one within it, None where its size is not known; peak_gflops: of the micro-kernel of striate's products on data in
    the first-level cache [GFLOP/s], or, if not ``micro_kernel``, of a product of matrices by torch.
    forward_ms, backward_ms: medians of whole steps in which no layer was timed [ms]; spread: their interquartile range
    over their median; interruptions_per_s: how often other work took a processor from the steps, which on an idle
    machine is close to never.
    layers: in the order in which they were first called.
    """

    model: str
    input_shapes: tuple[tuple[int, ...], ...]
    dtype: str
    channels_last: bool
    training: bool
    backward: bool
    rounds: int
    threads: int
    machine: dict[str, str]
    copy_gb_per_s: float
    cached_copy_gb_per_s: float | None
    peak_gflops: float
    micro_kernel: bool
    forward_ms: float
    backward_ms: float | None
    spread: float
    interruptions_per_s: float
    layers: tuple[LayerTime, ...]

    @property
    def step_ms(self) -> float:
        """Forward and backward together [ms]."""
        return self.forward_ms + (self.backward_ms or 0.0)

    @property
    def outside_forward_ms(self) -> float:
        """The part of forward outside the layers: functions called between them, and the calls themselves [ms]."""
        return self.forward_ms - sum(layer.forward_ms for layer in self.layers)

    @property
    def outside_backward_ms(self) -> float | None:
        """The part of backward outside the layers [ms]."""
        return (
            None
            if self.backward_ms is None
            else self.backward_ms - sum(layer.backward_ms or 0.0 for layer in self.layers)
        )

    @property
    def outside_ms(self) -> float:
        """Forward and backward together [ms]; below 0 where timing the layers costs more than what lies between them.
        """
        return self.outside_forward_ms + (self.outside_backward_ms or 0.0)

    def share(self, ms: float) -> float:
        """The fraction of the whole step that a time takes."""
        return ms / self.step_ms if self.step_ms > 0 else 0.0

    def slowest(self, top: int | None = None) -> tuple[LayerTime, ...]:
        """The ``top`` slowest layers, the slowest first; all layers in the order of their calls if None."""
        if top is None:
            return self.layers
        return tuple(sorted(self.layers, key=lambda layer: -layer.ms)[: max(0, top)])

    def to_dict(self) -> dict[str, Any]:
        """Returns all numbers as JSON types: lists, numbers, strings and None. ``version`` is that of the format, 3."""
        facts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "layers"}
        facts |= {"version": VERSION, "step_ms": self.step_ms}
        facts |= {"outside_forward_ms": self.outside_forward_ms, "outside_backward_ms": self.outside_backward_ms}
        facts["layers"] = [
            layer._asdict() | {"share_of_limit": layer.share_of_limit, "beyond_limit": layer.beyond_limit}
            for layer in self.layers
        ]
        plain: dict[str, Any] = json.loads(json.dumps(facts))
        return plain
