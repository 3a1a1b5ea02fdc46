"""Times epochs of training against loops written by hand, in one run: `python benchmarks/training.py`.

Every contestant has its own process, one works at a time, and each round runs them in a shuffled order; a turn is one
epoch, after a short untimed one at first. Reported are medians over the rounds and their spread (interquartile range
over median). All train the same network from the same weights on the same made images (random bytes, random labels) by
SGD with Nesterov momentum; the mean losses of the first epoch must agree to 0.05.

striate train        striate.training.fit, as the command runs it: one worker, the allocator tuned, layers watched, a
                     checkpoint after the epoch
fit                  the same without a watch and checkpoints
without workers      fit, batches made by the training thread
augmented            fit, with crop, flip and jitter
bare loop            the fewest lines that train it: striate's layers, the allocator tuned, batches indexed and
                     normalized on the spot
torch                the same lines with torch's layers, and batches from torch's DataLoader: "alone" without workers,
                     else from one worker process; images lie in memory, normalized one by one as a Dataset does

A/A is the bare loop over itself. "waiting" is the share of its time that fit waited for batches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import striate
from striate import models
from striate.allocator import tune_allocator
from striate.files import write_atomically
from striate.measure import LineWorker, again, in_turns, processor, summarize, with_again
from striate.training import Watch, fit
from striate.training.checkpoints import KeepCheckpoints
from striate.training.data import DataSet, Part, Preprocessing
from striate.training.folder import WATCH
from striate.training.parameters import parameter_groups
from striate.training.settings import FitSettings

sys.path.insert(0, str(Path(__file__).parent))
from networks import plain
from run import RESULTS

RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
LOSS_TOLERANCE = 0.05
UNTIMED = 10  # batches of the first, untimed epoch
FIT, BARE = "striate train", "bare loop"


class Case(NamedTuple):
    network: str
    images: int
    shape: tuple[int, int, int]
    batch: int


CASES = [Case("lenet5", 60_000, (1, 28, 28), 64), Case("resnet_cifar", 5_120, (3, 32, 32), 128)]
FITS: dict[str, dict[str, Any]] = {
    FIT: {},
    "fit": {},
    "without workers": {"workers": 0},
    "augmented": {"crop": 2, "flip": True, "jitter": 0.2},
}


class Images(torch.utils.data.Dataset):
    """A data set as commonly written: each item is normalized when it is asked for."""

    def __init__(self, part: Part, prepare: Preprocessing) -> None:
        assert isinstance(part.images, Tensor)
        self.images, self.labels = part.images, part.labels.tolist()
        self.mean, self.std = (torch.tensor(values).reshape(-1, 1, 1) for values in (prepare.mean, prepare.std))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return (self.images[index] / 255 - self.mean) / self.std, self.labels[index]


def made(case: Case, count: int) -> Part:
    chance = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, *case.shape), dtype=torch.uint8, generator=chance)
    return Part(images, torch.randint(0, 10, (count,), generator=chance))


def built(case: Case) -> torch.nn.Module:
    torch.manual_seed(0)
    return models.by_name(case.network)()


def fitted(case: Case, name: str) -> Callable[[Part], tuple[float, float]]:
    """An epoch of fit: its mean loss, and the share of waiting."""
    model = built(case)
    settings = FitSettings(
        epochs=1, batch_size=case.batch, learning_rate=RATE, momentum=MOMENTUM, weight_decay=DECAY,
        schedule="constant", warm_up=0.0, crop=0,
    ).replace(**FITS[name])  # fmt: skip

    def epoch(part: Part) -> tuple[float, float]:
        data = DataSet("made", tuple(map(str, range(10))), {"train": part})
        with TemporaryDirectory() as folder:
            told = [Watch(Path(folder, WATCH)), KeepCheckpoints(Path(folder))] if name == FIT else []
            last = fit(model, data, settings, preprocessing=prepared(part), callbacks=told)[-1]
        return last.train_loss, last.waiting

    return epoch


def looped(case: Case, workers: int | None) -> Callable[[Part], tuple[float, float]]:
    """An epoch of a loop written by hand. workers: None for striate's layers, else those of torch's DataLoader."""
    model = built(case) if workers is None else plain(built(case))
    groups = parameter_groups(model, DECAY)
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM, nesterov=True)

    def own_batches(part: Part) -> Any:
        prepare = prepared(part)
        mean, std = (255 * torch.tensor(values).reshape(-1, 1, 1) for values in (prepare.mean, prepare.std))
        assert isinstance(part.images, Tensor)
        for indices in torch.randperm(len(part)).split(case.batch):
            yield (part.images[indices] - mean) / std, part.labels[indices]

    def torchs_batches(part: Part) -> Any:
        items = Images(part, prepared(part))
        return torch.utils.data.DataLoader(items, case.batch, shuffle=True, num_workers=workers or 0)

    def epoch(part: Part) -> tuple[float, float]:
        model.train()
        total = 0.0
        for x, target in own_batches(part) if workers is None else torchs_batches(part):
            loss = F.cross_entropy(model(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        return total / len(part), 0.0

    return epoch


def prepared(part: Part) -> Preprocessing:
    """The moments of random bytes; measuring them is no part of an epoch."""
    assert part.size is not None
    return Preprocessing(part.size, part.channels, (0.5,) * part.channels, (0.29,) * part.channels)


def contestants() -> dict[str, tuple[Callable[..., Any], Any]]:
    made_by_fit = {name: (fitted, name) for name in FITS}
    return {**made_by_fit, BARE: (looped, None), "torch": (looped, 1), "torch alone": (looped, 0)}


def work() -> None:
    """Reads a case, a contestant and a number of threads from the first line, and prints the mean loss of a first
    epoch; then for each line an epoch's seconds and share of waiting.
    """
    case, name, threads = json.loads(sys.stdin.readline())
    case = Case(*case)
    if not name.startswith("torch"):
        tune_allocator()
    torch.set_num_threads(threads)
    make, given = contestants()[name]
    epoch, part = make(case, given), made(case, case.images)
    print(epoch(part.take(torch.arange(min(len(part), UNTIMED * case.batch))))[0], flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        _, waiting = epoch(part)
        print(json.dumps([time.perf_counter() - start, waiting]), flush=True)


def measure(case: Case, names: Sequence[str], rounds: int, threads: int) -> dict[str, Any]:
    """A row: images a second and spread of every contestant, and their times over that of fit."""
    with ExitStack() as stack:
        workers, losses = {}, {}
        for name in names:
            # no Worker, as its process may have no children, and torch's DataLoader needs one
            workers[name] = LineWorker(sys.executable, __file__, "--work")
            stack.callback(workers[name].kill)
            losses[name] = float(workers[name].ask(json.dumps([case, name, threads])))
        turns = {name: (lambda worker=worker: json.loads(worker.ask("turn"))) for name, worker in workers.items()}
        answers = in_turns(with_again(turns, BARE), rounds)
    found = {name: summarize([seconds for seconds, _ in one]) for name, one in answers.items()}
    return {
        **case._asdict(),
        "images_per_second": {name: case.images / one.median for name, one in found.items()},
        "spread": {name: one.spread for name, one in found.items()},
        "ratios": {name: one.median / found[FIT].median for name, one in found.items()},
        "ratio_a_a": found[again(BARE)].median / found[BARE].median,
        "waiting": {name: statistics.median(waiting for _, waiting in answers[name]) for name in FITS if name in names},
        "losses": losses,
        "losses_agree": max(losses.values()) - min(losses.values()) <= LOSS_TOLERANCE,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--against", nargs="*", default=[*contestants()], metavar="NAME",
                        help=f"whom to time beside {FIT} and {BARE} (default: all)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=7, help="turns of each, at least 3 (default %(default)s)")
    parser.add_argument("--images", type=int, help="images of an epoch (default 60000 and 5120)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads (default %(default)s)")
    where = "benchmarks/results/training.json"
    parser.add_argument("--json", type=Path, help=f"where to write the rows (default {where}; of a part nowhere)")
    options = parser.parse_args()
    cases = [case for case in CASES if options.only in case.network]
    if not cases or options.rounds < 3:
        parser.error("--only names a network, lenet5 or resnet_cifar, and --rounds is 3 at least")
    if options.images:
        cases = [case._replace(images=options.images) for case in cases]
    names = [name for name in contestants() if name in (FIT, BARE, *options.against)]
    info = striate.native_info()
    machine = {"processor": processor(), "threads": options.threads, "rounds": options.rounds}
    machine |= {name: info[name] for name in ("isa", "torch", "striate")}
    print(", ".join(f"{name} {value}" for name, value in machine.items()) + "\n")
    head = ["network", "images", "batch", *(f"{name} images/s (time)" for name in names), "A/A", "waiting"]
    print("| " + " | ".join(head) + " |")
    print("|---" * (len(names) + 5) + "|")
    rows = []
    for case in cases:
        row = measure(case, names, options.rounds, options.threads)
        rows.append(row)
        cells = [f"{row['images_per_second'][name]:,.0f} ({row['ratios'][name]:.2f} ×)" for name in names]
        cells += [f"{row['ratio_a_a']:.2f}", f"{row['waiting'][FIT]:.1%}"]
        print("| " + " | ".join([case.network, f"{case.images:,}", str(case.batch), *cells]) + " |", flush=True)
    print()
    for row in rows:
        spreads = ", ".join(f"{name} {spread:.0%}" for name, spread in row["spread"].items())
        print(f"spreads of {row['network']}: {spreads}")
    is_whole = not options.only and not options.images and len(names) == len(contestants())
    path = options.json or (RESULTS / "training.json" if is_whole else None)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
        print(f"\n{len(rows)} rows in {path}")
    apart = [row["network"] for row in rows if not row["losses_agree"]]
    if apart:
        print(f"\nthe first losses of {', '.join(apart)} differ by more than {LOSS_TOLERANCE}")
    return 1 if apart else 0


if __name__ == "__main__":
    try:
        sys.exit(work() if "--work" in sys.argv else main())
    except ChildProcessError as error:  # the contestant's process has printed the reason
        sys.exit(str(error))
