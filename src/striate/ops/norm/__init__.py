"""Normalization: ``y = act(γ·x̂ + β + residual)``, ``x̂ = (x - μ)/√(σ² + ε)``.

The norms differ only in which values are measured together. x is (batches·samples, groups·channels, positions), and
each of batches × groups has a mean and a variance over its samples, channels and positions:

=========  ============================================  =========  =========
norm       measured together                             batches    groups
=========  ============================================  =========  =========
batch      a channel of the whole batch                  1          C
ghost      a channel of a sub-batch                      N/size     C
instance   a channel of a sample                         N          C
group      a group of channels of a sample               N          G
layer      a sample's last axes; γ, β per element        rows       1
layer 2d   all channels at one position                  N·H·W      1
=========  ============================================  =========  =========

RMS norm is a layer norm that takes the mean as 0.

geometry.py says which axes are reduced, checks.py checks the arguments once for all methods, methods.py has striate's
kernel and torch's operator, autograd.py the gradients, and functions.py the functions that layers call.
"""

from ..._renamed import accept_old_names
from .checks import check_activation, check_channel_arguments, check_eps, check_input, check_more_than_one
from .functions import (
    batch_norm,
    by_channel,
    by_element,
    by_group,
    group_norm,
    instance,
    instance_norm,
    layer_norm,
    layer_norm_2d,
    rms_norm,
)
from .geometry import ACTIVATIONS, CHANNELS, ELEMENTS, POSITIONS
from .methods import METHODS, activated

__all__ = [
    "ACTIVATIONS",
    "CHANNELS",
    "ELEMENTS",
    "METHODS",
    "POSITIONS",
    "activated",
    "batch_norm",
    "by_channel",
    "by_element",
    "by_group",
    "check_activation",
    "check_channel_arguments",
    "check_eps",
    "check_input",
    "check_more_than_one",
    "group_norm",
    "instance",
    "instance_norm",
    "layer_norm",
    "layer_norm_2d",
    "rms_norm",
]

accept_old_names(__name__)
