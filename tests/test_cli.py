"""The command line: its words, its exit codes, and one line for each mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from striate import cli
from striate.cli import main
from striate.models import NAMES
from striate.training import RunSettings
from striate.training.settings import knobs

HELP = "See striate train --help."


@pytest.fixture(autouse=True)
def tuned(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Counts the calls of tune_allocator and replaces it, because it would change the allocator of the test process.
    """
    made: list[bool] = []
    monkeypatch.setattr("striate.allocator.tune_allocator", lambda: made.append(True) or True)
    return made


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("train", "inspect", "explain", "profile", "doctor", "--version"))


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: striate")


def test_train_help_shows_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for knob in knobs(RunSettings).values():
        assert f" {knob.flag}" in printed and f"(default: {knob.default_text})" in printed, knob.name
    assert all(f" {option} " in printed for option in ("--out", "--resume", "--overwrite", "--config"))
    assert "runs/lenet5-digits" in printed


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from striate import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"striate {__version__}\n"


def test_train_prints_a_line_for_each_epoch_then_the_accuracy_and_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tuned: list[bool]
) -> None:
    out = tmp_path / "run"
    assert main(["train", "--model", "mlp_bn", "--epochs", "2", "--threads", "1", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    accuracy = json.loads((out / "metrics.json").read_text())["test_accuracy"]
    assert lines[0] == "model    mlp_bn, 79,710 parameters" and lines[3] == f"results  {out}"
    place = next(place for place, line in enumerate(lines) if line.startswith("epoch 1/2"))
    first, second, *end = lines[place : place + 6]
    assert first.startswith("epoch 1/2   train loss ") and second.startswith("epoch 2/2   train loss ")
    assert end == [
        f"mlp_bn: test accuracy {100 * accuracy:.2f} % on 360 images it never saw",
        f"results in {out}: report.html shows them",
        "",
        "what to try next:",
    ]
    assert lines[place + 6].startswith(f"  striate evaluate {out} --data digits ")
    assert tuned == [True]


def test_the_folder_is_named_after_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--model", "mlp_bn", "--epochs", "1"]) == 0
    assert (tmp_path / "runs" / "mlp_bn-digits" / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--epochs", "0"],
            "striate: training expects epochs to be a whole number from 1 on, got 0. Leave it out for 8.",
        ),
        (
            ["train", "--batch-size", "0"],
            "striate: training expects batch_size to be a whole number from 1 on, got 0. Leave it out for 32.",
        ),
        (
            ["train", "--threads", "0"],
            "striate: training expects threads to be a whole number from 1 to 1024, got 0. Leave it out for its own "
            "choice.",
        ),
        (
            ["train", "--seed", "-1"],
            "striate: training expects seed to be a whole number from 0 to 4294967295, got -1. Leave it out for 0.",
        ),
        (
            ["train", "--model", "vgg99"],
            f"striate: models.by_name expects one of {', '.join(NAMES)}, got 'vgg99'. Choose one of these names.",
        ),
        (
            ["train", "--learning-rate", "nan"],
            "striate: training expects learning_rate to be a number from 0 on, got nan. Leave it out for 0.025 with "
            "sgd, 0.001 with adamw.",
        ),
        (["train", "--epochs", "two"], f"striate train: argument --epochs: invalid int value: 'two'. {HELP}"),
        (["train", "--depth", "3"], "striate: unrecognized arguments: --depth 3. See striate --help."),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err == message + "\n" and printed.out == ""
    assert not list(tmp_path.iterdir()), "a refused request left something behind"


def test_an_unknown_command_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("striate: argument") and printed.err.count("\n") == 1 and "trian" in printed.err


def test_a_folder_that_cannot_be_written_to_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder, why in ((tmp_path / "file" / "run", "Not a directory"), (tmp_path / "file", "File exists")):
        assert main(["train", "--out", str(folder)]) == 2
        printed = capsys.readouterr()
        expected = (
            f"striate: train expects a folder it can write to, got {why}. folder: {folder}. Give another with --out.\n"
        )
        assert printed.err == expected and printed.out == ""


def test_ctrl_c_says_stopped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("striate.cli.train.run", stop)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "striate: stopped.\n"


def test_doctor_prints_each_fact(capsys: pytest.CaptureFixture[str]) -> None:
    from striate.native import Machine, native_info

    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for name, value in native_info().items():
        assert name.replace("_", " ") in printed
        for item in value if isinstance(value, list) else [value]:
            assert isinstance(item, bool | Machine) or str(item) in printed


def test_doctor_prints_the_machine_with_units(capsys: pytest.CaptureFixture[str]) -> None:
    from striate import native

    before = native.machine()
    assert before
    try:
        native.use_machine(native.Machine(96, 49152, 2**21, 110100480, 48))
        assert main(["doctor"]) == 0
        native.use_machine(native.Machine(1, 1025, 2**19, 2**23, 1))
        assert main(["doctor"]) == 0
    finally:
        native.use_machine(before)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    starts = [number for number, line in enumerate(lines) if line.startswith("machine ")]
    assert [line.removeprefix("machine ").strip() for at in starts for line in lines[at : at + 3]] == [
        "96 cores",
        "48 KiB of first-level and 2 MiB of second-level cache a core",
        "105 MiB of last-level cache, shared by 48 cores",
        "1 core",
        "1025 bytes of first-level and 512 KiB of second-level cache a core",
        "8 MiB of last-level cache, shared by 1 core",
    ]


def test_explain_names_the_method_of_each_map_and_the_reasons_against_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        main(
            [
                "explain",
                "conv2d",
                "--input",
                "16x64x56x56",
                "--out",
                "64",
                "--kernel",
                "3",
                "--padding",
                "1",
                "--groups",
                "64",
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4:] == [
        "Method, of x in planes order",
        "  forward: depthwise",
        "  input gradient: depthwise",
        "  weight gradient: depthwise",
    ]
    asked = [
        "explain",
        "conv1d",
        "--input",
        "8x100",
        "--out",
        "16",
        "--kernel",
        "5",
        "--stride",
        "2",
        "--padding",
        "same",
    ]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    assert "\nMethod, of x in planes order\n  forward: " in printed and "\n    not depthwise: " in printed
    assert main([*asked, "--channels-last"]) == 0
    assert capsys.readouterr().out == printed  # an input with one spatial axis has only one memory order
    assert main(["explain", "conv2d", "--input", "8x100x9", "--out", "16", "--kernel", "5", "--channels-last"]) == 0
    assert "\nMethod, of x in channels order\n  forward: " in capsys.readouterr().out


def test_doctor_tells_where_the_methods_were_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "convolution methods" in printed and "measured on " in printed and "depthwise: " in printed


def test_a_reader_that_has_read_enough_is_no_mistake() -> None:
    command = [
        sys.executable,
        "-c",
        "from striate.cli import main; import sys; sys.exit(main(['inspect', 'resnet50', '--input', '3x64x64']))",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        printed = process.stderr.read()
        assert process.wait() == 0 and printed == b""


# ----------------------------------------------------------------------------------------------------- what is mistyped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["inspect", "lenet5", "--imput", "3"],
            "striate inspect: the following arguments are required: --input. Did you mean --input? "
            "See striate inspect --help.",
        ),
        (
            ["train", "--treads", "3"],
            "striate: unrecognized arguments: --treads 3. Did you mean --threads? See striate --help.",
        ),
        (["doctor", "--versoin"], "striate: unrecognized arguments: --versoin. See striate --help."),
        (["--verzion"], "striate: unrecognized arguments: --verzion. Did you mean --version? See striate --help."),
        (
            ["train", "--model", "lenet"],
            f"striate: models.by_name expects one of {', '.join(NAMES)}, got 'lenet'. Choose one of these names. "
            "Did you mean lenet5?",
        ),
        (
            ["inspect", "lenet5", "--input", "1x28x28", "--ignore", "bias-befor-norm"],
            "",
        ),
        (
            ["explain", "--example", "sobl"],
            "striate: explain expects an example of sobel, conv1d, conv3d, max-pool, avg-pool, batchnorm, got 'sobl'. "
            "Choose one of these. Did you mean sobel?",
        ),
        (["explain", "conv2", "--input", "3x9x9"], ""),
        (["inspect", "cnn_bn", "--input", "3x32x32", "--field", "11"], ""),
    ],
    ids=" ".join,
)
def test_what_is_mistyped_is_answered_with_the_nearest_name(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    nearest = {"--ignore": "bias-before-norm", "conv2": "conv2d", "--field": "1"}
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert (
        error == message + "\n"
        if message
        else error.endswith(f" Did you mean {nearest[next(filter(nearest.get, arguments))]}?\n")
    )


def test_an_unknown_commands_nearest_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert capsys.readouterr().err.endswith(" Did you mean train? See striate --help.\n")


@pytest.mark.parametrize(
    ("code", "near"),
    [
        ("def make(size=3): ...\ndef other(): ...\n", "mymodel:make"),
        ("def twice(n): ...\ndef _own(): ...\nclass Net(Base): ...\nclass Plain: ...\n", "mymodel:Net"),
        ("class Net(Base):\n    def __init__(self, width): ...\n", None),
        ("def make(:", None),
    ],
)
def test_a_modules_factory_is_named_where_the_module_alone_is_given(
    code: str, near: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mymodel.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    for given in ("mymodel", "mymodel.py"):
        assert main(["inspect", given, "--input", "3x8x8"]) == 2
        error = capsys.readouterr().err
        assert error.endswith("or a callable of your own.\n" if near is None else f"own. Did you mean {near}?\n")
    assert "mymodel" not in sys.modules


# -------------------------------------------------------------------------------------------------- help and completion

COMMANDS = ("train", "explain", "inspect", "profile", "doctor")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_an_example_that_is_understood(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    examples = [line.split()[1:] for line in printed.splitlines() if line.startswith(f"  striate {command}")]
    assert examples and "\x1b" not in printed and all(len(line) <= 100 for line in printed.splitlines())
    for example in examples:
        assert cli.parser().parse_args(example).command.__module__ == f"striate.cli.{command}"


def test_help_takes_texts_as_they_are_and_no_colours_into_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from striate.cli.parser import Parser

    monkeypatch.setenv("COLUMNS", "80")
    parser = Parser(prog="x", description="a [/foo] b [bold]", epilog=":smile:\n  as it is")
    parser.add_argument("--one", metavar="[A]", help="of [red]")
    printed = parser.format_help()
    assert all(text in printed for text in ("a [/foo] b [bold]", ":smile:\n  as it is", "--one [A]", "of [red]"))
    assert "\x1b" not in printed


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shells_completion_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-completion", shell]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in (*COMMANDS, "markdown", "channels-last"))
    assert ("resnet_cifar" in printed) or shell == "tcsh"


def test_python_m_striate_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "striate", "--version"], capture_output=True, text=True, check=False)
    from striate import __version__

    assert (done.returncode, done.stdout) == (0, f"striate {__version__}\n")


# ------------------------------------------------------------------------------------------------------ what is written


def test_a_full_disk_leaves_the_old_page_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno
    import os

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for option, name in (("--html", "page.html"), ("--json", "report.json")):
        file = tmp_path / name
        file.write_text("old")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            assert main(["inspect", "lenet5", "--input", "1x28x28", option, str(file)]) == 2
        assert capsys.readouterr().err == f"striate: [Errno 28] No space left on device: '{file}'\n"
        assert file.read_text() == "old"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["page.html", "report.json"]


@pytest.mark.parametrize(
    ("arguments", "module", "message"),
    [
        (
            ["train"],
            "sklearn",
            "digits expects the package scikit-learn, got no such package. Install it with: pip install "
            "'striate[train]'.",
        ),
        (
            ["train"],
            "matplotlib",
            "train expects the package matplotlib, got no such package. Install it with: pip install 'striate[train]'.",
        ),
        (
            ["inspect", "lenet5", "--input", "1x28x28", "--erf", "3", "field.png"],
            "matplotlib",
            "draw expects the package matplotlib, got no such package. Install it with: pip install 'striate[train]'.",
        ),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_how_to_get_it(
    arguments: list[str],
    module: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from striate import extras

    found = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == module else found(name))
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"striate: {message}\n" and not list(tmp_path.iterdir())
