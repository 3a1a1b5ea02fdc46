"""Which batch norms of a model can be merged into the layer beside them, and doing it.

What stands before and after is read off a trace by torch.fx, call by call. A norm is left, with the reason, wherever
folding could change a result: torch.fx's own fusion misses layers that are called more than once (pytorch issues
104593 and 197539). The numbers are computed in :mod:`.arithmetic`.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, fx
from torch.nn import Module, Parameter
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from ... import source
from ..._torch import ConvBase, ConvTransposeBase, tree_leaves
from ...errors import ArgumentError, ArgumentTypeError, build, describe_error
from ...nn import adapters, functional
from ...nn.norm import BATCH_NORMS
from ..copying import copy_model
from ..root import Root
from .arithmetic import merge_into_inputs, merge_into_outputs, scale_and_shift
from .report import LEFT, FoldEntry, FoldReport

__all__ = ["fold"]

Model = TypeVar("Model", bound=Module)

LAYERS = (ConvBase, torch.nn.Linear)
ACTIVATIONS: dict[str, Callable[[Any], Module]] = {  # what a norm may do after normalizing, as a layer of its own
    "relu": lambda norm: torch.nn.ReLU(),
    "leaky_relu": lambda norm: torch.nn.LeakyReLU(norm.negative_slope),
    "relu6": lambda norm: torch.nn.ReLU6(),
    "silu": lambda norm: torch.nn.SiLU(),
}
OWN_CODE = ("torch.nn.modules.", "striate.nn.")  # where a forward comes from whose formula is known
METADATA = ("shape", "dtype", "device", "ndim", "size", "dim", "numel")  # what folding does not change
HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
}


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

    Raises ArgumentTypeError for another example, ArgumentError if torch.fx cannot trace the model. Warns if the outputs
    differ by more than rounding explains.

    Source: S. Ioffe, C. Szegedy, "Batch Normalization", 2015, whose inference network (algorithm 2, line 11) is ``s·x +
    t``.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).eval()
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
        expected, counts = _run(model, inputs)
        trace = _trace(model, inputs)
        _check_counts(trace, counts)
        result = copy_model(model, "fold")
        entries = _Folder(model, result, trace).entries()
        try:
            got, _ = _run(result, inputs)
        except Exception as error:
            hint = "Call the norms only as layers: the folded model has Identity in their place."
            raise ArgumentError(
                build("fold", "a model that runs without its batch norms", describe_error(error), hint=hint)
            ) from error
        difference, largest = _compare(expected, got)
        report = FoldReport(tuple(entries), difference, largest)
        if not math.isnan(largest) and not difference <= _usual_rounding([*expected, *result.parameters()]) * largest:
            found = f"{difference:.1e} where outputs reach {largest:.1e}"
            hint = "Compare the two models on your own data before you use the folded one."
            warnings.warn(build("fold", "a difference that rounding explains", found, hint=hint), stacklevel=2)
    return result, report


# Running and comparing. Every run is one of a copy: a run may change a model's state.


def _same_random_numbers(model: Module) -> AbstractContextManager[None]:
    """Each block under this draws the same numbers, and the caller's generators stay as they are."""
    return torch.random.fork_rng(sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"}))


def _run(model: Module, inputs: tuple[Tensor, ...]) -> tuple[list[Tensor], Counter[str]]:
    """The floating-point outputs of a copy of the model, and how often each layer and norm was called."""
    model = copy_model(model, "fold")
    counts: Counter[str] = Counter()
    pieces = set(_pieces(model))
    inside = _parts(pieces)
    for name, module in model.named_modules():
        if isinstance(module, (*LAYERS, *BATCH_NORMS)) and module in pieces and module not in inside:
            module.register_forward_pre_hook(lambda *_, name=name: counts.update([name]))
    with _same_random_numbers(model):
        output = model(*(x.detach().clone() for x in inputs))
    leaves = tree_leaves(output)
    return [x for x in leaves if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())], counts


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
    return max(math.sqrt(torch.finfo(x.dtype).eps) for x in tensors if x.is_floating_point() or x.is_complex())


# The trace.


def _is_piece(module: Module) -> bool:
    """Whether the trace takes a module as one piece: torch's and striate's layers, and all that could be a layer or a
    norm.
    """
    if isinstance(module, (*LAYERS, *BATCH_NORMS)):
        return True
    if type(module) is Module or isinstance(module, (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)):
        return False
    return type(module).__module__.startswith(("torch.nn.", "torch.ao.nn.", "striate.nn."))


def _pieces(module: Module) -> Iterator[Module]:
    if _is_piece(module):
        yield module
    else:
        for child in module.children():
            yield from _pieces(child)


def _parts(pieces: Iterable[Module]) -> dict[Module, Module]:
    """The modules that the trace does not see, because each is a part of a piece; that piece."""
    return {part: piece for piece in pieces for part in piece.modules() if part is not piece}


PREFIX = len("model.")


class _Proxy(fx.Proxy):
    """A value of the trace into which code may write: ``y[:, 0] = 1.0``."""

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})


class _Tracer(fx.Tracer):
    def __init__(self, inputs: int) -> None:
        # they check their tensors
        ours = {f for f in vars(functional).values() if getattr(f, "__module__", "").startswith("striate.")}
        super().__init__(autowrap_functions=tuple(ours))
        self._autowrap_search = [*self._autowrap_search, functional]
        self.inputs = inputs
        self.read: set[int] = set()  # parameters and buffers that the model's own code asks for

    def is_leaf_module(self, m: Module, module_qualified_name: str) -> bool:
        return _is_piece(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        return root_fn, [
            self.root,
            *(self.create_proxy("placeholder", f"input_{i}", (), {}) for i in range(self.inputs)),
        ]

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if isinstance(attr_val, Tensor):
            self.read.add(id(attr_val))
        return super().getattr(attr, attr_val, parameter_proxy_cache)


class _Observer(fx.Interpreter):
    """Runs the trace; notes the shape of every tensor, and after which step a norm's input is overwritten."""

    def __init__(self, root: Module, graph: fx.Graph) -> None:
        super().__init__(root, graph=graph)
        self.root = root
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.steps: dict[fx.Node, int] = {}
        self.overwritten: dict[fx.Node, int] = {}
        self.watched: dict[fx.Node, tuple[Tensor, int]] = {}
        self.now = ""  # the node that runs

    def run_node(self, n: fx.Node) -> Any:
        self.now = n.name
        if n.op == "call_module" and isinstance(self.root.get_submodule(str(n.target)), BATCH_NORMS):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            x = args[0] if args else kwargs["input"]
            self.watched[n] = x, x._version
        result = super().run_node(n)
        self.steps[n] = len(self.steps)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
        for norm, (x, version) in self.watched.items():
            if x._version != version:
                self.overwritten.setdefault(norm, self.steps[n])
        return result


@dataclass(frozen=True)
class _Trace:
    graph: fx.Graph
    shapes: dict[fx.Node, tuple[int, ...]]
    steps: dict[fx.Node, int]  # a node's place in the order of execution
    overwritten: dict[fx.Node, int]  # from a norm to the step that first writes into its input
    read: set[str]  # the names of parameters and buffers that the model's own code asks for
    calls: dict[str, list[fx.Node]] = field(default_factory=dict)  # from a module's name


def _line_of(root: Module, inputs: int, name: str) -> str | None:
    """The line of the model's code that a node came from: traced once more, with the stacks, which takes much longer.
    """
    tracer = _Tracer(inputs)
    tracer.record_stack_traces = True
    told = next((node.stack_trace for node in tracer.trace(root).nodes if node.name == name), None) or ""
    return source.of_stack(told.rpartition(", in trace\n")[2])  # without who called fold


def _trace(model: Module, inputs: tuple[Tensor, ...]) -> _Trace:
    model = copy_model(model, "fold")
    root, tracer = Root(model), _Tracer(len(inputs))
    hint = (
        "Fold the parts of the model that can be traced one by one, or take what depends on the input's values out "
        "of forward."
    )
    with _same_random_numbers(model):
        try:
            graph = tracer.trace(root)
        except Exception as error:
            got = f"{describe_error(error)}{source.at(source.of_error(error))}"
            raise ArgumentError(build("fold", "a model that torch.fx can trace", got, hint=hint)) from error
        read = {name for name, x in root.named_parameters(remove_duplicate=False) if id(x) in tracer.read}
        read |= {name for name, x in root.named_buffers(remove_duplicate=False) if id(x) in tracer.read}
        observer = _Observer(root, graph)
        try:
            observer.run(*(x.detach().clone() for x in inputs))
        except Exception as error:
            got = f"{describe_error(error)}{source.at(_line_of(root, len(inputs), observer.now))}"
            raise ArgumentError(build("fold", "a model whose trace runs on the example", got, hint=hint)) from error
    read |= {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    trace = _Trace(graph, observer.shapes, observer.steps, observer.overwritten, {name[PREFIX:] for name in read})
    for node in graph.nodes:
        if node.op == "call_module":
            trace.calls.setdefault(_name(node), []).append(node)
    return trace


def _check_counts(trace: _Trace, counts: Counter[str]) -> None:
    """A trace follows one way through Python's conditions. It is of no use if a run takes another."""
    for name, count in counts.items():
        traced = len(trace.calls.get(name, []))
        if traced != count:
            found = f"{_times(traced)} of {name or 'the model'} in the trace, {_times(count)} in a run"
            hint = "Take conditions on types, such as isinstance(x, torch.Tensor), out of forward."
            raise ArgumentError(build("fold", "a trace that calls what the model calls", found, hint=hint))


def _times(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


def _name(node: fx.Node) -> str:
    return str(node.target)[PREFIX:]


def _input(node: fx.Node) -> Any:
    return node.args[0] if node.args else node.kwargs["input"]


def _function_name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _users(node: fx.Node) -> list[fx.Node]:
    """The nodes that use a node's values: asking for its shape is no use of them."""

    def only_asks(user: fx.Node) -> bool:
        if user.op == "call_function" and _function_name(user) == "getattr":
            return user.args[1] in METADATA
        return user.op == "call_method" and user.target in METADATA

    return [user for user in node.users if not only_asks(user)]


# Deciding and folding.


class _Folder:
    """Folds into ``result`` what can be folded, and writes it off the trace. ``model`` is only read."""

    def __init__(self, model: Module, result: Module, trace: _Trace) -> None:
        self.model, self.result, self.trace = model, result, trace
        self.names = {module: name for name, module in result.named_modules()}
        self.norms = {name: module for name, module in result.named_modules() if isinstance(module, BATCH_NORMS)}
        self.inside = _parts(_pieces(result))
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
        for node in list(trace.graph.nodes):
            if (
                node.op == "call_module"
                and type(self._module(node)) is torch.nn.Identity
                and not _changed(self._module(node), "it")
            ):
                self._take_out(node)  # as a folded norm: it does nothing

    def entries(self) -> list[FoldEntry]:
        actions: dict[str, str] = {}
        reasons = {name: self._norm_refusal(name, norm) for name, norm in self.norms.items()}
        candidates = [
            node
            for node in self.trace.graph.nodes
            if node.op == "call_module" and reasons.get(_name(node), "no norm") is None
        ]
        before = {node: self._fold_before(node, actions) for node in candidates}
        for node in reversed(candidates):  # of two norms before a layer the second is folded first
            if before[node] is not None:
                after = self._fold_after(node, actions)
                reasons[_name(node)] = after and f"{before[node]}; {after}"
        entries = [
            FoldEntry(name or "the model", actions.get(name, LEFT), reason or "") for name, reason in reasons.items()
        ]
        functions = [
            node
            for node in self.trace.graph.nodes
            if node.op == "call_function" and "batch_norm" in _function_name(node)
        ]
        return entries + [FoldEntry(node.name, LEFT, "a call of a function, not a layer") for node in functions]

    # what stands where

    def _module(self, node: fx.Node) -> Module:
        return self.result.get_submodule(_name(node))

    def _layer(self, node: Any) -> Any:
        """The convolution or linear layer that a node calls, if it calls one."""
        if isinstance(node, fx.Node) and node.op == "call_module" and isinstance(self._module(node), LAYERS):
            return self._module(node)
        return None

    def _what(self, node: Any) -> str:
        if not isinstance(node, fx.Node) or node.op == "get_attr":
            return "a constant"
        if node.op == "call_module":
            return self._label(self._module(node))
        return {"placeholder": "the model's input", "output": "the model's output"}.get(node.op) or _function_name(node)

    def _label(self, module: Module) -> str:
        quantized = "quantized " if ".quantized." in type(module).__module__ else ""
        return f"{quantized}{type(module).__name__} {self.names.get(module, '')}".rstrip()

    def _take_out(self, node: fx.Node) -> None:
        node.replace_all_uses_with(_input(node))
        self.trace.graph.erase_node(node)

    # refusals: None, or why not

    def _norm_refusal(self, name: str, norm: Any) -> str | None:
        """What keeps a norm from being folded, whatever stands beside it."""
        calls = self.trace.calls.get(name, [])
        if norm in self.inside:
            return f"it stands inside {self._label(self.inside[norm])}, which the trace does not enter"
        if not calls:
            return "the model does not call it"
        if len(calls) > 1:
            return f"the model calls it {len(calls)} times"
        refusal = _changed(norm, "it")
        if refusal:
            return refusal
        if norm.training and not getattr(norm, "frozen", False):
            return "it is in training mode: call eval() on the model first"
        if norm.running_mean is None or norm.running_var is None:
            return "it keeps no running statistics (track_running_stats=False)"
        if len(calls[0].args) + len(calls[0].kwargs) != 1:
            return "the call has a second argument"
        activation = getattr(norm, "activation", None)
        if activation is not None and activation not in ACTIVATIONS:
            return f"its activation {activation} is none of {', '.join(ACTIVATIONS)}"
        if not (norm.running_mean.isfinite().all() and norm.running_var.isfinite().all()):
            return "its running statistics are not finite"
        if (norm.running_var.double() + norm.eps <= 0).any():
            return "its running variance plus eps is not above zero in every channel"
        if not all(x.isfinite().all() for x in _scale_and_shift(norm)):
            return "its weight or bias is not finite"
        asked = [key for key in [*norm._parameters, *norm._buffers] if f"{name}.{key}" in self.trace.read]
        if asked:
            return f"the model's code reads its {asked[0]}"
        # Identity takes the place of a submodule: another reference would go on calling the norm
        if id(norm) in self.held:
            return f"{self.held[id(norm)]} also holds it, outside the submodules"
        return None

    def _layer_refusal(self, node: fx.Node, layer: Any) -> str | None:
        """What keeps a layer's weight from being changed."""
        name, label = _name(node), self._label(layer)
        refusal = _changed(layer, label)
        if refusal:
            return refusal
        if layer in self.inside:
            return f"{label} is also a part of {self._label(self.inside[layer])}, which the trace does not enter"
        for key in ("weight", "bias"):
            tensor = getattr(layer, key)
            if tensor is not None and (type(tensor) is not Parameter or not tensor.is_floating_point()):
                return (
                    f"the {key} of {label} is a {type(tensor).__name__} of {tensor.dtype}, not a plain "
                    "floating-point parameter"
                )
        calls = len(self.trace.calls[name])
        if calls > 1:
            return f"the model calls {label} {calls} times"
        for asked in self.trace.graph.nodes:
            if asked.op == "get_attr" and _name(asked) in (f"{name}.weight", f"{name}.bias") and _users(asked):
                return f"the model's code reads the {_name(asked).rpartition('.')[2]} of {label}"
        given: Any = self.model.get_submodule(name)
        for owner, theirs_name, theirs in self.tensors:
            for key in ("weight", "bias"):
                if owner is not given and _overlap(getattr(given, key), theirs):
                    return f"{label} shares its {key} with {theirs_name}"
        return None

    # folding: None if done, or why not

    def _fold_before(self, node: fx.Node, actions: dict[str, str]) -> str | None:
        norm: Any = self._module(node)
        source = _input(node)
        layer = self._layer(source)
        if layer is None:
            return f"{self._what(source)} comes before it"
        label = self._label(layer)
        refusal = self._layer_refusal(source, layer)
        if refusal:
            return refusal
        others = [self._what(user) for user in _users(source) if user is not node]
        if others:
            return f"the output of {label} also goes to {' and '.join(others)}"
        scale, shift = _scale_and_shift(norm)
        refusal = _misplaced(layer, label, len(self.trace.shapes[source]), scale.numel(), out=True)
        refusal = refusal or _merge(layer, label, scale, shift, out=True)
        if refusal:
            return refusal
        actions[_name(node)] = f"folded into {self.names[layer]} before it"
        following = _following(norm)
        if following is None:
            self._take_out(node)
        self._replace(norm, following or torch.nn.Identity())
        return None

    def _fold_after(self, node: fx.Node, actions: dict[str, str]) -> str | None:
        norm: Any = self._module(node)
        users = _users(node)
        if len(users) != 1:
            return f"its output goes to {' and '.join(map(self._what, users))}" if users else "nothing uses its output"
        target = users[0]
        layer = self._layer(target)
        if layer is None:
            further = [self._layer(user) for user in _users(target)]
            if len(further) == 1 and further[0] is not None:
                return f"{self._what(target)} stands between it and {self._label(further[0])}"
            return f"{self._what(target)} comes after it"
        label = self._label(layer)
        following = _following(norm)
        if following is not None:
            return (
                f"its activation {getattr(norm, 'activation', None) or type(following).__name__} stands between it "
                f"and {label}"
            )
        refusal = self._layer_refusal(target, layer)
        if refusal:
            return refusal
        if self.trace.overwritten.get(node, math.inf) < self.trace.steps[target]:
            return f"its input is overwritten before {label} runs"
        scale, shift = _scale_and_shift(norm)
        if shift.any():
            if isinstance(layer, ConvTransposeBase):
                return f"{label} does not use all its taps everywhere, and the norm's shift is not zero"
            if isinstance(layer, ConvBase) and _pads_with_zeros(layer):
                return f"{label} pads with zeros, and the norm's shift is not zero"
        refusal = _misplaced(layer, label, len(self.trace.shapes[node]), scale.numel(), out=False)
        refusal = refusal or _merge(layer, label, scale, shift, out=False)
        if refusal:
            return refusal
        actions[_name(node)] = f"folded into {self.names[layer]} after it"
        self._take_out(node)
        self._replace(norm, torch.nn.Identity())
        return None

    def _replace(self, norm: Module, by: Module) -> None:
        by.train(norm.training)
        for parent in list(self.names):
            for key, child in list(parent._modules.items()):
                if child is norm:
                    parent._modules[key] = by
        self.names[by] = self.names.pop(norm)


def _changed(module: Module, subject: str) -> str | None:
    """Whether a module does something else than its class says, or is not ready: None, or what."""
    for method in ("forward", "_conv_forward", "_output_padding", "_check_input_dim", "__call__"):
        code = getattr(type(module), method, None)
        own = code is not None and not str(getattr(code, "__module__", "")).startswith(OWN_CODE)
        if method in vars(module) or (own and not adapters.is_known(module)):
            return f"{subject} has a {method} of its own"
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        return f"{subject} has no shape yet: run the model once"
    if parametrize.is_parametrized(module):
        return f"{subject} is parametrized"
    if isinstance(module, (*LAYERS, *BATCH_NORMS)):
        computed = [key for key in ("weight", "bias") if key not in module._parameters or hasattr(type(module), key)]
        computed = ["weight"] if adapters.computes_its_weight(module) else computed
        if computed:
            return f"{subject} computes its {computed[0]} before each call"
    return next((f"{subject} has a {told}" for hooks, told in HOOKS.items() if getattr(module, hooks)), None)


def _following(norm: Any) -> Module | None:
    """What a norm does after it has normalized, as a module."""
    activation = getattr(norm, "activation", None)
    return adapters.behind(norm) if activation is None else ACTIVATIONS[activation](norm)


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


def _groups(layer: Any) -> int:
    return layer.groups if isinstance(layer, ConvBase) else 1


def _pads_with_zeros(conv: Any) -> bool:
    if conv.padding_mode != "zeros" or conv.padding == "valid":
        return False
    if conv.padding == "same" or adapters.pads_itself(conv):
        return any(size > 1 for size in conv.kernel_size)
    return any(conv.padding) if isinstance(conv.padding, tuple) else bool(conv.padding)


def _misplaced(layer: Any, label: str, rank: int, channels: int, *, out: bool) -> str | None:
    """Whether a layer's channels are not the norm's, in number or place: a linear layer's features are on the last
    axis.
    """
    axis = rank - 1 - (len(layer.kernel_size) if isinstance(layer, ConvBase) else 0)
    if axis != 1:
        return f"the channels of {label} are on axis {axis}, those of the norm on axis 1"
    first, second = layer.weight.shape[:2]
    has = first if out != isinstance(layer, ConvTransposeBase) else second * _groups(layer)
    return None if has == channels else f"{label} has {has} channels there, the norm {channels}"


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """s and t of ``y = s·x + t``, in float64."""
    return scale_and_shift(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)


def _merge(layer: Any, label: str, scale: Tensor, shift: Tensor, *, out: bool) -> str | None:
    """Puts ``s·x + t`` into a layer, on its outputs or its inputs. None, or why the numbers do not allow it."""
    merge = merge_into_outputs if out else merge_into_inputs
    transposed = isinstance(layer, ConvTransposeBase)
    weight, bias = merge(layer.weight, layer.bias, scale, shift, groups=_groups(layer), transposed=transposed)
    dtype = layer.weight.dtype
    if not all(x is None or x.to(dtype).isfinite().all() for x in (weight, bias)):
        return f"the folded weights of {label} are not finite in {dtype}"
    layer.weight.copy_(weight)  # in place: memory format, requires_grad and identity stay
    if layer.bias is not None:
        layer.bias.copy_(bias)
    elif bias is not None:
        layer.bias = Parameter(bias.to(layer.weight.device, dtype), requires_grad=layer.weight.requires_grad)
    return None
