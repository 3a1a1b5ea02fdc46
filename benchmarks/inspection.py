"""How long inspecting a network takes, and how much memory: `python benchmarks/inspection.py`.

Against torchinfo, which runs the model in earnest (`pip install torchinfo`), in one process, interleaved; medians and spread. The first
inspection of a process also imports what torch traces with and is told apart. Memory is the most that is held at once beyond the model,
measured in a process of its own for each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

import torch
from run import medians_ms

import striate
from striate.analysis import inspect

CASES = {"lenet5": (1, 1, 28, 28), "resnet50": (1, 3, 224, 224), "mobilenet_v2": (1, 3, 224, 224), "convnext_tiny": (1, 3, 224, 224)}


def torchinfo_of(name: str) -> Any:
    import torchinfo

    model = striate.restore(striate.models.by_name(name)()).eval()
    return lambda: torchinfo.summary(model, input_size=CASES[name], verbose=0, device="cpu")


def ours_of(name: str) -> Any:
    model = striate.models.by_name(name)().eval()
    return lambda: inspect(model, CASES[name])


def peak_mib(maker: str, name: str, queue: Any) -> None:
    run = globals()[maker](name)
    globals()[maker]("lenet5")()  # imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    queue.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def memory(maker: str, name: str) -> float:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=peak_mib, args=(maker, name, queue))
    process.start()
    got = queue.get()
    process.join()
    return got


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="at least 7 (default %(default)s)")
    where = Path(__file__).parent / "results" / "inspection.json"
    parser.add_argument("--json", type=Path, default=where, help="where to write the rows (default benchmarks/results/inspection.json)")
    options = parser.parse_args()
    start = time.perf_counter()
    ours_of("lenet5")()
    first_ms = (time.perf_counter() - start) * 1e3
    rows = []
    print(f"first inspection of a process: {first_ms:.0f} ms")
    heads = ("striate ms", "torchinfo ms", "ratio", "striate MiB", "torchinfo MiB", "parameters MiB")
    print(f"{'network':<16}" + "".join(f"{head:>16}" for head in heads))
    for name in CASES:
        times = medians_ms({"striate": ours_of(name), "torchinfo": torchinfo_of(name)}, max(7, options.rounds))
        held = {"striate": memory("ours_of", name), "torchinfo": memory("torchinfo_of", name)}
        parameters = sum(p.numel() * p.element_size() for p in striate.models.by_name(name)().parameters()) / 2**20
        row = {
            "network": name,
            "striate_ms": times["striate"][0],
            "torchinfo_ms": times["torchinfo"][0],
            "spread": {key: value[1] for key, value in times.items()},
            "striate_mib": held["striate"],
            "torchinfo_mib": held["torchinfo"],
            "parameters_mib": parameters,
        }
        rows.append(row)
        ratio = row["striate_ms"] / row["torchinfo_ms"]
        cells = (row["striate_ms"], row["torchinfo_ms"], ratio, held["striate"], held["torchinfo"], parameters)
        print(f"{name:<16}" + "".join(f"{cell:>16.2f}" for cell in cells))
    told = {"command": "python benchmarks/inspection.py", "torch": torch.__version__, "first_ms": first_ms, "rows": rows}
    options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
