"""striate inspect: what is printed and written, the exit codes, and one line for each mistake."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
import torch

import striate
from striate import models, nn
from striate.analysis import Report
from striate.analysis.inspect import inspection
from striate.analysis.lint import lint
from striate.analysis.lint.context import Context
from striate.analysis.lint.finding import Finding
from striate.analysis.lint.rule import Found, Rule
from striate.cli import main
from striate.diagnostics import fields
from striate.training import checkpoint

LENET = ["inspect", "lenet5", "--input", "1x28x28"]
NAMED = ", ".join(models.NAMES)


def report_of(*arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """The report that ``--json -`` prints."""
    main(["inspect", *arguments, "--json", "-"])
    report: dict[str, object] = json.loads(capsys.readouterr().out)
    return report


def write_models(folder: Path) -> None:
    (folder / "mine_to_inspect.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = torch.nn.Conv2d(3, 4, 3, padding=2, dilation=2)\n"
        "    def forward(self, x, y=None):\n"
        "        if y is not None:\n"
        "            x = x + y.mean((2, 3), keepdim=True)\n"
        "        return self.conv(x)\n"
        "class Broken(Net):\n"
        "    def forward(self, x):\n"
        "        raise KeyError('no\\nsuch')\n"
        "def number(): return 7\n"
        "def broken(): raise OSError('no\\nfile.')\n"
        "def leaves(): raise SystemExit(0)\n"
        "class Leaves(Net):\n"
        "    def forward(self, x):\n"
        "        raise SystemExit(0)\n"
        "class Talks(Net):\n"
        "    def forward(self, x):\n"
        "        print('seen')\n"
        "        return self.conv(x)\n"
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a folder with models the current one."""
    write_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_to_inspect", raising=False)
    return tmp_path


def found(monkeypatch: pytest.MonkeyPatch, *severities: str) -> None:
    """Makes lint return just these findings."""
    findings = [
        Finding(f"a-{severity}", severity, "0", "It is wrong.", "Mend it.", "arithmetic") for severity in severities
    ]
    monkeypatch.setattr(inspection, "lint", lambda report, use, ignore: findings)


# ------------------------------------------------------------------------------------------------------ what is printed


@pytest.mark.parametrize("shape", ["1x28x28", "1X28X28", "2x1x28x28"])
def test_the_table_is_the_reports_without_control_codes(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", "lenet5", "--input", shape])
    printed = capsys.readouterr().out
    sizes = (2 if shape.startswith("2") else 1, 1, 28, 28)
    report = striate.inspect(models.lenet5().eval(), sizes)
    assert printed == report.table().replace("Sequential:", "lenet5:", 1) + "\n" and "\x1b" not in printed
    assert f"x {sizes[0]}×1×28×28, evaluation mode" in printed


def test_markdown_and_json_stand_alone_on_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = str(tmp_path / "page.html")
    main([*LENET, "--markdown", "--html", page, "--field", "3"])
    printed = capsys.readouterr()
    report = striate.inspect(models.lenet5().eval(), (1, 1, 28, 28))
    report.model = "lenet5"
    assert (
        printed.out == report.markdown()
        and printed.err.endswith(f"written to {page}\n")
        and "\n3, unit 7,7, sees\n" in printed.err
    )
    main([*LENET, "--json", "-", "--html", page, "--verify"])
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads(json.dumps(report.to_dict())) and "10 of 10 layers hold" in printed.err


def test_files_hold_the_report_as_json_and_as_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(tmp_path / name) for name in ("report.json", "page.html")]
    main([*LENET, "--json", files[0], "--html", files[1]])
    printed = capsys.readouterr().out
    assert printed.startswith("lenet5: x ") and printed.endswith(f"written to {files[0]}\nwritten to {files[1]}\n")
    assert json.loads(Path(files[0]).read_text())["totals"]["macs"] == 6_522_000
    assert "<h1>lenet5</h1>" in Path(files[1]).read_text()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("no_color", "is_colored"), [(None, True), ("", True), ("1", False)])
def test_a_terminal_gets_colours_unless_no_color_is_set(
    no_color: str | None, is_colored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    main(LENET)
    assert ("\x1b[34m" in screen.getvalue()) == is_colored
    assert max(map(len, re.sub(r"\x1b\[\d*m", "", screen.getvalue()).splitlines())) <= 90


def test_options_reach_the_model_and_the_rules(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contexts: list[Context] = []

    def look(context: Context) -> list[Found]:
        contexts.append(context)
        return []

    monkeypatch.setattr(lint, "RULES", {"looks": Rule("looks", "note", "arithmetic", look)})
    options = ["--batch-size", "4", "--object", "12.5", "--task", "segmentation", "--loss", "CrossEntropyLoss"]
    assert main([*LENET, "--train", *options]) == 0
    (seen,) = contexts
    assert seen.batch_size == 4 and seen.object_px == 12.5 and seen.task == "segmentation" and seen.recording.training
    assert type(seen.loss) is torch.nn.CrossEntropyLoss
    assert "lenet5: x 1×1×28×28, training mode" in capsys.readouterr().out
    assert main([*LENET, "--eval", "--ignore", "looks"]) == 0
    assert len(contexts) == 1


# ---------------------------------------------------------------------------------------------- models and their inputs


def test_a_callable_in_the_current_folder_gets_several_inputs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = list(sys.path)
    report = report_of("mine_to_inspect:Net", "--input", "2x3x8x8", "--input", "2x3x5x4", capsys=capsys)
    assert report["model"] == "mine_to_inspect:Net" and report["input_shapes"] == [[2, 3, 8, 8], [2, 3, 5, 4]]
    assert sys.path == before


def test_the_file_of_a_run_is_the_model_that_was_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "model.safetensors")
    for name, parameters in (("lenet5", 1_256_080), ("cnn_bn", None)):
        model = models.classifier(name, 1, (28, 28), 10)
        checkpoint.save(model, file, settings={"model": name})
        report = report_of(file, "--input", "1x28x28", capsys=capsys)
        total = report["totals"]["parameters"]  # type: ignore[index]
        assert total == sum(p.numel() for p in model.parameters()) and parameters in (None, total)
    assert report["model"] == file and report["mode"] == "evaluation"


# ----------------------------------------------------------------------------------------------------- receptive fields


def test_a_units_field_is_printed_axis_by_axis_with_the_holes_of_dilation(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*LENET, "--field", "5", "--unit", "3,0"])
    assert capsys.readouterr().out.endswith(
        "\n\n5, unit 3,0, sees\n  rows     6 to 21: 16 of 28\n  columns  0 to 9: 10 of 28\n"
    )
    main([*LENET, "--field", "9"])
    assert capsys.readouterr().out.endswith("\n\n9 sees\n  rows     0 to 27: 28 of 28\n  columns  0 to 27: 28 of 28\n")
    main(
        [
            "inspect",
            "mine_to_inspect:Net",
            "--input",
            "1x3x8x8",
            "--input",
            "1x3x5x4",
            "--field",
            "conv",
            "--unit",
            "4,0",
        ]
    )
    assert capsys.readouterr().out.endswith(
        "\n\nconv, unit 4,0, sees of input 1\n  rows     2, 4, 6: 3 of 8\n  columns  0, 2: 2 of 8\n"
        "\nconv, unit 4,0, sees of input 2\n  rows     0 to 4: 5 of 5\n  columns  0 to 3: 4 of 4\n"
    )


def test_a_bound_is_said_to_be_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine_to_inspect.py").write_text("from graphs import Cross")
    main(["inspect", "mine_to_inspect:Cross", "--input", "1x1x11x12", "--field", "add"])
    assert capsys.readouterr().out.endswith(
        "add, unit 5,6, sees at most\n  rows     3 to 7: 5 of 11\n  columns  4 to 8: 5 of 12\n"
    )


def test_verify_says_how_many_layers_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found(monkeypatch)
    assert main([*LENET, "--verify"]) == 0
    assert capsys.readouterr().out.endswith("\n\nfields compared with the model: 10 of 10 layers hold\n")


def test_a_field_that_does_not_hold_is_told_and_gives_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verify(report: Report) -> list[fields.Checked]:
        places = ((0, 1, 2), (4, 6))
        return [
            fields.Checked("0", (1, 5), places, places, True),
            fields.Checked("3", (1, 5), places, ((0, 1, 2, 3), (4, 6)), True),
            fields.Checked("5", (), places, ((0, 1, 3), ()), False),
        ]

    found(monkeypatch)
    monkeypatch.setattr(fields, "verify", verify)
    assert main([*LENET, "--verify"]) == 1
    assert capsys.readouterr().out.endswith(
        "\nfields compared with the model: 1 of 3 layers hold\n"
        "  3, unit 1,5, sees 0 to 3; 4, 6, where the report has 0 to 2; 4, 6\n"
        "  5 sees 0 to 1, 3; none, where the report has 0 to 2; 4, 6\n"
    )


def test_erf_draws_the_unit_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "field.png"
    asked = []
    whole = fields.effective_field
    monkeypatch.setattr(fields, "effective_field", lambda *given: asked.append(given[1:3]) or whole(*given))
    main([*LENET, "--erf", "3", str(file), "--unit", "2,3"])
    assert file.read_bytes().startswith(b"\x89PNG") and asked == [("3", (2, 3))]
    assert capsys.readouterr().out.endswith(f"written to {file}\n")


# ---------------------------------------------------------------------------------------------------------------- fixes


def test_fix_shows_what_mends_the_findings(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine_to_inspect.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())\n"
    )
    main(["inspect", "mine_to_inspect:net", "--input", "2x3x8x8", "--fix"])
    printed = capsys.readouterr().out.split("\n\n")[-1].splitlines()
    assert printed[:2] == ["--- mine_to_inspect:net", "+++ mine_to_inspect:net, fixed"]
    assert [line for line in printed[2:] if line[0] in "+-"] == [
        "-  (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))",
        "+  (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), bias=False)",
    ]


def test_fix_says_so_where_there_is_nothing_to_mend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch, "warning")
    assert main([*LENET, "--fix"]) == 0
    assert capsys.readouterr().out.endswith("\n\nfix: nothing can be mended mechanically\n")


# ----------------------------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("severities", "options", "code"),
    [
        ([], [], 0),
        (["note", "warning"], [], 0),
        (["note"], ["--strict"], 0),
        (["warning"], ["--strict"], 1),
        (["error", "note"], [], 1),
        (["error"], ["--json", "-"], 1),
    ],
)
def test_errors_among_the_findings_give_exit_code_1_and_warnings_if_strict(
    severities: list[str],
    options: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found(monkeypatch, *severities)
    assert main([*LENET, *options]) == code
    printed = capsys.readouterr().out
    assert all(f"a-{severity}" in printed for severity in severities)


INPUT = ["--input", "1x28x28"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["resnet", *INPUT],
            f"inspect expects one of {NAMED}, package.module:callable, or a run of striate train, got 'resnet'. "
            "Choose one of these names, or a callable of your own. Did you mean resnet18 or resnet50?",
        ),
        (
            ["mine_to_inspect", *INPUT],
            f"inspect expects one of {NAMED}, package.module:callable, or a run of striate train, got "
            "'mine_to_inspect'. "
            "Choose one of these names, or a callable of your own. "
            "Did you mean mine_to_inspect:Net or mine_to_inspect:Broken or mine_to_inspect:number?",
        ),
        (
            ["mine_to_inspect:Nett", *INPUT],
            "inspect expects a model from mine_to_inspect:Nett, got AttributeError: module 'mine_to_inspect' has no "
            "attribute 'Nett'. The current folder is searched too. Did you mean Net?",
        ),
        (
            ["nowhere:net", *INPUT],
            (
                "inspect expects a model from nowhere:net, got ModuleNotFoundError: No module named 'nowhere'. The "
                "current folder is searched too."
            ),
        ),
        (
            ["mine_to_inspect:broken", *INPUT],
            "inspect expects a model from mine_to_inspect:broken, got OSError: no (at mine_to_inspect.py:14). "
            "Call mine_to_inspect.broken() in Python to see all of it.",
        ),
        (
            ["mine_to_inspect:number", *INPUT],
            "inspect expects a torch.nn.Module from mine_to_inspect:number, got int. "
            "Name a function or class that makes one without arguments.",
        ),
        (
            ["mine_to_inspect:Broken", *INPUT],
            "inspect expects a forward that runs on x (1, 1, 28, 28), got KeyError: 'no\\nsuch' (at "
            "mine_to_inspect.py:12). "
            "Call it on such an input to see why.",
        ),
        (
            ["lenet5", "--input", "1x1x9x9"],
            "inspect expects a forward that runs on x (1, 1, 9, 9), got ShapeError: Linear expects 2450 features, got "
            "200. x: (1, 200). weight: (500, 2450). Set in_features=200, or check the layer before. Give the shape the "
            "model is for, batch and channels first.",
        ),
        (
            ["lenet5", "--input", "4y3"],
            (
                "inspect expects --input to be whole numbers from 1 on with x between, got '4y3'. Write as "
                "16x3x112x112, "
                "the batch first."
            ),
        ),
        (
            ["lenet5", "--input", "99999x3x99999x99999"],
            "inspect expects --input of at most 2^31 values, got '99999x3x99999x99999'. Write as 16x3x112x112.",
        ),
        (
            ["none.safetensors", *INPUT],
            "load expects a sound checkpoint, got No such file or directory. path: none.safetensors. "
            "Give the file of a checkpoint, as runs/lenet5-digits/model.safetensors.",
        ),
        (
            ["text.safetensors", *INPUT],
            "load expects a sound checkpoint, got a file of 13 bytes whose header does not fit in it. path: "
            "text.safetensors. "
            "Give the file of a checkpoint, as runs/lenet5-digits/model.safetensors.",
        ),
        (
            ["frozen.safetensors", *INPUT],
            "load expects a checkpoint of striate train, got a frozen model. path: frozen.safetensors. "
            "Name what makes the model instead, as package.module:callable.",
        ),
        (
            ["other.safetensors", *INPUT],
            "load expects a checkpoint of striate train, got one that names no model. path: other.safetensors. "
            "Name what makes the model instead, as package.module:callable.",
        ),
        (["lenet5", *INPUT, "--json", "."], "inspect expects a file to write to, got a folder. file: .. Name another."),
        (
            ["lenet5", *INPUT, "--html", "no/such/page.html"],
            (
                "inspect expects a file to write to, got one in a folder that cannot be written to. file: "
                "no/such/page.html. Name another."
            ),
        ),
        (
            ["lenet5", *INPUT, "--json", "a.txt", "--html", "./a.txt"],
            "inspect expects a file to write to, got one that another option writes. file: ./a.txt. Name another.",
        ),
        (
            ["lenet5", *INPUT, "--erf", "3", "field.jpg"],
            "inspect expects --erf with a file that ends in .png, got 'field.jpg'. Name another.",
        ),
        (
            ["mine_to_inspect.py:Net", *INPUT],
            "inspect expects a model from mine_to_inspect.py:Net, got ModuleNotFoundError: No module named "
            "'mine_to_inspect.py'; "
            "'mine_to_inspect' is not a package. Name the module without .py.",
        ),
        (
            ["mine_to_inspect:leaves", *INPUT],
            "inspect expects a model from mine_to_inspect:leaves, got SystemExit: 0 (at mine_to_inspect.py:15). "
            "Call mine_to_inspect.leaves() in Python to see all of it.",
        ),
        (
            ["mine_to_inspect:Leaves", *INPUT],
            "inspect expects a forward that runs on x (1, 1, 28, 28), got SystemExit: 0 (at mine_to_inspect.py:18). "
            "Call it on such an input to see why.",
        ),
        (
            ["lenet5", *INPUT, "--erf", "3", "."],
            "inspect expects a file to write to, got a folder. file: .. Name another.",
        ),
        (
            ["lenet5", *INPUT, "--batch-size", "0"],
            "inspect expects --batch-size from 1 on, got 0. Leave --batch-size out for the input's.",
        ),
        (["lenet5", *INPUT, "--object", "0"], "inspect expects --object of more than 0 px, got 0. Leave --object out."),
        (
            ["lenet5", *INPUT, "--object", "nan"],
            "inspect expects --object of more than 0 px, got nan. Leave --object out.",
        ),
        (
            ["lenet5", *INPUT, "--task", "chess"],
            (
                "lint expects a task of classification, localisation, segmentation, got 'chess'. Choose one of them, "
                "or "
                "leave it out."
            ),
        ),
        (
            ["lenet5", *INPUT, "--loss", "Conv2d"],
            "inspect expects --loss to be a loss of torch.nn, got 'Conv2d'. Write as CrossEntropyLoss.",
        ),
        (
            ["lenet5", *INPUT, "--loss", "Nothing"],
            "inspect expects --loss to be a loss of torch.nn, got 'Nothing'. Write as CrossEntropyLoss.",
        ),
        (
            ["lenet5", *INPUT, "--unit", "3,4"],
            "inspect expects --field or --erf with --unit, got neither. Name a layer with --field.",
        ),
        (
            ["lenet5", *INPUT, "--field", "3", "--unit", "3x4"],
            "inspect expects --unit to be whole numbers with commas between, got '3x4'. Write as 3,4, counted from 0.",
        ),
        (
            ["lenet5", *INPUT, "--field", "3", "--unit", "14,0"],
            (
                "Report.receptive_field expects unit within (14, 14), got (14, 0). Count from 0 on each axis behind "
                "batch "
                "and channels."
            ),
        ),
        (
            ["lenet5", *INPUT, "--field", "conv"],
            "Report.layer expects one of 0, 1, 2, 3, 4, 5, 6, 7 …, got 'conv'. Choose the name of a row.",
        ),
        (
            ["mlp_bn", "--input", "784", "--field", "0"],
            "inspect expects an input with axes behind batch and channels, got (1, 784). Leave --field out.",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_inspect_says_in_one_line_what_is_wrong(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "text.safetensors").write_text("no checkpoint")
    if arguments[0] == "frozen.safetensors":
        striate.freeze(nn.Linear(2, 1), torch.ones(1, 2)).save(here / "frozen.safetensors")
    checkpoint.save(nn.Linear(2, 1), here / "other.safetensors", settings=3)
    assert main(["inspect", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"striate: {message}\n" and printed.out == ""


def test_an_unknown_rule_to_ignore_is_refused_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {name: Rule(name, "note", "arithmetic", lambda context: iter(())) for name in ("one-rule", "another")}
    monkeypatch.setattr(lint, "RULES", known)
    assert main([*LENET, "--ignore", "one-rule", "--ignore", "third"]) == 2
    assert (
        capsys.readouterr().err
        == "striate: lint expects ids of rules to ignore, got 'third'. There are another, one-rule.\n"
    )


def test_debug_shows_where_a_request_failed_before_the_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "mine_to_inspect:broken", *INPUT, "--debug"]) == 2
    printed = capsys.readouterr().err
    assert "Traceback (most recent call last)" in printed and 'mine_to_inspect.py", line 14, in broken' in printed
    assert printed.splitlines()[-1].startswith(
        "striate: inspect expects a model from mine_to_inspect:broken, got OSError: no (at mine_to_inspect.py:14)."
    )


def test_the_projects_file_names_rules_to_leave_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tomllib", reason="Python 3.10 cannot read such a file")
    findings = report_of("cnn_bn", "--input", "3x32x32", capsys=capsys)["findings"]
    assert {finding["rule"] for finding in findings} == {"bias-before-norm"}
    (here / "pyproject.toml").write_text('[tool.striate.lint]\nignore = ["bias-before-norm"]\n')
    assert report_of("cnn_bn", "--input", "3x32x32", capsys=capsys)["findings"] == []


def test_what_the_models_own_code_prints_is_no_part_of_the_report(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "inspect",
                "mine_to_inspect:Talks",
                "--input",
                "3x8x8",
                "--verify",
                "--erf",
                "conv",
                "field.png",
                "--json",
                "-",
            ]
        )
        == 0
    )
    printed = capsys.readouterr()
    assert json.loads(printed.out)["model"] == "mine_to_inspect:Talks" and "seen" in printed.err


def test_the_guide_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parent.parent / "docs" / "guide" / "inspect.md"
    if not page.is_file():
        pytest.skip("the guide is not installed, only the checkout has it")
    assert main(["inspect", "lenet5", "--input", "1x28x28"]) == 0
    shown = capsys.readouterr().out
    assert "6,522,000 MACs" in shown and f"```\n{shown}```\n" in page.read_text(encoding="utf-8")
