"""Findings about published networks, which are assumed to be good: they must be few and correct."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapted import timm

from striate.analysis import Report, inspect
from striate.analysis.lint.group import grouped

GOLDEN = Path(__file__).parent / "golden" / "inspect" / "published.txt"
TOLD = dict(line.split(": ") for line in GOLDEN.read_text(encoding="utf-8").splitlines())
SCREEN = (80, 24)  # columns and lines
FEW = {  # one of each family; the others run in make nightly
    *("resnet18", "mobilenetv3_small_100", "convnext_atto", "inception_next_atto", "repvgg_a0", "ghostnet_100"),
    *("poolformer_s12", "fastvit_t8", "starnet_s1", "vit_tiny_patch16_224"),
}


def published(name: str) -> Report:
    with torch.device("meta"):
        model = timm().create_model(name).eval()
    return inspect(model, (1, *model.default_cfg["input_size"]))


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.nightly) for name in TOLD]
)
def test_findings_of_a_published_network_are_those_that_are_kept_and_fit_one_screen(name: str) -> None:
    report = published(name)
    reported = [
        f"{len({f.place for f in group.findings})} {group.severity} {group.rule}" for group in grouped(report.findings)
    ]
    assert (", ".join(reported) or "nothing") == TOLD[name]
    columns, lines = SCREEN
    shown = report.table(columns).split("\n\n")[3:]
    assert len(shown) == bool(reported) and all(len(part.splitlines()) <= lines for part in shown)


def test_what_fires_on_good_networks_is_told_of_few_of_them_and_with_few_rules() -> None:
    rules = {
        name: [] if findings_of == "nothing" else [one.split(" ", 2)[2] for one in findings_of.split(", ")]
        for name, findings_of in TOLD.items()
    }
    assert len(rules) >= 80 and set(TOLD) >= FEW and max(map(len, rules.values())) <= 3
    networks = {
        rule: sum(rule in found for found in rules.values())
        for rule in ("unproductive-layers", "depthwise-without-pointwise", "groups-are-layer-norm")
    }
    assert (
        networks["unproductive-layers"]
        == networks["groups-are-layer-norm"]
        == 0
        < networks["depthwise-without-pointwise"]
        <= 5
    )
