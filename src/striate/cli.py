"""The command line: parses, calls, prints. Exit codes: 0 done, 2 a request that cannot be meant, 130 stopped by Ctrl-C."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from . import __version__
from .errors import ArgumentError, CheckpointError, DataError
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
    except (ArgumentError, CheckpointError, DataError) as error:
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
    train.add_argument("--model", default="lenet5", metavar="NAME", help=f"one of {', '.join(NAMES)}")
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


def _doctor(options: argparse.Namespace) -> int:
    from .native import native_info

    print(table(native_info()))
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
