"""Loads the compiled core, and says whether it is installed and which instruction sets it can use."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from pathlib import Path

import torch

__all__ = ["CONV_METHODS", "ISAS", "core", "isa", "missing", "native_info", "use_isa"]


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
    if not hasattr(torch.ops.striate, "conv_methods"):
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

_asked = os.environ.get("STRIATE_ISA")
if core and _asked and _asked not in ISAS:
    warnings.warn(
        f"STRIATE_ISA={_asked} is none of this machine's instruction sets, {list(ISAS)}; the best is used.",
        stacklevel=2,
    )

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
    "linear layers",
)
TORCH = ("other convolutions",)


def native_info() -> dict[str, object]:
    """Versions, the instruction set in use and those available, threads, and what has native kernels and what has not.

    >>> sorted(native_info())
    ['core', 'isa', 'isa_available', 'native', 'python', 'striate', 'threads', 'torch', 'torch_operator']
    """
    return {
        "striate": _package.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "core": core,
        "isa": isa(),
        "isa_available": list(ISAS),
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
