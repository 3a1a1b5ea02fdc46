"""benchmarks/gemm.py, the family "gemm" of run.py, on products that take no time; what run.py and networks.py print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from striate import native, nn
from striate.measure import Summary, machine
from striate.ops.conv import METHODS
from striate.ops.dispatch import prefer

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import gemm
import networks
import run
from samples import BENCHMARKS, Sample


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fakes rates that take no time to measure, and times each call once."""
    monkeypatch.setattr(native, "machine", lambda: native.Machine(2, 1024, 1024, 1024, 2))
    monkeypatch.setattr(machine, "COPY_BYTES", 1024)
    monkeypatch.setattr(machine, "ENOUGH_MS", 0.0)
    monkeypatch.setattr(gemm, "LEAST_SECONDS", 0.0)


def test_a_linear_layer_has_a_row_for_each_pass() -> None:
    rows = gemm.measure(Sample("linear", (7, 17), {"outputs": 5}), 3)
    assert [(row["pass"], row["layout"], row["method"]) for row in rows] == [
        (pass_, "rows", "native") for pass_ in ("forward", "backward_data", "backward_weights")
    ]
    for row in rows:
        macs = 7 * 17 * 5
        assert row["gflops"] == pytest.approx(2 * macs / row["striate_ms"] / 1e6)
        assert row["share_of_kernel"] == pytest.approx(row["gflops"] / row["peak_gflops"])
        assert row["torch_ms"] == row["eager_nchw_ms"] == row["eager_nhwc_ms"] and row["pointwise_ms"] is None
        assert row["ratio"] == row["torch_ms"] / row["striate_ms"] and row["ratio_a_a"] > 0
        assert 0 <= row["max_error"] < 1e-5 and 0 <= row["max_error_torch"] < 1e-5


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_has_a_row_for_each_pass_and_memory_order(stride: int) -> None:
    rows = gemm.measure(Sample("conv2d", (2, 6, 5, 5), {"filters": 3, "stride": stride}), 3)
    assert [row["layout"] for row in rows] == ["NCHW"] * 3 + ["NHWC"] * 3
    for row in rows:
        assert row["method"] in {method.name for method in METHODS}
        assert row["torch_ms"] == min(row["eager_nchw_ms"], row["eager_nhwc_ms"])
        assert row["pointwise_ms"] > 0 and (row["method"] != "pointwise" or row["pointwise_ms"] == row["striate_ms"])
        assert 0 <= row["max_error"] < 1e-5 and 0 <= row["max_error_torch"] < 1e-5
    if stride == 1:
        macs = 2 * 25 * 6 * 3
        assert rows[0]["gflops"] == pytest.approx(2 * macs / rows[0]["striate_ms"] / 1e6)


def row(**changes: Any) -> dict[str, Any]:
    made = {"op": "conv2d", "arguments": {"filters": 8, "stride": 2}, "shape": [1, 2, 4, 4], "layout": "NHWC"}
    made |= {"pass": "forward", "method": "torch", "striate_ms": 1.0, "spread": 0.1, "pointwise_ms": 1.5}
    made |= {"torch_ms": 2.0, "ratio": 2.0, "ratio_a_a": 1.0, "gflops": 100.0, "share_of_kernel": 0.5}
    made |= {"share_of_limit": 0.7, "limited_by": "memory", "beyond_limit": None, "max_error": 1e-6}
    return made | {"max_error_torch": 2e-6} | changes


def cells(**changes: Any) -> list[str]:
    return [cell.strip() for cell in gemm.line(row(**changes)).strip("| ").split(" | ")]


def test_a_line_has_a_cell_for_each_column_and_no_share_beyond_a_limit() -> None:
    assert gemm.HEADER.count("|") == gemm.line(row()).count("|")
    assert cells()[0] == "conv2d 1×2×4×4→8 / 2" and cells()[-4:] == ["50%", "70%", "1e-06", "2e-06"]
    assert cells(limited_by="arithmetic")[-4:-2] == ["50%", ""]
    assert cells(share_of_limit=1.4, limited_by="cache", beyond_limit="in cache")[-4:-2] == ["50%", "in cache"]
    beyond = {"share_of_kernel": 1.2, "share_of_limit": 1.2, "limited_by": "arithmetic", "beyond_limit": "at limit"}
    assert cells(**beyond)[-4:-2] == ["at limit", ""]
    linear = cells(op="linear", shape=[7, 17], arguments={"outputs": 5}, pointwise_ms=None)
    assert linear[0] == "linear 7×17→5" and linear[6] == ""


def test_each_kind_of_processor_has_a_file_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "processor", lambda: "Abacus(R) 9, family 6 model 143")
    assert gemm.result_name() == f"gemm-abacus-r-9-family-6-model-143-{native.isa()}"


def test_the_program_writes_the_rows_of_one_product(tmp_path: Path) -> None:
    out, program = tmp_path / "rows.json", Path(gemm.__file__).parent / "run.py"
    options = ["gemm", "--only", "linear-1x7-", "--rounds", "7", "--threads", "1", "--json", str(out)]
    printed = subprocess.run([sys.executable, program, *options], capture_output=True, text=True, check=True).stdout
    found = json.loads(out.read_text())
    assert [one["pass"] for one in found["rows"]] == ["forward", "backward_data", "backward_weights"]
    assert all(gemm.line(one) in printed for one in found["rows"]) and gemm.HEADER in printed
    assert found["machine"]["isa"] == native.isa() and found["machine"]["torch"] == torch.__version__


# ---------------------------------------------------------------------------------------- the other families, networks


def test_a_row_of_run_says_what_its_limit_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "medians_ms", lambda calls, rounds: {name: run_summary(name) for name in calls})
    case = next(case for case in BENCHMARKS["conv"] if case.sample.shape == (8, 32, 500))
    rows = run.measure(case, 7)
    passes = ["forward"] * 2 + ["forward+backward"] * 2
    assert [(one["layout"], one["pass"]) for one in rows] == list(zip(["NCHW", "NHWC"] * 2, passes, strict=True))
    # the faked copy is of 1 KiB, so memory is the limit
    assert all(one["limited_by"] == "memory" and one["beyond_limit"] is None for one in rows)
    assert run.HEADER.count("|") == run.line(rows[0]).count("|")
    share = f" {rows[0]['share_of_limit']:.0%} |"
    assert share in run.line(rows[0]) and share not in run.line(rows[0] | {"beyond_limit": "in cache"})
    assert " in cache |" in run.line(rows[0] | {"beyond_limit": "in cache"})


def run_summary(name: str) -> Any:
    """The references take 1 ms, and who is measured 10 s."""
    return Summary(1.0 if name in ("copy", "cached copy", "micro-kernel") else 1e4, 0.0)


def test_only_winograds_tiles_take_fewer_multiplications() -> None:
    layer, shape = nn.Conv2d(8, 8, 3, padding=1), (2, 8, 12, 12)
    with prefer("winograd_2x2"):
        assert run.takes_fewer_macs(layer, shape, "NCHW") and run.takes_fewer_macs(layer, shape, "NHWC")
    with prefer("direct"):
        assert not run.takes_fewer_macs(layer, shape, "NCHW") and not run.takes_fewer_macs(nn.ReLU(), shape, "NCHW")


@pytest.mark.parametrize("beyond", [None, "fewer MACs"])
def test_a_network_beyond_its_limit_is_told_in_words(beyond: str | None) -> None:
    network = {"network": "net", "shape": [1, 2], "striate_ms": 1.0, "spread": 0.0, "ratios": {}, "best": "a"}
    network |= {"ratio_best": 2.0, "ratio_a_a": 1.0, "share_of_limit": 1.3 if beyond else 0.3, "beyond_limit": beyond}
    assert networks.times_cells(network)[-1] == (beyond or "30%")
    assert len(networks.times_cells(network)) == len(networks.times_head(["striate"]))
