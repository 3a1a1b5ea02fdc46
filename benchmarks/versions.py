"""Times two versions of striate in one run: ``python benchmarks/versions.py OLD``, where OLD is the python of another
checkout's environment.

Times a training step and a call under ``torch.no_grad`` of whole accelerated networks, and a call of the frozen ones,
on images in NCHW and in channels_last. Networks are those of ``striate.models``; "plain" ones, of torch's layers with a
``forward`` of their own (plain.py); and "convolutions", two 3×3 convolutions of the image's channels, a global average
and a classifier. The new version runs as ``accelerate(model, memory_format=torch.channels_last)`` ("new") and as
``accelerate(model)`` ("default"); before this option existed, accelerate gave channels_last. Each contestant is a
separate process, all with the allocator tuned; one works at a time, in shuffled order. A turn is one untimed call, then
timed ones for at least a quarter of a second, of which the mean counts. Reported are medians over the turns, the new
version's spread (interquartile range over median), the old version's time over "new" and over "default" (above 1: the
new version is faster), and A/A, the ratio of two processes of "new".
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from collections.abc import Callable
from typing import Any

CASES: dict[str, tuple[int, ...]] = {
    "plain resnet18": (8, 3, 128, 128),
    "plain mobilenet_v2": (8, 3, 128, 128),
    "lenet5": (128, 1, 28, 28),
    "resnet_cifar": (64, 3, 32, 32),
    "vgg11_bn": (4, 3, 128, 128),
    "resnet18": (8, 3, 128, 128),
    "mobilenet_v2": (8, 3, 128, 128),
    "convolutions large": (8, 32, 56, 56),
    "convolutions wide": (8, 128, 28, 28),
    "convolutions small": (16, 512, 7, 7),
}
LEAST_SECONDS = 0.25


def call_of(name: str, mode: str, last: bool, give_format: bool) -> Callable[[], Any]:
    import torch
    import torch.nn.functional as F
    from plain import NETWORKS

    import striate
    from striate import models
    from striate.allocator import tune_allocator

    tune_allocator()
    torch.manual_seed(0)
    kind, _, network = name.rpartition(" ")
    if kind == "convolutions":
        channels = CASES[name][1]
        convolutions = (torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        model: Any = torch.nn.Sequential(
            *convolutions, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(channels, 10)
        )
    else:
        model = NETWORKS[network]() if kind else getattr(models, network)()
    choice = (
        {"memory_format": torch.channels_last}
        if give_format and "memory_format" in inspect.signature(striate.accelerate).parameters
        else {}
    )
    model = striate.accelerate(model, **choice).train(mode == "train")
    x = torch.randn(CASES[name])
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    if mode == "frozen":
        model = striate.freeze(model, x)
    if mode != "train":

        def infer() -> Any:
            with torch.no_grad():
                return model(x)

        return infer
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    target = torch.randint(0, 10, (len(x),))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), target).backward()
        optimizer.step()

    return step


def work() -> None:
    """Reads a case from each line, and prints the milliseconds of a call."""
    calls: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        if line not in calls:
            calls.clear()
            calls[line] = call_of(*json.loads(line))
        call, count = calls[line], 0
        call()
        start = time.perf_counter()
        while count == 0 or time.perf_counter() - start < LEAST_SECONDS:
            call()
            count += 1
        print((time.perf_counter() - start) / count * 1e3, flush=True)


def turn(worker: Any, *case: Any) -> Callable[[], float]:
    return lambda: float(worker.ask(json.dumps(case)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="python of the other version's environment")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each (default %(default)s)")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    options = parser.parse_args()
    pythons = {"old": options.old, "new": sys.executable, "default": sys.executable, "again new": sys.executable}
    # not imported at the top, because work() runs in the old version, which may not have it
    from striate.measure import LineWorker, in_turns, processor, ratio_a_a, summarize

    print(processor(), "\n")
    print(
        "| network | input | images | | old ms | new ms | spread | old / new | old / default | A/A |\n"
        + "|---" * 10
        + "|"
    )
    for name, shape in CASES.items():
        if options.only not in name:
            continue
        workers = {who: LineWorker(python, __file__, "--work") for who, python in pythons.items()}
        for mode in ("train", "infer", "frozen"):
            for last in (False, True):
                turns = {who: turn(worker, name, mode, last, who != "default") for who, worker in workers.items()}
                times = in_turns(turns, options.rounds, uncounted=1)  # in the first round networks are built
                found = {who: summarize(measured) for who, measured in times.items()}
                medians = {who: one.median for who, one in found.items()}
                row = [name, "×".join(map(str, shape)), "channels_last" if last else "NCHW", mode]
                row += [f"{medians['old']:.2f}", f"{medians['new']:.2f}", f"{found['new'].spread:.0%}"]
                row += [f"{medians['old'] / medians[who]:.2f}" for who in ("new", "default")]
                row += [f"{ratio_a_a(medians, 'new'):.2f}"]
                print("| " + " | ".join(row) + " |", flush=True)
        for worker in workers.values():
            worker.kill()


if __name__ == "__main__":
    work() if "--work" in sys.argv else main()
