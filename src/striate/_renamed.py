"""Keeps public names that were moved or renamed since the last release working for one more release, with a warning.

A module that was moved is imported as an alias of the one that took its place. An old name in a module that stays is
found by the module's ``__getattr__``, which :func:`accept_old_names` sets.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

__all__ = ["accept_old_names", "old_keywords"]

P = ParamSpec("P")
T = TypeVar("T")

# Old to new: of modules, and of names as "module:name"; all without the prefix "striate.".
MODULES: dict[str, str] = {
    "analysis.context": "analysis.lint.context",
    "analysis.cost": "graph.cost",
    "analysis.field": "analysis.inspect.fields",
    "analysis.fix": "analysis.lint.fix",
    "analysis.group": "analysis.lint.group",
    "analysis.ignore": "analysis.lint.ignore",
    "analysis.inspection": "analysis.inspect.inspection",
    "analysis.links": "graph.links",
    "analysis.page": "analysis.inspect.page",
    "analysis.picture": "analysis.inspect.picture",
    "analysis.report": "analysis.inspect.report",
    "analysis.rows": "analysis.inspect.rows",
    "analysis.rule": "analysis.lint.rule",
    "analysis.rules": "analysis.lint.rules",
    "analysis.rules.decay": "analysis.lint.rules.decay",
    "analysis.rules.depth": "analysis.lint.rules.depth",
    "analysis.rules.head": "analysis.lint.rules.head",
    "analysis.rules.mode": "analysis.lint.rules.mode",
    "analysis.rules.norm": "analysis.lint.rules.norm",
    "analysis.rules.window": "analysis.lint.rules.window",
    "analysis.stage": "analysis.inspect.stage",
    "analysis.trace": "graph.recording",
    "analysis.worked": "analysis.explain.worked",
    "deploy.graph": "deploy.operators",
    "diagnostics.field": "diagnostics.fields",
    "ops.choose": "ops.dispatch",
    "ops.crossovers": "tuning.select",
    "ops.handed": "ops.batch_stats",
    "ops.handover": "ops.torch_calls",
    "ops.recipe": "ops.rematerialize",
    "ops.shared": "ops.sync_batch_norm",
    "ops.traced": "ops.operator_rules",
    "text": "render.numbers",
    "training.job": "training.run",
    "training.loop": "training.fit",
}
NAMES: dict[str, str] = {
    "analysis.page:markdown": "analysis.inspect.markdown:markdown",
    "analysis.page:table": "analysis.inspect.table:table",
    "analysis.report:ReceptiveField": "analysis.inspect.result:ReceptiveField",
    "analysis.rule:Finding": "analysis.lint.finding:Finding",
    "analysis.rule:SEVERITIES": "analysis.lint.finding:SEVERITIES",
    "analysis.trace:Call": "graph.recording:ModuleCall",
    "analysis.trace:Graph": "graph.recording:Recording",
    "analysis.trace:Node": "graph.recording:Operation",
    "analysis.trace:trace": "graph.recording:record",
    "analysis.worked:EXAMPLES": "analysis.explain.examples:EXAMPLES",
    "analysis.worked:Example": "analysis.explain.examples:Example",
    "analysis.worked:PLACES": "analysis.explain.worked:LEGEND",
    "analysis.worked:Row": "analysis.explain.result:Row",
    "analysis.worked:letters": "analysis.explain.steps:tensor_names",
    "analysis.worked:shrink": "analysis.explain.shrink:shrink",
    "cli:table": "render.text:facts",
    "deploy.bounds:Plan": "deploy.bounds:Measurements",
    "deploy.bounds:affine": "deploy.bounds:norm_scale_and_shift",
    "deploy.bounds:plan": "deploy.bounds:measurements",
    "deploy.capture:trace": "deploy.capture:capture",
    "deploy.graph:Graph": "deploy.program:Program",
    "deploy.graph:Node": "deploy.program:Node",
    "deploy.graph:Refusal": "deploy.program:Refusal",
    "diagnostics.profile:Layer": "diagnostics.profile:LayerTime",
    "diagnostics:Layer": "diagnostics:LayerTime",
    "models.resnet:Bottleneck": "models.resnet:ResNetBottleneck",
    "nn.adapters:imported": "nn.adapters:imported_classes",
    "nn.adapters:made": "nn.adapters:adapter_of",
    "nn.container:Passed": "nn.fusion:Intermediate",
    "nn.container:Watched": "nn.fusion:ObservedForward",
    "nn.container:activation_of": "nn.fusion:activation_of",
    "nn.container:is_plain": "nn.fusion:is_plain",
    "nn.container:looked_at": "nn.fusion:calls_are_observed",
    "nn.container:theirs_of": "nn.container:torch_container_of",
    "ops.choose:explain": "ops.dispatch:explain_choice",
    "ops.conv:Call": "ops.conv:ConvProblem",
    "ops.conv:Plan": "ops.conv:ConvGeometry",
    "ops.conv:explain": "ops.conv:explain_methods",
    "ops.conv:plan_for": "ops.conv:geometry_for",
    "ops.crossovers:slower": "tuning.select:not_preferred",
    "ops.handed:hand": "ops.batch_stats:attach_statistics",
    "ops.handed:take": "ops.batch_stats:take_statistics",
    "ops.handover:around": "ops.torch_calls:pad_list",
    "ops.handover:clamped": "ops.torch_calls:clamp_stride",
    "ops.handover:conv_as_it_came": "ops.torch_calls:conv_unchecked",
    "ops.handover:margins": "ops.torch_calls:resolved_pad_list",
    "ops.handover:same": "ops.torch_calls:same_pads",
    "ops.handover:sliced": "ops.torch_calls:strided_slice",
    "ops.handover:transpose_as_it_came": "ops.torch_calls:conv_transpose_unchecked",
    "ops.local:Plan": "ops.local:LocalGeometry",
    "ops.local:geometry": "ops.local:resolve",
    "ops.norm:local_response_norm": "ops.local_response:local_response_norm",
    "ops.recipe:keep": "ops.rematerialize:save_or_recompute",
    "ops.recipe:offer": "ops.rematerialize:allow_recompute",
    "reference.conv:conv_input": "reference.conv:conv_backward_data",
    "reference.conv:conv_weight": "reference.conv:conv_backward_weights",
    "text:columns": "render.text:columns",
    "text:joined": "render.names:joined",
}

PACKAGE = __name__.partition(".")[0]


def _lookup(module: str, name: str, stacklevel: int = 2) -> Any:
    """The object that took the place of an old name in a module; warns the code that uses the old name."""
    old = module.removeprefix(f"{PACKAGE}.")
    home, _, new = NAMES.get(f"{old}:{name}", f"{MODULES.get(old, '')}:{name}").partition(":")
    if f"{old}.{name}" in MODULES or (module == PACKAGE and name in MODULES):
        return import_module(f"{module}.{name}")
    if name.startswith("__") or not home:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    there = vars(import_module(f"{PACKAGE}.{home}"))
    if new not in there:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    instead = f"{module}.{name} is {PACKAGE}.{home}.{new} now; the old name goes with the next release."
    warnings.warn(instead, DeprecationWarning, stacklevel=stacklevel)
    return there[new]


def accept_old_names(module: str) -> None:
    """Lets a module accept the old names of what was renamed in it, and a package those of its moved modules."""
    own = vars(sys.modules[module]).get("__getattr__")

    def lookup(name: str) -> Any:
        if own is not None and f"{module.removeprefix(f'{PACKAGE}.')}:{name}" not in NAMES:
            return own(name)
        return _lookup(module, name, stacklevel=3)

    sys.modules[module].__getattr__ = lookup  # type: ignore[method-assign]


def old_keywords(**names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Lets a function accept the old names of its arguments, given as ``old="new"``, with a warning."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            for old in names.keys() & kwargs.keys():
                new = names[old]
                instead = f"{function.__name__} takes {new}= in place of {old}=, which goes with the next release."
                warnings.warn(instead, DeprecationWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


class _Alias(ModuleType):
    """Stands for a module that was moved: its names are those of the new one."""

    def __getattr__(self, name: str) -> Any:
        return _lookup(self.__name__, name, stacklevel=3)


class _AliasLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Alias(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        new = f"{PACKAGE}.{MODULES[module.__name__.removeprefix(f'{PACKAGE}.')]}"
        instead = f"{module.__name__} is {new} now; the old name goes with the next release."
        warnings.warn(instead, DeprecationWarning, stacklevel=2)


class _AliasFinder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        old = fullname.removeprefix(f"{PACKAGE}.")
        if not fullname.startswith(f"{PACKAGE}.") or old not in MODULES:
            return None
        return ModuleSpec(fullname, _AliasLoader(), is_package=any(one.startswith(f"{old}.") for one in MODULES))


if not any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
    sys.meta_path.append(_AliasFinder())  # asked last: it costs nothing where a module is found
