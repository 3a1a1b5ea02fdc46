"""Measures what importing striate adds to importing torch: `python benchmarks/import_time.py`.

Each contestant is a separate process that times `import torch` and then its own import. They run in turn, in an order
shuffled each round; medians are reported. The share is the median over processes of what the import added to that
process' `import torch`; A/A is `import torch` of the row over `import torch` of the first, which shows the noise. An
uncounted round comes first, in which bytecode is compiled, as pip does for every package that it installs. The time of
Python's garbage collector is included.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from run import RESULTS

from striate.files import write_atomically
from striate.measure import in_turns, processor, run_python, summarize

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
    """Milliseconds of `import torch` in a separate process, and of the statement after it."""
    printed = run_python("-c", TIMED.format(statement=statement), without=["PYTHONDONTWRITEBYTECODE"])
    first, second = (float(word) * 1e3 for word in printed.split())
    return first, second


def measure(rounds: int) -> list[dict[str, Any]]:
    contestants = {name: (lambda statement=statement: once(statement)) for name, statement in STATEMENTS.items()}
    times = in_turns(contestants, rounds, uncounted=1)
    rows: list[dict[str, Any]] = []
    for name, pairs in times.items():
        torch_ms, spread = summarize([first for first, _ in pairs])
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
    facts = {
        "command": "python benchmarks/import_time.py",
        "processor": processor(),
        "torch": torch.__version__,
        "rounds": options.rounds,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.json, json.dumps(facts | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
