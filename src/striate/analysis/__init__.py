"""The size, cost, receptive field and mistakes of a network, from its graph."""

from .lint import Finding
from .report import Layer, ReceptiveField, Report, inspect

__all__ = ["Finding", "Layer", "ReceptiveField", "Report", "inspect"]
