"""Peak memory of a locally connected layer, forward and backward, against unfold and einsum: `python benchmarks/memory.py`.

Counted from the profiler's record of every allocation, so that nothing depends on what the allocator keeps. "Beyond the gradients" leaves
out dx and the weight's gradient, which both formulations return.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from run import both_passes
from samples import BENCHMARKS


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most that was allocated at once, above what was before."""
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        kept = call()
    now = most = 0
    for event in sorted((e for e in told.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    del kept
    return most


def main() -> int:
    print("| shape | filters, taps | striate MB | unfold MB | ratio | ratio beyond the gradients |\n|---|---|---|---|---|---|")
    for case in BENCHMARKS["conv"]:
        if case.sample.function != "locally_connected":
            continue
        torch.manual_seed(0)
        x = torch.randn(case.sample.shape, requires_grad=True)
        contestants = case.contestants()
        peaks = [peak_bytes(both_passes(*one, x, torch.randn_like(one[0](x)), True)[1]) for one in contestants]
        parameters = contestants[0][1]
        gradients = 4 * (x.numel() + sum(p.numel() for p in parameters))
        ours, theirs = peaks
        shape, a = "×".join(map(str, case.sample.shape)), case.sample.arguments
        print(
            f"| {shape} | {a['filters']}, {a['size']}×{a['size']} | {ours / 1e6:.1f} | {theirs / 1e6:.1f} | {theirs / ours:.1f} | "
            f"{(theirs - gradients) / (ours - gradients):.1f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
