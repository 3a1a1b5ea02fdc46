"""A profile that can be shown as text or HTML."""

from __future__ import annotations

from dataclasses import dataclass

from .. import page
from .result import StepTimes

__all__ = ["Profile"]


@dataclass(frozen=True)
class Profile(StepTimes):
    """The result of :func:`~striate.profile`."""

    def table(self, width: int = 100, top: int | None = None) -> str:
        """The layers, the time outside them, and each pass of the convolutions, as text of at most ``width`` columns.

        top: if given, only this many layers are listed, the slowest first.

        Raises ArgumentError for a width below 80.
        """
        return page.table(self, width, top)

    def html(self) -> str:
        """The profile as one HTML page, without scripts or anything loaded from elsewhere."""
        return page.page(self)
