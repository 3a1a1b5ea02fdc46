"""The norms that torch.nn lacks, and what striate's norms add to torch's: activations, freezing, noise, sub-batches,
styles.
"""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import striate
import striate.nn as nn
from striate.errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError
from striate.ops.dispatch import prefer

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
SHAPES = [(6, 4), (6, 4, 5), (6, 4, 3, 5), (3, 4, 2, 3, 4)]
LAYOUTS = [(shape, False) for shape in SHAPES] + [(shape, True) for shape in SHAPES[2:]]
ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda z: z,
    "relu": F.relu,
    "leaky_relu": lambda z: F.leaky_relu(z, 0.2),
    "silu": F.silu,
}
BATCH_NORMS: dict[str, Callable[..., Any]] = {
    "BatchNorm1d": nn.BatchNorm1d,
    "BatchNorm2d": nn.BatchNorm2d,
    "BatchNorm3d": nn.BatchNorm3d,
    "BatchNormAct2d": lambda channels, **more: nn.BatchNormAct2d(channels, activation="leaky_relu", **more),
    "GhostBatchNorm2d": lambda channels, **more: nn.GhostBatchNorm2d(channels, 2, **more),
    "NoisyBatchNorm2d": nn.NoisyBatchNorm2d,
    "SyncBatchNorm": nn.SyncBatchNorm,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Runs on one thread: the work is small, and threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(params=["as measured", "native", "torch"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which method computes: the one that a call chooses, the native kernels, or torch's operators."""
    with prefer(None if request.param == "as measured" else request.param):
        yield request.param


def input_of(name: str, samples: int = 6) -> Tensor:
    axes = {"BatchNorm1d": (5,), "BatchNorm3d": (2, 3, 4)}.get(name, (3, 5))
    return torch.randn(samples, 4, *axes) * 2 + 1


def shaken(layer: Any) -> Any:
    """The layer with parameters and running statistics that are neither 0 nor 1."""
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_().add_(p.sign())
        if getattr(layer, "running_mean", None) is not None:
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 3)
    return layer


def running(layer: Any) -> list[Tensor]:
    return [layer.running_mean.clone(), layer.running_var.clone(), layer.num_batches_tracked.clone()]


def same(got: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    assert got.shape == expected.shape
    error = (got.double() - expected.double()).abs().max().item()
    assert error <= tolerance * max(1.0, expected.abs().max().item()), error


def laid_out(x: Tensor, channels_last: bool) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.dim()]) if channels_last and x.dim() in formats else x.contiguous()


# ----------------------------------------------------------------------------------- with an activation and a residual


class BatchReference(torch.nn.BatchNorm2d):
    def _check_input_dim(self, input: Tensor) -> None:
        pass


def results(
    layer: Any, arguments: list[Tensor], dy: Tensor, then: Callable[[Tensor], Tensor] | None = None
) -> list[Tensor]:
    """The output, the gradients, and the running statistics; ``then`` is applied after layers that do not include it.
    """
    arguments = [a.clone().requires_grad_() for a in arguments]
    if then is None:
        y = layer(*arguments)
    else:
        z = layer(arguments[0])
        y = then(z if len(arguments) == 1 else z + arguments[1])
    layer.zero_grad()
    y.backward(dy)
    gradients: Any = [a.grad for a in (*arguments, *layer.parameters())]
    return [y.detach(), *gradients, *layer.buffers()]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("shape", "channels_last"), LAYOUTS, ids=str)
@pytest.mark.parametrize("kind", ["batch", "batch in evaluation", "group"])
def test_norm_residual_and_activation_are_what_torch_computes_one_after_the_other(
    kind: str, shape: tuple[int, ...], channels_last: bool, activation: str | None, way: str
) -> None:
    options = {"activation": activation, "negative_slope": 0.2}
    native: Any = nn.GroupNormAct2d(2, 4, **options) if kind == "group" else nn.BatchNormAct2d(4, **options)
    torch_layer: Any = torch.nn.GroupNorm(2, 4) if kind == "group" else BatchReference(4)
    torch_layer.double().load_state_dict(shaken(native).state_dict())
    x, dy = (laid_out(torch.randn(shape), channels_last) for _ in range(2))
    for arguments in ([2 * x + 1], [2 * x + 1, torch.randn(shape)]):
        layers = [layer.train(kind != "batch in evaluation") for layer in (torch_layer, native)]
        expected = results(
            copy.deepcopy(layers[0]), [a.double() for a in arguments], dy.double(), ACTIVATIONS[activation]
        )
        for dtype, tolerance in TOLERANCE.items():
            got = results(copy.deepcopy(layers[1]).to(dtype), [a.to(dtype) for a in arguments], dy.to(dtype))
            for a, b in zip(got, expected, strict=True):
                assert a.dtype is dtype or a.dtype is torch.int64
                close(a, b, tolerance)


@pytest.mark.parametrize(
    ("native", "torch_layer"),
    [(nn.BatchNormAct2d(4), torch.nn.BatchNorm2d(4)), (nn.GroupNormAct2d(2, 4), torch.nn.GroupNorm(2, 4))],
    ids=["batch", "group"],
)
def test_state_of_a_layer_with_an_activation_is_interchangeable_with_torchs(
    native: torch.nn.Module, torch_layer: torch.nn.Module
) -> None:
    shaken(native)
    torch_layer.load_state_dict(native.state_dict())
    shaken(torch_layer)
    native.load_state_dict(torch_layer.state_dict())
    assert list(native.state_dict()) == list(torch_layer.state_dict())
    assert same(list(native.state_dict().values()), list(torch_layer.state_dict().values()))


def test_repr_tells_the_activation_where_there_is_one() -> None:
    batch = "4, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True"
    assert repr(nn.BatchNormAct2d(4)) == f"BatchNormAct2d({batch}, activation='relu')"
    assert repr(nn.BatchNormAct2d(4, activation=None)) == f"BatchNormAct2d({batch})"
    assert (
        repr(nn.BatchNormAct2d(4, activation="silu").freeze())
        == f"BatchNormAct2d({batch}, activation='silu', frozen=True)"
    )
    group = repr(torch.nn.GroupNorm(2, 4)).removesuffix(")").replace("GroupNorm", "GroupNormAct2d")
    assert repr(nn.GroupNormAct2d(2, 4, activation="leaky_relu", negative_slope=0.2)) == (
        f"{group}, activation='leaky_relu', negative_slope=0.2)"
    )


@pytest.mark.parametrize("wrong", ["gelu", "ReLU", 1, ["relu"], True], ids=repr)
@pytest.mark.parametrize("kind", [nn.BatchNormAct2d, nn.GroupNormAct2d])
def test_an_unknown_activation_is_refused(kind: Any, wrong: Any) -> None:
    with pytest.raises(ArgumentError) as raised:
        kind(*[4] * (2 if kind is nn.GroupNormAct2d else 1), activation=wrong)
    expects = "an activation of None, 'relu', 'leaky_relu', 'relu6', 'silu'"
    assert str(raised.value) == f"{kind.__name__} expects {expects}, got {wrong!r}. Put any other behind the layer."


def test_an_activation_set_later_is_checked_by_the_call() -> None:
    layer = nn.LayerNorm(4)
    layer.activation = "gelu"
    with pytest.raises(ArgumentError, match="LayerNorm expects an activation of None"):
        layer(torch.randn(2, 4))


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_a_residual_that_does_not_fit_is_refused(kind: str) -> None:
    layer: Any = nn.BatchNormAct2d(4) if kind == "batch" else nn.GroupNormAct2d(2, 4)
    name, x = type(layer).__name__, torch.randn(2, 4, 3, 3)
    wrong: list[tuple[Any, type, str]] = [
        (
            torch.randn(2, 4, 1, 1),
            ShapeError,
            f"{name} expects a residual of x's shape, got (2, 4, 1, 1). x: (2, 4, 3, 3). Bring it to x's shape.",
        ),
        (
            x.double(),
            DtypeError,
            f"{name} expects a residual of x's type, float32, got float64. Convert it with .to(x).",
        ),
        (
            1.0,
            ArgumentTypeError,
            f"{name} expects residual to be a tensor or None, got float. Leave it out to add nothing.",
        ),
    ]
    for residual, error, text in wrong:
        with pytest.raises(error) as raised:
            layer(x, residual)
        assert str(raised.value) == text


# ------------------------------------------------------------------------------------------------------------- freezing


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_a_frozen_norm_computes_as_in_evaluation_whatever_the_mode_and_learns_no_statistics(name: str) -> None:
    layer = shaken(BATCH_NORMS[name](4))
    evaluated, x = copy.deepcopy(layer).eval(), input_of(name)
    dy = torch.randn_like(x)
    expected = results(evaluated, [x], dy)
    before = running(layer)
    measured = copy.deepcopy(layer)(x)
    assert layer.freeze() is layer
    for mode in (layer.train, layer.eval, layer.train):
        assert mode() is layer and layer.frozen
        assert same(results(layer, [x], dy), expected)
        assert same(running(layer), before)
    assert layer.training and (measured - expected[0]).abs().max() > 0.1
    assert layer.unfreeze() is layer and not layer.frozen
    assert torch.equal(layer(x), measured) and not same(running(layer), before)
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_nothing_clears_a_frozen_norms_statistics_until_it_is_unfrozen(name: str) -> None:
    layer = shaken(BATCH_NORMS[name](4)).freeze()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    layer.reset_running_stats()
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    layer.reset_parameters()  # scale and shift are parameters, statistics are none
    assert torch.equal(layer.weight, torch.ones(4)) and torch.equal(layer.bias, torch.zeros(4))
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(layer.state_dict()[key], before[key])
    layer.unfreeze().reset_running_stats()
    assert torch.equal(layer.running_mean, torch.zeros(4)) and torch.equal(layer.running_var, torch.ones(4))
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("accelerated", [False, True], ids=["native", "accelerated"])
def test_stochastic_weight_averaging_measures_the_norms_that_are_not_frozen_and_leaves_those_that_are(
    accelerated: bool,
) -> None:
    from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

    def network(library: Any) -> Any:
        torch.manual_seed(0)
        layers = (
            library.Conv2d(3, 4, 3),
            library.BatchNorm2d(4),
            library.ReLU(),
            library.Conv2d(4, 4, 3),
            library.BatchNorm2d(4),
        )
        return library.Sequential(*layers, library.Flatten(), library.Linear(4 * 4 * 4, 2))

    model = striate.accelerate(network(torch.nn)) if accelerated else network(nn)
    first, second = model[1], model[4]
    first.running_mean.copy_(torch.randn(4))
    first.running_var.copy_(1 + torch.rand(4))
    first.freeze()
    frozen = {key: value.clone() for key, value in first.state_dict().items() if "running" in key or "batches" in key}
    averaged, optimizer = AveragedModel(model), torch.optim.SGD(model.parameters(), 0.05)
    schedule = SWALR(optimizer, swa_lr=0.05, anneal_epochs=1)
    loader = [(torch.randn(6, 3, 8, 8) + 1, torch.randint(2, (6,))) for _ in range(4)]
    for x, target in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(x), target).backward()
        optimizer.step()
        averaged.update_parameters(model)
        schedule.step()
    update_bn(loader, averaged)

    native = averaged.module
    assert native[1].frozen and native[1].momentum == native[4].momentum == 0.1 and averaged.training
    for layer in (first, native[1]):
        assert all(torch.equal(layer.state_dict()[key], value) for key, value in frozen.items())
    assert not torch.equal(native[1].weight, first.weight)
    assert not torch.equal(native[4].running_mean, second.running_mean)
    torch_layer = network(torch.nn)  # with its first norm in evaluation, where update_bn cannot reach it
    torch_layer.load_state_dict(native.state_dict())
    torch_layer[4].reset_running_stats()
    torch_layer[4].momentum = None
    torch_layer.train()[1].eval()
    for x, _ in loader:
        torch_layer(x)
    assert torch_layer[4].num_batches_tracked == 4
    torch.testing.assert_close(native.state_dict(), torch_layer.state_dict())
    x = loader[0][0]
    torch.testing.assert_close(averaged.eval()(x), torch_layer.eval()(x))


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_a_frozen_norm_stays_frozen_in_a_copy_and_a_pickle_but_not_in_its_state(name: str) -> None:
    layer = shaken(BATCH_NORMS[name](4)).freeze()
    x, expected = input_of(name), layer(input_of(name)).shape
    twins = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    for twin in twins:
        assert twin.frozen and twin.training and twin(x).shape == expected
        assert torch.equal(twin(x), layer(x)) and same(running(twin), running(layer))
        twin.unfreeze()
        assert layer.frozen
    assert list(layer.state_dict()) == list(torch.nn.BatchNorm2d(4).state_dict())
    fresh = BATCH_NORMS[name](4)
    fresh.load_state_dict(layer.state_dict())
    assert not fresh.frozen


def test_freezing_the_parameters_stops_their_gradients_until_they_are_unfrozen() -> None:
    layer, x = shaken(nn.BatchNorm2d(4)), input_of("BatchNorm2d").requires_grad_()
    layer.freeze()
    assert layer.weight.requires_grad and layer.bias.requires_grad
    layer.freeze(parameters=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is None and x.grad is not None
    assert not layer.unfreeze().weight.requires_grad  # statistics only
    layer.freeze().unfreeze(parameters=True)(x).square().sum().backward()
    assert layer.weight.grad.abs().min() > 0 and layer.bias.grad.abs().min() > 0


def test_a_norm_without_scale_and_shift_can_be_frozen_with_its_parameters() -> None:
    layer, x = nn.BatchNorm2d(4, affine=False), input_of("BatchNorm2d")
    torch.testing.assert_close(layer.freeze(parameters=True)(x), x / math.sqrt(1 + 1e-5))
    assert not layer.unfreeze(parameters=True).frozen


def test_a_frozen_norm_takes_one_value_per_channel() -> None:
    layer = nn.BatchNorm1d(4)
    with pytest.raises(ShapeError):
        layer(torch.ones(1, 4))
    assert layer.freeze()(torch.ones(1, 4)).shape == (1, 4)


def test_repr_tells_that_a_norm_is_frozen() -> None:
    layer = nn.BatchNorm2d(4)
    assert repr(layer.freeze()) == repr(torch.nn.BatchNorm2d(4)).removesuffix(")") + ", frozen=True)"
    assert repr(layer.unfreeze()) == repr(torch.nn.BatchNorm2d(4))


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_what_has_no_running_statistics_cannot_be_frozen(name: str) -> None:
    layer = BATCH_NORMS[name](4, track_running_stats=False)
    with pytest.raises(ArgumentError) as raised:
        layer.freeze()
    hint = "Build the layer with track_running_stats=True and train it."
    assert str(raised.value) == f"{name}.freeze expects running statistics, got None. {hint}"
    assert not layer.frozen


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_what_is_no_tensor_is_refused_by_name(name: str) -> None:
    with pytest.raises(ArgumentTypeError) as raised:
        BATCH_NORMS[name](4)([[1.0] * 4] * 4)
    assert str(raised.value) == f"{name} expects a tensor, got list. Call torch.as_tensor on it first."


def refused(layer: Any, name: str) -> None:
    """Calls the layer with invalid batches."""
    x = input_of(name)
    wrong: list[Any] = [x[:, :3], x[:1].mean(tuple(range(2, x.dim())), keepdim=True), x.int(), x[0, 0, 0]]
    if name == "GhostBatchNorm2d":
        wrong.append(x[:3, :, :1, :1])  # parts of two samples and of one
    for batch in wrong:
        with pytest.raises((ShapeError, DtypeError)):
            layer(batch)
    with pytest.raises(ShapeError):
        layer._compute(x, x[:2])  # with a residual


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_a_batch_that_is_refused_leaves_the_running_statistics_alone(name: str) -> None:
    layer = shaken(BATCH_NORMS[name](4))
    before = running(layer)
    refused(layer, name)
    assert same(running(layer)[:2], before[:2])


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_a_batch_that_is_refused_is_not_counted(name: str) -> None:
    layer = BATCH_NORMS[name](4)
    refused(layer, name)
    assert layer.num_batches_tracked == 0


# ---------------------------------------------------------------------------------------------------------- sub-batches


def chunkwise(layer: Any, x: Tensor, dy: Tensor, size: int) -> list[Tensor]:
    """Torch's batch norm on each of the fewest chunks of at most so many samples, which differ by one sample at most;
    the running statistics as documented: one step towards the mean over the chunks.
    """
    x = x.clone().requires_grad_()
    layer.zero_grad()
    split = x.tensor_split(-(-len(x) // size))
    chunks = [copy.deepcopy(layer) for _ in split]
    for chunk in chunks:
        chunk.momentum = 1.0
    y = torch.cat([chunk(part) for chunk, part in zip(chunks, split, strict=True)])
    gradients = torch.autograd.grad(y, [x, *(p for chunk in chunks for p in chunk.parameters())], dy)
    learned = [sum(gradients[k::2]) for k in (1, 2)]  # type: ignore[call-overload]
    momentum = 1.0 if layer.momentum is None else layer.momentum
    statistics = []
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(chunk, name) for chunk in chunks]).mean(0)
        statistics.append((1 - momentum) * getattr(layer, name) + momentum * mean)
    return [y.detach(), gradients[0], *learned, *statistics, layer.num_batches_tracked + 1]


@pytest.mark.parametrize("samples", [12, 4, 3, 10, 5], ids=lambda n: f"{n} samples")
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_ghost_batch_norm_is_a_batch_norm_of_each_chunk(
    dtype: torch.dtype, channels_last: bool, momentum: float | None, samples: int, way: str
) -> None:
    native, torch_layer = nn.GhostBatchNorm2d(4, 4, momentum=momentum), torch.nn.BatchNorm2d(4, momentum=momentum)
    torch_layer.load_state_dict(shaken(native).state_dict())
    x = laid_out(torch.randn(samples, 4, 5, 6) * (1 + torch.arange(samples).reshape(-1, 1, 1, 1)) + 1, channels_last)
    dy = torch.randn_like(x)
    expected = chunkwise(torch_layer.double(), x.double(), dy.double(), 4)
    got = results(native.to(dtype), [x.to(dtype)], dy.to(dtype))
    assert got[0].stride() == x.stride()
    for a, b in zip(got, expected, strict=True):
        close(a, b, TOLERANCE[dtype])


def test_a_ghost_batch_norm_is_not_the_whole_batchs() -> None:
    x = torch.randn(8, 4, 3, 3) * (1 + torch.arange(8).reshape(-1, 1, 1, 1))
    assert (nn.GhostBatchNorm2d(4, 2)(x) - nn.BatchNorm2d(4)(x)).abs().max() > 0.5


def test_a_ghost_batch_norm_without_running_statistics_measures_chunks_in_evaluation_too(way: str) -> None:
    x = torch.randn(8, 4, 3, 3)
    layer = nn.GhostBatchNorm2d(4, 2, track_running_stats=False)
    expected = torch.cat([F.batch_norm(part, None, None, training=True) for part in x.split(2)])
    close(layer(x), expected, 1e-5)
    close(layer.eval()(x), expected, 1e-5)


def test_a_ghost_batch_norm_in_evaluation_is_a_batch_norm_of_any_batch() -> None:
    layer, plain = shaken(nn.GhostBatchNorm2d(4, 4)).eval(), nn.BatchNorm2d(4).eval()
    plain.load_state_dict(layer.state_dict())
    for samples in (1, 4, 7, 8):
        x = torch.randn(samples, 4, 3, 5)
        assert torch.equal(layer(x), plain(x))
    assert same(running(layer), running(plain))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_ghost_batch_norm_takes_any_number_of_axes(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    expected = torch.cat([F.batch_norm(part, None, None, training=True) for part in x.split(3)])
    close(nn.GhostBatchNorm2d(4, 3).double()(x), expected)


def test_one_sample_too_many_is_normalized_in_parts_that_differ_by_one() -> None:
    x = torch.randn(5, 4, 3, 3) * (1 + torch.arange(5).reshape(-1, 1, 1, 1))
    y = nn.GhostBatchNorm2d(4, 4)(x)
    assert torch.equal(y[:3], nn.BatchNorm2d(4)(x[:3])) and torch.equal(y[3:], nn.BatchNorm2d(4)(x[3:]))


def test_a_part_of_one_value_is_refused_before_any_statistics_move() -> None:
    layer = nn.GhostBatchNorm2d(4, 2)
    with pytest.raises(ShapeError) as raised:
        layer(torch.randn(3, 4))
    assert str(raised.value).startswith("GhostBatchNorm2d expects more than one value per channel")
    assert not layer.running_mean.any() and layer.num_batches_tracked == 0


@pytest.mark.parametrize("size", [0, -2, 2.0, True, None, "4"], ids=repr)
def test_a_ghost_batch_size_that_is_no_count_is_refused(size: Any) -> None:
    with pytest.raises(ArgumentError) as raised:
        nn.GhostBatchNorm2d(4, size)
    assert (
        str(raised.value)
        == f"GhostBatchNorm2d expects a ghost_batch_size of at least 1, got {size!r}. Choose 16 or 32."
    )


def test_repr_tells_the_ghost_batch_size() -> None:
    expected = repr(torch.nn.BatchNorm2d(4)).removesuffix(")").replace("BatchNorm2d", "GhostBatchNorm2d")
    assert repr(nn.GhostBatchNorm2d(4, 16)) == f"{expected}, ghost_batch_size=16)"


# ---------------------------------------------------------------------------------------------------------------- noise


def test_noise_is_of_its_seed_and_of_another_kind_each_step() -> None:
    x = torch.randn(6, 4, 3, 5)
    plain = nn.BatchNorm2d(4)(x)
    first, again, other = (nn.NoisyBatchNorm2d(4, seed=seed) for seed in (1, 1, 2))
    ys, same_seed, other_seed = ([layer(x) for _ in range(3)] for layer in (first, again, other))
    assert same(ys, same_seed)
    different = [*ys, *other_seed]
    for k, a in enumerate(different):
        assert (a - plain).abs().max() > 0.05
        assert all((a - b).abs().max() > 0.05 for b in different[:k])
    first.reseed(1)
    assert torch.equal(first(x), ys[0])
    first.reseed(2)
    assert torch.equal(first(x), other_seed[0])


def test_noise_goes_on_in_a_copy_and_a_pickle() -> None:
    layer, x = nn.NoisyBatchNorm2d(4), torch.randn(6, 4, 3, 5)
    first = layer(x)
    twins = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    second = layer(x)
    assert not torch.equal(first, second)
    assert all(torch.equal(twin(x), second) for twin in twins)


@pytest.mark.parametrize("mode", ["eval", "frozen"])
def test_without_training_there_is_no_noise(mode: str) -> None:
    layer, plain, x = shaken(nn.NoisyBatchNorm2d(4)), nn.BatchNorm2d(4).eval(), torch.randn(6, 4, 3, 5)
    plain.load_state_dict(layer.state_dict())
    layer = layer.eval() if mode == "eval" else layer.freeze()
    step = layer.step
    assert torch.equal(layer(x), plain(x)) and layer.step == step


def test_noise_leaves_statistics_and_torchs_random_numbers_alone() -> None:
    layer, plain = nn.NoisyBatchNorm2d(4), nn.BatchNorm2d(4)
    for _ in range(3):
        x = torch.randn(6, 4, 3, 5)
        before = torch.get_rng_state()
        layer(x)
        assert torch.equal(torch.get_rng_state(), before)
        plain(x)
    assert same(running(layer), running(plain))


def noise_of(layer: Any, samples: int, steps: int) -> tuple[Tensor, Tensor]:
    """m and s of each step, sample and channel: the result for y = 0, and the result for y = 1 minus that."""
    channels, seed, found = layer.num_features, layer.seed, []
    x = torch.randn(samples, channels, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.zero_()
        for shift in (0.0, 1.0):
            layer.bias.fill_(shift)
            layer.reseed(seed)
            found.append(torch.stack([layer(x) for _ in range(steps)]))
    return found[0], found[1] - found[0]


@pytest.mark.parametrize(
    "options",
    [{}, {"mean_noise": 2.0, "scale_noise": 3.0, "mean_spread": 0.5, "scale_spread": 0.3}],
    ids=["paper", "other"],
)
def test_shift_and_scale_are_distributed_as_the_formula_says(options: dict[str, float]) -> None:
    n_mean, n_scale, r_mean, r_scale = (
        {"a": 0.5, "b": 1.25, "c": 0.1, "d": 0.1} | dict(zip("abcd", options.values(), strict=False))
    ).values()
    steps, samples, channels = 1500, 16, 8
    shift, scale = noise_of(nn.NoisyBatchNorm2d(channels, seed=5, **options).double(), samples, steps)
    draws = steps * channels  # of a channel's μ and σ
    centers, widths = shift.mean(1), scale.mean(1)
    assert shift.abs().max() <= n_mean + r_mean and shift.abs().max() > 0.98 * (n_mean + r_mean)
    assert (shift.amax(1) - shift.amin(1)).max() <= 2 * r_mean + 1e-6
    # Means lie within five standard errors; the seed decides the outcome.
    uniform = 1 / math.sqrt(12)
    assert abs(centers.mean()) < 5 * 2 * n_mean * uniform / math.sqrt(draws)
    assert abs(widths.mean() - (1 + n_scale) / 2) < 5 * (n_scale - 1) * uniform / math.sqrt(
        draws
    ) + 5 * r_scale / math.sqrt(draws * samples)
    # Variances within a step and channel, over samples: U(±r) has r²/3, N(·, r) has r². Over steps: those of μ and σ.
    assert shift.var(1).mean().item() == pytest.approx(r_mean**2 / 3, rel=0.02)
    assert scale.var(1).mean().item() == pytest.approx(r_scale**2, rel=0.02)
    assert centers.var().item() == pytest.approx(n_mean**2 / 3 + r_mean**2 / 3 / samples, rel=0.03)
    assert widths.var().item() == pytest.approx((n_scale - 1) ** 2 / 12 + r_scale**2 / samples, rel=0.03)
    # Uniform centers, normal scales: kurtosis 9/5 and 3.
    assert kurtosis(centers.flatten()) == pytest.approx(1.8, abs=0.1)
    assert kurtosis((scale - widths.unsqueeze(1)).flatten()) == pytest.approx(3.0, abs=0.1)
    # Nothing depends on the step, the channel or the sample before, nor the scale on the shift.
    bound = 5 / math.sqrt(draws - channels)
    for a, b in (
        (centers[1:], centers[:-1]),
        (widths[1:], widths[:-1]),
        (centers[:, 1:], centers[:, :-1]),
        (centers, widths),
        (
            (shift - centers.unsqueeze(1))[:, 1],
            (shift - centers.unsqueeze(1))[:, 2] + (shift - centers.unsqueeze(1))[:, 1] / (samples - 1),
        ),
    ):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < bound


def kurtosis(x: Tensor) -> float:
    centered = x - x.mean()
    return (centered**4).mean().item() / (centered**2).mean().item() ** 2


def test_noise_is_the_same_at_every_place_and_its_gradient_is_its_scale() -> None:
    layer = nn.NoisyBatchNorm2d(4, seed=3)
    x = torch.randn(6, 4, 3, 5, dtype=torch.float64)
    plain = nn.BatchNorm2d(4).double()
    y, z = layer.double()(x), plain(x)
    scale = (y[..., 0, 0] - y[..., 1, 1]) / (z[..., 0, 0] - z[..., 1, 1])
    close(y - z * scale[..., None, None], (y - z * scale[..., None, None])[..., :1, :1].expand_as(y), 1e-8)
    y.sum().backward()
    close(layer.bias.grad, scale.sum(0) * 15, 1e-8)  # type: ignore[arg-type]


def test_repr_of_a_noisy_norm_tells_the_seed() -> None:
    expected = repr(torch.nn.BatchNorm2d(4)).removesuffix(")").replace("BatchNorm2d", "NoisyBatchNorm2d")
    assert repr(nn.NoisyBatchNorm2d(4, seed=7)) == f"{expected}, seed=7)"


# ------------------------------------------------------------------------------------------- all channels at one place


def permuted(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    return F.layer_norm(x.movedim(1, -1), (x.shape[1],), weight, bias, eps).movedim(-1, 1)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"elementwise_affine": False}, {"eps": 0.5}], ids=str)
@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [*LAYOUTS, ((2, 4, 1, 1), False), ((3, 33, 7, 9), False), ((3, 33, 7, 9), True)],
    ids=str,
)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_layer_norm_2d_is_layer_norm_of_the_permuted_input(
    dtype: torch.dtype, shape: tuple[int, ...], channels_last: bool, options: dict[str, Any], way: str
) -> None:
    layer = shaken(nn.LayerNorm2d(shape[1], **options)).to(dtype)
    x = laid_out(torch.randn(shape) * 2 + 1, channels_last).to(dtype).requires_grad_()
    dy = torch.randn(shape)
    y = layer(x)
    y.backward(dy.to(dtype))
    weight, bias = (None if p is None else p.detach().double().requires_grad_() for p in (layer.weight, layer.bias))
    x64 = x.detach().double().requires_grad_()
    expected = permuted(x64, weight, bias, options.get("eps", 1e-6))
    expected.backward(dy.double())
    close(y.detach(), expected.detach(), TOLERANCE[dtype])
    for got, of in ((x, x64), (layer.weight, weight), (layer.bias, bias)):
        assert (got is None) == (of is None)
        if of is not None:
            close(got.grad, of.grad, TOLERANCE[dtype])  # type: ignore[union-attr]
    if way != "torch" and len(shape) > 3 and x.numel() > 8:
        assert y.stride() == x.stride()


def test_layer_norm_2d_of_an_empty_batch_is_empty() -> None:
    x = torch.empty(0, 4, 3, 5, requires_grad=True)
    y = nn.LayerNorm2d(4)(x)
    y.sum().backward()
    assert y.shape == x.shape and x.grad is not None


def test_state_and_repr_of_layer_norm_2d() -> None:
    assert list(nn.LayerNorm2d(4).state_dict()) == ["weight", "bias"]
    assert list(nn.LayerNorm2d(4, bias=False).state_dict()) == ["weight"]
    assert list(nn.LayerNorm2d(4, elementwise_affine=False).state_dict()) == []
    assert nn.LayerNorm2d(4, dtype=torch.float64).weight.dtype is torch.float64  # type: ignore[union-attr]
    assert repr(nn.LayerNorm2d(4)) == "LayerNorm2d(4, eps=1e-06, elementwise_affine=True)"


def test_layer_norm_2d_refuses_what_does_not_fit() -> None:
    layer = nn.LayerNorm2d(4)
    wrong: list[tuple[Any, type, str]] = [
        (
            torch.randn(2, 3, 5, 5),
            ShapeError,
            "LayerNorm2d expects 4 channels, got 3. x: (2, 3, 5, 5). Set num_channels=3, or look at what comes before.",
        ),
        (
            torch.randn(4),
            ShapeError,
            "LayerNorm2d expects x of shape (N, C, *axes), got (4,). Add axes with unsqueeze.",
        ),
        (
            torch.ones(2, 4, 3).int(),
            DtypeError,
            "LayerNorm2d expects floating-point numbers, got int32. x: (2, 4, 3). Convert x with .float().",
        ),
        (None, ArgumentTypeError, "LayerNorm2d expects a tensor, got NoneType. Call torch.as_tensor on it first."),
    ]
    for x, error, text in wrong:
        with pytest.raises(error) as raised:
            layer(x)
        assert str(raised.value) == text
    for channels in (0, -1, 2.0, True, None):
        with pytest.raises(ArgumentError) as raised:
            nn.LayerNorm2d(channels)  # type: ignore[arg-type]
        assert (
            str(raised.value)
            == f"LayerNorm2d expects num_channels of at least 1, got {channels!r}. It is the size of x's second axis."
        )


# ---------------------------------------------------------------------------------------------------------------- style


def styled(content: Tensor, style: Tensor, eps: float = 1e-5) -> Tensor:
    """The formula, in torch's operators."""
    shape = [*content.shape[:2], *[1] * (content.dim() - 2)]
    (var_c, mean_c), (var_s, mean_s) = (torch.var_mean(v.flatten(2), 2, correction=0) for v in (content, style))
    mean_c, var_c, mean_s, var_s = (v.reshape(shape) for v in (mean_c, var_c, mean_s, var_s))
    return (var_s + eps).sqrt() * (content - mean_c) / (var_c + eps).sqrt() + mean_s


@pytest.mark.parametrize("style_axes", [(5, 6), (3, 2), (11,), (2, 2, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("content_axes", [(5, 6), (7,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
def test_adaptive_instance_norm_gives_content_the_mean_and_deviation_of_style(
    channels_last: bool, content_axes: tuple[int, ...], style_axes: tuple[int, ...], way: str
) -> None:
    content = laid_out(2 * torch.randn(3, 4, *content_axes, dtype=torch.float64) - 1, channels_last)
    style = laid_out(3 * torch.randn(3, 4, *style_axes, dtype=torch.float64) + 2, channels_last)
    y = nn.adaptive_instance_norm(content, style, 1e-9)
    assert torch.equal(nn.AdaIN(1e-9)(content, style), y)
    (var, mean), (var_s, mean_s) = (torch.var_mean(v.flatten(2), 2, correction=0) for v in (y, style))
    close(mean, mean_s, 1e-10)
    close(var.sqrt(), (var_s + 1e-9).sqrt(), 1e-7)
    close(nn.adaptive_instance_norm(content, style), styled(content, style))


def test_adaptive_instance_norm_keeps_contents_type_and_memory_order() -> None:
    content = laid_out(torch.randn(2, 3, 4, 5), True)
    y = nn.AdaIN()(content, torch.randn(2, 3, 4, 5).double())
    assert y.dtype is torch.float32 and y.stride() == content.stride()


def test_adaptive_instance_norm_with_its_own_style_changes_nothing() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    close(nn.AdaIN()(x, x), x)


def test_gradients_of_adaptive_instance_norm_go_to_content_and_style(way: str) -> None:
    content = torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    style = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(nn.AdaIN(), (content, style))
    assert torch.autograd.gradgradcheck(nn.AdaIN(), (content, style))


def test_adaptive_instance_norm_refuses_what_does_not_fit() -> None:
    x = torch.randn(2, 3, 4, 4)
    wrong: list[tuple[Any, Any, type, str]] = [
        (
            x,
            torch.randn(1, 3, 4, 4),
            ShapeError,
            (
                "AdaIN expects a style of 2 samples and 3 channels, got (1, 3). content: (2, 3, 4, 4). Expand the "
                "style "
                "to the content's batch."
            ),
        ),
        (
            x,
            torch.randn(2, 4, 4, 4),
            ShapeError,
            (
                "AdaIN expects a style of 2 samples and 3 channels, got (2, 4). content: (2, 3, 4, 4). Expand the "
                "style "
                "to the content's batch."
            ),
        ),
        (
            x,
            torch.randn(2, 3),
            ShapeError,
            "AdaIN expects style of shape (N, C, *axes), got (2, 3). Add axes with unsqueeze.",
        ),
        (
            torch.randn(2, 3),
            x,
            ShapeError,
            "AdaIN expects content of shape (N, C, *axes), got (2, 3). Add axes with unsqueeze.",
        ),
        (x, 1.0, ArgumentTypeError, "AdaIN expects style to be a tensor, got float. Call torch.as_tensor on it first."),
        (
            None,
            x,
            ArgumentTypeError,
            "AdaIN expects content to be a tensor, got NoneType. Call torch.as_tensor on it first.",
        ),
    ]
    for content, style, error, text in wrong:
        with pytest.raises(error) as raised:
            nn.AdaIN()(content, style)
        assert str(raised.value) == text
    with pytest.raises(ShapeError, match="AdaIN expects more than one value per channel"):
        nn.AdaIN()(torch.randn(2, 3, 1, 1), x)


@pytest.mark.parametrize("style", [torch.ones(2, 3, 4, 4).int(), torch.ones(2, 3, 0, 4)], ids=["integers", "no values"])
def test_a_style_that_has_no_deviation_to_measure_is_refused_with_one_of_our_errors(style: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((DtypeError, ShapeError)):
            nn.AdaIN()(torch.randn(2, 3, 4, 4), style)


@pytest.mark.parametrize("eps", [None, -1.0, math.nan, "1e-5"], ids=repr)
def test_adaptive_instance_norm_refuses_an_eps_that_is_no_small_number(eps: Any) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError)):
        nn.AdaIN(eps)(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4))


def test_repr_of_adaptive_instance_norm_tells_eps() -> None:
    assert repr(nn.AdaIN()) == "AdaIN(eps=1e-05)"


# ----------------------------------------------------------------------------------------------------- in torch's place

NAMESAKES: dict[str, tuple[Any, ...]] = {
    "BatchNorm1d": (4,),
    "BatchNorm2d": (4,),
    "BatchNorm3d": (4,),
    "InstanceNorm1d": (4,),
    "InstanceNorm2d": (4,),
    "InstanceNorm3d": (4,),
    "LayerNorm": (4,),
    "GroupNorm": (2, 4),
    "RMSNorm": (4,),
    "LocalResponseNorm": (3,),
    "SyncBatchNorm": (4,),
}


@pytest.mark.parametrize("name", NAMESAKES)
def test_repr_of_a_namesake_is_torchs(name: str) -> None:
    assert repr(getattr(nn, name)(*NAMESAKES[name])) == repr(getattr(torch.nn, name)(*NAMESAKES[name]))


@pytest.mark.parametrize("name", [n for n in NAMESAKES if n not in ("SyncBatchNorm",)])
def test_an_accelerated_norm_keeps_its_object_and_computes_the_same_there_and_back(name: str) -> None:
    torch_layer = shaken(getattr(torch.nn, name)(*NAMESAKES[name]))
    native = copy.deepcopy(torch_layer)
    axes = 3 if name.endswith("3d") else 1 if name.endswith("1d") else 2
    x = torch.randn(6, 4, *[4] * axes)
    parameters = dict(native.named_parameters())
    assert striate.accelerate(native) is native and type(native) is getattr(nn, name)
    assert all(p is parameters[n] for n, p in native.named_parameters())
    torch.testing.assert_close(native(x), torch_layer(x))
    for a, b in zip(native.buffers(), torch_layer.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    assert striate.restore(native) is native and type(native) is getattr(torch.nn, name)
    torch.testing.assert_close(native(x), torch_layer(x))
    torch.testing.assert_close(native.eval()(x), torch_layer.eval()(x))


def test_a_model_whose_batch_norms_were_swapped_trains_and_saves_as_before() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 2, 3),
        torch.nn.BatchNorm2d(2),
    )
    twin = striate.accelerate(copy.deepcopy(model))
    for net in (model, twin):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (net(torch.randn(4, 3, 9, 9)) - 1).square().mean().backward()
            optimizer.step()
    assert type(twin[1]) is nn.BatchNorm2d
    x = torch.randn(4, 3, 9, 9)
    torch.testing.assert_close(twin.eval()(x), model.eval()(x))
    fresh = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 2, 3),
        torch.nn.BatchNorm2d(2),
    )
    fresh.load_state_dict(twin.state_dict())
    torch.testing.assert_close(fresh.eval()(x), model(x))


def test_accelerate_leaves_our_own_layers_as_they_are_and_warns_of_none() -> None:
    layers = [
        nn.BatchNormAct2d(4),
        nn.GroupNormAct2d(2, 4),
        nn.GhostBatchNorm2d(4, 2),
        nn.NoisyBatchNorm2d(4),
        nn.LayerNorm2d(4),
        nn.AdaIN(),
    ]
    model = nn.Sequential(torch.nn.BatchNorm2d(4), *layers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        striate.accelerate(model)
        assert type(model[0]) is nn.BatchNorm2d
        assert all(a is b for a, b in zip(list(model)[1:], layers, strict=True))
        assert all(type(layer).__module__.startswith("striate.nn.norm.") for layer in layers)
        striate.restore(model)
    assert type(model[0]) is torch.nn.BatchNorm2d and type(model[1]) is nn.BatchNormAct2d


def test_an_accelerated_frozen_norm_stays_frozen() -> None:
    model = striate.accelerate(torch.nn.Sequential(torch.nn.BatchNorm2d(4)))
    model[0].freeze()
    striate.accelerate(model.train())
    x = torch.randn(4, 4, 3, 3) + 3
    assert torch.equal(model(x), copy.deepcopy(model).eval()(x))


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "sample"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("options", [{"affine": True}, {"track_running_stats": True}], ids=str)
def test_instance_norm_of_other_channels_is_refused(options: dict[str, bool], dims: int, batched: bool) -> None:
    name = f"InstanceNorm{dims}d"
    shape = (*(2,) * batched, 4, *(5, 6, 7)[:dims])
    with pytest.raises(ShapeError) as raised:
        getattr(nn, name)(3, **options)(torch.randn(shape))
    assert (
        str(raised.value)
        == f"{name} expects 3 channels, got 4. x: {shape}. Set num_features=4, or look at what comes before."
    )


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_instance_norm_of_other_axes_is_refused(dims: int) -> None:
    name, axes = f"InstanceNorm{dims}d", ["L", "H, W", "D, H, W"][dims - 1]
    with pytest.raises(ShapeError) as raised:
        getattr(nn, name)(3)(torch.randn([3] * (dims + 3)))
    assert str(raised.value) == (
        f"{name} expects x of shape (N, C, {axes}) or (C, {axes}), got {(3,) * (dims + 3)}. Add or drop axes with "
        "unsqueeze or flatten."
    )


def test_instance_norm_without_state_takes_any_channels() -> None:
    x = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(nn.InstanceNorm2d(3)(x), F.instance_norm(x))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [((2, 7, 5), False), ((2, 7, 2, 3, 4), True), ((3, 40, 5, 9), False), ((3, 40, 5, 9), True)],
    ids=str,
)
@pytest.mark.parametrize(
    "arguments", [(5,), (1,), (2, 0.5, 1.5, 2.0), (3, 1.0, 0.5, 0.25), (4, 2.0, 1.0), (9, 1.0), (100, 1.0)], ids=str
)
def test_local_response_norm_is_torchs(
    arguments: tuple[Any, ...], shape: tuple[int, ...], channels_last: bool, dtype: torch.dtype, way: str
) -> None:
    x = laid_out(torch.randn(shape), channels_last)
    dy = torch.randn(shape)
    got = results(nn.LocalResponseNorm(*arguments), [x.to(dtype)], dy.to(dtype))
    expected = results(torch.nn.LocalResponseNorm(*arguments), [x.double()], dy.double())
    for a, b in zip(got, expected, strict=True):
        close(a, b, TOLERANCE[dtype])


def test_local_response_norm_names_itself_in_errors() -> None:
    wrong: list[tuple[Any, Any, type, str]] = [
        (
            3,
            torch.randn(2, 3),
            ShapeError,
            "LocalResponseNorm expects x of shape (N, C, *axes), got (2, 3). Add axes with unsqueeze.",
        ),
        (
            0,
            torch.randn(2, 3, 4),
            ArgumentError,
            (
                "LocalResponseNorm expects a size from 1 to 2^31 - 1, got 0. x: (2, 3, 4). Give a number of channels, "
                "as "
                "5."
            ),
        ),
        (
            2.5,
            torch.randn(2, 3, 4),
            ArgumentTypeError,
            "LocalResponseNorm expects size to be an integer, got 2.5. Give a number of channels, as 5.",
        ),
    ]
    for size, x, error, text in wrong:
        with pytest.raises(error) as raised:
            nn.LocalResponseNorm(size)(x)
        assert str(raised.value) == text
