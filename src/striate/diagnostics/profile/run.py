"""Times a model layer by layer: which method each uses, what share of the machine's limit it reaches, and how long the
next best method would take.

Layers are timed within whole steps, so that caches and memory are in their real state. These steps alternate with steps
in which no layer is timed, which give the time of the whole; the part of it outside the layers is a row of its own.
Methods are timed against each other outside of steps, on random tensors of the same shapes and memory format.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy

from ..._torch import ConvBase
from ...errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError, build
from ...graph.cost import Macs
from ...measure import Limit, Rates, Resources, measure_rates, processor, summarize, turns
from ...native import native_info
from ...ops.layout import is_channels_last
from .convolution import contests_of, macs_of, problems_of, work_of
from .layers import Layers
from .methods import Contest
from .report import Profile
from .result import LayerTime
from .watch import LayerObserver, LayerTimer, ObservedCall, key_of, tensors_of, watched
from .work import Work, passes_of

__all__ = ["profile"]

Progress = Callable[[int, int, str], object]


class _LayerCall(NamedTuple):
    """A call of a layer in the first step.

    key: the same for calls that share a row; method: by pass, {"forward": "none"} if nothing is computed; contests:
    one for each pass of a convolution; gradients: how many of the two gradients, of input and weights, are computed;
    size: bytes of a value.
    """

    path: str
    group: tuple[Module, ...]
    key: Any
    method: dict[str, str]
    contests: tuple[Contest, ...]
    gradients: int
    size: int


def profile(
    model: Module,
    example_input: Tensor | tuple[Tensor, ...],
    *,
    backward: bool = True,
    rounds: int = 7,
    next_best: bool = True,
    progress: Progress | None = None,
) -> Profile:
    """Times a model's layers within whole steps: forward, and backward from random gradients of its outputs.

    A layer is a module that calls no other. The whole step is ``Σ layers + outside``, where outside is what runs
    between the layers. A layer's limit is the sum over its passes of ``max(bytes / copy rate, multiply-adds /
    micro-kernel's rate)`` (:meth:`striate.measure.Rates.limit`); the rates are measured first.

    example_input: a tensor, or a tuple of tensors, that ``model(*example_input)`` runs on, on the CPU and of floating
    point. The model stays in its mode; its buffers and gradients and torch's random state are restored. Without
    ``backward``, or if nothing requires a gradient, only forward is timed.
    rounds: at least 3, each with one step in which the layers are timed and one in which they are not; times are
    medians over rounds; next_best: whether each convolution is also timed with the other methods; progress: called with
    the number of parts done, the total, and a description of the next one.

    Raises ArgumentTypeError, ArgumentError or DtypeError for what cannot be profiled, and ShapeError, which names the
    layer, if the model fails on the example.

    >>> from striate import nn
    >>> found = profile(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), torch.ones(2, 1, 8, 8), rounds=3, next_best=False)
    >>> [(layer.path, layer.type, layer.output_shape, layer.macs) for layer in found.layers]
    [('0', 'Conv2d', (2, 4, 6, 6), 2592), ('1', 'ReLU', (2, 4, 6, 6), 0)]
    >>> abs(sum(layer.ms for layer in found.layers) + found.outside_ms - found.step_ms) < 1e-9
    True
    """
    given = (example_input,) if isinstance(example_input, Tensor) else example_input
    _check(model, given, rounds)
    tell = progress or (lambda done, of, what: None)
    with _restored(model):
        layers = Layers(model, given)
        calls, outputs = _first_step(model, layers, given, backward)
        backward = len(outputs) > 0
        rows, modules = _rows(calls), {module for call in calls for module in call.group}
        contests = {contest.key: contest for row in rows for contest in row[0].contests} if next_best else {}
        total = 1 + rounds + len(contests)
        tell(0, total, "rates of this machine")
        rates = measure_rates(given[0].dtype, rounds)
        seeds = [torch.randn_like(y) for y in outputs]
        steps, times = [], []
        _step(model, given, backward, seeds)
        start, before = turns.clock_ns(), Resources.now()
        for number in range(rounds):
            tell(1 + number, total, f"step {number + 1} of {rounds}")
            # The order alternates, so that neither kind of step always finds the caches that the other left.
            for timing in (False, True) if number % 2 else (True, False):
                if not timing:
                    steps.append(_step(model, given, backward, seeds))
                    continue
                with LayerTimer() as timer, watched(modules, timer.call):
                    _step(model, given, backward, seeds, timer)
                times.append(timer.times)
        interruptions = (Resources.now() - before).interruptions
        interruptions_per_s = interruptions * 1e9 / (turns.clock_ns() - start)
        medians = {}
        for number, (key, contest) in enumerate(contests.items()):
            tell(1 + rounds + number, total, contest.what)
            medians[key] = contest.run(rounds)
    tell(total, total, "done")

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
        copy_gb_per_s=rates.copy_gb_per_s,
        cached_copy_gb_per_s=rates.cached_copy_gb_per_s,
        peak_gflops=rates.peak_gflops,
        micro_kernel=rates.micro_kernel,
        forward_ms=statistics.median(step[0] for step in steps) / 1e6,
        backward_ms=statistics.median(step[1] for step in steps) / 1e6 if backward else None,
        spread=summarize([sum(step) for step in steps]).spread,
        interruptions_per_s=interruptions_per_s,
        layers=tuple(_layer_time(row, layers, times, medians, rates, backward) for row in rows),
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
def _restored(model: Module) -> Iterator[None]:
    """Restores buffers, gradients and torch's random state at the end."""
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


def _first_step(
    model: Module, layers: Layers, given: tuple[Tensor, ...], backward: bool
) -> tuple[list[_LayerCall], list[Tensor]]:
    """Runs one step, and returns the calls of layers in it and the outputs from which backward can start.

    Raises ShapeError if the model fails on the example, ArgumentError if it has no layers that return tensors.
    """
    calls: list[_LayerCall] = []
    observer = LayerObserver(layers.names, lambda observed, y: calls.append(_described(observed, y, backward)))
    try:
        with observer, watched(layers.names, observer.call), torch.set_grad_enabled(backward):
            y = model(*_copies(given))
        outputs = [t for t in tensors_of(y) if t.requires_grad]
        if outputs:
            torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])
    except Exception as error:  # whatever the model's code raises
        got = ", ".join(str(tuple(x.shape)) for x in given)
        why = f"{str(error) or type(error).__name__}".splitlines()[0].rstrip(".")
        where = {"error": f"{observer.failed or 'backward'}: {why}"}
        raise ShapeError(
            build("profile", "an input that the model takes", got, hint="Give another input or model.", **where)
        ) from error
    calls = [call for call in calls if observer.callers.isdisjoint(call.group)]
    if not calls:
        hint = "Profile a part of it that does."
        raise ArgumentError(
            build("profile", "a model with layers that return tensors", type(model).__name__, hint=hint)
        )
    return calls, [t.detach() for t in outputs]


def _described(observed: ObservedCall, y: Tensor, backward: bool) -> _LayerCall:
    """Collects what depends on the call's tensors, while they exist."""
    path, group, inputs = observed.path, observed.group, observed.inputs
    module, key, size = group[0], key_of(group, inputs, y), y.element_size()
    x = inputs[0] if inputs else y
    if observed.is_view(y):
        return _LayerCall(path, group, key, {"forward": "none"}, (), 0, size)
    if isinstance(module, ConvBase):
        computed = ["forward"]
        if backward:
            computed += ["input"] * x.requires_grad + ["weight"] * module.weight.requires_grad
        problems = problems_of(module, x, observed.more)
        if problems is not None:
            contests = contests_of(path, module, x, problems, computed)
            method = {contest.pass_: contest.method for contest in contests}
            return _LayerCall(path, group, key, method, contests, len(computed) - 1, size)
    gradients = 0
    if backward:
        gradients = int(x.requires_grad) + any(p.requires_grad for p in module.parameters(recurse=False))
    method = {"forward": "native" if observed.native else "torch"}
    return _LayerCall(path, group, key, method, (), gradients, size)


def _work(call: _LayerCall, layers: Layers) -> tuple[Macs | None, tuple[Work, Work] | None]:
    """The multiply-adds of forward, and the work of forward and backward; None for what is not known."""
    group, input_shapes, output_shape = call.key
    if call.method == {"forward": "none"}:
        return Macs(0, 0), (Work(0, 0), Work(0, 0))
    if call.contests:
        macs = macs_of(call.contests[0].call.geometry)
        return macs, work_of(group, call.contests, output_shape, call.size)
    counted = layers.macs(group, input_shapes, output_shape)
    inside = None if counted is None else counted.inside
    return counted, passes_of(group[0], input_shapes, output_shape, call.size, inside, call.gradients)


def _layer_time(
    row: list[_LayerCall],
    layers: Layers,
    times: list[dict[Any, list[int]]],
    medians: dict[Any, dict[str, float]],
    rates: Rates,
    backward: bool,
) -> LayerTime:
    """Builds the result of one row from its calls, the times of each step, and those of its convolution's methods."""
    first, calls = row[0], len(row)
    forward_ms, backward_ms = (statistics.median(t.get(first.key, (0, 0))[k] for t in times) / 1e6 for k in (0, 1))
    macs, passes = _work(first, layers)
    limits = [] if passes is None else [rates.limit(*work) for work in passes]
    timed = {contest.pass_: (contest, medians[contest.key]) for contest in first.contests if contest.key in medians}
    others = {
        pass_: {name: ms for name, ms in by_method.items() if name != contest.method}
        for pass_, (contest, by_method) in timed.items()
    }
    return LayerTime(
        path=first.path,
        type="+".join(type(module).__name__ for module in first.group),
        input_shapes=first.key[1],
        output_shape=first.key[2],
        calls=calls,
        forward_ms=forward_ms,
        backward_ms=backward_ms if backward else None,
        macs=None if macs is None else calls * macs.all,
        macs_inside=None if macs is None else calls * macs.inside,
        moved_bytes=None if passes is None else calls * sum(work.moved_bytes for work in passes),
        limit_ms=None if passes is None else calls * sum(limit.ms for limit in limits),
        limited_by=_decides(limits),
        method=first.method,
        map_ms={pass_: by_method[contest.method] for pass_, (contest, by_method) in timed.items()},
        map_limit_ms={pass_: rates.limit(*contest.work).ms for pass_, (contest, _) in timed.items()},
        map_limited_by={pass_: rates.limit(*contest.work).by for pass_, (contest, _) in timed.items()},
        next_best={pass_: min(found.items(), key=lambda other: other[1]) for pass_, found in others.items() if found},
    )


def _decides(limits: list[Limit]) -> str | None:
    """What decides most of the sum of these limits; None if there are none."""
    sums: dict[str, float] = {}
    for limit in limits:
        sums[limit.by] = sums.get(limit.by, 0.0) + limit.ms
    return max(sums, key=sums.__getitem__) if sums else None


def _rows(calls: list[_LayerCall]) -> list[list[_LayerCall]]:
    rows: dict[Any, list[_LayerCall]] = {}
    for call in calls:
        rows.setdefault(call.key, []).append(call)
    return list(rows.values())


def _copies(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in given)  # a layer may work in place


def _step(
    model: Module, given: tuple[Tensor, ...], backward: bool, seeds: list[Tensor], timer: LayerTimer | None = None
) -> tuple[int, int]:
    """Runs one step, and returns the times of forward and backward [ns]."""
    inputs = _copies(given)
    for p in model.parameters():
        p.grad = None
    with torch.set_grad_enabled(backward):
        start = turns.clock_ns()
        y = model(*inputs)
        forward = turns.clock_ns() - start
    if not backward:
        return forward, 0
    outputs = [t for t in tensors_of(y) if t.requires_grad]
    if timer is not None:
        timer.follow()
    start = turns.clock_ns()
    torch.autograd.backward(outputs, seeds)
    return forward, turns.clock_ns() - start
