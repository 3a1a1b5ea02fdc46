"""Batch norm before the activation or after it."""

from __future__ import annotations

from ... import nn
from ..claim import Claim, Trial
from ..networks import convnet, mlp
from ..training import accuracy, train_steps

LAST = 20  # steps whose mean loss is told


def measure(trial: Trial) -> dict[str, float]:
    """Training losses and test errors of a ReLU network and of a sigmoid one, with the norm at either place."""
    values: dict[str, float] = {}
    for place, after in {"before": False, "after": True}.items():
        relu = convnet(classes=trial.classes, norm="batch", norm_after=after, seed=trial.seed)
        sigmoid = mlp(
            width=64,
            classes=trial.classes,
            activation="sigmoid",
            init="xavier",
            norm="batch",
            norm_after=after,
            seed=trial.seed,
        )
        for name, model in {"relu": relu, "sigmoid": sigmoid}.items():
            values[f"{name}_{place}"], values[f"{name}_error_{place}"] = _trained(trial, model)
    return values


def _trained(trial: Trial, model: nn.Module) -> tuple[float, float]:
    """The mean loss of the last steps, and the test error."""
    x, y, x_test, y_test = trial.digits()
    losses = train_steps(model, x, y, trial.steps(150), lr=0.1, seed=trial.seed)[-LAST:]
    return sum(losses) / len(losses), 1 - accuracy(model, x_test, y_test)


CLAIM = Claim(
    name="norm-before-activation",
    claim="Batch norm trains better before the activation than after it.",
    section="7.14.5",
    source="notes; S. Ioffe, C. Szegedy, Batch normalization, 2015, section 3.2",
    expected="holds",
    setting="Convolutions 16-16-M-32-32-M-32-32 with ReLU, and a perceptron of ten hidden layers of 64 sigmoids, "
    "digits, batch 64, 150 steps of SGD, rate 0.1.",
    statistics={
        f"{name}{what}_{place}": f"{meaning}, {name} network, norm {place} the activation"
        for name in ("relu", "sigmoid")
        for what, meaning in {"": f"mean training loss [nats] of the last {LAST} steps", "_error": "test error"}.items()
        for place in ("before", "after")
    },
    criterion="relu_before < relu_after and sigmoid_before < sigmoid_after",
    measure=measure,
    why="It came out the other way: after the activation the training loss is lower, of the ReLU network and much more "
    "so of the sigmoid one, at equal test errors. Before it, the norm keeps the activation out of its flat parts, as "
    "the notes say; but what comes out of a ReLU or a sigmoid is positive, and the next layer gets inputs with a large "
    "common mean. After it, that mean is gone, and the next layer's inputs are centred and of equal size; with the "
    "first weights of He or Xavier the activation does not saturate either. Architectures put the norm before for "
    "other reasons: it folds into the convolution.",
    seconds=30,
    takes=frozenset({"data"}),
)
