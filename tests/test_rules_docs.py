"""Each rule has its section in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from striate.analysis import rules
from striate.analysis.lint import RULES

DOCS = Path(__file__).parent.parent / "docs" / "lint"
MODULES = sorted({rule.find.__module__.rpartition(".")[2] for rule in RULES.values()})


@pytest.mark.parametrize("module", MODULES)
def test_a_page_has_a_section_for_each_rule_of_its_module_and_no_other(module: str) -> None:
    ids = {rule.id for rule in RULES.values() if rule.find.__module__ == f"{rules.__name__}.{module}"}
    assert set(re.findall(r"^## (.+)$", (DOCS / f"{module}.md").read_text(encoding="utf-8"), re.M)) == ids
