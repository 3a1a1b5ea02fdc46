"""SyncBatchNorm in real processes on the CPU equals one process with the whole batch."""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import striate.nn as nn
from striate.errors import ArgumentTypeError

WORLDS = (pytest.param(2, marks=pytest.mark.nightly), 3)
C = 3
DEADLINE_SECONDS = 300  # all checks of one world hang; they take 5, and on a busy machine 40
COLLECTIVE_SECONDS = 60  # seconds after which a rank left alone gives up
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda z: z,
    "relu": F.relu,
    "leaky_relu": lambda z: F.leaky_relu(z, 0.2),
    "silu": F.silu,
}
FORMATS = {3: torch.channels_last, 4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Case:
    """A layer and the batches of some steps, with ``sizes`` samples on each rank."""

    sizes: tuple[int, ...]
    dtype: torch.dtype = torch.float64
    axes: tuple[int, ...] = (4, 5)
    channels_last: bool = False
    residual: bool = False
    activation: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 2
    looked_at: bool = False  # by a dispatch mode, which sees none of striate's operators

    @property
    def tolerance(self) -> float:
        return TOLERANCE.get(self.dtype, 4 * torch.finfo(self.dtype).eps)


def cases(world: int) -> dict[str, Case]:
    sizes = {
        2: {"even": (4, 4), "uneven": (5, 2), "an empty rank": (0, 5)},
        3: {"even": (3, 3, 3), "uneven": (5, 2, 1), "an empty rank": (4, 0, 3)},
    }[world]
    some = {
        f"{name}, {str(dtype)[6:]}, {order}": Case(shares, dtype, channels_last=order == "channels_last")
        for name, shares in sizes.items()
        for dtype in TOLERANCE
        for order in ("planes", "channels_last")
    }
    uneven, empty = sizes["uneven"], sizes["an empty rank"]
    return some | {
        "one value each": Case((1,) * world, axes=()),
        "only one rank has samples": Case((0, 4, 0)[:world]),
        "(N, C)": Case(uneven, axes=()),
        "(N, C, L)": Case(uneven, axes=(6,)),
        "(N, C, D, H, W)": Case(uneven, axes=(2, 3, 4), channels_last=True),
        "momentum None": Case(uneven, options={"momentum": None}, steps=3),
        "momentum None, float32": Case(uneven, torch.float32, options={"momentum": None}, steps=3),
        "without scale and shift": Case(uneven, options={"affine": False}),
        "without running statistics": Case(uneven, options={"track_running_stats": False}),
        "relu and residual": Case(uneven, activation="relu", residual=True),
        "relu and residual, float32": Case(uneven, torch.float32, activation="relu", residual=True, channels_last=True),
        "relu and residual, an empty rank": Case(empty, activation="relu", residual=True),
        "residual alone": Case(uneven, residual=True),
        "leaky_relu": Case(uneven, activation="leaky_relu"),
        "silu and residual": Case(uneven, activation="silu", residual=True),
        "bfloat16": Case(uneven, torch.bfloat16, activation="relu", residual=True),
        "looked at": Case(uneven, looked_at=True),
        "looked at, leaky_relu, channels_last": Case(
            uneven, activation="leaky_relu", channels_last=True, looked_at=True
        ),
    }


def data(case: Case) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """x, residual and dy of each step, of the whole batch: the same numbers in every type.

    Samples differ in mean and deviation, so no part is like the whole.
    """
    chance = torch.Generator().manual_seed(7)
    shape = (sum(case.sizes), C, *case.axes)
    sample = torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    for step in range(case.steps):
        x, residual, dy = torch.randn(3, *shape, generator=chance)
        x = x * (1 + sample / 3) + sample + step
        yield x.to(case.dtype), residual.to(case.dtype), dy.to(case.dtype)


class Looking(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "striate" not in str(func)
        return func(*args, **(kwargs or {}))


def layer_of(kind: type, case: Case, **more: Any) -> Any:
    layer = kind(C, **case.options, **more)
    layer.activation, layer.negative_slope = case.activation, 0.2
    if layer.weight is not None:
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([0.5, -2.0, 1.0]))
            layer.bias.copy_(torch.tensor([0.25, 0.0, -1.0]))
    return layer.to(case.dtype)


def steps(layer: Any, case: Case, part: slice | list[int] = slice(None)) -> dict[str, Any]:
    """The outputs and gradients of a layer on its part of each step's batch."""
    found: dict[str, Any] = {"y": [], "dx": [], "dresidual": []}
    for whole in data(case):
        x, residual, dy = (v[part] for v in whole)
        if case.channels_last:
            x = x.contiguous(memory_format=FORMATS[x.dim()])
        x, residual = x.clone().requires_grad_(), residual.clone().requires_grad_()
        with Looking() if case.looked_at else contextlib.nullcontext():
            y = layer(x, residual if case.residual else None)
            (y * dy).sum().backward()
        assert y.shape == x.shape and (x.numel() == 0 or y.stride() == x.stride())
        found["y"].append(y.detach())
        found["dx"].append(x.grad)
        found["dresidual"].append(residual.grad)
    for name in ("weight", "bias"):
        found[f"d{name}"] = None if getattr(layer, name) is None else getattr(layer, name).grad
    return found | {name: getattr(layer, name) for name in ("running_mean", "running_var", "num_batches_tracked")}


class Reference(torch.nn.BatchNorm2d):
    """torch's batch norm, sum and activation, one after the other."""

    activation: str | None

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        z = super().forward(x)
        return ACTIVATIONS[self.activation](z if residual is None else z + residual)


def close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert got.shape == expected.shape
    if expected.numel():
        error = (got.double() - expected.double()).abs().max().item()
        assert error <= tolerance * max(1.0, expected.abs().max().item()), error


# ------------------------------------------------------------------------------------------------ what the processes do


def slice_of(rank: int, sizes: tuple[int, ...]) -> slice:
    return slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


def attempt(call: Callable[[], Any]) -> Any:
    """Returns what was raised as text, which can be passed to the parent while the other checks go on."""
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def one_value_in_all(rank: int, world: int) -> dict[str, Any]:
    layer = nn.SyncBatchNorm(C)
    message = attempt(lambda: layer(torch.ones(1 if rank == 0 else 0, C)))
    return {
        "message": message,
        "running_mean": layer.running_mean,
        "running_var": layer.running_var,
        "batches": layer.num_batches_tracked,
    }


def no_value_in_all(rank: int, world: int) -> dict[str, Any]:
    layer = nn.SyncBatchNorm(C)
    x = torch.ones(0, C, 2, 2, requires_grad=True)
    y = layer(x)
    message = attempt(lambda: y.sum().backward())
    return {
        "shape": list(y.shape),
        "message": message,
        "running_mean": layer.running_mean,
        "running_var": layer.running_var,
    }


def quiet_layers() -> dict[str, Any]:
    return {
        "eval": nn.SyncBatchNorm(C).eval(),
        "frozen": nn.SyncBatchNorm(C).freeze(),
        "eval without running statistics": nn.SyncBatchNorm(C, track_running_stats=False).eval(),
    }


def one_rank_alone(rank: int, world: int) -> dict[str, Any]:
    """Only rank 0 calls. A collective would wait for the others, and fail after the group's two seconds."""
    found = {}
    for name, layer in quiet_layers().items():
        layer.process_group = dist.new_group(timeout=timedelta(seconds=2))
        if rank == 0:
            found[name] = attempt(lambda: layer(next(data(Case((6,), torch.float32)))[0]).detach())
        dist.barrier()
    return found


SUBSET = Case((3, 2, 4))


def subset(rank: int, world: int) -> Any:
    group = dist.new_group([0, 2] if world == 3 else [0])  # rank 1 is no member
    layer = layer_of(nn.SyncBatchNorm, SUBSET, process_group=group)
    return attempt(lambda: steps(layer, SUBSET, slice_of(rank, SUBSET.sizes)))


def pairs(rank: int, world: int) -> Any:
    """Every rank is in a group of its own choice: the first two together, the third by itself."""
    groups = [dist.new_group(ranks) for ranks in ([0, 1], [2])[: world - 1]]
    layer = layer_of(nn.SyncBatchNorm, SUBSET, process_group=groups[rank // 2])
    return steps(layer, SUBSET, slice_of(rank, SUBSET.sizes))


def gathered(rank: int, world: int) -> list[Any]:
    seen = []
    original = dist.all_gather

    def watched(parts: list[Tensor], own: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append([own.numel(), str(own.dtype)])
        return original(parts, own, *args, **kwargs)

    dist.all_gather = watched
    try:
        steps(nn.SyncBatchNorm(C).double(), Case((2,) * world, steps=1), slice_of(rank, (2,) * world))
    finally:
        dist.all_gather = original
    return seen


def net(dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(5)
    first = [nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    second = [nn.Conv2d(4, 6, 3, stride=2, bias=False), torch.nn.BatchNorm2d(6), nn.ReLU()]
    return nn.Sequential(*first, nn.Sequential(*second), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).to(
        dtype
    )


def train(
    model: torch.nn.Module, dtype: torch.dtype, part: slice, average: Callable[[Tensor], Any] | None = None
) -> dict[str, Tensor]:
    """Three steps of SGD on a part of 12 samples; ``average`` is applied to gradients that nothing else averages.
    """
    chance = torch.Generator().manual_seed(9)
    x = (
        torch.randn(12, 2, 7, 7, generator=chance, dtype=torch.float64).to(dtype)
        + torch.arange(12, dtype=dtype).reshape(-1, 1, 1, 1) / 4
    )
    target = torch.randint(0, 3, (12,), generator=chance)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x[part]), target[part]).backward()
        for p in model.parameters() if average is not None else ():
            average(p.grad)
        optimizer.step()
    return {name.removeprefix("module."): v.detach() for name, v in model.state_dict().items()}


def train_parallel(rank: int, world: int, dtype: torch.dtype) -> dict[str, Tensor]:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(net(dtype))
    return train(DistributedDataParallel(model), dtype, slice_of(rank, (12 // world,) * world))


def train_by_hand(rank: int, world: int) -> dict[str, Tensor]:
    def average(gradient: Tensor) -> None:
        dist.all_reduce(gradient)
        gradient /= world

    model = nn.SyncBatchNorm.convert_sync_batchnorm(net(torch.float64))
    return train(model, torch.float64, slice_of(rank, (12 // world,) * world), average)


def checks(world: int) -> dict[str, Callable[[int], Any]]:
    made: dict[str, Callable[[int], Any]] = {
        name: lambda rank, case=case: steps(layer_of(nn.SyncBatchNorm, case), case, slice_of(rank, case.sizes))
        for name, case in cases(world).items()
    }
    for check in (one_value_in_all, no_value_in_all, gathered, pairs, train_by_hand, one_rank_alone, subset):
        made[check.__name__] = lambda rank, check=check: check(rank, world)
    for dtype in TOLERANCE:
        made[f"train_parallel {dtype}"] = lambda rank, dtype=dtype: attempt(lambda: train_parallel(rank, world, dtype))
    return made


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    store, timeout = f"file://{folder}/store", timedelta(seconds=COLLECTIVE_SECONDS)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timeout)
    results = {}
    for name, check in checks(world).items():
        try:
            results[name] = check(rank)
        except Exception:
            results["failed"] = f"rank {rank}, {name}: {traceback.format_exc()}"
            break  # this process ends, and the others learn it from their broken connections
    torch.save(results, Path(folder, f"{rank}.pt"))
    if "failed" not in results:
        dist.barrier()
        dist.destroy_process_group()


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: f"{world} ranks")
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of every check on every rank; the processes start once for all checks."""
    world, folder = request.param, tmp_path_factory.mktemp("ranks")
    context = torch.multiprocessing.spawn(work, (world, str(folder)), nprocs=world, join=False)
    end = time.monotonic() + DEADLINE_SECONDS
    while not context.join(timeout=1):
        if time.monotonic() > end:
            for process in context.processes:
                process.kill()
            pytest.fail(f"{world} processes hung")
    results = [torch.load(folder / f"{rank}.pt") for rank in range(world)]
    failed = [r["failed"] for r in results if "failed" in r]
    assert not failed, "\n".join(failed)
    assert all(list(r) == list(checks(world)) for r in results)
    return results


# ------------------------------------------------------------------------------------------------------ equal the whole


def agree(found: list[dict[str, Any]], case: Case, rows: slice | list[int] = slice(None)) -> None:
    """The parts together are what one process finds that has all ``rows``: striate's batch norm, and torch's in
    float64.
    """
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        own = found[0][name]
        assert all(own is None if f[name] is None else torch.equal(f[name], own) for f in found)
    wide = replace(case, dtype=torch.float64, channels_last=False)
    for expected in (
        steps(layer_of(nn.BatchNormAct2d, case), case, rows),
        steps(layer_of(Reference, wide), wide, rows),
    ):
        for name in ("y", "dx", "dresidual"):
            if expected[name][0] is None:
                assert all(g is None for f in found for g in f[name])
                continue
            for step in range(case.steps):
                close(torch.cat([f[name][step] for f in found]), expected[name][step], case.tolerance)
        for name in ("dweight", "dbias", "running_mean", "running_var", "num_batches_tracked"):
            if expected[name] is None:
                assert all(f[name] is None for f in found)
                continue
            got = sum(f[name].double() for f in found) if name.startswith("d") else found[0][name]
            close(got, expected[name], case.tolerance)


@pytest.mark.parametrize("name", cases(2))
def test_ranks_together_equal_one_process_with_the_whole_batch(ranks: list[dict[str, Any]], name: str) -> None:
    agree([r[name] for r in ranks], cases(len(ranks))[name])


def test_the_cases_tell_ranks_that_talk_from_ranks_that_do_not(ranks: list[dict[str, Any]]) -> None:
    case = cases(len(ranks))["uneven, float64, planes"]
    alone = steps(layer_of(nn.BatchNormAct2d, case), case, slice_of(0, case.sizes))
    found = ranks[0]["uneven, float64, planes"]
    for name in ("y", "dx"):
        assert (alone[name][0] - found[name][0]).abs().max() > 0.1
    for name in ("dweight", "running_mean", "running_var"):
        assert (alone[name] - found[name]).abs().max() > 0.1


def test_one_value_in_all_raises_on_every_rank_and_changes_nothing(ranks: list[dict[str, Any]]) -> None:
    for rank, results in enumerate(ranks):
        found = results["one_value_in_all"]
        assert found["message"] == (
            "ShapeError: SyncBatchNorm expects more than one value per channel to measure, all processes together, "
            "got 1. "
            f"x: ({1 if rank == 0 else 0}, 3). Use larger batches or .eval()."
        )
        assert torch.equal(found["running_mean"], torch.zeros(C)) and torch.equal(found["running_var"], torch.ones(C))


def test_a_batch_that_raised_is_not_counted(ranks: list[dict[str, Any]]) -> None:
    assert [results["one_value_in_all"]["batches"].item() for results in ranks] == [0] * len(ranks)


def test_no_value_in_all_passes_forward_and_backward_and_changes_nothing(ranks: list[dict[str, Any]]) -> None:
    for results in ranks:
        found = results["no_value_in_all"]
        assert found["shape"] == [0, C, 2, 2]
        assert torch.equal(found["running_mean"], torch.zeros(C)) and torch.equal(found["running_var"], torch.ones(C))
        assert found["message"] is None


@pytest.mark.parametrize("name", quiet_layers())
def test_where_nothing_is_measured_together_a_rank_needs_no_other(ranks: list[dict[str, Any]], name: str) -> None:
    got = ranks[0]["one_rank_alone"][name]
    assert isinstance(got, Tensor), got
    layer = nn.BatchNorm2d(C, track_running_stats="without" not in name).eval()
    assert torch.equal(got, layer(next(data(Case((6,), torch.float32)))[0]))


def test_members_of_a_group_equal_one_process_with_the_batch_of_the_group(ranks: list[dict[str, Any]]) -> None:
    members, rows = ([0, 2], [0, 1, 2, 5, 6, 7, 8]) if len(ranks) == 3 else ([0], [0, 1, 2])
    agree([ranks[r]["subset"] for r in members], SUBSET, rows)


def test_a_rank_outside_the_group_is_a_batch_norm_of_its_own(ranks: list[dict[str, Any]]) -> None:
    found = ranks[1]["subset"]
    assert isinstance(found, dict), found
    agree([found], SUBSET, [3, 4])  # torch's rule


def test_each_rank_synchronizes_with_the_group_it_is_given(ranks: list[dict[str, Any]]) -> None:
    agree([r["pairs"] for r in ranks[:2]], SUBSET, [0, 1, 2, 3, 4])
    if len(ranks) == 3:
        agree([ranks[2]["pairs"]], SUBSET, [5, 6, 7, 8])


def test_a_rank_gathers_what_the_docstring_says(ranks: list[dict[str, Any]]) -> None:
    for results in ranks:
        assert results["gathered"] == [[2 * C + 1, "torch.float64"], [2 * C, "torch.float64"]]


# ------------------------------------------------------------------------------------------------------------- training


def same_state(got: Any, dtype: torch.dtype) -> None:
    assert isinstance(got, dict), got
    model = net(dtype)
    start = {name: v.clone() for name, v in model.state_dict().items()}
    expected = train(model, dtype, slice(None))
    assert list(got) == list(expected)
    for name in expected:
        assert not torch.equal(start[name], expected[name])
        close(got[name], expected[name], TOLERANCE[dtype])


def test_three_steps_with_gradients_averaged_by_hand_equal_one_process(ranks: list[dict[str, Any]]) -> None:
    for results in ranks:
        same_state(results["train_by_hand"], torch.float64)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_three_steps_under_distributed_data_parallel_equal_one_process(
    ranks: list[dict[str, Any]], dtype: torch.dtype
) -> None:
    for results in ranks:
        same_state(results[f"train_parallel {dtype}"], dtype)


SCRIPT = """
import os
import sys
sys.path.insert(0, {tests!r})
import torch
import torch.distributed as dist
from test_sync import train_parallel

torch.set_num_threads(1)
dist.init_process_group("gloo")
state = train_parallel(dist.get_rank(), dist.get_world_size(), torch.float64)
torch.save(state, {folder!r} + f"/{{dist.get_rank()}}.pt")
dist.barrier()
os._exit(0)  # all is saved and said; at an ordinary exit gloo's threads at times abort the process, without striate too
"""


@pytest.mark.nightly
def test_three_steps_under_torchrun_equal_one_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    where = [
        "--nnodes=1",
        "--nproc_per_node=2",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0",
        "--local-addr=127.0.0.1",
    ]
    command = [sys.executable, "-m", "torch.distributed.run", *where, str(script)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        printed, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # also kills the workers
        pytest.fail("torchrun hung")
    assert process.returncode == 0, printed
    for rank in range(2):
        same_state(torch.load(tmp_path / f"{rank}.pt"), torch.float64)


# ---------------------------------------------------------------------------------------------------------- one process


@pytest.mark.parametrize("distributed", [False, True], ids=["no torch.distributed", "world of one"])
def test_one_process_is_a_batch_norm_bit_for_bit(tmp_path: Path, distributed: bool) -> None:
    case = Case((6,), torch.float32, residual=True, activation="relu", channels_last=True)
    expected = steps(layer_of(nn.BatchNormAct2d, case), case)
    if distributed:
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert dist.is_initialized() is distributed
        found = steps(layer_of(nn.SyncBatchNorm, case), case)
    finally:
        if distributed:
            dist.destroy_process_group()
    for name, value in expected.items():
        pairs = zip(found[name], value, strict=True) if isinstance(value, list) else [(found[name], value)]
        assert all(torch.equal(a, b) for a, b in pairs), name


def test_what_is_no_tensor_is_refused_by_name() -> None:
    with pytest.raises(ArgumentTypeError) as raised:
        nn.SyncBatchNorm(C)([[1.0, 2.0, 3.0]])  # type: ignore[arg-type]
    assert str(raised.value) == "SyncBatchNorm expects a tensor, got list. Call torch.as_tensor on it first."


# -------------------------------------------------------------------------------------------------------------- convert


class Nested(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4, eps=0.5, momentum=None), torch.nn.ReLU()
        )
        inner = torch.nn.Sequential(
            nn.BatchNorm2d(4).freeze(), nn.BatchNormAct2d(4, activation="leaky_relu", negative_slope=0.3)
        )
        self.deep = nn.Sequential(
            nn.Sequential(inner, nn.BatchNorm3d(4, affine=False)), torch.nn.BatchNorm1d(4, track_running_stats=False)
        )
        self.others = torch.nn.ModuleList(
            [nn.GroupNorm(1, 4), torch.nn.InstanceNorm2d(4, affine=True), nn.LayerNorm(4), nn.MaxPool2d(2)]
        )
        self.sync = torch.nn.SyncBatchNorm(4)
        self.deep[0][0][1].eval()


def test_conversion_keeps_parameters_buffers_mode_freezing_activation_and_options() -> None:
    model = Nested()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    before = dict(model.named_modules())
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert nn.SyncBatchNorm.convert_sync_batchnorm(model) is model
    assert {**dict(model.named_parameters()), **dict(model.named_buffers())}.keys() == tensors.keys()
    for name, v in [*model.named_parameters(), *model.named_buffers()]:
        assert v is tensors[name], name
    converted = 0
    for name, module in model.named_modules():
        old = before[name]
        if not isinstance(old, (torch.nn.modules.batchnorm._BatchNorm, nn.BatchNormAct2d)):
            assert module is old
            continue
        converted += 1
        assert type(module) is nn.SyncBatchNorm
        for option in ("num_features", "eps", "momentum", "affine", "track_running_stats", "training"):
            assert getattr(module, option) == getattr(old, option), (name, option)
        for option, default in (("frozen", False), ("activation", None), ("negative_slope", 0.01)):
            assert getattr(module, option) == getattr(old, option, default), (name, option)
    assert converted == 6
    inner = model.deep[0][0]
    assert (
        inner[0].frozen
        and inner[1].activation == "leaky_relu"
        and inner[1].negative_slope == 0.3
        and not inner[1].training
    )


def test_a_converted_model_computes_what_it_computed() -> None:
    model = torch.nn.Sequential(
        nn.BatchNormAct2d(3), torch.nn.Sequential(torch.nn.BatchNorm2d(3), nn.BatchNorm2d(3).eval())
    )
    x = torch.randn(4, 3, 5, 5)
    expected = copy.deepcopy(model)(x)
    torch.testing.assert_close(nn.SyncBatchNorm.convert_sync_batchnorm(model)(x), expected)


def test_conversion_of_a_lone_layer_gives_a_new_one_in_the_group_it_is_told() -> None:
    layer, group = nn.BatchNorm1d(3), object()
    made = nn.SyncBatchNorm.convert_sync_batchnorm(layer, group)
    assert type(made) is nn.SyncBatchNorm and made.weight is layer.weight and made.process_group is group


def test_a_layer_of_two_names_stays_one_layer_when_converted() -> None:
    model = torch.nn.Module()
    model.first = model.second = nn.BatchNorm2d(3)
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(model.second) is nn.SyncBatchNorm
    assert model.first is model.second
