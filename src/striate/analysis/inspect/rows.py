"""The rows of a report: cost, memory and receptive field of each layer call and each operation outside of layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any

from ...graph.cost import FLOPS_PER_MAC, backward_macs, macs, macs_inside
from ...graph.neighbours import Part, parts_of
from ...graph.recording import ModuleCall, Recording
from .fields import Extent, Fields

__all__ = ["BOUND", "EXACT", "ONE_RUN", "UNKNOWN", "Layer", "Rows"]

EXACT, BOUND, UNKNOWN, ONE_RUN = "exact", "upper bound", "unknown", "this input"


@dataclass(frozen=True)
class Layer:
    """A row: one call of a layer, or one operation outside of layers.

    name: the module's path, with the number of the call from the second on; for an operation, the path of the module
    around it and the operator's name. output_shape: the shape of the first output. weight_shape: the shape of the
    weight, or of the largest parameter if none is called that.
    parameters: the number of parameter values that are first read here. macs: multiply-adds with all taps; flops: 2 for
    each; macs_inside: macs without the taps that fall into the padding; backward_macs: those of the gradients, with all
    taps.
    activation_bytes: size of the outputs. kept_bytes: size of what autograd saves here for the backward pass and did
    not save before.
    receptive_field: size, jump and offset for each axis of the input [px], or None. line: the line of the model's code.
    status: whether "output_shape", "macs", "kept_bytes" and "receptive_field" are exact, an upper bound, unknown, or
    valid for this input only.
    """

    name: str
    type: str
    output_shape: tuple[int, ...]
    weight_shape: tuple[int, ...] | None
    parameters: int
    macs: int | None
    flops: int | None
    backward_macs: int | None
    activation_bytes: int
    kept_bytes: int
    receptive_field: dict[str, list[float]] | None
    status: dict[str, str]
    line: str | None
    macs_inside: int | None = None
    value: int | None = field(default=None, repr=False)  # index of the output in the recording
    call: int | None = field(default=None, repr=False)


class Rows:
    """Builds the rows of a recording, and their totals."""

    def __init__(self, recording: Recording, fields: Fields) -> None:
        self.recording, self.fields = recording, fields
        parts = parts_of(recording)
        self.owned = self._owners(parts)
        self.kept = self._kept(parts)
        self.names: dict[str, int] = {}
        self.layers = [
            self._call(part.call, part) if part.call is not None else self._operation(part) for part in parts
        ]
        self._unused()
        self.totals = self._totals()

    def _owners(self, parts: list[Part]) -> dict[int, Part]:
        """Maps each parameter to the part that reads it first, or else to a part whose module holds it."""
        owners: dict[int, Part] = {}
        values = self.recording.values
        for part in parts:
            for op in part.operations:
                for value in op.inputs:
                    self._own(owners, self.recording.origin(value), part)
        held = {id(p): v for v, p in ((v, self._tensor(v.name)) for v in values if v.is_parameter and v.name)}
        for part in parts:
            for parameter in () if part.call is None else part.call.module.parameters(recurse=False):
                if id(parameter) in held:
                    self._own(owners, held[id(parameter)].index, part)
        return owners

    def _own(self, owners: dict[int, Part], value: int, part: Part) -> None:
        if self.recording.values[value].is_parameter:
            owners.setdefault(value, part)

    def _tensor(self, name: str) -> Any:
        path, _, last = name.rpartition(".")
        return self.recording.model.get_submodule(path)._parameters.get(last)

    def _kept(self, parts: list[Part]) -> dict[int, int]:
        """Maps the index of each part to the bytes that autograd saves in it."""
        found: dict[int, int] = {}
        by_call = {part.call.index: part.index for part in parts if part.call is not None}
        operations = [(part.operations[0].index, part.index) for part in parts if part.call is None]
        for saved in self.recording.saved:
            place = by_call.get(saved.call) if saved.call is not None else None
            if place is None:
                place = next(
                    (p for index, p in operations if index >= saved.operation),
                    operations[-1][1] if operations else len(parts) - 1,
                )
            found[place] = found.get(place, 0) + saved.bytes
        return found

    # ------------------------------------------------------------------------------------------------------------- rows

    def _call(self, call: ModuleCall, part: Part) -> Layer:
        name = call.path or type(call.module).__name__
        name = f"{name} (call {call.number + 1})" if call.number else name
        return self._row(name, type(call.module).__name__, part, call.line, call.index)

    def _operation(self, part: Part) -> Layer:
        (op,) = part.operations
        word = op.name.split(".", 1)[1].strip("_").removesuffix("_with_indices").removeprefix("native_")
        path = self.recording.calls[op.call].path if op.call is not None else ""
        name = f"{path}.{word}" if path else word
        self.names[name] = self.names.get(name, 0) + 1
        name = name if self.names[name] == 1 else f"{name}_{self.names[name]}"
        return self._row(name, word, part, op.line, op.call)

    def _row(self, name: str, kind: str, part: Part, line: str | None, call: int | None) -> Layer:
        operations, outputs = part.operations, part.outputs
        values = self.recording.values
        output = outputs[0] if outputs else None
        owned = [values[v] for v, row in self.owned.items() if row is part]
        read = [values[v] for op in operations for v in map(self.recording.origin, op.inputs) if values[v].is_parameter]
        weights = [v for v in read if (v.name or "").split(".")[-1].startswith("weight")] or read
        counted = [macs(self.recording, op) for op in operations]
        inside = [macs_inside(self.recording, op) for op in operations]
        backward = [backward_macs(self.recording, op) for op in operations]
        extents = [
            None if output is None else self.fields.extent(output, axis) for axis in self.fields.axes if axis[0] == 0
        ]
        known = all(n is not None for n in counted)
        sum_ = sum(n or 0 for n in counted) if known else None
        exact = ONE_RUN if self.recording.reason else EXACT
        bound = any(e is not None and not e.exact for e in extents)
        return Layer(
            name=name,
            type=kind,
            output_shape=values[output].shape if output is not None else (),
            weight_shape=max(weights, key=lambda v: prod(v.shape)).shape if weights else None,
            parameters=sum(prod(v.shape) for v in owned),
            macs=sum_,
            flops=None if sum_ is None else FLOPS_PER_MAC * sum_,
            backward_macs=sum(n or 0 for n in backward) if known else None,
            activation_bytes=sum(values[v].bytes for v in dict.fromkeys(outputs)),
            kept_bytes=self.kept.get(part.index, 0),
            receptive_field=_field_dict(extents),
            status={
                "output_shape": exact,
                "macs": exact if known else UNKNOWN,
                # The workspace of a recurrent layer is not known without values.
                "kept_bytes": UNKNOWN if any(op.is_a("recurrent") for op in operations) else exact,
                "receptive_field": UNKNOWN if output is None else BOUND if bound else exact,
            },
            line=line,
            macs_inside=sum(n or 0 for n in inside) if known else None,
            value=output,
            call=call,
        )

    def _unused(self) -> None:
        """Adds a row for the parameters that no operation reads, if there are any."""
        left = [v for v in self.recording.values if v.is_parameter and v.index not in self.owned]
        if left:
            status = {name: EXACT for name in ("output_shape", "macs", "kept_bytes", "receptive_field")}
            self.layers.append(
                Layer(
                    "(not called)",
                    "parameters",
                    (),
                    None,
                    sum(prod(v.shape) for v in left),
                    0,
                    0,
                    0,
                    0,
                    0,
                    None,
                    status,
                    None,
                )
            )

    def _totals(self) -> dict[str, int | None]:
        recording = self.recording
        parameters = [p for p in recording.model.parameters()]
        counted = [macs(recording, op) for op in recording.operations]
        inside = [macs_inside(recording, op) for op in recording.operations]
        backward = [backward_macs(recording, op) for op in recording.operations]
        total = None if None in counted else sum(n or 0 for n in counted)
        return {
            "parameters": sum(p.numel() for p in parameters),
            "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
            "parameter_bytes": sum(p.numel() * p.element_size() for p in parameters),
            "macs": total,
            "flops": None if total is None else FLOPS_PER_MAC * total,
            "macs_inside": None if None in inside else sum(n or 0 for n in inside),
            "backward_macs": None if None in backward else sum(n or 0 for n in backward),
            "activation_bytes": sum(layer.activation_bytes for layer in self.layers),
            "kept_bytes": sum(kept.bytes for kept in recording.saved),
        }


def _field_dict(extents: Iterable[Extent | None]) -> dict[str, list[float]] | None:
    listed = list(extents)
    if not listed or any(extent is None for extent in listed):
        return None
    fields = [extent.field for extent in listed if extent is not None]
    jumps = [f.jump if isinstance(f.jump, int) else float(f.jump) for f in fields]
    starts = [min(a for a, _ in filter(None, f.spans)) if f.span(0) is None else f.start for f in fields]
    return {"size": [f.size for f in fields], "jump": list(jumps), "offset": list(starts)}
