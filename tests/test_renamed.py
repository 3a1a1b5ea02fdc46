"""Names from before the modules were moved work for one more release, each with a warning that names the new one."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import striate
from striate import _renamed, nn

# The public names of every module before the move: one line per module, with its __all__.
LIST = Path(__file__).parent / "golden" / "renamed" / "public_names.txt"
BEFORE = [line.split() for line in LIST.read_text().splitlines()]
DIGITS = "the parts of striate.training.open_data('digits')"
GONE = {
    "striate.analysis.trace": {"FREE": "is_free of striate.graph.optable", "LOCAL": "a kind of the op table"},
    "striate.analysis.picture": {"STYLE": "a template of striate.render"},
    "striate.sheet": dict.fromkeys(("bars", "boxes", "document"), "templates of striate.render"),
    "striate.text": {"cut": "private to striate.render.text"},
    "striate.training": {
        "Split": DIGITS,
        "digits": DIGITS,
        "train": "striate.training.fit, which takes a data set",
    },
    "striate.training.data": {"Split": DIGITS, "digits": DIGITS},
    "striate.training.job": {
        "digit_classifier": "striate.models.classifier, for images of any size",
        "run": "striate.training.train_run, for any data set",
        "trained": "striate.training.open_run, for any data set",
    },
    "striate.training.loop": {
        "check": "checks of striate.training.settings",
        "evaluate": "striate.training.evaluation, which takes a part of a data set",
        "learning_rate_at": "striate.training.schedule, which takes settings",
        "shifted": "the setting crop of striate.training.fit",
        "train": "striate.training.fit, which takes a data set",
    },
}


@pytest.mark.parametrize(("module", "names"), [(module, names) for module, *names in BEFORE], ids=lambda v: str(v)[:40])
def test_every_public_name_of_before_is_there(module: str, names: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if set(names) == set(GONE.get(module, ())) and names:
            return
        found = importlib.import_module(module)
        assert [name for name in names if not hasattr(found, name) and name not in GONE.get(module, ())] == []


def test_a_moved_module_is_imported_with_a_warning() -> None:
    program = (
        "import warnings; warnings.simplefilter('always')\n"
        "import striate.analysis.trace as trace\n"
        "print(trace.trace.__module__, trace.Graph.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "striate.graph.recording Recording\n"
    warnings = [line.partition("DeprecationWarning: ")[2] for line in done.stderr.splitlines() if "Deprecation" in line]
    end = "the old name goes with the next release."
    assert warnings == [
        f"striate.analysis.trace is striate.graph.recording now; {end}",
        f"striate.analysis.trace.trace is striate.graph.recording.record now; {end}",
        f"striate.analysis.trace.Graph is striate.graph.recording.Recording now; {end}",
    ]


def test_a_renamed_name_is_found_with_a_warning() -> None:
    message = "striate.ops.conv.Plan is striate.ops.conv.ConvGeometry now; the old name goes with the next release."
    with pytest.warns(DeprecationWarning) as seen:
        assert striate.ops.conv.Plan is striate.ops.conv.ConvGeometry
    assert [str(one.message) for one in seen] == [message] and seen[0].filename == __file__


def test_a_name_that_never_was_is_an_attribute_error() -> None:
    for module in (striate.ops.conv, striate.analysis, importlib.import_module("striate.analysis.trace")):
        with pytest.raises(AttributeError, match=rf"^module '{module.__name__}' has no attribute 'nothing'$"):
            module.nothing  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("striate.analysis.nothing")


def test_old_keywords_are_taken_with_a_warning() -> None:
    class Mine(nn.Conv2d): ...

    with pytest.warns(DeprecationWarning) as seen, pytest.raises(striate.errors.ArgumentError):
        nn.adapt(theirs=Mine, ours=Mine)
    assert sorted(str(one.message) for one in seen) == [
        "adapt takes original= in place of theirs=, which goes with the next release.",
        "adapt takes replacement= in place of ours=, which goes with the next release.",
    ]


def test_the_table_names_what_is_there_and_no_alias_hides_a_module() -> None:
    for home in {*_renamed.MODULES.values(), *(to.partition(":")[0] for to in _renamed.NAMES.values())}:
        importlib.import_module(f"striate.{home}")
    for old in _renamed.MODULES:
        assert not (Path(striate.__file__).parent / f"{old.replace('.', '/')}.py").exists()
