"""The tests' own measure of memory: how much is free, according to the kernel's files."""

from __future__ import annotations

from pathlib import Path

import memory
import pytest
import torch

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n"
AVAILABLE = 8_000_000 * 1024


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_control_groups_it_is_what_the_machine_has_available(tmp_path: Path) -> None:
    assert memory.free_bytes(written(tmp_path, {})) == AVAILABLE


def test_without_a_limit_it_is_what_the_machine_has_available(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/user.slice/session\n",
        "sys/fs/cgroup/user.slice/session/memory.max": "max\n",
        "sys/fs/cgroup/user.slice/session/memory.current": "5000\n",
    }
    assert memory.free_bytes(written(tmp_path, files)) == AVAILABLE


def test_a_limit_of_version_2_counts_less_its_use(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/job\n",
        "sys/fs/cgroup/job/memory.max": "6000000\n",
        "sys/fs/cgroup/job/memory.current": "2500000\n",
    }
    assert memory.free_bytes(written(tmp_path, files)) == 3_500_000


def test_files_that_the_kernel_would_drop_are_free(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/job\n",
        "sys/fs/cgroup/job/memory.max": "6000000\n",
        "sys/fs/cgroup/job/memory.current": "5500000\n",
        "sys/fs/cgroup/job/memory.stat": "anon 1000000\nactive_file 1500000\ninactive_file 3000000\n",
    }
    assert memory.free_bytes(written(tmp_path, files)) == 3_500_000


def test_a_limit_further_up_counts_too(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/all/job\n",
        "sys/fs/cgroup/all/memory.max": "7000000\n",
        "sys/fs/cgroup/all/memory.current": "6000000\n",
        "sys/fs/cgroup/all/job/memory.max": "6000000\n",
        "sys/fs/cgroup/all/job/memory.current": "2500000\n",
    }
    assert memory.free_bytes(written(tmp_path, files)) == 1_000_000


def test_a_container_that_sees_its_own_group_as_the_top_is_found(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/machine/named/outside\n",
        "sys/fs/cgroup/memory.max": "6000000\n",
        "sys/fs/cgroup/memory.current": "2000000\n",
    }
    assert memory.free_bytes(written(tmp_path, files)) == 4_000_000


# the number for no limit
@pytest.mark.parametrize(("limit", "free"), [("6000000", 4_000_000), ("9223372036854771712", AVAILABLE)])
def test_a_limit_of_version_1_counts_less_its_use(tmp_path: Path, limit: str, free: int) -> None:
    files = {
        "proc/self/cgroup": "9:name=systemd:/\n4:memory:/job\n2:cpu,cpuacct:/\n0::/\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{limit}\n",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "2500000\n",
        "sys/fs/cgroup/memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 500000\n",
    }
    assert memory.free_bytes(written(tmp_path, files)) == free


def test_a_group_beyond_its_limit_leaves_nothing(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "6000000\n",
        "sys/fs/cgroup/memory.current": "6500000\n",
    }
    assert memory.free_bytes(written(tmp_path, files)) == 0


def test_a_test_that_needs_more_than_is_free_is_skipped_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 3 * 2**30)
    memory.needs_memory(3 * 2**30)
    with pytest.raises(pytest.skip.Exception) as raised:
        memory.needs_memory(9 * 2**30)
    assert str(raised.value) == "it needs 9.0 GiB of memory, and 3.0 GiB are free"


def test_no_more_can_be_taken_than_a_limit_leaves() -> None:
    with memory.at_most(2**28):
        torch.empty(2**20)
        with pytest.raises(RuntimeError, match="allocate memory"):
            torch.empty(2**28)
    assert torch.empty(2**28).shape == (2**28,)


def test_zeros_take_memory_only_where_they_are_written_to() -> None:
    before = memory.resident_bytes()
    x = memory.zeros(2**28)
    x[2**27] = 1
    assert x[: 2**26].sum() == 0 and x[2**27 - 1 : 2**27 + 2].tolist() == [0, 1, 0]
    assert memory.resident_bytes() - before < 2**28  # of 2^30
