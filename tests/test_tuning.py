"""The table that chooses the method of a convolution."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from samples import CONV

from striate.errors import ArgumentError
from striate.nn import functional as SF
from striate.ops import conv, dispatch
from striate.ops.conv.geometry import resolve
from striate.tuning import measure, select


def call(
    shape: tuple[int, ...], weight: tuple[int, ...], pass_: str = "forward", last: bool = False, **arguments: int
) -> conv.ConvProblem:
    groups = arguments.pop("groups", 1)
    rest = (arguments.get("stride", 1), arguments.get("padding", 0), arguments.get("dilation", 1))
    geometry = resolve(shape, weight, len(weight) - 2, *rest, groups, "test")
    return conv.ConvProblem(pass_, geometry, last, torch.float32, None)


def test_every_kind_pass_order_and_size_has_rows() -> None:
    have = {(r.kind, r.strided, r.pass_, r.order, r.size) for r in select.table() if r.axes == 2}
    passes, orders = ("forward", "backward_data", "backward_weights", "fused"), ("NCHW", "NHWC")
    assert have == {
        (kind, strided, pass_, order, size)
        for kind in select.COUNTED
        for strided in ((False,) if "×" in kind else (False, True))
        for pass_ in passes
        for order in orders[pass_ == "fused" :]
        for size in select.sizes(kind, pass_)
    }


def test_a_row_names_its_fastest_method_and_never_one_that_lost_on_average() -> None:
    for row in select.table():
        rival = "onednn" if row.pass_ == "fused" else "torch"
        assert row.method == rival or row.ratios[row.method] >= 1.03, row
        assert row.method in (*conv.NAMES, rival)


def test_the_number_decides_which_row_holds() -> None:
    rows = [select.row_for(call((4, c, 40, 40), (64, c, 3, 3), padding=1)) for c in (1, 3, 4, 5, 200)]
    assert [r.up_to for r in rows if r] == [1, 4, 4, 8, 64]
    assert select.row_for(call((4, 3, 9, 9), (8, 3, 3, 3))).size == "tiny"  # type: ignore[union-attr]


def test_a_call_is_computed_by_the_method_of_its_row_wherever_that_can() -> None:
    checked = 0
    for sample in CONV:
        if sample.transposed or isinstance(sample.arguments.get("padding"), str):
            continue
        one = call(sample.shape, sample.weight, **sample.arguments)
        row, method = select.row_for(one), conv.method_for(one).name
        candidate = next(m for m in conv.METHODS if m.name == row.method)  # type: ignore[union-attr]
        if candidate.refuse(one) is None:
            assert method == candidate.name
            checked += 1
    assert checked > 30


def test_a_reason_says_by_how_much_another_method_was_faster() -> None:
    wide = call((16, 64, 56, 56), (64, 64, 3, 3), padding=1, stride=2, last=True)
    reasons = dict(dispatch.explain_choice(conv.METHODS, wide))
    assert reasons["torch"] is None
    assert reasons["depthwise"] == "it is for at most 32 channels and filters a group"
    assert reasons["pointwise"] == "it is for one tap and no padding"
    assert reasons["torch_channels_last"] == "the activations are channels_last already"
    assert str(reasons["direct"]).startswith("torch took 0.")
    assert str(reasons["direct"]).endswith(
        "of its time for 2d dense, up to 64 channels, a larger stride, large images in channels order"
    )


def test_a_method_asked_for_goes_first_and_one_that_cannot_is_passed_over() -> None:
    x, w = torch.randint(-3, 4, (2, 5, 9, 8)).float(), torch.randint(-3, 4, (40, 5, 3, 3)).float()
    expected = torch.nn.functional.conv2d(x, w)
    for name in conv.NAMES:
        y = conv.conv(x, w, dims=2, method=name)
        if name.startswith("winograd") or conv.method_for(
            call((2, 5, 9, 8), (40, 5, 3, 3))._replace(method=name)
        ).name.startswith("winograd"):
            torch.testing.assert_close(y, expected, atol=1e-3, rtol=0)  # or it cannot, and Winograd's is the fastest
        else:
            assert torch.equal(y, expected), name
    assert conv.method_for(call((2, 5, 9, 8), (40, 5, 3, 3))._replace(method="direct")).name == "direct"
    assert conv.method_for(call((2, 5, 9, 8), (40, 5, 3, 3))._replace(method="pointwise")).name != "pointwise"
    with dispatch.prefer("direct"):
        assert conv.method_for(call((2, 5, 9, 8), (40, 5, 3, 3))).name == "direct"


def test_a_method_holds_for_the_gradients_too() -> None:
    x = torch.randn(2, 6, 9, 8, requires_grad=True)
    w = torch.randn(6, 1, 3, 3, requires_grad=True)
    with dispatch.prefer("torch"):
        expected = torch.autograd.grad(SF.conv2d(x, w, groups=6).sum(), (x, w))
    got = torch.autograd.grad(conv.conv(x, w, groups=6, dims=2, method="depthwise").sum(), (x, w))
    for got_value, expected_value in zip(got, expected, strict=True):
        torch.testing.assert_close(got_value, expected_value)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ArgumentError) as raised:
        conv.conv(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2), dims=2, where="conv2d", method="fast")
    assert str(raised.value) == (
        "conv2d expects method to be one of depthwise, direct, winograd_4x4, winograd_2x2, implicit_gemm, pointwise, "
        "torch_channels_last, torch, "
        "reference, got 'fast'. Leave it out for the fastest."
    )


def test_explain_methods_lists_each_pass() -> None:
    listing = conv.explain_methods((1, 3, 32, 32), (10, 3, 5, 5), padding=2)
    assert list(listing) == ["forward", "backward_data", "backward_weights"]
    for methods in listing.values():
        assert methods[-1][1] is None and all(reason for _, reason in methods[:-1])


def test_a_table_keeps_the_rows_that_were_not_measured_again(tmp_path: Path) -> None:
    columns = [*select.KEY, "direct"]

    def row(kind: str, ratio: str) -> dict[str, object]:
        return {"axes": "2", "kind": kind, "pass": "forward", "direct": ratio}

    alone = tmp_path / "alone.csv"
    measure.write(alone, "# alone", columns, [row("pointwise", "1.0")], only="pointwise")
    assert len(alone.read_text().splitlines()) == 3  # there was no table
    path = tmp_path / "table.csv"
    measure.write(path, "# first", columns, [row("pointwise", "1.0"), row("wide", "2.0")])
    measure.write(path, "# second", columns, [row("pointwise", "3.0")], only="pointwise")
    heading, names, *lines = path.read_text().splitlines()
    assert (heading, names) == ("# second", ",".join(columns))
    assert sorted((line.split(",")[columns.index("kind")], line.split(",")[-1]) for line in lines) == [
        ("pointwise", "3.0"), ("wide", "2.0")
    ]  # fmt: skip


def test_rows_that_a_table_lacks_come_from_the_next() -> None:
    rows = {path: select.read(path)[1] for path in select.PATHS}
    assert len(select.table()) >= max(map(len, rows.values()))
    for key, (of, _, lines) in select._LINES.items():
        assert lines and set(lines) <= set(rows[of])
        for path in select.PATHS[: select.PATHS.index(of)]:  # no likelier processor's table has such rows
            assert not any((f := line.split(",", 7)) and (f[0], f[1], *f[3:7]) == key for line in rows[path])


def test_tuning_refuses_what_would_make_a_poor_table(tmp_path: Path) -> None:
    program = Path(__file__).parent.parent / "benchmarks" / "tune.py"
    run = subprocess.run([sys.executable, program, "--rounds", "6"], capture_output=True, text=True, cwd=tmp_path)
    message = "a median of fewer than 7 rounds says little, got --rounds 6"
    assert run.returncode == 2 and message in run.stderr
