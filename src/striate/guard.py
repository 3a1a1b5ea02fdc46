"""The guard around every probe: a model that is measured within it is, bit for bit, as before when it is left."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from . import random_states
from .errors import ArgumentError, ArgumentTypeError, build

__all__ = ["probing"]

TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


@contextmanager
def probing(model: nn.Module, *, writes_weights: bool = True) -> Iterator[None]:
    """In this context a model may be run, trained, hooked and changed. Afterwards it is bit for bit as before, also
    where an error ends the context.

    Put back are the parameters and buffers, and other tensors among the attributes of its modules: the same objects
    with the same memory, bits, element types and ``requires_grad``; their gradients, the same objects with the same
    bits; the mode, the attributes, the parts and the hooks of each module, and the hooks of each tensor; the states of
    the random generators of torch, NumPy and Python; and whether gradients are recorded. Contexts may be nested. What
    is as before is not written: a tensor whose bits did not change keeps its version, and a graph of autograd's that
    was made before and holds it can still be differentiated.

    It costs a copy of all parameters, buffers and gradients in memory, and a comparison with it at the end.
    writes_weights: False for a probe that writes into no parameter and no gradient: those are then not copied.

    Raises ArgumentTypeError for what is no module; ArgumentError for lazy layers that have not seen data yet.

    >>> model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    >>> before = {name: value.clone() for name, value in model.state_dict().items()}
    >>> with probing(model):
    ...     _ = model.eval().register_forward_hook(print)
    ...     for p in model.parameters():
    ...         _ = p.detach().zero_()
    >>> all(value.equal(before[name]) for name, value in model.state_dict().items()), model.training
    (True, True)
    """
    _check(model)
    records_gradients = torch.is_grad_enabled()
    generators = random_states.capture()
    modules = [_ModuleState(module) for module in model.modules()]
    weights = set() if writes_weights else {id(p) for p in model.parameters()}
    tensors = [_TensorState(tensor, id(tensor) not in weights) for tensor in _tensors(model)]
    try:
        yield
    finally:
        for module in modules:
            module.restore()
        for tensor in tensors:
            tensor.restore()
        random_states.restore(*generators)
        torch.set_grad_enabled(records_gradients)


def _check(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        hint = "Give the model itself, not a function that calls it."
        raise ArgumentTypeError(build("A probe", "a model, a torch.nn.Module", type(model).__name__, hint=hint))
    lazy = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if is_lazy(tensor)]
    if lazy:
        got = f"the lazy {lazy[0]}, which has none yet"
        raise ArgumentError(build("A probe", "weights with a shape", got, hint="Call the model on a batch first."))


def _tensors(model: nn.Module) -> list[Tensor]:
    """The tensors of a model, each once: also those that are plain attributes, or in a plain container of one."""
    found = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    for module in model.modules():
        for value in vars(module).values():
            for part in _parts(value) if _is_container(value) else [value]:
                if isinstance(part, Tensor):
                    found.setdefault(id(part), part)
    return list(found.values())


class _ModuleState:
    """The mode and the attributes of a module: what each is, and what is in those that are containers, as hooks are."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.mode = module.training  # not among the attributes of a scripted module
        self.attributes = dict(vars(module))
        self.containers = [_ContainerState(value) for value in self.attributes.values() if _is_container(value)]

    def restore(self) -> None:
        if self.module.training != self.mode:
            self.module.training = self.mode
        attributes = vars(self.module)
        for name in [name for name in attributes if name not in self.attributes]:
            del attributes[name]
        for name, value in self.attributes.items():
            if name not in attributes or attributes[name] is not value:
                attributes[name] = value
        for container in self.containers:
            container.restore()


class _ContainerState:
    """What is in a container. The container itself stays the same object: handles of hooks remove from it."""

    def __init__(self, container: Any) -> None:
        self.container = container
        self.copy = container.copy()

    def restore(self) -> None:
        now, before = _parts(self.container), _parts(self.copy)
        if len(now) == len(before) and all(one is other for one, other in zip(now, before, strict=True)):
            return
        self.container.clear()
        put = self.container.update if isinstance(self.container, dict | set) else self.container.extend
        put(self.copy)


def _is_container(value: object) -> bool:
    return isinstance(value, dict | set | list | deque)


def _parts(container: Any) -> list[Any]:
    return [*container, *container.values()] if isinstance(container, dict) else [*container]


class _TensorState:
    """A tensor's memory, its bits if they are copied, whether it learns, its hooks, and the same of its gradient."""

    def __init__(self, tensor: Tensor, is_copied: bool) -> None:
        self.tensor = tensor
        self.memory = tensor.detach()
        self.bits = self.memory.clone() if is_copied else None
        self.is_leaf, self.requires_grad = tensor.is_leaf, tensor.requires_grad
        self.gradient = None if not self.is_leaf or tensor.grad is None else _TensorState(tensor.grad, is_copied)
        self.hooks = {name: getattr(tensor, name, None) for name in TENSOR_HOOKS}
        self.containers = [_ContainerState(hooks) for hooks in self.hooks.values() if hooks is not None]

    def restore(self) -> None:
        tensor = self.tensor
        if self.is_leaf and not tensor.is_leaf:  # a graph wrote into it
            tensor.detach_()
        if not _is_same_memory(tensor, self.memory):
            tensor.data = self.memory
        if self.bits is not None and not _has_same_bits(self.memory, self.bits):
            with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                tensor.copy_(self.bits)  # not through .data: who keeps something of its values sees the new version
        if tensor.requires_grad != self.requires_grad:
            tensor.requires_grad_(self.requires_grad)
        self._restore_hooks()
        if self.gradient is not None:
            self.gradient.restore()
        if self.is_leaf:
            gradient = None if self.gradient is None else self.gradient.tensor
            if tensor.grad is not gradient:
                tensor.grad = gradient

    def _restore_hooks(self) -> None:
        for name, hooks in self.hooks.items():
            if getattr(self.tensor, name, None) is not hooks:
                setattr(self.tensor, name, hooks)
        for container in self.containers:
            container.restore()


def _is_same_memory(one: Tensor, other: Tensor) -> bool:
    if one.layout != torch.strided or other.layout != torch.strided:
        return one.layout == other.layout and one.dtype == other.dtype
    facts = [(x.data_ptr(), x.dtype, x.device, x.shape, x.stride()) for x in (one, other)]
    return facts[0] == facts[1]


def _has_same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape and type are the same bit for bit: a NaN is as itself, 0 is not as -0.

    False for what has no plain memory, as sparse tensors.
    """
    if one.is_meta:
        return True
    if one.layout != torch.strided or one.is_quantized:
        return False
    parts = [x.reshape(-1).view(torch.uint8) for x in (one, other)]
    for word, size in ((torch.int64, 8), (torch.int32, 4)):  # faster than byte by byte
        if all(part.numel() % size == 0 and part.storage_offset() % size == 0 for part in parts):
            return torch.equal(*(part.view(word) for part in parts))
    return torch.equal(*parts)
