"""The guard around probes: whatever is done to a model within it, it is bit for bit as before when it is left."""

from __future__ import annotations

import hashlib
import inspect
import json
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from striate import diagnostics, models, nn, random_states
from striate.diagnostics import (
    activation_statistics,
    curvature,
    dead_units,
    diagnose,
    effective_rates,
    effective_smoothness,
    gradient_flow,
    gradient_predictiveness,
    lipschitz,
    loss_plane,
    loss_slice,
    norm_mismatch,
    operator_norm,
    scale_invariant,
    statistics_noise,
)
from striate.errors import ArgumentError, ArgumentTypeError
from striate.guard import probing
from striate.training.units import activations, look, settled

Batch = tuple[Tensor, Tensor]


def layer_of(model: torch.nn.Module) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """The first linear layer or convolution of a model, and the shape of an input of it."""
    layer: Any = next(m for m in model.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d))
    return (layer, (1, layer.in_features)) if isinstance(layer, torch.nn.Linear) else (layer, (1, 3, 16, 16))


def with_norm(model: torch.nn.Module) -> torch.nn.Module:
    """The model, before which there is a batch norm if it has none."""
    has_norm = any(isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d) for m in model.modules())
    return model if has_norm else torch.nn.Sequential(nn.BatchNorm2d(3), model)


# Every function of striate.diagnostics that takes a model, called with one and a batch. A new one joins here: the last
# test of this file asks for it.
PROBES: dict[str, Callable[[torch.nn.Module, Batch], object]] = {
    "gradient_flow": lambda model, batch: gradient_flow(model, F.cross_entropy, batch, rate=0.1),
    "activation_statistics": lambda model, batch: activation_statistics(model, [batch, batch]),
    "dead_units": lambda model, batch: dead_units(model, [batch, batch]),
    "curvature": lambda model, batch: [
        curvature(model, F.cross_entropy, [batch, batch], operator=operator, steps=2, samples=2)
        for operator in ("hessian", "gauss_newton")
    ],
    "loss_slice": lambda model, batch: loss_slice(model, F.cross_entropy, batch, [0.1]),
    "loss_plane": lambda model, batch: loss_plane(model, F.cross_entropy, batch, 2),
    "gradient_predictiveness": lambda model, batch: gradient_predictiveness(model, F.cross_entropy, batch, [0.1]),
    "effective_smoothness": lambda model, batch: effective_smoothness(model, F.cross_entropy, batch, [0.1]),
    "operator_norm": lambda model, batch: operator_norm(*layer_of(model)),
    "lipschitz": lambda model, batch: lipschitz(model, batch[0]),
    "scale_invariant": lambda model, batch: scale_invariant(model, batch[0]),
    "effective_rates": lambda model, batch: effective_rates(model, torch.optim.SGD(model.parameters(), 0.1)),
    "norm_mismatch": lambda model, batch: norm_mismatch(with_norm(model), F.cross_entropy, [batch]),
    "statistics_noise": lambda model, batch: statistics_noise(with_norm(model), batch, [2]),
    "diagnose": lambda model, batch: diagnose(model, F.cross_entropy, [batch, batch], rate=0.1, quick=True),
    "profile": lambda model, batch: diagnostics.profile(model, batch[0], rounds=3, next_best=False),
}
NO_PROBES = {"angle", "equilibrium_angle", "recompute_statistics"}  # what takes no model, or is there to change it
PX = {"alexnet": 63, "vgg11_bn": 32, "convnext_tiny": 32}  # the side of images; 16 for all others
SLOW = {"profile"}  # it measures the machine first
LARGE = {"alexnet", "vgg11_bn", "resnet50", "resnet18", "mobilenet_v1", "mobilenet_v2", "convnext_tiny"}


def bits(x: Tensor | None) -> object:
    """A digest of the bits, so that two states of a large model take no memory."""
    return None if x is None else hashlib.sha256(x.detach().clone().reshape(-1).view(torch.uint8).numpy()).digest()


def contents(value: object) -> object:
    if isinstance(value, dict):
        return [(id(key) if not isinstance(key, str) else key, id(one)) for key, one in value.items()]
    return [id(one) for one in value] if isinstance(value, list | set | deque) else None


def facts(x: Tensor) -> tuple[object, ...]:
    memory = (id(x), x.data_ptr(), x.dtype, x.shape, x.stride(), bits(x), x.requires_grad, x.is_leaf)
    hooks = [contents(getattr(x, name)) for name in ("_backward_hooks", "_post_accumulate_grad_hooks")]
    return (*memory, *hooks, id(x.grad), bits(x.grad)) if x.is_leaf else (*memory, *hooks)


def state_of(model: torch.nn.Module) -> dict[str, object]:
    """All that the guard keeps, by name."""
    torchs, others = random_states.capture()
    state: dict[str, object] = {
        "torch": bits(torchs),
        "others": json.dumps(others),
        "records gradients": torch.is_grad_enabled(),
    }
    for name, module in model.named_modules():
        state[f"{name}: module"] = id(module)
        for key, value in vars(module).items():
            state[f"{name}.{key}"] = (id(value), contents(value), facts(value) if isinstance(value, Tensor) else None)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        state[f"{name}: tensor"] = facts(tensor)
    return state


def small(name: str) -> nn.Sequential:
    px = PX.get(name, 16)
    return models.classifier(name, 3, (px, px), 4)


def lived_in(model: Any) -> Any:
    """A model with all that a probe could lose: gradients, hooks, frozen weights, mixed modes, numbers that are NaN."""
    parameters = list(model.parameters())
    for number, p in enumerate(parameters):
        if number % 3:
            p.grad = torch.full_like(p, 0.25 * number)
    parameters[0].requires_grad_(False)
    parameters[-1].register_hook(lambda gradient: None)
    parameters[-1].register_post_accumulate_grad_hook(lambda p: None)
    modules = list(model.modules())
    modules[-1].register_forward_hook(lambda module, inputs, output: None)
    for module in modules[len(modules) // 2 :]:
        module.eval()
    model.note, model.list, model.kept = "as it was", [1, 2], torch.tensor([float("nan"), 0.0])
    return model


def batch_for(name: str) -> Batch:
    px = PX.get(name, 16)
    return torch.randn(2, 3, px, px), torch.tensor([1, 3])


def cases() -> list[Any]:
    nightly = pytest.mark.nightly
    return [
        pytest.param(name, probe, marks=[nightly] if name in LARGE or probe in SLOW else [], id=f"{name}-{probe}")
        for name in models.NAMES
        for probe in PROBES
    ]


@pytest.mark.parametrize(("name", "probe"), cases())
def test_a_probe_leaves_a_model_as_it_was(name: str, probe: str) -> None:
    torch.manual_seed(1)
    model, batch = lived_in(small(name)), batch_for(name)
    before, given = state_of(model), [bits(part) for part in batch]
    PROBES[probe](model, batch)
    assert state_of(model) == before and [bits(part) for part in batch] == given


def step(model: Any) -> None:
    """A step of training, with momentum, in training mode."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, momentum=0.9)
    F.cross_entropy(model(torch.randn(4, 3, 16, 16)), torch.arange(4)).backward()
    optimizer.step()


def set_data(model: Any) -> None:
    model[0].weight.data = torch.zeros(1)


def set_gradient(model: Any) -> None:
    for p in model.parameters():
        p.grad = torch.ones_like(p)


def no_gradient(model: Any) -> None:
    model.zero_grad()


def zero_gradient(model: Any) -> None:
    model.zero_grad(set_to_none=False)


def minus_zero(model: Any) -> None:
    model.kept[1] = -0.0


def graph_in_a_buffer(model: Any) -> None:
    model[1].running_mean.add_(model[1].weight)


def replaced(model: Any) -> None:
    model[0].weight = torch.nn.Parameter(torch.zeros(2, 3))


def deleted(model: Any) -> None:
    del model[0].weight, model[1], model.note


def added(model: Any) -> None:
    model.extra, model.register_parameter = nn.Linear(2, 2), 3
    model.list.append(3)


def hooked(model: Any) -> None:
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        getattr(model[0], register)(lambda *given: None)
    model[0].register_state_dict_pre_hook(lambda *given: None)
    model[1].weight.register_hook(lambda gradient: None)
    model[1].bias.register_post_accumulate_grad_hook(lambda p: None)


def hooks_removed(model: Any) -> None:
    list(model.modules())[-1]._forward_hooks.clear()
    parameter = list(model.parameters())[-1]
    parameter._backward_hooks.clear()
    parameter._post_accumulate_grad_hooks = None


def drawn(model: Any) -> None:
    torch.rand(3), np.random.rand(3), random.random()


def fail_after(change: Callable[[Any], object], model: Any) -> None:
    with probing(model):
        change(model)
        raise KeyError("own")


CHANGES: tuple[Callable[[Any], object], ...] = (
    *(step, set_data, set_gradient, no_gradient, zero_gradient, minus_zero, graph_in_a_buffer, replaced, deleted),
    *(added, hooked, hooks_removed, drawn),
    *(torch.nn.Module.eval, torch.nn.Module.double, torch.nn.Module.requires_grad_),
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_is_changed_within_is_put_back(change: Callable[[Any], object]) -> None:
    model = lived_in(small("cnn_bn"))
    before = state_of(model)
    with probing(model):
        change(model)
        assert state_of(model) != before, "the change is none"
    assert state_of(model) == before


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_is_changed_before_an_error_is_put_back(change: Callable[[Any], object]) -> None:
    model = lived_in(small("cnn_bn"))
    before = state_of(model)
    with pytest.raises(KeyError, match="own"):
        fail_after(change, model)
    assert state_of(model) == before


def test_whether_gradients_are_recorded_is_put_back() -> None:
    model = small("cnn_bn")
    with probing(model):
        torch.set_grad_enabled(False)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        with probing(model):
            torch.set_grad_enabled(True)
        assert not torch.is_grad_enabled()


def test_a_guard_within_a_guard_puts_back_what_was_when_it_was_entered() -> None:
    model = lived_in(small("cnn_bn"))
    before = state_of(model)
    with probing(model):
        step(model)
        between = state_of(model)
        with probing(model):
            step(model)
            hooked(model)
        assert state_of(model) == between != before
    assert state_of(model) == before


def test_a_handle_from_before_still_removes_its_hook() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    seen: list[int] = []
    handle = model[0].register_forward_hook(lambda *given: seen.append(1))
    with probing(model):
        model[0]._forward_hooks.clear()
        model(torch.ones(1, 2))
    model(torch.ones(1, 2))
    handle.remove()
    model(torch.ones(1, 2))
    assert seen == [1]


def test_a_hook_of_a_weight_from_before_works_on_and_one_from_within_does_not() -> None:
    layer, seen = nn.Linear(2, 1), []
    handle = layer.weight.register_hook(lambda gradient: seen.append("before"))
    with probing(layer):
        layer.weight.register_hook(lambda gradient: seen.append("within"))
        layer.bias.register_hook(lambda gradient: seen.append("within"))
    layer(torch.ones(1, 2)).sum().backward()
    handle.remove()
    layer(torch.ones(1, 2)).sum().backward()
    assert seen == ["before"]


def test_what_is_as_before_is_not_written() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    output = model(torch.randn(4, 2))
    versions = [x.data_ptr() * 1000 + x._version for x in (*model.parameters(), *model.buffers())]
    with probing(model):
        model.eval()(torch.randn(4, 2))
    assert versions == [x.data_ptr() * 1000 + x._version for x in (*model.parameters(), *model.buffers())]
    output.sum().backward()  # which torch refuses where a weight was written


def test_a_weight_that_was_changed_has_a_new_version_so_that_no_copy_of_it_is_taken_for_it() -> None:
    layer = nn.Linear(2, 2)
    with probing(layer), torch.no_grad():
        layer.weight.zero_()
        version = layer.weight._version
    assert layer.weight._version > version


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    before = bits(model[0].weight)
    with probing(model):
        model.double()
        model[1].weight = torch.nn.Parameter(torch.zeros(3, 3))
    assert model[1].weight is model[0].weight and bits(model[0].weight) == before


def test_weights_from_inference_mode_are_put_back() -> None:
    with torch.inference_mode():
        layer = nn.Linear(2, 2)
    before = state_of(layer)
    with probing(layer), torch.inference_mode():
        layer.weight.zero_()
    assert state_of(layer) == before


def test_a_scripted_model_is_put_back() -> None:
    model = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)))
    before = [bits(x) for x in (*model.parameters(), *model.buffers())]
    with probing(model):
        model.eval()
        for p in model.parameters():
            p.detach().zero_()
    assert [bits(x) for x in (*model.parameters(), *model.buffers())] == before
    assert [module.training for module in model.modules()] == [True] * 3


def test_a_parametrized_layer_is_put_back() -> None:
    layer = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    before = state_of(layer)
    with probing(layer):
        layer(torch.randn(2, 3)).sum().backward()  # a step of its power iteration
        assert state_of(layer) != before
    assert state_of(layer) == before


def test_settled_keeps_all_of_a_model_but_what_is_written_into_its_weights() -> None:
    model, x = lived_in(small("cnn_bn")), torch.randn(2, 3, 16, 16)
    before = state_of(model)
    with settled(model):
        assert not any(module.training for module in model.modules()) and not torch.is_grad_enabled()
        set_gradient(model)
        hooked(model)
        replaced(model)
        model[1].running_mean.zero_()
    look(model, x, activations(model), lambda name, output: None)
    assert state_of(model) == before


def test_a_probe_that_writes_no_weight_copies_none() -> None:
    layer = nn.Linear(64, 64)
    layer.weight.grad = torch.ones(64, 64)
    with probing(layer, writes_weights=False):
        layer.weight.detach().zero_()
        layer.weight.grad.zero_()
    assert not layer.weight.any() and not layer.weight.grad.any(), "there was a copy"


def test_a_function_is_no_model() -> None:
    with pytest.raises(ArgumentTypeError) as error, probing(torch.relu):  # type: ignore[arg-type]
        pass
    assert str(error.value) == (
        "A probe expects a model, a torch.nn.Module, got builtin_function_or_method. Give the model itself, not a "
        "function that calls it."
    )


def test_a_lazy_layer_must_have_seen_data() -> None:
    with pytest.raises(ArgumentError) as error, probing(torch.nn.Sequential(torch.nn.LazyLinear(2))):
        pass
    assert str(error.value) == (
        "A probe expects weights with a shape, got the lazy 0.weight, which has none yet. Call the model on a batch "
        "first."
    )


def test_every_probe_is_in_the_table() -> None:
    functions = {name for name in diagnostics.__all__ if inspect.isfunction(getattr(diagnostics, name))}
    assert functions - NO_PROBES == set(PROBES)
