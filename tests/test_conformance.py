"""torch's own tests of its operators and modules, run on striate's.

They come inside the torch wheel and are private, so torch is pinned and the numbers of samples are asserted. Decorators are
cleared, which drops torch's own wider tolerances: everything here passes at the default ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from samples import POOL, channels_last
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import striate.nn as S
import striate.nn.functional as SF

# at least so many samples each: a torch release that drops some must not pass unnoticed
OPERATORS = {
    **{f"max_pool{d}d": n for d, n in ((1, 864), (2, 1440), (3, 576))},
    **{f"avg_pool{d}d": n for d, n in ((1, 9), (2, 7), (3, 8))},
    **{f"adaptive_max_pool{d}d": n for d, n in ((1, 8), (2, 24), (3, 20))},
    **{f"adaptive_avg_pool{d}d": n for d, n in ((1, 6), (2, 10), (3, 10))},
}
MODULES = {f"{kind}Pool{d}d": 1 for kind in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg") for d in (1, 2, 3)}
GRADCHECKS = 24  # finite differences on each of some hundred samples would take minutes


def op_info(name: str) -> Any:
    info = copy.copy(next(o for o in op_db if o.name == f"nn.functional.{name}"))
    info.op, info.method_variant, info.inplace_variant = getattr(SF, name), None, None
    info.aliases, info.skips, info.decorators = (), (), ()
    return info


def same(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, equal_nan=True)


def gradients(call: Callable[[torch.Tensor], Any], x: torch.Tensor) -> tuple[Any, torch.Tensor]:
    x = x.detach().requires_grad_()
    out = call(x)
    y = out[0] if isinstance(out, tuple) else out
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape) if y.numel() else torch.empty_like(y)
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    return out, gradient


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_reference_inputs_give_what_torch_gives(name: str, dtype: torch.dtype) -> None:
    info, theirs = op_info(name), getattr(torch.nn.functional, name)
    count = 0
    for sample in info.reference_inputs("cpu", dtype):
        count += 1
        out, gradient = gradients(lambda x, s=sample: info.op(x, *s.args, **s.kwargs), sample.input)
        same((out, gradient), gradients(lambda x, s=sample: theirs(x, *s.args, **s.kwargs), sample.input))
        with torch.no_grad():
            same(info.op(sample.input, *sample.args, **sample.kwargs), out)
    assert count >= OPERATORS[name]


@pytest.mark.parametrize("name", OPERATORS)
def test_noncontiguous_and_channels_last_inputs_give_the_same(name: str) -> None:
    info, checked = op_info(name), 0
    for sample in info.sample_inputs("cpu", torch.float32):
        x = sample.input.detach()
        expected = gradients(lambda x, s=sample: info.op(x, *s.args, **s.kwargs), x)
        variants = [torch.stack([x, -x], -1)[..., 0]]
        if x.dim() == int(name[-2]) + 2:
            variants.append(channels_last(x))
        for variant in variants:
            same(gradients(lambda x, s=sample: info.op(x, *s.args, **s.kwargs), variant), expected)
            checked += 1
    assert checked >= OPERATORS[name]


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_other_floats_go_to_torch_through_the_same_function(name: str, dtype: torch.dtype) -> None:
    info, theirs, count = op_info(name), getattr(torch.nn.functional, name), 0
    for sample in list(info.sample_inputs("cpu", torch.float32))[:60]:
        x = sample.input.detach().to(dtype)
        try:
            expected = _first(theirs(x, *sample.args, **sample.kwargs))
        except NotImplementedError:  # as torch's avg_pool3d does
            with pytest.raises(NotImplementedError):
                info.op(x, *sample.args, **sample.kwargs)
        else:
            assert torch.equal(_first(info.op(x, *sample.args, **sample.kwargs)), expected)
        count += 1
    assert count >= 6


def _first(out: Any) -> torch.Tensor:
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("name", OPERATORS)
def test_error_inputs_raise_an_error_of_torchs_kind(name: str) -> None:
    info = op_info(name)
    errors = list(info.error_inputs("cpu"))
    assert len(errors) >= 2
    for error in errors:
        sample = error.sample_input
        with pytest.raises((RuntimeError, ValueError, TypeError)) as raised:
            info.op(sample.input, *sample.args, **sample.kwargs)
        assert " expects " in str(raised.value) and name in str(raised.value)  # ours, not one from deeper down


@pytest.mark.parametrize("name", OPERATORS)
def test_gradcheck_and_gradgradcheck(name: str) -> None:
    info = op_info(name)
    samples = [s for s in info.sample_inputs("cpu", torch.float64, requires_grad=True) if 0 < s.input.numel() <= 2000]
    assert samples
    for sample in samples[:: max(1, len(samples) // GRADCHECKS)]:
        call = lambda x, s=sample: _first(info.op(x, *s.args, **s.kwargs))  # noqa: E731
        x = sample.input.detach().requires_grad_()
        assert torch.autograd.gradcheck(call, (x,), fast_mode=True)
        assert torch.autograd.gradgradcheck(call, (x,), fast_mode=True)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_modules_give_what_torchs_give(name: str, training: bool) -> None:
    info = next(m for m in module_db if m.name == f"nn.{name}")
    inputs = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=training)
    assert len(inputs) >= MODULES[name]
    for given in inputs:
        built, call = given.constructor_input, given.forward_input
        ours = getattr(S, name)(*built.args, **built.kwargs).train(training)
        theirs = info.module_cls(*built.args, **built.kwargs).train(training)
        ours.load_state_dict(theirs.state_dict())
        assert repr(ours) == repr(theirs) and isinstance(ours, info.module_cls)
        for x in (call.args[0], channels_last(call.args[0]) if call.args[0].dim() == int(name[-2]) + 2 else call.args[0]):
            same(gradients(lambda x, m=ours: m(x, **call.kwargs), x), gradients(lambda x, m=theirs: m(x, **call.kwargs), x))


def test_opcheck_passes_for_every_operator_on_every_sample() -> None:
    ops = torch.ops.striate
    seen: set[str] = set()

    class Check(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "striate":
                calls.append((func, args, kwargs or {}))
            return func(*args, **(kwargs or {}))

    for sample in POOL:
        for layout in (torch.Tensor.contiguous, channels_last):
            x = layout(torch.randn(sample.shape, dtype=torch.float64)).requires_grad_()
            calls: list[Any] = []
            with Check():
                extra = {"return_indices": True} if "max" in sample.function else {}
                y = _first(sample.ours(x, **sample.arguments, **extra))
                y.sum().backward()
            assert calls
            for func, args, kwargs in calls:
                args = tuple(a.detach().requires_grad_(a.is_floating_point()) if isinstance(a, torch.Tensor) else a for a in args)
                torch.library.opcheck(func, args, kwargs, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))
                if func._opname not in seen or sample.shape[0] == 3:
                    torch.library.opcheck(func, args, kwargs, test_utils=("test_aot_dispatch_dynamic",))
                seen.add(func._opname)
    assert seen == {
        name for name in ("max_pool_offset", "max_pool_offset_backward", "offset_to_index", "max_pool_index", "max_pool_index_backward")
    } | {"avg_pool", "avg_pool_backward"}
    assert all(hasattr(ops, name) for name in seen)
