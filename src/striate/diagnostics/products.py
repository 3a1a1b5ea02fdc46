"""The loss as a function of the weights: its value, its gradient, and products of its curvature with vectors.

The model is called with clones of its parameters and buffers in place of its own (``torch.func.functional_call``).
Training mode thus moves the running statistics of clones, and each call begins with the same ones; generators begin at
the same seed, so that dropout drops the same units in each.

Products are made by plain double backward, not within ``torch.func``: under function transforms the gate is closed
(``striate.ops.gate``) and striate's layers compute by torch's operators, so that another network would be measured than
the one that trains. Autograd goes through striate's own operators, since their gradients have gradients. It also makes
the graph of the loss and its gradient once and walks it for each vector, where ``torch.func.jvp`` of
``torch.func.grad`` would compute both again for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .. import random_states
from .._torch import tree_map
from ..errors import ArgumentError, ArgumentTypeError, build, describe_error, did_you_mean
from ..guard import probing
from .batches import Batch, Loss, loss_of, pairs

__all__ = ["MODES", "OPERATORS", "Objective", "objective"]

MODES = ("train", "eval")
ONCE = torch.autograd.function.once_differentiable(print).__code__  # the same whatever it wraps
TYPES = re.compile(r"\bd?types?\b|\bDouble\b|\bFloat\b")  # in messages of torch's about element types


@contextmanager
def objective(
    where: str,
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Batch],
    *,
    mode: str = "train",
    layer: str | None = None,
    dtype: torch.dtype | None = torch.float64,
    seed: int = 0,
) -> Iterator[Objective]:
    """Gives, within the guard, the mean loss over batches as a function of the weights; see :class:`Objective`.

    where: the function that asks, for messages.

    >>> model = nn.Linear(2, 1)
    >>> with objective("example", model, nn.MSELoss(), [(torch.ones(4, 2), torch.ones(4, 1))]) as f:
    ...     f.size, f.value(torch.tensor([1.0, 2.0, 3.0]))  # (1 + 2 + 3 - 1)²
    (3, 25.0)
    """
    if mode not in MODES:
        raise ArgumentError(build(where, "the mode 'train' or 'eval'", repr(mode), hint="Leave it out."))
    checked = pairs(where, batches)
    if isinstance(model, torch.jit.ScriptModule):  # functional_call takes none
        expects, hint = "a model whose weights can be replaced", "Give the model as it was before torch.jit."
        raise ArgumentTypeError(build(where, expects, "one of TorchScript", hint=hint))
    with probing(model), torch.inference_mode(False), torch.enable_grad():
        model.train(mode == "train")
        yield Objective(where, model, loss, checked, layer, dtype, seed)


class Objective:
    r"""The loss as a function of the weights that learn, or of those of one layer, as one vector.

    .. math:: L(w) = \frac1B \sum_{b=1}^{B} loss(model_w(x_b), target_b)

    size: the number n of weights; start: the vector of the model's own, ``(n,)``; names: of the parameters in it.
    dtype: of parameters, buffers, inputs and floating targets; None leaves them as they are.

    Raises ArgumentError where no parameter learns, for a layer that is not there, and where the loss is no finite
    number or does not depend on the weights.
    """

    def __init__(
        self,
        where: str,
        model: nn.Module,
        loss: Loss,
        batches: Sequence[Batch],
        layer: str | None,
        dtype: torch.dtype | None,
        seed: int,
    ) -> None:
        self.where, self.model, self.loss, self.batches = where, model, loss, batches
        self.dtype, self.seed = dtype, seed
        learned = _learned(where, model, layer)
        self.names = list(learned)
        self.shapes = [p.shape for p in learned.values()]
        self.start = torch.cat([self._own(p).flatten() for p in learned.values()])
        self.size = len(self.start)
        self._constants = {name: self._own(p) for name, p in model.named_parameters() if name not in learned}
        self._buffers = {name: self._own(buffer) for name, buffer in model.named_buffers()}
        self._kept: tuple[str, int, Any] | None = None

    def value(self, w: Tensor) -> float:
        """L(w). It costs one forward pass a batch."""
        with torch.no_grad():
            losses = [self._run(number, w)[1] for number in range(len(self.batches))]
        return sum(map(float, losses)) / len(losses)

    def gradient(self, w: Tensor) -> tuple[float, Tensor]:
        """L(w) and its gradient ``(n,)``. It costs one forward and one backward pass a batch."""
        value, total = 0.0, torch.zeros_like(self.start)
        for number in range(len(self.batches)):
            leaf = w.to(self.start.dtype, copy=True).requires_grad_()
            _, loss = self._run(number, leaf)
            value += float(loss.detach())
            total += self._grad(loss, leaf)
        return value / len(self.batches), total / len(self.batches)

    def at_start(self) -> tuple[float, Tensor]:
        """The loss of the model as it is, and its gradient ``(n,)``. Raises ArgumentError if they are not finite."""
        hint = "Look for weights, running statistics or inputs that are not finite, and for a learning rate too high."
        value, gradient = self.gradient(self.start)
        if not torch.isfinite(torch.tensor(value)):
            raise ArgumentError(build(self.where, "a loss that is finite", value, hint=hint))
        if not gradient.isfinite().all():
            count = int((~gradient.isfinite()).sum())
            got = f"{count} of {self.size} numbers that are not"
            raise ArgumentError(build(self.where, "a gradient that is finite", got, hint=hint, loss=value))
        return value, gradient

    def product(self, operator: str, v: Tensor) -> Tensor:
        """The product of the mean Hessian (or Gauss-Newton matrix) at the start with v, ``(n,)`` float64 both.

        The graph of the loss and its gradient is kept for the next vector where there is one batch; with more, it is
        made anew for each, so that memory does not grow with them.

        Raises ArgumentError where an operation has no second derivative, or none that is finite.
        """
        v = v.to(self.start.dtype)
        total = torch.zeros_like(v)
        for number in range(len(self.batches)):
            graph = self._graph(operator, number)
            try:
                total += graph(v)
            except RuntimeError as error:
                raise self._failed(error) from error
        if not total.isfinite().all():
            hint = "Look for a root or a norm of zero in the model or the loss."
            raise ArgumentError(build(self.where, "finite second derivatives", "some that are not", hint=hint))
        return total.double() / len(self.batches)

    # ---------------------------------------------------------------------------------------------------------- helpers

    def _graph(self, operator: str, number: int) -> Any:
        if self._kept is None or self._kept[:2] != (operator, number):
            self._kept = None  # the last graph goes before the next one comes
            leaf = self.start.clone().requires_grad_()
            output, loss = self._run(number, leaf)
            name = _once_differentiable(loss)
            if name is not None:
                raise self._not_twice(f"{name}, which can be once")
            try:
                graph = OPERATORS[operator](self, number, leaf, output, loss)
            except RuntimeError as error:
                raise self._failed(error) from error
            self._kept = operator, number, graph
        return self._kept[2]

    def _failed(self, error: RuntimeError) -> RuntimeError:
        is_told = isinstance(error, ArgumentError | ArgumentTypeError)
        return error if is_told else self._not_twice(describe_error(error))

    def _not_twice(self, got: str) -> ArgumentError:
        hint = "Use operations whose gradients have gradients."
        return ArgumentError(build(self.where, "a model and a loss that can be differentiated twice", got, hint=hint))

    def _run(self, number: int, w: Tensor) -> tuple[Any, Tensor]:
        """The output for a batch, and its loss, with the weights w."""
        x, target = tree_map(self._own, self.batches[number])
        parts = w.to(self.start.dtype).split([shape.numel() for shape in self.shapes])
        weights = {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}
        buffers = {name: buffer.clone() for name, buffer in self._buffers.items()}
        with random_states.seeded(self.seed + number), self._types():
            output = functional_call(self.model, {**self._constants, **buffers, **weights}, (x,))
            return output, self.loss_of(output, target)

    def loss_of(self, output: Any, target: Any) -> Tensor:
        """The loss, checked to be one number; the tensors of a loss that is a module are taken in ``dtype`` too."""
        return loss_of(self.where, self._call_loss, output, target)

    def _call_loss(self, output: Any, target: Any) -> Tensor:
        if not isinstance(self.loss, nn.Module):
            return self.loss(output, target)
        own = {**dict(self.loss.named_parameters()), **dict(self.loss.named_buffers())}
        return functional_call(self.loss, {name: self._own(t) for name, t in own.items()}, (output, target))

    def _grad(self, loss: Tensor, w: Tensor, create_graph: bool = False) -> Tensor:
        self.check_depends(loss)
        return torch.autograd.grad(loss, w, create_graph=create_graph, materialize_grads=True)[0]

    def check_depends(self, y: Tensor) -> None:
        """Raises ArgumentError if no weight changes y."""
        if not y.requires_grad:
            got = "one that no weight changes"
            hint = "Do not detach the output, nor compute it under no_grad."
            raise ArgumentError(build(self.where, "a loss that depends on the weights", got, hint=hint))

    def target(self, number: int) -> Any:
        """The target of a batch, as the loss is given it."""
        return tree_map(self._own, self.batches[number][1])

    def _own(self, t: Any) -> Any:
        """A clone of a tensor, in ``dtype`` if it is floating; anything else as it is."""
        if not isinstance(t, Tensor):
            return t
        floating = self.dtype is not None and t.is_floating_point()
        return t.detach().to(self.dtype if floating else t.dtype, copy=True)

    @contextmanager
    def _types(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if self.dtype is None or not TYPES.search(str(error)):
                raise
            name = str(self.dtype).removeprefix("torch.")
            hint = "Give dtype=None, so that the model computes in its own."
            expects, got = f"a model and a loss that compute in {name}", describe_error(error.__cause__ or error)
            raise ArgumentError(build(self.where, expects, got, hint=hint)) from error


class _Hessian:
    r"""Multiplies by the Hessian: one backward pass through the graph of loss and gradient.

    .. math:: H v = ∇_w (∇_w L · v)

    Source: B. A. Pearlmutter, "Fast Exact Multiplication by the Hessian", Neural Computation 6(1), 1994.
    """

    def __init__(self, f: Objective, number: int, w: Tensor, output: Any, loss: Tensor) -> None:
        self.w, self.gradient = w, f._grad(loss, w, create_graph=True)

    def __call__(self, v: Tensor) -> Tensor:
        return _transposed(self.gradient, self.w, v)


class _GaussNewton:
    r"""Multiplies by the Gauss-Newton matrix, the Hessian but for the curvature of the model.

    .. math:: G v = J^T H_L J v, \quad J = \frac{∂output}{∂w}, \quad H_L = \frac{∂^2 loss}{∂output^2}

    Forward mode would close the gate. So J v is a derivative of :math:`J^T u` by u, which is linear in u: two backward
    passes through the graph of the output.

    Source: N. N. Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent", Neural
    Computation 14(7), 2002.
    """

    def __init__(self, f: Objective, number: int, w: Tensor, output: Any, loss: Tensor) -> None:
        if not isinstance(output, Tensor):
            hint = 'Use operator="hessian".'
            raise ArgumentTypeError(build(f.where, "an output that is one tensor", type(output).__name__, hint=hint))
        f.check_depends(output)
        self.w, self.output = w, output
        self.u = torch.zeros_like(output, requires_grad=True)
        (self.pulled,) = torch.autograd.grad(output, w, self.u, create_graph=True, materialize_grads=True)
        self.leaf = output.detach().requires_grad_()
        (self.by_output,) = torch.autograd.grad(f.loss_of(self.leaf, f.target(number)), self.leaf, create_graph=True)

    def __call__(self, v: Tensor) -> Tensor:
        pushed = _transposed(self.pulled, self.u, v)
        return _transposed(self.output, self.w, _transposed(self.by_output, self.leaf, pushed))


OPERATORS: dict[str, Any] = {"hessian": _Hessian, "gauss_newton": _GaussNewton}


def _once_differentiable(y: Tensor) -> str | None:
    """The name of a function in the graph of y whose backward is marked ``once_differentiable``, None without one.

    ``torch.autograd.grad`` walks to its inputs alone. It does not come by the node that would raise, and takes the
    second derivative of such a function for zero.
    """
    seen: set[Any] = set()
    waiting: list[Any] = [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        function = getattr(type(node), "_forward_cls", None)
        backward = getattr(function, "backward", None)
        while backward is not None:
            if getattr(backward, "__code__", None) is ONCE:
                return str(getattr(function, "__name__", function))
            backward = getattr(backward, "__wrapped__", None)
    return None


def _transposed(y: Tensor, x: Tensor, v: Tensor) -> Tensor:
    """(∂y/∂x)ᵀ v; the graph is kept."""
    if not y.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(y, x, v, retain_graph=True, materialize_grads=True)[0]


def _learned(where: str, model: nn.Module, layer: str | None) -> dict[str, Tensor]:
    """The parameters with ``requires_grad``, of the whole model or below one layer, by name."""
    within: dict[int, str] = {}
    if layer is not None:
        parts = [*dict(model.named_modules()), *dict(model.named_parameters(remove_duplicate=False))]
        if not layer or layer not in parts:
            hint = f"Take a name of named_modules().{did_you_mean(layer, parts)}"
            raise ArgumentError(build(where, "the name of a layer", repr(layer), hint=hint))
    for name, p in model.named_parameters(remove_duplicate=False):
        if layer is None or name == layer or name.startswith(f"{layer}."):
            within[id(p)] = name
    found: dict[str, Tensor] = {
        name: p
        for name, p in model.named_parameters()
        if id(p) in within and p.requires_grad and p.is_floating_point() and p.numel()
    }
    if not found:
        got = "none with requires_grad" if layer is None else f"none in {layer!r}"
        hint = "Set requires_grad of the weights to measure."
        raise ArgumentError(build(where, "a parameter that learns", got, hint=hint))
    return found
