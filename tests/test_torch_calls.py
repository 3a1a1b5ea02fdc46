"""Calls that crash torch or oneDNN: no code path of striate's makes them."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, func

import striate
from striate import nn
from striate.nn import functional as SF
from striate.nn import swap
from striate.ops import torch_calls

CHECKED = Path("/usr/lib/x86_64-linux-gnu/libc_malloc_debug.so.0")  # since glibc 2.34 MALLOC_CHECK_ works only with it
# Runs each of the programs that come as JSON in a process of its own, forked after the imports, which take longer than
# the programs, and prints their exit codes and what they wrote to stderr.
RUNNER = """
import json, os, sys, tempfile, traceback, warnings
import torch
from torch import nn as T
import striate
from striate import nn
warnings.simplefilter("ignore")
found = {}
for name, program in json.load(sys.stdin).items():
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            os.dup2(errors.fileno(), 2)
            code = 1
            try:
                torch.manual_seed(0)
                exec(program, dict(globals()))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        found[name] = code, errors.read().decode(errors="replace")
json.dump(found, sys.stdout)
"""
STEPS = """
for _ in range(30):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled={autocast}):
        y = model(x)
    y.float().square().mean().backward()
"""
NET = (
    "model = striate.accelerate(T.Sequential(T.Conv2d(3, {n}, 3, padding=1), {layer}({n}, 48, 1, stride=2, "
    "bias=False)))\n"
)
X = "x = torch.randn(4, 3, 17, 17).contiguous(memory_format=torch.channels_last)\n"
MINE = "class Mine(T.Conv2d):\n    pass\n"
MODE = """
from torch.utils._python_dispatch import TorchDispatchMode
class Looking(TorchDispatchMode):
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        return f(*args, **(kwargs or {}))
"""
# Calls that broke in plain torch: the operator read or wrote foreign memory.
BROKEN = {
    **{(
        f"1×1 with a stride, {n} channels, under autocast"
    ): X + NET.format(n=n, layer="T.Conv2d") + STEPS.format(autocast=True) for n in (3, 7, 13)},
    **{(
        f"1×1 with a stride, {n} channels, in a layer left to torch"
    ): X + MINE + NET.format(n=n, layer="Mine") + STEPS.format(autocast=False) for n in (3, 13)},
    "1×1 with a stride, a layer left to torch, under autocast": (
        X + MINE + NET.format(n=13, layer="Mine") + STEPS.format(autocast=True)
    ),
    "1×1 with a stride in bfloat16": X + (
        "model, x = nn.Conv2d(3, 48, 1, stride=2).bfloat16(), x.bfloat16()\n"
    ) + STEPS.format(autocast=False),
    "1×1 with a stride, transposed, in bfloat16": X + (
        "model, x = nn.ConvTranspose2d(3, 48, 1, stride=2).bfloat16(), x.bfloat16()\n"
    ) + STEPS.format(autocast=False),
    "1×1 with a stride while a mode looks on": X + MODE + (
        "model = nn.Conv2d(3, 48, 1, stride=2)\nwith Looking():"
    ) + STEPS.format(autocast=False).replace("\n", "\n    "),
    "1×1 with a stride under vmap": X + (
        "net = nn.Conv2d(3, 48, 1, stride=2)\nmodel = lambda x: torch.vmap(net)(x[:, None])\n"
    ) + STEPS.format(autocast=False),
    "1×1×1 with a stride": (
        "x = torch.randn(2, 5, 5, 9, 9).contiguous(memory_format=torch.channels_last_3d).bfloat16()\nmodel = "
        "nn.Conv3d(5, 40, 1, stride=2).bfloat16()\n"
    ) + STEPS.format(autocast=False),
    "one tap with a dilation": """
x = torch.randn(3, 2, 1, 20).movedim(-1, 1)
for kind in (torch.float32, torch.bfloat16):
    model = nn.Conv2d(20, 64, 1, stride=(1, 2), padding=1, dilation=2, groups=4).to(kind)
    given = x.to(kind).requires_grad_()
    assert model(given).shape == (3, 64, 4, 2)
    model(given).float().sum().backward()
""",
    "max pooling whose window misses the input": """
for kind in (torch.float32, torch.bfloat16, torch.float16):
    x = torch.randn(3, 40, 2).to(kind).requires_grad_()
    for _ in range(30):
        nn.MaxPool1d(2, padding=1, dilation=3, ceil_mode=True)(x).float().sum().backward()
""",
    "max pooling whose window misses the input while a mode looks on": MODE + """
x = torch.randn(3, 40, 2, requires_grad=True)
with Looking():
    for _ in range(30):
        nn.MaxPool1d(2, padding=1, dilation=3, ceil_mode=True)(x).sum().backward()
""",
    "a group norm's scale and shift alone, in bfloat16": """
for x, format in ((torch.randn(2, 4, 6, 7), torch.channels_last), (torch.randn(2, 4, 3, 6, 7), torch.channels_last_3d)):
    x = x.contiguous(memory_format=format).bfloat16()
    for model in (nn.GroupNorm(2, 4), nn.GroupNormAct2d(2, 4)):
        for given in (x, x.clone().requires_grad_()):
            y = model.bfloat16()(given)
            assert y.is_contiguous(memory_format=format)
            torch.autograd.grad(y.float().sum(), model.weight)
""",
    "a group norm's scale and shift alone while a mode looks on": MODE + """
x = torch.randn(2, 4, 6, 7).contiguous(memory_format=torch.channels_last)
with Looking():
    nn.GroupNorm(2, 4)(x).sum().backward()
""",
    "a group norm behind a frozen convolution, in a layer left to torch": """
class Mine(T.GroupNorm):
    pass
model = striate.accelerate(T.Sequential(T.Conv2d(3, 4, 3).requires_grad_(False), Mine(2, 4)))
model(torch.randn(2, 3, 8, 8)).sum().backward()
""",
}  # fmt: skip


@pytest.fixture(scope="module")
def ends() -> dict[str, tuple[int, str]]:
    """The exit code and the errors of each program of BROKEN, with glibc's checks of the heap."""
    env = dict(
        os.environ,
        MALLOC_CHECK_="3",
        **({"LD_PRELOAD": str(CHECKED)} if CHECKED.exists() and "LD_PRELOAD" not in os.environ else {}),
    )
    run = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(BROKEN), capture_output=True, text=True, timeout=600, env=env
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found: dict[str, tuple[int, str]] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize("name", BROKEN)
def test_calls_that_torch_breaks_on_do_not_reach_it(name: str, ends: dict[str, tuple[int, str]]) -> None:
    code, errors = ends[name]
    assert code == 0, errors[-2000:]


def test_the_process_that_runs_them_tells_a_broken_heap_from_a_sound_one() -> None:
    programs = {"sound": "torch.ones(3)", "wrong": "raise ValueError(3)", "aborted": "os.abort()"}
    run = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(programs), capture_output=True, text=True, check=True
    )
    found = json.loads(run.stdout)
    assert [code for code, _ in found.values()] == [0, 1, -6]
    assert "ValueError: 3" in found["wrong"][1]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_one_tap_with_a_stride_computes_as_torchs_whatever_the_memory_order(
    dims: int, stride: int, padding: int
) -> None:
    x = torch.randn(2, *[7, 8, 9][:dims], 4, dtype=torch.float64).movedim(-1, 1)  # channels last
    w, b = torch.randn(6, 2, *[1] * dims, dtype=torch.float64), torch.randn(6, dtype=torch.float64)

    def results(conv: Callable[..., Tensor], x: Tensor) -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in (x, w, b)]
        y = conv(*leaves)
        return [y, *torch.autograd.grad(y.square().sum(), leaves)]

    ones = [1] * dims
    found = results(lambda *t: torch_calls.conv(*t, [stride] * dims, [padding] * dims, ones, 2, dims), x)
    expected = results(lambda *t: getattr(F, f"conv{dims}d")(*t, stride, padding, 1, 2), x.contiguous())
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(("stride", "padding", "more"), [(2, 0, 0), (2, 1, 1), (3, 1, 2), (3, 0, 2)])
def test_one_tap_transposed_with_a_stride_computes_as_torchs(dims: int, stride: int, padding: int, more: int) -> None:
    x = torch.randn(2, *[4, 5, 3][:dims], 4, dtype=torch.float64).movedim(-1, 1)
    w, b = torch.randn(4, 3, *[1] * dims, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    geometry = [stride] * dims, [padding] * dims, [more] * dims, 2, [1] * dims
    found = torch_calls.conv_transpose(x, w, b, *geometry, dims)
    torch.testing.assert_close(
        found, getattr(F, f"conv_transpose{dims}d")(x.contiguous(), w, b, *geometry), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (2, 4, 3, 5, 6), (2, 4, 5)])
def test_a_group_norm_computes_as_torchs_whatever_the_memory_order(shape: tuple[int, ...], learns: bool) -> None:
    x, w, b = (
        torch.randn(shape[0], *shape[2:], shape[1], dtype=torch.float64).movedim(-1, 1),
        *torch.randn(2, 4, dtype=torch.float64),
    )
    leaves = [w.clone().requires_grad_(), b.clone().requires_grad_()]
    given = x.requires_grad_(learns)
    y = torch_calls.group_norm(given, 2, *leaves, 1e-5)
    expected = F.group_norm(x.detach().contiguous(), 2, *leaves, 1e-5)
    assert torch.equal(y, F.group_norm(x.detach(), 2, *leaves)) and y.stride() == F.group_norm(x.detach(), 2).stride()
    assert torch.autograd.gradcheck(
        lambda *t: torch_calls.group_norm(t[0], 2, *t[1:], 1e-5), (x.detach().requires_grad_(), *leaves)
    )
    w, b = leaves
    one = func.grad(lambda w: torch_calls.group_norm(x.detach(), 2, w, b, 1e-5).square().sum())(w.detach())
    torch.testing.assert_close(
        one, torch.autograd.grad(expected.square().sum(), w, retain_graph=True)[0], rtol=1e-12, atol=1e-12
    )
    for a, e in zip(*(torch.autograd.grad(z.square().sum(), leaves) for z in (y, expected)), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)


def test_a_plain_call_is_handed_over_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setitem(torch_calls.CONV, 2, lambda *arguments: seen.append(arguments))
    x, w = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 1, 1)
    torch_calls.conv(x, w, None, [2, 2], [0, 0], [1, 1], 1, 2)
    assert seen[0][0] is x and seen[0][3:] == ([2, 2], [0, 0], [1, 1], 1)
    torch_calls.conv(x.contiguous(memory_format=torch.channels_last), w, None, [2, 2], [0, 0], [1, 1], 1, 2)
    assert seen[1][0].shape == (1, 2, 3, 3) and seen[1][3:] == ([1, 1], [0, 0], [1, 1], 1)


@pytest.mark.parametrize("most", [2**62, 2**63 - 1])
def test_a_stride_beyond_the_input_and_a_dilation_of_one_tap_may_be_of_any_size_as_in_torch(most: int) -> None:
    x, w = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)
    assert torch.equal(SF.conv2d(x, w, stride=most), SF.conv2d(x, w, stride=5))
    assert torch.equal(nn.Conv2d(2, 3, 1, dilation=most)(x).isnan(), torch.zeros(1, 3, 5, 5, dtype=torch.bool))
    assert SF.conv_transpose2d(x[..., :1, :1], w.transpose(0, 1), stride=most).shape == (1, 3, 3, 3)
    with pytest.raises(striate.errors.ArgumentError) as raised:
        SF.conv2d(x, w, dilation=2**63 - 1)
    assert str(raised.value) == (
        "conv2d expects dilation from 1 to 2^62, got 9223372036854775807. x: (1, 2, 5, 5). Choose a dilation of 2^62 "
        "or less."
    )


class Mine(torch.nn.Conv2d):
    pass


class MyNorm(torch.nn.GroupNorm):
    pass


def test_a_left_group_norm_that_learns_gets_its_input_contiguous() -> None:
    model = torch.nn.Sequential(MyNorm(2, 4))
    assert swap.plan(model)[1][0].reason == (
        "a subclass of GroupNorm with code of its own, whose input is laid out contiguous: "
        "in channels_last torch's gradient of scale and shift alone is unsafe"
    )
    with pytest.warns(UserWarning, match="laid out contiguous"):
        striate.accelerate(model)
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda m, args, y: seen.append(args[0]))
    x = torch.randn(2, 4, 5, 6).contiguous(memory_format=torch.channels_last)
    model(x)
    model.requires_grad_(False)(x)
    assert [s.is_contiguous() for s in seen] == [True, False]
    assert len(striate.restore(model)[0]._forward_pre_hooks) == 0


def test_a_left_layer_gets_its_input_contiguous_and_restore_takes_that_back() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 13, 3), Mine(13, 8, 1, stride=2), Mine(8, 8, 3), Mine(8, 8, 1))
    twin, x = copy.deepcopy(model), torch.randn(2, 3, 12, 12)
    reason = "a subclass of Conv2d with code of its own"
    guarded = (
        f"{reason}, whose input is laid out contiguous: in channels_last oneDNN's gradient of one tap with a stride "
        "is unsafe"
    )
    assert [one.reason for one in swap.plan(model)[1]] == [guarded, reason, reason]
    with pytest.warns(UserWarning, match="laid out contiguous"):
        striate.accelerate(model)
    seen: list[Tensor] = []
    model[1].register_forward_hook(lambda m, args, y: seen.append(args[0]))
    torch.testing.assert_close(model(x), twin(x))
    assert seen[0].is_contiguous() and model[1].weight.stride() == twin[1].weight.stride()
    assert [len(m._forward_pre_hooks) for m in model] == [0, 1, 0, 0]
    with pytest.warns(UserWarning, match="laid out contiguous"):
        striate.accelerate(model)
    assert len(copy.deepcopy(model)[1]._forward_pre_hooks) == 1
    striate.restore(model)
    assert [len(m._forward_pre_hooks) for m in model] == [0, 0, 0, 0]
