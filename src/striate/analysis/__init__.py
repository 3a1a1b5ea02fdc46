"""The size, cost, receptive field and mistakes of a network, from its graph; the arithmetic of one layer."""

from .explain import Explanation, explain
from .inspection import inspect
from .report import ReceptiveField, Report
from .rows import Layer
from .rule import Finding

__all__ = ["Explanation", "Finding", "Layer", "ReceptiveField", "Report", "explain", "inspect"]
