"""Times whole networks against other ways to run them, in one run: `python benchmarks/networks.py train` (or infer,
memory).

Every contestant has its own process, because the allocator is a setting of the process: torch's run with the default,
"tuned" ones and striate call striate.tune_allocator first, which separates the effect of kernels from that of memory.
One process works at a time. Each round runs the contestants in a shuffled order; a turn is one untimed call, then timed
ones for at least a tenth of a second, of which the mean counts. Reported are medians over the rounds and their
spread (interquartile range over median).

train   forward, cross-entropy, backward and SGD with momentum 0.9, from the same weights and images: first losses must
agree to 1e-3.
infer   one call in evaluation, of a network whose batch norms hold the statistics of a batch; the error is
        the largest difference from float64, in units of the output's root mean square.
memory  the peak of a training step's allocations, from the profiler's record. The workspaces of kernels, torch's and
        striate's, are not recorded: the peak of resident memory that train reports includes them.

Contestants: striate; torch's own layers, eager on NCHW and on NHWC, and compiled on NHWC; for inference also compiled
with frozen weights, ONNX Runtime and OpenVINO, both in float32 on as many threads (`pip install -e '.[bench]'`). Each
gets its images in the memory format it prefers. "best" is the fastest except striate and the tuned ones. A/A is torch
eager on NHWC over itself. The limit is the time of direct convolution's multiplications, three times as many in
training, at the rate of the micro-kernel on data in the first-level cache, in the same rounds. Where striate takes less
time, since its methods take fewer multiplications, that is told in words.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import importlib.util
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import striate
from striate import models
from striate.allocator import tune_allocator
from striate.files import write_atomically
from striate.measure import (
    ABOUT_BEYOND,
    References,
    Repeated,
    Worker,
    allocated_bytes,
    beyond,
    in_turns,
    processor,
    ratio_a_a,
    repeat,
    resident_bytes,
    summarize,
    with_again,
)

sys.path.insert(0, str(Path(__file__).parent))
from run import RESULTS

LEAST_SECONDS = 0.1  # of timed calls in a turn: LeNet-5's step takes a third of it
LOSS_TOLERANCE = 1e-3
Call = Callable[[], Any]


class Case(NamedTuple):
    network: str
    shape: tuple[int, int, int, int]

    def __str__(self) -> str:
        return f"{self.network} {'×'.join(map(str, self.shape))}"


class Contestant(NamedTuple):
    """One way to run a network.

    who: the package that computes, "striate", "torch" or another; last: on channels_last images; compiled: by
    torch.compile; frozen: with frozen weights; tuned: after striate.tune_allocator.
    """

    who: str = "torch"
    last: bool = False
    compiled: bool = False
    frozen: bool = False
    tuned: bool = False


TRAIN = [
    Case("lenet5", (128, 1, 28, 28)),
    Case("vgg11_bn", (32, 3, 64, 64)),
    Case("resnet18", (16, 3, 112, 112)),
    Case("mobilenet_v2", (16, 3, 112, 112)),
    Case("convnext_tiny", (8, 3, 112, 112)),
]
MEMORY = [*TRAIN, Case("resnet18", (16, 3, 224, 224))]  # where activations take more memory than gradients
INFER = [
    Case(network, (n, 3, 224, 224)) for network in ("resnet18", "resnet50", "vgg11_bn", "mobilenet_v2") for n in (1, 16)
]
REFERENCE, STRIATE = "eager NHWC", "striate"
TRAINERS = {
    "eager NCHW": Contestant(),
    REFERENCE: Contestant(last=True),
    "compile NHWC": Contestant(last=True, compiled=True),
    "eager NHWC tuned": Contestant(last=True, tuned=True),
    STRIATE: Contestant(STRIATE, last=True, tuned=True),
}
RUNNERS = {
    **{name: TRAINERS[name] for name in TRAINERS if name != STRIATE},
    "compile NHWC frozen": Contestant(last=True, compiled=True, frozen=True),
    "ONNX Runtime": Contestant("onnxruntime"),
    "OpenVINO": Contestant("openvino"),
    STRIATE: TRAINERS[STRIATE],
}


# --------------------------------------------------------------------------------------------- networks and contestants


class ChannelsNorm(torch.nn.LayerNorm):
    """LayerNorm2d as torchvision writes it, with torch's operators."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def plain(model: torch.nn.Module) -> torch.nn.Module:
    """The network with torch's layers only."""
    model = striate.restore(model)
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if type(module) is striate.nn.LayerNorm2d:
                layer = ChannelsNorm(module.num_channels, eps=module.eps)
                layer.load_state_dict(module.state_dict())
                setattr(parent, name, layer)
    native = {type(m).__name__ for m in model.modules() if type(m).__module__.startswith("striate.nn")}
    assert not native, f"striate's layers in torch's network: {native}"
    return model


class OnlyTorch(TorchDispatchMode):
    """Refuses striate's operators."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.namespace != "striate", f"{func} in torch's network"
        return func(*args, **(kwargs or {}))


def built(network: str) -> torch.nn.Module:
    """Builds the network with the same weights every time."""
    torch.manual_seed(0)
    return models.by_name(network)()


def images(shape: tuple[int, ...], last: bool) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return x.to(memory_format=torch.channels_last) if last else x


def trainer(case: Case, contestant: Contestant) -> Call:
    """One training step, which returns the loss."""
    model = built(case.network)
    if contestant.who == STRIATE:
        model = striate.accelerate(model, memory_format=torch.channels_last)
    else:
        model = plain(model)
        if contestant.last:
            model = model.to(memory_format=torch.channels_last)
    # this learning rate keeps the loss far from 0, and gradients from becoming denormal
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    called = model
    if contestant.compiled:
        # dropout as in eager mode, or the losses would differ; the time does not
        torch._inductor.config.fallback_random = True
        called = torch.compile(model, dynamic=False)
    x, steps = images(case.shape, contestant.last), 0
    target = torch.randint(0, 10, (len(x),), generator=torch.Generator().manual_seed(2))

    def step() -> float:
        nonlocal steps
        torch.manual_seed(steps)  # the same dropout for all
        loss = F.cross_entropy(called(x), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        return loss.item()

    return step


def runner(case: Case, contestant: Contestant, folder: Path) -> Call:
    """One call in evaluation, which returns the output."""
    x = images(case.shape, contestant.last)
    if contestant.who == "onnxruntime":
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = torch.get_num_threads(), 1
        session = onnxruntime.InferenceSession(onnx_path(folder, case), settings, providers=["CPUExecutionProvider"])
        return lambda: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
    if contestant.who == "openvino":
        import openvino

        # bfloat16 is the default on processors that multiply it fast
        config = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        network = openvino.Core().compile_model(onnx_path(folder, case), "CPU", config)
        request = network.create_infer_request()
        return lambda: torch.from_numpy(
            request.infer({0: x.numpy()}, share_inputs=True, share_outputs=True)[network.output(0)]
        )
    model = built(case.network).eval()
    model.load_state_dict(torch.load(state_path(folder, case)))
    if contestant.who == STRIATE:
        called = striate.freeze(model, x) if hasattr(striate, "freeze") else striate.accelerate(model)
    else:
        called = plain(model)
        if contestant.last:
            called = called.to(memory_format=torch.channels_last)
        if contestant.compiled:
            torch._inductor.config.freezing = contestant.frozen
            called = torch.compile(called, dynamic=False)

    def call() -> Tensor:
        with torch.inference_mode():
            return called(x)

    return call


def state_path(folder: Path, case: Case) -> str:
    return str(folder / f"{case.network}.pt")


def onnx_path(folder: Path, case: Case) -> str:
    return str(folder / f"{case.network}-{case.shape[0]}.onnx")


def prepare(case: Case, folder: Path, export: bool) -> Tensor:
    """Writes the weights that all contestants load, and returns the expected output, in float64.

    γ, β and running statistics are such that folding changes weights, and that activations neither vanish nor grow.
    """
    model = plain(built(case.network))
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = None  # the running statistics become the mean over the batches, of which there is one
    with torch.no_grad():
        model.train()(images((8, *case.shape[1:]), False))
    model.eval()
    torch.save(model.state_dict(), state_path(folder, case))
    x = images(case.shape, False)
    if export:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter by TorchScript is the older one, but needs one package less
            torch.onnx.export(model, (x,), onnx_path(folder, case), input_names=["x"], output_names=["y"], dynamo=False)
    with torch.inference_mode():
        return model.double()(x.double())


def forward_macs(case: Case) -> int:
    """The multiply-adds of convolutions and linear layers for the batch. Counts them in a run on two images, which also
    checks that torch's network calls no operator of striate's.
    """
    with OnlyTorch(), FlopCounterMode(display=False) as counter, torch.no_grad():
        plain(built(case.network))(images((2, *case.shape[1:]), False))
    return counter.get_total_flops() // 4 * case.shape[0]  # two operations a MAC, two images


# --------------------------------------------------------------------------------------------- one process a contestant


def contestant_process(
    make: Callable[..., Call], arguments: tuple[Any, ...], threads: int, tuned: bool
) -> Generator[Any, Any, None]:
    """Runs a contestant: yields its first results, then the times of a turn for each "turn" that is sent, and its peak
    memory for "stop".
    """
    if tuned:
        tune_allocator()
    torch.set_num_threads(threads)
    start = time.perf_counter()
    call = make(*arguments)
    times, results = [time.perf_counter()], []
    for _ in range(3):
        results.append(call())
        times.append(time.perf_counter())
    results = [result.tolist() if isinstance(result, Tensor) else result for result in results]
    asked = yield {"ready_s": times[0] - start, "first_ms": (times[1] - times[0]) * 1e3, "results": results}
    del results
    while asked == "turn":
        asked = yield repeat(call, LEAST_SECONDS)
    peak = resident_bytes("VmHWM")
    del call
    gc.collect()
    yield {"peak_resident_mb": peak / 1e6, "kept_resident_mb": resident_bytes("VmRSS") / 1e6}


def measure(
    case: Case,
    contestants: dict[str, Contestant],
    make: Callable[..., Call],
    more: tuple[Any, ...],
    passes: int,
    rounds: int,
    threads: int,
) -> dict[str, Any]:
    """A row: every contestant's medians, striate's ratios to them, and its share of the limit."""
    with ExitStack() as stack:
        workers = {}
        for name, contestant in contestants.items():
            given = (make, (case, contestant, *more), threads, contestant.tuned)
            workers[name] = Worker(f"{case}, {name},", contestant_process, *given)
            stack.callback(workers[name].kill)
        turns: dict[str, Callable[[], Repeated]] = {
            name: (lambda worker=worker: worker.ask("turn")) for name, worker in workers.items()
        }
        references = References(copies=False)
        turns |= {name: (lambda call=call: repeat(call, LEAST_SECONDS)) for name, call in references.calls.items()}
        measured = in_turns(with_again(turns, REFERENCE), rounds)
        found: dict[str, dict[str, Any]] = {}
        for name, answers in measured.items():
            ms, spread = summarize([one.ms for one in answers])
            rest = {
                what: statistics.median(getattr(one, what) for one in answers) for what in ("page_faults", "system_ms")
            }
            found[name] = {"ms": ms, "spread": spread} | rest
        medians = {name: one["ms"] for name, one in found.items()}
        found = {name: found[name] | worker.first | worker.ask("stop") for name, worker in workers.items()}
        for worker in workers.values():
            worker.stop()
    ms = medians[STRIATE]
    macs, rates = forward_macs(case), references.rates(medians)
    share = rates.least_ms(0, passes * macs) / ms
    best = min(
        (name for name in found if name != STRIATE and not contestants[name].tuned), key=lambda name: found[name]["ms"]
    )
    return {
        "network": case.network,
        "shape": list(case.shape),
        "striate_ms": ms,
        "spread": found[STRIATE]["spread"],
        "ratios": {name: one["ms"] / ms for name, one in found.items() if name != STRIATE},
        "best": best,
        "ratio_best": found[best]["ms"] / ms,
        "ratio_a_a": ratio_a_a(medians, REFERENCE),
        "forward_macs": macs,
        "peak_gflops": rates.peak_gflops,
        "micro_kernel": rates.micro_kernel,
        "share_of_limit": share,
        "beyond_limit": beyond(share, "arithmetic", fewer_macs=True),
        "contestants": found,
    }


# ------------------------------------------------------------------------------------------------- commands


def table(head: list[str]) -> str:
    return "| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|"


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def shape_text(row: dict[str, Any]) -> str:
    return "×".join(map(str, row["shape"]))


def times_head(names: list[str]) -> list[str]:
    return [
        "network",
        "input",
        "striate ms",
        "spread",
        *(f"{n} ms (×)" for n in names if n != STRIATE),
        "× best",
        "A/A",
        "of limit",
    ]


def times_cells(row: dict[str, Any]) -> list[str]:
    return [
        row["network"],
        shape_text(row),
        f"{row['striate_ms']:.1f}",
        f"{row['spread']:.0%}",
        *(f"{row['contestants'][name]['ms']:.1f} ({ratio:.2f})" for name, ratio in row["ratios"].items()),
        f"{row['ratio_best']:.2f} ({row['best']})",
        f"{row['ratio_a_a']:.2f}",
        row["beyond_limit"] or f"{row['share_of_limit']:.0%}",
    ]


DETAILS = ["network", "input", "contestant", "ms", "spread", "page faults", "system ms"]
DETAILS += ["peak resident MB", "kept MB", "ready s", "first ms"]


def details_cells(row: dict[str, Any], name: str) -> list[str]:
    one = row["contestants"][name]
    return [
        row["network"],
        shape_text(row),
        name,
        f"{one['ms']:.1f}",
        f"{one['spread']:.0%}",
        f"{one['page_faults']:.0f}",
        f"{one['system_ms']:.1f}",
        f"{one['peak_resident_mb']:.0f}",
        f"{one['kept_resident_mb']:.0f}",
        f"{one['ready_s']:.1f}",
        f"{one['first_ms']:.1f}",
    ]


def train(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    print(table(times_head(list(TRAINERS))))
    for case in options.cases:
        row = measure(case, TRAINERS, trainer, (), 3, options.rounds, options.threads)
        for one in row["contestants"].values():
            one["first_losses"] = one.pop("results")
        first = [one["first_losses"][0] for one in row["contestants"].values()]
        row["losses_agree"] = all(abs(loss - first[0]) <= LOSS_TOLERANCE for loss in first)
        rows.append(row)
        print(line(times_cells(row)), flush=True)
    print("\n" + table([*DETAILS, "losses of the first steps"]))
    for row in rows:
        for name, one in row["contestants"].items():
            print(line([*details_cells(row, name), ", ".join(f"{loss:.4f}" for loss in one["first_losses"])]))
    return rows


def infer(options: argparse.Namespace) -> list[dict[str, Any]]:
    contestants = dict(RUNNERS)
    for name, contestant in RUNNERS.items():
        needed = [contestant.who, "onnx"] if contestant.who not in ("torch", STRIATE) else []
        missing = [package for package in needed if importlib.util.find_spec(package) is None]
        if missing:
            print(f"{name} is left out, it needs {' and '.join(missing)}: pip install -e '.[bench]'")
            del contestants[name]
    if not hasattr(striate, "freeze"):
        print("striate.freeze does not exist: striate's network is only accelerated")
    export = any(c.who not in ("torch", STRIATE) for c in contestants.values())
    rows = []
    print("\n" + table([*times_head(list(contestants)), "first call / ordinary"]))
    for case in options.cases:
        with tempfile.TemporaryDirectory() as folder:
            exact = prepare(case, Path(folder), export)
            row = measure(case, contestants, runner, (Path(folder),), 1, options.rounds, options.threads)
        for one in row["contestants"].values():
            y = torch.tensor(one.pop("results")[0], dtype=torch.float64)
            one["max_error"] = float((y - exact).abs().max() / exact.square().mean().sqrt())
        row["first_over_ordinary"] = row["contestants"][STRIATE]["first_ms"] / row["striate_ms"]
        rows.append(row)
        print(line([*times_cells(row), f"{row['first_over_ordinary']:.1f}"]), flush=True)
    print("\n" + table([*DETAILS, "error"]))
    for row in rows:
        for name, one in row["contestants"].items():
            print(line([*details_cells(row, name), f"{one['max_error']:.0e}"]))
    return rows


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    names = ["eager NCHW", REFERENCE, STRIATE]
    rows = []
    print(table(["network", "input", *(f"{name} MB" for name in names), *(f"× {name}" for name in names[:-1])]))
    for case in options.cases:
        peaks = {name: allocated_bytes(trainer(case, TRAINERS[name])) for name in names}
        ratios = {name: peaks[name] / peaks[STRIATE] for name in names[:-1]}
        rows.append({"network": case.network, "shape": list(case.shape), "peak_bytes": peaks, "ratios": ratios})
        cells = [*(f"{peak / 1e6:.1f}" for peak in peaks.values()), *(f"{ratio:.2f}" for ratio in ratios.values())]
        print(line([case.network, shape_text(rows[-1]), *cells]), flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command, cases, about in (
        (train, TRAIN, "time a training step"),
        (infer, INFER, "time a call in evaluation"),
        (memory, MEMORY, "what a training step allocates"),
    ):
        sub = commands.add_parser(command.__name__, help=about, description=f"{about.capitalize()} of each network.")
        sub.add_argument(
            "--only", default="", help=f"networks and inputs whose name contains this, as {str(cases[0])!r}"
        )
        if command is not memory:
            sub.add_argument(
                "--rounds", type=int, default=11, help="turns of each contestant, at least 7 (default %(default)s)"
            )
        sub.add_argument(
            "--threads",
            type=int,
            default=torch.get_num_threads(),
            help="threads of each contestant (default %(default)s)",
        )
        where = f"benchmarks/results/networks_{command.__name__}.json"
        sub.add_argument("--json", type=Path, help=f"where to write the rows (default {where}; with --only nowhere)")
        sub.set_defaults(command=command, all_cases=cases, rounds=11)
    options = parser.parse_args()
    if options.rounds < 7:
        parser.error(f"a median of fewer than 7 rounds says little, got --rounds {options.rounds}")
    options.cases = [case for case in options.all_cases if options.only in str(case)]
    if not options.cases:
        parser.error(f"no network has {options.only!r} in its name and input: {', '.join(map(str, options.all_cases))}")
    torch.set_num_threads(options.threads)
    info = striate.native_info()
    machine = {"processor": processor(), "threads": options.threads, "rounds": options.rounds} | {
        k: info[k] for k in ("isa", "torch", "striate")
    }
    if options.command is infer:
        machine |= {
            name: importlib.metadata.version(name)
            for name in ("onnxruntime", "openvino")
            if importlib.util.find_spec(name)
        }
    print(", ".join(f"{name} {value}" for name, value in machine.items()) + "\n")
    rows = options.command(options)
    for word in {row["beyond_limit"] for row in rows if row.get("beyond_limit")}:
        print(f"\n{word}: {ABOUT_BEYOND[word]}.")
    path = options.json or (None if options.only else RESULTS / f"networks_{options.command.__name__}.json")
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
        print(f"\n{len(rows)} rows in {path}")
    apart = [row["network"] for row in rows if not row.get("losses_agree", True)]
    if apart:
        print(
            f"\nthe first losses of {', '.join(apart)} differ by more than {LOSS_TOLERANCE:g}: the contestants do not "
            "compute the same"
        )
    return 1 if apart else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ChildProcessError as error:  # the contestant's process has printed the reason
        sys.exit(str(error))
