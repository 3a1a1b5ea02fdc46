"""The command line: parses, calls, prints. Exit codes: 0 done, 2 a request that cannot be meant, 130 stopped by Ctrl-C."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .errors import ArgumentError, ArgumentTypeError, CheckpointError, DataError, ShapeError, build
from .models import NAMES

__all__ = ["main", "table"]


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
    try:
        options = _parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except (ArgumentError, ArgumentTypeError, CheckpointError, DataError, ShapeError) as error:
        print(f"striate: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a closed pipe
        print(f"striate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("striate: stopped.", file=sys.stderr)
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="striate", description="Convolutional networks on PyTorch: fast, exact and visible on the CPU you have.")
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
    train.add_argument("--model", default="lenet5", metavar="NAME", help=f"one of {', '.join(NAMES)}; those for larger images are refused")
    train.add_argument("--epochs", type=int, default=8, metavar="N", help="times to go through the training images")
    train.add_argument("--batch-size", type=int, default=32, metavar="N", help="images in a step, at most")
    train.add_argument("--learning-rate", type=float, default=0.025, metavar="X", help="at its peak")
    train.add_argument("--momentum", type=float, default=0.9, metavar="X", help="the part of the last step that carries on")
    train.add_argument("--weight-decay", type=float, default=5e-4, metavar="X", help="pull of the weights towards zero")
    train.add_argument("--seed", type=int, default=0, metavar="N", help="decides the split, the first weights and the order")
    train.add_argument("--threads", type=int, default=default, metavar="N", help="threads for torch (default: its own choice)")
    train.add_argument(
        "--out", default=default, metavar="FOLDER", help="for the results (default: runs/MODEL-digits, as runs/lenet5-digits)"
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
    explain.add_argument("--input", metavar="NxCxHxW", help="shape of x, as 16x64x56x56; without N one image (norms need it)")
    explain.add_argument("--out", type=int, metavar="K", help="output channels")
    explain.add_argument("--kernel", metavar="K", help="taps on each axis, as 3 or 3x5")
    explain.add_argument("--stride", metavar="S", help="as 2 or 2x1 (default 1; of pooling the kernel)")
    explain.add_argument("--padding", metavar="P", help='as 1 or 1x0, "same" or "valid" (default 0)')
    explain.add_argument("--dilation", metavar="D", help="as 2 or 2x1 (default 1)")
    explain.add_argument("--groups", type=int, metavar="G", help="default 1; of groupnorm to be given")
    explain.add_argument("--middle", type=int, metavar="M", help="channels between two steps (default: out, of a bottleneck out / 4)")
    explain.add_argument("--output-padding", metavar="P", help="of convtranspose, as 1 or 1x0 (default 0)")
    explain.add_argument("--no-bias", dest="bias", action="store_const", const=False, help="a convolution without it")
    explain.add_argument("--ceil", action="store_const", const=True, help="pooling rounds its output size up")
    inside = "avgpool divides by the taps inside x only"
    explain.add_argument("--exclude-pad", dest="count_include_pad", action="store_const", const=False, help=inside)
    explain.add_argument("--channels-last", action="store_true", help="x lies in memory with its channels innermost")
    explain.add_argument("--small", action="store_true", help="a smaller layer of the same kind is worked through as well")
    explain.add_argument("--example", metavar="NAME", help="in place of a layer: one of the examples below")
    explain.add_argument("--json", action="store_true", help="print it as JSON")
    explain.set_defaults(command=_explain)

    profile = commands.add_parser(
        "profile",
        help="say where a model's time goes, layer by layer",
        description="Times a model's layers inside training steps on random numbers: by which method each is computed, how near that "
        "is to what the machine can do, and what the next best method of each convolution would cost.",
    )
    profile.add_argument("model", metavar="MODEL", help=f"one of {', '.join(NAMES)}; or package.module:callable, which returns a module")
    profile.add_argument("--input", required=True, metavar="NxCxHxW", help="shape of x, as 16x3x112x112")
    profile.add_argument("--forward-only", action="store_true", help="inference: evaluation mode, no backward")
    order = profile.add_mutually_exclusive_group()
    order.add_argument("--channels-last", action="store_true", help="x and the weights lie in memory with their channels innermost")
    order.add_argument("--planes", action="store_true", help="they lie plane by plane (default, but for the weights of --accelerate)")
    classes = profile.add_mutually_exclusive_group()
    classes.add_argument("--accelerate", action="store_true", help="striate's layers in place of torch's, channels_last")
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
    print(f"{metrics['model']}: test accuracy {100 * metrics['test_accuracy']:.2f} % on {metrics['test_images']} images it never saw")
    print(f"results in {metrics['folder']}")
    return 0


def _sizes(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        fix = "Write as 16x64x56x56."
        raise ArgumentError(build("explain", f"{option} to be whole numbers with x between", repr(text), do=fix)) from None


def _examples() -> str:
    from .analysis.worked import EXAMPLES

    return "\n".join(["examples:", *(f"  {name:<10} {example.layer}. {example.about}" for name, example in EXAMPLES.items())])


def _explain(options: argparse.Namespace) -> int:
    from .analysis.explain import example, explain

    given = {name: getattr(options, name) for name in ("out", "groups", "middle", "bias", "ceil", "count_include_pad")}
    for name in ("kernel", "stride", "padding", "dilation", "output_padding"):
        text, plain = getattr(options, name), (None, "same", "valid") if name == "padding" else (None,)
        given[name] = text if text in plain else _sizes(text, f"--{name.replace('_', '-')}")
    alone = options.layer is None and options.input is None and all(value is None for value in given.values())
    if options.example is not None and not alone:
        raise ArgumentError(build("explain", "--example alone", "a layer or its options too", do="Leave out one or the other."))
    if options.example is None and options.layer is None:
        fix = "Write as striate explain conv2d --input 3x32x32 --out 10 --kernel 5."
        raise ArgumentError(build("explain", "a layer or --example", "neither", do=fix))
    if options.example is not None:
        found = example(options.example)
    elif options.input is None:
        raise ArgumentError(build("explain", f"{options.layer} with its --input", "none", do="Add --input, as 16x64x56x56."))
    else:
        shape = _sizes(options.input, "--input")
        found = explain(options.layer, shape, small=options.small, channels_last=options.channels_last, **given)
    print(json.dumps(found.to_dict(), indent=1, ensure_ascii=False) if options.json else found)
    return 0


def _profile(options: argparse.Namespace) -> int:
    import torch

    from .diagnostics.profile import profile
    from .nn.swap import accelerate, restore

    shape = _shape(options.input)
    for option, least in (("top", 1), ("threads", 1)):
        value = getattr(options, option)
        if value is not None and not least <= value <= 1024:
            raise ArgumentError(build("profile", f"--{option} from {least} to 1024", value, do=f"Leave --{option} out."))
    for path in (options.json, options.html):
        folder = Path(path or ".").parent
        if path is not None and (Path(path).is_dir() or not os.access(folder, os.W_OK)):
            why = "a folder" if Path(path).is_dir() else "one in a folder that cannot be written to"
            raise ArgumentError(build("profile", "a file to write to", why, file=path, do="Name another."))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(options.threads or threads)
        with _current_folder():
            torch.manual_seed(0)
            model = _model(options.model).train(not options.forward_only)
            with warnings.catch_warnings(record=True) as told:
                model = accelerate(model) if options.accelerate else restore(model) if options.plain else model
            for one in told:
                print(f"striate: {one.message}", file=sys.stderr)
            x = torch.randn(shape)
            if options.channels_last or options.planes:
                format = torch.contiguous_format if options.planes else torch.channels_last_3d if x.dim() == 5 else torch.channels_last
                model = model.to(memory_format=format)
            if options.channels_last:
                x = x.movedim(1, -1).contiguous().movedim(-1, 1)
            with _bar() as progress:
                found = profile(model, x, backward=not options.forward_only, rounds=options.rounds, progress=progress)
    finally:
        torch.set_num_threads(threads)
    found = replace(found, model=options.model)
    columns = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
    print(found.table(max(80, min(columns, 160)), options.top))
    files = {options.json: lambda: json.dumps(found.to_dict(), indent=1) + "\n", options.html: found.html}
    for path, text in files.items():
        if path is not None:
            Path(path).write_text(text(), encoding="utf-8")
            print(f"written to {path}")
    return 0


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    shape = tuple(int(part) for part in parts if part.isascii() and part.isdigit())
    if len(shape) != len(parts) or 0 in shape:
        fix = "Write as 16x3x112x112, the batch first."
        raise ArgumentError(build("profile", "--input to be whole numbers from 1 on with x between", repr(text), do=fix))
    if len(shape) < 2 or prod(shape) > 2**31:
        expects = "--input of a batch and at least one axis more, and at most 2^31 values"
        raise ArgumentError(build("profile", expects, repr(text), do="Write as 16x3x112x112."))
    return shape


def _model(text: str) -> Any:
    """A model of that name, or what ``package.module:callable`` gives."""
    from torch.nn import Module

    if text in NAMES:
        return NAMES[text]()
    if ":" not in text:
        expects, fix = f"one of {', '.join(NAMES)}, or package.module:callable", "Choose one of these names, or a callable of your own."
        raise ArgumentError(build("profile", expects, repr(text), do=fix))
    module, _, name = text.partition(":")
    try:
        made = importlib.import_module(module)
        for part in name.split("."):
            made = getattr(made, part)
        if not isinstance(made, Module) and callable(made):
            made = made()
    except Exception as error:  # whatever the code raises that is imported and called
        why = (str(error) or "no more is told").splitlines()[0].rstrip(".")
        fix = "The current folder is searched too."
        raise ArgumentError(build("profile", f"a model from {text}", f"{type(error).__name__}: {why}", do=fix)) from None
    if not isinstance(made, Module):
        fix = "Name a function or class that makes one without arguments."
        raise ArgumentError(build("profile", f"a torch.nn.Module from {text}", type(made).__name__, do=fix))
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
    from .ops.crossovers import about

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
        for index, item in enumerate({True: "yes", False: "no"}[item] if isinstance(item, bool) else item for item in items):
            lines.append(f"{name.replace('_', ' ') if index == 0 else '':<{width}}{item}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
