"""What watches a training: the interface, a progress bar, and a log for TensorBoard."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..extras import needs
from .history import Epoch
from .state import Training

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Callback", "ProgressBar", "TensorBoard", "epoch_line"]

REFRESHES_PER_SECOND = 4  # the training waits while a bar is drawn


class Callback:
    """Is told how a training proceeds; each method does nothing unless a subclass defines it.

    A callback may look at everything, take snapshots, and call ``training.stop(reason)``. It draws no random numbers
    from the global generators, since the training's own would be others then.

    >>> class Losses(Callback):
    ...     def on_epoch(self, training, epoch):
    ...         print(epoch.number, epoch.train_loss)
    """

    def on_start(self, training: Training) -> None:
        """Before the first step, or the first after a snapshot."""

    def on_step(self, training: Training) -> None:
        """After each step; the parameters still have its gradients."""

    def on_epoch(self, training: Training, epoch: Epoch) -> None:
        """After each epoch and its evaluation."""

    def on_end(self, training: Training) -> None:
        """After the last step, unless an error ended the training."""

    def close(self) -> None:
        """At the very end, whatever ended the training."""


def epoch_line(epoch: Epoch, epochs: int, width: int | None = None) -> str:
    """One line that tells the results of an epoch; with less in it if it is longer than ``width``.

    >>> made = dict(train_loss=0.25, train_accuracy=0.925, learning_rate=0.1, seconds=2.0, waiting=0.0)
    >>> epoch_line(Epoch(number=1, images_per_second=1437, monitored="test", loss=0.2, accuracy=0.95, **made), 8)
    'epoch 1/8   train loss 0.2500, accuracy 92.50 %   test loss 0.2000, accuracy 95.00 %   1,437 images/s   2.0 s'
    >>> epoch_line(Epoch(number=1, images_per_second=1437, monitored="test", loss=0.2, accuracy=0.95, **made), 8, 80)
    'epoch 1/8  train 0.2500, 92.50 %  test 0.2000, 95.00 %  2.0 s'
    """
    parts = [f"epoch {epoch.number:>{len(str(epochs))}}/{epochs}"]
    parts.append(f"train loss {epoch.train_loss:.4f}, accuracy {100 * epoch.train_accuracy:.2f} %")
    if epoch.loss is not None and epoch.accuracy is not None:
        parts.append(f"{epoch.monitored} loss {epoch.loss:.4f}, accuracy {100 * epoch.accuracy:.2f} %")
    parts.append(f"{epoch.images_per_second:,.0f} images/s")
    if epoch.waiting >= 0.005:
        parts.append(f"{100 * epoch.waiting:.0f} % waiting for images")
    parts.append(f"{epoch.seconds:.1f} s")
    line = "   ".join(parts)
    if width is None or len(line) <= width:
        return line
    short = "  ".join(part for part in parts if not part.endswith("images/s"))
    return short.replace(" loss", "").replace(", accuracy", ",").replace(" waiting for images", " waiting")


class ProgressBar(Callback):
    """Shows a bar with epoch, step, loss, accuracy, images per second and the time left, on a terminal and in a
    notebook; elsewhere, as in a file, only a line after each epoch.

    console: of rich, by default one for standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = console or Console()
        self._bar: Any = None
        self._task: Any = None

    def on_start(self, training: Training) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        if self.console.is_terminal or self.console.is_jupyter:
            self._bar = Progress(
                TextColumn("{task.fields[place]}"),
                BarColumn(),
                TextColumn("{task.fields[results]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                console=self.console,
                refresh_per_second=REFRESHES_PER_SECOND,
                transient=True,
            )
            self._task = self._bar.add_task("", total=training.steps, place="", results="", completed=training.step)
            self._bar.start()

    def on_step(self, training: Training) -> None:
        if self._bar is not None:
            sums, length = training.sums, len(training.loader)
            place = f"epoch {training.epoch + 1}/{training.settings.epochs} step {training.step_in_epoch}/{length}"
            accuracy, speed = 100 * sums.right / sums.images, sums.images / sums.seconds
            results = f"loss {sums.loss / sums.images:.4f} accuracy {accuracy:.1f} % {speed:,.0f} images/s"
            self._bar.update(self._task, completed=training.step, place=place, results=results)

    def on_epoch(self, training: Training, epoch: Epoch) -> None:
        width = self.console.width if self.console.is_terminal else None
        self.console.print(epoch_line(epoch, training.settings.epochs, width), highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


class TensorBoard(Callback):
    """Logs the loss of each step, and the results of each epoch, in a folder that TensorBoard shows.

    What was logged beyond the step at which a training goes on is left out of the picture. Needs the package
    tensorboard.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        needs("training", "tensorboard")
        self.folder = os.fspath(folder)
        self._writer: Any = None

    def on_start(self, training: Training) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(self.folder, purge_step=training.step + 1)

    def on_step(self, training: Training) -> None:
        self._add(training.step, step_loss=training.loss, learning_rate=training.optimizer.param_groups[0]["lr"])

    def on_epoch(self, training: Training, epoch: Epoch) -> None:
        values: dict[str, float | None] = {
            "loss/train": epoch.train_loss,
            "accuracy/train": epoch.train_accuracy,
            f"loss/{epoch.monitored}": epoch.loss,
            f"accuracy/{epoch.monitored}": epoch.accuracy,
            "images_per_second": epoch.images_per_second,
        }
        self._add(training.step, **values)

    def _add(self, step: int, **values: float | None) -> None:
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
