"""``striate train``: trains a model on handwritten digits."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import shtab

from ..models import NAMES
from .parser import Commands, DefaultsHelp, Parser

if TYPE_CHECKING:
    from ..training import Epoch, Training

__all__ = ["add", "run"]


def add(commands: Commands) -> dict[str, Parser]:
    own = argparse.SUPPRESS  # leaves the default to the training run
    parser: Parser = commands.add_parser(
        "train",
        help="train a model on 1,797 handwritten digits and test it on a fifth of them",
        description="Trains a model on four fifths of scikit-learn's 1,797 handwritten digits and\n"
        "tests it on the fifth it never saw. Writes metrics.json, model.safetensors,\n"
        "curves.png, filters.png and confusion.png.",
        epilog="example:\n  striate train --model resnet_cifar --epochs 4 --out runs/mine",
        formatter_class=DefaultsHelp,
    )
    option = parser.add_argument
    model = f"one of {', '.join(NAMES)}; those for larger images are refused"
    option("--model", default="lenet5", metavar="NAME", help=model)
    option("--epochs", type=int, default=8, metavar="N", help="times to go through the training images")
    option("--batch-size", type=int, default=32, metavar="N", help="images in a step, at most")
    option("--learning-rate", type=float, default=0.025, metavar="X", help="at its peak")
    option("--momentum", type=float, default=0.9, metavar="X", help="the part of the last step that carries on")
    option("--weight-decay", type=float, default=5e-4, metavar="X", help="pull of the weights towards zero")
    option("--seed", type=int, default=0, metavar="N", help="decides the split, the first weights and the order")
    option("--threads", type=int, default=own, metavar="N", help="threads for torch (default: its own choice)")
    out = "for the results (default: runs/MODEL-digits, as runs/lenet5-digits)"
    option("--out", default=own, metavar="FOLDER", help=out).complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    parser.set_defaults(command=run)
    return {"train": parser}


def run(options: argparse.Namespace) -> int:
    from ..allocator import tune_allocator
    from ..training import job
    from ..training.callbacks import Callback, epoch_line

    class Lines(Callback):
        def on_epoch(self, training: Training, epoch: Epoch) -> None:
            print(epoch_line(epoch, training.settings.epochs), flush=True)

    tune_allocator()
    settings = {name: value for name, value in vars(options).items() if name != "command"}
    metrics = job.run(**settings, callbacks=[Lines()])
    accuracy = f"test accuracy {100 * metrics['test_accuracy']:.2f} %"
    print(f"{metrics['model']}: {accuracy} on {metrics['test_images']} images it never saw")
    print(f"results in {metrics['folder']}")
    return 0
