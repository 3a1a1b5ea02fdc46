"""Where a model's own code asks for the size of a tensor in a condition: ``if x.shape[-1] > 32``, ``range(n)``,
``int(h)``. What such a model does with one input it need not do with an input of another size.

The model runs once more, on fake tensors whose sizes are symbols with a value (torch's ShapeEnv): arithmetic on sizes
stays symbolic, and only a conversion to bool, int or float asks for the value. torch's own code asks too, to check
shapes; what counts is a conversion that the model's code itself makes.
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
    """The lines of the model's code, as "/path/net.py:12", at which a size is asked for its value, each once; what went
    wrong, if the model's forward fails on such tensors.

    args, kwargs: of :func:`.running.arguments`. All sizes of all their tensors are symbols. apart: whether code that a
    module runs when it is called does not count. What the model is stays as it is.

    Most models have none, and arithmetic on symbols takes ten times as long as a model without: so the model runs with
    quicker stand-ins for sizes first (:mod:`.sizes`), and is done with where nobody asks for one. exact: False is
    content with these, which also note sizes that are the same for every input, as a convolution's channels are.

    >>> conditions(torch.nn.Conv2d(3, 8, 3), (torch.ones(1, 3, 8, 8),), {})
    ()
    """
    found: dict[str, None] = {}
    at_work: list[Module] = []  # modules whose code does not count

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
    with suppress(Exception, SystemExit):  # code that cannot do with stand-ins may do with symbols
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
    """The line of the model's code that converts a size; None where torch's code does."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_name not in CONVERSIONS:
        if source.is_users(frame.f_code.co_filename):
            return None  # the conversion was made in C++, for a function of torch's that this line calls
        frame = frame.f_back
    while frame is not None and frame.f_code.co_name in CONVERSIONS:
        frame = frame.f_back
    if frame is None or not source.is_users(frame.f_code.co_filename):
        return None
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


CONVERSIONS = ("__bool__", "__int__", "__float__", "__index__", "__round__", "__floor__", "__ceil__", "__trunc__")
