"""Pooling: the maximum or the mean of x over a window's taps.

Two forms of maximum: for windows of up to 256 taps the kernel keeps one byte an output, the tap's number (*offset*),
instead of torch's 8-byte position (*index*); wider and adaptive windows keep the index.

geometry.py checks the arguments and resolves the window, methods.py has the ways to compute, autograd.py the gradients,
functions.py what layers call.
"""

from .functions import adaptive_avg_pool, adaptive_max_pool, avg_pool, max_pool
from .geometry import MAX_TAPS, PoolGeometry, adaptive_geometry_for, geometry_for
from .methods import AVG_METHODS, MAX_METHODS

__all__ = [
    "AVG_METHODS",
    "MAX_METHODS",
    "MAX_TAPS",
    "PoolGeometry",
    "adaptive_avg_pool",
    "adaptive_geometry_for",
    "adaptive_max_pool",
    "avg_pool",
    "geometry_for",
    "max_pool",
]
