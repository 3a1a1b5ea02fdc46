"""Under batch norm and without weight decay, each step makes the weights longer, by what Pythagoras says."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ... import nn
from ..claim import Claim, Trial
from ..networks import Norm, convnet
from ..training import Batch, train_steps

RATE = 0.1


def measure(trial: Trial) -> dict[str, float]:
    """The norms of the convolutions' weights over training, with two sizes of ε and without norm."""
    usual_off, usual_falls = _growth(trial, nn.BatchNorm2d)
    small_off, small_falls = _growth(trial, partial(nn.BatchNorm2d, eps=1e-10))
    plain_off, plain_falls = _growth(trial, "none")
    return {
        "usual_eps_off": usual_off,
        "small_eps_off": small_off,
        "plain_off": plain_off,
        "falls": max(usual_falls, small_falls),
        "plain_falls": plain_falls,
    }


def _growth(trial: Trial, norm: Norm) -> tuple[float, float]:
    """How far the growth of ‖w‖² is from Σ η²‖g‖², the largest of the layers, and in how many steps a norm fell."""
    x, y, _, _ = trial.digits()
    model = convnet("16-M-32-32", norm=norm, seed=trial.seed).double()
    weights = [p for p in model.parameters() if p.ndim == 4]
    norms, growths = [_squares(weights)], []

    def after_step(step: int, batch: Batch) -> None:
        norms.append(_squares(weights))
        growths.append(RATE**2 * _squares([w.grad for w in weights if w.grad is not None]))

    train_steps(model, x.double(), y, trial.steps(60), lr=RATE, seed=trial.seed, after_step=after_step)
    changes = torch.stack(norms).diff(dim=0)
    expected = torch.stack(growths).sum(0)
    off = ((changes.sum(0) - expected).abs() / expected).max().item()
    return off, float((changes < 0).any(1).sum())


def _squares(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.detach().square().sum() for tensor in tensors])


CLAIM = Claim(
    name="norms-grow",
    claim="Without weight decay the weights before a batch norm only grow: ‖w'‖² = ‖w‖² + η²‖g‖² in each step.",
    section="7.14.8",
    source="notes; S. Arora, Z. Li, K. Lyu, Theoretical analysis of auto rate-tuning by batch normalization, 2018",
    expected="holds",
    setting="Convolutions 16-M-32-32 with batch norm, digits, batch 64, 60 steps of SGD at a rate of 0.1 without "
    "momentum, float64; ε of 1e-5, and of 1e-10. The same network without norm beside them.",
    statistics={
        "usual_eps_off": "|growth of ‖w‖² / Σ η²‖g‖² − 1| of the layer that is farthest off, ε = 1e-5",
        "small_eps_off": "the same, ε = 1e-10",
        "plain_off": "the same, without norm",
        "falls": "steps in which the norm of a layer's weights fell, with batch norm",
        "plain_falls": "the same, without norm",
    },
    criterion="usual_eps_off < 2e-3 and small_eps_off < 1e-6 and falls < 1 and plain_off > 0.1",
    measure=measure,
    why="The output does not depend on ‖w‖, so that the gradient is orthogonal to w, and Pythagoras gives the new "
    "length. At the usual ε of 1e-5 the invariance is off by about ε/σ², and the growth by a thousandth; at 1e-10 by a "
    "hundred-thousandth of that: the rest is ε and nothing else. No step makes a norm fall. Without norm the gradient "
    "has a part along w, the growth is some 60 times off, and norms fall in some steps.",
    seconds=8,
)
