"""Observes a live run: which layers are computed together, by whose kernels, and how long each takes.

The ``forward`` of each layer is replaced by an observer that containers recognise, and autograd's nodes get hooks,
which do not change the graph. Hooks on modules are not an option: where a module has one, striate's containers compute
its layers separately instead of in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import Module

from ..._torch import Observer, tree_leaves
from ...measure import turns
from ...nn.fusion import ObservedForward

__all__ = ["LayerObserver", "LayerTimer", "ObservedCall", "key_of", "tensors_of", "watched"]

Forward = Callable[..., Any]


@contextmanager
def watched(modules: Iterable[Module], call: Callable[[tuple[Module, ...], Forward, Any, Any], Any]) -> Iterator[None]:
    """Within this context each call of a module, and each fused computation of several, goes through ``call``.

    call: receives the modules, the function that computes them, its arguments and keyword arguments, and returns the
    result.
    """
    before = [(module, module.__dict__.get("forward")) for module in modules]
    try:
        for module, _ in before:
            module.__dict__["forward"] = ObservedForward(module, call)
        yield
    finally:
        for module, own in before:
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own


def tensors_of(values: Any) -> list[Tensor]:
    return [t for t in tree_leaves(values) if isinstance(t, Tensor)]


def key_of(group: tuple[Module, ...], inputs: list[Tensor], output: Tensor) -> Any:
    """The key of a call. Calls of the same layers on the same shapes have the same key and share a row."""
    return group, tuple(tuple(x.shape) for x in inputs), tuple(output.shape)


# ---------------------------------------------------------------------------------------------------------------- calls


class ObservedCall:
    """A call of a layer, or of neighbours that are computed together.

    more: whether it received more arguments than its input; native: whether one of striate's operators ran in it;
    calls: whether it called another observed layer.
    """

    def __init__(self, path: str, group: tuple[Module, ...], inputs: list[Tensor], more: bool) -> None:
        self.path, self.group, self.inputs, self.more = path, group, inputs, more
        self.native = self.calls = False
        self._versions = [x._version for x in inputs]

    def is_view(self, y: Tensor) -> bool:
        """Whether the output is the unmodified input or a view of it."""
        x = self.inputs[0] if self.inputs else y
        same = y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        return same and self._versions == [t._version for t in self.inputs]


class LayerObserver(Observer):
    """Observes the calls of layers while the model runs once.

    names: the names of the observed modules. done: receives each call that called no other layer, and its first output,
    as soon as it returns, since later layers may overwrite its tensors. failed: the name of the innermost layer that
    raised.
    """

    def __init__(self, names: Mapping[Module, str], done: Callable[[ObservedCall, Tensor], object]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names, self.done = names, done
        self.under_way: list[ObservedCall] = []
        self.callers: set[Module] = set()  # modules that called other observed ones
        self.failed = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.under_way and func.namespace == "striate":
            self.under_way[-1].native = True
        return func(*args, **(kwargs or {}))

    def call(self, group: tuple[Module, ...], forward: Forward, args: Any, kwargs: Any) -> Any:
        if self.under_way:
            self.under_way[-1].calls = True
        name = "+".join(self.names[module] for module in group)
        observed = ObservedCall(name, group, tensors_of((args, kwargs)), len(args) + len(kwargs) > 1)
        self.under_way.append(observed)
        try:
            y = forward(*args, **kwargs)
        except Exception:
            self.failed = self.failed or name
            raise
        finally:
            self.under_way.pop()
        outputs = tensors_of(y)
        if observed.calls:
            self.callers.update(group)
        elif outputs:
            self.done(observed, outputs[0])
        return y


# ---------------------------------------------------------------------------------------------------------------- times


class LayerTimer:
    """Measures forward and backward of the layers in one step [ns]. times: by the :func:`key_of` their calls."""

    def __init__(self) -> None:
        self.times: dict[Any, list[int]] = {}
        # For each call: its key, the autograd nodes of its inputs, and those of its outputs.
        self._made: list[tuple[Any, list[Any], list[Any]]] = []
        self._in_forward = True
        self._hooks: list[Any] = []

    def __enter__(self) -> LayerTimer:
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def call(self, group: tuple[Module, ...], forward: Forward, args: Any, kwargs: Any) -> Any:
        if not self._in_forward:
            return forward(*args, **kwargs)
        inputs = tensors_of((args, kwargs))
        before = [x.grad_fn for x in inputs]  # read before the call, since an in-place layer changes them
        start = turns.clock_ns()
        y = forward(*args, **kwargs)
        took = turns.clock_ns() - start
        outputs = tensors_of(y)
        if outputs:
            key = key_of(group, inputs, outputs[0])
            self.times.setdefault(key, [0, 0])[0] += took
            self._made.append((key, before, [t.grad_fn for t in outputs]))
        return y

    def follow(self) -> None:
        """Starts to time the autograd nodes that each layer's forward created, from its outputs back to its inputs."""
        # Layers that run during backward (rematerialization) count as backward.
        self._in_forward = False
        taken: set[Any] = set()
        for key, before, ends in self._made:
            taken.update(node for node in before if node is not None)
            found = [node for node in ends if node is not None and node not in taken]
            while found:
                node = found.pop()
                if node not in taken:
                    taken.add(node)
                    self._time(node, self.times[key])
                    found += [following for following, _ in node.next_functions if following is not None]

    def _time(self, node: Any, times: list[int]) -> None:
        start = 0

        def before(gradients: Any) -> None:
            nonlocal start
            start = turns.clock_ns()

        def after(inputs: Any, outputs: Any) -> None:
            times[1] += turns.clock_ns() - start

        self._hooks += [node.register_prehook(before), node.register_hook(after)]
