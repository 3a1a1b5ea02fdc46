"""Two results of run.py side by side: `python benchmarks/compare.py OLD.json NEW.json`.

Times of two runs are not comparable, because the machine's load differs; ratios to torch within a run are. Prints
the rows whose ratio to the better of torch's layouts changed by more than --percent, worst first; exits 1 if any became
slower.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def ratios(path: Path) -> dict[str, float]:
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return {
        f"{r['op']} {r['arguments']} {r['shape']} {r['layout']} {r['pass']}": min(
            r["eager_nchw_ms"], r["eager_nhwc_ms"]
        )
        / r["striate_ms"]
        for r in rows
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--percent", type=float, default=15.0, help="changes below are noise (default %(default)s)")
    options = parser.parse_args()
    old, new = ratios(options.old), ratios(options.new)
    changes = sorted((new[name] / old[name] - 1, name) for name in old.keys() & new.keys())
    changed = [(change, name) for change, name in changes if abs(change) * 100 > options.percent]
    for change, name in changed:
        print(f"{change:+.0%}  {old[name]:.2f} → {new[name]:.2f} × torch  {name}")
    print(f"{len(changes)} rows in both, {len(changed)} changed by more than {options.percent:g} %")
    return 1 if any(change < 0 for change, _ in changed) else 0


if __name__ == "__main__":
    sys.exit(main())
