"""The learning rate of each step: a function of the step's number alone, so that a training that goes on needs none of
its past.
"""

from __future__ import annotations

import math

from .settings import FitSettings

__all__ = ["learning_rate_at"]


def learning_rate_at(step: int, steps: int, settings: FitSettings) -> float:
    r"""The learning rate of a step: it rises linearly over the first steps, then follows the schedule.

    .. math:: rate = peak · s/w \quad (s < w), \qquad s = step + 1, \; w = warm\_up · steps

    and from there on ``peak`` for constant, ``peak · factor^⌊epoch/step_epochs⌋`` for step, and for one-cycle and
    cosine

    .. math:: rate = peak · (½ + ½·cos(π·(s - w)/(steps + 1 - w)))

    One-cycle and cosine differ in their default warm-up alone: a fifth of the steps, or a twentieth.

    step: from 0; steps: of all epochs; settings: resolved ones (:func:`.settings.resolved`).

    Source: I. Loshchilov, F. Hutter, "SGDR", 2016 (cosine); L. N. Smith, N. Topin, "Super-Convergence", 2017 (the long
    rise); P. Goyal et al., "Accurate, Large Minibatch SGD", 2017 (warm-up).

    >>> from striate.training.settings import resolved
    >>> cycle = resolved(FitSettings(learning_rate=1.0), "shapes")
    >>> [round(learning_rate_at(step, 10, cycle), 2) for step in range(10)]
    [0.5, 1.0, 0.97, 0.88, 0.75, 0.59, 0.41, 0.25, 0.12, 0.03]
    """
    peak, warm_up = settings.learning_rate, settings.warm_up
    assert peak is not None and warm_up is not None
    done, warm = step + 1, warm_up * steps
    if done < warm:
        return peak * done / warm
    if settings.schedule == "constant":
        return peak
    if settings.schedule == "step":
        assert settings.step_epochs is not None
        epoch = step * settings.epochs // steps
        return peak * settings.step_factor ** (epoch // settings.step_epochs)
    return peak * (0.5 + 0.5 * math.cos(math.pi * (done - warm) / (steps + 1 - warm)))
