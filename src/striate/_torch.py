"""All private names of torch that striate uses, and the features that are off where a release of torch lacks one.

Any release of torch may change a name here. Each is looked up once, when striate is imported, together with a
replacement for where it is missing and the feature that is then off. :data:`off` lists these features, and importing
striate warns of them.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _BatchNorm as BatchNormBase
    from torch.nn.modules.batchnorm import _NormBase as NormBase
    from torch.nn.modules.conv import _ConvNd as ConvBase
    from torch.nn.modules.conv import _ConvTransposeNd as ConvTransposeBase
    from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNormBase

__all__ = [
    "ATTRIBUTES",
    "NATIVE",
    "OPERATORS",
    "AdaptiveMaxPoolBase",
    "AttentionOutput",
    "BatchNormBase",
    "ConvBase",
    "ConvTransposeBase",
    "InstanceNormBase",
    "LossBase",
    "MaxPoolBase",
    "NormBase",
    "Observer",
    "OpOverload",
    "OpOverloadPacket",
    "TorchDispatchMode",
    "below_autograd",
    "below_views",
    "constant_while_compiling",
    "fake_tensors",
    "has_forward_derivatives",
    "has_global_hooks",
    "is_plain_eager",
    "is_recorded",
    "is_transformed",
    "is_transforming",
    "off",
    "saved_tensors_hooked",
    "size_symbols",
    "takes_functions",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
    "warn",
    "watching",
    "without_views",
]

NATIVE = "native kernels"  # the feature without which all layers use torch's operators
off: dict[str, list[str]] = {}  # feature → the missing names that it needs
F = TypeVar("F", bound=Callable[..., Any])


def _find(path: str, feature: str, otherwise: Any = None) -> Any:
    """The object of that name; where this torch has none, ``otherwise``, and ``feature`` is noted in :data:`off`.

    >>> _find("torch._C._no_such_name", "an example", 7), off.pop("an example")
    (7, ['torch._C._no_such_name'])
    """
    parts = path.split(".")
    for split in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ImportError:
            continue
        try:
            for part in parts[split:]:
                found = getattr(found, part)
        except AttributeError:
            break
        return found
    off.setdefault(feature, []).append(path)
    return otherwise


# -------------------------------------------------------------------------------------------- what can observe a call

_dispatch_modes = _find("torch._C._len_torch_dispatch_stack", NATIVE)
_function_modes = _find("torch._C._len_torch_function_stack", NATIVE)
_function_mode_stack = _find(
    "torch.overrides._get_current_function_mode_stack", "kernels under torch.set_default_device"
)
_DeviceContext = _find("torch.utils._device.DeviceContext", "kernels under torch.set_default_device")
_transforms = _find("torch._C._functorch.peek_interpreter_stack", NATIVE)
_tracing = _find("torch._C._is_tracing", NATIVE)
_find("torch.autograd.forward_ad._current_level", NATIVE)  # a value that changes: read at each use
_dispatch_mode_stack = _find(
    "torch.utils._python_dispatch._get_current_dispatch_mode_stack", "profiling of our kernels", list
)
_autocast = torch.is_autocast_enabled
# whether autocast is on for any device: answers in a third of the time
_any_autocast = _find("torch._C._is_any_autocast_enabled", "nothing", lambda: True)


def has_forward_derivatives() -> bool:
    """Whether a level of forward-mode differentiation is active.

    >>> has_forward_derivatives()
    False
    """
    return forward_ad._current_level >= 0


class Observer(TorchDispatchMode):
    """A dispatch mode of striate's that observes the native kernels, for which the gate therefore stays open."""


def is_plain_eager() -> bool:
    """Whether nothing in torch transforms, records or observes the calls of this thread now; see :func:`watching`.

    >>> is_plain_eager()
    True
    """
    return (
        (_dispatch_modes() == 0 or _only_observers())
        and _transforms() is None
        and not _tracing()
        and forward_ad._current_level < 0
        and not (_any_autocast() and _autocast("cpu"))
        and (_function_modes() == 0 or _only_devices())
    )


def _only_observers() -> bool:
    return all(isinstance(mode, Observer) for mode in _dispatch_mode_stack())


def _only_devices() -> bool:
    """Whether all torch-function modes are those of ``torch.set_default_device``.

    They choose the device of new tensors and change nothing else.
    """
    return _DeviceContext is not None and all(type(mode) is _DeviceContext for mode in _function_mode_stack())


def watching() -> str | None:
    """What transforms, records or observes the calls of this thread now, as a phrase; None if nothing does.

    >>> with torch.autocast("cpu", dtype=torch.bfloat16):
    ...     watching()
    'autocast chooses the type'
    """
    if _tracing():
        return "torch.jit.trace records torch's operators"
    if _transforms() is not None:
        return "kernels have no rule for function transforms (vmap, grad, jvp)"
    if _dispatch_modes() > 0 and not _only_observers():
        return "a dispatch mode looks on (a FLOP counter, fake tensors)"
    if _function_modes() > 0 and not _only_devices():
        return "a torch-function mode looks on"
    if forward_ad._current_level >= 0:
        return "kernels have no forward-mode derivative"
    return "autocast chooses the type" if _autocast("cpu") else None


def is_recorded() -> bool:
    """Whether ``torch.jit.trace`` is recording, where sizes are tensors."""
    tracing: bool = not torch.compiler.is_dynamo_compiling() and _tracing()
    return tracing


_is_wrapped = _find("torch._C._functorch.is_functorch_wrapped_tensor", NATIVE)
# tensors that autograd's is_grads_batched passes to backward
_is_batched = _find("torch._C._functorch.is_legacy_batchedtensor", "batched gradients", lambda x: False)
_depth = _find("torch._C._functorch.get_dynamic_layer_stack_depth", "compiled function transforms", int)


def is_transformed(x: torch.Tensor) -> bool:
    """Whether a function transform or ``is_grads_batched`` wraps the tensor, so that its strides cannot be read.

    >>> is_transformed(torch.ones(1)), torch.vmap(lambda x: x + is_transformed(x))(torch.zeros(1))
    (False, tensor([1.]))
    """
    return not torch.compiler.is_dynamo_compiling() and (_is_wrapped(x) or _is_batched(x))


def is_transforming() -> bool:
    """Whether a function transform is active; it works in code that ``torch.compile`` traces too.

    >>> is_transforming()
    False
    """
    return _depth() > 0  # the compiler evaluates it while it traces


_stack = _find("torch._C._functorch.get_interpreter_stack", "autograd functions within transforms", lambda: None)
_Functionalize = _find("torch._C._functorch.TransformType.Functionalize", "autograd functions within transforms")


def takes_functions() -> bool:
    """Whether an ``autograd.Function`` may be called here: tracers and ``torch.func.functionalize`` refuse them.

    >>> takes_functions()
    True
    """
    if torch.compiler.is_compiling() or is_recorded():
        return False
    return all(level.key() != _Functionalize for level in _stack() or ())


_HOOKS = [
    _find(f"torch.nn.modules.module._global_{name}_hooks", "values that only neighbours share", {None: None})
    for name in ("forward", "forward_pre", "backward", "backward_pre")
]


def has_global_hooks() -> bool:
    """Whether a global hook observes all modules (``torch.nn.modules.module.register_module_forward_hook`` …).

    >>> has_global_hooks()
    False
    """
    forward, forward_pre, backward, backward_pre = _HOOKS
    return bool(forward or forward_pre or backward or backward_pre)


# ------------------------------------------------------------------------------------------------------------- autograd

below_autograd = _find("torch._C._AutoDispatchBelowAutograd", NATIVE)
below_views = _find("torch._C._AutoDispatchBelowADInplaceOrView", NATIVE)
_exclude = _find("torch._C._ExcludeDispatchKeyGuard", "in-place changes of outputs without a batch axis")


def without_views() -> Any:
    """A ``with`` block in which autograd does not record that a tensor is a view of another."""
    if _exclude is None:
        return contextlib.nullcontext()
    return _exclude(torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView))


_saved_tensors_hooks = _find("torch._C._autograd._top_saved_tensors_default_hooks", "tensors made again in backward")


def saved_tensors_hooked() -> bool:
    """Whether a hook decides how tensors are saved for backward: a checkpoint's, or that of ``save_on_cpu``.

    >>> saved_tensors_hooked()
    False
    """
    return _saved_tensors_hooks is None or _saved_tensors_hooks(False) is not None


# ------------------------------------------------------------------------------------------- classes, trees, attributes

_t = torch.nn
if not TYPE_CHECKING:
    _known = "layers whose class is not one of torch's own"
    BatchNormBase = _find(
        "torch.nn.modules.batchnorm._BatchNorm", _known, (_t.BatchNorm1d, _t.BatchNorm2d, _t.BatchNorm3d)
    )
    InstanceNormBase = _find(
        "torch.nn.modules.instancenorm._InstanceNorm", _known, (_t.InstanceNorm1d, _t.InstanceNorm2d, _t.InstanceNorm3d)
    )
    NormBase = _find("torch.nn.modules.batchnorm._NormBase", _known, (BatchNormBase, InstanceNormBase))
    ConvTransposeBase = _find(
        "torch.nn.modules.conv._ConvTransposeNd", _known, (_t.ConvTranspose1d, _t.ConvTranspose2d, _t.ConvTranspose3d)
    )
    ConvBase = _find("torch.nn.modules.conv._ConvNd", _known, (_t.Conv1d, _t.Conv2d, _t.Conv3d, ConvTransposeBase))
MaxPoolBase = _find("torch.nn.modules.pooling._MaxPoolNd", "their rows in a profile", ())
AdaptiveMaxPoolBase = _find("torch.nn.modules.pooling._AdaptiveMaxPoolNd", "their rows in a profile", ())
# The output layer of torch's attention, which reads its weight and never calls it.
AttentionOutput = _find(
    "torch.nn.modules.linear.NonDynamicallyQuantizableLinear", "attention without a warning of accelerate's", None
)
LossBase = _find("torch.nn.modules.loss._Loss", "losses by name", torch.nn.Module)

tree_leaves, tree_map, tree_unflatten = (
    _find(f"torch.utils._pytree.{name}", "analysis and frozen models")
    for name in ("tree_leaves", "tree_map", "tree_unflatten")
)
OpOverload = _find("torch._ops.OpOverload", "analysis and frozen models")
OpOverloadPacket = _find("torch._ops.OpOverloadPacket", "analysis and frozen models")


def fake_tensors(**options: Any) -> Any:
    """A mode in which tensors have no memory. Its module is imported late: that takes longer than importing striate.
    """
    return importlib.import_module("torch._subclasses.fake_tensor").FakeTensorMode(**options)


def size_symbols(
    asked: Callable[[], None],
) -> tuple[contextlib.AbstractContextManager[None], Callable[[torch.Tensor, bool], torch.Tensor]]:
    """A context of fake tensors with symbolic sizes, and the function ``fake(x, symbolic)`` that makes them.

    With ``symbolic`` the sizes of the fake tensor are symbols, whose values are the sizes of x. ``asked`` is called
    whenever the value of a size, or of a comparison of sizes, is needed.
    """
    python = importlib.import_module("torch._dispatch.python")  # kernels in Python, which accept symbols
    shapes = importlib.import_module("torch.fx.experimental.symbolic_shapes")

    class Asked(shapes.ShapeEnv):  # type: ignore[name-defined, misc]
        def evaluate_sym_node(self, *args: Any, **kwargs: Any) -> Any:
            asked()
            return super().evaluate_sym_node(*args, **kwargs)

    # a size of 1 becomes a symbol too, and two sizes that are equal here become two symbols
    mode = fake_tensors(shape_env=Asked(specialize_zero_one=False, duck_shape=False), allow_non_fake_inputs=True)

    def fake(x: torch.Tensor, symbolic: bool) -> torch.Tensor:
        sizes = [shapes.DimDynamic.DYNAMIC if symbolic else shapes.DimDynamic.STATIC] * x.dim()
        found: torch.Tensor = mode.from_tensor(x, symbolic_context=shapes.StatelessSymbolicContext(dynamic_sizes=sizes))
        return found

    @contextlib.contextmanager
    def entered() -> Iterator[None]:
        with mode, python.enable_python_dispatcher():
            yield

    return entered(), fake


# The private attributes of torch's objects that striate reads, and the private operators it calls. They complete the
# list of private names.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "torch.compiler": ("_is_compiling_flag",),
    "a module": (
        "_modules",
        "_parameters",
        "_buffers",
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
    ),
    "a tensor": ("_base", "_version", "_post_accumulate_grad_hooks"),
    "a storage": ("_cdata",),
    "an operator": ("_schema",),
    "a lazy layer, an instance norm": ("_get_in_channels", "_get_no_batch_dim", "_check_input_dim"),
    "a convolution": ("_conv_forward",),
    "a node of autograd's": ("_raw_saved_tensors", "_raw_saved_input", "_forward_cls"),
}
OPERATORS = (
    *(
        "_convolution_pointwise",
        "_convolution_pointwise_",
        "_linear_pointwise",
        "_reorder_convolution_weight",
        "_reorder_linear_weight",
    ),
    *(
        "_batch_norm_no_update",
        "_batch_norm_with_update",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
    ),
)

_tensor = torch.empty(0)
_samples = {
    "torch.compiler": torch.compiler,
    "a module": torch.nn.Module(),
    "a tensor": _tensor,
    "a storage": _tensor.untyped_storage(),
}
for _owner, _sample in _samples.items():
    _gone = [f"{name} of {_owner}" for name in ATTRIBUTES[_owner] if not hasattr(_sample, name)]
    if _gone:
        off.setdefault("models whose parts are looked at", []).extend(_gone)

# -------------------------------------------------------------------------------------------------------- torch.compile


def constant_while_compiling(f: F) -> F:
    """Marks ``f`` so that ``torch.compile`` calls it once, untraced, and takes the result for a constant.

    It does the same as ``torch.compiler.assume_constant_result``, without importing the compiler.
    """
    f._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return f


def warn() -> None:
    """Warns of the features that are off on this torch."""
    for feature, names in off.items():
        consequence = "every layer uses torch's operator" if feature == NATIVE else "the rest works"
        lacks = f"striate does not know torch {torch.__version__}, which lacks {', '.join(names)}"
        warnings.warn(f"{lacks}: {feature} are off; {consequence}.", stacklevel=3)
