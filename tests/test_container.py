"""Containers: what neighbouring layers share, and that whoever looks between them sees what torch's layers give.
"""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules import module as global_hooks
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode

import striate
from striate import nn
from striate.nn import container
from striate.nn.container import Intermediate, run
from striate.ops import dispatch, rematerialize
from striate.ops.conv import functions


def images(channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(4, channels, 10, 11, generator=torch.Generator().manual_seed(0), dtype=dtype) + 0.5
    return x.requires_grad_()


def block() -> nn.Sequential:
    """A model in which statistics are passed on at 0 and 3, an output is rematerialized at 3, and a ReLU is fused."""
    torch.manual_seed(1)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
    )
    for p in made.parameters():
        if p.dim() == 1:
            torch.nn.init.uniform_(p, 0.5, 1.5)
    return made


def twin(model: torch.nn.Module) -> torch.nn.Module:
    """The same model of torch's layers: hooks are those of the copy."""
    return striate.restore(copy.deepcopy(model))


class Shared(NamedTuple):
    """What neighbours shared within a ``sharing()`` block."""

    statistics: list[Tensor]
    recomputed: list[Tensor]  # outputs that backward rematerializes

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.statistics), len(self.recomputed)


@contextlib.contextmanager
def sharing() -> Iterator[Shared]:
    shared = Shared([], [])
    take, save = container.take_statistics, rematerialize.save_or_recompute

    def taken(y: Tensor) -> Tensor | None:
        statistics = take(y)
        if statistics is not None:
            shared.statistics.append(statistics)
        return statistics

    def saved(x: Tensor, y: Tensor, index: int = 0) -> None:
        if hasattr(x.grad_fn, "recompute"):
            shared.recomputed.append(y)
        save(x, y, index)

    with pytest.MonkeyPatch.context() as patched, dispatch.prefer("winograd_4x4"):
        patched.setattr(container, "take_statistics", taken)
        patched.setattr(functions, "save_or_recompute", saved)
        yield shared


def results(model: torch.nn.Module, x: Tensor, call: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
    """The output, all gradients and all buffers, in float64, so that differences cannot be rounding errors."""
    model.double()
    x = x.detach().double().requires_grad_()
    for p in model.parameters():
        p.grad = None
    y = (call or model)(x)
    y.mul(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
    assert int((y != 0).sum()) * 2 > y.numel(), "mostly zeros show nothing"
    return [y.detach(), x.grad, *(p.grad for p in model.parameters()), *(b.clone() for b in model.buffers())]


def check(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        bound = 1e-9 * max(1.0, float(other.abs().max()))
        assert one.shape == other.shape and float((one - other).abs().max()) <= bound


# --------------------------------------------------------------------------------------- nobody looks: neighbours share


def test_neighbours_that_nobody_looks_between_share_and_give_torchs_results() -> None:
    model, x = block(), images()
    expected = results(twin(model), x)
    with sharing() as shared:
        check(results(model, x), expected)
    assert shared.counts == (2, 1)


def test_layers_called_one_by_one_share_nothing() -> None:
    model, x = block(), images()
    expected = results(twin(model), x)

    def one_by_one(x: Tensor) -> Tensor:
        for layer in model:
            x = layer(x)
        return x

    with sharing() as shared:
        check(results(model, x, one_by_one), expected)
    assert shared.counts == (0, 0)


def test_what_is_written_between_direct_calls_unseen_is_what_the_next_layer_gets() -> None:
    """Through .data and numpy, which move no version: before the norm, and before the convolution behind it."""
    for write in (lambda y: y.data.mul_(3).add_(1), lambda y: y.detach().numpy().__imul__(3)):
        for place in range(1, 6):
            model, x = block(), images()

            def call(layers: Any, place: int, x: Tensor, write: Any = write) -> Tensor:
                for at, layer in enumerate(layers):
                    if at == place:
                        write(x)
                    x = layer(x)
                return x

            torch_model = twin(model)
            expected = results(torch_model, x, lambda x: call(torch_model, place, x))
            with sharing() as shared:
                check(results(model, x, lambda x: call(model, place, x)), expected)
            assert shared.counts == (0, 0)


# ------------------------------------------------------------------------------------------------------- somebody looks


def scaled(module: Any, args: Any, output: Tensor) -> None:
    output.data.mul_(2).add_(5)


def replaced(module: Any, args: Any, output: Tensor) -> Tensor:
    return output * 0.5 + 0.25


def before(module: Any, args: Any) -> Any:
    (x,) = args
    return (x * 0.5 + 0.25,)


def gradient(module: Any, grad_input: Any, grad_output: Any) -> Any:
    return tuple(None if g is None else g * 0.5 for g in grad_input)


def gradient_before(module: Any, grad_output: Any) -> Any:
    return tuple(g * 0.5 for g in grad_output)


HOOKS: dict[str, Callable[[torch.nn.Module], Any]] = {
    "forward, writing through .data": lambda m: m.register_forward_hook(scaled),
    "forward, replacing": lambda m: m.register_forward_hook(replaced),
    "forward, with keywords": lambda m: m.register_forward_hook(lambda m, a, k, y: y * 0.5 + 0.25, with_kwargs=True),
    "forward pre": lambda m: m.register_forward_pre_hook(before),
    "full backward": lambda m: m.register_full_backward_hook(gradient),
    "full backward pre": lambda m: m.register_full_backward_pre_hook(gradient_before),
}


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_on_any_neighbour_gives_torchs_results_and_sharing_is_back_without_it(hook: str, place: int) -> None:
    model, x = block(), images()
    torch_model = twin(model)
    plain = results(twin(model), x)
    hooked, handle = HOOKS[hook](torch_model[place]), HOOKS[hook](model[place])
    expected = results(torch_model, x)
    assert any(not torch.allclose(a, b) for a, b in zip(plain, expected, strict=True)), "the hook does something"
    with sharing() as shared:
        check(results(model, x), expected)
    assert shared.counts in {0: [(1, 1)], 1: [(1, 0)], 2: [(2, 0)], 3: [(1, 0)], 4: [(1, 1)], 5: [(2, 1)]}[place]
    hooked.remove()
    handle.remove()
    expected = results(torch_model, x)
    with sharing() as shared:
        check(results(model, x), expected)
    assert shared.counts == (2, 1)


GLOBAL: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "forward": (global_hooks.register_module_forward_hook, replaced),
    "forward pre": (global_hooks.register_module_forward_pre_hook, before),
    "full backward": (global_hooks.register_module_full_backward_hook, gradient),
    "full backward pre": (global_hooks.register_module_full_backward_pre_hook, gradient_before),
}


@pytest.mark.parametrize("name", GLOBAL)
def test_a_hook_on_all_modules_sees_every_layer(name: str) -> None:
    register, hook = GLOBAL[name]
    model, x, seen = block(), images(), []
    torch_model = twin(model)

    def called(module: Any, *rest: Any) -> Any:
        seen.append(type(module).__name__)
        return hook(module, *rest)

    handle = register(called)
    try:
        expected = results(torch_model, x)
        torch_seen = seen.copy()
        seen.clear()
        with sharing() as shared:
            check(results(model, x), expected)
    finally:
        handle.remove()
    assert seen == torch_seen and len(seen) == 7
    assert shared.counts == (0, 0)
    with sharing() as shared:
        results(model, x)
    assert shared.counts == (2, 1)


def test_whoever_stands_in_the_place_of_the_call_sees_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen, call = block(), [], torch.nn.Module.__call__

    def spy(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        seen.append(module)
        return call(module, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", spy)
    model(images())
    assert seen == [model, *model]


@pytest.mark.parametrize("place", range(6))
def test_a_layer_with_a_forward_of_its_own_is_called(place: int) -> None:
    model, x = block(), images()
    torch_model = twin(model)
    for one in (torch_model, model):
        one[place].forward = lambda x, forward=one[place].forward: forward(x) * 0.5 + 0.25
    expected = results(torch_model, x)
    check(results(model, x), expected)
    for one in (torch_model, model):
        del one[place].forward
    expected = results(torch_model, x)
    with sharing() as shared:
        check(results(model, x), expected)
    assert shared.counts == (2, 1)


def test_a_convolution_with_a_conv_forward_of_its_own_is_called() -> None:
    model, x = block(), images()
    torch_model = twin(model)
    for one in (torch_model, model):
        one[3]._conv_forward = lambda x, weight, bias: F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), weight, bias)
    expected = results(torch_model, x)
    check(results(model, x), expected)


@pytest.mark.parametrize("name", ["Conv2d", "_conv_forward", "BatchNorm2d", "ReLU", "MaxPool2d"])
def test_a_class_that_got_another_forward_is_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(*block(), nn.ReLU(), nn.MaxPool2d(2))
    x, kind = images(), torch.nn.ReLU if name == "ReLU" else getattr(nn, name, nn.Conv2d)
    method = "_conv_forward" if name == "_conv_forward" else "forward"
    compute, calls = getattr(kind, method), []

    def half(self: Any, *inputs: Any) -> Tensor:
        calls.append(self)
        out: Tensor = compute(self, *inputs)
        return out * 0.5 + 0.25

    monkeypatch.setattr(kind, method, half)
    with torch.no_grad():
        y, expected = model(x), x
        for layer in model:
            expected = layer(expected)
    assert len(calls) == 2 * sum(isinstance(layer, kind) for layer in model) > 0
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("place", [0, 1, 2, 3, 4, 5])
def test_a_layer_of_another_class_is_called(place: int) -> None:
    def halved(self: Any, input: Tensor) -> Tensor:
        out: Tensor = super(type(self), self).forward(input)
        return out * 0.5 + 0.25

    model, x = block(), images()
    torch_model = twin(model)
    for one in (torch_model, model):
        kind = type(one[place])
        one[place].__class__ = type(f"Half{kind.__name__}", (kind,), {"forward": halved})
    expected = results(torch_model, x)
    check(results(model, x), expected)


class Writing(torch.nn.Module):
    """Gives back the very tensor that it got, changed where no version counts it; signs stay, of which torch's ReLU
    keeps its own.
    """

    def forward(self, x: Tensor) -> Tensor:
        x.data.mul_(3)
        return x


@pytest.mark.parametrize("place", range(1, 6))
def test_a_module_between_that_writes_unseen_gets_what_nobody_makes_again(place: int) -> None:
    model, x = block(), images()
    model.insert(place, Writing())
    expected = results(twin(model), x)
    with sharing() as shared:
        check(results(model, x), expected)
    assert shared.counts == {1: (1, 1), 2: (2, 0), 3: (2, 0), 4: (1, 1), 5: (2, 1)}[place]


def test_parametrized_and_pruned_layers_are_called() -> None:
    model, x = block(), images()
    torch_model = twin(model)
    for one in (torch_model, model):
        parametrizations.weight_norm(one[3])
        prune.l1_unstructured(one[0], "weight", 0.5)
    expected = results(torch_model, x)
    check(results(model, x), expected)


def test_a_compiled_layer_is_called_as_what_it_was_compiled_to() -> None:
    model, compiled = block(), []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        compiled.append(graph)
        return graph

    model[0].compile(backend=backend)
    with torch.no_grad():
        expected = twin(model)(images())
        assert torch.allclose(model(images()), expected, atol=1e-5)
    assert len(compiled) == 1


# ------------------------------------------------------------------------------------------------------------ as a list


def test_slices_places_and_loops_are_torchs() -> None:
    model, x = block().eval(), images()
    torch_model = twin(model)
    assert isinstance(model, torch.nn.Sequential) and type(model[1:3]) is nn.Sequential and model[-1] is list(model)[5]
    assert len(model) == 6 and [type(m).__name__ for m in model] == [type(m).__name__ for m in torch_model]
    for part in (slice(0, 3), slice(1, 4), slice(3, None), slice(1, None, 3)):
        y = x if part.start == 0 else images(8)
        assert torch.allclose(model[part](y), torch_model[part](y), atol=1e-5)
    assert repr(model) == repr(torch_model)


def test_parts_are_replaced_removed_and_added_as_torchs() -> None:
    model, x = block(), images()
    model[2] = nn.LeakyReLU()
    model.append(nn.Conv2d(8, 4, 1))
    model.insert(2, nn.Identity())
    del model[-2]
    model.extend(nn.Sequential(nn.BatchNorm2d(4)))
    torch_model = twin(model)
    assert repr(torch_model) == repr(model) and len(model) == 8
    for one in (model, torch_model):
        one[5].momentum = 0.5
    expected = results(torch_model, x)
    with sharing() as shared:
        check(results(model, x), expected)
    assert shared.counts == (2, 1)
    for made, length in ((model + model, 16), (model * 2, 16), (2 * model, 16), (model + torch_model, 16)):
        assert type(made) is nn.Sequential and len(made) == length and made[8] in (model[0], torch_model[0])
    with pytest.raises(ValueError, match="add operator supports only objects of Sequential class"):
        model + [nn.ReLU()]  # noqa: RUF005


def test_a_container_without_layers_gives_its_input_and_none_is_not_callable() -> None:
    x = images()
    assert nn.Sequential()(x) is x and nn.Sequential(nn.Sequential())(x) is x
    empty = nn.Sequential(nn.Conv2d(3, 8, 1))
    empty.add_module("none", None)
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        empty(x)


def test_modules_may_pass_on_what_is_no_tensor() -> None:
    class Split(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x * 2

    class Join(torch.nn.Module):
        def forward(self, pair: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
            return {"sum": pair[0] + pair[1]}

    class Pick(torch.nn.Module):
        def forward(self, named: dict[str, Tensor]) -> Tensor:
            return named["sum"]

    x = images()
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), Split(), Join(), Pick(), nn.Conv2d(8, 8, 3))
    expected = results(twin(model), x)
    check(results(model, x), expected)
    assert nn.Sequential(Join())((x, x))["sum"].equal(x + x)
    assert nn.Sequential(Pick(), nn.ReLU())({"sum": x}).equal(x.relu())
    with pytest.raises(TypeError):
        nn.Sequential(Split(), nn.Conv2d(3, 8, 1))(x)


def test_a_type_that_changes_on_the_way_is_torchs_from_there() -> None:
    class To(torch.nn.Module):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__()
            self.dtype = dtype

        def forward(self, x: Tensor) -> Tensor:
            return x.to(self.dtype)

    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), To(torch.bfloat16), nn.Conv2d(8, 8, 3).bfloat16(), nn.BatchNorm2d(8), To(torch.float32)
    )
    with torch.no_grad():
        assert torch.equal(model[1:](model[0](images())), twin(model)[1:](model[0](images())))


# --------------------------------------------------------------------------------------------------- containers in them


def nested() -> nn.Sequential:
    layers = list(block())
    return nn.Sequential(
        nn.Sequential(layers[0]),
        nn.Sequential(layers[1], nn.Sequential(), nn.Sequential(layers[2], layers[3])),
        *layers[4:],
    )


def test_containers_in_containers_are_seen_through() -> None:
    model, x = nested(), images()
    expected = results(twin(model), x)
    with sharing() as shared:
        check(results(model, x), expected)
    assert shared.counts == (2, 1)


COUNTS = {"0": (1, 1), "1": (0, 1), "1.1": (2, 0), "1.2": (1, 0)}  # what is still shared with a hook at this path


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("path", COUNTS)
def test_containers_with_a_hook_are_called(path: str, hook: str) -> None:
    model, x = nested(), images()
    torch_model = twin(model)
    handles = [HOOKS[hook](one.get_submodule(path)) for one in (torch_model, model)]
    expected = results(torch_model, x)
    with sharing() as shared:
        check(results(model, x), expected)
    assert shared.counts == COUNTS[path]
    for handle in handles:
        handle.remove()
    with sharing() as shared:
        results(model, x)
    assert shared.counts == (2, 1)


def test_containers_with_a_forward_of_their_own_are_called() -> None:
    class Doubled(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    x = images()
    model = nested()
    torch_model = twin(model)
    inner = model[1]
    model[1] = Doubled(*inner)
    torch_inner = torch_model[1]
    torch_model[1].forward = lambda x: torch.nn.Sequential.forward(torch_inner, x) * 2
    expected = results(torch_model, x)
    with sharing() as shared:
        check(results(model, x), expected)
    assert shared.counts == (0, 1)


def test_a_module_that_hooks_another_while_it_runs_is_heard() -> None:
    class Hooking(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            handles.append(model[2].register_forward_hook(replaced))
            return x

    handles: list[Any] = []
    layers = list(block())
    model = nn.Sequential(Hooking(), layers[0], nn.Sequential(*layers[1:3]), *layers[3:])
    x = images()
    with torch.no_grad():
        hooked = model(x)
        expected = F.relu6(layers[4](layers[3](layers[2](layers[1](layers[0](x))) * 0.5 + 0.25)))
    assert torch.allclose(hooked, expected, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ states of norms


def test_frozen_norms_and_norms_in_evaluation_get_no_statistics() -> None:
    model, x = block(), images()
    model[1].freeze()
    model[4].eval()
    with pytest.warns(UserWarning, match="restore thaws a frozen BatchNorm2d"):
        torch_model = twin(model)
    expected = results(torch_model, x)
    with sharing() as shared:
        check(results(model, x), expected)
    assert shared.counts == (0, 1)


def test_a_block_in_evaluation_computes_as_torchs() -> None:
    model, x = block(), images()
    model(x)
    expected = results(twin(model.eval()), x)
    with sharing() as shared:
        check(results(model, x), expected)
    assert shared.counts == (0, 1)


def test_norms_without_running_statistics_measure_in_evaluation_too() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)).eval(), images()
    expected = results(twin(model), x)
    with sharing() as shared:
        check(results(model, x), expected)
    assert shared.counts == (1, 0)


def test_whole_batch_statistics_are_measured_by_the_norm() -> None:
    model = block().double()
    x = images(dtype=torch.float64)
    whole = twin(model)(x)
    with sharing() as shared, torch.no_grad(), nn.whole_batch_statistics(model, [x[:2], x[2:]]):
        parts = torch.cat([model(x[:2]), model(x[2:])])
    assert torch.allclose(parts, whole, atol=1e-10) and shared.statistics == []


def test_a_layer_used_twice_computes_as_torchs_both_times() -> None:
    torch.manual_seed(1)
    conv, norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
    model, x = nn.Sequential(conv, norm, conv, norm), images(8)
    expected = results(twin(model), x)
    with sharing() as shared:
        check(results(model, x), expected)
    assert shared.counts == (2, 1) and int(norm.num_batches_tracked) == 2


def test_an_input_that_the_caller_holds_is_kept_as_it_is() -> None:
    """The container did not make this tensor: autograd detects whatever is written into it."""
    norm, model = nn.BatchNorm2d(3), nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))
    y = norm(images())
    with sharing() as shared:
        z = model(y)
    assert shared.counts == (0, 0)
    expected = torch.autograd.grad(z.sum(), model[0].weight, retain_graph=True)
    y.data.zero_()
    assert not torch.equal(*torch.autograd.grad(z.sum(), model[0].weight), *expected)  # as with torch's layers


# ------------------------------------------------------------------------------------------------------ the closed gate


def test_under_vmap_a_flop_counter_and_autocast_it_is_torchs() -> None:
    model, x = block().eval(), images()
    torch_model = twin(model)
    with torch.no_grad():
        assert torch.allclose(torch.vmap(model)(x[None]), torch.vmap(torch_model)(x[None]), atol=1e-5)
        counts = []
        for one in (model, torch_model):
            with FlopCounterMode(display=False) as counter:
                one(x)
            counts.append(counter.get_flop_counts())
        assert [*counts[0].values()] == [*counts[1].values()]
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model(x), torch_model(x))


def test_containers_that_are_compiled_exported_scripted_and_traced_compute_as_torchs() -> None:
    model, x = block().eval(), images().detach()
    with torch.no_grad():
        expected = twin(model)(x)
        assert torch.allclose(torch.compile(model, backend="aot_eager", fullgraph=True)(x), expected, atol=1e-5)
        assert torch.allclose(torch.export.export(model, (x,)).module()(x), expected, atol=1e-5)
        assert torch.allclose(torch.jit.script(model)(x), expected, atol=1e-5)
        assert torch.allclose(torch.jit.trace(model, x)(x), expected, atol=1e-5)
        assert torch.allclose(torch.fx.symbolic_trace(model)(x), expected, atol=1e-5)
        assert torch.allclose(torch.fx.symbolic_trace(nn.Sequential(model, nn.ReLU()))(x), expected, atol=1e-5)


def test_a_compiled_container_trains_as_torchs() -> None:
    model, x = block(), images()
    expected = results(twin(model), x)
    check(results(model, x, torch.compile(model, backend="aot_eager", fullgraph=True)), expected)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save", "state_dict"])
def test_copies_and_pickles_share_and_compute_as_the_original(how: str) -> None:
    model, x = nested(), images()
    kept = io.BytesIO()
    if how == "deepcopy":
        copied = copy.deepcopy(model)
    elif how == "pickle":
        copied = pickle.loads(pickle.dumps(model))
    elif how == "torch.save":
        torch.save(model, kept)
        kept.seek(0)
        copied = torch.load(kept, weights_only=False)
    else:
        copied = nested()
        copied.load_state_dict(twin(model).state_dict())
    assert type(copied) is nn.Sequential and type(copied[1]) is nn.Sequential
    with sharing() as shared:
        expected = results(model, x)
        found = results(copied, x)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert shared.counts == (4, 2)


def test_accelerate_makes_torchs_containers_ours_and_restore_gives_them_back() -> None:
    class Own(torch.nn.Sequential):
        pass

    model = torch.nn.Sequential(
        OrderedDict(a=Own(torch.nn.Conv2d(3, 8, 3)), b=torch.nn.Sequential(torch.nn.BatchNorm2d(8)))
    )
    kept = [type(m) for m in model.modules()]
    striate.accelerate(model)
    own = type(model.a)
    assert own is not Own and issubclass(own, Own) and own.__name__ == "Own"
    assert [type(m) for m in model.modules()] == [nn.Sequential, own, nn.Conv2d, nn.Sequential, nn.BatchNorm2d]
    striate.restore(model)
    assert [type(m) for m in model.modules()] == kept


# ------------------------------------------------------------------------------------------------------------ residuals


class TorchBlock(torch.nn.Module):
    """A residual block as it is commonly written, with the layers of a striate block."""

    def __init__(self, native_model: torch.nn.Module) -> None:
        super().__init__()
        for name, child in twin(native_model).named_children():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if hasattr(self, "conv3"):
            y = self.bn3(self.conv3(self.relu(y)))
        return self.relu(y + shortcut)


BLOCKS: dict[str, Callable[[], torch.nn.Module]] = {
    "basic": lambda: striate.models.resnet.BasicBlock(8, 8),
    "basic, other channels": lambda: striate.models.resnet.BasicBlock(4, 8),
    "basic, strided": lambda: striate.models.resnet.BasicBlock(8, 16, 2),
    "bottleneck": lambda: striate.models.resnet.ResNetBottleneck(16, 4),
    "bottleneck, other channels": lambda: striate.models.resnet.ResNetBottleneck(8, 4),
}


def residual(name: str) -> tuple[torch.nn.Module, TorchBlock, Tensor]:
    torch.manual_seed(2)
    native_model = BLOCKS[name]()
    for m in native_model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(m.weight, 0.5, 1.5)
            torch.nn.init.uniform_(m.bias, 0.5, 1.5)
    return native_model, TorchBlock(native_model), images(native_model.conv1.in_channels)


@pytest.mark.parametrize("name", BLOCKS)
def test_residual_blocks_give_torchs_results(name: str) -> None:
    native_model, torch_model, x = residual(name)
    expected = results(torch_model, x)
    with sharing() as shared:
        check(results(native_model, x), expected)
    assert shared.counts[0] >= 1 and shared.counts[1] >= 1


@pytest.mark.parametrize("path", ["bn1", "relu", "conv2", "bn2", "downsample", "downsample.0", "downsample.1", "conv1"])
@pytest.mark.parametrize("hook", [*HOOKS, "own forward"])
@pytest.mark.parametrize("name", ["basic, other channels", "bottleneck, other channels"])
def test_hooks_inside_residual_blocks_are_called_as_torchs(name: str, hook: str, path: str) -> None:
    native_model, torch_model, x = residual(name)
    calls: list[list[str]] = [[], []]
    for model, called in zip((native_model, torch_model), calls, strict=True):
        module = model.get_submodule(path)
        module.register_forward_hook(lambda m, a, y, called=called: called.append("forward"))
        module.register_full_backward_hook(lambda m, a, y, called=called: called.append("backward"))
        if hook == "own forward":
            module.forward = lambda x, forward=module.forward: forward(x) * 0.5 + 0.25
        else:
            HOOKS[hook](module)
    expected = results(torch_model, x)
    check(results(native_model, x), expected)
    assert calls[0] == calls[1] and len(calls[0]) == 2 * ((3 if "bottle" in name else 2) if path == "relu" else 1)


def test_parts_of_residual_blocks_may_be_replaced_by_anything() -> None:
    """Where the sum is stays where the block's code has it, whatever stands around it."""
    replacements: dict[str, Callable[[], dict[str, torch.nn.Module]]] = {
        "an activation that is more": lambda: {"relu": nn.Sequential(nn.ReLU(), nn.Hardtanh(-1, 2))},
        "no activation": lambda: {"relu": nn.Identity()},
        "an empty container": lambda: {"relu": nn.Sequential()},
        "another activation": lambda: {"relu": nn.SiLU()},
        "a norm with an activation": lambda: {"bn2": nn.BatchNormAct2d(8)},
        "a norm and more": lambda: {"bn2": nn.Sequential(nn.BatchNorm2d(8), nn.Hardtanh(-1, 1))},
        "no norm": lambda: {"bn2": nn.Sequential()},
        "a group norm": lambda: {"bn2": nn.GroupNorm(2, 8)},
        "a norm behind the sum": lambda: {"bn2": nn.Identity(), "relu": nn.BatchNorm2d(8)},
        "a shortcut that is broadcast": lambda: {
            "downsample": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 8, 1))
        },
    }
    for replaced, made in replacements.items():
        native_model, _, x = residual("basic, other channels")
        for name, child in made().items():
            setattr(native_model, name, child)
        model = copy.deepcopy(native_model)

        def plainly(x: Tensor, model: Any = model) -> Tensor:
            y = model.relu(model.bn1(model.conv1(x)))
            return model.relu(model.bn2(model.conv2(y)) + model.downsample(x))

        expected = results(model, x, plainly)
        try:
            check(results(native_model, x), expected)
        except AssertionError as error:
            raise AssertionError(replaced) from error


def test_a_residual_with_fewer_layers_is_added_to_what_the_last_gets() -> None:
    x, y = torch.full((1, 1, 2, 2), -1.0), torch.full((1, 1, 2, 2), 0.5)
    assert run([nn.ReLU()], Intermediate(x), lambda: Intermediate(y)).value.equal(F.relu(x + y))
    assert run([], Intermediate(x), lambda: Intermediate(y)).value.equal(x + y)


def test_inverted_residuals_are_seen_through_and_called_if_hooked() -> None:
    torch.manual_seed(3)
    blocks = [striate.models.mobilenet.InvertedResidual(4, 8, 2), striate.models.mobilenet.InvertedResidual(8, 8, 2)]
    model, x = nn.Sequential(*blocks), images(4)
    torch_model = copy.deepcopy(model)

    def plainly(x: Tensor) -> Tensor:
        y = x
        for layer in torch_model[0].conv:
            y = layer(y)
        z = y
        for layer in torch_model[1].conv:
            z = layer(z)
        return z + y

    expected = results(torch_model, x, plainly)
    with sharing() as shared:
        check(results(model, x), expected)
    assert shared.recomputed
    count, seen = len(shared.recomputed), []
    model[0].register_forward_hook(lambda m, a, y: seen.append(y))
    model[1].register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    for buffers in (model, torch_model):
        for m in buffers.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.reset_running_stats()
    expected = results(torch_model, x, plainly)
    with sharing() as shared:
        check(results(model, x), expected)
    assert len(seen) == 2 and seen[0] is seen[1] and len(shared.recomputed) == count - 1
