"""Pooling: the maximum or the mean of x over a window's taps.

The maximum has two forms. For windows of up to 256 taps the kernel saves one byte an output, the number of the tap
(*offset*), instead of torch's 8-byte position (*index*); for wider and adaptive windows it saves the index.

geometry.py checks the arguments and resolves the window, methods.py has the methods, autograd.py the gradients, and
functions.py the functions that layers call.
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
