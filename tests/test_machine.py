"""The machine as a value: where it comes from, and that results do not depend on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from striate import native
from striate.native import Machine, use_machine

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def started(**environment: str) -> subprocess.CompletedProcess[str]:
    """Prints the machine of a process with these environment variables."""
    code = "from striate import native; print(*native.machine())"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("STRIATE_") or "CORE" in name}
    clean.pop("STRIATE_CORES", None)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**clean, **environment}, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return run


def test_the_environment_sets_each_value_at_start() -> None:
    names = [f"STRIATE_{name.upper()}" for name in Machine._fields]
    assert names == [
        *("STRIATE_CORES", "STRIATE_FIRST_LEVEL", "STRIATE_SECOND_LEVEL", "STRIATE_LAST_LEVEL", "STRIATE_SHARING")
    ]
    run = started(**dict(zip(names, ["7", "1024", "00300000", "1099511627776", "65536"], strict=True)))
    assert run.stdout.split() == ["7", "1024", "300000", "1099511627776", "65536"] and run.stderr == ""


def test_bad_values_of_the_environment_are_told_and_ignored() -> None:
    own = started()
    values = own.stdout.split()
    assert own.stderr == "" and len(values) == 5
    bad = {"CORES": "0", "FIRST_LEVEL": "32K", "SECOND_LEVEL": "1023", "LAST_LEVEL": "9" * 30, "SHARING": "-1"}
    run = started(**{f"STRIATE_{name}": text for name, text in bad.items()})
    assert run.stdout == own.stdout
    for (name, text), value in zip(bad.items(), values, strict=True):
        least, most = (1024, 1099511627776) if "LEVEL" in name else (1, 65536)
        assert (
            f"UserWarning: STRIATE_{name}={text} is no whole number from {least} to {most}; the system's value, "
            f"{value}, is used.\n"
        ) in run.stderr


@pytest.mark.skipif(not (CACHES / "index0" / "size").is_file(), reason="the system does not tell its caches")
def test_the_values_are_the_systems() -> None:
    cores, first, second, last, sharing = map(int, started().stdout.split())
    assert 1 <= cores <= len(os.sched_getaffinity(0))
    sizes: dict[int, int] = {}
    for index in CACHES.glob("index*"):
        text = {name: (index / name).read_text().strip() for name in ("level", "type", "size")}
        if text["type"] != "Instruction":
            unit = {"K": 2**10, "M": 2**20, "G": 2**30}[text["size"][-1]]
            sizes[int(text["level"])] = int(text["size"][:-1]) * unit
    # where cores are of several kinds, the smallest caches count; the second level may be shared
    assert 0 < first <= sizes[1] and 0 < second <= sizes.get(2, sizes[1]) and 0 < last <= sizes[max(sizes)]
    assert 1 <= sharing <= (os.cpu_count() or 1)


def test_a_machine_is_used_until_the_next() -> None:
    before = native.machine()
    assert before and native.native_info()["machine"] == before
    other = Machine(3, 2**15, 2**20, 2**25, 2)
    try:
        use_machine(other)
        assert native.machine() == other
    finally:
        use_machine(before)
    assert native.machine() == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            [1, 2, 3],
            "use_machine expects a Machine of whole numbers, got [1, 2, 3]. "
            "Change the one in use: native.machine()._replace(cores=1).",
        ),
        (
            Machine(1, 2**15, 2**19, 2.0**23, 1),  # type: ignore[arg-type]
            "use_machine expects a Machine of whole numbers, got Machine(cores=1, first_level=32768, "
            "second_level=524288, last_level=8388608.0, sharing=1). "
            "Change the one in use: native.machine()._replace(cores=1).",
        ),
        (
            Machine(0, 2**15, 2**19, 2**23, 1),
            "use_machine expects cores from 1 to 65536, got 0. Choose at least 1.",
        ),
        (
            Machine(1, 32, 2**19, 2**23, 1),
            "use_machine expects first_level from 1024 to 1099511627776, got 32. The caches are in bytes.",
        ),
    ],
)
def test_what_is_no_machine_is_refused(wrong: Any, message: str) -> None:
    before = native.machine()
    with pytest.raises((ValueError, TypeError)) as raised:
        use_machine(wrong)
    assert str(raised.value) == message
    assert native.machine() == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1] * 4, "striate: a machine is 5 numbers, got 4"),
        ([1, 2**15, 2**10 - 1, 2**23, 1], "striate: number 2 of a machine is from 1024 to 1099511627776, got 1023"),
        ([1, 2**15, 2**19, 2**23, 2**17], "striate: number 4 of a machine is from 1 to 65536, got 131072"),
    ],
)
def test_numbers_that_are_no_machine_are_refused(values: list[int], message: str) -> None:
    before = native.machine()
    with pytest.raises(RuntimeError) as raised:
        torch.ops.striate.machine_choose(values)
    assert message in str(raised.value)
    assert native.machine() == before
