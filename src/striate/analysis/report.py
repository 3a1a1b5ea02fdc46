"""A network's size, cost and receptive field, layer by layer, before any of it is computed.

>>> from striate import models
>>> report = inspect(models.lenet5(), (1, 1, 28, 28))
>>> report.totals["parameters"], report.totals["macs"]
(1256080, 6522000)
>>> report.receptive_field("5", unit=(0, 0)).rectangle  # the second pooling
((0, 9), (0, 9))
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import Module

from ..errors import ArgumentError, ShapeError, build
from .cost import FLOPS_PER_MAC, backward_macs, macs
from .field import Axes, Extent, Fields, Seen, fields_of, reached_from, seen_by, units_of
from .trace import WRITTEN, Call, Graph, Node, trace

if TYPE_CHECKING:
    from .lint import Finding

__all__ = ["Layer", "ReceptiveField", "Report", "inspect"]

VERSION = 1  # of to_dict's form
EXACT, BOUND, UNKNOWN, ONE_RUN = "exact", "upper bound", "unknown", "this input"
# Operations that only say how the same values are read, or make tensors of none: no row of their own.
FREE = frozenset(
    f"aten.{name}"
    for name in (
        *("view", "_unsafe_view", "t", "transpose", "permute", "unsqueeze", "squeeze", "expand", "detach", "alias", "select", "slice"),
        *("split", "split_with_sizes", "unbind", "as_strided", "as_strided_", "reshape", "clone", "contiguous", "_to_copy", "lift_fresh"),
        *("empty", "zeros", "ones", "full", "arange", "scalar_tensor", "new_empty", "new_zeros", "zeros_like", "ones_like", "empty_like"),
    )
) | {WRITTEN}


@dataclass(frozen=True)
class Layer:
    """A row: one call of a layer, or one operation outside of layers.

    name: the module's path, with the number of the call where it is called again; for an operation that of the module it stands in and
    its own. output_shape and weight_shape: of the first output, and of the weight (of the largest parameter where none is called that).
    parameters: that are read here for the first time. macs, flops: multiply-adds, and 2 each; backward_macs: of the gradients.
    activation_bytes: of the outputs; kept_bytes: of what autograd keeps for the backward pass here and nowhere before.
    receptive_field: size, jump and offset for each axis of the input [px], or None. line: of the model's code.
    status: for "output_shape", "macs", "kept_bytes" and "receptive_field" whether it is exact, an upper bound, unknown, or holds for
    this input only.
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


class ReceptiveField(NamedTuple):
    """What one unit of a layer sees.

    rectangle: on each axis of the input from the first to the last position, inside the image; None where it sees none of it.
    taps: on each axis the positions themselves, without the holes of dilation. exact: False where branches cross and fewer of the
    product of these positions may be seen; rectangle is exact all the same unless ``status`` says otherwise.
    size, jump, offset: as for the layer, padding included.
    """

    rectangle: tuple[tuple[int, int], ...] | None
    taps: tuple[tuple[int, ...], ...]
    exact: bool
    status: str


@dataclass(eq=False)
class Report:
    """What :func:`inspect` found. ``print(report)`` shows it as a table."""

    model: str
    graph: Graph
    fields: Fields
    layers: list[Layer]
    totals: dict[str, int | None]
    notes: list[str]
    findings: list[Finding] = field(default_factory=list)
    optimizer: torch.optim.Optimizer | None = None

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        return [self.graph.values[v].shape for v in self.graph.inputs]

    # -------------------------------------------------------------------------------------------------------- receptive fields

    def layer(self, name: str) -> Layer:
        """The row of that name."""
        found = [layer for layer in self.layers if layer.name == name]
        if not found:
            near = [layer.name for layer in self.layers if name and layer.name.endswith(name)] or [layer.name for layer in self.layers]
            few = ", ".join(near[:8]) + (" …" if len(near) > 8 else "")
            raise ArgumentError(build("Report.layer", f"one of {few}", repr(name), do="Choose the name of a row."))
        return found[0]

    def axes(self, input: int = 0) -> list[Axes]:
        """The axes of one of the model's inputs that receptive fields are told for."""
        return [axis for axis in self.fields.axes if axis[0] == input]

    def unit_axes(self, layer: str) -> tuple[int, ...]:
        """The axes of a layer's output that say where a unit stands: those that follow the axes of the first input, wherever they are; if
        they cannot be told, all behind batch and channels.

        >>> from torch import nn
        >>> report = inspect(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(2), nn.Linear(36, 5)), (1, 3, 8, 8))
        >>> report.unit_axes("0"), report.unit_axes("1")
        ((2, 3), (2,))
        """
        row = self.layer(layer)
        places = [None if row.value is None else self.fields.place(row.value, axis) for axis in self.axes()]
        found = tuple(place.axis for place in places if place is not None and place.size == row.output_shape[place.axis])
        return found if len(found) == len(places) == len(set(found)) else tuple(range(2, len(row.output_shape)))

    def receptive_field(self, layer: str, unit: Sequence[int] | None = None, input: int = 0) -> ReceptiveField:
        """Which part of an input a unit of a layer sees.

        unit: its place on the output's axes that follow the image's (:meth:`unit_axes`), the middle one if None; input: the number
        of the model's input.

        Raises ArgumentError for a layer or unit there is not.

        >>> from torch import nn
        >>> report = inspect(nn.Sequential(nn.Conv2d(1, 1, 3, padding=2, dilation=2), nn.MaxPool2d(2)), (1, 1, 16, 16))
        >>> report.receptive_field("0", unit=(8, 0))
        ReceptiveField(rectangle=((6, 10), (0, 2)), taps=((6, 8, 10), (0, 2)), exact=True, status='exact')
        """
        value, units = self._units(layer, unit)
        seen = seen_by(self.graph, value, units).get(input)
        axes = self.axes(input)
        if seen is None or not axes:
            return ReceptiveField(None, tuple(() for _ in axes), True, EXACT)
        taps = tuple(tuple(sorted(seen.axes[axis])) for _, axis in axes)
        extents = [self.fields.extent(value, axis) for axis in axes]
        bound = any(extent is not None and not extent.exact for extent in extents)
        status = ONE_RUN if self.graph.reason else BOUND if bound else EXACT
        rectangle = tuple((t[0], t[-1]) for t in taps) if all(taps) else None
        return ReceptiveField(rectangle, taps, seen.exact, status)

    def projective_field(self, layer: str, pixel: Sequence[int], input: int = 0) -> ReceptiveField:
        """Which units of a layer an input's pixel reaches: the same answer, on the axes of :meth:`unit_axes`.

        Raises ArgumentError for a layer or pixel there is not.

        >>> from torch import nn
        >>> report = inspect(nn.Conv2d(1, 1, 3, stride=2), (1, 1, 9, 9))
        >>> report.projective_field("Conv2d", (4, 0)).rectangle
        ((1, 2), (0, 0))
        """
        value = self.layer(layer).value
        axes = self.axes(input)
        given = self.graph.values[self.graph.inputs[input]].shape
        _check_place("Report.projective_field", "pixel", pixel, given[2:])
        assert value is not None
        found = self.unit_axes(layer)
        seen = reached_from(self.graph, value, {input: units_of(given, pixel)})
        if seen is None or not axes:
            return ReceptiveField(None, tuple(() for _ in found), True, EXACT)
        taps = tuple(tuple(sorted(seen.axes[axis])) for axis in found)
        return ReceptiveField(tuple((t[0], t[-1]) for t in taps), taps, seen.exact, ONE_RUN if self.graph.reason else EXACT)

    def _units(self, layer: str, unit: Sequence[int] | None) -> tuple[int, Seen]:
        row = self.layer(layer)
        if row.value is None:
            raise ArgumentError(build("Report.receptive_field", "a layer with an output", repr(layer), do="Choose another row."))
        shape, axes = self.graph.values[row.value].shape, self.unit_axes(row.name)
        sizes = tuple(shape[axis] for axis in axes)
        if unit is None:
            unit = tuple(n // 2 for n in sizes)
        _check_place("Report.receptive_field", "unit", unit, sizes)
        return row.value, units_of(shape, unit, axes)

    # ---------------------------------------------------------------------------------------------------------------- findings

    def fix(self) -> tuple[Module, str]:
        """A copy of the model without those findings that can be mended mechanically, and what changed, as a unified diff.

        The model itself stays as it is. Where the optimizer's groups are wrong, the diff goes on with them: what they hold, and what
        :func:`striate.training.parameter_groups` gives for the copy.

        >>> from torch import nn
        >>> report = inspect(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval(), (1, 3, 8, 8))
        >>> print("\\n".join(report.fix()[1].splitlines()[4:6]))
        -  (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
        +  (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), bias=False)
        """
        from .fix import fix

        return fix(self)

    # ------------------------------------------------------------------------------------------------------------------- forms

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can say it; ``version`` changes when a name or meaning does."""
        layers = []
        for layer in self.layers:
            told = asdict(layer)
            del told["value"], told["call"]
            told["line"] = layer.line and Path(layer.line).name
            layers.append(told)
        return {
            "version": VERSION,
            "model": self.model,
            "input_shapes": [list(shape) for shape in self.input_shapes],
            "mode": "training" if self.graph.training else "evaluation",
            "traced": self.graph.reason is None,
            "layers": layers,
            "totals": self.totals,
            "notes": self.notes,
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def table(self, width: int = 100, color: bool = False) -> str:
        """As text, in lines of ``width`` characters, at least 80."""
        from .page import table

        return table(self, width, color)

    def markdown(self) -> str:
        """As a table for a README or an issue."""
        from .page import markdown

        return markdown(self)

    def html(self) -> str:
        """As a page that needs nothing else."""
        from .page import page

        return page(self)

    def __str__(self) -> str:
        return self.table()


def inspect(
    model: Module,
    input: Any,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    batch_size: int | None = None,
    object_px: float | None = None,
    loss: Module | None = None,
    task: str | None = None,
    ignore: Collection[str] = (),
) -> Report:
    """Says what a model's layers cost, see and get wrong, without computing any of them.

    input: a shape (``(1, 3, 224, 224)``; without the batch one sample), a tensor, or a tuple or dictionary of them for several.
    optimizer: whose groups the lint rules join with the layers. batch_size: training's, if not the input's; object_px: how large what is to
    be recognised is in the input [px]; loss: what the output goes into, as ``nn.CrossEntropyLoss()``; task: "classification",
    "localisation" or "segmentation", if it is known. ignore: ids of lint rules, as "bias-before-norm".

    The model is left as it was; it may be in training or evaluation mode, and the rules say what that means.

    Raises ShapeError where the model does not run on such an input, with the line of its code; ArgumentTypeError for other arguments.

    Source: receptive fields after A. Araujo, W. Norris, J. Sim, "Computing Receptive Fields of Convolutional Neural Networks", 2019.

    >>> from torch import nn
    >>> layer = inspect(nn.Conv2d(3, 10, 5, padding=2), (1, 3, 32, 32)).layers[0]
    >>> layer.output_shape, layer.parameters, layer.macs, layer.receptive_field
    ((1, 10, 32, 32), 760, 768000, {'size': [5, 5], 'jump': [1, 1], 'offset': [-2, -2]})
    """
    from .lint import lint

    notes = []
    example = _with_batch(model, input)
    try:
        graph = trace(model, example)
    except ShapeError as error:
        if not (isinstance(model, Module) and model.training and re.search("more than (1|one) value per channel", str(error))):
            raise
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            graph = trace(model, example)
        finally:
            for module, training in modes:
                module.training = training
        notes.append("Training would fail on this input: a batch norm gets one value per channel. Told for evaluation.")
    fields = fields_of(graph)
    rows = _Rows(graph, fields)
    if graph.reason:
        notes.append(f"The model could not be traced without values ({graph.reason}); it ran once, and all holds for this input only.")
    measured = [row.name for row in rows.layers if row.type in SPATIAL_NORMS or _measures_places(row, graph, fields)]
    if measured:
        few = ", ".join(measured[:3]) + (" …" if len(measured) > 3 else "")
        notes.append(f"Receptive fields follow the taps; the statistics that norms take over places ({few}) are not counted.")
    report = Report(type(model).__name__, graph, fields, rows.layers, rows.totals, notes, optimizer=optimizer)
    report.findings = lint(
        report, optimizer=optimizer, batch_size=batch_size, object_px=object_px, loss=loss, task=task, ignore=ignore
    )
    return report


SPATIAL_NORMS = ("GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "GlobalResponseNorm")


def _measures_places(row: Layer, graph: Graph, fields: Fields) -> bool:
    """Whether a row is a norm over axes that follow the image's."""
    made = None if row.value is None else graph.values[row.value].node
    if made is None or "norm" not in graph.nodes[made].op:
        return False
    over = graph.nodes[made].arguments.get("normalized_shape")
    if over is None:
        return graph.nodes[made].op == "aten.native_group_norm"
    places = [fields.place(graph.nodes[made].inputs[0], axis) for axis in fields.axes]
    return any(place is not None and place.axis >= len(row.output_shape) - len(over) for place in places)


def _check_place(where: str, what: str, place: Sequence[int], shape: Sequence[int]) -> None:
    if len(place) != len(shape) or not all(type(p) is int and 0 <= p < n for p, n in zip(place, shape, strict=True)):
        do = "Count from 0 on each axis behind batch and channels."
        raise ArgumentError(build(where, f"{what} within {tuple(shape)}", tuple(place), do=do))


def _with_batch(model: Any, input: Any) -> Any:
    """A shape without a batch gets one of 1 where the first layer says how many axes there are."""
    if not isinstance(model, Module) or not isinstance(input, (tuple, list)) or not all(type(n) is int for n in input):
        return input
    kinds = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)  # a linear layer may stand before the convolutions in the list
    first = next((module for kind in kinds for module in model.modules() if isinstance(module, kind)), None)
    return (1, *input) if first is not None and len(input) == len(getattr(first, "kernel_size", ())) + 1 else input


class _Rows:
    """The layers of a graph, and the sums over them."""

    def __init__(self, graph: Graph, fields: Fields) -> None:
        self.graph, self.fields = graph, fields
        nodes: dict[int | tuple[int], list[Node]] = {}  # of each row: a call's by its number, an operation by itself
        for node in graph.nodes:
            leaf = graph.leaf_of(node)
            nodes.setdefault(leaf.index if leaf is not None else (node.index,), []).append(node)
        starts: list[tuple[int, int, Call | Node]] = [(call.start, 0, call) for call in graph.calls if not call.has_calls]
        alone = (found[0] for key, found in nodes.items() if isinstance(key, tuple))
        starts += [(node.index, 1, node) for node in alone if node.op not in FREE and node.outputs]
        starts.sort(key=lambda start: start[:2])
        self.owned = self._owners(nodes, starts)
        self.kept = self._kept(starts)
        self.names: dict[str, int] = {}
        self.layers = [
            self._call(one, nodes.get(one.index, [])) if isinstance(one, Call) else self._operation(one) for _, _, one in starts
        ]
        self._unused()
        self.totals = self._totals()

    def _owners(self, nodes: dict[Any, list[Node]], starts: list[tuple[int, int, Call | Node]]) -> dict[int, Call | Node]:
        """For each parameter the row that reads it first, or has it."""
        owners: dict[int, Call | Node] = {}
        values = self.graph.values
        for _, _, one in starts:
            for node in nodes.get(one.index, []) if isinstance(one, Call) else [one]:
                for value in node.inputs:
                    self._own(owners, self._origin(value), one)
        held = {id(p): v for v, p in ((v, self._tensor(v.name)) for v in values if v.is_parameter and v.name)}
        for _, _, one in starts:
            if isinstance(one, Call):
                for parameter in one.module.parameters(recurse=False):
                    if id(parameter) in held:
                        self._own(owners, held[id(parameter)].index, one)
        return owners

    def _origin(self, value: int) -> int:
        """What a tensor is a view of."""
        node = self.graph.values[value].node
        while node is not None and self.graph.nodes[node].op in FREE and self.graph.nodes[node].inputs:
            value = self.graph.nodes[node].inputs[0]
            node = self.graph.values[value].node
        return value

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
                place = next((p for index, p in operations if index >= kept.node), operations[-1][1] if operations else len(starts) - 1)
            found[place] = found.get(place, 0) + kept.bytes
        return {id(starts[place][2]): size for place, size in found.items()}

    # -------------------------------------------------------------------------------------------------------------------- rows

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
        self, name: str, kind: str, one: Call | Node, nodes: list[Node], outputs: tuple[int, ...], line: str | None, call: int | None
    ) -> Layer:
        values = self.graph.values
        output = outputs[0] if outputs else None
        owned = [values[v] for v, row in self.owned.items() if row is one]
        read = [values[v] for node in nodes for v in map(self._origin, node.inputs) if values[v].is_parameter]
        weights = [v for v in read if (v.name or "").split(".")[-1].startswith("weight")] or read
        counted = [macs(self.graph, node) for node in nodes]
        backward = [backward_macs(self.graph, node) for node in nodes]
        extents = [None if output is None else self.fields.extent(output, axis) for axis in self.fields.axes if axis[0] == 0]
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
                Layer("(not called)", "parameters", (), None, sum(prod(v.shape) for v in left), 0, 0, 0, 0, 0, None, status, None)
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
