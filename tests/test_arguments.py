"""Arguments as torch takes them: striate accepts every form of number that torch's function or layer accepts, with the
same result.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import striate.nn as S
import striate.nn.functional as SF
from striate.errors import ArgumentError, ArgumentTypeError
from striate.ops import norm as norm_ops
from striate.ops.arguments import as_float, as_int, as_ints, as_key, per_axis, whole
from striate.ops.conv import geometry as conv_geometry
from striate.ops.pool import geometry as pool_geometry


class Index:
    """A whole number of some other library: its only method is ``__index__``."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


# The forms in which a whole number may be given, and a whole number for each axis.
NUMBERS: dict[str, Callable[[int], Any]] = {
    "int64": np.int64,
    "int32": np.int32,
    "uint8": np.uint8,
    "array of none": np.array,
    "tensor of none": torch.tensor,
    "int32 tensor": lambda n: torch.tensor(n, dtype=torch.int32),
    "tensor of one": lambda n: torch.tensor([n]),
    "index": Index,
}
SEVERAL: dict[str, Callable[[int, int], Any]] = {
    "list": lambda n, dims: [n] * dims,
    "Size": lambda n, dims: torch.Size([n] * dims),
    "tuple of int64": lambda n, dims: (np.int64(n),) * dims,
    "list of uint8": lambda n, dims: [np.uint8(n)] * dims,
    "tuple of tensors": lambda n, dims: (torch.tensor(n),) * dims,
    "tuple of indices": lambda n, dims: (Index(n),) * dims,
    "one int64": lambda n, dims: (np.int64(n),),
    "array": lambda n, dims: np.array([n] * dims),
    "tensor": lambda n, dims: torch.tensor([n] * dims),
    "generator": lambda n, dims: (n for _ in range(dims)),
}
NONE = {"float": float, "float64": np.float64, "float tensor": lambda n: torch.tensor(float(n)), "string": str}
BOOLS: dict[str, Callable[[int], Any]] = {
    "bool": bool,
    "numpy bool": np.bool_,
    "bool tensor": lambda n: torch.tensor(bool(n)),
}

X = {1: torch.randn(2, 4, 8), 2: torch.randn(2, 4, 8, 8), 3: torch.randn(2, 4, 8, 8, 8)}
W = {1: torch.randn(4, 4, 2), 2: torch.randn(4, 4, 2, 2), 3: torch.randn(4, 4, 2, 2, 2)}
GROUPED = {1: torch.randn(4, 2, 2), 2: torch.randn(4, 2, 2, 2), 3: torch.randn(4, 2, 2, 2, 2)}
LAYER = "a layer"


def functions() -> Iterator[tuple[str, str, int, int, dict[str, Any], int]]:
    """Each function of torch's that takes whole numbers: its name, the argument, a value, for how many axes, the
    others, x's axes.
    """
    for d in (1, 2, 3):
        for name in ("max_pool", "avg_pool"):
            for argument, value in (("kernel_size", 2), ("stride", 3), ("padding", 1)):
                yield f"{name}{d}d", argument, value, d, {"kernel_size": 3} if argument != "kernel_size" else {}, d
        yield f"max_pool{d}d", "dilation", 2, d, {"kernel_size": 2}, d
        for name in ("adaptive_max_pool", "adaptive_avg_pool"):
            yield f"{name}{d}d", "output_size", 3, d, {}, d
        if d > 1:
            yield f"avg_pool{d}d", "divisor_override", 3, 0, {"kernel_size": 2}, d
        for name in ("conv", "conv_transpose"):
            for argument, value in (("stride", 2), ("padding", 1), ("dilation", 2)):
                yield f"{name}{d}d", argument, value, d, {"weight": W[d]}, d
            yield f"{name}{d}d", "groups", 2, 0, {"weight": GROUPED[d]}, d
        yield f"conv_transpose{d}d", "output_padding", 1, d, {"weight": W[d], "stride": 2}, d
    yield "group_norm", "num_groups", 2, 0, {}, 2
    yield "local_response_norm", "size", 3, 0, {}, 2
    for name in ("layer_norm", "rms_norm"):
        for d in (1, 2):
            yield name, "normalized_shape", 8, d, {}, 2


def layers() -> Iterator[tuple[str, str, int, int, dict[str, Any], int]]:
    """Each layer of torch's, likewise."""
    for d in (1, 2, 3):
        for name in ("MaxPool", "AvgPool"):
            for argument, value in (("kernel_size", 2), ("stride", 3), ("padding", 1)):
                yield f"{name}{d}d", argument, value, d, {"kernel_size": 3} if argument != "kernel_size" else {}, d
        yield f"MaxPool{d}d", "dilation", 2, d, {"kernel_size": 2}, d
        if d > 1:
            yield f"AvgPool{d}d", "divisor_override", 3, 0, {"kernel_size": 2}, d
        for name in ("AdaptiveMaxPool", "AdaptiveAvgPool"):
            yield f"{name}{d}d", "output_size", 3, d, {}, d
        for name in ("Conv", "ConvTranspose", "LazyConv", "LazyConvTranspose"):
            base = {"in_channels": 4, "out_channels": 4, "kernel_size": 2, "stride": 2}
            if name.startswith("Lazy"):
                del base["in_channels"]
            for argument in base:
                yield (
                    f"{name}{d}d",
                    argument,
                    base[argument],
                    d if argument in ("kernel_size", "stride") else 0,
                    base,
                    d,
                )
            for argument, value in (("padding", 1), ("dilation", 2)):
                yield f"{name}{d}d", argument, value, d, base, d
            yield f"{name}{d}d", "groups", 2, 0, base, d
            if "Transpose" in name:
                yield f"{name}{d}d", "output_padding", 1, d, base, d
        for name in ("BatchNorm", "InstanceNorm"):
            yield f"{name}{d}d", "num_features", 4, 0, {"affine": True}, d
    yield "GroupNorm", "num_groups", 2, 0, {"num_channels": 4}, 2
    yield "GroupNorm", "num_channels", 4, 0, {"num_groups": 2}, 2
    for name in ("LayerNorm", "RMSNorm"):
        for d in (1, 2):
            yield name, "normalized_shape", 8, d, {}, 2
    yield "LocalResponseNorm", "size", 3, 0, {}, 2
    yield "ChannelShuffle", "groups", 2, 0, {}, 2


def own() -> Iterator[tuple[str, str, int, int, dict[str, Any], int]]:
    """Each layer that torch lacks, likewise."""
    yield "LayerNorm2d", "num_channels", 4, 0, {}, 2
    yield "GhostBatchNorm2d", "ghost_batch_size", 1, 0, {"num_features": 4}, 2
    yield "GroupNormAct2d", "num_groups", 2, 0, {"num_channels": 4}, 2
    for d in (1, 2, 3):
        base = {"in_channels": 4, "out_channels": 4, "input_size": 8, "kernel_size": 2}
        for argument in ("in_channels", "out_channels"):
            yield f"LocallyConnected{d}d", argument, 4, 0, base, d
        for argument, value in (("input_size", 8), ("kernel_size", 2), ("stride", 2), ("padding", 1), ("dilation", 2)):
            yield f"LocallyConnected{d}d", argument, value, d, base, d
        base = {"in_channels": 4, "out_channels": 4}
        for argument in base:
            yield f"PointwiseConv{d}d", argument, 4, 0, base, d
        base = {"channels": 4, "kernel_size": 2, "multiplier": 2}
        for argument, value in (("channels", 4), ("multiplier", 2)):
            yield f"DepthwiseConv{d}d", argument, value, 0, base, d
        yield f"DepthwiseConv{d}d", "kernel_size", 2, d, base, d
        base = {"in_channels": 4, "out_channels": 4, "kernel_size": 2}
        for name in ("DepthwiseSeparableConv", "ConvNormAct"):
            for argument in ("in_channels", "out_channels"):
                yield f"{name}{d}d", argument, 4, 0, base, d
            for argument, value in (("kernel_size", 2), ("stride", 2), ("padding", 1), ("dilation", 2)):
                yield f"{name}{d}d", argument, value, d, base, d
        yield f"DepthwiseSeparableConv{d}d", "multiplier", 2, 0, base, d
        yield f"ConvNormAct{d}d", "groups", 2, 0, base, d
        for argument, value in (("channels", 4), ("size", 3)):
            yield f"BlurPool{d}d", argument, value, 0, {"channels": 4}, d
        yield f"BlurPool{d}d", "stride", 2, d, {"channels": 4}, d
    base = {"in_channels": 4, "out_channels": 4, "kernel_size": 2, "middle": 3}
    for argument in ("in_channels", "out_channels", "middle"):
        yield "SpatiallySeparableConv2d", argument, base[argument], 0, base, 2
    for argument, value in (("kernel_size", 2), ("stride", 2), ("padding", 1), ("dilation", 2)):
        yield "SpatiallySeparableConv2d", argument, value, 2, base, 2
    base = {"in_channels": 4, "middle": 3, "out_channels": 4}
    for argument in base:
        yield "Bottleneck", argument, base[argument], 0, base, 2
    for argument, value in (("kernel_size", 3), ("stride", 2), ("padding", 1), ("dilation", 2)):
        yield "Bottleneck", argument, value, 2, base, 2
    for argument, value in (("channels", 4), ("reduction", 2), ("squeeze_channels", 2)):
        yield "SqueezeExcite", argument, value, 0, {"channels": 4}, 2


Case = tuple[str, str, int, int, dict[str, Any], int]
FUNCTIONS, LAYERS, OWN = list(functions()), list(layers()), list(own())


def result(library: Any, case: Case, value: Any) -> torch.Tensor:
    """What the function, or the layer with parameters of one seed, makes of x."""
    name, argument, _, _, others, dims = case
    arguments = {**others, argument: value}
    if name[0].islower():
        y = getattr(library, name)(X[dims], **arguments)
    else:
        torch.manual_seed(0)
        y = getattr(library, name)(**arguments)(X[dims])
    return y.detach()


def forms(case: Case) -> Iterator[tuple[str, Callable[[], Any]]]:
    value, dims = case[2:4]
    for form, make in NUMBERS.items():
        yield form, lambda make=make: make(value)
    if dims:
        for form, several in SEVERAL.items():
            yield form, lambda several=several: several(value, dims)


def ids(case: Case) -> str:
    return f"{case[0]}-{case[1]}-{case[3]}"


def takes(library: Any, case: Case, value: Any) -> bool:
    try:
        result(library, case, value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("case", FUNCTIONS + LAYERS, ids=ids)
def test_whole_numbers_are_taken_in_every_form_that_torch_takes_with_the_same_result(case: Case) -> None:
    native_library, torch_library = (SF, torch.nn.functional) if case[0][0].islower() else (S, torch.nn)
    plain = (case[2],) * case[3] if case[1] == "normalized_shape" else case[2]
    expected = result(native_library, case, plain)
    torch.testing.assert_close(expected, result(torch_library, case, plain))
    assert bool(expected.any())
    taken = 0
    for form, make in forms(case):
        if case[1] == "normalized_shape" and case[3] == 2 and form in {*NUMBERS, "one int64"}:
            continue  # one number is one axis there
        if not takes(torch_library, case, make()) and not takes(native_library, case, make()):
            continue
        assert torch.equal(result(native_library, case, make()), expected), form
        taken += 1
    assert taken >= 5


@pytest.mark.parametrize("case", OWN, ids=ids)
def test_layers_that_torch_has_not_take_whole_numbers_in_every_form_too(case: Case) -> None:
    expected = result(S, case, case[2])
    assert bool(expected.any())
    for form, make in forms(case):
        assert torch.equal(result(S, case, make()), expected), form


@pytest.mark.parametrize("case", [c for c in FUNCTIONS + LAYERS + OWN if c[1] != "num_features"], ids=ids)
def test_what_is_no_whole_number_is_refused(case: Case) -> None:
    library, function = (SF, True) if case[0][0].islower() else (S, False)
    # torch's constructors' too
    kinds: Any = (ArgumentError, ArgumentTypeError) if function else (TypeError, ValueError, RuntimeError)
    for make in (*NONE.values(), *BOOLS.values()):
        wrong = make(case[2])
        for given in (wrong, (wrong,) * case[3]) if case[3] else (wrong,):
            with pytest.raises(kinds):
                result(library, case, given)


def test_errors_of_another_librarys_numbers_tell_them_as_they_came() -> None:
    with pytest.raises(ArgumentTypeError) as raised:
        SF.max_pool2d(X[2], np.float64(2))
    assert str(raised.value) == (
        "max_pool2d expects kernel_size to be one integer or 2, got np.float64(2.0). x: (2, 4, 8, 8). Give one "
        "integer or 2."
    )
    with pytest.raises(ArgumentError) as low:
        SF.avg_pool2d(X[2], 2, np.int64(-1))
    assert (
        str(low.value)
        == "avg_pool2d expects stride from 1 to 2^62, got -1. x: (2, 4, 8, 8). Choose a stride of at least 1."
    )
    with pytest.raises(ArgumentTypeError) as bare:
        SF.group_norm(X[2], np.bool_(True))
    assert (
        str(bare.value)
        == "group_norm expects num_groups to be an integer, got np.True_. Use 32, or what divides the channels."
    )


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_an_output_size_is_taken_in_every_form_by_transposed_convolutions(dims: int) -> None:
    native_layer, torch_layer = (getattr(library, f"ConvTranspose{dims}d")(4, 4, 2, 2) for library in (S, torch.nn))
    torch_layer.load_state_dict(native_layer.state_dict())
    expected = native_layer(X[dims], [17] * dims)
    assert expected.shape[2:] == (17,) * dims
    for form, several in SEVERAL.items():
        if form == "one int64" and dims > 1:
            continue  # one size is none for each axis
        assert torch.equal(native_layer(X[dims], several(17, dims)), expected), form
    torch.testing.assert_close(torch_layer(X[dims], [np.int64(17)] * dims), expected)


def test_small_numbers_of_other_libraries_do_not_wrap_where_they_are_multiplied() -> None:
    layer = S.DepthwiseSeparableConv2d(np.uint8(100), 3, 1, multiplier=np.uint8(3))
    assert layer.pointwise.in_channels == 300 and layer(torch.ones(1, 100, 2, 2)).shape == (1, 3, 2, 2)
    assert S.DepthwiseConv2d(np.uint8(100), 1, multiplier=np.uint8(3)).out_channels == 300
    assert S.MaxPool1d(np.int8(100), stride=np.int8(100), dilation=np.int8(2))(torch.ones(1, 1, 300)).shape == (1, 1, 2)
    assert torch.equal(SF.adaptive_avg_pool2d(X[2], np.int8(100)), SF.adaptive_avg_pool2d(X[2], 100))


def test_plans_are_cached_by_the_number_whatever_library_it_comes_from() -> None:
    caches: list[Any] = [
        pool_geometry._cached_resolve,
        pool_geometry._cached_resolve_adaptive,
        conv_geometry._cached_resolve,
        conv_geometry._cached_resolve_transpose,
    ]

    def call(n: Callable[[int], Any]) -> None:
        SF.max_pool2d(X[2], n(3), n(2), n(1))
        SF.adaptive_avg_pool2d(X[2], (n(3), n(2)))
        SF.conv2d(X[2], W[2], None, n(2), (n(1), n(0)))
        SF.conv_transpose2d(X[2], W[2], None, [n(2), n(2)])

    call(int)
    before = [c.cache_info().misses for c in caches]
    for make in (np.int64, np.uint8, torch.tensor, Index):
        call(make)
    assert [c.cache_info().misses for c in caches] == before


def test_numbers_become_pythons_and_everything_else_stays() -> None:
    for make in NUMBERS.values():
        assert type(as_int(make(2))) is int and as_int(make(2)) == 2
        assert as_key(make(2)) == 2 and type(as_key(make(2))) is int
    for make in (*NONE.values(), *BOOLS.values()):
        value = make(1)
        assert as_int(value) is value and as_ints(value) is value
        assert as_key(value) == ("1" if isinstance(value, str) else None)
        assert as_key([value, 2]) is None
    for given in (None, object(), b"ab", torch.ones(2), {}):
        assert as_int(given) is given
    assert as_ints([np.int64(1), None, 2.5]) == (1, None, 2.5) and as_ints(range(2)) == (0, 1) and as_ints("ab") == "ab"
    assert as_ints(np.array([[1, 2]]))[0] is not None and not isinstance(as_ints(np.array([[1, 2]]))[0], int)
    assert per_axis(np.array([1, 2]), 2, 1, "stride", "here") == (1, 2) and whole(np.uint8(3), "size", "here") == 3
    assert (
        type(as_float(np.float32(0.5))) is float and as_float(torch.tensor(0.5)) == 0.5 and as_float(np.int64(2)) == 2.0
    )
    for other in (
        np.bool_(True),
        torch.tensor(True),
        torch.ones(1),
        torch.ones((), requires_grad=True),
        1j,
        "0.5",
        None,
    ):
        assert as_float(other) is other


# --------------------------------------------------------------------------------------------------------- real numbers

REALS: dict[str, Callable[[float], Any]] = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "int64": lambda v: np.int64(round(v)),
    "tensor": torch.tensor,
    "int": round,
}
REAL = [
    *((name, argument) for name in ("batch_norm", "instance_norm") for argument in ("eps", "momentum")),
    *((name, "eps") for name in ("group_norm", "layer_norm", "rms_norm")),
    *(("local_response_norm", argument) for argument in ("alpha", "beta", "k")),
]


def real_result(library: Any, name: str, argument: str, value: Any) -> tuple[torch.Tensor, ...]:
    mean, var = torch.zeros(4), torch.ones(4)
    more: dict[str, Any] = {"group_norm": {"num_groups": 2}, "local_response_norm": {"size": 3}}.get(name, {})
    if name in ("layer_norm", "rms_norm"):
        more = {"normalized_shape": [8]}
    if name in ("batch_norm", "instance_norm"):
        more = {"running_mean": mean, "running_var": var} | ({"training": True} if name == "batch_norm" else {})
    return getattr(library, name)(X[2], **more, **{argument: value}), mean, var


@pytest.mark.parametrize(("name", "argument"), REAL)
def test_real_numbers_are_taken_in_every_form_that_torch_takes(name: str, argument: str) -> None:
    for form, make in REALS.items():
        value = make(0.75)
        got, expected = real_result(SF, name, argument, value), real_result(SF, name, argument, float(value))
        assert all(torch.equal(g, e) for g, e in zip(got, expected, strict=True)), form
        torch.testing.assert_close(got, real_result(torch.nn.functional, name, argument, value))


@pytest.mark.parametrize(("name", "argument"), REAL)
@pytest.mark.parametrize("wrong", [True, np.bool_(True), "0.5", None, torch.ones(2), 1j], ids=repr)
def test_what_is_no_real_number_is_refused(name: str, argument: str, wrong: Any) -> None:
    if (name, wrong) == ("rms_norm", None):
        pytest.skip("None is rms_norm's own default")
    with pytest.raises(ArgumentTypeError) as raised:
        real_result(SF, name, argument, wrong)
    assert str(raised.value).startswith(f"{name} expects {argument} to be a number, got {wrong!r}.")


def test_layers_take_real_numbers_of_other_libraries_too() -> None:
    for make in (
        lambda n: n.BatchNorm2d(4, np.float32(0.5), np.float32(0.25)),
        lambda n: n.GroupNorm(2, 4, np.float32(0.5)),
    ):
        native_layer, torch_layer = make(S), make(torch.nn)
        torch.testing.assert_close(native_layer(X[2]), torch_layer(X[2]))
        torch.testing.assert_close(dict(native_layer.state_dict()), dict(torch_layer.state_dict()))
    for layer in (
        S.GhostBatchNorm2d(4, 1, np.float32(0.5), np.float32(0.25)),
        S.LayerNorm2d(4, np.float32(0.5)),
        S.AdaIN(np.float32(0.5)),
    ):
        plain = copy.deepcopy(layer)
        plain.eps = 0.5
        arguments = (X[2], X[2] + 1) if isinstance(layer, S.AdaIN) else (X[2],)
        assert torch.equal(layer(*arguments), plain(*arguments))
    layer = S.BatchNorm2d(4, np.float32(0.5), np.float32(0.25))
    with S.whole_batch_statistics(layer, [X[2][:1], X[2][1:]]):
        layer(X[2][:1])
    assert layer.running_mean is not None and torch.allclose(layer.running_mean, 0.25 * X[2].mean((0, 2, 3)))


# --------------------------------------------------------------------------------------------------------------- traced


@pytest.mark.parametrize(
    "make",
    [
        lambda n: n.MaxPool2d((np.int64(2), np.int64(2)), padding=np.int64(1)),
        lambda n: n.AvgPool2d(np.int64(2), divisor_override=np.int64(3)),
        lambda n: n.AdaptiveAvgPool2d((np.int64(2), np.int64(3))),
        lambda n: n.GroupNorm(np.int64(2), np.int64(4)),
        lambda n: n.LayerNorm((np.int64(8), np.int64(8))),
        lambda n: n.LocalResponseNorm(np.int64(3)),
        lambda n: n.Conv2d(np.int64(4), np.int64(4), np.int64(3), groups=np.int64(2)),
        lambda n: n.ChannelShuffle(np.int64(2)),
        lambda n: n.BatchNorm2d(np.int64(4), eps=np.float32(1e-5)),
    ],
    ids=lambda make: inspect.getsource(make).strip().split("(")[0].split(".")[-1],
)
def test_layers_with_numpy_numbers_compile(make: Callable[[Any], torch.nn.Module]) -> None:
    layer = make(S)
    torch.testing.assert_close(torch.compile(layer, backend="eager")(X[2]), copy.deepcopy(layer)(X[2]))


def test_sizes_that_depend_on_the_input_compile_with_dynamic_shapes() -> None:
    def halves(x: torch.Tensor) -> torch.Tensor:
        y = SF.adaptive_avg_pool2d(x, (x.shape[-2] // 2, x.shape[-1] // 2))
        return SF.layer_norm(SF.max_pool2d(y, 2, 1), [x.shape[-2] // 2 - 1, x.shape[-1] // 2 - 1])

    compiled = torch.compile(halves, backend="eager", dynamic=True, fullgraph=True)
    for size in (8, 12, 16):
        x = torch.randn(2, 3, size, size + 2)
        torch.testing.assert_close(compiled(x), halves(x))


def test_the_arguments_of_norms_reach_the_operators_as_plain_numbers() -> None:
    y = norm_ops.by_group(X[2], np.int64(2), None, None, np.float32(0.5))
    assert torch.equal(y, norm_ops.by_group(X[2], 2, None, None, 0.5))
