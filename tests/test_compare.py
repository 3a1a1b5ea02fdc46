"""benchmarks/compare.py: which rows of two versions' runs it says have changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "compare.py"


def compared(folder: Path, old: list[dict[str, float]], new: list[dict[str, float]]) -> tuple[int, str]:
    """The exit code and output for runs that give striate's time of each operation where torch takes 1 ms."""
    arguments = []
    for version, runs in (("old", old), ("new", new)):
        arguments.append(f"--{version}")
        for k, run in enumerate(runs):
            same = {"arguments": {}, "shape": [1], "layout": "NCHW", "pass": "forward"}
            times = {"eager_nchw_ms": 1.0, "eager_nhwc_ms": 2.0}
            rows = [{"op": op, "striate_ms": ms, **same, **times} for op, ms in run.items()]
            path = folder / f"{version}{k}.json"
            path.write_text(json.dumps({"rows": rows}))
            arguments.append(str(path))
    done = subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_row_changed_only_if_all_runs_of_one_version_lie_beyond_the_others(tmp_path: Path) -> None:
    old = [{"slower": 1.0, "noise": 1.0, "faster": 1.0}, {"slower": 1.1, "noise": 2.0, "faster": 1.0}]
    new = [{"slower": 2.0, "noise": 2.0, "faster": 0.5}, {"slower": 2.0, "noise": 1.9, "faster": 0.5}]
    code, output = compared(tmp_path, old, new)
    assert code == 1 and "2 changed by more than 15 %" in output
    assert "slower" in output.splitlines()[0] and "faster" in output.splitlines()[1] and "noise" not in output
    assert compared(tmp_path, old, old)[0] == 0


def test_runs_without_a_common_row_are_refused(tmp_path: Path) -> None:
    code, output = compared(tmp_path, [{"a": 1.0}], [{"b": 1.0}])
    assert code == 2 and "the runs have no row in common" in output
