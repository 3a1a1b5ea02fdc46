"""The framework of the rules: their order and formats, what is ignored, and which requests are refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from striate import inspect
from striate.analysis.lint import rules  # noqa: F401  makes the rules known
from striate.analysis.lint.ignore import configured
from striate.analysis.lint.rule import RULES
from striate.errors import ArgumentError

ROOT = Path(__file__).parent.parent
SHAPE = (8, 3, 6, 6)


def network() -> nn.Module:
    return nn.Sequential(nn.GroupNorm(3, 3), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8, eps=1.0))


def found(model: nn.Module) -> list[tuple[str, str]]:
    """The findings of the rule that these networks break."""
    return [(f.rule, f.place) for f in inspect(model, SHAPE).findings if f.rule == "bias-before-norm"]


def test_findings_come_by_severity_and_then_in_the_order_of_the_rows() -> None:
    assert [(f.rule, f.place) for f in inspect(network(), SHAPE).findings] == [
        ("bias-before-norm", "1"),
        ("norm-eps", "3"),
        ("groups-are-instance-norm", "0"),
    ]


def test_a_finding_as_a_dictionary_has_these_names_and_no_others() -> None:
    finding = inspect(network(), SHAPE).findings[1]
    fields = finding.to_dict()
    assert list(fields) == ["rule", "severity", "place", "message", "fix", "source", "share"]
    assert fields == {
        "rule": "norm-eps",
        "severity": "warning",
        "place": "3",
        "message": "eps=1 is added to the variance: one of 1 comes out as 0.5, one of 0.01 as 0.0099.",
        "fix": "Set eps=1e-05.",
        "source": "arithmetic of y = x/√(σ² + ε); float32 has 7 digits",
        "share": 0.0,
    }
    assert str(finding) == f"warning: 3: {fields['message']} [norm-eps] Set eps=1e-05."


@pytest.mark.parametrize("id", sorted(RULES))
def test_every_rule_has_a_section_in_the_documentation_and_a_reason(id: str) -> None:
    page = ROOT / "docs" / "lint" / f"{RULES[id].find.__module__.rpartition('.')[2]}.md"
    if not (ROOT / "docs").is_dir():
        pytest.skip("the documentation is not installed, only the checkout has it")
    assert f"\n## {id}\n" in page.read_text(encoding="utf-8")
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", id) and RULES[id].source and RULES[id].reason.endswith((".", ")"))


def test_an_id_to_ignore_that_no_rule_has_is_refused() -> None:
    known = ", ".join(sorted(RULES))
    with pytest.raises(ArgumentError) as error:
        inspect(network(), SHAPE, ignore=["bias-before-norm", "no-such-rule"])
    assert str(error.value) == f"lint expects ids of rules to ignore, got 'no-such-rule'. There are {known}."


def test_a_task_there_is_not_is_refused() -> None:
    with pytest.raises(ArgumentError) as error:
        inspect(network(), SHAPE, task="regression")
    expected = (
        "lint expects a task of classification, localisation, segmentation, got 'regression'. Choose one of them, "
        "or leave it out."
    )
    assert str(error.value) == expected


def test_ids_to_ignore_are_not_told() -> None:
    assert [
        f.rule for f in inspect(network(), SHAPE, ignore=["bias-before-norm", "groups-are-instance-norm"]).findings
    ] == ["norm-eps"]


# -------------------------------------------------------------------------------------------------- in the model's code


class Told(nn.Module):
    """The same layers, with and without comments that ignore rules."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 3, 1)
        self.a = nn.BatchNorm2d(3)
        self.made = nn.Conv2d(3, 3, 1)  # striate: ignore[norm-eps, bias-before-norm]
        self.b = nn.BatchNorm2d(3)
        self.called = nn.Conv2d(3, 3, 1)
        self.c = nn.BatchNorm2d(3)
        self.other = nn.Conv2d(3, 3, 1)  # striate: ignore[norm-eps]
        self.d = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.made(self.a(self.plain(x))))
        x = self.called(x)  # striate: ignore[bias-before-norm]
        return self.d(self.other(self.c(x)))


def test_a_word_where_a_layer_is_made_or_called_ignores_that_rule_there_and_nowhere_else() -> None:
    assert found(Told()) == [("bias-before-norm", "plain"), ("bias-before-norm", "other")]
    inside = nn.Sequential(nn.Identity(), Told())
    assert found(inside) == [("bias-before-norm", "1.plain"), ("bias-before-norm", "1.other")]


class Inherited(Told):
    def __init__(self) -> None:
        super().__init__()
        self.plain: nn.Conv2d = nn.Conv2d(
            3,
            3,
            1,
        )  # striate: ignore[bias-before-norm]


def test_a_class_may_speak_of_a_layer_that_another_one_calls() -> None:
    assert found(Inherited()) == [("bias-before-norm", "other")]


class Contained(nn.Module):
    """Rules are ignored for a container's layers where it is made: for all of them on its first line, for one
    beside its argument.
    """

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(
            nn.Conv2d(3, 3, 1),
            nn.BatchNorm2d(3),
            nn.Conv2d(3, 3, 1),  # striate: ignore[bias-before-norm]
            nn.Sequential(
                nn.BatchNorm2d(3),
                nn.Conv2d(3, 3, 1),  # striate: ignore[bias-before-norm]
                nn.BatchNorm2d(3),
            ),
        )
        self.all = nn.Sequential(  # striate: ignore[bias-before-norm]
            nn.Conv2d(3, 3, 1),
            nn.BatchNorm2d(3),
        )
        self.listed = nn.ModuleList(
            [
                nn.Conv2d(3, 3, 1),
                nn.BatchNorm2d(3),
                nn.Conv2d(3, 3, 1),  # striate: ignore[bias-before-norm]
                nn.BatchNorm2d(3),
            ]
        )
        parts = [nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)]
        self.spread = nn.Sequential(*parts)  # striate: ignore[bias-before-norm]

    def forward(self, x: Tensor) -> Tensor:
        x = self.all(self.one(x))
        for layer in self.listed:
            x = layer(x)
        return self.spread(x)


def test_a_word_in_a_container_is_about_the_argument_it_stands_at() -> None:
    assert found(Contained()) == [("bias-before-norm", "one.0"), ("bias-before-norm", "listed.0")]


def test_code_that_is_in_no_file_says_nothing() -> None:
    names: dict[str, type[nn.Module]] = {}
    exec("import torch\nclass Typed(torch.nn.Sequential):\n    pass", names)
    assert found(names["Typed"](nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))) == [("bias-before-norm", "0")]


# ---------------------------------------------------------------------------------------------------- in pyproject.toml

needs_tomllib = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 cannot read TOML")


@needs_tomllib
def test_the_nearest_pyproject_says_what_the_command_line_ignores(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.striate.lint]\nignore = ["norm-eps", "mixed-modes"]\n')
    below = tmp_path / "src" / "nets"
    below.mkdir(parents=True)
    assert configured(below) == configured(str(tmp_path)) == ["norm-eps", "mixed-modes"]
    (tmp_path / "src" / "pyproject.toml").write_text("[project]\nname = 'nets'\n")
    assert configured(below) == []
    # which a call in Python does not read
    assert [f.rule for f in inspect(network(), SHAPE).findings][1] == "norm-eps"


@needs_tomllib
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ignore = [", "expects TOML, got Invalid value (at end of document). Mend the file."),
        (
            '[tool.striate.lint]\nignore = "norm-eps"',
            "expects a list of ids as ignore in [tool.striate.lint], got 'norm-eps'. Write ignore = "
            "[\"bias-before-norm\"].",
        ),
        (
            "[tool.striate.lint]\nignore = [1]",
            'expects a list of ids as ignore in [tool.striate.lint], got [1]. Write ignore = ["bias-before-norm"].',
        ),
    ],
)
def test_a_pyproject_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(text)
    with pytest.raises(ArgumentError) as error:
        configured(tmp_path)
    assert str(error.value) == f"{file} {message}"


# --------------------------------------------------------------------------------------------------------------- fixing


def test_a_model_without_findings_is_copied_and_nothing_is_told() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
    fixed, difference = inspect(model, SHAPE).fix()
    assert difference == "" and fixed is not model and fixed[0].weight is not model[0].weight
    assert torch.equal(fixed[0].weight, model[0].weight)


def test_several_changes_to_one_layer_are_made_in_the_order_of_the_findings() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.99, eps=1.0))
    report = inspect(model, (2, 3, 6, 6))
    assert [f.rule for f in report.findings] == ["bias-before-norm", "small-batch-norm", "norm-momentum", "norm-eps"]
    fixed, _ = report.fix()
    assert (
        fixed[0].bias is None
        and type(fixed[1]) is nn.GroupNorm
        and fixed[1].eps == 1e-5
        and not hasattr(fixed[1], "momentum")
    )
    assert inspect(fixed, (2, 3, 6, 6)).findings == []


def test_what_is_ignored_is_not_mended() -> None:
    fixed, _ = inspect(Told(), SHAPE).fix()
    assert [name for name in ("plain", "made", "called", "other") if getattr(fixed, name).bias is None] == [
        "plain",
        "other",
    ]
