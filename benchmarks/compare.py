"""Compares results of run.py of two versions: `python benchmarks/compare.py --old OLD.json … --new NEW.json …`.

Times of two runs are not comparable, because the machine's load differs; ratios to torch within a run are. Each version
may have several runs (alternate them): then a row counts as changed only if every run of one version is faster than
every run of the other. Prints the rows whose ratio to the better of torch's layouts changed by more than --percent,
worst first, by the median of the runs; exits 1 if any became slower.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any


def ratios(path: Path) -> dict[str, float]:
    """The ratio to torch of each row of a run; above 1 striate is faster."""
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return {
        f"{r['op']} {r['arguments']} {r['shape']} {r['layout']} {r['pass']}": min(
            r["eager_nchw_ms"], r["eager_nhwc_ms"]
        )
        / r["striate_ms"]
        for r in rows
    }


def are_apart(old: list[float], new: list[float]) -> bool:
    return max(old) < min(new) or max(new) < min(old)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, nargs="+", required=True, help="runs of the older version")
    parser.add_argument("--new", type=Path, nargs="+", required=True, help="runs of the newer version")
    parser.add_argument("--percent", type=float, default=15.0, help="changes below are noise (default %(default)s)")
    options = parser.parse_args()
    old, new = ([ratios(path) for path in paths] for paths in (options.old, options.new))
    names = set.intersection(*(set(run) for run in (*old, *new)))
    if not names:
        parser.error("the runs have no row in common: were they made by `run.py` for one family?")
    changes = []
    for name in names:
        of_old, of_new = ([run[name] for run in runs] for runs in (old, new))
        before, after = statistics.median(of_old), statistics.median(of_new)
        changes.append((after / before - 1, are_apart(of_old, of_new), before, after, name))
    changed = sorted(row for row in changes if row[1] and abs(row[0]) * 100 > options.percent)
    for change, _, before, after, name in changed:
        print(f"{change:+.0%}  {before:.2f} → {after:.2f} × torch  {name}")
    middle = statistics.median(change for change, *_ in changes)
    print(f"{len(changes)} rows in all runs, median change {middle:+.1%}, ", end="")
    print(f"{len(changed)} changed by more than {options.percent:g} %")
    return 1 if any(change < 0 for change, *_ in changed) else 0


if __name__ == "__main__":
    sys.exit(main())
