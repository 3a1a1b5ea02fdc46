"""Finds where a model's own code uses the size of a tensor in a condition: ``if x.shape[-1] > 32``, ``range(n)``,
``int(h)``. Such a model may do something else with an input of another size.

The model runs once more, on fake tensors whose sizes are symbols with a value (torch's ShapeEnv): arithmetic on sizes
stays symbolic, and only a conversion to bool, int or float needs the value. torch's own code converts sizes too, to
check shapes; only conversions by the model's code count.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from .. import source
from .._torch import fake_tensors, size_symbols, tree_map
from .running import Shape, describe_failure, tensors_like, unchanged
from .sizes import ObservedSizes

__all__ = ["conditions"]


def conditions(
    model: Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    apart: Callable[[Module], bool] = lambda module: False,
    exact: bool = True,
) -> tuple[str, ...]:
    """Returns the lines of the model's code, as "/path/net.py:12", that use the value of a size, each once; with a
    description of the error, if the model's forward fails on such tensors.

    args, kwargs: as :func:`.running.arguments` returns them; all sizes of their tensors are symbols. apart: whether to
    ignore the code that a module runs when it is called. The model does not change.

    Most models have no such lines, and symbols make a model ten times slower. So it first runs with faster proxies for
    sizes (:mod:`.sizes`), and if those report nothing, the result is known. exact: False accepts the proxies' result,
    which includes sizes that are the same for every input, such as a convolution's channels.

    >>> conditions(torch.nn.Conv2d(3, 8, 3), (torch.ones(1, 3, 8, 8),), {})
    ()
    """
    found: dict[str, None] = {}
    at_work: list[Module] = []  # running modules whose code does not count

    def note() -> None:
        line = None if at_work else _line()
        if line is not None:
            found[line] = None

    def run(
        mode: AbstractContextManager[Any],
        fake: Callable[[Tensor, bool], Tensor],
        observed: AbstractContextManager[Any],
    ) -> None:
        like = tensors_like(model)

        def given(one: Any) -> Any:
            if isinstance(one, Shape):
                one = torch.empty(one.shape, **like)
            return fake(one, True) if isinstance(one, Tensor) else one

        with unchanged(model), torch.random.fork_rng(devices=[]):
            for module in filter(apart, model.modules()):
                module.register_forward_pre_hook(lambda module, _: at_work.append(module))
                module.register_forward_hook(lambda *_: at_work.pop() and None, always_call=True)
            fake_args, fake_kwargs = tree_map(given, (args, kwargs))
            with mode:
                same: dict[int, Tensor] = {}
                tensors = {
                    name: same.setdefault(id(t), t if id(t) in same else fake(t, False))
                    for name, t in [
                        *model.named_parameters(remove_duplicate=False),
                        *model.named_buffers(remove_duplicate=False),
                    ]
                }
                with observed:
                    torch.func.functional_call(model, tensors, fake_args, fake_kwargs)

    asked: dict[str, None] = {}
    quick = fake_tensors(allow_non_fake_inputs=True)
    with suppress(Exception, SystemExit):  # code that fails with proxies may work with symbols
        sizes = ObservedSizes(lambda line: None if at_work else asked.setdefault(line))
        run(quick, lambda x, _: quick.from_tensor(x), sizes)
        if not (asked and exact):
            return tuple(asked)
    at_work.clear()
    try:
        run(*size_symbols(note), nullcontext())
    except (Exception, SystemExit) as error:
        return (*found, describe_failure(error))
    return tuple(found)


def _line() -> str | None:
    """The line of the model's code that converts a size; None if torch's code converts it."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_name not in CONVERSIONS:
        if source.is_users(frame.f_code.co_filename):
            return None  # converted in C++, by a torch function that this line calls
        frame = frame.f_back
    while frame is not None and frame.f_code.co_name in CONVERSIONS:
        frame = frame.f_back
    if frame is None or not source.is_users(frame.f_code.co_filename):
        return None
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


CONVERSIONS = ("__bool__", "__int__", "__float__", "__index__", "__round__", "__floor__", "__ceil__", "__trunc__")
