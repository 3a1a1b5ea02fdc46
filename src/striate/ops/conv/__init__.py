r"""Convolution and its transpose: one trilinear form, three passes, and for each pass the fastest applicable method.

.. math:: Σ_{n, k, o} dy[n, k, o] · Σ_{c, t} w[k, c, t] · x[n, c, i(o, t)]

is linear in dy, w and x. Its derivative by dy is the convolution ("forward"), by x the gradient of the input
("backward_data", which is also the transposed convolution), by w the gradient of the weights ("backward_weights"). So
the gradients of each pass are the two other passes, to any order.

geometry.py checks the arguments and resolves the window, methods.py has the methods and chooses one, autograd.py ties
the passes to each other, functions.py has what layers call.
"""

from ..._renamed import accept_old_names
from .functions import conv, conv_transpose, explain_methods, follows_channels_last
from .geometry import ConvGeometry, geometry_for
from .methods import METHODS, NAMES, NATIVE, NUMBERS, ConvProblem, method_for

__all__ = [
    "METHODS",
    "NAMES",
    "NATIVE",
    "NUMBERS",
    "ConvGeometry",
    "ConvProblem",
    "conv",
    "conv_transpose",
    "explain_methods",
    "follows_channels_last",
    "geometry_for",
    "method_for",
]

accept_old_names(__name__)
