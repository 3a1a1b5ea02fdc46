"""Weights before a batch norm may be scaled: the output stays, and the gradient falls as they grow."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import nn
from ...diagnostics.curvature import curvature
from ..claim import Claim, Trial
from ..networks import convnet

SCALE = 3.0
EPS = 1e-10  # ε adds to σ², so that the invariance is off by about ε/σ²: 1e-5 would be the error measured

Batch = tuple[Tensor, Tensor]


def measure(trial: Trial) -> dict[str, float]:
    """The same network with all convolutions' weights × 1 and × 3, with batch norm and without norm."""
    x, y, _, _ = trial.digits()
    batch = (x[:128].double(), y[:128])
    normed = convnet("16-M-32-32", norm=partial(nn.BatchNorm2d, eps=EPS), seed=trial.seed).double()
    plain = convnet("16-M-32-32", seed=trial.seed).double()
    output, gradients = _pass(normed, batch)
    weights = [p for p in normed.parameters() if p.ndim == 4]
    cosines = [F.cosine_similarity(g.flatten(), w.flatten(), 0) for g, w in zip(gradients, weights, strict=True)]
    eigenvalue, plain_output = _eigenvalue(normed, batch), _pass(plain, batch)[0]
    _scale(normed)
    _scale(plain)
    scaled_output, scaled_gradients = _pass(normed, batch)
    return {
        "output_change": _change(output, scaled_output),
        "gradient_ratio": _norm(scaled_gradients) / _norm(gradients),
        "eigenvalue_ratio": _eigenvalue(normed, batch) / eigenvalue,
        "cosine": max(abs(cosine.item()) for cosine in cosines),
        "plain_output_change": _change(plain_output, _pass(plain, batch)[0]),
    }


def _pass(model: nn.Module, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output for a batch in training mode, and the gradients by the convolutions' weights."""
    output = model.train()(batch[0])
    weights = [p for p in model.parameters() if p.ndim == 4]
    return output.detach(), torch.autograd.grad(F.cross_entropy(output, batch[1]), weights)


def _eigenvalue(model: nn.Module, batch: Batch) -> float:
    """The largest Hessian eigenvalue of the first convolution's block."""
    return curvature(model, F.cross_entropy, [batch], mode="train", layer="0").largest[0]


@torch.no_grad()
def _scale(model: nn.Module) -> None:
    for weight in model.parameters():
        if weight.ndim == 4:
            weight.mul_(SCALE)


def _norm(tensors: tuple[Tensor, ...]) -> float:
    return torch.stack([tensor.norm() for tensor in tensors]).norm().item()


def _change(before: Tensor, after: Tensor) -> float:
    return ((after - before).norm() / before.norm()).item()


CLAIM = Claim(
    name="scale-invariance",
    claim="A batch norm cancels the scale of the weights before it: with 3·w for w the output stays, the gradient is a "
    "third, the curvature a ninth, and the gradient is orthogonal to the weights.",
    section="7.14.8",
    source="notes; T. van Laarhoven, L2 regularization versus batch and weight normalization, 2017",
    expected="holds",
    setting="Convolutions 16-M-32-32 with batch norm of ε = 1e-10 and batch statistics, 128 digits, float64; all "
    "convolutions' weights × 3. The same network without norm beside it.",
    statistics={
        "output_change": "‖f(3w) − f(w)‖ / ‖f(w)‖",
        "gradient_ratio": "norm of the gradient by the convolutions' weights at 3w / that at w",
        "eigenvalue_ratio": "largest Hessian eigenvalue of the first convolution's block at 3w / that at w",
        "cosine": "largest |cosine| of a convolution's gradient and its weights",
        "plain_output_change": "‖f(3w) − f(w)‖ / ‖f(w)‖ without norm",
    },
    criterion="output_change < 1e-6 and abs(3 * gradient_ratio - 1) < 1e-6 and abs(9 * eigenvalue_ratio - 1) < 1e-6 "
    "and cosine < 1e-6 and plain_output_change > 1",
    measure=measure,
    why="It is algebra: μ and σ grow with the weights, so that they cancel, and only ε does not. With ε at 1e-10 the "
    "output stays to ten digits, the gradient is a third and the curvature a ninth. It follows that a rate that suits "
    "weights of one size is nine times too large for weights of a third of it: what counts is η/‖w‖². Without norm the "
    "output becomes 27 times what it was, three for each convolution.",
    seconds=8,
)
