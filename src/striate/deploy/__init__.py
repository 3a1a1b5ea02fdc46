"""Models made ready for use: what training needed and inference does not is merged away."""

from . import freeze
from .fold import FoldEntry, FoldReport, fold

__all__ = ["FoldEntry", "FoldReport", "fold", "freeze"]
