"""Small runs that are ended by force: a model with every kind of state, its data, and processes that train it.

A process is forked from a server that has imported everything, so that starting one takes milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from striate import nn, tensorfile

NET = "made_runs:net"
# each of these keeps a state of its own: the optimizer, averages, augmentation, dropout, batch norms
SETTINGS: dict[str, Any] = {
    "model": NET,
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 0.05,
    "ema": 0.9,
    "crop": 1,
    "jitter": 0.2,
    "cutout": 2,
    "mixup": 0.2,
    "clip": 1.0,
    "val_fraction": 0.2,
    "threads": 1,
    "seed": 5,
}
EACH_STEP = 1e-9  # minutes between checkpoints

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    ["made_runs", "striate.training.run", "matplotlib.backends.backend_agg", "torch._dynamo"]
)


def net(channels: int, size: tuple[int, int], classes: int) -> nn.Sequential:
    features = 4 * (size[0] // 2) * (size[1] // 2)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout2d(0.2),
        nn.Flatten(),
        nn.Linear(features, classes),
    )


def save_data(file: Path) -> str:
    """An .npz file of 150 images in three classes; returns its specification."""
    random = np.random.RandomState(0)
    labels = np.arange(150) % 3
    images = random.randint(0, 128, (150, 8, 8)) + 40 * labels[:, None, None]
    np.savez(file, x_train=images[:120].astype(np.uint8), y_train=labels[:120], x_test=images[120:].astype(np.uint8),
             y_test=labels[120:])  # fmt: skip
    return f"npz:{file}"


def train(out: Path, settings: dict[str, Any], file_bytes: int | None = None, quit_at: int | None = None) -> None:
    """Goes on with a run in this process; the text of a CheckpointError is left beside its folder.

    file_bytes: no file may become longer from the second epoch on; quit_at: the step after which the process ends as
    one that is killed.
    """
    from striate.errors import CheckpointError
    from striate.files import write_atomically
    from striate.training import Callback, figures
    from striate.training.run import train_run

    figures.write_png = lambda figure, path, dpi: write_atomically(path, b"")  # drawing would take most of the time

    class Fault(Callback):
        def on_step(self, training: Any) -> None:
            if training.step == quit_at:
                os._exit(9)
            if file_bytes is not None and training.epoch == 1:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        train_run(out=out, resume=True, callbacks=[Fault()], **settings)
    except CheckpointError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        out.with_suffix(".error").write_text(str(error))
        raise SystemExit(2) from None


def process(*arguments: Any, **more: Any) -> Any:
    """A process that runs :func:`train`; it has not started yet."""
    return _server.Process(target=train, args=arguments, kwargs=more, daemon=True)


def finish(out: Path, settings: dict[str, Any]) -> float:
    """Goes on with a run to its end; returns the seconds it took."""
    start, one = time.perf_counter(), process(out, settings)
    one.start()
    one.join()
    assert one.exitcode == 0
    return time.perf_counter() - start


def weights(out: Path) -> dict[str, bytes]:
    """The trained weights, as bytes."""
    tensors, _ = tensorfile.read(out / "model.safetensors")
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in tensors.items()}
