"""Every operation as its textbook formula, forward and backward, in a few lines of plain torch.

These functions are for reading and for testing: the kernels are compared with them. Double backward differentiates
them, since autograd goes through every function here, the backward ones included. None of them is meant to be fast.

>>> import torch
>>> from striate.reference import conv
>>> x = torch.tensor([[[2.0, 3, 1, 0, 4], [1, 2, 0, 1, 3], [0, 1, 2, 3, 1]]])
>>> conv.conv(x, torch.tensor([[[1.0, 0, -1], [-1, 1, 0], [0, -1, 1]]]), stride=2)
tensor([[[ 3., -4.]]])
"""

from striate.reference import conv, linear, local, norm, pool

__all__ = ["conv", "linear", "local", "norm", "pool"]
