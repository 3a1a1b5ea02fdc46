"""Learning one batch by heart: what can learn is told from what cannot, with the reason."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from striate import nn
from striate.cli import main
from striate.errors import ArgumentError
from striate.training import DataSet
from striate.training.data import Part, Preprocessing
from striate.training.overfit import Overfit, overfit

SAME = Preprocessing((4, 4), 1, (0.5,), (0.25,))


def data(count: int = 24, classes: int = 3) -> DataSet:
    images = torch.randint(0, 256, (count, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return DataSet("made", tuple("abcdef"[:classes]), {"train": Part(images, torch.arange(count) % classes)})


def model(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(16, 3))


def tried(net: nn.Module, steps: int = 60, given: DataSet | None = None, **changes: object) -> Overfit:
    settings = {"batch_size": 12, "learning_rate": 0.1, "threads": 1, "workers": 0, **changes}
    return overfit(net, given or data(), preprocessing=SAME, steps=steps, **settings)


def test_a_model_that_can_learn_stops_as_soon_as_it_has() -> None:
    told: list[tuple[int, int]] = []
    found = tried(model(), on_step=lambda *step: told.append(step))
    assert found.learned and found.accuracy == 1 and found.evaluated == 1 and found.hints == ()
    assert found.losses[-1] < 0.1 and 1 < len(found.losses) < 60
    assert told == [(step, 60) for step in range(1, len(found.losses) + 1)]
    assert found.verdict == (
        f"It can learn: 12 images of 3 classes by heart in {len(found.losses)} steps; the loss went from "
        f"{found.losses[0]:.4g} to {found.losses[-1]:.4g}."
    )
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_model_and_the_random_state_are_not_touched() -> None:
    net = model(nn.BatchNorm1d(16)).eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    before = torch.get_rng_state()
    tried(net, steps=3)
    assert torch.equal(torch.get_rng_state(), before) and not net.training and not net[1].training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_augmentation_and_decay_are_off() -> None:
    plain = tried(model(), steps=5)
    other = tried(model(), steps=5, crop=1, flip=True, mixup=0.5, weight_decay=0.1, label_smoothing=0.1, ema=0.9)
    assert plain.losses == other.losses


def test_two_labels_for_one_input_are_named() -> None:
    given = data()
    images = given.parts["train"].images
    assert isinstance(images, Tensor)
    images[:] = images[0]
    found = tried(model(), steps=3, given=given)
    assert not found.learned
    first, _, rest = found.hints[0].partition(" and ")
    assert first.startswith("image ") and rest.endswith(
        " are the same input with two labels: no model can learn both. Mend the labels."
    )
    assert found.hints[1] == (
        "All images get the same scores: what tells them apart is lost on the way, as in units that are always 0."
    )


class Cut(nn.Module):
    """Lets no gradient through."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def test_parameters_that_get_no_gradient_are_named() -> None:
    net = model(nn.Linear(16, 16), Cut())
    found = tried(net, steps=2)
    assert (
        "These got no gradient, or one of zeros, in any step: 1.weight, 1.bias. Look for what cuts them off: detach(), "
        "no_grad(), a layer that is not called, units that are 0 for every image."
    ) in found.hints


def test_parameters_that_do_not_learn_are_named() -> None:
    net = model(nn.Linear(16, 16))
    net[1].requires_grad_(False)
    found = tried(net, steps=1)
    assert "These do not learn, since their requires_grad is False: 1.weight, 1.bias." in found.hints
    assert not any("no gradient" in hint for hint in found.hints)


def test_a_loss_that_is_not_finite_is_told_with_its_step() -> None:
    found = tried(model(nn.Linear(16, 16)), learning_rate=1e30)
    assert not found.learned and found.evaluated is None
    assert found.hints[0] == (
        f"The loss of step {len(found.losses) + 1} is not finite: lower learning_rate (1e+30), or set clip=1."
    )


def test_a_loss_that_still_falls_is_told_from_one_that_does_not() -> None:
    assert tried(model(), steps=12, learning_rate=0.01).hints == (
        "The loss still falls: give it more steps, or a higher learning_rate than 0.01.",
    )
    assert tried(model(), steps=12, learning_rate=1e-9).hints == (
        "The loss falls no more at learning_rate 1e-09: look for a better one with striate find-lr.",
    )


def test_scores_that_are_too_large_at_first_are_told() -> None:
    net = model()
    with torch.no_grad():
        net[1].weight.mul_(100)
    found = tried(net, steps=1)
    assert found.hints[0] == (
        f"The first loss is {found.losses[0]:.4g}, where guessing has 1.099: the first weights or the images' values "
        "are too large."
    )


def test_dropout_is_named() -> None:
    found = tried(model(nn.Dropout(0.9)), steps=4, learning_rate=0.001)
    assert found.hints[-1] == "Dropout disturbs learning by heart: try once without it (1)."


@pytest.mark.parametrize("steps", [0, 1.5, True])
def test_steps_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(ArgumentError) as error:
        tried(model(), steps=steps)
    assert str(error.value) == f"overfit expects 1 to 1000000 steps, got {steps!r}. Use steps=200."


def test_the_command_gives_a_verdict_and_its_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("striate.allocator.tune_allocator", lambda: True)
    asked = ["overfit", "--model", "mlp_bn", "--batch-size", "16", "--threads", "1"]
    assert main([*asked, "--steps", "60"]) == 0
    assert capsys.readouterr().out.startswith("mlp_bn on digits: It can learn: 16 images of ")
    assert main([*asked, "--steps", "2", "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["learned"] is False and facts["steps"] == 2 and facts["model"] == "mlp_bn"
