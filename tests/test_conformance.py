"""torch's own tests of its operators and modules, run on striate's.

They come inside the torch wheel and are private, so torch is pinned and the numbers of samples are asserted. Decorators
are cleared, which drops torch's own wider tolerances: everything here passes at the default ones. Gradients are
compared with torch's in float64: the float32 sums of its norms err by more than the tolerance.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from samples import CONV, POOL, channels_last
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

import striate.nn as S
import striate.nn.functional as SF
from striate._torch import Observer
from striate.errors import ArgumentError, ShapeError
from striate.ops import dispatch, linear
from striate.ops import norm as ops
from striate.ops.conv import METHODS
from striate.ops.precision import precision
from striate.ops.sync_batch_norm import measure, normalize_with


@pytest.fixture
def strict() -> Iterator[None]:
    """Excludes Winograd, because torch's tolerances are a few roundings; see test_winograd.py for its error."""
    with precision("strict"):
        yield


# at least so many samples each: a torch release that drops some must not pass unnoticed
POOLS = {
    **{f"max_pool{d}d": n for d, n in ((1, 864), (2, 1440), (3, 576))},
    **{f"avg_pool{d}d": n for d, n in ((1, 9), (2, 7), (3, 8))},
    **{f"adaptive_max_pool{d}d": n for d, n in ((1, 8), (2, 24), (3, 20))},
    **{f"adaptive_avg_pool{d}d": n for d, n in ((1, 6), (2, 10), (3, 10))},
}
NORMS = {
    "batch_norm": 10,
    "instance_norm": 9,
    "group_norm": 21,
    "layer_norm": 6,
    "rms_norm": 6,
    "local_response_norm": 11,
}
CONVS = {
    "conv1d": 10,
    "conv2d": 30,
    "conv3d": 20,
    "conv_transpose1d": 10,
    "conv_transpose2d": 12,
    "conv_transpose3d": 10,
}
OPERATORS = {**POOLS, **NORMS, **CONVS, "linear": 18}
# Pooling over one and three axes is the code of two, and has hundreds of samples.
NAMES = [
    pytest.param(name, marks=pytest.mark.nightly) if name in POOLS and "2d" not in name else name for name in OPERATORS
]
# torch has none for the other norms and for transposed convolution
ERRORS = {**dict.fromkeys(POOLS, 2), "group_norm": 2, "rms_norm": 3, **{f"conv{d}d": 10 for d in (1, 2, 3)}}
# batch_norm's are not among its 10, see samples()
REFUSED = {"batch_norm": 2, "group_norm": 4, "layer_norm": 1, "rms_norm": 1}

POOL_MODULES = {f"{kind}Pool{d}d": 1 for kind in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg") for d in (1, 2, 3)}
NORM_MODULES = {
    **{f"BatchNorm{d}d": n for d, n in ((1, 8), (2, 7), (3, 7))},
    **{f"InstanceNorm{d}d": 6 for d in (1, 2, 3)},
    **{"GroupNorm": 10, "LayerNorm": 7, "RMSNorm": 6, "LocalResponseNorm": 3},
}
CONV_MODULES = {
    f"{lazy}Conv{kind}{d}d": 2 if kind else 4 for lazy in ("", "Lazy") for kind in ("", "Transpose") for d in (1, 2, 3)
}
LINEAR_MODULES = {"Linear": 3}
MODULES = {**POOL_MODULES, **NORM_MODULES, **CONV_MODULES, **LINEAR_MODULES}
MODULE_ERRORS = {"MaxPool2d": 3, **{f"BatchNorm{d}d": 2 for d in (1, 2, 3)}, "GroupNorm": 2}

GRADCHECKS = 12  # finite differences on each of some hundred samples would take minutes
SLOW_CHECKS = 130  # values up to which finite differences of each one take no time


@pytest.fixture(autouse=True)
def one_thread(same_threads_and_seed: None) -> None:
    """Runs on one thread: samples are so tiny that threads would mostly wait for one another."""
    torch.set_num_threads(1)


# ------------------------------------------------------------------------------------------------------------- samples


def op_info(name: str) -> Any:
    # the first: batch_norm's second is for a GPU without cuDNN
    info = copy.copy(next(o for o in op_db if o.name == f"nn.functional.{name}"))
    info.op, info.method_variant, info.inplace_variant = getattr(SF, name), None, None
    info.aliases, info.skips, info.decorators = (), (), ()
    return info


def refusal(name: str, sample: Any) -> type[Exception] | None:
    """The error that striate documents for a sample that torch computes, if there is one."""
    if name == "batch_norm" and sample.input.dim() < 2:  # the empty axis of (0,) need not be the batch
        return ShapeError
    if sample.kwargs.get("eps", 1.0) < 0:  # torch gives NaN where the variance is below |eps|
        return ArgumentError
    return None


def samples(name: str, dtype: torch.dtype, kind: str = "sample_inputs") -> Iterator[Any]:
    """torch's samples, without shapes that striate refuses, and with |eps| in place of eps."""
    for sample in getattr(op_info(name), kind)("cpu", dtype, requires_grad=True):
        reason = refusal(name, sample)
        if reason is ArgumentError:
            sample.kwargs["eps"] = abs(sample.kwargs["eps"])
        if reason is not ShapeError:
            yield sample


def module_inputs(name: str, training: bool) -> list[Any]:
    info = module_info(name)
    made: list[Any] = info.module_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=False, training=training
    )
    for call in (given.forward_input for given in made):
        if not call.args:  # one of Linear's
            call.args = (call.kwargs.pop("input"),)
    return made


def module_info(name: str) -> Any:
    return next(m for m in module_db if m.name == f"nn.{name}")


def methods(name: str) -> Iterator[bool]:
    """Prefers each way to compute: the default, and for convolutions and linear layers the native methods. Yields
    whether a native method must run.
    """
    yield name not in CONVS and name != "linear"
    if name == "linear":
        with dispatch.prefer("native"):
            yield True
    for method in METHODS if name in CONVS else ():
        if method.name not in ("torch", "reference"):
            with dispatch.prefer(method.name):
                yield method.name == "direct"  # the native method that supports every shape


def native_linears(name: str) -> dispatch.prefer:
    """Lets the kernel compute linear layers, however small; for others the default."""
    return dispatch.prefer("native" if name == "linear" or name in LINEAR_MODULES else None)


# ----------------------------------------------------------------------------------------------------- what is compared


Change = Callable[[Tensor], Tensor]


def as_is(x: Tensor) -> Tensor:
    return x


def strided(x: Tensor) -> Tensor:
    return torch.stack([x, -x], -1)[..., 0]


def last(x: Tensor) -> Tensor:
    return channels_last(x) if x.dim() > 2 else x


def to(dtype: torch.dtype) -> Callable[[Any], Any]:
    """Applies a function to a tensor, or to each one in nested tuples."""
    return lambda nest: tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, nest)


class Results(NamedTuple):
    output: Any
    gradients: Any
    others: list[Tensor]  # after the call: running statistics are changed in place


class Call:
    """A function of a sample's differentiable ``tensors``; ``others``: its other tensors, as they are after a call on
    copies.
    """

    def __init__(self, function: Callable[..., Any], sample: Any, change: Change = as_is) -> None:
        self.function, self.change = function, change
        self.leaves, self.spec = tree_flatten((sample.input, sample.args, sample.kwargs))
        self.tensors = [
            change(v.detach()).requires_grad_() for v in self.leaves if isinstance(v, Tensor) and v.requires_grad
        ]

    def __call__(self, *tensors: Tensor) -> Any:
        given = iter(tensors)
        kept = [
            v if not isinstance(v, Tensor) else next(given) if v.requires_grad else self.change(v.clone())
            for v in self.leaves
        ]
        self.others = [
            now for now, v in zip(kept, self.leaves, strict=True) if isinstance(v, Tensor) and not v.requires_grad
        ]
        x, args, kwargs = tree_unflatten(kept, self.spec)
        return self.function(x, *args, **kwargs)


def gradients(output: Any, tensors: list[Tensor], change: Change = as_is) -> tuple[Tensor, ...]:
    y = first(output)
    dy = torch.arange(y.numel(), dtype=torch.float32).cos()  # no part of it has a large sum
    return torch.autograd.grad(y, tensors, change(dy.to(y.dtype).view(y.shape)))


def results(
    function: Callable[..., Any], sample: Any, change: Change = as_is, of_output: Change | None = None
) -> Results:
    """Applies ``change`` to each tensor of the sample; ``of_output`` (or else ``change``) to the output gradient."""
    call = Call(function, sample, change)
    output = call(*call.tensors)
    return Results(
        output, gradients(output, call.tensors, of_output or change) if torch.is_grad_enabled() else None, call.others
    )


def two_steps(module: torch.nn.Module, x: Tensor, kwargs: dict[str, Any]) -> Results:
    found = []
    for _ in range(2):  # the second sees what the first left in the running statistics
        leaf = x.detach().requires_grad_()
        output = module(leaf, **kwargs)
        found.append((output, gradients(output, [leaf, *module.parameters()])))
    return Results(*zip(*found, strict=True), list(module.buffers()))


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def rounding(name: str, expected: Any) -> dict[str, float]:
    """The tolerance for three axes: hundreds of products of either sign round in the proportion of the largest sum, not
    of what is left.

    At default tolerances torch's own float32 operators fail as often as striate's, on 4 of 20 samples of conv3d and 3
    of 10 of conv_transpose3d.
    """
    if (name not in CONVS and name not in CONV_MODULES) or "3d" not in name:
        return {}
    largest = max(float(t.abs().max()) for t in tree_flatten(expected)[0] if isinstance(t, Tensor) and t.numel() > 0)
    return {"rtol": 1.3e-6, "atol": max(1e-5, 4 * torch.finfo(torch.float32).eps * largest)}


def same(got: Any, expected: Any, **tolerances: float) -> None:
    torch.testing.assert_close(got, expected, equal_nan=True, **tolerances)


def same_bits_or_error(native_call: Callable[[], Any], torch_call: Callable[[], Any]) -> None:
    try:
        expected = torch_call()
    except NotImplementedError:  # as torch's avg_pool3d, and what it computes by that
        with pytest.raises(NotImplementedError):
            native_call()
    else:
        with Operators() as run:
            same(native_call(), expected, rtol=0, atol=0)
        assert not run.calls


class Operators(Observer):
    """Records the calls of striate's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "striate":
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


# ----------------------------------------------------------------------------------------------------------- operators


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "dtype",
    [torch.float32, pytest.param(torch.float64, marks=pytest.mark.nightly)],
    ids=["float32", "float64"],
)
def test_reference_inputs_give_what_torch_gives(name: str, dtype: torch.dtype, strict: None) -> None:
    native_function, torch_function, count = getattr(SF, name), getattr(torch.nn.functional, name), 0
    for sample in samples(name, dtype, "reference_inputs"):
        count += 1
        expected = to(dtype)(results(torch_function, sample, to(torch.float64)))
        # the gradient of one value, 0, is the difference of two equal terms of up to 3000 (γ/√ε): two roundings of them
        # stay
        lone = name == "layer_norm" and sample.input.numel() == 1 and dtype is torch.float32
        close = rounding(name, expected) if dtype is torch.float32 else {}
        for native in methods(name):
            same(results(native_function, sample), expected, **({"rtol": 0.0, "atol": 5e-4} if lone else close))
            with torch.no_grad(), Operators() as run:
                same(results(native_function, sample), results(torch_function, sample), **close)
            assert run.calls or sample.input.numel() == 0 or not native
    assert count >= OPERATORS[name]


@pytest.mark.parametrize("name", NAMES)
def test_noncontiguous_and_channels_last_inputs_give_the_same(name: str) -> None:
    native_function, checked = getattr(SF, name), 0
    for sample in samples(name, torch.float32):
        for _ in methods(name):
            expected = results(native_function, sample)
            for change, of_output in ((strided, strided), (last, last), (last, Tensor.contiguous)):
                same(results(native_function, sample, change, of_output), expected, **rounding(name, expected))
        checked += 1
    assert checked >= OPERATORS[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_other_floats_go_to_torch_through_the_same_function(name: str, dtype: torch.dtype) -> None:
    native_function, torch_function, count = getattr(SF, name), getattr(torch.nn.functional, name), 0
    for sample in list(samples(name, torch.float32))[:60]:
        same_bits_or_error(
            lambda: results(native_function, sample, to(dtype)), lambda: results(torch_function, sample, to(dtype))
        )
        count += 1
    assert count >= 6


@pytest.mark.parametrize("name", ERRORS)
def test_error_inputs_raise_an_error_of_torchs_kind(name: str) -> None:
    info = op_info(name)
    errors = list(info.error_inputs("cpu"))
    assert len(errors) >= ERRORS[name]
    for error in errors:
        sample = error.sample_input
        if error.error_regex == "padding='same' is not supported for strided convolutions":  # striate supports it
            assert info.op(sample.input, *sample.args, **sample.kwargs).shape[2:] == tuple(
                -(-n // 2) for n in sample.input.shape[2:]
            )
            continue
        with pytest.raises((RuntimeError, ValueError, TypeError)) as raised:
            info.op(sample.input, *sample.args, **sample.kwargs)
        if name == "group_norm" and 0 in sample.input.shape:  # torch refuses it from 2.14 on; the message is torch's
            assert re.search(error.error_regex, str(raised.value))
            continue
        assert " expects " in str(raised.value) and name in str(raised.value)  # striate's message, not torch's


@pytest.mark.parametrize("name", REFUSED)
def test_samples_that_are_refused_by_promise_get_a_clear_error(name: str) -> None:
    info, count = op_info(name), 0
    for sample in info.sample_inputs("cpu", torch.float32):
        reason = refusal(name, sample)
        if reason is not None:
            with pytest.raises(reason, match=f"^{name} expects (x of shape|an eps of 0 or more)"):
                info.op(sample.input, *sample.args, **sample.kwargs)
            count += 1
    assert count == REFUSED[name]


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck_and_gradgradcheck(name: str) -> None:
    chosen = [s for s in samples(name, torch.float64) if s.input.numel() <= 2000]
    assert chosen
    for sample in chosen[:: max(1, len(chosen) // GRADCHECKS)]:
        call = Call(getattr(SF, name), sample)
        # with their weights they have many more values
        fast = sample.input.numel() > SLOW_CHECKS or name in CONVS or name == "linear"
        with native_linears(name):
            assert torch.autograd.gradcheck(lambda *t: first(call(*t)), call.tensors, fast_mode=fast)
            assert torch.autograd.gradgradcheck(lambda *t: first(call(*t)), call.tensors, fast_mode=fast)


# ------------------------------------------------------------------------------------------------------------- modules


def both(name: str, given: Any, training: bool) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Makes the native layer and torch's from the same random state."""
    built = given.constructor_input
    native_layer, torch_layer = (
        made(*built.args, **built.kwargs).train(training) for made in (getattr(S, name), module_info(name).module_cls)
    )
    if name.startswith("Lazy"):  # lazy layers have parameters once they have seen an input
        for made in (native_layer, torch_layer):
            made(given.forward_input.args[0])
    for t in (*torch_layer.parameters(), *torch_layer.buffers()):
        if t.is_floating_point():
            torch.nn.init.uniform_(t, 0.5, 2.0)  # ones and zeros would hide much
    native_layer.load_state_dict(torch_layer.state_dict())
    return native_layer, torch_layer


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_modules_give_what_torchs_give(name: str, training: bool, strict: None) -> None:
    inputs = module_inputs(name, training)
    assert len(inputs) >= MODULES[name]
    for given in inputs:
        native_layer, torch_layer = both(name, given, training)
        assert repr(native_layer) == repr(torch_layer) and isinstance(native_layer, type(torch_layer))
        call = given.forward_input
        x, again = call.args[0], copy.deepcopy(native_layer)
        # computes both from x in NCHW: torch's instance norm gives a wrong gradient for one channels_last sample
        expected = to(x.dtype)(two_steps(torch_layer.double(), x.double(), call.kwargs))
        with native_linears(name):
            same(two_steps(native_layer, x, call.kwargs), expected, **rounding(name, expected))
            same(two_steps(again, last(x), call.kwargs), expected, **rounding(name, expected))


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # torch's rms_norm says that it is slow
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_modules_of_other_floats_go_to_torch(name: str, dtype: torch.dtype) -> None:
    for given in module_inputs(name, True):
        call = given.forward_input
        x = call.args[0].to(dtype)
        # A layer's own numbers often stay in float32. Of one sample, instance norm then is torch's batch norm, which
        # rounds less. Convolutions and linear layers need them in x's type.
        own = name.startswith("InstanceNorm") or name in CONV_MODULES or name in LINEAR_MODULES
        for state in {dtype, dtype if own else torch.float32}:
            native_layer, torch_layer = (m.to(state) for m in both(name, given, True))
            same_bits_or_error(
                lambda: two_steps(native_layer, x, call.kwargs), lambda: two_steps(torch_layer, x, call.kwargs)
            )


@pytest.mark.parametrize("name", MODULE_ERRORS)
def test_modules_error_inputs_raise_an_error_of_torchs_kind(name: str) -> None:
    info = module_info(name)
    errors = list(
        info.module_error_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
    )
    assert len(errors) >= MODULE_ERRORS[name]
    for error in errors:
        given = error.module_error_input
        built, call = given.constructor_input, given.forward_input
        if error.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:  # torch's own: constructors are inherited
            with pytest.raises(error.error_type, match=error.error_regex):
                getattr(S, name)(*built.args, **built.kwargs)
            continue
        module = getattr(S, name)(*built.args, **built.kwargs)
        with pytest.raises((RuntimeError, ValueError, TypeError)) as raised:
            module(*call.args, **call.kwargs)
        assert " expects " in str(raised.value)


# ------------------------------------------------------------------------------------------------------------- opcheck


EVERY = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
NO_GRADIENT = {"norm_measure", "norm_sums", "norm_update"}  # their callers differentiate


def opcheck(call: tuple[Any, Any, Any], trace: bool) -> str:
    """The operator's name. Tracing takes longest."""
    func, args, kwargs = call
    learn = func._opname not in NO_GRADIENT
    args = tree_map_only(Tensor, lambda t: t.detach().requires_grad_(learn and t.is_floating_point()), args)
    torch.library.opcheck(func, args, kwargs, test_utils=EVERY if trace else EVERY[:3])
    return func._opname


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.nightly)])
def test_opcheck_passes_for_every_operator_of_pooling(step: int) -> None:
    seen: set[str] = set()
    for sample in POOL[::step]:
        for layout in (Tensor.contiguous, channels_last):
            x = layout(torch.randn(sample.shape, dtype=torch.float64)).requires_grad_()
            with Operators() as run:
                extra = {"return_indices": True} if "max" in sample.function else {}
                first(sample.native_function(x, **sample.arguments, **extra)).sum().backward()
            assert run.calls
            for call in run.calls:
                seen.add(opcheck(call, trace=call[0]._opname not in seen or sample.shape[0] == 3))
    assert seen == {
        name
        for name in (
            "max_pool_offset",
            "max_pool_offset_backward",
            "offset_to_index",
            "max_pool_index",
            "max_pool_index_backward",
        )
    } | {"avg_pool", "avg_pool_backward"}


def norm_outputs(x: Tensor) -> Iterator[Tensor]:
    """Calls that reach the normalization operators in every way, each from one tensor."""
    channels = x.shape[1]
    weight, bias, mean = (torch.randn(channels, dtype=x.dtype) for _ in range(3))
    variance, residual = torch.rand(channels, dtype=x.dtype), torch.randn_like(x)
    wide = [torch.randn(x.shape[1:], dtype=x.dtype) for _ in range(2)]
    for learned in (weight, bias, residual, *wide):
        learned.requires_grad_()
    yield SF.batch_norm(x, mean, variance, weight, bias, training=True)
    yield SF.batch_norm(x, mean, variance, weight, bias)
    yield ops.by_channel(
        x, None, None, weight, bias, True, 0.1, 1e-5, batches=2, residual=residual, activation="leaky_relu"
    )
    yield SF.group_norm(x, 2)
    yield ops.by_group(x, 2, weight, bias, 1e-5, residual=residual)
    yield SF.layer_norm(x, x.shape[1:], *wide)
    yield SF.layer_norm(x, x.shape[-1:])
    yield SF.rms_norm(x, x.shape[1:], wide[0])
    yield ops.layer_norm_2d(x, weight, bias, activation="relu")
    if x.dim() > 2:
        yield SF.instance_norm(x, weight=weight)
        yield SF.local_response_norm(x, 3, alpha=1.0)
    count = x.numel() // channels
    yield normalize_with(measure(x), lambda sums: sums / count, x, residual, weight, bias, 1e-5, "relu")


@pytest.mark.parametrize(
    "shapes",
    [((4, 6, 3, 5),), pytest.param(((4, 6), (2, 4, 7), (4, 6, 3, 5), (2, 4, 3, 2, 3)), marks=pytest.mark.nightly)],
)
def test_opcheck_passes_for_every_norm_operator_in_both_memory_orders(shapes: tuple[tuple[int, ...], ...]) -> None:
    seen: set[str] = set()
    for shape in shapes:
        for layout in (Tensor.contiguous, last):
            with Operators() as run:
                for y in norm_outputs(layout(torch.randn(shape, dtype=torch.float64)).requires_grad_()):
                    y.square().sum().backward()
            for call in run.calls:
                traced = len(shapes) > 1 and layout is last
                seen.add(opcheck(call, trace=traced or call[0]._opname not in seen))
    assert seen == {"norm", "norm_backward", "local_response", "local_response_backward"} | NO_GRADIENT


def test_opcheck_passes_for_every_convolution_operator() -> None:
    seen: set[tuple[str, str]] = set()
    for method in [m.name for m in METHODS if m.name not in ("torch", "reference")]:
        for sample in CONV[::4]:
            for layout in (Tensor.contiguous, channels_last):
                x = layout(torch.randn(sample.shape, dtype=torch.float64)).requires_grad_()
                weight = torch.randn(sample.weight, dtype=torch.float64, requires_grad=True)
                bias = torch.randn(sample.filters, dtype=torch.float64) if sample.bias else None
                with dispatch.prefer(method), Operators() as run:
                    sample.native_function(x, weight, bias, **sample.arguments).sum().backward()
                for call in run.calls:
                    name = call[0]._opname
                    opcheck(call, trace=(method, name) not in seen)
                    seen.add((method, name))
        assert {name for by, name in seen if by == method} == {"conv", "conv_backward_data", "conv_backward_weights"}


def test_opcheck_passes_for_every_operator_of_linear_layers() -> None:
    seen: set[str] = set()
    for shape in ((4, 3), (3,), (2, 3, 5), (0, 3)):
        x, weight = torch.randn(shape, dtype=torch.float64), torch.randn(2, shape[-1], dtype=torch.float64)
        x, weight, bias = x.requires_grad_(), weight.requires_grad_(), torch.randn(2, dtype=torch.float64)
        with dispatch.prefer("native"), Operators() as run:
            for bounds in ({}, {"low": 0.0}, {"low": 0.0, "high": 6.0}):
                linear.linear(x, weight, bias.requires_grad_(), **bounds).sum().backward()
        for call in run.calls:
            seen.add(opcheck(call, trace=shape == (4, 3)))
    assert seen == {"linear", "linear_backward_data", "linear_backward_weights"}
