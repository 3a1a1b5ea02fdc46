"""What holds for all rules: a section in the documentation, and messages on odd models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from graphs import GRAPHS
from torch import nn

import striate
from striate.analysis import inspect
from striate.analysis.lint import rules
from striate.analysis.lint.rule import RULES

GOLDEN = Path(__file__).parent / "golden" / "inspect"
DOCS = Path(__file__).parent.parent / "docs" / "lint"
MODULES = sorted({rule.find.__module__.rpartition(".")[2] for rule in RULES.values()})


@pytest.mark.parametrize("module", MODULES)
def test_a_page_has_a_section_for_each_rule_of_its_module_and_no_other(module: str) -> None:
    ids = {rule.id for rule in RULES.values() if rule.find.__module__ == f"{rules.__name__}.{module}"}
    assert set(re.findall(r"^## (.+)$", (DOCS / f"{module}.md").read_text(encoding="utf-8"), re.M)) == ids


@pytest.mark.parametrize("task", ["localisation", "classification", "segmentation"])
def test_messages_on_odd_graphs_are_sentences_with_a_number(task: str) -> None:
    losses = (nn.CrossEntropyLoss(), nn.NLLLoss(), nn.BCEWithLogitsLoss(), None)
    reported = [
        finding
        for place, (make, input) in enumerate(GRAPHS.values())
        for finding in inspect(make(), input, object_px=20, task=task, loss=losses[place % 4]).findings
    ]
    assert len(reported) > 10
    for finding in reported:
        assert re.fullmatch(r"[A-Z].*\d.*\.", finding.message) and finding.fix.endswith("."), finding


def test_inputs_without_a_batch_and_of_no_samples_are_judged() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1, 2), nn.MaxPool2d(2))
    by_batch = [
        {f.rule for f in inspect(net, torch.zeros(*batch, 1, 9, 9), task="localisation").findings}
        for batch in ((), (0,), (3,))
    ]
    assert all({"skipped-pixels", "dropped-rows", "pooling-in-localisation"} <= found for found in by_batch)


def test_of_striates_own_models_nothing_is_told_but_what_is_listed_with_its_reason() -> None:
    head, body = (GOLDEN / "findings.txt").read_text(encoding="utf-8").split("\n\n")
    reasons = {line.partition(":")[0] for line in head.splitlines()}
    reported = []
    for name, make in striate.models.NAMES.items():
        sample = {"lenet5": (1, 28, 28), "mlp_bn": (784,), "cnn_bn": (3, 32, 32), "resnet_cifar": (3, 32, 32)}.get(
            name, (3, 224, 224)
        )
        with torch.device("meta"):
            model = make()
        modes = [
            [f"{name}: {f.rule} at {f.place}" for f in inspect(model.train(mode), (1, *sample)).findings]
            for mode in (True, False)
        ]
        assert modes[0] == modes[1]
        reported += modes[0]
    assert reported == body.splitlines()
    assert {line.split()[1] for line in reported} == reasons
