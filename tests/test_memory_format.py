"""Storages and strides: each layer gives the memory format that torch's layer gives, and accelerate changes no
parameter.
"""

from __future__ import annotations

import copy
import ctypes
import mmap
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import striate
from striate import nn
from striate.errors import ArgumentError
from striate.ops.dispatch import prefer

LAST = torch.channels_last

# ------------------------------------------------------------------------------------------------------ layer for layer


def orders(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """x in the memory orders that occur in practice."""
    last = x.movedim(1, -1).contiguous().movedim(-1, 1)
    yield "contiguous", x
    yield "channels_last", last
    yield (
        "channels_last, every second channel's half",
        torch.cat([last, last], 1).movedim(1, -1).contiguous().movedim(-1, 1)[:, : x.shape[1]],
    )
    yield "axes swapped", x.transpose(-1, -2).contiguous().transpose(-1, -2)
    yield "batch inside", x.transpose(0, 1).contiguous().transpose(0, 1)
    yield "every second column", torch.cat([x, x], -1)[..., ::2]
    yield "expanded", x[:, :, :1].expand_as(x)


def layers(dims: int, channels: int, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]]:
    c, d = channels, f"{dims}d"
    return {
        "convolution": (f"Conv{d}", (c, 4, 3), {"padding": 1}),
        "wide convolution": (f"Conv{d}", (c, 64, 3), {"padding": 1}),
        "1×1": (f"Conv{d}", (c, 4, 1), {}),
        "1×1 with a stride": (f"Conv{d}", (c, 4, 1), {"stride": 2}),
        "depthwise": (f"Conv{d}", (c, c, 3), {"padding": 1, "groups": c}),
        "one filter": (f"Conv{d}", (c, 1, 3), {"padding": 1}),
        "circular": (f"Conv{d}", (c, 4, 3), {"padding": 1, "padding_mode": "circular"}),
        "reflect": (f"Conv{d}", (c, 4, 3), {"padding": 1, "padding_mode": "reflect"}),
        "uneven same": (f"Conv{d}", (c, 4, 2), {"padding": "same"}),
        "transposed": (f"ConvTranspose{d}", (c, 4, 3), {"stride": 2}),
        "max pooling": (f"MaxPool{d}", (2,), {}),
        "overlapping max pooling": (f"MaxPool{d}", (3, 1, 1), {}),
        "average pooling": (f"AvgPool{d}", (2,), {}),
        "average pooling of what is there": (f"AvgPool{d}", (3, 1, 1), {"count_include_pad": False}),
        "adaptive average pooling": (f"AdaptiveAvgPool{d}", (2,), {}),
        "global average pooling": (f"AdaptiveAvgPool{d}", (1,), {}),
        "adaptive max pooling": (f"AdaptiveMaxPool{d}", (3,), {}),
        "batch norm": (f"BatchNorm{d}", (c,), {}),
        "instance norm": (f"InstanceNorm{d}", (c,), {}),
        "instance norm with statistics": (f"InstanceNorm{d}", (c,), {"affine": True, "track_running_stats": True}),
        "group norm": ("GroupNorm", (1, c), {}),
        "layer norm": ("LayerNorm", (shape[-1],), {}),
        "layer norm of samples": ("LayerNorm", (shape[1:],), {}),
        "RMS norm": ("RMSNorm", (shape[-1],), {}),
        "RMS norm of samples": ("RMSNorm", (shape[1:],), {}),
        "response norm": ("LocalResponseNorm", (3,), {}),
        "shuffle": ("ChannelShuffle", (2,), {}),
        "shuffle of one group": ("ChannelShuffle", (1,), {}),
    }


def formats(x: Tensor) -> dict[str, bool]:
    """The observable properties of a tensor's memory: whether it can be viewed flat, and which format it has."""
    found = {"contiguous": x.is_contiguous()}
    if x.dim() in (4, 5):
        found["channels_last"] = x.is_contiguous(memory_format={4: LAST, 5: torch.channels_last_3d}[x.dim()])
    return found


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", layers(2, 2, (1, 2, 6, 6)))
def test_a_layer_gives_the_memory_format_that_torchs_gives(name: str, training: bool) -> None:
    compared = 0
    for dims in (1, 2, 3):
        for channels in (1, 2, 16):
            for batch in (1, 3, None):
                for axes in ((6,) * dims, (5, 1, 7)[-dims:]):
                    shape = (batch or 1, channels, *axes)
                    kind, args, kwargs = layers(dims, channels, shape)[name]
                    if kind == "ChannelShuffle" and channels % args[0]:
                        continue
                    torch_layer = getattr(torch.nn, kind)(*args, **kwargs).train(training)
                    native_layer = getattr(nn, kind)(*args, **kwargs).train(training)
                    native_layer.load_state_dict(torch_layer.state_dict())
                    for order, x in orders(torch.randn(shape)):
                        x = x if batch else x[0]
                        try:
                            expected = torch_layer(x)
                        # more channels than one sample may have, or a window larger than the input
                        except (ValueError, RuntimeError):
                            continue
                        got = native_layer(x)
                        compared += 1
                        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
                        if dims == 3 and "Conv" in kind and batch != 3 and order.startswith("channels_last"):
                            continue  # torch drops that order for one small volume, but not for a larger one
                        assert formats(got) == formats(expected), (
                            dims,
                            order,
                            tuple(x.shape),
                            x.stride(),
                            got.stride(),
                            expected.stride(),
                        )
    assert compared > 100


@pytest.mark.parametrize("order", [torch.contiguous_format, LAST])
def test_weights_that_are_channels_last_make_a_convolution_so(order: torch.memory_format) -> None:
    for x in (torch.randn(2, 8, 9, 9), torch.randn(8, 9, 9)):
        torch_layer = torch.nn.Conv2d(8, 12, 3).to(memory_format=LAST)
        native_layer = nn.Conv2d(8, 12, 3).to(memory_format=LAST)
        native_layer.load_state_dict(torch_layer.state_dict())
        x = x.contiguous(memory_format=order) if x.dim() == 4 else x
        assert formats(native_layer(x)) == formats(torch_layer(x)) and not native_layer(x).is_contiguous()


# ----------------------------------------------------------------------------------------------------------- accelerate


class Net(torch.nn.Module):
    """A network with a plain forward, as is common: it flattens by ``view``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8)
        self.conv2 = torch.nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.pool, self.fc = torch.nn.MaxPool2d(2), torch.nn.Linear(8 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        x = self.pool(self.conv2(x))
        y: Tensor = self.fc(x.view(x.shape[0], -1))
        return y


def trained(model: torch.nn.Module, steps: int = 3, **options: Any) -> torch.nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, **options)
    for k in range(steps):
        optimizer.zero_grad()
        torch.manual_seed(k)
        model(torch.randn(6, 3, 16, 16)).square().mean().backward()
        optimizer.step()
    return model


def close(model: torch.nn.Module, twin: torch.nn.Module) -> None:
    for (name, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_parameters_and_buffers_are_the_same_memory_and_restore_leaves_all_as_it_was() -> None:
    for given in (Net(), Net().to(memory_format=LAST)):
        before = {k: (v, v.data_ptr(), v.stride()) for k, v in given.state_dict(keep_vars=True).items()}
        attributes = {name: set(vars(m)) for name, m in given.named_modules()}
        for memory_format in (torch.preserve_format, LAST):
            model = striate.accelerate(given, memory_format=memory_format)
            for k, v in model.state_dict(keep_vars=True).items():
                assert (v is before[k][0], v.data_ptr(), v.stride()) == (True, *before[k][1:]), k
            striate.restore(model)
            assert {name: set(vars(m)) for name, m in model.named_modules()} == attributes
            assert all(type(m).__module__.startswith(("torch.", __name__)) for m in model.modules())


def test_outputs_can_be_viewed_and_gradients_have_the_parameters_strides() -> None:
    model = striate.accelerate(Net())
    twin = striate.restore(copy.deepcopy(model))
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(x), twin(x))
    model(x).sum().backward()
    assert all(p.grad is not None and p.grad.stride() == p.stride() for p in model.parameters())


def test_convolutions_give_channels_last_where_that_is_asked_for() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 20, 5), torch.nn.ReLU(), torch.nn.Conv2d(20, 8, 3), torch.nn.InstanceNorm2d(8)
    )
    x = torch.randn(2, 1, 12, 12, requires_grad=True)
    expected = model(x)
    striate.accelerate(model, memory_format=LAST)
    for module in (model[0], model):
        y = module(x)
        assert y.is_contiguous(memory_format=LAST) and not y.is_contiguous()
    torch.testing.assert_close(model(x), expected)
    (got,), (wanted,) = (torch.autograd.grad(y.square().sum(), x) for y in (model(x), expected))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    volume = striate.accelerate(
        torch.nn.Sequential(torch.nn.Conv3d(2, 4, 3), torch.nn.ConvTranspose3d(4, 2, 2)), memory_format=LAST
    )
    assert volume(torch.randn(2, 2, 5, 5, 5)).is_contiguous(memory_format=torch.channels_last_3d)
    line = striate.accelerate(torch.nn.Sequential(torch.nn.Conv1d(2, 4, 3)), memory_format=LAST)
    assert line(torch.randn(2, 2, 5)).is_contiguous()


@pytest.mark.parametrize("method", ["torch", None])
def test_a_convolution_that_torch_computes_gives_channels_last_too(method: str | None) -> None:
    for layer, x in (
        (torch.nn.Conv2d(3, 5, 3, stride=2), torch.randn(2, 3, 9, 9)),
        (torch.nn.Conv2d(3, 6, 3, padding="same", padding_mode="circular"), torch.randn(2, 3, 9, 9)),
        (torch.nn.Conv2d(4, 6, 1, stride=2), torch.randn(2, 4, 9, 9)),
        (torch.nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), torch.randn(2, 4, 5, 5)),
        (torch.nn.Conv2d(3, 5, 3), torch.randn(3, 9, 9)),
    ):
        expected = layer(x)
        with prefer(method) if method else striate.precision("strict"):
            for grad in (True, False):
                with torch.set_grad_enabled(grad):
                    y = striate.accelerate(layer, memory_format=LAST)(x)
                batch = y if y.dim() == 4 else y.unsqueeze(0)
                assert batch.is_contiguous(memory_format=LAST) and not batch.is_contiguous()
                torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
        striate.restore(layer)


def test_the_last_choice_holds_and_copies_and_files_keep_it(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    model = striate.accelerate(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), memory_format=LAST)
    torch.save(model, tmp_path / "model.pt")
    for same in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        assert not same[0](x).is_contiguous()
    assert striate.accelerate(model)(x).is_contiguous()
    assert not striate.accelerate(model, memory_format=LAST)(x).is_contiguous()
    assert striate.restore(model)(x).is_contiguous()


def test_another_memory_format_is_refused_and_nothing_is_changed() -> None:
    model = Net()
    with pytest.raises(ArgumentError) as raised:
        striate.accelerate(model, memory_format=torch.channels_last_3d)
    assert str(raised.value) == (
        "accelerate expects memory_format to be torch.preserve_format or torch.channels_last, got "
        "torch.channels_last_3d. "
        "Leave it out for what torch's layers give."
    )
    assert type(model.conv1) is torch.nn.Conv2d


# --------------------------------------------------------------------------------------------------- whose memory it is


def _writes(parameters: list[Tensor]) -> None:
    with torch.no_grad():
        for p in parameters:
            p.zero_()


def test_another_processs_writes_to_shared_memory_are_seen() -> None:
    model = Net()
    model.share_memory()
    striate.accelerate(model)
    process = multiprocessing.get_context("spawn").Process(
        target=_writes, args=([p.detach() for p in model.parameters()],)
    )
    process.start()
    process.join()
    assert process.exitcode == 0 and all(bool((p == 0).all()) for p in model.parameters())


def test_parameters_that_are_tied_by_data_stay_tied() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, padding=1))
    model[1].weight.data = model[0].weight.data
    striate.accelerate(model)
    model[0].weight.data.fill_(2.0)
    assert bool((model[1].weight == 2.0).all())


def test_views_of_a_flat_buffer_stay_views() -> None:
    model = Net()
    flat = parameters_to_vector(model.parameters()).detach()
    at = 0
    for p in model.parameters():
        p.data = flat[at : at + p.numel()].view_as(p)
        at += p.numel()
    striate.accelerate(model)
    flat.fill_(0.5)
    assert all(bool((p == 0.5).all()) for p in model.parameters())


def test_weights_in_memory_of_numpys_and_of_a_file_stay_there(tmp_path: Path) -> None:
    conv = torch.nn.Conv2d(3, 4, 3, bias=False)
    array = np.ones(conv.weight.shape, dtype=np.float32)
    conv.weight.data = torch.from_numpy(array)
    striate.accelerate(conv)
    array[...] = 3.0
    assert bool((conv.weight == 3.0).all())
    file = tmp_path / "weights"
    file.write_bytes(bytes(array.nbytes))
    with file.open("r+b") as opened:
        mapped = mmap.mmap(opened.fileno(), 0)
    conv.weight.data = torch.frombuffer(mapped, dtype=torch.float32).view(conv.weight.shape)
    striate.accelerate(conv)
    ctypes.memmove(conv.weight.data_ptr(), array.ctypes.data, array.nbytes)
    assert np.frombuffer(mapped[:], dtype=np.float32).tolist() == array.ravel().tolist()


@pytest.mark.parametrize("memory_format", [torch.preserve_format, LAST])
@pytest.mark.parametrize("inside", [True, False], ids=["around an accelerated model", "accelerated"])
def test_distributed_data_parallel_gets_the_gradients(inside: bool, memory_format: torch.memory_format) -> None:
    model = Flat()
    twin = copy.deepcopy(model)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        if inside:
            made = torch.nn.parallel.DistributedDataParallel(striate.accelerate(model, memory_format=memory_format))
        else:
            made = striate.accelerate(torch.nn.parallel.DistributedDataParallel(model), memory_format=memory_format)
        trained(made)
    finally:
        torch.distributed.destroy_process_group()
    close(model, trained(twin))


class Flat(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        y: Tensor = self.fc(self.pool(self.conv2(x)).flatten(1))
        return y


@pytest.mark.parametrize("memory_format", [torch.preserve_format, LAST])
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}], ids=["plain", "foreach", "fused"])
def test_accelerate_between_steps_keeps_momenta(options: dict[str, Any], memory_format: torch.memory_format) -> None:
    model = Flat()
    twin = copy.deepcopy(model)
    for net in (model, twin):
        optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, **options)
        for k in range(6):
            if k == 2 and net is model:
                striate.accelerate(net, memory_format=memory_format)
            if k == 4 and net is model:
                striate.restore(net)
            torch.manual_seed(k)
            optimizer.zero_grad()
            net(torch.randn(6, 3, 16, 16)).square().mean().backward()
            optimizer.step()
    close(model, twin)


@pytest.mark.parametrize("memory_format", [torch.preserve_format, LAST])
def test_optimizers_and_functions_that_flatten_parameters_take_them(memory_format: torch.memory_format) -> None:
    model = Flat()
    twin = copy.deepcopy(model)
    striate.accelerate(model, memory_format=memory_format)
    x = torch.randn(6, 3, 16, 16)
    for net in (model, twin):
        optimizer = torch.optim.LBFGS(net.parameters(), max_iter=3)

        def closure(net: torch.nn.Module = net, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = net(x).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
    close(model, twin)
    vector = parameters_to_vector(model.parameters())
    vector_to_parameters(vector * 2, model.parameters())
    torch.testing.assert_close(parameters_to_vector(model.parameters()), vector * 2)


@pytest.mark.parametrize("memory_format", [torch.preserve_format, LAST])
def test_safetensors_saves_an_accelerated_model(memory_format: torch.memory_format, tmp_path: Path) -> None:
    files = pytest.importorskip("safetensors.torch")
    model = striate.accelerate(Flat(), memory_format=memory_format)
    files.save_model(model, str(tmp_path / "model.safetensors"))
    fresh = Flat()
    files.load_model(fresh, str(tmp_path / "model.safetensors"))
    close(model, fresh)


def test_locally_connected_layers_are_saved_by_safetensors_and_laid_in_one_vector(tmp_path: Path) -> None:
    files = pytest.importorskip("safetensors.torch")
    layer, fresh = (nn.LocallyConnected2d(3, 4, 8, 3) for _ in range(2))
    files.save_file(layer.state_dict(), str(tmp_path / "layer.safetensors"))
    fresh.load_state_dict(files.load_file(str(tmp_path / "layer.safetensors")))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(fresh(x), layer(x))
    vector = torch.nn.utils.parameters_to_vector(layer.parameters())
    torch.nn.utils.vector_to_parameters(2 * vector, fresh.parameters())
    torch.testing.assert_close(fresh(x), 2 * layer(x))
    layer(x).sum().backward()
    assert torch.nn.utils.parameters_to_vector(p.grad for p in layer.parameters()).count_nonzero() > 0


def test_a_compiled_model_gives_channels_last_where_that_is_asked_for() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1)
    )
    x = torch.randn(2, 3, 9, 9)
    expected = copy.deepcopy(model)(x)
    compiled = torch.compile(striate.accelerate(model, memory_format=LAST), backend="aot_eager", fullgraph=True)
    y = compiled(x)
    assert y.is_contiguous(memory_format=LAST) and not y.is_contiguous()
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.is_contiguous() for p in model.parameters())
