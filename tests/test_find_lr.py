"""The range test: the rate rises as its formula says, the loss decides where it ends, and the model stays as it is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from striate import nn
from striate.cli import main
from striate.errors import ArgumentError, DataError
from striate.training import DataSet
from striate.training.data import Part, Preprocessing
from striate.training.find_lr import RangeTest, find_lr

SAME = Preprocessing((4, 4), 1, (0.5,), (0.25,))


def data(count: int = 60) -> DataSet:
    images = torch.randint(0, 256, (count, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(count) % 3
    images[torch.arange(count), 0, labels] //= 4  # a dark row tells the class
    return DataSet("made", ("a", "b", "c"), {"train": Part(images, labels), "test": Part(images, labels)})


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def ranged(net: nn.Module | None = None, steps: int = 80, **changes: object) -> RangeTest:
    settings = {"batch_size": 20, "threads": 1, "workers": 0, **changes}
    return find_lr(net or model(), data(), preprocessing=SAME, steps=steps, **settings)


def test_the_rate_rises_from_the_lowest_to_the_highest_by_one_factor() -> None:
    found = ranged(steps=20, lowest=1e-6, highest=1e-3)
    assert len(found.rates) == len(found.losses) == 20 and not found.diverged
    assert found.rates[0] == pytest.approx(1e-6, rel=1e-12) and found.rates[-1] == pytest.approx(1e-3, rel=1e-12)
    factors = [later / rate for rate, later in zip(found.rates, found.rates[1:], strict=False)]
    assert factors == pytest.approx([1000 ** (1 / 19)] * 19, rel=1e-9)


def test_the_smoothed_loss_is_the_weighted_mean_of_those_so_far() -> None:
    losses = (3.0, 1.0, 2.0)
    found = RangeTest((0.1, 0.2, 0.3), losses, False).smoothed
    assert found == pytest.approx((3.0, (2.7 + 1) / 1.9, (2.43 + 0.9 + 2) / 2.71), rel=1e-12)


def test_the_suggestion_is_a_third_of_the_rate_of_the_lowest_loss() -> None:
    losses = (*(2.0 for _ in range(10)), *(0.0 for _ in range(20)), *(9.0 for _ in range(5)))
    found = RangeTest(tuple(10.0**k for k in range(35)), losses, True)
    assert found.fell and found.lowest == 1e29 and found.suggestion == 1e29 / 3


def test_a_model_that_learns_gets_a_suggestion_and_then_diverges() -> None:
    found = ranged()
    assert found.diverged and len(found.rates) < 80
    assert found.suggestion is not None and 1e-3 < found.suggestion < found.lowest < found.rates[-1]
    assert found.summary == (
        f"the loss falls from {found.smoothed[9]:.3g} to {min(found.smoothed):.3g}, at a learning rate of "
        f"{found.lowest:.2g}, and doubles at {found.rates[-1]:.2g}"
    )


def test_a_loss_that_does_not_fall_gets_no_suggestion() -> None:
    found = ranged(steps=20, lowest=1e-12, highest=1e-10)
    assert found.suggestion is None and not found.diverged
    assert found.summary == (
        "the loss does not fall at any learning rate up to 1e-10, try other rates, or more steps"
    )
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_loss_that_is_not_finite_ends_the_test() -> None:
    net = model()
    net.append(nn.Linear(3, 3))
    found = ranged(net[:2].append(nn.Linear(16, 3)), steps=20, lowest=1e25, highest=1e30)
    assert found.diverged and len(found.losses) < 20 and all(map(math.isfinite, found.losses))


def test_the_model_and_the_random_state_are_not_touched() -> None:
    net = model().eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    before = torch.get_rng_state()
    ranged(net, steps=20)
    assert torch.equal(torch.get_rng_state(), before) and not net.training and not net[2].training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"steps": 5}, "find_lr expects 20 to 100000 steps, got 5. Use steps=200."),
        ({"lowest": 0.0}, "find_lr expects a lowest learning rate above 0, got 0.0. Leave it out for the usual one."),
        (
            {"highest": math.inf},
            "find_lr expects a highest learning rate above 0, got inf. Leave it out for the usual one.",
        ),
        (
            {"lowest": 1.0, "highest": 0.1},
            "find_lr expects a lowest rate below the highest, got 1 and 0.1. Leave out both.",
        ),
    ],
    ids=["steps", "lowest", "highest", "order"],
)
def test_what_is_out_of_range_is_refused(asked: dict[str, float], message: str) -> None:
    with pytest.raises(ArgumentError) as error:
        ranged(**{"steps": 40, **asked})
    assert str(error.value) == message


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    ranged(steps=40).draw(tmp_path / "rates.png")
    with Image.open(tmp_path / "rates.png") as picture:
        assert picture.width > 1000 and len(picture.convert("RGB").getcolors(2**20) or ()) > 50


def test_a_test_of_no_steps_has_no_picture(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        RangeTest((), (), True, 1e30).draw(tmp_path / "rates.png")
    assert str(error.value) == "figures.rates expects a loss at least, got none. Begin at a lower learning rate."
    assert RangeTest((), (), True, 1e30).summary == "the first loss, at a learning rate of 1e+30, is not finite"


def test_the_command_prints_what_to_try_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("striate.allocator.tune_allocator", lambda: True)
    asked = ["find-lr", "--model", "mlp_bn", "--steps", "60", "--threads", "1"]
    picture = tmp_path / "rates.png"
    assert main([*asked, "--picture", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mlp_bn on digits, sgd: the loss falls from ")
    assert lines[1].startswith("try: --learning-rate ") and lines[2:] == [f"written to {picture}"]
    assert picture.is_file()


def test_a_picture_of_another_format_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find-lr", "--picture", "rates.pdf"]) == 2
    assert capsys.readouterr().err == (
        "striate: find-lr expects --picture with a file that ends in .png, got 'rates.pdf'. Name another.\n"
    )
