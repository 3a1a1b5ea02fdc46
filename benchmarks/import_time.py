"""What importing striate adds to importing torch: `python benchmarks/import_time.py`.

Each contestant is a process of its own that times `import torch` and then its own import. They run in turn, in an order
shuffled anew each round; medians are reported. The share is the median over processes of what the import added to that
process' `import torch`; A/A is `import torch` of the row over `import torch` of the first, which shows the noise. The
round before the first is not counted: in it the bytecode is written, as it is for every package that pip installs. What
Python's garbage collector does in between is part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from run import RESULTS, middle, processor

STATEMENTS = {
    "import torch": "",
    "import torch (again)": "",
    "import striate": "import striate",
    "from striate import nn": "from striate import nn",
    "from striate import *": "from striate import *",
}
TIMED = """
import time
start = time.perf_counter()
import torch
middle = time.perf_counter()
{statement}
print(middle - start, time.perf_counter() - middle)
"""


def once(statement: str) -> tuple[float, float]:
    """Milliseconds of `import torch` in a process of its own, and of the statement behind it."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", TIMED.format(statement=statement)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    first, second = (float(word) * 1e3 for word in told.split())
    return first, second


def measure(rounds: int) -> list[dict[str, Any]]:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in STATEMENTS}
    order, chance = list(STATEMENTS.items()), random.Random(0)
    for turn in range(rounds + 1):
        chance.shuffle(order)
        for name, statement in order:
            got = once(statement)
            if turn:
                times[name].append(got)
    rows: list[dict[str, Any]] = []
    for name, pairs in times.items():
        torch_ms, spread = middle([first for first, _ in pairs])
        rows.append(
            {
                "import": name,
                "torch_ms": torch_ms,
                "torch_spread": spread,
                "added_ms": statistics.median(second for _, second in pairs),
                "added_share": statistics.median(second / first for first, second in pairs),
                "ratio_a_a": torch_ms / (rows[0]["torch_ms"] if rows else torch_ms),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=11, help="processes of each contestant, at least 7 (default %(default)s)"
    )
    where = RESULTS / "import_time.json"
    parser.add_argument(
        "--json", type=Path, default=where, help="where to write the rows (default benchmarks/results/import_time.json)"
    )
    options = parser.parse_args()
    if options.rounds < 7:
        parser.error(f"a median of fewer than 7 rounds says little, got --rounds {options.rounds}")
    rows = measure(options.rounds)
    print(f"{processor()}, torch {torch.__version__}, medians of {options.rounds}\n")
    print("| import | import torch ms | spread | A/A | added ms | share |\n|---|---|---|---|---|---|")
    for row in rows:
        added = (f"{row['added_ms']:.1f}", f"{row['added_share']:.1%}") if STATEMENTS[row["import"]] else ("", "")
        cells = (
            row["import"],
            f"{row['torch_ms']:.0f}",
            f"{row['torch_spread']:.0%}",
            f"{row['ratio_a_a']:.2f}",
            *added,
        )
        print(f"| {' | '.join(cells)} |")
    told = {
        "command": "python benchmarks/import_time.py",
        "processor": processor(),
        "torch": torch.__version__,
        "rounds": options.rounds,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(told | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
