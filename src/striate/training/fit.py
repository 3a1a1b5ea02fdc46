"""Trains a classifier. All of the loop is in this file; what it depends on from step to step is in :mod:`.state`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import random_states
from ..errors import ArgumentTypeError, ShapeError, build
from ..nn.norm import BATCH_NORMS
from ..nn.statistics import whole_batch_statistics
from ..ops.precision import precision
from .callbacks import Callback, ProgressBar
from .data import Batch, DataSet, Preprocessing
from .evaluation import evaluate
from .history import Epoch, History
from .settings import FitSettings, resolved
from .state import NotFinite, Snapshot, Training

__all__ = ["fit"]


def fit(
    model: nn.Module,
    data: DataSet,
    settings: FitSettings | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    callbacks: Sequence[Callback] = (),
    resume: Snapshot | None = None,
    progress: bool = False,
    **changes: Any,
) -> History:
    r"""Trains a classifier in place on the cross entropy, and evaluates it after each epoch.

    .. math:: w ← w - rate_t · step(∇_w \tfrac{1}{N} \sum_n -\log softmax(model(x_n))_{y_n})

    step is that of SGD with momentum or of AdamW, rate_t is :func:`.schedule.learning_rate_at`. Each epoch visits all
    training images once, in an order that depends on the seed and the epoch alone. After it the model, with averaged
    weights where ``ema`` is set, is evaluated on the part "val" if there is one, else "test".

    model: maps images ``(N, C, H, W)`` to scores ``(N, classes)``; data: as :func:`.data.open_data` gives it; settings
    and changes: ``fit(model, data, epochs=3)`` has the default settings but for the epochs; preprocessing: by default
    images of their own size, normalized by the training part's mean and deviation; callbacks: told of each step and
    epoch; resume: a snapshot of :class:`.state.Training` from which to go on; progress: shows a bar.

    The same arguments and number of threads give the same weights bit for bit, and so does going on from a snapshot,
    whenever it was taken. The number of threads, the precision and the random generators of torch, NumPy and Python are
    afterwards what they were. The model is left in training mode.

    Raises ArgumentError for settings out of range or that do not fit together or the snapshot, NotFinite (an
    ArgumentError) where the loss is infinite or NaN, ShapeError for a model with other scores, DataError for an image
    that cannot be read. The weights and buffers are then those after the last step that was taken.

    >>> from striate.training.data import Part, make_shapes
    >>> images, labels, _ = make_shapes(60, size=16)
    >>> data = DataSet("shapes", ("disk", "square", "triangle", "cross", "ring"), {"train": Part(images, labels)})
    >>> history = fit(nn.Sequential(nn.Flatten(), nn.Linear(768, 5)), data, epochs=3)
    >>> len(history), history[2].train_loss < history[0].train_loss
    (3, True)
    """
    if not isinstance(data, DataSet):
        hint = 'Open one with open_data("folder:photos"), or make a DataSet of tensors.'
        raise ArgumentTypeError(build("fit", "a DataSet", type(data).__name__, hint=hint))
    settings = resolved((settings or FitSettings()).replace(**changes), data.kind)
    told = [*callbacks, *([ProgressBar()] if progress else [])]
    with _surroundings(settings), ExitStack() as at_end:
        if preprocessing is None:
            preprocessing = Preprocessing.of(data.parts["train"], seed=settings.seed)
        training = Training(model, data, settings, preprocessing)
        if resume is not None:
            training.restore(resume)
        for callback in told:
            at_end.callback(callback.close)
        for callback in told:
            callback.on_start(training)
        while not training.is_over:
            _train_epoch(training, told)
            if training.stopped is None:
                epoch = _evaluate_epoch(training)
                for callback in told:
                    callback.on_epoch(training, epoch)
        for callback in told:
            callback.on_end(training)
        training.finish()
    training.history.stopped = training.stopped
    return training.history


def _train_epoch(training: Training, callbacks: Sequence[Callback]) -> None:
    """Takes the steps of the running epoch that are left, or those until a callback stops the training."""
    model, settings, optimizer, loader = training.model, training.settings, training.optimizer, training.loader
    model.train()
    start, waited = time.perf_counter(), loader.waited_s
    with closing(loader.batches(training.epoch, first=training.step_in_epoch)) as batches:
        for batch in batches:
            rate = training.schedule(training.step, training.steps, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            with _buffers_restored_on_error(model):
                loss, right = _gradients(model, batch, len(training.data.classes), settings)
                if not math.isfinite(loss):
                    raise _not_finite(training, "a loss that stays finite", loss, training.step + 1)
            if settings.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            if training.average is not None:
                training.average.step(training.step)

            now = time.perf_counter()
            training.end_step(batch, loss, right, now - start, loader.waited_s - waited)
            start, waited = now, loader.waited_s
            for callback in callbacks:
                callback.on_step(training)
            if training.stopped is not None:
                return


def _gradients(model: nn.Module, batch: Batch, classes: int, settings: FitSettings) -> tuple[float, int]:
    """Computes the gradients of a batch's mean loss, in parts if so set; returns the loss, and how many are right."""
    count = len(batch.images)
    parts = min(settings.accumulate, count)
    images, targets = batch.images.tensor_split(parts), batch.targets.tensor_split(parts)
    needs_statistics = parts > 1 and any(isinstance(module, BATCH_NORMS) for module in model.modules())
    loss, right = 0.0, 0
    with whole_batch_statistics(model, images) if needs_statistics else nullcontext():
        for x, target in zip(images, targets, strict=True):
            scores = model(x)
            _check_scores(scores, (len(x), classes))
            part = F.cross_entropy(scores, target, label_smoothing=settings.label_smoothing) * (len(x) / count)
            torch.autograd.backward(part)
            loss += part.item()
            labels = target if target.ndim == 1 else target.argmax(1)
            right += int((scores.detach().argmax(1) == labels).sum())
    return loss, right


def _evaluate_epoch(training: Training) -> Epoch:
    """Ends the running epoch with what the model reaches on the monitored part."""
    if training.held_out is None:
        return training.end_epoch(None, None, 0.0)
    start = time.perf_counter()
    training.check_weights()
    try:
        with training.averaged():
            found = evaluate(
                training.model, training.held_out, training.preprocessing, classes=training.data.classes
            )
    except NotFinite:
        expects = f"scores that stay finite on the {training.monitored} part"
        raise _not_finite(training, expects, "infinity or NaN", training.step) from None
    return training.end_epoch(found.loss, found.accuracy, time.perf_counter() - start)


def _check_scores(scores: Tensor, shape: tuple[int, int]) -> None:
    if not isinstance(scores, Tensor) or scores.shape != shape:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        hint = f"Give its last layer {shape[1]} outputs, one for each class."
        raise ShapeError(build("training", f"scores of shape {shape} from the model", got, hint=hint))


def _not_finite(training: Training, expects: str, got: object, step: int) -> NotFinite:
    rate = training.optimizer.param_groups[0]["lr"]
    facts = {"step": f"{step} of {training.steps}", "epoch": training.epoch + 1, "learning_rate": rate}
    hint = "Lower learning_rate, limit the gradient with clip=1, or raise warm_up."
    return NotFinite(build("training", expects, got, hint=hint, **facts))


@contextmanager
def _buffers_restored_on_error(model: nn.Module) -> Iterator[None]:
    """Takes back what a forward pass wrote to buffers, such as running statistics, if the step fails."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for buffer, old in before:
                buffer.copy_(old)
        raise


@contextmanager
def _surroundings(settings: FitSettings) -> Iterator[None]:
    """Sets threads, precision and random generators for a training, and sets them back."""
    threads = torch.get_num_threads()
    assert settings.precision is not None
    with precision(settings.precision), random_states.seeded(settings.seed), torch.enable_grad():
        try:
            torch.set_num_threads(settings.threads or threads)
            yield
        finally:
            torch.set_num_threads(threads)
