"""Measures which method computes which convolutions fastest, and writes a tuning table: `python benchmarks/tune.py`.

src/striate/tuning/measure.py says what is measured, and by which rule a method is chosen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from striate import native_info
from striate.allocator import tune_allocator
from striate.measure import medians_ms, processor
from striate.ops.contest import TUNED, contest
from striate.tuning import measure, select


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each method (default %(default)s)")
    parser.add_argument(
        "--only",
        default="",
        help="kinds and passes whose name contains this, as 2d pointwise fused; other rows of the table stay, and rows "
        "that it lacks are taken from the table of the next processor",
    )
    parser.add_argument("--out", type=Path, default=select.own_path(), help="default: %(default)s")
    options = parser.parse_args()
    if options.rounds < 7:
        parser.error(f"a median of fewer than 7 rounds says little, got --rounds {options.rounds}")
    tune_allocator()
    torch.manual_seed(0)
    info = native_info()
    machine = f"{processor()}, {info['threads']} threads, {info['isa']}, torch {info['torch']}"
    heading = f"# {machine}, medians of {options.rounds}: python benchmarks/tune.py"
    columns = [*select.KEY, *TUNED]
    print(heading + "\n" + ",".join(columns))
    found = []
    for row in measure.rows(contest, TUNED, medians_ms, options.rounds, options.only):
        found.append(row)
        print(",".join(str(v) for v in row.values()), flush=True)
    measure.write(options.out, heading, columns, found, options.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
