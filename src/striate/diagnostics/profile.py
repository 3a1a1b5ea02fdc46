"""Where a model's time goes, layer by layer: by which method, at what share of the machine's limit, and what the next
best would cost.

Times are taken inside whole steps, so that caches and memory are as they really are: around each layer's ``forward``,
and around the autograd nodes that it made, by hooks on the nodes, which leave the graph as it is. (Hooks on modules
would not do: layers of ours that are computed in one pass are computed apart where one of them has a hook.) Steps that
are not looked into, in turn with those, give the time of the whole; what the layers leave of it is told as a row of its
own. Methods are timed one against the other by themselves, on numbers of the same shapes in the same memory order.
"""

from __future__ import annotations

import json
import platform
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy

from .._torch import AdaptiveMaxPoolBase, ConvBase, ConvTransposeBase, MaxPoolBase, NormBase, Observer, tree_leaves
from ..errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError, build
from ..native import native_info
from ..nn import blocks, conv, local, norm, pool
from ..nn.fusion import ObservedForward
from ..ops import conv as ops
from ..ops import gate
from ..ops.conv import ConvGeometry, ConvProblem
from ..ops.dispatch import Candidate
from ..ops.layout import is_channels_last
from ..ops.local import resolve
from ..ops.precision import is_strict

__all__ = ["Layer", "Profile", "profile"]

VERSION = 1  # of what to_dict returns
GEMM_SIDE = 2048
COPY_ELEMENTS = 2**25  # 128 MiB read, 128 MiB written: far beyond any cache
BEHIND = 1.5  # a method that took that many times the best of the others in the first round is not timed again
# Of a layer's map, the map of the operation: a transposed convolution is a convolution's input gradient, and the other
# way round.
TRANSPOSED = {"forward": "input", "input": "forward", "weight": "weight"}
PASSES = {"forward": "forward", "input": "backward_data", "weight": "backward_weights"}  # of a convolution
MAPS = tuple(PASSES)
Progress = Callable[[int, int, str], object]
Forward = Callable[..., Any]
clock_ns = time.perf_counter_ns


class Layer(NamedTuple):
    """What one layer did in a step, its calls on the same shapes together.

    path: its name in the model; type: of its class; both of all, as ``0+1``, where neighbours are computed as one.
    input_shapes: of the tensors it was called with; calls: how often on these shapes.

    forward_ms, backward_ms: medians of all calls of a step [ms]; backward_ms is None where backward was not timed.
    macs: multiply-adds of forward, taps in padding left out; moved_bytes: what forward and backward must read and
    write; limit_ms: the least time for both by the machine's rates [ms]. All of them of all calls, and None where they
    are not known for such a layer.

    method: for a convolution, by map ("forward", "input" and "weight" for the gradients that are computed), the name of
    the method as in ``striate.ops.conv.NAMES``; for any other layer, under "forward", "native" where a kernel of ours
    ran, "torch", or "none" where there was nothing to compute.
    map_ms, map_limit_ms: of a convolution, each map by itself: time and limit of one call [ms].
    next_best: by map, the fastest other method and its time [ms]; empty where nothing else computes it.
    """

    path: str
    type: str
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    calls: int
    forward_ms: float
    backward_ms: float | None
    macs: int | None
    moved_bytes: int | None
    limit_ms: float | None
    method: dict[str, str]
    map_ms: dict[str, float]
    map_limit_ms: dict[str, float]
    next_best: dict[str, tuple[str, float]]

    @property
    def ms(self) -> float:
        """Forward and backward together [ms]."""
        return self.forward_ms + (self.backward_ms or 0.0)

    @property
    def share_of_limit(self) -> float | None:
        """``limit_ms / ms``: 1 is as fast as the machine's rates allow. None where the limit is not known or nothing
        moves.
        """
        return self.limit_ms / self.ms if self.limit_ms and self.ms > 0 else None

    @property
    def methods(self) -> str:
        """The names of :attr:`method`, each once.

        >>> Layer("0", "Conv2d", (), (), 1, 1.0, 2.0, 0, 0, 1.0, {"forward": "direct", "weight": "torch"}, {}, {}, {}).methods
        'direct, torch'
        """
        return ", ".join(dict.fromkeys(self.method.values()))


@dataclass(frozen=True)
class Profile:
    """What :func:`profile` found.

    model: name of the class; input_shapes: of the example; channels_last: its memory order; training: the model's mode;
    backward: whether backward was timed; machine: processor, instruction set and versions.
    copy_gb_per_s: bytes read and written by a large copy [GB/s]; gemm_gflops: of a product of 2048×2048 matrices
    [GFLOP/s].
    forward_ms, backward_ms: medians of whole steps that were not looked into [ms]; spread: their interquartile range
    over their median;
    interruptions_per_s: how often other work took a processor from them, which on an idle machine is hardly ever.
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
    gemm_gflops: float
    forward_ms: float
    backward_ms: float | None
    spread: float
    interruptions_per_s: float
    layers: tuple[Layer, ...]

    @property
    def step_ms(self) -> float:
        """Forward and backward together [ms]."""
        return self.forward_ms + (self.backward_ms or 0.0)

    @property
    def outside_forward_ms(self) -> float:
        """Of forward, what the layers leave: functions called between them, and the calls themselves [ms]."""
        return self.forward_ms - sum(layer.forward_ms for layer in self.layers)

    @property
    def outside_backward_ms(self) -> float | None:
        """Of backward, what the layers leave [ms]."""
        return (
            None
            if self.backward_ms is None
            else self.backward_ms - sum(layer.backward_ms or 0.0 for layer in self.layers)
        )

    @property
    def outside_ms(self) -> float:
        """Forward and backward together [ms]; below 0 where looking costs more than what lies between the layers."""
        return self.outside_forward_ms + (self.outside_backward_ms or 0.0)

    def share(self, ms: float) -> float:
        """Of the whole step."""
        return ms / self.step_ms if self.step_ms > 0 else 0.0

    def slowest(self, top: int | None = None) -> tuple[Layer, ...]:
        """The ``top`` layers that took most, the slowest first; all of them in their order if None."""
        if top is None:
            return self.layers
        return tuple(sorted(self.layers, key=lambda layer: -layer.ms)[: max(0, top)])

    def table(self, width: int = 100, top: int | None = None) -> str:
        """The layers, what they leave, and the convolutions map by map, as text of at most ``width`` columns; ``top``:
        the slowest only.

        Raises ArgumentError for a width below 80.
        """
        from .page import table

        return table(self, width, top)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it: lists, numbers, texts and None. ``version``: of this form, now 1."""
        told = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "layers"}
        told |= {"version": VERSION, "step_ms": self.step_ms}
        told |= {"outside_forward_ms": self.outside_forward_ms, "outside_backward_ms": self.outside_backward_ms}
        told["layers"] = [layer._asdict() | {"share_of_limit": layer.share_of_limit} for layer in self.layers]
        plain: dict[str, Any] = json.loads(json.dumps(told))
        return plain

    def html(self) -> str:
        """All of it as one page: no script, nothing from elsewhere, for wide and narrow screens."""
        from .page import page

        return page(self)


# -------------------------------------------------------------------------------------------------------------- profile


def profile(
    model: Module,
    example_input: Tensor | tuple[Tensor, ...],
    *,
    backward: bool = True,
    rounds: int = 7,
    next_best: bool = True,
    progress: Progress | None = None,
) -> Profile:
    """Times a model's layers inside whole steps: forward, and backward from random gradients of what it returns.

    A layer is a module that calls no other. The whole is ``Σ layers + outside``, where outside, what runs between the
    layers, is what is left. A layer's limit is, for each of its passes, ``max(bytes / copy rate, multiply-adds /
    product rate)``, both rates measured first.

    example_input: a tensor, or a tuple of tensors, that ``model(*example_input)`` runs on, on the CPU and of floating
    point. The model stays in its mode; its buffers, gradients and torch's random numbers are put back. Without
    ``backward``, and where nothing asks for a gradient, forward alone is timed.
    rounds: at least 3, each of a step that is looked into and one that is not, of which medians are told; next_best:
    whether each convolution is timed by the other methods too; progress: called with what is done, what there is to do,
    and a word on what comes next.

    Raises ArgumentTypeError, ArgumentError or DtypeError for what cannot be profiled, ShapeError where the model does
    not take the
    example: the message names the layer.

    >>> from striate import nn
    >>> told = profile(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), torch.ones(2, 1, 8, 8), rounds=3, next_best=False)
    >>> [(layer.path, layer.type, layer.output_shape, layer.macs) for layer in told.layers]
    [('0', 'Conv2d', (2, 4, 6, 6), 2592), ('1', 'ReLU', (2, 4, 6, 6), 0)]
    >>> abs(sum(layer.ms for layer in told.layers) + told.outside_ms - told.step_ms) < 1e-9
    True
    """
    given = (example_input,) if isinstance(example_input, Tensor) else example_input
    _check(model, given, rounds)
    tell = progress or (lambda done, of, what: None)
    with _kept(model):
        seen, outputs = _scout(model, given, backward)
        backward = len(outputs) > 0
        rows = _rows(seen)
        contests = {contest.key: contest for row in rows for contest in row[0].contests} if next_best else {}
        total = 1 + rounds + len(contests)
        tell(0, total, "rates of this machine")
        rates = _rates(given[0].dtype, rounds)
        seeds = [torch.randn_like(y) for y in outputs]
        steps, times = [], []
        _step(model, given, backward, seeds)
        start, interrupted = clock_ns(), _interrupted()
        for number in range(rounds):
            tell(1 + number, total, f"step {number + 1} of {rounds}")
            for watched in (False, True) if number % 2 else (True, False):  # neither always inherits the other's caches
                if not watched:
                    steps.append(_step(model, given, backward, seeds))
                    continue
                with _Watch() as watch, _through({module for one in seen for module in one.group}, watch.call):
                    _step(model, given, backward, seeds, watch)
                times.append(watch.times)
        interruptions_per_s = (_interrupted() - interrupted) * 1e9 / (clock_ns() - start)
        found = {}
        for number, (key, contest) in enumerate(contests.items()):
            tell(1 + rounds + number, total, contest.what)
            found[key] = contest.run(rounds)
    tell(total, total, "done")

    whole = [sum(step) for step in steps]
    low, middle, high = statistics.quantiles(whole, n=4)
    info = native_info()
    return Profile(
        model=type(model).__name__,
        input_shapes=tuple(tuple(x.shape) for x in given),
        dtype=str(given[0].dtype).removeprefix("torch."),
        channels_last=is_channels_last(given[0]),
        training=model.training,
        backward=backward,
        rounds=rounds,
        threads=torch.get_num_threads(),
        machine={"processor": processor(), **{name: str(info[name]) for name in ("isa", "torch", "striate", "python")}},
        copy_gb_per_s=rates.bytes_per_ms / 1e6,
        gemm_gflops=2 * rates.macs_per_ms / 1e6,
        forward_ms=statistics.median(step[0] for step in steps) / 1e6,
        backward_ms=statistics.median(step[1] for step in steps) / 1e6 if backward else None,
        spread=(high - low) / middle,
        interruptions_per_s=interruptions_per_s,
        layers=tuple(_layer(row, times, found, rates, backward) for row in rows),
    )


def _check(model: Any, given: Any, rounds: Any) -> None:
    if not isinstance(model, Module):
        raise ArgumentTypeError(
            build("profile", "a torch.nn.Module", type(model).__name__, hint="Pass the model itself, then an example.")
        )
    if isinstance(model, torch.jit.ScriptModule) or hasattr(model, "_orig_mod"):
        hint = "Profile it before torch.compile or torch.jit."
        raise ArgumentTypeError(build("profile", "a model that runs layer by layer", "a compiled one", hint=hint))
    if not isinstance(given, tuple) or not given or not all(isinstance(x, Tensor) for x in given):
        got = [type(x).__name__ for x in given] if isinstance(given, tuple) else type(given).__name__
        raise ArgumentTypeError(
            build("profile", "a tensor or a tuple of tensors as the example", got, hint="Pass what the model takes.")
        )
    if isinstance(rounds, bool) or not isinstance(rounds, int):
        raise ArgumentTypeError(build("profile", "rounds to be an integer", repr(rounds), hint="Leave it out for 7."))
    if rounds < 3:
        raise ArgumentError(
            build("profile", "at least 3 rounds", rounds, hint="Leave rounds out for 7: a median of fewer says little.")
        )
    for x in given:
        if not x.is_floating_point():
            kind, hint = (
                str(x.dtype).removeprefix("torch."),
                "Models of indices are not profiled; convert anything else with .float().",
            )
            raise DtypeError(build("profile", "an example of floating point", kind, hint=hint, x=tuple(x.shape)))
    for name, t in (*model.named_parameters(), *model.named_buffers(), *(("the example", x) for x in given)):
        if is_lazy(t):
            raise ArgumentError(
                build(
                    "profile", "parameters that have a shape", f"a lazy one, {name}", hint="Call the model once first."
                )
            )
        if not t.is_cpu:
            raise ArgumentError(
                build("profile", "everything on the CPU", f"{name} on {t.device}", hint="Move it with .cpu().")
            )


@contextmanager
def _kept(model: Module) -> Iterator[None]:
    """Afterwards buffers, gradients and torch's random numbers are what they were."""
    buffers = [
        (m, name, b, b.detach().clone()) for m in model.modules() for name, b in m._buffers.items() if b is not None
    ]
    gradients = [(p, p.grad) for p in model.parameters()]
    for p, _ in gradients:
        p.grad = None  # or backward would add to it in place
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer
                with torch.no_grad():
                    buffer.copy_(value)
            for p, gradient in gradients:
                p.grad = gradient


@contextmanager
def _through(modules: Iterable[Module], call: Callable[[tuple[Module, ...], Forward, Any, Any], Any]) -> Iterator[None]:
    """Inside, what calls the ``forward`` of one of the modules, or computes several as one, goes through ``call``."""
    before = [(module, module.__dict__.get("forward")) for module in modules]
    try:
        for module, _ in before:
            module.__dict__["forward"] = ObservedForward(module, call)
        yield
    finally:
        for module, own in before:
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own


# -------------------------------------------------------------------------------------------------- what is to be timed


class _Pass(NamedTuple):
    """What a pass has to do at least."""

    moved: int  # bytes
    macs: int


class _Rates(NamedTuple):
    """What this machine can do at most."""

    bytes_per_ms: float  # read and written
    macs_per_ms: float

    def least_ms(self, work: _Pass) -> float:
        return max(work.moved / self.bytes_per_ms, work.macs / self.macs_per_ms)


class _Contest(NamedTuple):
    """One map of a convolution, and the methods that may compute it."""

    what: str
    map: str  # of the layer
    call: ConvProblem
    method: str  # the layer's
    x_last: bool  # the memory order of what came in
    weight: Tensor
    bias: Tensor | None
    work: _Pass

    @property
    def key(self) -> Any:
        """Calls that are alike take the same time."""
        return self.call, self.method, self.x_last, self.weight.stride(), self.bias is None

    def run(self, rounds: int) -> dict[str, float]:
        """Medians by method [ms]: of the layer's own and of those that the first round did not leave far behind."""
        call, plan = self.call, self.call.geometry
        x, y = _laid(plan.x_shape, call), _laid(plan.y_shape, call)
        if self.map == "forward":  # gradients are brought to the output's memory order, an input comes as it is
            x, y = (_laid(tuple(t.shape), call._replace(channels_last=self.x_last)) for t in (x, y))
        w = self.weight.detach()
        bias = None if self.bias is None else self.bias.detach()
        arguments: tuple[Any, ...] = {
            "forward": (x, w),
            "backward_data": (y, w),
            "backward_weights": (y, x),
        }[call.pass_]
        arguments = (*arguments, bias) if self.map == "forward" else arguments
        able = [c for c in ops.METHODS if c.name == self.method or (c.name != "reference" and c.refuse(call) is None)]
        times: dict[str, list[float]] = {c.name: [] for c in able}
        chance = random.Random(0)
        with torch.no_grad():
            for number in range(rounds):
                chance.shuffle(able)
                for candidate in able:
                    times[candidate.name].append(_timed(candidate, call, arguments))
                if number == 0:
                    best = min((t[0] for name, t in times.items() if name != self.method), default=0.0)
                    able = [c for c in able if c.name == self.method or times[c.name][0] <= BEHIND * best]
        return {c.name: statistics.median(times[c.name]) for c in able}


def _laid(shape: tuple[int, ...], call: ConvProblem) -> Tensor:
    x = torch.randn(shape, dtype=call.dtype)
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if call.channels_last else x


def _timed(candidate: Candidate, call: ConvProblem, arguments: tuple[Any, ...]) -> float:
    candidate.run(call, *arguments)  # or the memory it faults in would count
    start = clock_ns()
    candidate.run(call, *arguments)
    return (clock_ns() - start) / 1e6


class _Call(NamedTuple):
    """A call of a layer, as it was seen in the first step."""

    path: str
    group: tuple[Module, ...]  # one, or neighbours that are computed as one
    key: Any  # the layers and the shapes of what it was given and of what it returned
    passes: tuple[_Pass | None, ...]  # forward and, if it has a gradient, backward; None: not known
    method: dict[str, str]
    contests: tuple[_Contest, ...]


class _Frame:
    """A call that is under way."""

    def __init__(self, group: tuple[Module, ...], inputs: list[Tensor], more: bool) -> None:
        self.group, self.inputs, self.more = group, inputs, more
        self.versions = [x._version for x in inputs]
        self.leaf = True
        self.native = False


class _Observer(Observer):
    """Looks on while a model runs once: which modules call which, and in which an operator of ours runs."""

    def __init__(self, model: Module, backward: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        named = ((name, m) for name, m in model.named_modules() if ".parametrizations" not in f".{name}")
        self.names = {module: name or type(module).__name__ for name, module in named}
        self.frames: list[_Frame] = []
        self.seen: list[_Call] = []
        self.parents: set[Module] = set()
        self.failed = ""
        self.backward = backward

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.frames and func.namespace == "striate":
            self.frames[-1].native = True
        return func(*args, **(kwargs or {}))

    def call(self, group: tuple[Module, ...], forward: Forward, args: Any, kwargs: Any) -> Any:
        if self.frames:
            self.frames[-1].leaf = False
        name = "+".join(self.names[module] for module in group)
        frame = _Frame(group, _tensors((args, kwargs)), len(args) + len(kwargs) > 1)
        self.frames.append(frame)
        try:
            y = forward(*args, **kwargs)
        except Exception:
            self.failed = self.failed or name  # the innermost
            raise
        finally:
            self.frames.pop()
        outputs = _tensors(y)
        if not frame.leaf:
            self.parents.update(group)
        elif outputs:
            self.seen.append(_looked_at(name, frame, outputs[0], self.backward))
        return y


def _tensors(values: Any) -> list[Tensor]:
    return [t for t in tree_leaves(values) if isinstance(t, Tensor)]


def _key(group: tuple[Module, ...], inputs: list[Tensor], output: Tensor) -> Any:
    return group, tuple(tuple(x.shape) for x in inputs), tuple(output.shape)


def _scout(model: Module, given: tuple[Tensor, ...], backward: bool) -> tuple[list[_Call], list[Tensor]]:
    """The calls of a step and those of its outputs that backward may begin from. Raises where model and example do not
    go together.
    """
    observer = _Observer(model, backward)
    try:
        with observer, _through(observer.names, observer.call), torch.set_grad_enabled(backward):
            y = model(*_copies(given))
        seen = [one for one in observer.seen if observer.parents.isdisjoint(one.group)]
        outputs = [t for t in _tensors(y) if t.requires_grad]
        if outputs:
            torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])
    except Exception as error:  # whatever the model's code raises
        got = ", ".join(str(tuple(x.shape)) for x in given)
        why = f"{str(error) or type(error).__name__}".splitlines()[0].rstrip(".")
        told = {"error": f"{observer.failed or 'backward'}: {why}"}
        raise ShapeError(
            build("profile", "an input that the model takes", got, hint="Give another input or model.", **told)
        ) from error
    if not seen:
        hint = "Profile a part of it that does."
        raise ArgumentError(
            build("profile", "a model with layers that return tensors", type(model).__name__, hint=hint)
        )
    return seen, [t.detach() for t in outputs]


def _layer(
    row: list[_Call],
    times: list[dict[Any, list[int]]],
    found: dict[Any, dict[str, float]],
    rates: _Rates,
    backward: bool,
) -> Layer:
    """What is told of a row: its calls, the times of each step, and those of its convolution's methods."""
    first = row[0]
    forward_ms, backward_ms = (statistics.median(t.get(first.key, (0, 0))[k] for t in times) / 1e6 for k in (0, 1))
    passes = [work for work in first.passes if work is not None]
    known = len(passes) == len(first.passes)
    timed = {one.map: (one, found[one.key]) for one in first.contests if one.key in found}
    others = {map: [other for other in ms.items() if other[0] != one.method] for map, (one, ms) in timed.items()}
    return Layer(
        path=first.path,
        type="+".join(type(module).__name__ for module in first.group),
        input_shapes=first.key[1],
        output_shape=first.key[2],
        calls=len(row),
        forward_ms=forward_ms,
        backward_ms=backward_ms if backward else None,
        macs=len(row) * passes[0].macs if known else None,
        moved_bytes=len(row) * sum(work.moved for work in passes) if known else None,
        limit_ms=len(row) * sum(map(rates.least_ms, passes)) if known else None,
        method=first.method,
        map_ms={map: ms[one.method] for map, (one, ms) in timed.items()},
        map_limit_ms={map: rates.least_ms(one.work) for map, (one, _) in timed.items()},
        next_best={map: min(some, key=lambda other: other[1]) for map, some in others.items() if some},
    )


def _rows(seen: list[_Call]) -> list[list[_Call]]:
    rows: dict[Any, list[_Call]] = {}
    for one in seen:
        rows.setdefault(one.key, []).append(one)
    return list(rows.values())


# ----------------------------------------------------------------------------------------------- what a layer has to do


def _looked_at(path: str, frame: _Frame, y: Tensor, backward: bool) -> _Call:
    group, inputs = frame.group, frame.inputs
    module, key = group[0], _key(group, inputs, y)
    x = inputs[0] if inputs else y
    same = y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    if same and frame.versions == [t._version for t in inputs]:  # a view, or what came in
        return _Call(path, group, key, (_Pass(0, 0), _Pass(0, 0)), {"forward": "none"}, ())
    computed = ["forward", *(["input"] if x.requires_grad else [])] if backward else ["forward"]
    if isinstance(module, ConvBase):
        if backward and module.weight.requires_grad:
            computed.append("weight")
        calls = _convolution(module, x, frame.more)
        if calls is not None:
            return _convolved(path, group, key, x, y, calls, computed)
    gradients = (
        int(x.requires_grad) + int(any(p.requires_grad for p in module.parameters(recurse=False))) if backward else 0
    )
    method = {"forward": "native" if frame.native else "torch"}
    return _Call(path, group, key, _passes(module, inputs, y, gradients), method, ())


def _convolution(layer: Any, x: Tensor, more: bool) -> dict[str, ConvProblem] | None:
    """The maps of a convolution by what they are to the layer; None for a transposed one onto a size or with margins
    that are asked for.
    """
    dims, transposed = len(layer.kernel_size), isinstance(layer, ConvTransposeBase)
    if transposed and (more or layer.padding_mode != "zeros"):
        return None
    w = torch.empty_like(layer.weight, device="meta")

    def planned(sizes: Iterable[int], padding: Any) -> ConvGeometry:
        given = torch.empty(tuple(sizes), dtype=w.dtype, device="meta")
        geometry = (
            layer.stride,
            padding,
            *([layer.output_padding] if transposed else []),
            layer.dilation,
            layer.groups,
        )
        return ops.geometry_for(given, w, None, *geometry, dims=dims, where=type(layer).__name__, transposed=transposed)

    plan = planned(x.shape, layer.padding)
    if layer.padding_mode != "zeros":  # the padding is put around x first
        padded = (i + p + q for i, p, q in zip(plan.input, plan.before, plan.after, strict=True))
        plan = planned((*x.shape[:-dims], *padded), 0)
    refusal = gate.reason(x, layer.weight, layer.bias)
    asked = dims > 1 and getattr(layer, "_channels_last", False)
    last = refusal is None and (asked or ops.follows_channels_last(x, layer.weight))
    passes = {map: PASSES[TRANSPOSED[map] if transposed else map] for map in MAPS}
    return {
        map: ConvProblem(pass_, plan, last, x.dtype, refusal, strict=is_strict()) for map, pass_ in passes.items()
    }


def _convolved(
    path: str,
    group: tuple[Any, ...],
    key: Any,
    x: Tensor,
    y: Tensor,
    calls: dict[str, ConvProblem],
    computed: list[str],
) -> _Call:
    module, plan = group[0], calls["forward"].geometry
    macs = plan.batch * plan.filters * plan.channels // plan.groups * plan.window.tap_count
    values = prod(plan.x_shape) + prod(plan.y_shape) + prod(plan.weight_shape)  # two are read, the third is written
    work = _Pass(values * x.element_size(), macs)
    ours = isinstance(module, conv._Conv | conv._ConvTranspose)
    method = {map: ops.method_for(calls[map]).name if ours else "torch" for map in computed}
    batch = x if x.dim() == plan.dims + 2 else x.unsqueeze(0)
    contests = tuple(
        _Contest(
            what=f"{path}, {map}",
            map=map,
            call=calls[map],
            method=method[map],
            x_last=is_channels_last(batch),
            weight=module.weight,
            bias=module.bias if map == "forward" else None,
            work=work,
        )
        for map in computed
    )
    gradients = len(computed) - 1
    pooled = 0  # what the pooling behind it reads and writes, and the activation behind that
    if len(group) > 1:
        pooled = (prod(plan.y_shape) + 3 * y.numel()) * x.element_size() + y.numel()
    passes = (
        _Pass(work.moved + pooled, work.macs),
        _Pass(gradients * work.moved + (pooled if gradients else 0), gradients * work.macs),
    )
    return _Call(path, group, key, passes, method, contests)


UNKNOWN = (  # whose arithmetic is not counted
    torch.nn.RNNBase,
    torch.nn.RNNCellBase,
    torch.nn.MultiheadAttention,
    torch.nn.Bilinear,
    torch.nn.Embedding,
    torch.nn.EmbeddingBag,
    ConvBase,  # one without a plan
)
MAXIMA = (
    MaxPoolBase,
    AdaptiveMaxPoolBase,
    pool._GlobalMax,
)
NORMS = (
    NormBase,
    *norm.BATCH_NORMS,
    *norm.GROUP_NORMS,
    torch.nn.LayerNorm,
    torch.nn.RMSNorm,
    torch.nn.LocalResponseNorm,
    norm.LayerNorm2d,
)


def _passes(module: Any, inputs: list[Tensor], y: Tensor, gradients: int) -> tuple[_Pass | None, ...]:
    """What a layer that is no convolution must do, forward and backward; ``gradients``: how many, of input and weights,
    are asked.
    """
    macs = _macs(module, inputs, y)
    if macs is None:
        return (None, None)
    size = y.element_size()
    read, written = sum(x.numel() for x in inputs) * size, y.numel() * size
    weights = sum(p.numel() for p in module.parameters(recurse=False)) * size
    if macs and weights:  # a product: each gradient too reads two of x, y and the weights and writes the third
        moved = read + written + weights
        return (_Pass(moved, macs), _Pass(gradients * moved, gradients * macs))
    forward = backward = read + written  # backward reads dy and writes dx
    if isinstance(module, MAXIMA):  # and a byte an output: which one it was
        forward, backward = forward + y.numel(), backward + y.numel()
    if isinstance(module, NORMS) or type(module).__module__ == "torch.nn.modules.activation":  # and x
        backward += read
    if isinstance(module, norm.BATCH_NORMS) and (
        (module.training and not getattr(module, "frozen", False)) or module.running_mean is None
    ):
        forward, backward = forward + read, backward + read + written  # once more for the batch's statistics
    return (_Pass(forward, macs), _Pass(backward, macs) if gradients else _Pass(0, 0))


def _macs(module: Any, inputs: list[Tensor], y: Tensor) -> int | None:
    """Multiply-adds of products; 0 for a layer that goes over its values once."""
    if isinstance(module, torch.nn.Linear):
        return y.numel() * module.in_features
    if isinstance(module, local._LocallyConnected):
        geometries = (module.kernel_size, module.stride, module.padding, module.dilation)
        window = resolve(module.input_size, *geometries, type(module).__name__, tuple(inputs[0].shape)).window
        samples = inputs[0].shape[0] if inputs[0].dim() == module.dims + 2 else 1
        return int(samples * module.in_channels * module.out_channels * window.tap_count)
    if isinstance(module, blocks._BlurPool):
        return int(y.numel() * module.size**module.dims)
    known = type(module).__module__.startswith(("torch.nn.modules.", "striate.nn.", "striate.models."))
    return 0 if known and not isinstance(module, UNKNOWN) else None


# ---------------------------------------------------------------------------------------------------------------- times


def _copies(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in given)  # a layer may work in place


def _step(
    model: Module, given: tuple[Tensor, ...], backward: bool, seeds: list[Tensor], watch: _Watch | None = None
) -> tuple[int, int]:
    """One step: the times of forward and backward [ns]."""
    inputs = _copies(given)
    for p in model.parameters():
        p.grad = None
    with torch.set_grad_enabled(backward):
        start = clock_ns()
        y = model(*inputs)
        forward = clock_ns() - start
    if not backward:
        return forward, 0
    outputs = [t for t in _tensors(y) if t.requires_grad]
    if watch is not None:
        watch.follow()
    start = clock_ns()
    torch.autograd.backward(outputs, seeds)
    return forward, clock_ns() - start


class _Watch:
    """The times of the layers in one step [ns], forward and backward, by the calls' keys."""

    def __init__(self) -> None:
        self.times: dict[Any, list[int]] = {}
        # of each call its key, and the nodes before and at its end
        self.made: list[tuple[Any, list[Any], list[Any]]] = []
        self.forward = True
        self.handles: list[Any] = []

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()

    def call(self, group: tuple[Module, ...], forward: Forward, args: Any, kwargs: Any) -> Any:
        if not self.forward:
            return forward(*args, **kwargs)
        inputs = _tensors((args, kwargs))
        before = [x.grad_fn for x in inputs]  # which a layer in place changes
        start = clock_ns()
        y = forward(*args, **kwargs)
        took = clock_ns() - start
        outputs = _tensors(y)
        if outputs:
            key = _key(group, inputs, outputs[0])
            self.times.setdefault(key, [0, 0])[0] += took
            self.made.append((key, before, [t.grad_fn for t in outputs]))
        return y

    def follow(self) -> None:
        """Watches the nodes that each layer's forward made: those from its outputs back to its inputs."""
        # a layer that is called during backward, to compute anew what was not kept, is part of backward
        self.forward = False
        taken: set[Any] = set()
        for key, before, ends in self.made:
            taken.update(node for node in before if node is not None)
            found = [node for node in ends if node is not None and node not in taken]
            while found:
                node = found.pop()
                if node not in taken:
                    taken.add(node)
                    self._watch(node, self.times[key])
                    found += [following for following, _ in node.next_functions if following is not None]

    def _watch(self, node: Any, times: list[int]) -> None:
        start = 0

        def before(gradients: Any) -> None:
            nonlocal start
            start = clock_ns()

        def after(inputs: Any, outputs: Any) -> None:
            times[1] += clock_ns() - start

        self.handles += [node.register_prehook(before), node.register_hook(after)]


def _rates(dtype: torch.dtype, rounds: int) -> _Rates:
    """Of a large copy, and of a large product of matrices of that type."""
    source, target = torch.ones(COPY_ELEMENTS), torch.empty(COPY_ELEMENTS)
    square = torch.randn(GEMM_SIDE, GEMM_SIDE).to(dtype)
    runs: dict[str, Callable[[], Any]] = {"copy": lambda: target.copy_(source), "product": lambda: square @ square}
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for _ in range(rounds):
            for name, run in runs.items():
                run()
                start = clock_ns()
                run()
                times[name].append((clock_ns() - start) / 1e6)
    copy_ms, product_ms = (statistics.median(t) for t in times.values())
    return _Rates(2 * 4 * COPY_ELEMENTS / copy_ms, GEMM_SIDE**3 / product_ms)


def _interrupted() -> int:
    """How often other work has taken a processor from this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def processor() -> str:
    """This machine's, with what tells its kinds apart: ``AMD EPYC, family 25 model 1``."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in told:
        return platform.machine()
    kind = f", family {told['cpu family']} model {told['model']}" if {"cpu family", "model"} <= told.keys() else ""
    return told["model name"] + kind
