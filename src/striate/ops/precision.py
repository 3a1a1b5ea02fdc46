"""Whether a faster method may be less exact than the sum as it is written: for convolutions, Winograd's."""

from __future__ import annotations

from typing import Any

from ..errors import ArgumentError, build

__all__ = ["is_strict", "precision"]

MODES = ("fast", "strict")
_strict = False


def is_strict() -> bool:
    """Whether only sums as they are written are allowed."""
    return _strict


class precision:  # noqa: N801  used as a function, and after `with`
    """``precision("strict")``: from now on convolutions are summed as they are written; ``precision("fast")``: as at first, 3×3 and 5×5
    convolutions of stride 1 may be computed by minimal filtering (Winograd), where that was measured to be faster.

    Fast: the root mean square of the error is at most 1e-5 of the output's for inputs and weights as networks have them
    (docs/kernels/winograd.md has it by tile and channels; sums as they are written reach about 2e-7). Strict takes up to twice as long.

    Holds for all threads, and for the gradients of what was computed under it. After ``with`` what was before holds again.

    Raises ArgumentError for another word.

    >>> import striate
    >>> with striate.precision("strict"):
    ...     is_strict()
    True
    >>> is_strict()
    False
    """

    def __init__(self, mode: str) -> None:
        global _strict
        if mode not in MODES:
            raise ArgumentError(build("precision", 'mode to be "fast" or "strict"', repr(mode), do="Choose one of them."))
        self.mode = mode
        self._before, _strict = _strict, mode == "strict"

    def __enter__(self) -> precision:
        return self

    def __exit__(self, *raised: Any) -> None:
        global _strict
        _strict = self._before

    def __repr__(self) -> str:
        return f"precision({self.mode!r})"
