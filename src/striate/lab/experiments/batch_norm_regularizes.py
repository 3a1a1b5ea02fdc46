"""Whether the noise of batch statistics regularizes."""

from __future__ import annotations

from functools import partial

from ... import nn
from ..claim import Claim, Trial
from ..networks import Norm, convnet
from ..training import accuracy, mean_loss, train_steps

IMAGES, BATCH, GHOST = 300, 100, 10


def measure(trial: Trial) -> dict[str, float]:
    """Gaps of the loss and test errors without norm, and with statistics of a whole batch and of tenths of it."""
    norms: dict[str, Norm] = {
        "plain": "none",
        "whole": "batch",
        "ghost": partial(nn.GhostBatchNorm2d, ghost_batch_size=GHOST),
    }
    values: dict[str, float] = {}
    for name, norm in norms.items():
        values[f"{name}_gap"], values[f"{name}_error"] = _trained(trial, norm)
    return values


def _trained(trial: Trial, norm: Norm) -> tuple[float, float]:
    """The test loss less the training loss, both in evaluation mode, and the test error."""
    x, y, x_test, y_test = trial.digits()
    x, y = x[:IMAGES], y[:IMAGES]
    model = convnet("16-M-32-M-64", classes=trial.classes, norm=norm, seed=trial.seed)
    train_steps(model, x, y, trial.steps(300), lr=0.1, batch=BATCH, seed=trial.seed)
    return mean_loss(model, x_test, y_test) - mean_loss(model, x, y), 1 - accuracy(model, x_test, y_test)


CLAIM = Claim(
    name="batch-norm-regularizes",
    claim="Batch norm regularizes by the noise of its statistics: the gap between test and training loss is smaller "
    "with it than without, and smaller still with statistics of fewer images in the same batch.",
    section="7.14.4",
    source="notes; E. Hoffer, I. Hubara, D. Soudry, Train longer, generalize better, 2017, section 4",
    expected="holds",
    setting=f"Convolutions 16-M-32-M-64, {IMAGES} digits to train on, batch {BATCH}, 300 steps of SGD, rate 0.1; "
    f"without norm, with batch norm, and with batch norm by sub-batches of {GHOST}.",
    statistics={
        f"{name}_{what}": f"{meaning}, {norm}"
        for name, norm in {"plain": "no norm", "whole": "batch norm", "ghost": "sub-batches of 10"}.items()
        for what, meaning in {"gap": "test loss − training loss [nats]", "error": "test error, a share"}.items()
    },
    criterion="ghost_gap < whole_gap and whole_gap < plain_gap",
    measure=measure,
    why="Batch, images and steps are the same for all three, so that the noise of the gradient is too; sub-batches add "
    "noise of the statistics alone, and the gap falls with it, and the test error as well. Smaller batches add both "
    "kinds of noise at once, which this setting keeps apart.",
    seconds=35,
    takes=frozenset({"data"}),
)
