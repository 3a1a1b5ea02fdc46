"""Measures how long inspecting a network takes, and how much memory: `python benchmarks/inspection.py`.

Compares with torchinfo, which runs the model with values (`pip install torchinfo`): both run in one process, in turns,
and the medians of their times are printed. The first inspection of a process also imports torch's tracing modules and
is reported separately. Memory is the peak beyond the model, measured in a separate process for each (Linux). At the end
each of some cases that are too large to compute is inspected once.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import striate
from striate.analysis import inspect
from striate.files import write_atomically
from striate.measure import in_a_process, medians_ms, reset_peak, resident_bytes

CASES = {
    "lenet5": (1, 1, 28, 28),
    "resnet50": (1, 3, 224, 224),
    "mobilenet_v2": (1, 3, 224, 224),
    "convnext_tiny": (1, 3, 224, 224),
}


def torchinfo_of(name: str) -> Any:
    import torchinfo

    model = striate.restore(striate.models.by_name(name)()).eval()
    return lambda: torchinfo.summary(model, input_size=CASES[name], verbose=0, device="cpu")


def inspect_of(name: str) -> Any:
    model = striate.models.by_name(name)().eval()
    return lambda: inspect(model, CASES[name])


def large() -> dict[str, Any]:
    """Cases that would take minutes in a loop over positions, or would not fit memory if values were computed."""
    from torch import nn

    from striate.analysis.explain import explain
    from striate.models.resnet import ResNetBottleneck, _resnet, _stem

    audio = nn.Sequential(
        nn.Conv1d(1, 4, 9, stride=4), nn.ReLU(), nn.MaxPool1d(4), nn.Conv1d(4, 4, 3), nn.AdaptiveAvgPool1d(1)
    )
    enlarged = nn.Sequential(
        *[nn.Sequential(nn.Upsample(scale_factor=1.3, mode="bilinear"), nn.Conv2d(1, 1, 3, padding=1))] * 12
    )
    with torch.device("meta"):
        resnet = _resnet(_stem(3), ResNetBottleneck, [64, 128, 256, 512], [3, 8, 36, 3], 1000)
    return {
        "inspect, one axis of 1,000,000": lambda: inspect(audio, (1, 1, 1_000_000)),
        "inspect, 12 enlargements by 1.3": lambda: inspect(enlarged, (1, 1, 32, 32)),
        "inspect, ResNet-152 without values": lambda: inspect(resnet, (1, 3, 224, 224)),
        "explain, one axis of 2²⁹": lambda: explain("conv1d", (1, 2**29), out=1, kernel=3, padding=1),
    }


def peak_mib(maker: Callable[[str], Any], name: str) -> float:
    """The peak memory of this process while it inspects a network, beyond what it held before."""
    run = maker(name)
    maker("lenet5")()  # imports
    gc.collect()
    reset_peak()
    before = resident_bytes("VmRSS")
    run()
    return (resident_bytes("VmHWM") - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="at least 7 (default %(default)s)")
    where = Path(__file__).parent / "results" / "inspection.json"
    parser.add_argument(
        "--json", type=Path, default=where, help="where to write the rows (default benchmarks/results/inspection.json)"
    )
    options = parser.parse_args()
    start = time.perf_counter()
    inspect_of("lenet5")()
    first_ms = (time.perf_counter() - start) * 1e3
    rows = []
    print(f"first inspection of a process: {first_ms:.0f} ms")
    heads = ("striate ms", "torchinfo ms", "ratio", "striate MiB", "torchinfo MiB", "parameters MiB")
    print(f"{'network':<16}" + "".join(f"{head:>16}" for head in heads))
    for name in CASES:
        times = medians_ms({"striate": inspect_of(name), "torchinfo": torchinfo_of(name)}, max(7, options.rounds))
        held = {
            "striate": in_a_process(peak_mib, inspect_of, name),
            "torchinfo": in_a_process(peak_mib, torchinfo_of, name),
        }
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
    for name, run in large().items():
        start = time.perf_counter()
        run()
        print(f"{name:<40}{(time.perf_counter() - start) * 1e3:>8.0f} ms, once")
    facts = {
        "command": "python benchmarks/inspection.py",
        "torch": torch.__version__,
        "first_ms": first_ms,
        "rows": rows,
    }
    write_atomically(options.json, json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
