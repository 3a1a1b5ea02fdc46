"""The documentation of a family of blocks, written once for every number of axes."""

from __future__ import annotations

from typing import ClassVar

from ..documentation import for_axes

__all__ = ["Documented"]


class Documented:
    """Gives each class of a family its number of axes, and the family's documentation with that number in it."""

    text: str
    examples: ClassVar[dict[int, str]] = {}  # for one number of axes only, by that number

    def __init_subclass__(cls, dims: int = 0) -> None:
        super().__init_subclass__()
        if dims:
            cls.dims = dims  # type: ignore[attr-defined]
            cls.__doc__ = for_axes(cls.text, dims, examples=cls.examples.get(dims, "")).rstrip() + "\n    "
