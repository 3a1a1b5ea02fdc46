"""The size, cost, receptive field and mistakes of a network, from its graph; the arithmetic of one layer."""

from .._renamed import accept_old_names
from .explain import Explanation, explain
from .inspect.inspection import inspect
from .inspect.report import Report
from .inspect.result import ReceptiveField
from .inspect.rows import Layer
from .lint.finding import Finding

__all__ = ["Explanation", "Finding", "Layer", "ReceptiveField", "Report", "explain", "inspect"]

accept_old_names(__name__)
