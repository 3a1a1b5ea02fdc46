"""The rows of a report: what each call of a layer, and each operation outside of layers, costs, keeps and sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any

from .cost import FLOPS_PER_MAC, backward_macs, macs
from .field import Extent, Fields
from .trace import FREE, Call, Graph, Node

__all__ = ["BOUND", "EXACT", "ONE_RUN", "UNKNOWN", "Layer", "Rows"]

EXACT, BOUND, UNKNOWN, ONE_RUN = "exact", "upper bound", "unknown", "this input"


@dataclass(frozen=True)
class Layer:
    """A row: one call of a layer, or one operation outside of layers.

    name: the module's path, with the number of the call where it is called again; for an operation that of the module
    it stands in and its own. output_shape and weight_shape: of the first output, and of the weight (of the largest
    parameter where none is called that).
    parameters: that are read here for the first time. macs, flops: multiply-adds, and 2 each; backward_macs: of the
    gradients.
    activation_bytes: of the outputs; kept_bytes: of what autograd keeps for the backward pass here and nowhere before.
    receptive_field: size, jump and offset for each axis of the input [px], or None. line: of the model's code.
    status: for "output_shape", "macs", "kept_bytes" and "receptive_field" whether it is exact, an upper bound, unknown,
    or holds for this input only.
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
    value: int | None = field(default=None, repr=False)  # the output in the graph
    call: int | None = field(default=None, repr=False)


class Rows:
    """The layers of a graph, and the sums over them."""

    def __init__(self, graph: Graph, fields: Fields) -> None:
        self.graph, self.fields = graph, fields
        nodes: dict[int | tuple[int], list[Node]] = {}  # of each row: a call's by its number, an operation by itself
        for node in graph.nodes:
            leaf = graph.leaf_of(node)
            nodes.setdefault(leaf.index if leaf is not None else (node.index,), []).append(node)
        starts: list[tuple[int, int, Call | Node]] = [
            (call.start, 0, call) for call in graph.calls if not call.has_calls
        ]
        alone = (found[0] for key, found in nodes.items() if isinstance(key, tuple))
        starts += [(node.index, 1, node) for node in alone if node.op not in FREE and node.outputs]
        starts.sort(key=lambda start: start[:2])
        self.owned = self._owners(nodes, starts)
        self.kept = self._kept(starts)
        self.names: dict[str, int] = {}
        self.layers = [
            self._call(one, nodes.get(one.index, [])) if isinstance(one, Call) else self._operation(one)
            for _, _, one in starts
        ]
        self._unused()
        self.totals = self._totals()

    def _owners(
        self, nodes: dict[Any, list[Node]], starts: list[tuple[int, int, Call | Node]]
    ) -> dict[int, Call | Node]:
        """For each parameter the row that reads it first, or has it."""
        owners: dict[int, Call | Node] = {}
        values = self.graph.values
        for _, _, one in starts:
            for node in nodes.get(one.index, []) if isinstance(one, Call) else [one]:
                for value in node.inputs:
                    self._own(owners, self.graph.origin(value), one)
        held = {id(p): v for v, p in ((v, self._tensor(v.name)) for v in values if v.is_parameter and v.name)}
        for _, _, one in starts:
            if isinstance(one, Call):
                for parameter in one.module.parameters(recurse=False):
                    if id(parameter) in held:
                        self._own(owners, held[id(parameter)].index, one)
        return owners

    def _own(self, owners: dict[int, Call | Node], value: int, row: Call | Node) -> None:
        if self.graph.values[value].is_parameter:
            owners.setdefault(value, row)

    def _tensor(self, name: str) -> Any:
        path, _, last = name.rpartition(".")
        return self.graph.model.get_submodule(path)._parameters.get(last)

    def _kept(self, starts: list[tuple[int, int, Call | Node]]) -> dict[int, int]:
        """Bytes kept for backward, by the place of the row that keeps them."""
        found: dict[int, int] = {}
        by_call = {one.index: place for place, (_, _, one) in enumerate(starts) if isinstance(one, Call)}
        operations = [(one.index, place) for place, (_, _, one) in enumerate(starts) if isinstance(one, Node)]
        for kept in self.graph.kept:
            place = by_call.get(kept.call) if kept.call is not None else None
            if place is None:
                place = next(
                    (p for index, p in operations if index >= kept.node),
                    operations[-1][1] if operations else len(starts) - 1,
                )
            found[place] = found.get(place, 0) + kept.bytes
        return {id(starts[place][2]): size for place, size in found.items()}

    # ------------------------------------------------------------------------------------------------------------- rows

    def _call(self, call: Call, nodes: list[Node]) -> Layer:
        name = call.path or type(call.module).__name__
        name = f"{name} (call {call.number + 1})" if call.number else name
        return self._row(name, type(call.module).__name__, call, nodes, call.outputs, call.line, call.index)

    def _operation(self, node: Node) -> Layer:
        word = node.op.split(".", 1)[1].strip("_").removesuffix("_with_indices").removeprefix("native_")
        path = self.graph.calls[node.call].path if node.call is not None else ""
        name = f"{path}.{word}" if path else word
        self.names[name] = self.names.get(name, 0) + 1
        name = name if self.names[name] == 1 else f"{name}_{self.names[name]}"
        return self._row(name, word, node, [node], node.outputs, node.line, node.call)

    def _row(
        self,
        name: str,
        kind: str,
        one: Call | Node,
        nodes: list[Node],
        outputs: tuple[int, ...],
        line: str | None,
        call: int | None,
    ) -> Layer:
        values = self.graph.values
        output = outputs[0] if outputs else None
        owned = [values[v] for v, row in self.owned.items() if row is one]
        read = [values[v] for node in nodes for v in map(self.graph.origin, node.inputs) if values[v].is_parameter]
        weights = [v for v in read if (v.name or "").split(".")[-1].startswith("weight")] or read
        counted = [macs(self.graph, node) for node in nodes]
        backward = [backward_macs(self.graph, node) for node in nodes]
        extents = [
            None if output is None else self.fields.extent(output, axis) for axis in self.fields.axes if axis[0] == 0
        ]
        known = all(n is not None for n in counted)
        sum_ = sum(n or 0 for n in counted) if known else None
        exact = ONE_RUN if self.graph.reason else EXACT
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
            kept_bytes=self.kept.get(id(one), 0),
            receptive_field=_told(extents),
            status={
                "output_shape": exact,
                "macs": exact if known else UNKNOWN,
                # what a recurrent layer works in is not told without values
                "kept_bytes": UNKNOWN if any(node.op.startswith("aten.mkldnn_rnn") for node in nodes) else exact,
                "receptive_field": UNKNOWN if output is None else BOUND if bound else exact,
            },
            line=line,
            value=output,
            call=call,
        )

    def _unused(self) -> None:
        """Parameters that no operation reads, in a row of their own."""
        left = [v for v in self.graph.values if v.is_parameter and v.index not in self.owned]
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
        graph = self.graph
        parameters = [p for p in graph.model.parameters()]
        counted = [macs(graph, node) for node in graph.nodes]
        backward = [backward_macs(graph, node) for node in graph.nodes]
        total = None if None in counted else sum(n or 0 for n in counted)
        return {
            "parameters": sum(p.numel() for p in parameters),
            "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
            "parameter_bytes": sum(p.numel() * p.element_size() for p in parameters),
            "macs": total,
            "flops": None if total is None else FLOPS_PER_MAC * total,
            "backward_macs": None if None in backward else sum(n or 0 for n in backward),
            "activation_bytes": sum(layer.activation_bytes for layer in self.layers),
            "kept_bytes": sum(kept.bytes for kept in graph.kept),
        }


def _told(extents: Iterable[Extent | None]) -> dict[str, list[float]] | None:
    listed = list(extents)
    if not listed or any(extent is None for extent in listed):
        return None
    fields = [extent.field for extent in listed if extent is not None]
    jumps = [f.jump if isinstance(f.jump, int) else float(f.jump) for f in fields]
    starts = [min(a for a, _ in filter(None, f.spans)) if f.span(0) is None else f.start for f in fields]
    return {"size": [f.size for f in fields], "jump": list(jumps), "offset": list(starts)}
