"""Precision and the preferred method: each applies to its own thread, task and gradients; a separate function sets it
for the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import gc
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import striate
import striate.nn as S
import striate.nn.functional as SF
from striate import ops, precision, set_precision
from striate.errors import ArgumentError, ArgumentTypeError
from striate.ops import conv, dispatch, fused
from striate.ops.dispatch import Candidate, prefer, preferred
from striate.ops.precision import is_strict

WAIT = 60  # seconds after which a test that hangs fails
torch.manual_seed(0)
# wide enough for Winograd to be the fastest in all three passes
X, W = torch.randn(2, 64, 28, 28), torch.randn(64, 64, 3, 3)


def convolve(x: Tensor = X, w: Tensor = W) -> Tensor:
    return SF.conv2d(x, w, padding=1)


def with_gradients(function: Callable[..., Tensor] = convolve) -> tuple[Tensor, ...]:
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    y = function(x, w)
    return y.detach(), *torch.autograd.grad(y.square().sum(), (x, w))


def equal(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def alone(block: Any) -> tuple[Tensor, ...]:
    with block:
        return with_gradients()


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    assert not is_strict()
    assert preferred() is None
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: (is_strict(), preferred())).result() == (False, None)


@pytest.fixture(scope="module")
def strict() -> tuple[Tensor, ...]:
    """The output and the gradients by the direct sums."""
    return alone(precision("strict"))


@pytest.fixture(scope="module")
def fast(strict: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    got = with_gradients()
    assert not any(torch.equal(a, b) for a, b in zip(got, strict, strict=True))  # or the tests below prove nothing
    return got


PAIRS = {
    "precision": (lambda: precision("strict"), lambda: precision("fast")),
    "prefer": (lambda: prefer("torch"), lambda: prefer("winograd_2x2")),
    "prefer none": (lambda: prefer("torch"), lambda: prefer(None)),
}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Two context managers, under which a convolution gives different bits."""
    return PAIRS[request.param]


# -------------------------------------------------------------------------------------------------------------- threads


def test_overlapping_threads_have_each_its_own_setting_and_leave_none_behind(pair: Any) -> None:
    first, second = pair
    before, expected = with_gradients(), [alone(first()), alone(second())]
    assert not equal(*expected)
    turn = threading.Barrier(2, timeout=WAIT)

    def enters_first() -> list[tuple[Tensor, ...]]:
        with first():
            turn.wait()
            turn.wait()  # the other thread is in its block now
            got = [with_gradients()]
            turn.wait()
        turn.wait()  # this thread has left its block, the other is still inside
        got.append(with_gradients())
        turn.wait()
        return got

    def enters_second() -> list[tuple[Tensor, ...]]:
        turn.wait()
        with second():
            turn.wait()
            got = [with_gradients()]
            turn.wait()
            turn.wait()
            got.append(with_gradients())
        turn.wait()
        return [*got, with_gradients()]

    with ThreadPoolExecutor(2) as pool:
        from_first, from_second = [run.result() for run in (pool.submit(enters_first), pool.submit(enters_second))]
    assert equal(from_first[0], expected[0]) and equal(from_first[1], before)
    assert equal(from_second[0], expected[1]) and equal(from_second[1], expected[1]) and equal(from_second[2], before)
    assert equal(with_gradients(), before)


def test_one_object_may_be_entered_by_several_threads_at_once(pair: Any) -> None:
    shared, turn, states = pair[0](), threading.Barrier(2, timeout=WAIT), []
    before, inside = (is_strict(), preferred()), None
    with shared:
        inside = is_strict(), preferred()
    assert inside != before

    def enter(leaves_first: bool) -> None:
        with shared, contextlib.nullcontext() if leaves_first else shared:
            turn.wait()
            states.append((is_strict(), preferred()))
            if not leaves_first:
                turn.wait()
                states.append((is_strict(), preferred()))
        if leaves_first:
            turn.wait()
        states.append((is_strict(), preferred()))

    with ThreadPoolExecutor(2) as pool:
        for run in [pool.submit(enter, True), pool.submit(enter, False)]:
            run.result()
    assert sorted(map(repr, states)) == sorted(map(repr, [inside] * 3 + [before] * 2))


def test_a_thread_started_inside_a_block_has_the_processs_setting(strict: Any, fast: Any) -> None:
    def in_a_thread(function: Callable[[], Any]) -> Any:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(function).result()

    with precision("strict"), prefer("direct"):
        assert equal(in_a_thread(with_gradients), fast)
    try:
        set_precision("strict")
        with precision("fast"):
            assert equal(in_a_thread(with_gradients), strict)
            assert equal(with_gradients(), fast)
        assert equal(with_gradients(), strict)
    finally:
        set_precision("fast")
    assert equal(in_a_thread(with_gradients), fast)


def test_a_pools_thread_that_runs_in_a_copy_of_the_context_has_its_setting(strict: Any, fast: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        with precision("strict"):
            inside = contextvars.copy_context()
            assert equal(pool.submit(inside.run, with_gradients).result(), strict)
        assert equal(pool.submit(inside.run, with_gradients).result(), strict)
        assert equal(pool.submit(with_gradients).result(), fast)


def test_set_precision_inside_a_block_is_for_afterwards_and_for_others() -> None:
    try:
        with precision("fast"):
            set_precision("strict")
            assert not is_strict()
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(is_strict).result()
        assert is_strict()
    finally:
        set_precision("fast")


# ------------------------------------------------------------------------------------------------- tasks and generators


def test_tasks_have_each_their_own_setting(strict: Any, fast: Any) -> None:
    async def enters_first(
        second_is_in: asyncio.Event, first_is_in: asyncio.Event, first_is_out: asyncio.Event
    ) -> list[Any]:
        with precision("strict"):
            first_is_in.set()
            await second_is_in.wait()
            got = [with_gradients(), await asyncio.to_thread(with_gradients), await asyncio.create_task(computes())]
        first_is_out.set()
        return [*got, with_gradients()]

    async def enters_second(
        second_is_in: asyncio.Event, first_is_in: asyncio.Event, first_is_out: asyncio.Event
    ) -> list[Any]:
        await first_is_in.wait()
        with precision("fast"):
            second_is_in.set()
            got = [with_gradients()]
            await first_is_out.wait()
            got.append(with_gradients())
        return [*got, with_gradients()]

    async def computes() -> Any:
        return with_gradients()

    async def both() -> Any:
        events = [asyncio.Event() for _ in range(3)]
        return await asyncio.wait_for(asyncio.gather(enters_first(*events), enters_second(*events)), WAIT)

    from_first, from_second = asyncio.run(both())
    assert all(equal(got, strict) for got in from_first[:3]) and equal(from_first[3], fast)
    assert all(equal(got, fast) for got in from_second)


def test_blocks_left_in_another_order_than_entered_take_away_themselves() -> None:
    def inside(block: Any) -> Iterator[None]:
        with block:
            yield

    steps = inside(precision("strict"))
    next(steps)
    with precision("fast"):
        steps.close()
        assert not is_strict()
        again = inside(precision("strict"))
        next(again)
        assert is_strict()
    assert is_strict()  # the generator is still in its block
    again.close()
    assert not is_strict()

    outer, inner = prefer("torch"), prefer("direct")
    outer.__enter__(), inner.__enter__()
    outer.__exit__(None, None, None)
    assert preferred() == "direct"
    inner.__exit__(None, None, None)


def test_a_generator_that_another_thread_closes_changes_nothing_there() -> None:
    def inside() -> Iterator[None]:
        with precision("strict"):
            yield

    steps = inside()
    context = contextvars.copy_context()
    context.run(next, steps)
    with precision("fast"):
        steps.close()
        assert not is_strict()
    assert context.run(is_strict)  # nobody left it there


def test_one_object_may_be_entered_inside_itself_and_again() -> None:
    block, other = precision("strict"), precision("fast")
    for _ in range(2):
        with block:
            with other, block:
                assert is_strict()
            assert is_strict()
            with other:
                assert not is_strict()
            assert is_strict()
        assert not is_strict()


def test_an_exception_leaves_the_block(pair: Any) -> None:
    before, inside = (is_strict(), preferred()), []
    with contextlib.suppress(ZeroDivisionError), pair[0]():
        inside.append((is_strict(), preferred()))
        raise ZeroDivisionError
    assert inside != [before]
    assert (is_strict(), preferred()) == before


def test_a_block_decorates_functions() -> None:
    @precision("strict")
    def told(number: int, *, other: int) -> tuple[int, int, bool]:
        """Its text."""
        return number, other, is_strict()

    assert told(1, other=2) == (1, 2, True)
    assert (told.__name__, told.__doc__) == ("told", "Its text.")
    assert prefer("direct")(preferred)() == "direct"
    assert not is_strict()


def test_a_function_that_runs_after_its_call_returns_is_not_decorated() -> None:
    def generator() -> Iterator[int]:
        yield 1

    async def coroutine() -> None:
        pass

    async def both() -> Any:
        yield 1

    for function in (generator, coroutine, both):
        for block, name in ((precision("strict"), "precision"), (prefer("torch"), "prefer")):
            with pytest.raises(ArgumentTypeError) as raised:
                block(function)
            assert str(raised.value) == (
                f"@{name} expects a function, got {function.__qualname__}, which runs after its call returns. Write "
                "`with` inside it."
            )


# ------------------------------------------------------------------------------------------------ the call without with


def test_the_bare_call_sets_the_process_and_says_so() -> None:
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
            striate.precision("strict")
            assert is_strict()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(is_strict).result()
    finally:
        set_precision("fast")
    assert [(w.category, w.filename, w.lineno) for w in caught] == [(DeprecationWarning, __file__, line)]
    assert str(caught[0].message) == (
        "striate.precision('strict') without `with` has set the precision of the whole process: call "
        "striate.set_precision('strict') for that."
    )


def test_a_bare_call_on_several_lines_or_behind_a_condition_is_one_too() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for wanted in ("strict", "fast"):
            striate.precision(
                wanted,
            )
            assert is_strict() == (wanted == "strict")
        _ = gc and precision("fast") and None
    assert len(caught) == 3


def test_an_object_that_is_kept_sets_nothing_whatever_becomes_of_it() -> None:
    def fails() -> None:
        block = precision("strict")
        raise ZeroDivisionError(block)

    def made() -> precision:
        return precision("strict")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        block = precision("strict")
        assert not is_strict()
        assert (
            repr(block) == "<precision('strict'), for a with block; set_precision('strict') is for the whole process>"
        )
        copies = [copy.copy(block), copy.deepcopy(block)]
        del block
        assert not is_strict()
        with copies[0]:
            assert is_strict()
        copies.clear()
        with contextlib.suppress(ZeroDivisionError):
            fails()
        for block in (precision("fast"), precision("strict")):  # noqa: B007
            break
        del block
        made()
        around: list[Any] = [precision("strict")]
        around.append(around)
        del around
        gc.collect()
        with contextlib.ExitStack() as stack:
            stack.enter_context(precision("strict"))
            assert is_strict()
        with contextlib.suppress(ArgumentError):
            precision("neither")
        with precision("strict"):
            pass
        precision("strict")(made)
    assert not caught
    assert not is_strict()


@pytest.mark.parametrize("mode", ["exact", None, 3])
def test_another_word_for_the_processs_precision_is_refused(mode: Any) -> None:
    with pytest.raises(ArgumentError) as raised:
        set_precision(mode)
    assert (
        str(raised.value) == f'set_precision expects mode to be "fast" or "strict", got {mode!r}. Choose one of them.'
    )


def test_a_layer_for_inference_keeps_what_it_chose_under_the_precision_it_chose_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = fused.FusedConv(W, padding=1).method(X)
    with precision("strict"):
        assert fused.FusedConv(W, padding=1).method(X) != expected
    layer, answers = fused.FusedConv(W, padding=1), iter([False, True])
    monkeypatch.setattr(fused, "is_strict", lambda: next(answers))  # another thread sets the process's in between
    assert layer.method(X) == expected
    monkeypatch.undo()
    assert layer.method(X) == expected


# ------------------------------------------------------------------------------------------------------------ gradients

FAMILIES: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...] | None]] = {
    "convolution": (lambda x, w: SF.conv2d(x, w, padding=1), (2, 64, 28, 28), (64, 64, 3, 3)),
    "depthwise": (lambda x, w: SF.conv2d(x, w, padding=1, groups=16), (2, 16, 28, 28), (16, 1, 3, 3)),
    "transposed": (lambda x, w: SF.conv_transpose2d(x, w, padding=1), (2, 64, 28, 28), (64, 64, 3, 3)),
    "one axis": (lambda x, w: SF.conv1d(x, w, padding=1), (2, 64, 200), (64, 64, 3)),
    "padded": (
        lambda x, w: ops.padding.padded_conv(x, w, padding=1, mode="circular", dims=2),
        (2, 64, 28, 28),
        (64, 64, 3, 3),
    ),
    "local": (lambda x, w: ops.local.local(x, w), (2, 3, 8, 8), (4, 3, 6, 6, 3, 3)),
    "max pooling": (lambda x: SF.max_pool2d(x, 3, 2, 1), (2, 8, 28, 28), None),
    "average pooling": (lambda x: SF.avg_pool2d(x, 3, 2, 1), (2, 8, 28, 28), None),
    "batch norm": (lambda x, w: SF.batch_norm(x, None, None, w, training=True), (4, 8, 14, 14), (8,)),
    "group norm": (lambda x, w: SF.group_norm(x, 2, w), (4, 8, 14, 14), (8,)),
    "layer norm": (lambda x, w: SF.layer_norm(x, (14,), w), (4, 8, 14), (14,)),
    "response norm": (lambda x: SF.local_response_norm(x, 3), (4, 8, 14, 14), None),
}
BLOCKS: dict[str, Callable[[], Any]] = {
    "as at first": contextlib.nullcontext,
    "strict": lambda: precision("strict"),
    "native": lambda: prefer("native"),
    "direct": lambda: prefer("direct"),
    "torch": lambda: prefer("torch"),
}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_backward_and_double_backward_use_what_forward_chose_wherever_they_run(family: str, block: str) -> None:
    function, shape, weight = FAMILIES[family]
    torch.manual_seed(0)
    given = [torch.randn(sizes) for sizes in (shape, weight) if sizes is not None]
    direction = [torch.randn_like(t) for t in given]

    def forward() -> tuple[list[Tensor], Tensor]:
        inputs = [t.clone().requires_grad_() for t in given]
        with BLOCKS[block]():
            return inputs, function(*inputs)

    def backward(inputs: list[Tensor], y: Tensor) -> tuple[Tensor, ...]:
        once = torch.autograd.grad(y.square().sum(), inputs, retain_graph=True)
        first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
        along = sum((g * d).sum() for g, d in zip(first, direction, strict=True))
        return *once, *torch.autograd.grad(along, inputs)

    def elsewhere(inputs: list[Tensor], y: Tensor) -> tuple[Tensor, ...]:
        with prefer("reference"), precision("fast" if block == "strict" else "strict"):
            return backward(inputs, y)

    with BLOCKS[block]():
        expected = backward(*forward())
    assert all(g.count_nonzero() > g.numel() // 20 for g in expected)
    assert equal(backward(*forward()), expected)
    assert equal(elsewhere(*forward()), expected)
    with ThreadPoolExecutor(1) as pool:
        assert equal(pool.submit(elsewhere, *forward()).result(), expected)


def test_a_method_given_by_name_goes_before_the_preferred_one_in_backward_too() -> None:
    def by_name(x: Tensor, w: Tensor) -> Tensor:
        return conv.conv(x, w, padding=1, dims=2, method="implicit_gemm")

    expected = with_gradients(by_name)
    with prefer("direct"):
        assert equal(with_gradients(by_name), expected)
        assert not equal(with_gradients(), expected)


# -------------------------------------------------------------------------------------------------------- torch.compile


def compiled(function: Callable[..., Tensor], fullgraph: bool = True) -> Callable[..., Tensor]:
    return torch.compile(function, backend="aot_eager", fullgraph=fullgraph)


def test_what_is_compiled_keeps_the_precision_that_held_then(strict: Any, fast: Any) -> None:
    with precision("strict"):
        function = compiled(convolve)
        assert equal(with_gradients(function), strict)
        with precision("fast"):
            assert equal(with_gradients(function), strict)
    assert equal(with_gradients(function), strict)
    with ThreadPoolExecutor(1) as pool:
        assert equal(pool.submit(with_gradients, function).result(), strict)
    torch._dynamo.reset()
    function = compiled(convolve)
    assert equal(with_gradients(function), fast)
    with precision("strict"):
        assert equal(with_gradients(function), fast)


def test_what_is_compiled_keeps_the_processs_precision_of_then_too(strict: Any) -> None:
    try:
        set_precision("strict")
        function = compiled(convolve)
        assert equal(with_gradients(function), strict)
    finally:
        set_precision("fast")
    assert equal(with_gradients(function), strict)


def test_what_is_compiled_keeps_the_method_that_was_preferred_then(fast: Any) -> None:
    expected = alone(prefer("winograd_2x2"))
    assert not equal(expected, fast)
    with prefer("winograd_2x2"):
        function = compiled(convolve)
        assert equal(with_gradients(function), expected)
    assert equal(with_gradients(function), expected)
    with prefer("torch"):
        assert equal(with_gradients(function), expected)
    pool = S.MaxPool2d(2)
    with prefer("torch"):
        assert torch.equal(compiled(pool)(X), pool(X))


def test_backward_of_what_is_compiled_uses_what_forward_chose(strict: Any) -> None:
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    with precision("strict"):
        y = compiled(convolve)(x, w)
    with precision("fast"), prefer("winograd_2x2"):
        assert equal((y.detach(), *torch.autograd.grad(y.square().sum(), (x, w))), strict)


def test_a_block_may_be_inside_of_what_is_compiled(strict: Any, fast: Any) -> None:
    def inside(x: Tensor, w: Tensor) -> Tensor:
        with precision("strict"):
            with prefer("direct"), precision("fast"):
                pass
            return convolve(x, w)

    decorated = precision("strict")(convolve)
    for function in (inside, decorated):
        assert equal(with_gradients(compiled(function)), strict)
    assert equal(with_gradients(compiled(convolve)), fast)


def test_a_block_inside_of_what_is_compiled_in_pieces_holds_for_its_own_thread(strict: Any, fast: Any) -> None:
    turn = threading.Barrier(2, timeout=WAIT)
    seen: list[tuple[bool, bool, bool, Tensor]] = []

    @torch._dynamo.disable  # splits the compiled code, and runs as it is
    def look(w: Tensor) -> None:
        before = is_strict()
        with precision("fast"):
            within = is_strict()
        seen.append((before, within, is_strict(), convolve(X, w.detach())))
        turn.wait()
        turn.wait()

    def pieces(x: Tensor, w: Tensor) -> Tensor:
        with precision("strict"):
            x = x * 1
            look(w)
            y = convolve(x, w)
        return y + (convolve(x, w) * 0)

    kept = precision("strict")

    def outer(x: Tensor, w: Tensor) -> Tensor:
        with kept:
            return convolve(x, w)

    function = compiled(pieces, fullgraph=False)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            run = pool.submit(lambda: function(X, W))
            turn.wait()
            assert equal(with_gradients(), fast)
            assert not is_strict()
            turn.wait()
            assert torch.equal(run.result(), strict[0])
            before, within, after, y = seen.pop()
            assert (before, within, after) == (True, False, True)
            assert torch.equal(y, strict[0])
            assert not pool.submit(is_strict).result()
    function = compiled(outer, fullgraph=False)  # which torch.compile does not compile
    assert all(equal(with_gradients(function), strict) for _ in range(2))
    assert equal(with_gradients(), fast)


@pytest.mark.parametrize("dynamo", [False, True])
def test_what_is_exported_keeps_the_precision_that_held_then(dynamo: bool, strict: Any) -> None:
    class Strict(S.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            with precision("strict"):
                return super().forward(x)

    for layer in (S.Conv2d(64, 64, 3, padding=1, bias=False), Strict(64, 64, 3, padding=1, bias=False)):
        with torch.no_grad():
            layer.weight.copy_(W)
        with torch.no_grad(), precision("fast" if type(layer) is Strict else "strict"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that entering a block is a side effect
            exported = torch.export.export(layer, (X,), strict=dynamo).module()
        with torch.no_grad():
            assert torch.equal(exported(X), strict[0])


# ------------------------------------------------------------------------------------------------------- methods' names


def test_the_names_are_those_of_all_methods() -> None:
    found: set[str] = set()
    for module in pkgutil.iter_modules(ops.__path__):
        for value in vars(importlib.import_module(f"striate.ops.{module.name}")).values():
            if isinstance(value, tuple) and all(type(method) is Candidate for method in value):
                found |= {method.name for method in value}
    assert found == set(dispatch.NAMES) and len(found) == len(dispatch.NAMES)
    assert dispatch.NAMES[: len(conv.NAMES)] == conv.NAMES


LISTED = (
    "depthwise, direct, winograd_4x4, winograd_2x2, implicit_gemm, pointwise, torch_channels_last, torch, reference, "
    "native, local, onednn"
)


@pytest.mark.parametrize("name", ["winograd", "", 3])
def test_an_unknown_method_is_not_preferred(name: Any) -> None:
    with pytest.raises(ArgumentError) as raised:
        prefer(name)
    assert str(raised.value) == (
        f"prefer expects one of {LISTED}, got {name!r}. Give None for the method that was measured to be the fastest."
    )


def start(method: str, program: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "STRIATE_METHOD": method}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_an_unknown_striate_method_is_refused_at_import() -> None:
    done = start("winograd", "import striate")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"striate.errors.ArgumentError: STRIATE_METHOD expects one of {LISTED}, got 'winograd'. "
        "Unset it for the method that was measured to be the fastest."
    )


def test_striate_method_holds_for_every_thread_and_a_program_ends_without_a_word() -> None:
    program = """
import threading, torch, striate
from striate.ops import conv
from striate.ops.dispatch import prefer, preferred
answers = []
def tell(): answers.append((preferred(), conv.explain_methods((2, 64, 28, 28), (64, 64, 3, 3))["forward"][0]))
tell()
with prefer(None):
    answers.append(preferred())
    thread = threading.Thread(target=tell)
    thread.start()
    thread.join()
print(answers)
kept = striate.precision("strict")
"""
    done = start("direct", program)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[('direct', ('direct', None)), None, ('direct', ('direct', None))]\n"


def test_a_method_s_old_name_works_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "the method unfolded is implicit_gemm now; the old name goes with the next release."
    with pytest.warns(DeprecationWarning) as seen, dispatch.prefer("unfolded"):
        assert dispatch.preferred() == "implicit_gemm"
    assert [str(one.message) for one in seen] == [f"prefer: {message}"]
    x, w = torch.ones(1, 2, 6, 6), torch.ones(3, 2, 3, 3)
    with pytest.warns(DeprecationWarning) as seen:
        conv.conv(x, w, padding=1, dims=2, method="unfolded")
    assert [str(one.message) for one in seen] == [f"conv: {message}"]
