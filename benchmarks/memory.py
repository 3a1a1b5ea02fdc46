"""Measures the peak memory of a locally connected layer, forward and backward, against unfold and einsum: `python
benchmarks/memory.py` (Linux).

Reported is the peak memory of the process beyond what it held before, which includes the kernels' own. Each formulation
runs in a separate process, after a tiny call of it. "Beyond the gradients" leaves out dx and the weight's gradient,
which both return.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from run import both_passes
from samples import BENCHMARKS, Unfolded

from striate.measure import in_a_process, reset_peak, resident_bytes
from striate.nn import LocallyConnected2d

CASES = [case for case in BENCHMARKS["conv"] if case.sample.function == "locally_connected"]
FORMULATIONS = ("striate", "unfold")


def measure(number: int, formulation: str) -> tuple[int, int]:
    """The peak memory of this process for one formulation, and the gradients' part of it."""
    contestant = FORMULATIONS.index(formulation)
    torch.manual_seed(0)
    tiny = LocallyConnected2d(1, 1, 4, 3, bias=False)
    some = torch.randn(1, 1, 4, 4)
    one = (tiny, Unfolded(tiny))[contestant]
    both_passes(one, list(one.parameters()), some, torch.randn(1, 1, 2, 2), True)[1]()  # loads code and starts threads
    layer, parameters = CASES[number].contestants()[contestant]
    x = torch.randn(CASES[number].sample.shape, requires_grad=True)
    dy = torch.randn(x.shape[0], layer.weight.shape[0], *layer.weight.shape[2:4])
    ctypes.CDLL(None).malloc_trim(0)  # gives memory that building the layers has freed back to the kernel
    reset_peak()
    before = resident_bytes("VmRSS")
    kept = both_passes(layer, parameters, x, dy, True)[1]()
    taken = resident_bytes("VmHWM") - before
    del kept
    return taken, 4 * (x.numel() + sum(p.numel() for p in parameters))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about = "bytes that one formulation of the N-th shape takes, and how many of them are gradients"
    parser.add_argument("--only", nargs=2, metavar=("N", "|".join(FORMULATIONS)), help=about)
    options = parser.parse_args()
    if options.only:
        numbers = [str(number) for number in range(len(CASES))]
        if options.only[0] not in numbers or options.only[1] not in FORMULATIONS:
            parser.error(f"expected one of {', '.join(numbers)}, then {' or '.join(FORMULATIONS)}, got {options.only}")
        print(*measure(int(options.only[0]), options.only[1]))
        return 0
    print(
        "| shape | filters, taps | striate MB | unfold MB | ratio | ratio beyond the gradients "
        "|\n|---|---|---|---|---|---|"
    )
    for number, case in enumerate(CASES):
        (native, gradients), (unfolded, _) = (in_a_process(measure, number, one) for one in FORMULATIONS)
        shape, a = "×".join(map(str, case.sample.shape)), case.sample.arguments
        print(
            f"| {shape} | {a['filters']}, {a['size']}×{a['size']} | {native / 1e6:.1f} | {unfolded / 1e6:.1f} | "
            f"{unfolded / native:.1f} | "
            f"{(unfolded - gradients) / (native - gradients):.1f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
