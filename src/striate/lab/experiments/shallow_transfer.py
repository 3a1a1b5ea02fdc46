"""Layers that were trained on some classes and are kept for others."""

from __future__ import annotations

from copy import deepcopy
from statistics import fmean
from typing import Any

from torch import Tensor

from ... import nn
from ..claim import Claim, Trial
from ..networks import convnet
from ..training import accuracy, train_steps

PLAN, STEPS, RATE, MOMENTUM = "16-M-32-M-32", 120, 0.02, 0.9
HALF = 5  # the digits 0 to 4 are one task, 5 to 9 the other
KEPT = {"none": 0, "shallow": 1, "deep": 3}  # convolutions that are not trained on the new task
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def measure(trial: Trial) -> dict[str, float]:
    """Test errors on the new task by what is kept of the old one, means over both directions."""
    tasks = _tasks(trial)
    errors: dict[str, list[float]] = {name: [] for name in (*KEPT, "random")}
    for old, new in (tasks, tasks[::-1]):
        fresh = convnet(PLAN, classes=HALF, norm="none", seed=trial.seed + 1000)
        source = deepcopy(fresh)
        _train(trial, source, old, 0)
        for name, kept in KEPT.items():
            errors[name].append(_error(trial, source, new, kept))
        errors["random"].append(_error(trial, fresh, new, KEPT["deep"]))
    return {name: fmean(both) for name, both in errors.items()}


def _tasks(trial: Trial) -> tuple[Data, Data]:
    """The images of the digits 0 to 4, and of 5 to 9, whose classes are 0 to 4 too."""
    x, y, x_test, y_test = trial.digits()
    found = []
    for is_new in (False, True):
        train, test = (y >= HALF) == is_new, (y_test >= HALF) == is_new
        found.append((x[train], y[train] % HALF, x_test[test], y_test[test] % HALF))
    return found[0], found[1]


def _error(trial: Trial, source: nn.Sequential, new: Data, kept: int) -> float:
    """The test error on the new task after training all but the first convolutions, which are those of the source; the
    others begin anew.
    """
    model = convnet(PLAN, classes=HALF, seed=trial.seed)
    convolutions = [[layer for layer in net if isinstance(layer, nn.Conv2d)] for net in (model, source)]
    for mine, theirs in list(zip(*convolutions, strict=True))[:kept]:
        mine.load_state_dict(theirs.state_dict())
    _train(trial, model, new, kept)
    return 1 - accuracy(model, new[2], new[3])


def _train(trial: Trial, model: nn.Sequential, data: Data, kept: int) -> None:
    convolutions = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    frozen = {parameter for layer in convolutions[:kept] for parameter in layer.parameters()}
    learnt = [parameter for parameter in model.parameters() if parameter not in frozen]
    given: dict[str, Any] = {"lr": RATE, "momentum": MOMENTUM, "schedule": "cosine", "parameters": learnt}
    train_steps(model, data[0], data[1], trial.steps(STEPS), seed=trial.seed, **given)


CLAIM = Claim(
    name="shallow-transfer",
    claim="The first layer of a network serves other classes as it is; its deep layers are those of their task.",
    section="7.7.3",
    source="notes; J. Yosinski et al., How transferable are features in deep neural networks?, 2014",
    expected="holds",
    setting=f"Convolutions {PLAN} and a mean over positions, trained on the digits 0 to 4, then with the first or all "
    "convolutions kept and the rest anew on 5 to 9, and the other way round; each 120 steps of SGD with momentum 0.9 "
    "on batches of 64, rate 0.02, cosine.",
    statistics={
        "none": "test error on the new task, a share, nothing kept",
        "shallow": "the same, first convolution kept",
        "deep": "the same, all convolutions kept",
        "random": "the same, all convolutions kept as they were before any training",
    },
    criterion="shallow - none <= 0.015 and deep - none >= 0.03",
    measure=measure,
    why="Not measured yet.",
    seconds=25,
)
