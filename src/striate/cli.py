"""The command line: parses, calls, prints. Exit codes: 0 done, 2 a request that cannot be meant, 130 stopped by Ctrl-C."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

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
        help="say by which method a convolution is computed, and why",
        description="For a convolution and its two gradients: the methods in the order they are asked, the reason against each, and "
        "the one that is taken. Ratios are measurements of benchmarks/tune.py.",
    )
    explain.add_argument("layer", choices=["conv1d", "conv2d", "conv3d"])
    explain.add_argument("--input", required=True, metavar="NxCxHxW", help="shape of x, as 16x64x56x56; without N one image")
    explain.add_argument("--out", required=True, type=int, metavar="K", help="output channels")
    explain.add_argument("--kernel", required=True, metavar="K", help="taps on each axis, as 3 or 3x5")
    explain.add_argument("--stride", default="1", metavar="S", help="as 2 or 2x1 (default 1)")
    explain.add_argument("--padding", default="0", metavar="P", help='as 1 or 1x0, "same" or "valid" (default 0)')
    explain.add_argument("--dilation", default="1", metavar="D", help="as 2 or 2x1 (default 1)")
    explain.add_argument("--groups", default=1, type=int, metavar="G", help="default 1")
    explain.add_argument("--channels-last", action="store_true", help="x lies in memory with its channels innermost")
    explain.set_defaults(command=_explain)

    about = "Says which versions and instruction set striate runs on, and which operations are native."
    doctor = commands.add_parser("doctor", help="say what striate runs on, and what is native", description=about)
    doctor.set_defaults(command=_doctor)
    return parser


def _help(options: argparse.Namespace) -> int:
    _parser().print_help()
    return 0


def _train(options: argparse.Namespace) -> int:
    from .training.job import run
    from .training.loop import Epoch

    def tell(epoch: Epoch) -> None:
        print(
            f"epoch {epoch.number:>3}/{options.epochs}   train loss {epoch.train_loss:.4f}   test loss {epoch.test_loss:.4f}   "
            f"test accuracy {100 * epoch.test_accuracy:6.2f} %   {epoch.seconds:.1f} s",
            flush=True,
        )

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


def _explain(options: argparse.Namespace) -> int:
    from .ops.conv import explain

    dims = int(options.layer[-2])
    shape = _sizes(options.input, "--input")
    if len(shape) == dims + 1:
        shape = (1, *shape)
    if len(shape) != dims + 2:
        expects = f"--input of {dims + 1} or {dims + 2} numbers"
        raise ArgumentError(build("explain", expects, repr(options.input), do="Write batch, channels and axes, as 16x64x56x56."))
    each: dict[str, tuple[int, ...]] = {}
    for name in ("kernel", "stride", "dilation", "padding"):
        text = getattr(options, name)
        if name != "padding" or text not in ("same", "valid"):
            each[name] = _sizes(text, f"--{name}")
    kernel = each.pop("kernel")
    kernel = kernel * dims if len(kernel) == 1 else kernel
    if options.groups < 1 or options.out < 1 or len(kernel) != dims:
        expects = f"--out and --groups of at least 1, and --kernel of 1 or {dims} numbers"
        got = f"{options.out}, {options.groups}, {options.kernel!r}"
        raise ArgumentError(build("explain", expects, got, do="Choose others."))
    weight = (options.out, shape[1] // options.groups, *kernel)
    arguments = {"padding": options.padding, **each}
    told = explain(shape, weight, groups=options.groups, channels_last=options.channels_last, **arguments)
    order = "channels" if options.channels_last else "planes"
    print(f"{options.layer} {shape[1]}→{options.out}, {'×'.join(map(str, kernel))}, of x {'×'.join(map(str, shape))} in {order} order")
    names = {"forward": "forward", "input": "input gradient", "weight": "weight gradient"}
    for map_, methods in told.items():
        print(f"\n{names[map_]}: {methods[-1][0]}")
        for name, reason in methods[:-1]:
            print(f"  not {name}: {reason}")
    return 0


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
