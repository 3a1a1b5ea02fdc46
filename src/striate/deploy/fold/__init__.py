"""Batch normalization merged into the layer beside it."""

from .planner import fold
from .report import FoldEntry, FoldReport

__all__ = ["FoldEntry", "FoldReport", "fold"]
