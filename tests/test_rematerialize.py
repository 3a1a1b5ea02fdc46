"""A norm's output is recomputed in backward: less is saved, and nothing else differs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from striate import accelerate, models, nn
from striate.nn.container import Intermediate, run
from striate.ops import rematerialize
from striate.ops.norm import methods

LAYOUTS = [torch.contiguous_format, torch.channels_last]
NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch": lambda: nn.BatchNormAct2d(8),
    "batch, leaky ReLU": lambda: nn.BatchNormAct2d(8, activation="leaky_relu"),
    "batch, ReLU6": lambda: nn.BatchNormAct2d(8, activation="relu6"),
    "batch, no activation": lambda: nn.BatchNorm2d(8),
    "batch, no scale": lambda: nn.BatchNorm2d(8, affine=False),
    "batch, in evaluation": lambda: nn.BatchNormAct2d(8).eval(),
    "batch, frozen": lambda: nn.BatchNormAct2d(8).freeze(parameters=True),
    "ghost": lambda: nn.GhostBatchNorm2d(8, ghost_batch_size=2),
    "instance": lambda: nn.InstanceNorm2d(8, affine=True),
    "group": lambda: nn.GroupNormAct2d(2, 8),
    "layer": lambda: nn.LayerNorm((8, 7, 9)),
    "layer 2d": lambda: nn.LayerNorm2d(8),
    "RMS": lambda: nn.RMSNorm((8, 7, 9)),
}
CONVS: dict[str, Callable[[], nn.Module]] = {
    "3×3": lambda: nn.Conv2d(8, 6, 3, padding=1),
    "strided": lambda: nn.Conv2d(8, 6, 3, stride=2, padding=1),
    "1×1": lambda: nn.Conv2d(8, 6, 1),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
    "same": lambda: nn.Conv2d(8, 6, 4, padding="same"),
    "transposed": lambda: nn.ConvTranspose2d(8, 6, 2, stride=2),
}


def images(layout: torch.memory_format = torch.contiguous_format, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(4, 8, 7, 9, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return x.contiguous(memory_format=layout).requires_grad_()


def without(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> Any:
    with monkeypatch.context() as patched:
        patched.setattr(methods, "allow_recompute", lambda *_: None)
        return call()


def drawn(norm: nn.Module) -> nn.Module:
    """Gives the norm a scale and shift other than 1 and 0, and running statistics other than a new layer's."""
    torch.manual_seed(1)
    for name, p in (*norm.named_parameters(), *norm.named_buffers()):
        if p.is_floating_point():
            torch.nn.init.uniform_(p, 0.5, 1.5) if "bias" not in name else torch.nn.init.normal_(p)
    return norm


@pytest.fixture(autouse=True, scope="module")
def fewer_objects_to_traverse() -> None:
    """These tests collect garbage many times: half a second each, if modules that earlier tests imported take part."""
    gc.collect()
    gc.freeze()


@contextmanager
def outputs(norm: nn.Module) -> Iterator[list[weakref.ref[Tensor]]]:
    """Records the outputs inside layers of this norm's class, which only the container that calls them sees."""
    made: list[weakref.ref[Tensor]] = []
    kind, names = type(norm), ("_compute", "_normalize", "forward")
    name = next(name for name in names if hasattr(kind, name))
    compute = getattr(kind, name)

    def spy(*args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = compute(*args, **kwargs)
        made.append(weakref.ref(y))
        return y

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kind, name, spy)
        yield made


def kept(norm: nn.Module, conv: nn.Module, x: Tensor | None = None) -> tuple[bool, Tensor]:
    """Whether the tensor between the two layers of a container stays alive, and the container's output."""
    with outputs(norm) as made:
        z = nn.Sequential(norm, conv)(images() if x is None else x)
    gc.collect()
    (alive,) = made
    return alive() is not None, z


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    ("norm", "conv"), [*((norm, "3×3") for norm in NORMS), *(("batch", conv) for conv in CONVS if conv != "3×3")]
)
def test_gradients_are_the_same_to_the_bit_and_less_is_kept(
    norm: str, conv: str, dtype: torch.dtype, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients() -> tuple[bool, list[Tensor]]:
        first, second, x = drawn(NORMS[norm]()).to(dtype), CONVS[conv](), images(layout, dtype)
        torch.manual_seed(2)
        second.reset_parameters()
        second.to(dtype)
        held, z = kept(first, second, x)
        z.mul(torch.linspace(-1, 1, z.numel(), dtype=dtype).view(z.shape)).sum().backward()
        return held, [p.grad for p in (x, *first.parameters(), *second.parameters()) if p.grad is not None]

    held, found = gradients()
    held_without, expected = without(monkeypatch, gradients)
    copied = norm == "RMS" and layout is torch.channels_last  # into the memory format of torch's result
    assert (held, held_without) == (copied, True)
    assert len(found) == len(expected) and all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("layer", [nn.Conv2d(2, 2, 2), nn.Conv2d(2, 2, 2, stride=2), nn.ConvTranspose2d(2, 2, 1)])
@pytest.mark.parametrize("frozen", [False, True])
def test_first_and_second_derivatives(layer: Any, frozen: bool) -> None:
    first, second = drawn(nn.BatchNormAct2d(2, activation="leaky_relu", momentum=0.0)).double(), layer.double()
    first.frozen = frozen
    x = torch.randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    parameters = [*first.parameters(), second.weight]

    def call(x: Tensor, *_: Tensor) -> Tensor:
        return nn.Sequential(first, second)(x)

    assert gradcheck(call, (x, *parameters))
    assert gradgradcheck(call, (x, *parameters))


def test_second_derivatives_pass_through_the_very_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Differentiates with respect to the norm's output itself, which a caller holds, and registers a hook on it."""

    def second() -> list[Tensor]:
        torch.manual_seed(0)
        norm, conv, x = drawn(NORMS["batch"]()), CONVS["3×3"](), images()
        y = norm(x)
        seen: list[Tensor] = []
        y.register_hook(seen.append)
        (dw,) = grad(conv(y).square().sum(), conv.weight, create_graph=True)
        return [*grad(dw.square().sum(), (y, x, norm.weight, conv.weight)), *seen]

    found, expected = second(), without(monkeypatch, second)
    assert len(found) == len(expected) == 5 and all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def change(y: Tensor) -> Tensor:
    return y.mul_(2)


def change_unseen(y: Tensor) -> Tensor:
    with torch.no_grad():
        y.mul_(2)
    return y


def change_detached(y: Tensor) -> Tensor:
    y.detach().mul_(2)
    return y


def change_part(y: Tensor) -> Tensor:
    y[:, 0].mul_(2)
    return y


def change_data(y: Tensor) -> Tensor:
    y.data = y.data.sign()
    return y


def change_data_in_place(y: Tensor) -> Tensor:
    y.data.mul_(3).add_(1)
    return y


def change_array(y: Tensor) -> Tensor:
    y.detach().numpy()[...] *= 3
    return y


@pytest.mark.parametrize(
    "changed", [change, change_unseen, change_detached, change_part, change_data, change_data_in_place, change_array]
)
def test_an_output_changed_before_the_convolution_is_kept_as_it_is(changed: Callable[[Tensor], Tensor]) -> None:
    norm, conv = nn.BatchNorm2d(8), CONVS["3×3"]()
    y = changed(norm(images()))
    conv(y).sum().backward()
    expected = y.detach()
    weight = conv.weight.detach().requires_grad_()
    F.conv2d(expected, weight, padding=1).sum().backward()
    assert torch.allclose(conv.weight.grad, weight.grad, rtol=1e-4, atol=1e-4)


def test_an_output_changed_after_the_convolution_is_autograds_to_mind() -> None:
    """A caller of the two layers one by one holds the tensor between: it is saved, as in torch."""
    norm, conv = drawn(NORMS["batch"]()), CONVS["3×3"]()
    y = norm(images())
    z = conv(y)
    with torch.no_grad():
        y.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        grad(z.square().sum(), conv.weight)


def test_what_the_norm_keeps_is_not_changed_unnoticed() -> None:
    norm, conv = drawn(NORMS["batch"]()), CONVS["3×3"]()
    x = images() * 1
    z = nn.Sequential(norm, conv)(x)
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        grad(z.sum(), conv.weight)


@pytest.mark.parametrize("further", [False, True])
@pytest.mark.parametrize("what", ["weight", "bias"])
@pytest.mark.parametrize(
    "kind", ["batch", "batch, leaky ReLU", "batch, ReLU6", "batch, no activation", "group", "layer 2d"]
)
def test_scale_and_shift_written_through_data_before_backward(kind: str, what: str, further: bool) -> None:
    """As by averaging, distillation or clipping: torch's gradients do not depend on the written shift at all, and on
    the scale only in the norm's own backward.
    """
    torch.manual_seed(0)
    norm, conv, x = drawn(NORMS[kind]()).double(), CONVS["3×3"]().double(), images(dtype=torch.float64)
    activation = getattr(norm, "activation", None)
    act = {"relu": F.relu, "leaky_relu": F.leaky_relu, "relu6": F.relu6, None: lambda y: y}[activation]
    eps = norm.eps

    def torch_norm(x: Tensor) -> Tensor:
        if kind.startswith("batch"):
            return act(F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.1, eps))
        if kind == "group":
            return act(F.group_norm(x, 2, norm.weight, norm.bias, eps))
        return F.layer_norm(x.movedim(1, -1), (8,), norm.weight, norm.bias, eps).movedim(-1, 1)

    p, before = getattr(norm, what), getattr(norm, what).detach().clone()

    def gradients(call: Callable[[Tensor], Tensor]) -> list[Tensor]:
        z = call(x)
        p.data.add_(torch.linspace(-2, 2, 8, dtype=torch.float64))
        learned = [x, norm.weight, norm.bias, conv.weight]
        found = list(grad(z.square().mean(), learned, create_graph=further))
        if further:
            found += grad(sum(g.square().sum() for g in found), learned)
        p.data.copy_(before)
        return found

    expected = gradients(lambda x: F.conv2d(torch_norm(x), conv.weight, conv.bias, padding=1))
    torch.testing.assert_close(gradients(nn.Sequential(norm, conv)), expected, rtol=1e-9, atol=1e-9)


def test_what_was_changed_before_the_convolution_is_autograds_to_mind() -> None:
    norm, conv = drawn(NORMS["batch"]()), CONVS["3×3"]()
    x = images() * 1
    y = norm(x)
    with torch.no_grad():
        x.mul_(2)
    z = conv(y)
    grad(z.sum(), conv.weight, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_the_convolutions_own_weight_is_not_changed_unnoticed() -> None:
    norm, conv = drawn(NORMS["batch"]()), CONVS["3×3"]()
    z = nn.Sequential(norm, conv)(images())
    with torch.no_grad():
        conv.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_another_backward_through_the_norm_takes_nothing_away() -> None:
    norm, first, second, x = drawn(NORMS["batch"]()), CONVS["3×3"](), CONVS["1×1"](), images()
    y = norm(x)
    a, b = first(y), second(y)
    (expected,) = grad(a.sum(), first.weight, retain_graph=True)
    b.sum().backward()
    assert torch.equal(*grad(a.sum(), first.weight), expected)
    late = first(y)  # the norm's node has freed its saved tensors
    assert torch.equal(*grad(late.sum(), first.weight), expected)


def test_backward_lets_go_of_what_the_recipe_needs() -> None:
    norm, conv, first = drawn(NORMS["batch"]()), CONVS["3×3"](), nn.Conv2d(8, 8, 1)
    x = first(images())
    alive = weakref.ref(x)
    z = nn.Sequential(norm, conv)(x)
    del x
    loss = z.sum()
    loss.backward()
    gc.collect()
    assert alive() is None and loss.grad_fn is not None  # the graph is kept


def test_a_backward_may_come_twice() -> None:
    norm, conv = drawn(NORMS["batch"]()), CONVS["3×3"]()
    z = nn.Sequential(norm, conv)(images()).square().sum()
    z.backward(retain_graph=True)
    once = conv.weight.grad.clone()
    z.backward()
    assert torch.equal(conv.weight.grad, 2 * once)


def test_a_weight_that_learns_nothing_keeps_nothing() -> None:
    norm, conv = drawn(NORMS["batch"]()), CONVS["3×3"]()
    conv.weight.requires_grad_(False)
    held, z = kept(norm, conv)
    z.sum().backward()
    assert not held and conv.weight.grad is None and conv.bias.grad is not None and norm.weight.grad is not None


def test_a_residual_that_is_a_norms_output_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A residual block's shortcut that changes the shape."""

    def gradients() -> tuple[bool, list[Tensor]]:
        torch.manual_seed(0)
        shortcut, norm, x = drawn(nn.BatchNorm2d(8)), drawn(nn.BatchNorm2d(8)), images()
        with outputs(shortcut) as made:
            z = run([norm, nn.ReLU()], Intermediate(x.flip(0)), lambda: run([shortcut], Intermediate(x))).value
        gc.collect()
        held = made[0]() is not None
        z.square().sum().backward()
        return held, [x.grad, *(p.grad for p in (*shortcut.parameters(), *norm.parameters()))]

    held, found = gradients()
    held_without, expected = without(monkeypatch, gradients)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert (held, held_without) == (False, True)


def test_whoever_says_how_tensors_are_kept_is_heard() -> None:
    norm, conv, x = drawn(NORMS["batch"]()), CONVS["3×3"](), images()
    (expected,) = grad(conv(norm(x)).square().sum(), conv.weight)
    packed: list[torch.Size] = []

    def pack(t: Tensor) -> Tensor:
        packed.append(t.shape)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        z = nn.Sequential(norm, conv)(x)
    assert packed.count(x.shape) == 2
    assert torch.equal(*grad(z.square().sum(), conv.weight), expected)
    with torch.autograd.graph.save_on_cpu():
        y = norm(x)
    assert torch.equal(*grad(conv(y).square().sum(), conv.weight), expected)
    y = norm(x)
    with torch.autograd.graph.save_on_cpu():
        z = conv(y)
    assert torch.equal(*grad(z.square().sum(), conv.weight), expected)


class Checkpointed(nn.Sequential):
    def __init__(self, layer: nn.Module, reentrant: bool) -> None:
        super().__init__(layer)
        self.reentrant = reentrant

    def forward(self, input: Tensor) -> Tensor:
        return checkpoint(super().forward, input, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("part", ["norm", "conv", "both", "inside"])
def test_checkpoints(part: str, reentrant: bool) -> None:
    norm, conv, x = drawn(NORMS["batch"]()), CONVS["3×3"](), images()
    norm.momentum = 0.0
    (expected,) = grad(conv(norm(x)).square().sum(), conv.weight)
    calls = {
        "norm": lambda: conv(checkpoint(norm, x, use_reentrant=reentrant)),
        "conv": lambda: checkpoint(conv, norm(x), use_reentrant=reentrant),
        "both": lambda: checkpoint(nn.Sequential(norm, conv), x, use_reentrant=reentrant),
        "inside": lambda: nn.Sequential(norm, Checkpointed(conv, reentrant))(x),
    }
    calls[part]().square().sum().backward()
    assert torch.equal(conv.weight.grad, expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_a_gradient_nothing_is_offered(mode: Any) -> None:
    norm, conv = drawn(NORMS["batch"]()), CONVS["3×3"]()
    with mode():
        y = norm(images())
        assert nn.Sequential(norm, conv)(images()).grad_fn is None
    if mode is torch.no_grad:
        conv(y).sum().backward()
        assert conv.weight.grad is not None


def test_under_autocast_the_type_is_autocasts() -> None:
    norm, conv, x = drawn(NORMS["batch"]()), CONVS["3×3"](), images()
    with torch.autocast("cpu", torch.bfloat16):
        z = nn.Sequential(norm, conv)(x)
    outside = norm(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = conv(outside)
    for one in (z, mixed):
        assert one.dtype is torch.bfloat16
        (dw,) = grad(one.float().sum(), conv.weight)
        assert dw.dtype is torch.float32


def test_function_transforms() -> None:
    norm, conv = drawn(NORMS["batch"]()), CONVS["3×3"]()
    y = norm(images())
    (expected,) = grad(conv(y).square().sum(), conv.weight)
    bias = conv.bias.detach()
    found = torch.func.grad(
        lambda w: torch.func.functional_call(conv, {"weight": w, "bias": bias}, (y,)).square().sum()
    )(conv.weight.detach())
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    z = conv(y)
    many = torch.randn(3, *z.shape, generator=torch.Generator().manual_seed(1))
    (each,) = grad(z, conv.weight, many, is_grads_batched=True, retain_graph=True)
    for one, g in zip(each, many, strict=True):
        assert torch.allclose(one, *grad(z, conv.weight, g, retain_graph=True), rtol=1e-4, atol=1e-4)


def test_compiled() -> None:
    block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNormAct2d(8), nn.Conv2d(8, 4, 3, padding=1))
    x = images()
    expected = grad(block(x).square().sum(), block[2].weight)
    found = grad(torch.compile(block, backend="aot_eager", fullgraph=True)(x).square().sum(), block[2].weight)
    assert torch.allclose(*found, *expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "outputs"), [("resnet18", 8 + 3), ("mobilenet_v2", 17 + 17 + 7)])
def test_networks_train_the_same(name: str, outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """outputs: those between the two convolutions of a block and those of shortcuts; and between blocks where there is
    no sum.
    """
    made = []
    computed = rematerialize._computed
    monkeypatch.setattr(rematerialize, "_computed", lambda *a: made.append(computed(*a)) or made[-1])

    def gradients() -> list[Tensor]:
        torch.manual_seed(0)
        model = accelerate(models.by_name(name)(10))
        model(torch.randn(2, 3, 32, 32)).logsumexp(1).sum().backward()
        return [p.grad for p in model.parameters()]

    found = gradients()
    assert len(made) == outputs
    expected = without(monkeypatch, gradients)
    assert len(made) == outputs
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
