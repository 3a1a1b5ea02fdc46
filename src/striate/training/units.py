"""What the units of a model make of images: outputs of its layers in a forward pass that leaves the model as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from ..guard import probing
from ..nn import BatchNormAct2d, GroupNormAct2d
from .evaluation import evaluation_mode

__all__ = ["activations", "dead", "look", "observed", "settled"]

ATTENDING = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)  # they weigh, and gate nothing


def activations(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of a model that are activations, or norms with one, by name.

    >>> list(activations(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Softmax(1))))
    ['1']
    """
    return {name: module for name, module in model.named_modules() if _is_activation(module)}


def _is_activation(module: nn.Module) -> bool:
    if isinstance(module, BatchNormAct2d | GroupNormAct2d):
        return module.activation is not None
    is_torchs = any(kind.__module__ == "torch.nn.modules.activation" for kind in type(module).__mro__)
    return is_torchs and not isinstance(module, ATTENDING)


@contextmanager
def settled(model: nn.Module) -> Iterator[None]:
    """In this context the model is in evaluation mode and records no gradients. Afterwards it and the random generators
    of torch, NumPy and Python are bit for bit as before, but for parameters that are written into.
    """
    with probing(model, writes_weights=False), evaluation_mode(model):
        yield


@contextmanager
def observed(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor], object]) -> Iterator[None]:
    """In this context ``see`` is called with the name and the output of each layer that is called. The second call of a
    layer in the context is named ``name (call 2)``.
    """
    calls: Counter[str] = Counter()

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            calls[name] += 1
            if isinstance(output, Tensor) and output.ndim > 1:
                see(name if calls[name] == 1 else f"{name} (call {calls[name]})", output)

        return hook

    with ExitStack() as hooks:
        for name, module in layers.items():
            hooks.callback(module.register_forward_hook(hook_of(name)).remove)
        yield


def look(
    model: nn.Module, images: Tensor, layers: Mapping[str, nn.Module], see: Callable[[str, Tensor], object]
) -> None:
    """Runs a model on images ``(N, C, H, W)`` and calls ``see`` with the name and the output of each of these layers.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> look(model, torch.ones(4, 2), activations(model), lambda name, output: print(name, tuple(output.shape)))
    1 (4, 3)
    """
    with settled(model), observed(layers, see):
        model(images)


def dead(output: Tensor) -> tuple[int, int]:
    """How many units of a layer are dead, and how many it has.

    A unit is a channel, output: ``(N, C, …)``. It is dead if it has one and the same value for all images and at all
    places: it tells nothing of them, and where the activation is flat there, as below 0 of a ReLU, it learns nothing.

    >>> import torch
    >>> dead(torch.tensor([[0.0, 1.0], [0.0, 2.0]]))
    (1, 2)
    """
    places = [axis for axis in range(output.ndim) if axis != 1]
    return int((output.amax(places) == output.amin(places)).sum()), output.shape[1]
