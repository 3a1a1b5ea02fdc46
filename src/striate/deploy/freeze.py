r"""Prepares a model for inference: it is captured once, folded, fused and packed, runs without autograd, and is saved
without pickle.

``torch.export`` captures the model as a *program*, a list of operators, for any batch size (:mod:`.capture`).
:mod:`.passes` shorten it: what depends on no input is computed once, batch norms are merged into the layers before
them, and layers are fused with the sum and clamp behind them. The remaining operators run in order (:mod:`.execute`),
by striate's functions if there is one and by torch's operators otherwise (:mod:`.operators`).
"""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Module

from .._torch import tree_leaves
from ..errors import ArgumentError, ArgumentTypeError, DtypeError, build, describe_error
from .capture import capture
from .copying import copy_model
from .file import not_running, read
from .frozen import Frozen
from .passes import shorten
from .program import Program

__all__ = ["Frozen", "freeze", "load"]

# The largest permitted difference of a frozen model's outputs, relative to their root mean square. Deep networks lose
# digits in float32 anyway: a ResNet-50 of random weights differs by 1.4e-4 from float64, and frozen by 1.8e-4.
ERROR = 1e-3


def freeze(model: Module, example_input: Tensor | tuple[Tensor, ...]) -> Frozen:
    r"""Returns a copy of ``model`` for inference only: folded, fused and packed once, for any batch size. ``model``
    does not change.

    .. math:: \max |frozen(x) - model(x)| ≤ 10^{-3} \sqrt{\operatorname{mean}\, model(x)^2}

    This is checked on the example and on a batch of 1, with a warning if it does not hold; ``frozen.difference`` is the
    ratio. NaN remains NaN, whether it is in the input or arises inside: such a call runs by torch's own operators
    (:mod:`.bounds`).

    model: of float32 on the CPU. It is frozen as ``model.eval()`` computes, whatever its mode. example_input: a tensor,
    or a tuple of tensors, that ``model(*example_input)`` runs on. All axes but the first are frozen with it; the first
    too, where the model needs it.

    Cost: the time is that of a trace, some seconds; the memory twice that of the weights, which are kept as they are
    and packed.

    Raises ArgumentTypeError for what is no model or example, DtypeError for other types and devices, and ArgumentError
    for a model that torch.export cannot trace, that changes state in forward, draws random numbers, depends on its
    input's values in a condition, or returns something else than tensors and None. The message names the line of the
    model's code where torch's trace has it.

    Source: V. Vanhoucke, A. Senior, M. Mao, "Improving the speed of neural networks on CPUs", 2011, for fixed weights
    laid out once; :func:`striate.fold` for the norms.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    >>> frozen = freeze(model, torch.ones(2, 3, 8, 8))
    >>> [line.split("  ")[1] for line in str(frozen).splitlines()[2:]]  # the whole text has each one's method, too
    ['conv + relu', 'max_pool2d']
    >>> frozen(torch.ones(7, 3, 8, 8)).shape
    torch.Size([7, 8, 3, 3])
    """
    if not isinstance(model, Module):
        hint = "Pass the model itself, then an example."
        raise ArgumentTypeError(build("freeze", "a torch.nn.Module", type(model).__name__, hint=hint))
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    strange = [type(x).__name__ for x in inputs if not isinstance(x, Tensor)]
    if strange or not inputs:
        got = ", ".join(strange) or "an empty tuple"
        hint = "Pass what model(*example_input) takes; give a model with other arguments a forward that takes tensors."
        raise ArgumentTypeError(build("freeze", "a tensor or a tuple of tensors", got, hint=hint))
    _check_types(model, inputs)
    # These are the modes in which a frozen model runs.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        copied = copy_model(model, "freeze").eval()
        inputs = tuple(x.detach().clone() for x in inputs)
        batches = {x.shape[0] for x in inputs if x.dim()}
        # torch.export treats sizes of 0 and 1 as constants
        examples = tuple(torch.cat([x, x]) if x.dim() and batches <= {1} else x for x in inputs)
        program = capture(copied, examples)
        for node, x in zip(program.inputs, inputs, strict=True):
            program.example |= {
                size: x.shape[axis] for axis, size in enumerate(node.shape or ()) if isinstance(size, str)
            }
        shorten(program)
        frozen = Frozen(program)
        program.difference = _difference(copied, frozen, program, inputs)
        if not program.difference <= ERROR:
            expects = f"outputs within {ERROR:.0e} of the model's, in parts of their root mean square"
            hint = (
                "Compare the two on your own data before you use the frozen one; a condition on the batch size in "
                "forward is one cause."
            )
            warnings.warn(build("freeze", expects, f"{program.difference:.1e}", hint=hint), stacklevel=2)
    return frozen


def load(path: str | os.PathLike[str]) -> Frozen:
    """The model that :meth:`Frozen.save` wrote, ready to run: it gives the same bits.

    The file is data: it names operators of a list of ones that only compute, and any other is refused. The model runs
    once, on zeros of the example's shape, so that weights are packed and methods chosen. A file of an older striate's
    format is converted.

    Raises CheckpointError, in one line, for a file that is missing, damaged in as little as one bit, of something else,
    of a newer striate, or with an operator or a method that is not on the list.
    """
    path = Path(path)
    program = read(path)
    try:
        with torch.inference_mode(False), torch.no_grad():
            frozen = Frozen(program)
            shapes = [
                [program.example[n] if isinstance(n, str) else n for n in node.shape or ()] for node in program.inputs
            ]
            frozen(*(torch.zeros(shape, dtype=node.dtype) for shape, node in zip(shapes, program.inputs, strict=True)))
    except Exception as error:
        raise not_running(path, error) from None
    return frozen


def _check_types(model: Module, inputs: tuple[Tensor, ...]) -> None:
    """Raises DtypeError for a parameter, buffer or input that is no plain tensor of float32 or of whole numbers on the
    CPU.
    """
    given = [(f"input {k}", x) for k, x in enumerate(inputs)]
    for name, x in [*model.named_parameters(), *model.named_buffers(), *given]:
        plain = x.is_cpu and x.layout is torch.strided and not x.is_complex()
        if not plain or (x.is_floating_point() and x.dtype is not torch.float32):
            got = f"{name} in {str(x.dtype).removeprefix('torch.')} on {x.device.type}"
            hint = "Convert model and example with .float().cpu()."
            raise DtypeError(build("freeze", "a model and an example of float32 on the CPU", got, hint=hint))


def _difference(model: Module, frozen: Frozen, program: Program, inputs: tuple[Tensor, ...]) -> float:
    """The largest difference between the two models' outputs, for the example and for a batch of 1, relative to an
    output's root mean square.
    """
    found = 0.0
    single = tuple(
        x[:1] if node.shape and isinstance(node.shape[0], str) else x
        for node, x in zip(program.inputs, inputs, strict=True)
    )
    allowed = all(least <= 1 for least, _ in program.ranges.values())
    differs = any(a.shape != b.shape for a, b in zip(inputs, single, strict=True))
    for given in (inputs, single) if allowed and differs else (inputs,):
        try:
            expected = tree_leaves(model(*(x.clone() for x in given)))
        except Exception:
            if given is inputs:
                raise
            continue  # the model cannot run on a batch of 1
        try:
            got = frozen(*given)
        except Exception as error:
            expects, hint = "operators that take tensors in channels order", "Freeze the parts of the model without it."
            raise ArgumentError(build("freeze", expects, describe_error(error), hint=hint)) from error
        for a, b in zip(expected, tree_leaves(got), strict=True):
            if a is None:
                continue
            if a.shape != b.shape:
                return math.inf
            a, b = a.detach().double(), b.detach().double()
            apart = (a - b).abs().masked_fill((a == b) | (a.isnan() & b.isnan()), 0)
            size = a[a.isfinite()].square().mean().sqrt() if a.isfinite().any() else 1.0
            if apart.numel() and apart.max() > 0:
                found = max(found, float(apart.max() / size), key=lambda v: (math.isnan(v), v))
    return found
