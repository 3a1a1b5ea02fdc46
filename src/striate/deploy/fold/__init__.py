"""Merges batch normalization into the layers before or after it."""

from .planner import fold
from .report import FoldEntry, FoldReport

__all__ = ["FoldEntry", "FoldReport", "fold"]
