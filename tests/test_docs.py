"""What documents name is there: files and folders, links, and the terms of the glossary."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("src", "csrc", "tests", "benchmarks", "docs", "examples")
if not (ROOT / "docs").is_dir():
    pytest.skip("documents are not installed, only the checkout has them", allow_module_level=True)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FILES = [f"/{path.relative_to(ROOT)}" for part in PARTS for path in (ROOT / part).rglob("*")]
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"[\w./-]*\w\.(?:py|cpp|h|def|csv|md)$")
NO_FILES = {"net.py", "m.def"}  # a user's file in an example; how an operator's schema is registered


def named(text: str) -> set[str]:
    """Files and folders in backticks: those below a part of the repository, and other words that end as a file does,
    such as ``ops/gate.py``. Patterns and words with placeholders (``<subject>``) are left out.
    """
    found: set[str] = set()
    for code in CODE.findall(text):
        for word in re.split(r"[\s,;()=]+", code):
            word = word.partition("::")[0].rstrip(".:")
            below = word.partition("/")[0] in PARTS and "/" in word
            if (below or FILE.match(word)) and not re.search(r"[<>*{}…]", word):
                found.add(word)
    return found - NO_FILES


def exists(word: str) -> bool:
    """A path from the root, or the end of one."""
    return (ROOT / word).exists() or any(path.endswith(f"/{word.rstrip('/')}") for path in FILES)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_document_names_exist(document: Path) -> None:
    assert sorted(word for word in named(document.read_text()) if not exists(word)) == []


@pytest.mark.parametrize("document", [ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_a_name_of_a_file_that_a_document_names_is_in_the_file(document: Path) -> None:
    text, missing = " ".join(document.read_text().split()), []
    found = re.findall(r"`(\w+)` (?:of|in|\() ?`([\w./]+\.(?:py|cpp|h))`", text)
    for name, file in found:
        paths = [ROOT / path[1:] for path in FILES if path.endswith(f"/{file}")]
        if not any(re.search(rf"\b{name}\b", path.read_text()) for path in paths):
            missing.append(f"{name} of {file}")
    assert len(found) > 20 and missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_document_lead_to_files(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.S | re.M)
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", CODE.sub("", text))
    assert [link for link in links if "://" not in link and not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text()
    if "Status: superseded by" in text:
        return
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert [name for name in re.findall(r"::(test_\w+)", text) if f"def {name}(" not in tests] == []


def test_a_missing_file_is_seen() -> None:
    text = "`ops/gate.py` and `src/striate/gone.py::f`, `tests/test_<subject>.py`, `python benchmarks/none.py x`"
    assert sorted(word for word in named(text) if not exists(word)) == ["benchmarks/none.py", "src/striate/gone.py"]


def test_decision_records_are_in_their_table() -> None:
    folder = ROOT / "docs" / "adr"
    table = (folder / "README.md").read_text()
    assert [path.name for path in sorted(folder.glob("0*.md")) if f"]({path.name})" not in table] == []


def test_terms_of_the_glossary_are_in_the_code() -> None:
    terms = (ROOT / "docs" / "glossary.md").read_text().partition("## Names before")[0]
    files = [path for part in ("src", "csrc") for path in (ROOT / part).rglob("*")]
    code = "\n".join(path.read_text() for path in files if path.suffix in (".py", ".h", ".cpp"))
    words = set(re.findall(r"`(\w+)`", terms))
    assert len(words) > 30
    assert sorted(word for word in words if not re.search(rf"\b{word}\b", code)) == []
