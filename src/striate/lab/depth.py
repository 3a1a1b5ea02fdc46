"""What a hidden layer of a deep network makes of the gradient, on average over the layers."""

from __future__ import annotations

import math

from torch import nn
from torch.nn import functional as F

from ..diagnostics.flow import GradientFlow, gradient_flow
from .claim import Trial

__all__ = ["FACTOR", "flow_at_start", "hidden_expected", "hidden_factor"]

SAMPLES = 256
FACTOR = (  # of a setting
    "Before training, by the cross entropy of 256 digits. The factor is the geometric mean over the hidden layers of "
    "the norm of the gradient by a layer's input, in parts of that by the next one's."
)


def flow_at_start(trial: Trial, model: nn.Module) -> GradientFlow:
    """The gradient flow of a model on 256 training images, in training mode and in float64: over 30 sigmoid layers the
    square of a gradient's norm falls below the least number of float32.

    >>> from striate.lab.networks import mlp
    >>> len(flow_at_start(Trial(seed=0), mlp(depth=3, seed=0)))
    4
    """
    x, y, _, _ = trial.digits()
    return gradient_flow(model.double().train(), F.cross_entropy, (x[:SAMPLES].double(), y[:SAMPLES]))


def hidden_factor(flow: GradientFlow) -> float:
    r"""The geometric mean of the factor by which a hidden layer and its activation scale the gradient by their input.

    .. math:: (‖g_2‖ / ‖g_L‖)^{1/(L - 2)}, \quad g_l = ∂loss/∂x_l

    of L layers with weights: without the first one, whose input is the images, and the last one, which has no
    activation.

    >>> from striate.lab.networks import mlp
    >>> 0.9 < hidden_factor(flow_at_start(Trial(seed=0), mlp(depth=10, seed=0))) < 1.1
    True
    """
    first, last = flow[1].input_gradient, flow[-1].input_gradient
    assert first is not None and last is not None  # all inputs but the images come from layers that learn
    return (first / last) ** (1 / (len(flow) - 2))


def hidden_expected(flow: GradientFlow) -> float:
    """The geometric mean of the factors that theory expects of the same layers.

    >>> from striate.lab.networks import mlp
    >>> 0.9 < hidden_expected(flow_at_start(Trial(seed=0), mlp(depth=10, seed=0))) < 1.1
    True
    """
    logs = [math.log(row.expected) for row in flow[1:-1] if row.expected]
    return math.exp(sum(logs) / len(logs))
