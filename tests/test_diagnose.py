"""The diagnosis: each fault is found in a network that has it, and not in the same network without it."""

from __future__ import annotations

import copy
import json
import math
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from made_runs import NET, save_data, weights
from pages import Page
from torch import Tensor

from striate import nn
from striate.cli import main
from striate.diagnostics import Diagnosis, Symptom, diagnose
from striate.diagnostics.diagnose import PROBES, QUICK
from striate.diagnostics.symptoms import Descent
from striate.errors import ArgumentError, ArgumentTypeError, ShapeError
from striate.files import write_atomically
from striate.training import figures

Batch = tuple[Tensor, Tensor]


def batches(count: int = 2, samples: int = 32) -> list[Batch]:
    """Rows of eight numbers that tell their class, 0 to 3."""
    generator, labels = torch.Generator().manual_seed(0), torch.arange(samples) % 4
    rows = [torch.randn(samples, 8, generator=generator) + 2.0 * F.one_hot(labels, 8) for _ in range(count)]
    return [(x, labels) for x in rows]


def chain(
    activation: Callable[[], nn.Module], depth: int, gain: float = 1.0, norm: bool = False, width: int = 16
) -> nn.Sequential:
    """Linear layers whose weights have the deviation gain/√fan_in, each with an activation, and one for the scores."""
    torch.manual_seed(0)
    made: list[nn.Module] = []
    for number in range(depth):
        made.append(nn.Linear(width if number else 8, width))
        nn.init.normal_(made[-1].weight, std=gain / math.sqrt(width if number else 8))
        nn.init.zeros_(made[-1].bias)
        made += [nn.BatchNorm1d(width)] if norm else []
        made.append(activation())
    return nn.Sequential(*made, nn.Linear(width, 4))


def deep(activation: Callable[[], nn.Module], gain: float = 1.0, norm: bool = False) -> nn.Sequential:
    """Ten of them, wide enough that no unit is born dead."""
    return chain(activation, 10, gain, norm, width=128)


HE = math.sqrt(2)


def seen(model: nn.Module, *, given: list[Batch] | None = None, **how: Any) -> Diagnosis:
    how = {"quick": "probes" not in how, "trained": False, **how}
    return diagnose(model, F.cross_entropy, batches() if given is None else given, **how)


def rules(found: Diagnosis) -> list[str]:
    return list(dict.fromkeys(finding.rule for finding in found.findings))


def one(found: Diagnosis, rule: str) -> Symptom:
    return next(finding for finding in found.findings if finding.rule == rule)


def with_bias(model: nn.Sequential, place: int, value: float, units: int) -> nn.Sequential:
    with torch.no_grad():
        model[place].bias[:units] = value
    return model


@cache
def learned() -> nn.Sequential:
    model, given = chain(nn.ReLU, 1, HE, norm=True), batches()
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    for step in range(60):
        x, labels = given[step % 2]
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return model


def with_statistics(mean: float) -> nn.Sequential:
    """A network that has learned, with running means that are off by this."""
    model = copy.deepcopy(learned())
    model[1].running_mean += mean
    return model


# ----------------------------------------------------------------------------------------------------------- the faults


def test_deep_sigmoids_lose_the_gradient_and_relus_keep_it() -> None:
    found = seen(deep(nn.Sigmoid))
    first = one(found, "vanishing-gradient")
    assert first.severity == "error" and first.place == "model" and first.limit == 1e-4 and first.value < 1e-4
    flow = found.results["gradient_flow"]
    assert first.value == flow.total
    assert first.message.startswith(
        f"On its way back the gradient is multiplied by {flow.mean_factor:.3g} a layer, by {flow.total:.2g} up to the "
        "first: the first layers hardly learn. Weights multiply it by "
    )
    assert first.fix == (
        "Use ReLU in place of activations that saturate, with He's weights; or a norm before each, or shortcuts."
    )
    assert first.source == "He et al. 2015, section 2.2"
    assert rules(seen(deep(nn.ReLU, HE))) == []
    assert "vanishing-gradient" not in rules(seen(deep(nn.Sigmoid, norm=True)))


def test_relus_with_weights_that_are_too_small_are_told_otherwise() -> None:
    first = one(seen(deep(nn.ReLU, 0.3)), "vanishing-gradient")
    assert first.fix == (
        "Begin with He's weights, put a norm before each activation, or shortcuts around the layers."
    )


def test_batch_norms_of_two_values_let_hardly_any_gradient_through() -> None:
    model = deep(nn.ReLU, 30.0, norm=True)
    found = one(seen(model, given=batches(2, 2)), "vanishing-gradient")
    assert found.fix == (
        "Batch norms of few values pass hardly any gradient: take larger batches, or group norm (norm=group)."
    )
    assert "vanishing-gradient" not in rules(seen(model))


def test_weights_that_are_too_large_make_the_gradient_explode() -> None:
    found = seen(deep(nn.ReLU, 6.0))
    first = found.findings[0]
    assert first.rule == "exploding-gradient" and first.limit == 1e4 and first.value > 1e4
    assert ": a step is far too long for them. " in first.message
    assert first.fix == (
        "Begin with He's weights, put a norm before each activation, or limit the gradient with clip=1."
    )
    assert rules(found)[1:] == ["loss-above-guessing"]


def test_a_layer_that_is_dead_is_an_error_and_one_that_is_nearly_half_dead_a_warning() -> None:
    whole = seen(with_bias(chain(nn.ReLU, 2, HE), 2, -99.0, 16))
    assert rules(whole) == ["dead-units"], "that no gradient passes follows from it"
    found = one(whole, "dead-units")
    assert (found.severity, found.place, found.value, found.limit) == ("error", "3", 1.0, 0.4)
    assert found.message == (
        "16 of its 16 units have the same value for all 64 samples: they tell nothing, and ReLUs at 0 learn no more."
    )
    assert found.fix == "Lower the learning rate, begin with He's weights, or put a norm before it."
    part = one(seen(with_bias(chain(nn.ReLU, 2, HE), 2, -99.0, 7)), "dead-units")
    assert (part.severity, part.value) == ("warning", 7 / 16)
    assert rules(seen(with_bias(chain(nn.ReLU, 2, HE), 2, -99.0, 6))) == []


def test_sigmoids_that_give_one_value_are_told_otherwise() -> None:
    model = with_bias(chain(nn.Sigmoid, 1), 0, 99.0, 16)
    found = one(seen(model), "dead-units")
    assert found.message == (
        "16 of its 16 units have the same value for all 64 samples: what tells these apart is lost on the way."
    )
    assert found.fix == "Begin with larger weights, put a norm before each activation, or shortcuts around the layers."


def test_saturated_activations_are_found_and_ones_in_the_middle_are_not() -> None:
    found = one(seen(chain(nn.Tanh, 2, 9.0)), "saturated")
    assert (found.severity, found.limit) == ("warning", 0.5) and found.value >= 0.5
    assert found.message == (
        f"{100 * found.value:.0f} % of its values are where its slope is below 1/20 of the steepest."
    )
    assert found.fix == (
        "Begin with smaller weights, normalize the inputs, put a norm before it, or lower the learning rate."
    )
    assert rules(seen(chain(nn.Tanh, 2))) == []
    assert "saturated" not in rules(seen(chain(nn.ReLU, 2, HE))), "half of a ReLU's values are 0 by design"


def test_running_statistics_that_are_stale_lose_what_was_learned() -> None:
    found = seen(with_statistics(9.0), trained=True)
    first = found.findings[0]
    assert (first.rule, first.severity, first.place, first.limit) == ("mode-mismatch", "error", "1", 0.2)
    norms = found.results["norm_mismatch"]
    assert first.value == pytest.approx(norms.gap / (math.log(4) - norms.batch))
    assert first.message.startswith(
        f"With running statistics, as in evaluation mode, the loss is {norms.running:.4g}, with statistics of "
        f"the batch, as in training mode, {norms.batch:.4g}, which loses 100 % of what was learned. Means of a batch "
        "are "
    )
    assert first.fix == (
        "Running statistics are stale: take momentum=0.1, more steps, or recompute_statistics(model, batches)."
    )
    assert rules(seen(with_statistics(0.0), trained=True)) == []
    assert "mode-mismatch" not in rules(seen(with_statistics(9.0))), "before training they are no one's"


def test_batches_by_class_are_told_from_stale_statistics() -> None:
    model, given = with_statistics(0.0), batches()
    x, labels = (torch.cat(parts) for parts in zip(*given, strict=True))
    by_class = [(x[labels == number], labels[labels == number]) for number in range(4)]

    found = one(seen(model, given=by_class, trained=True), "mode-mismatch")
    assert found.message.startswith("With statistics of the batch, as in training mode, the loss is ")
    assert found.fix == (
        "Batches are too small, or not alike: take larger ones, shuffle them, or use group norm (norm=group)."
    )
    assert rules(seen(model, given=given, trained=True)) == []


def test_a_rate_above_the_stable_one_is_found() -> None:
    model, given = chain(nn.ReLU, 1, HE), batches(1)
    calm = seen(model, given=given, probes=["curvature"])
    largest = calm.results["curvature"].largest[0]
    assert rules(calm) == [], "nothing is known of steps"
    for rate, expected in ((1.9 / largest, None), (2.2 / largest, "note"), (13 / largest, "warning")):
        found = seen(model, given=given, probes=["curvature"], rate=rate)
        assert [one.severity for one in found.findings] == ([] if expected is None else [expected])
    assert found.findings[0].message == (
        f"The learning rate {rate:g} is 6.5 times the largest that is stable here, {2 / largest:.2g} for a largest "
        f"eigenvalue of {largest:.3g}: steps along its direction grow."
    )
    assert found.findings[0].fix == "Lower it, let it rise slowly (warm_up), or put norms into the network."
    adam = torch.optim.AdamW(model.parameters(), 13 / largest)
    assert rules(seen(model, given=given, probes=["curvature"], optimizer=adam)) == [], "its stable rate is another"
    heavy = torch.optim.SGD(model.parameters(), 2.2 / largest, momentum=0.5)
    assert rules(seen(model, given=given, probes=["curvature"], optimizer=heavy)) == [], "momentum damps"


def test_gradient_descent_with_momentum_is_stable_up_to_the_rate_that_the_rule_names() -> None:
    for descent in (Descent(0.0), Descent(0.0, 0.9), Descent(0.0, 0.9, nesterov=True)):
        for share, is_stable in ((0.97, True), (1.03, False)):
            w = torch.ones(1, dtype=torch.float64, requires_grad=True)
            rate = share * descent.stable(4.0)
            optimizer = torch.optim.SGD([w], rate, momentum=descent.momentum, nesterov=descent.nesterov)
            for _ in range(100):
                w.grad = 4.0 * w.detach()
                optimizer.step()
            assert (abs(w.item()) < 1) == is_stable, descent


def test_a_loss_at_that_of_guessing_is_a_fault_of_a_trained_network_alone() -> None:
    model = chain(nn.ReLU, 2, HE)
    nn.init.zeros_(model[-1].weight), nn.init.zeros_(model[-1].bias)
    model[-1].weight.data[0, 0] = 1e-3  # else no gradient reaches the layers before
    found = seen(model, trained=True)
    last = one(found, "loss-at-guessing")
    assert (last.severity, last.place, last.limit) == ("error", "loss", 0.95)
    assert last.message == f"The loss is {found.loss:.4g}, that of guessing 1.386: it has learned nothing."
    assert last.fix == "See striate overfit: what cannot learn one batch by heart has a fault that no data will mend."
    assert found.guessing == math.log(4)
    assert "loss-at-guessing" not in rules(seen(model))
    assert "loss-at-guessing" not in rules(seen(with_statistics(0.0), trained=True))


def test_a_first_loss_far_above_guessing_is_found() -> None:
    model = chain(nn.ReLU, 2, HE)
    model[-1].weight.data.mul_(30)
    found = one(seen(model), "loss-above-guessing")
    assert (found.severity, found.limit) == ("warning", 2.0)
    assert found.message.endswith(", that of guessing 1.386: it is sure of what is wrong.")
    assert found.fix == (
        "Begin with smaller weights in the last layer, normalize the inputs, or lower the learning rate."
    )


def test_the_loss_of_guessing_is_known_for_classes_alone() -> None:
    model, given = chain(nn.ReLU, 1, HE), batches()
    scores = [(x, torch.zeros(len(x), 4)) for x, _ in given]
    assert diagnose(model, F.mse_loss, scores, quick=True).guessing is None
    assert diagnose(model, lambda y, t: F.cross_entropy(y, t, reduction="sum"), given, quick=True).guessing is None
    logs = nn.Sequential(model, nn.LogSoftmax(1))
    assert diagnose(logs, F.nll_loss, given, quick=True).guessing == math.log(4)


def test_steps_that_are_too_long_or_too_short_are_found_where_the_rate_is_known() -> None:
    model = chain(nn.ReLU, 2, HE)
    long, short = seen(model, rate=100.0), seen(model, rate=1e-7)
    update = long.results["gradient_flow"][0].update
    assert one(long, "large-updates").message == (
        f"A step moves its weights by {100 * update:.2g} % of their norm, where 0.1 % is usual."
    )
    assert one(long, "large-updates").severity == ("warning" if update > 1 else "note")
    assert one(long, "large-updates").fix == "Lower the learning rate, or let it rise slowly (warm_up)."
    assert one(short, "small-updates").fix == "Raise the learning rate; striate find-lr looks for one."
    assert rules(seen(model, rate=1e-2)) == rules(seen(model)) == []
    assert "small-updates" not in rules(seen(model, rate=1e-7, trained=True))


class Root(nn.Module):
    """Its derivative at 0 is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.detach()).sqrt() + x


class Logarithm(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).log()


def test_what_is_not_finite_is_named_by_its_first_place_and_nothing_else_is_told() -> None:
    model, given = chain(nn.ReLU, 2, HE), batches()
    broken = [(x.clone(), labels) for x, labels in given]
    broken[1][0][0, :3] = math.nan
    (found,) = seen(model, given=broken).findings
    assert (found.rule, found.severity, found.place, found.value) == ("not-finite", "error", "input", 3)
    assert found.message == "3 of the 512 values of the batches are infinite or NaN."
    assert found.fix == "Look for broken images, and for a division by a deviation of 0, in what prepares them."

    model[2].weight.data[0, 0] = math.inf
    (found,) = seen(model).findings
    assert (found.place, found.message) == ("2.weight", "1 of the 256 values of it are infinite or NaN.")
    assert found.fix == "A step was too large: begin again with a lower learning rate, or clip=1."

    (found,) = seen(nn.Sequential(nn.Linear(8, 8), Logarithm(), nn.Linear(8, 4))).findings
    assert (found.place, found.message) == ("1", "It is the first activation whose outputs are infinite or NaN.")
    (found,) = seen(nn.Sequential(nn.Linear(8, 4), Root())).findings
    assert found.place == "gradient"
    assert found.message == "On its way back the gradient is infinite or NaN first at 0."
    result = diagnose(chain(nn.ReLU, 1), lambda y, t: F.cross_entropy(y, t) * math.nan, given, quick=True)
    assert (result.findings[0].place, result.findings[0].message) == ("loss", "The loss is nan.")
    json.dumps(result.to_dict(), allow_nan=False)


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def test_a_gradient_that_is_cut_off_is_found() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), Cut(), nn.Linear(8, 4))
    found = one(seen(model), "no-gradient")
    assert found.message == "No gradient reaches the first layer: it learns nothing."
    assert found.fix == "Look for what cuts it off: detach(), no_grad(), units that are 0 for every sample."


# --------------------------------------------------------------------------------------------------------- what is told


def test_the_gravest_comes_first_and_all_of_it_is_in_table_json_page_and_picture() -> None:
    model = deep(nn.Sigmoid)
    model[-1].weight.data.mul_(100)
    told: list[tuple[int, int, str]] = []
    found = seen(model, on_probe=lambda *at: told.append(at))
    assert told == [(place, len(QUICK), name) for place, name in enumerate(QUICK)]
    order = [("error", "warning", "note").index(finding.severity) for finding in found.findings]
    assert order == sorted(order) and rules(found)[0] == "vanishing-gradient" and len(order) > 1

    table = found.table(70)
    assert max(map(len, table.splitlines())) <= 70 and "✗ vanishing-gradient: model\n" in table
    assert str(found) == found.table() and found.summary.startswith(
        "Sequential, before training: a loss of "
    )
    assert all(name in found.table(details=True) for name in ("gradient_flow", "‖∂L/∂x‖", "saturated"))

    told_json = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [one["rule"] for one in told_json["findings"]] == [one.rule for one in found.findings]
    assert set(told_json["findings"][0]) == {
        *("rule", "severity", "place", "message", "fix", "source", "value", "limit")
    }
    assert set(told_json["probes"]) == set(found.results) == set(QUICK) - {"norm_mismatch"}

    page = found.page()
    Page(page)
    assert found.findings[0].fix.replace("'", "&#39;") in page and page.count("<svg") == 3
    picture = found.picture()
    assert picture.startswith("<svg xmlns=") and picture.count("<svg") == 4 and picture.endswith("</svg>\n")
    tops = [float(top) for top in re.findall(r'<svg y="([\d.]+)"', picture)]
    assert tops[0] == 0 and tops == sorted(set(tops))


def test_a_network_without_a_fault_is_told_so_by_all_probes() -> None:
    found = seen(chain(nn.ReLU, 2, HE, norm=True), quick=False, rate=1e-3)
    assert set(found.results) == set(PROBES) and not found.refused
    assert found.verdict == "No fault was found." and found.findings == ()
    assert found.results["curvature"].gap is not None
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_probe_that_cannot_take_the_model_says_so_and_ends_nothing() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise OverflowError("no") if x.dtype == torch.float64 else KeyError("key")
            return torch.relu(self.layer(x))

    found = seen(Functional())
    assert found.refused["activation_statistics"] == (
        "activation_statistics expects a model with activations that are modules, got none. Make them layers, as "
        "nn.ReLU() for torch.relu."
    )
    assert found.refused["gradient_flow"] == (
        "gradient_flow expects a model that it can run, got KeyError: 'key'. Call it in Python to see where."
    )
    assert set(found.refused) == {"gradient_flow", "activation_statistics", "dead_units"}
    assert f"gradient_flow was not measured: {found.refused['gradient_flow'][:30]}" in found.table(200)


def test_costly_probes_are_left_out_of_large_models_but_where_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[PROBES["curvature"].__module__], "MOST_WEIGHTS", 100)
    model = chain(nn.ReLU, 1, HE)
    found = seen(model, quick=False)
    assert found.refused["curvature"] == (
        "curvature expects a model of up to 100 weights, for its cost, got 212. Name it, as --probe curvature, to "
        "measure it all the same."
    )
    assert set(found.refused) == {"curvature", "lipschitz"}
    assert set(seen(model, probes=["curvature"]).results) == {"curvature"}


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        (
            {"probes": ["curvatur"]},
            ArgumentError,
            f"diagnose expects probes of {', '.join(PROBES)}, got 'curvatur'. Choose one of these. Did you mean "
            "curvature?",
        ),
        ({"rate": 0.0}, ArgumentError, "diagnose expects a rate above 0, got 0.0. Give the optimizer's learning rate."),
        (
            {"given": []},
            ArgumentError,
            "diagnose expects a batch at least, got none. Give a list of pairs (x, target).",
        ),
        (
            {"given": [(torch.ones(2, 7), torch.zeros(2, dtype=torch.int64))]},
            ShapeError,
            None,
        ),
    ],
)
def test_what_it_cannot_take_is_refused(how: dict[str, Any], kind: type[Exception], message: str | None) -> None:
    with pytest.raises(kind) as error:
        seen(chain(nn.ReLU, 1), **how)
    if message is None:
        assert str(error.value).startswith("diagnose expects batches that Sequential takes, got one of shape (2, 7): ")
    else:
        assert str(error.value) == message
    with pytest.raises(ArgumentTypeError):
        diagnose(torch.relu, F.cross_entropy, batches())  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.fixture(autouse=True)
def untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test process keeps its allocator, and draws nothing while it trains."""
    monkeypatch.setattr("striate.allocator.tune_allocator", lambda: True)
    monkeypatch.setattr(figures, "write_png", lambda figure, path, dpi: write_atomically(path, b""))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_data(tmp_path_factory.mktemp("data") / "data.npz")


def test_the_command_measures_a_model_with_its_first_weights(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["diagnose", NET, "--data", data, "--images", "50", "--batch-size", "20", "--quick"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{NET} on {data}\n\nSequential, before training: a loss of ")
    assert " ".join(printed.out.split()).endswith("on 40 samples in 2 batches. No fault was found.")
    assert printed.err == ""

    page, picture = tmp_path / "page.html", tmp_path / "picture.svg"
    assert main([*command, "--json", "--page", str(page), "--picture", str(picture)]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert (told["model"], told["data"], told["samples"], told["trained"]) == (NET, data, 40, False)
    assert told["findings"] == [] and set(told["probes"]) == set(QUICK) and told["guessing"] == math.log(3)
    assert told["probes"]["gradient_flow"]["rate"] == 0.025, "that of striate train"
    assert printed.err == f"written to {picture}\nwritten to {page}\n"
    Page(page.read_text())
    assert picture.read_text().startswith("<svg")

    assert main(["diagnose", NET, "--data", data, "--probe", "dead_units", "--learning-rate", "0.1"]) == 0
    assert "\ndead_units\n  layer  dead" in capsys.readouterr().out


def test_a_run_with_diagnose_says_before_and_after_what_is_wrong_and_trains_the_same(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, measured = tmp_path / "plain", tmp_path / "measured"
    command = ["train", "--data", data, "--model", NET, "--epochs", "1", "--threads", "1", "--learning-rate", "0.1"]
    assert main([*command, "--out", str(plain)]) == 0
    assert "before training" not in capsys.readouterr().out
    assert main([*command, "--out", str(measured), "--diagnose"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Sequential, before training: a loss of " in printed and "Sequential, trained: a loss of " in printed
    assert weights(plain) == weights(measured)
    page = (measured / "report.html").read_text()
    assert "<h2>Before training: why it learns or not</h2>" in page
    assert "<h2>After training: why it learns or not</h2>" in page
    assert "why it learns or not" not in (plain / "report.html").read_text()

    assert main(["diagnose", str(measured), "--quick"]) in (0, 1)
    printed = capsys.readouterr().out
    assert printed.startswith(f"{measured} on {data}\n\nSequential, trained: a loss of ")
    assert main(["diagnose", str(measured), "--quick", "--json"]) in (0, 1)
    told = json.loads(capsys.readouterr().out)
    assert told["trained"] and told["probes"]["gradient_flow"]["rate"] is None, "the training has ended"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "0"], "diagnose expects --images from 1 on, got 0. Leave --images out for 512."),
        (
            ["--quick", "--probe", "curvature"],
            "diagnose expects one of --quick and --probe, got both. --quick chooses the probes itself.",
        ),
        (
            ["--picture", "a.png"],
            "diagnose expects --picture with a file that ends in .svg, got 'a.png'. Name another.",
        ),
        (
            ["--probe", "curvatur"],
            f"diagnose expects probes of {', '.join(PROBES)}, got 'curvatur'. Choose one of these. Did you mean "
            "curvature?",
        ),
    ],
)
def test_options_that_cannot_be_met_are_refused(
    options: list[str], message: str, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagnose", NET, "--data", data, *options]) == 2
    assert capsys.readouterr().err == f"striate: {message}\n"
