"""The command line: parses, calls, prints.

Exit codes: 0 done, 1 inspect has found what is wrong, 2 a request that cannot be meant, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .errors import ArgumentError, ArgumentTypeError, CheckpointError, DataError, ShapeError, build
from .models import NAMES

if TYPE_CHECKING:
    from .analysis.report import Report

__all__ = ["main", "table"]


MODEL = f"one of {', '.join(NAMES)}; package.module:callable, which returns a module; or the model.safetensors of striate train"


class _Parser(argparse.ArgumentParser):
    """One line for a mistake, instead of the usage and then the line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. See {self.prog} --help.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command, ``sys.argv[1:]`` if None, and returns its exit code.

    >>> main(["--version"])
    striate 0.1.0
    0
    """
    options = argparse.Namespace()
    try:
        _parser().parse_args(argv, options)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except (ArgumentError, ArgumentTypeError, CheckpointError, DataError, ShapeError) as error:
        if getattr(options, "debug", False):
            traceback.print_exc()
        print(f"striate: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who reads has read enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter would tell of it at its end
        return 0
    except OSError as error:  # a full disk
        print(f"striate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("striate: stopped.", file=sys.stderr)
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="striate", description="Convolutional networks on PyTorch: fast, exact and visible on the CPU you have."
    )
    parser.add_argument("--version", action="version", version=f"striate {__version__}")
    parser.set_defaults(command=_help)
    default = argparse.SUPPRESS  # the job's own
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a model on 1,797 handwritten digits and test it on a fifth of them",
        description="Trains a model on four fifths of scikit-learn's 1,797 handwritten digits and tests it on the fifth it never saw. "
        "Writes metrics.json, model.safetensors, curves.png, filters.png and confusion.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train.add_argument(
        "--model",
        default="lenet5",
        metavar="NAME",
        help=f"one of {', '.join(NAMES)}; those for larger images are refused",
    )
    train.add_argument("--epochs", type=int, default=8, metavar="N", help="times to go through the training images")
    train.add_argument("--batch-size", type=int, default=32, metavar="N", help="images in a step, at most")
    train.add_argument("--learning-rate", type=float, default=0.025, metavar="X", help="at its peak")
    train.add_argument(
        "--momentum", type=float, default=0.9, metavar="X", help="the part of the last step that carries on"
    )
    train.add_argument("--weight-decay", type=float, default=5e-4, metavar="X", help="pull of the weights towards zero")
    train.add_argument(
        "--seed", type=int, default=0, metavar="N", help="decides the split, the first weights and the order"
    )
    train.add_argument(
        "--threads", type=int, default=default, metavar="N", help="threads for torch (default: its own choice)"
    )
    train.add_argument(
        "--out",
        default=default,
        metavar="FOLDER",
        help="for the results (default: runs/MODEL-digits, as runs/lenet5-digits)",
    )
    train.set_defaults(command=_train)

    explain = commands.add_parser(
        "explain",
        help="spell out the arithmetic of one layer, and by which method a convolution is computed",
        description="Puts a layer's numbers into the formulas: output size, parameters, multiply-adds,\n"
        "memory, gradients, receptive field. With --small a smaller layer of the same kind is\n"
        "worked through, forward and backward, cell by cell. For a convolution also: the methods\n"
        "in the order they are asked, the reason against each, and the one that is taken. Ratios\n"
        "there are measurements of benchmarks/tune.py.",
        epilog=_examples(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    explain.add_argument(
        "layer",
        nargs="?",
        metavar="LAYER",
        help="conv, depthwise, separable, convtranspose, local, maxpool or avgpool with 1d, 2d or 3d behind it, as conv2d; spatial2d, "
        "bottleneck2d; batchnorm, layernorm, layernorm2d (all channels at one place), instancenorm, groupnorm",
    )
    explain.add_argument(
        "--input", metavar="NxCxHxW", help="shape of x, as 16x64x56x56; without N one image (norms need it)"
    )
    explain.add_argument("--out", type=int, metavar="K", help="output channels")
    explain.add_argument("--kernel", metavar="K", help="taps on each axis, as 3 or 3x5")
    explain.add_argument("--stride", metavar="S", help="as 2 or 2x1 (default 1; of pooling the kernel)")
    explain.add_argument("--padding", metavar="P", help='as 1 or 1x0, "same" or "valid" (default 0)')
    explain.add_argument("--dilation", metavar="D", help="as 2 or 2x1 (default 1)")
    explain.add_argument("--groups", type=int, metavar="G", help="default 1; of groupnorm to be given")
    explain.add_argument(
        "--middle", type=int, metavar="M", help="channels between two steps (default: out, of a bottleneck out / 4)"
    )
    explain.add_argument("--output-padding", metavar="P", help="of convtranspose, as 1 or 1x0 (default 0)")
    explain.add_argument("--no-bias", dest="bias", action="store_const", const=False, help="a convolution without it")
    explain.add_argument("--ceil", action="store_const", const=True, help="pooling rounds its output size up")
    inside = "avgpool divides by the taps inside x only"
    explain.add_argument("--exclude-pad", dest="count_include_pad", action="store_const", const=False, help=inside)
    explain.add_argument("--channels-last", action="store_true", help="x lies in memory with its channels innermost")
    explain.add_argument(
        "--small", action="store_true", help="a smaller layer of the same kind is worked through as well"
    )
    explain.add_argument("--example", metavar="NAME", help="in place of a layer: one of the examples below")
    explain.add_argument("--json", action="store_true", help="print it as JSON")
    explain.set_defaults(command=_explain)

    inspect = commands.add_parser(
        "inspect",
        help="say what a model's layers cost and see, and what is likely a mistake",
        description="Shapes, parameters, multiply-adds, memory and receptive fields of a model, layer by layer, and likely mistakes, "
        "before any of it is computed. Exit code 1: there are errors among the findings, or fields that do not hold.",
    )
    inspect.add_argument("model", metavar="MODEL", help=MODEL)
    inspect.add_argument(
        "--input",
        required=True,
        action="append",
        metavar="CxHxW",
        help="shape of x, as 3x224x224 or 16x3x224x224; repeatable",
    )
    modes = inspect.add_mutually_exclusive_group()
    modes.add_argument("--eval", action="store_true", help="evaluation mode (default)")
    modes.add_argument("--train", action="store_true", help="training mode")
    inspect.add_argument("--markdown", action="store_true", help="Markdown in place of the table")
    inspect.add_argument(
        "--json", metavar="FILE", help="where to write all of it as JSON; - for standard output, in place of the table"
    )
    inspect.add_argument("--html", metavar="FILE", help="where to write it as a page")
    inspect.add_argument("--field", metavar="LAYER", help="also what a unit of that layer sees of the input")
    inspect.add_argument("--unit", metavar="Y,X", help="which, counted from 0 (default: the middle one)")
    inspect.add_argument(
        "--erf", nargs=2, metavar=("LAYER", "FILE"), help="draw where in its field a unit's weight lies, as a PNG"
    )
    inspect.add_argument(
        "--verify", action="store_true", help="compare the fields with what the model does, which runs it often"
    )
    inspect.add_argument("--batch-size", type=int, metavar="N", help="training's, for the rules (default: the input's)")
    inspect.add_argument(
        "--object", type=float, metavar="PX", help="how large what is to be recognised is in the input, for the rules"
    )
    inspect.add_argument("--task", metavar="TASK", help="for the rules: classification, localisation or segmentation")
    inspect.add_argument(
        "--loss", metavar="NAME", help="what the output goes into, for the rules: of torch.nn, as CrossEntropyLoss"
    )
    inspect.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="ID",
        help="a rule to leave out, as bias-before-norm; repeatable",
    )
    inspect.add_argument(
        "--fix", action="store_true", help="show what mends those findings that can be mended mechanically, as a diff"
    )
    inspect.add_argument("--strict", action="store_true", help="exit code 1 for warnings too")
    inspect.add_argument("--debug", action="store_true", help="show where in the code a request failed")
    inspect.set_defaults(command=_inspect)

    profile = commands.add_parser(
        "profile",
        help="say where a model's time goes, layer by layer",
        description="Times a model's layers inside training steps on random numbers: by which method each is computed, how near that "
        "is to what the machine can do, and what the next best method of each convolution would cost.",
    )
    profile.add_argument("model", metavar="MODEL", help=MODEL)
    profile.add_argument("--input", required=True, metavar="NxCxHxW", help="shape of x, as 16x3x112x112")
    profile.add_argument("--forward-only", action="store_true", help="inference: evaluation mode, no backward")
    order = profile.add_mutually_exclusive_group()
    order.add_argument(
        "--channels-last", action="store_true", help="x and the weights lie in memory with their channels innermost"
    )
    order.add_argument("--planes", action="store_true", help="they lie plane by plane (default)")
    classes = profile.add_mutually_exclusive_group()
    classes.add_argument("--accelerate", action="store_true", help="striate's layers in place of torch's")
    classes.add_argument("--plain", action="store_true", help="torch's layers in place of striate's")
    profile.add_argument("--rounds", type=int, default=7, metavar="N", help="of which medians are told (default 7)")
    profile.add_argument("--threads", type=int, metavar="N", help="threads for torch (default: its own choice)")
    profile.add_argument("--top", type=int, metavar="N", help="the N slowest layers only, in the text")
    profile.add_argument("--json", metavar="FILE", help="where to write all of it as JSON")
    profile.add_argument("--html", metavar="FILE", help="where to write it as a page")
    profile.set_defaults(command=_profile)

    about = "Says which versions and instruction set striate runs on, and which operations are native."
    doctor = commands.add_parser("doctor", help="say what striate runs on, and what is native", description=about)
    doctor.set_defaults(command=_doctor)
    return parser


def _help(options: argparse.Namespace) -> int:
    _parser().print_help()
    return 0


def _train(options: argparse.Namespace) -> int:
    from .allocator import tune_allocator
    from .training.job import run
    from .training.loop import Epoch

    def tell(epoch: Epoch) -> None:
        print(
            f"epoch {epoch.number:>3}/{options.epochs}   train loss {epoch.train_loss:.4f}   test loss {epoch.test_loss:.4f}   "
            f"test accuracy {100 * epoch.test_accuracy:6.2f} %   {epoch.seconds:.1f} s",
            flush=True,
        )

    tune_allocator()
    settings = {name: value for name, value in vars(options).items() if name != "command"}
    metrics = run(**settings, on_epoch=tell)
    print(
        f"{metrics['model']}: test accuracy {100 * metrics['test_accuracy']:.2f} % on {metrics['test_images']} images it never saw"
    )
    print(f"results in {metrics['folder']}")
    return 0


def _sizes(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        fix = "Write as 16x64x56x56." if option == "--input" else "Write as 3 or 3x5."
        raise ArgumentError(
            build("explain", f"{option} to be whole numbers with x between", repr(text), hint=fix)
        ) from None


def _examples() -> str:
    from .analysis.explain import EXAMPLES

    return "\n".join(
        ["examples:", *(f"  {name:<10} {example.layer}. {example.about}" for name, example in EXAMPLES.items())]
    )


def _explain(options: argparse.Namespace) -> int:
    from .analysis.explain import example, explain

    given = {name: getattr(options, name) for name in ("out", "groups", "middle", "bias", "ceil", "count_include_pad")}
    for name in ("kernel", "stride", "padding", "dilation", "output_padding"):
        text, plain = getattr(options, name), (None, "same", "valid") if name == "padding" else (None,)
        given[name] = text if text in plain else _sizes(text, f"--{name.replace('_', '-')}")
    alone = options.layer is None and options.input is None and all(value is None for value in given.values())
    if options.example is not None and not alone:
        raise ArgumentError(
            build("explain", "--example alone", "a layer or its options too", hint="Leave out one or the other.")
        )
    if options.example is None and options.layer is None:
        fix = "Write as striate explain conv2d --input 3x32x32 --out 10 --kernel 5."
        raise ArgumentError(build("explain", "a layer or --example", "neither", hint=fix))
    if options.example is not None:
        found = example(options.example)
    elif options.input is None:
        raise ArgumentError(
            build("explain", f"{options.layer} with its --input", "none", hint="Add --input, as 16x64x56x56.")
        )
    else:
        shape = _sizes(options.input, "--input")
        found = explain(options.layer, shape, small=options.small, channels_last=options.channels_last, **given)
    print(json.dumps(found.to_dict(), indent=1, ensure_ascii=False) if options.json else found)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    import torch

    from .analysis.ignore import configured
    from .analysis.inspection import inspect

    shapes = tuple(_shape("inspect", text) for text in options.input)
    unit, loss = _unit(options), _loss(options.loss)
    if options.batch_size is not None and options.batch_size < 1:
        raise ArgumentError(
            build(
                "inspect", "--batch-size from 1 on", options.batch_size, hint="Leave --batch-size out for the input's."
            )
        )
    if options.object is not None and not 0 < options.object < float("inf"):
        raise ArgumentError(
            build("inspect", "--object of more than 0 px", f"{options.object:g}", hint="Leave --object out.")
        )
    to_stdout = options.json == "-"
    _check_files("inspect", None if to_stdout else options.json, options.html, options.erf and options.erf[1])
    if options.erf is not None and Path(options.erf[1]).suffix.lower() != ".png":
        raise ArgumentError(
            build("inspect", "--erf with a file that ends in .png", repr(options.erf[1]), hint="Name another.")
        )
    with _current_folder():
        torch.manual_seed(0)
        with redirect_stdout(sys.stderr):  # what the model's own code prints is no part of the report
            model = _model("inspect", options.model).train(options.train)
            report = inspect(
                model,
                shapes[0] if len(shapes) == 1 else shapes,
                batch_size=options.batch_size,
                object_px=options.object,
                loss=loss,
                task=options.task,
                ignore=[*options.ignore, *configured(os.getcwd())],
            )
        report.model = options.model
        field = _seen(report, options.field, unit) if options.field is not None else []
        if options.erf is not None:
            from .diagnostics.field import draw

            with redirect_stdout(sys.stderr):
                draw(report, options.erf[0], options.erf[1], unit)
        _show(report, options)
        told = sys.stderr if to_stdout or options.markdown else sys.stdout  # what another program reads stands alone
        if options.erf is not None:
            print(f"written to {options.erf[1]}", file=told)
        for line in field:
            print(line, file=told)
        if options.fix:
            print("\n" + (report.fix()[1] or "fix: nothing can be mended mechanically"), file=told)
        holds = _verified(report, told) if options.verify else True
    _write(None if to_stdout else options.json, lambda: _json(report.to_dict()), told)
    _write(options.html, report.html, told)
    wrong = ("error", "warning") if options.strict else ("error",)
    return 0 if holds and not any(finding.severity in wrong for finding in report.findings) else 1


def _show(report: Report, options: argparse.Namespace) -> None:
    if options.json == "-":
        print(_json(report.to_dict()), end="")
    elif options.markdown:
        print(report.markdown(), end="")
    else:
        print(report.table(_width(40), color=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))


def _unit(options: argparse.Namespace) -> tuple[int, ...] | None:
    if options.unit is None:
        return None
    if options.field is None and options.erf is None:
        raise ArgumentError(
            build("inspect", "--field or --erf with --unit", "neither", hint="Name a layer with --field.")
        )
    parts = options.unit.split(",")
    if not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        fix = "Write as 3,4, counted from 0."
        raise ArgumentError(
            build("inspect", "--unit to be whole numbers with commas between", repr(options.unit), hint=fix)
        )
    return tuple(map(int, parts))


def _loss(name: str | None) -> Any:
    if name is None:
        return None
    from torch import nn

    from ._torch import LossBase

    kind: Any = getattr(nn, name, None)
    is_loss = isinstance(kind, type) and issubclass(kind, LossBase)
    if not is_loss:
        raise ArgumentError(
            build("inspect", "--loss to be a loss of torch.nn", repr(name), hint="Write as CrossEntropyLoss.")
        )
    return kind()


AXES = {1: ("places",), 2: ("rows", "columns"), 3: ("planes", "rows", "columns")}


def _seen(report: Report, layer: str, unit: tuple[int, ...] | None) -> list[str]:
    """What a unit sees of each input, as lines."""
    shape = report.layer(layer).output_shape
    place = unit if unit is not None else tuple(shape[axis] // 2 for axis in report.unit_axes(layer))
    lines = []
    for number, shape in enumerate(report.input_shapes):
        found = report.receptive_field(layer, place, number)
        if len(found.taps) in AXES:
            most = "" if found.exact and found.status != "upper bound" else " at most"
            of = f" of input {number + 1}" if len(report.input_shapes) > 1 else ""
            lines += ["", f"{layer}{_told_unit(place)} sees{most}{of}"]
            for name, size, taps in zip(AXES[len(found.taps)], shape[2:], found.taps, strict=True):
                lines.append(f"  {name:<8} {_runs(taps)}: {len(taps)} of {size}")
    if not lines:
        shapes = ", ".join(map(str, report.input_shapes))
        raise ArgumentError(
            build("inspect", "an input with axes behind batch and channels", shapes, hint="Leave --field out.")
        )
    return lines


def _told_unit(unit: Sequence[int]) -> str:
    return f", unit {','.join(map(str, unit))}," if unit else ""


def _runs(places: Sequence[int]) -> str:
    """Whole numbers in order, those that follow each other as one.

    >>> _runs((0, 1, 2, 5, 7, 8)), _runs(())
    ('0 to 2, 5, 7 to 8', 'none')
    """
    starts = [k for k in range(len(places)) if k == 0 or places[k] != places[k - 1] + 1]
    runs = [(places[a], places[b - 1]) for a, b in zip(starts, [*starts[1:], len(places)], strict=False)]
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs) or "none"


def _verified(report: Report, told: Any) -> bool:
    """Whether all receptive fields are as the model's; says which are not."""
    from .diagnostics.field import verify

    with redirect_stdout(sys.stderr):
        checked = verify(report)
    wrong = [one for one in checked if not one.holds]
    print(f"\nfields compared with the model: {len(checked) - len(wrong)} of {len(checked)} layers hold", file=told)
    for one in wrong:
        expected, measured = ("; ".join(map(_runs, places)) for places in (one.expected, one.measured))
        print(f"  {one.layer}{_told_unit(one.unit)} sees {measured}, where the report has {expected}", file=told)
    return not wrong


def _profile(options: argparse.Namespace) -> int:
    import torch

    from .diagnostics.profile import profile
    from .nn.swap import accelerate, restore

    shape = _shape("profile", options.input)
    if len(shape) < 2:
        expects = "--input of a batch and at least one axis more"
        raise ArgumentError(build("profile", expects, repr(options.input), hint="Write as 16x3x112x112."))
    for option, least in (("top", 1), ("threads", 1)):
        value = getattr(options, option)
        if value is not None and not least <= value <= 1024:
            raise ArgumentError(
                build("profile", f"--{option} from {least} to 1024", value, hint=f"Leave --{option} out.")
            )
    _check_files("profile", options.json, options.html)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(options.threads or threads)
        with _current_folder():
            torch.manual_seed(0)
            model = _model("profile", options.model).train(not options.forward_only)
            with warnings.catch_warnings(record=True) as told:
                model = accelerate(model) if options.accelerate else restore(model) if options.plain else model
            for one in told:
                print(f"striate: {one.message}", file=sys.stderr)
            x = torch.randn(shape)
            if options.channels_last or options.planes:
                format = (
                    torch.contiguous_format
                    if options.planes
                    else torch.channels_last_3d
                    if x.dim() == 5
                    else torch.channels_last
                )
                model = model.to(memory_format=format)
            if options.channels_last:
                x = x.movedim(1, -1).contiguous().movedim(-1, 1)
            with _bar() as progress:
                found = profile(model, x, backward=not options.forward_only, rounds=options.rounds, progress=progress)
    finally:
        torch.set_num_threads(threads)
    found = replace(found, model=options.model)
    print(found.table(_width(80), options.top))
    _write(options.json, lambda: _json(found.to_dict()))
    _write(options.html, found.html)
    return 0


def _write(path: str | None, text: Callable[[], str], told: Any = None) -> None:
    """Where a file is asked for; told: the stream that hears of it, standard output if None."""
    if path is not None:
        Path(path).write_text(text(), encoding="utf-8")
        print(f"written to {path}", file=told)


def _json(facts: Mapping[str, object]) -> str:
    return json.dumps(facts, indent=1) + "\n"


def _width(least: int) -> int:
    columns = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
    return max(least, min(columns, 160))


def _check_files(where: str, *paths: str | None) -> None:
    """Found out before the work, not after it."""
    given = [path for path in paths if path is not None]
    for number, path in enumerate(given):
        why = None
        if Path(path).is_dir():
            why = "a folder"
        elif not os.access(Path(path).parent, os.W_OK):
            why = "one in a folder that cannot be written to"
        elif Path(path).resolve() in [Path(other).resolve() for other in given[:number]]:
            why = "one that another option writes"
        if why is not None:
            raise ArgumentError(build(where, "a file to write to", why, file=path, hint="Name another."))


def _shape(where: str, text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    shape = tuple(int(part) for part in parts if part.isascii() and part.isdigit())
    if len(shape) != len(parts) or 0 in shape:
        fix = "Write as 16x3x112x112, the batch first."
        raise ArgumentError(build(where, "--input to be whole numbers from 1 on with x between", repr(text), hint=fix))
    if prod(shape) > 2**31:
        raise ArgumentError(build(where, "--input of at most 2^31 values", repr(text), hint="Write as 16x3x112x112."))
    return shape


def _model(where: str, text: str) -> Any:
    """A model of that name, what ``package.module:callable`` gives, or what a file of ``striate train`` holds."""
    from torch.nn import Module

    if text in NAMES:
        return NAMES[text]()
    if text.endswith(".safetensors"):
        from .training.job import trained

        return trained(text)
    if ":" not in text:
        expects = f"one of {', '.join(NAMES)}, package.module:callable, or a file of striate train"
        raise ArgumentError(
            build(where, expects, repr(text), hint="Choose one of these names, or a callable of your own.")
        )
    module, _, name = text.partition(":")
    try:
        made = importlib.import_module(module)
        for part in name.split("."):
            made = getattr(made, part)
        if not isinstance(made, Module) and callable(made):
            made = made()
    except (Exception, SystemExit) as error:  # whatever the code raises that is imported and called
        why = (str(error).strip() or "no more is told").splitlines()[0].rstrip(".")
        fix = "Name the module without .py." if module.endswith(".py") else "The current folder is searched too."
        raise ArgumentError(build(where, f"a model from {text}", f"{type(error).__name__}: {why}", hint=fix)) from error
    if not isinstance(made, Module):
        fix = "Name a function or class that makes one without arguments."
        raise ArgumentError(build(where, f"a torch.nn.Module from {text}", type(made).__name__, hint=fix))
    return made


@contextmanager
def _current_folder() -> Iterator[None]:
    """Inside, modules in the current folder can be imported."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


@contextmanager
def _bar(width: int = 24) -> Iterator[Callable[[int, int, str], None] | None]:
    """A bar on standard error for what is under way, gone at the end; None where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return

    def tell(done: int, of: int, what: str) -> None:
        full = width * done // max(1, of)
        print(f"\r{'█' * full}{'░' * (width - full)} {done}/{of} {what[:40]:<40}", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _doctor(options: argparse.Namespace) -> int:
    from .native import native_info
    from .tuning.select import about

    print(table({**native_info(), "convolution_methods": about()}))
    return 0


def table(facts: Mapping[str, object]) -> str:
    """Names on the left, values on the right; a list takes a line for each of its items.

    >>> print(table({"core": True, "isa": "avx2", "native": ["max_pool2d", "avg_pool2d"], "torch_operator": []}))
    core            yes
    isa             avx2
    native          max_pool2d
                    avg_pool2d
    torch operator  none
    """
    width = max((len(name) for name in facts), default=0) + 2
    lines = []
    for name, value in facts.items():
        items = list(value) or ["none"] if isinstance(value, (list, tuple)) else [value]
        for index, item in enumerate(
            {True: "yes", False: "no"}[item] if isinstance(item, bool) else item for item in items
        ):
            lines.append(f"{name.replace('_', ' ') if index == 0 else '':<{width}}{item}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
