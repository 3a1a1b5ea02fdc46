"""What a training tells of each epoch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Epoch", "History"]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The results of one pass over the training images.

    number: from 1; train_loss, train_accuracy: means over the images as training saw them, augmented and each before
    its step; monitored: the part that loss and accuracy are of, "val" or "test", after the epoch; None where there is
    none; learning_rate: of the last step; seconds: training and evaluation; images_per_second: of training alone;
    waiting: the share of training's time spent waiting for images. Accuracies are from 0 to 1.
    """

    number: int
    train_loss: float
    train_accuracy: float
    monitored: str | None = None
    loss: float | None = None
    accuracy: float | None = None
    learning_rate: float
    seconds: float
    images_per_second: float
    waiting: float

    @property
    def score(self) -> tuple[float, float]:
        """What epochs are compared by, the larger the better: accuracy, then loss, of the monitored part if any."""
        if self.loss is None or self.accuracy is None:
            return self.train_accuracy, -self.train_loss
        return self.accuracy, -self.loss


class History(list[Epoch]):
    """The epochs of a training, in order; stopped: why it ended before its last epoch, else None.

    >>> made = dict(learning_rate=0.1, seconds=1.0, images_per_second=9.0, waiting=0.0, train_accuracy=0.5)
    >>> history = History([Epoch(number=1, train_loss=2.3, **made), Epoch(number=2, train_loss=1.2, **made)])
    >>> history.train_loss, history.seconds, history.best.number
    ([2.3, 1.2], 2.0, 2)
    """

    stopped: str | None = None

    @property
    def best(self) -> Epoch:
        """The first epoch with the highest accuracy of the monitored part, and among these the lowest loss."""
        return max(self, key=lambda epoch: epoch.score)

    @property
    def train_loss(self) -> list[float]:
        return [epoch.train_loss for epoch in self]

    @property
    def train_accuracy(self) -> list[float]:
        return [epoch.train_accuracy for epoch in self]

    @property
    def loss(self) -> list[float | None]:
        return [epoch.loss for epoch in self]

    @property
    def accuracy(self) -> list[float | None]:
        return [epoch.accuracy for epoch in self]

    @property
    def seconds(self) -> float:
        """The duration of all epochs together."""
        return sum(epoch.seconds for epoch in self)
