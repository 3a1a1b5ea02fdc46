"""Layer norm and batch norm in a recurrent network on sequences of several lengths."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import nn
from ..claim import Claim, Trial
from ..training import batches

WIDTH = 48
NORMS = {"plain": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class _Recurrent(nn.Module):
    """h ← tanh(norm(Ux + Wh)) as long as a sequence goes on, and a linear layer for the scores."""

    def __init__(self, norm: str, features: int, classes: int) -> None:
        super().__init__()
        self.enter, self.keep = nn.Linear(features, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.norm, self.head = NORMS[norm](WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        entered = self.enter(x)
        h = x.new_zeros(len(x), WIDTH)
        for step in range(int(lengths.max())):
            alive = lengths > step
            h = h.index_put((alive,), torch.tanh(self.norm(entered[alive, step] + self.keep(h[alive]))))
        return self.head(h)


def measure(trial: Trial) -> dict[str, float]:
    """Test errors of the three networks, and of batch norm with the statistics of the test sequences."""
    errors = {norm: _errors(trial, norm) for norm in NORMS}
    evaluation = {norm: error for norm, (error, _) in errors.items()}
    return {**evaluation, "batch_in_training_mode": errors["batch"][1]}


def _errors(trial: Trial, norm: str) -> tuple[float, float]:
    """The test errors in evaluation mode and in training mode."""
    x, y, x_test, y_test = trial.digits()
    torch.manual_seed(trial.seed)
    model = _Recurrent(norm, x.shape[-1], trial.classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for indices in batches(len(x), 64, trial.steps(300), trial.seed):
        optimizer.zero_grad()
        F.cross_entropy(model(*_sequences(x[indices])), y[indices]).backward()
        optimizer.step()
    errors = []
    with torch.no_grad():
        for mode in (False, True):
            wrong = model.train(mode)(*_sequences(x_test)).argmax(1) != y_test
            errors.append(wrong.double().mean().item())
    return errors[0], errors[1]


def _sequences(images: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of images as sequences ``(N, T, F)`` and their lengths: each row once, twice or three times."""
    rows = images.flatten(1, 2)
    height = rows.shape[1]
    times = torch.arange(len(rows)) % 3 + 1
    steps = torch.arange(3 * height)
    places = (steps // times[:, None]).clamp(max=height - 1)
    return rows.gather(1, places[:, :, None].expand(-1, -1, rows.shape[2])), height * times


CLAIM = Claim(
    name="layer-norm-recurrent",
    claim="In a recurrent network on sequences of several lengths layer norm helps, and batch norm, whose running "
    "statistics are those of no step, fails.",
    section="7.14.6",
    source="notes; J. L. Ba, J. R. Kiros, G. E. Hinton, Layer normalization, 2016",
    expected="holds",
    setting="tanh network of 48 units that reads digits row by row, each row once, twice or three times: 8, 16 or 24 "
    "steps; batch 64, 300 steps of Adam, rate 0.003; norm of Ux + Wh, one for all steps.",
    statistics={
        "plain": "test error, a share, without norm",
        "layer": "the same, layer norm",
        "batch": "the same, batch norm with its running statistics",
        "batch_in_training_mode": "the same, batch norm with the statistics of the test sequences at each step",
    },
    criterion="layer < plain and batch > layer + 0.1",
    measure=measure,
    why="",
    seconds=50,
    takes=frozenset({"data"}),
)
