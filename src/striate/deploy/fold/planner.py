"""Which batch norms of a model can be merged into the layer beside them, and doing it.

What stands before and after a norm is read off a recording of the model, call by call (:mod:`.steps`); a run of it
shows the rest (:mod:`.run`). A norm is left, with the reason, wherever folding could change a result: torch.fx's own
fusion misses layers that are called more than once (pytorch issues 104593 and 197539).
"""

from __future__ import annotations

import math
import warnings
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from ..._torch import ConvBase, ConvTransposeBase, tree_leaves
from ...errors import ArgumentError, ArgumentTypeError, build, describe_error
from ...nn.norm import BATCH_NORMS
from ..copying import copy_model
from . import layers
from .layers import LAYERS, how_changed
from .report import LEFT, FoldEntry, FoldReport
from .run import Run, is_floating, run
from .steps import Step, Steps, record_steps

__all__ = ["fold"]

Model = TypeVar("Model", bound=Module)


def fold(model: Model, example_input: Tensor | tuple[Tensor, ...]) -> tuple[Model, FoldReport]:
    """A copy of ``model`` with its batch norms merged into the layers beside them, and a report; ``model`` stays as it
    is.

    ``y = s·x + t`` with ``s = γ/√(σ² + ε)`` and ``t = β - μ·s`` goes into the layer before the norm, ``W' = s·W`` along
    the outputs and ``b' = s·b + t``, or else into the layer after it, ``W' = s·W`` along the inputs and ``b' = b + Σ
    t·W``, where that is exact. Layers are ``Conv1d``, ``Conv2d``, ``Conv3d``, their transposes, and ``Linear``, torch's
    or striate's. The new weights are computed in float64 and rounded once. In the norm's place stands
    ``torch.nn.Identity``, or the norm's activation if it has one.

    A norm that cannot be folded without changing a result is left, and ``report.entries`` says why: among the reasons
    are a norm in training mode (call ``model.eval()`` first), a layer that is called twice, has a hook, or shares its
    weight, and an activation between the two. Only what the example runs is seen.

    example_input: a tensor, or a tuple of tensors, that ``model(*example_input)`` runs on. Both models are run on
    copies of it, in the mode they are in and with the same random numbers, and compared.

    Raises ArgumentTypeError for another example, ArgumentError if the model asks for a value, or for a size in a
    condition, with the line. Warns if the outputs differ by more than rounding explains.

    Source: S. Ioffe, C. Szegedy, "Batch Normalization", 2015, whose inference network (algorithm 2, line 11) is ``s·x +
    t``.

    >>> layers = torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
    >>> model = torch.nn.Sequential(*layers).eval()
    >>> folded, report = fold(model, torch.ones(1, 3, 8, 8))
    >>> report.entries
    (FoldEntry(name='1', action='folded into 0 before it', reason=''),)
    >>> folded[1], folded[0].bias.shape, model[0].bias
    (Identity(), torch.Size([8]), None)
    """
    if not isinstance(model, Module):
        raise ArgumentTypeError(
            build("fold", "a torch.nn.Module", type(model).__name__, hint="Pass the model itself, then an example.")
        )
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    strange = [type(x).__name__ for x in inputs if not isinstance(x, Tensor)]
    if strange:
        hint = "Pass what model(*example_input) takes; give a model with other arguments a forward that takes tensors."
        raise ArgumentTypeError(build("fold", "a tensor or a tuple of tensors", ", ".join(strange), hint=hint))
    with torch.inference_mode(False), torch.no_grad():
        given = run(model, inputs)
        steps = record_steps(model, inputs)
        _check_calls(steps, given)
        result = copy_model(model, "fold")
        entries = _Planner(model, result, steps, given).entries()
        try:
            got = run(result, inputs).outputs
        except Exception as error:
            hint = "Call the norms only as layers: the folded model has Identity in their place."
            raise ArgumentError(
                build("fold", "a model that runs without its batch norms", describe_error(error), hint=hint)
            ) from error
        expected = given.outputs
        difference, largest = _compare(expected, got)
        report = FoldReport(tuple(entries), difference, largest)
        if not math.isnan(largest) and not difference <= _usual_rounding([*expected, *result.parameters()]) * largest:
            found = f"{difference:.1e} where outputs reach {largest:.1e}"
            hint = "Compare the two models on your own data before you use the folded one."
            warnings.warn(build("fold", "a difference that rounding explains", found, hint=hint), stacklevel=2)
    return result, report


def _compare(expected: list[Tensor], got: list[Tensor]) -> tuple[float, float]:
    """The largest absolute difference, and the largest absolute value expected. Equal infinities and NaNs do not
    differ.
    """
    difference = largest = 0.0 if expected else math.nan
    for a, b in zip(expected, got, strict=True):
        if a.numel():
            a, b = (x.to("cpu", torch.complex128 if x.is_complex() else torch.float64) for x in (a, b))
            apart = (a - b).abs().masked_fill((a == b) | (a.isnan() & b.isnan()), 0)
            difference = max(apart.max().item(), difference, key=lambda x: (math.isnan(x), x))
            largest = max(largest, a.abs().nan_to_num(0.0, math.inf).max().item())
    return difference, largest


def _usual_rounding(tensors: list[Tensor]) -> float:
    return max(math.sqrt(torch.finfo(x.dtype).eps) for x in tensors if is_floating(x))


def _check_calls(steps: Steps, given: Run) -> None:
    """A recording follows one way through Python's conditions. It is of no use if a run takes another."""
    for name, count in given.calls.items():
        recorded = steps.calls[name]
        if recorded != count:
            found = f"{_times(recorded)} of {name or 'the model'} in the recording, {_times(count)} in a run"
            hint = "Take conditions on types, such as type(x) is torch.Tensor, out of forward."
            raise ArgumentError(build("fold", "a recording that calls what the model calls", found, hint=hint))


def _times(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


# Deciding and folding.


class _Planner:
    """Folds into ``result`` what can be folded, and takes it out of the steps. ``model`` is only read."""

    def __init__(self, model: Module, result: Module, steps: Steps, given: Run) -> None:
        self.model, self.result, self.steps, self.given = model, result, steps, given
        self.names = {module: name for name, module in result.named_modules()}
        self.norms = {name: module for name, module in result.named_modules() if isinstance(module, BATCH_NORMS)}
        self.tensors = [  # of the given model: a copy may have memory of its own where that has shared memory
            (owner, ".".join(filter(None, (name, key))), value)
            for name, owner in model.named_modules()
            for key, value in [*owner._parameters.items(), *owner._buffers.items(), *vars(owner).items()]
            if isinstance(value, Tensor)
        ]
        self.held = {  # modules in attributes, lists and dicts
            id(leaf): ".".join(filter(None, (name, key)))
            for name, owner in result.named_modules()
            for key, value in vars(owner).items()
            if key != "_modules"
            for leaf in tree_leaves(value)
            if isinstance(leaf, Module)
        }

    def entries(self) -> list[FoldEntry]:
        actions: dict[str, str] = {}
        reasons = {name: self._norm_refusal(name, norm) for name, norm in self.norms.items()}
        candidates = [step for step in self.steps.all if step.layer and reasons.get(step.name, "no norm") is None]
        before = {step: self._fold_before(step, actions) for step in candidates}
        for step in reversed(candidates):  # of two norms before a layer the second is folded first
            if before[step] is not None:
                after = self._fold_after(step, actions)
                reasons[step.name] = after and f"{before[step]}; {after}"
        entries = [
            FoldEntry(name or "the model", actions.get(name, LEFT), reason or "") for name, reason in reasons.items()
        ]
        functions = self.steps.functions("batch_norm")
        return entries + [FoldEntry(name, LEFT, "a call of a function, not a layer") for name in functions]

    # what stands where

    def _module(self, step: Step) -> Any:
        return self.result.get_submodule(step.name)

    def _layer(self, step: Step) -> Any:
        """The convolution or linear layer that a step calls, if it calls one."""
        return self._module(step) if step.layer and isinstance(self._module(step), LAYERS) else None

    def _describe(self, step: Step) -> str:
        return self._label(self._module(step)) if step.layer else step.name

    def _label(self, module: Module) -> str:
        quantized = "quantized " if ".quantized." in type(module).__module__ else ""
        return f"{quantized}{type(module).__name__} {self.names.get(module, '')}".rstrip()

    # refusals: None, or why not

    def _norm_refusal(self, name: str, norm: Any) -> str | None:
        """What keeps a norm from being folded, whatever stands beside it."""
        calls = self.steps.calls[name]
        if not calls:
            return "the model does not call it"
        if calls > 1:
            return f"the model calls it {calls} times"
        if name in self.steps.within:
            return f"it stands inside {self._label(self.result.get_submodule(self.steps.within[name]))}, one layer"
        refusal = how_changed(norm, "it")
        if refusal:
            return refusal
        if norm.training and not getattr(norm, "frozen", False):
            return "it is in training mode: call eval() on the model first"
        if norm.running_mean is None or norm.running_var is None:
            return "it keeps no running statistics (track_running_stats=False)"
        if self.given.arguments[name] != 1:
            return "the call has a second argument"
        activation = getattr(norm, "activation", None)
        if activation is not None and activation not in layers.ACTIVATIONS:
            return f"its activation {activation} is none of {', '.join(layers.ACTIVATIONS)}"
        if not (norm.running_mean.isfinite().all() and norm.running_var.isfinite().all()):
            return "its running statistics are not finite"
        if (norm.running_var.double() + norm.eps <= 0).any():
            return "its running variance plus eps is not above zero in every channel"
        if not all(x.isfinite().all() for x in layers.scale_and_shift_of(norm)):
            return "its weight or bias is not finite"
        if name in self.given.read:
            return f"the model's code reads its {self.given.read[name]}"
        # Identity takes the place of a submodule: another reference would go on calling the norm
        if id(norm) in self.held:
            return f"{self.held[id(norm)]} also holds it, outside the submodules"
        return None

    def _layer_refusal(self, step: Step, layer: Any) -> str | None:
        """What keeps a layer's weight from being changed."""
        label = self._label(layer)
        refusal = how_changed(layer, label)
        if refusal:
            return refusal
        for key in ("weight", "bias"):
            tensor = getattr(layer, key)
            if tensor is not None and (type(tensor) is not Parameter or not tensor.is_floating_point()):
                return (
                    f"the {key} of {label} is a {type(tensor).__name__} of {tensor.dtype}, not a plain "
                    "floating-point parameter"
                )
        calls = self.steps.calls[step.name]
        if calls > 1:
            return f"the model calls {label} {calls} times"
        for key in ("weight", "bias"):
            if self.steps.is_read_outside(step.name, key):
                return f"the model's code reads the {key} of {label}"
        given: Any = self.model.get_submodule(step.name)
        for owner, theirs_name, theirs in self.tensors:
            for key in ("weight", "bias"):
                if owner is not given and _overlap(getattr(given, key), theirs):
                    return f"{label} shares its {key} with {theirs_name}"
        return None

    # folding: None if done, or why not

    def _fold_before(self, step: Step, actions: dict[str, str]) -> str | None:
        norm: Any = self._module(step)
        source = step.sources[0]
        while source.writes and self._layer(source.sources[0]) is not None:
            source = source.sources[0]  # the same tensor, before something was written into it
        layer = self._layer(source)
        if layer is None:
            return f"{self._describe(source)} comes before it"
        label = self._label(layer)
        refusal = self._layer_refusal(source, layer)
        if refusal:
            return refusal
        others = [self._describe(user) for user in source.users if user is not step]
        if others:
            return f"the output of {label} also goes to {' and '.join(others)}"
        scale, shift = layers.scale_and_shift_of(norm)
        refusal = layers.misplaced(layer, label, len(source.shape), scale.numel(), out=True)
        refusal = refusal or layers.merge(layer, label, scale, shift, out=True)
        if refusal:
            return refusal
        actions[step.name] = f"folded into {self.names[layer]} before it"
        following = layers.following(norm)
        if following is None:
            step.take_out()
        self._replace(norm, following or torch.nn.Identity())
        return None

    def _fold_after(self, step: Step, actions: dict[str, str]) -> str | None:
        norm: Any = self._module(step)
        users = step.users
        if not users:
            return "nothing uses its output"
        if len(users) > 1:
            return f"its output goes to {' and '.join(map(self._describe, users))}"
        target = users[0]
        layer = self._layer(target)
        if layer is None or target.sources[0] is not step:
            further = [self._layer(user) for user in target.users]
            if len(further) == 1 and further[0] is not None:
                return f"{self._describe(target)} stands between it and {self._label(further[0])}"
            return f"{self._describe(target)} comes after it"
        label = self._label(layer)
        following = layers.following(norm)
        if following is not None:
            return (
                f"its activation {getattr(norm, 'activation', None) or type(following).__name__} stands between it "
                f"and {label}"
            )
        refusal = self._layer_refusal(target, layer)
        if refusal:
            return refusal
        if (step.name, target.name) in self.given.overwritten:
            return f"its input is overwritten before {label} runs"
        scale, shift = layers.scale_and_shift_of(norm)
        if shift.any():
            if isinstance(layer, ConvTransposeBase):
                return f"{label} does not use all its taps everywhere, and the norm's shift is not zero"
            if isinstance(layer, ConvBase) and layers.pads_with_zeros(layer):
                return f"{label} pads with zeros, and the norm's shift is not zero"
        refusal = layers.misplaced(layer, label, len(step.shape), scale.numel(), out=False)
        refusal = refusal or layers.merge(layer, label, scale, shift, out=False)
        if refusal:
            return refusal
        actions[step.name] = f"folded into {self.names[layer]} after it"
        step.take_out()
        self._replace(norm, torch.nn.Identity())
        return None

    def _replace(self, norm: Module, by: Module) -> None:
        by.train(norm.training)
        for parent in list(self.names):
            for key, child in list(parent._modules.items()):
                if child is norm:
                    parent._modules[key] = by
        self.names[by] = self.names.pop(norm)


def _overlap(a: Any, b: Any) -> bool:
    """Whether two plain tensors have memory in common."""
    if not all(type(x) in (Tensor, Parameter) and x.layout == torch.strided and x.numel() for x in (a, b)):
        return a is b and a is not None
    if a.device != b.device:
        return False
    (first, end), (other_first, other_end) = _span(a), _span(b)
    return first < other_end and other_first < end


def _span(x: Tensor) -> tuple[int, int]:
    reach = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (reach + 1) * x.element_size()
