"""Loads the compiled core, and says whether it is installed, which instruction sets it can use, and what it takes the
machine for.
"""

from __future__ import annotations

import os
import platform
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

__all__ = [
    *("CONV_METHODS", "ISAS", "Machine", "core", "isa", "machine", "missing", "native_info", "use_isa"),
    "use_machine",
]


_package = sys.modules[__package__]  # not imported: it imports this module


def _load() -> str | None:
    given = os.environ.get("STRIATE_CORE")  # another build, with sanitizers or in development
    # an editable install's package lies in more than one folder
    candidates = [Path(given)] if given else [Path(folder) / "_core.so" for folder in _package.__path__]
    found = [path for path in candidates if path.is_file()]
    if not found:
        return "striate's native core is not installed"
    try:
        torch.ops.load_library(str(found[0]))
    except OSError as error:
        return f"striate's native core does not load: {str(error).splitlines()[0]}"
    if not hasattr(torch.ops.striate, "activations"):
        return "striate's native core is of another version"
    return None


def _names(letters: list[int]) -> tuple[str, ...]:
    """Decodes a list of names from the core; its operators take the index of a name. The core returns text as bytes:
    see csrc/bindings/.
    """
    return tuple(bytes(letters).decode().split())


missing: str | None = _load()
core: bool = missing is None
if missing is not None:
    warnings.warn(
        f"{missing}; every layer uses torch's operator instead. Reinstall striate with a C++ compiler (g++) at hand.",
        stacklevel=2,
    )

# instruction sets of this machine, slowest first
ISAS: tuple[str, ...] = _names(torch.ops.striate.isa_available()) if core else ()
CONV_METHODS: tuple[str, ...] = _names(torch.ops.striate.conv_methods()) if core else ()  # csrc/methods.def
ACTIVATIONS: tuple[str, ...] = _names(torch.ops.striate.activations()) if core else ()  # csrc/activations.def

_asked = os.environ.get("STRIATE_ISA")
if core and _asked and _asked not in ISAS:
    warnings.warn(
        f"STRIATE_ISA={_asked} is none of this machine's instruction sets, {list(ISAS)}; the best is used.",
        stacklevel=2,
    )


class Machine(NamedTuple):
    """What kernels ask about the processor, besides its instruction set: how work is cut into blocks follows from it,
    and no bit of a result. ``csrc/core/machine.cpp`` reads it from the system when the core loads.
    """

    cores: int  # that this process may use
    first_level: int  # bytes of the data caches of one core
    second_level: int
    last_level: int  # bytes of the last cache before memory, that of all cores together
    sharing: int  # how many cores share the last level


# the least and the most of each value, as in csrc/core/machine.h
BOUNDS = ((1, 65536), *3 * [(1024, 2**40)], (1, 65536))


def machine() -> Machine | None:
    """The machine that kernels expect; None without a core. At start each value is the system's, or that of its
    environment variable: ``STRIATE_CORES``, ``STRIATE_FIRST_LEVEL``, ``STRIATE_SECOND_LEVEL``, ``STRIATE_LAST_LEVEL``
    and ``STRIATE_SHARING``, whole numbers and bytes.

    >>> use_machine(machine())
    """
    return Machine(*torch.ops.striate.machine()) if core else None


def _warn_of_machine() -> None:
    """Warns of environment variables that the core ignored."""
    for name, value, (least, most) in zip(Machine._fields, machine() or (), BOUNDS, strict=core):
        text = os.environ.get(f"STRIATE_{name.upper()}")
        if text and text.lstrip("0") != str(value):
            warnings.warn(
                f"STRIATE_{name.upper()}={text} is no whole number from {least} to {most}; the system's value, "
                f"{value}, is used.",
                stacklevel=3,
            )


_warn_of_machine()

# What has native kernels and what uses torch's operator, for `striate doctor`.
NATIVE = (
    *(
        "max_pool1d/2d/3d",
        "avg_pool1d/2d/3d",
        "adaptive_max_pool1d/2d/3d",
        "adaptive_avg_pool1d/2d/3d",
        "global pooling",
    ),
    *("batch, ghost and synchronized batch norm", "instance, group, layer and RMS norm", "local response norm"),
    *("convolution and its transpose where a kernel of ours was measured to be faster", "locally connected layers"),
    "linear layers of few rows, and others where torch's products are slow",
)
TORCH = ("other convolutions",)


def native_info() -> dict[str, object]:
    """Versions, the instruction set in use and those available, the :class:`Machine`, threads, and what has native
    kernels and what has not.

    >>> sorted(native_info())
    ['core', 'isa', 'isa_available', 'machine', 'native', 'python', 'striate', 'threads', 'torch', 'torch_operator']
    """
    return {
        "striate": _package.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "core": core,
        "isa": isa(),
        "isa_available": list(ISAS),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "native": list(NATIVE) if core else [],
        "torch_operator": list(TORCH) if core else [*NATIVE, *TORCH],
    }


def isa() -> str:
    """The instruction set in use, "none" without a core.

    >>> isa() in (*ISAS, "none")
    True
    """
    return ISAS[torch.ops.striate.isa_chosen()] if core else "none"


def use_isa(name: str) -> None:
    """Uses the kernels compiled for one instruction set, for tests and measurements. ``STRIATE_ISA`` sets it at start.

    Raises ArgumentError if this machine or build has none of that name.

    >>> use_isa(isa())
    """
    from .errors import ArgumentError, build

    if name not in ISAS:
        raise ArgumentError(
            build("use_isa", "an instruction set of this machine", repr(name), hint=f"Choose one of {list(ISAS)}.")
        )
    torch.ops.striate.isa_choose(ISAS.index(name))


def use_machine(other: Machine) -> None:
    """Makes kernels expect another machine, for tests and measurements: between calls, not while a kernel runs.

    Raises ArgumentTypeError for what is no :class:`Machine` of whole numbers, ArgumentError for a number out of bounds
    and without a core.

    >>> before = machine()
    >>> use_machine(before._replace(second_level=2**21))
    >>> machine().second_level
    2097152
    >>> use_machine(before)
    """
    from .errors import ArgumentError, ArgumentTypeError, build

    if not core:
        raise ArgumentError(build("use_machine", "the native core", missing, hint="Without it no kernel asks."))
    whole = isinstance(other, Machine) and all(isinstance(n, int) and not isinstance(n, bool) for n in other)
    if not whole:
        hint = "Change the one in use: native.machine()._replace(cores=1)."
        raise ArgumentTypeError(build("use_machine", "a Machine of whole numbers", repr(other), hint=hint))
    for name, value, (least, most) in zip(Machine._fields, other, BOUNDS, strict=True):
        if not least <= value <= most:
            hint = "The caches are in bytes." if most > 65536 else "Choose at least 1."
            raise ArgumentError(build("use_machine", f"{name} from {least} to {most}", value, hint=hint))
    torch.ops.striate.machine_choose(list(other))
