"""The state of a training, on which its next steps depend, and snapshots of it, from which it goes on bit for bit."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import random_states
from ..errors import ArgumentError, CheckpointError, build
from .data import Augmentation, Batch, DataSet, Loader, Preprocessing, fingerprint
from .ema import Average, state_of
from .history import Epoch, History
from .parameters import parameter_groups
from .schedule import learning_rate_at
from .settings import FitSettings

__all__ = ["NotFinite", "Snapshot", "Training"]

# how tensors are called
MODEL, AVERAGED, BEST, OPTIMIZER, RANDOM = "model.", "averaged.", "best.", "optimizer.", "random.torch"


class NotFinite(ArgumentError):
    """The loss of a step is infinite or NaN. The model is as it was before that step."""


class Snapshot(NamedTuple):
    """A training at one moment.

    tensors: parameters, buffers, their average, those of the best epoch, the optimizer's state and torch's random
    state; facts: what JSON can hold: the place in the training, its sums and history, its settings, what identifies its
    data, the other random states.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def weights(self) -> dict[str, Tensor]:
        """The parameters and buffers of the model at that moment, by name; averaged ones with ``ema``."""
        prefix = AVERAGED if any(name.startswith(AVERAGED) for name in self.tensors) else MODEL
        return {k.removeprefix(prefix): tensor for k, tensor in self.tensors.items() if k.startswith(prefix)}


@dataclass
class Sums:
    """Sums over the steps of the running epoch."""

    images: int = 0
    loss: float = 0.0
    right: int = 0
    seconds: float = 0.0
    waited: float = 0.0


class Training:
    """A training that runs, as a :class:`.callbacks.Callback` sees it.

    model, data, settings (resolved), preprocessing, loader and optimizer are what they are called; schedule: gives the
    learning rate of a step, and a callback may replace it before the first one; monitored: the name of the part that is
    evaluated after each epoch, "val", else "test", else None; held_out: that part, each image of which is decoded
    once, as those of the loader are; history: the epochs that have ended; step: the steps that have ended, of all
    epochs; steps: those there will be; sums: over the steps of the running epoch; batch, loss: of the last step; best:
    with ``patience`` the parameters and buffers of the best epoch, by name; stopped: why the training is to end before
    its last epoch, None if it is not.
    """

    def __init__(
        self, model: nn.Module, data: DataSet, settings: FitSettings, preprocessing: Preprocessing
    ) -> None:
        self.model, self.data, self.settings, self.preprocessing = model, data, settings, preprocessing
        self.monitored = next((part for part in ("val", "test") if part in data.parts), None)
        if settings.patience is not None and self.monitored != "val":
            hint = "Hold one out with val_fraction=0.1, or data.with_validation(0.1)."
            got = f"only {' and '.join(data.parts)}"
            raise ArgumentError(build("training", "a validation part, for patience", got, hint=hint))
        self.loader = Loader(
            data.parts["train"],
            settings.batch_size,
            preprocessing,
            classes=len(data.classes),
            seed=settings.seed,
            augmentation=Augmentation.from_settings(settings),
            workers=settings.workers,
        )
        self.held_out = None if self.monitored is None else preprocessing.kept(data.parts[self.monitored])
        self.optimizer = _optimizer(model, settings)
        self.schedule: Callable[[int, int, FitSettings], float] = learning_rate_at
        self.average = None if settings.ema is None else Average(model, settings.ema)
        self.history = History()
        self.step, self.steps = 0, settings.epochs * len(self.loader)
        self.sums, self.loss = Sums(), math.nan
        self.best: dict[str, Tensor] = {}
        self.batch: Batch | None = None
        self.stopped: str | None = None

    @property
    def epoch(self) -> int:
        """The epochs that have ended; the running one has the next number."""
        return len(self.history)

    @property
    def step_in_epoch(self) -> int:
        """The steps of the running epoch that have ended."""
        return self.step - self.epoch * len(self.loader)

    @property
    def is_best(self) -> bool:
        """Whether the last epoch is better than all before it: in accuracy, then loss, of the monitored part."""
        return bool(self.history) and self.history.best is self.history[-1]

    @property
    def is_over(self) -> bool:
        return self.epoch == self.settings.epochs or self.stopped is not None

    @cached_property
    def data_identity(self) -> dict[str, Any]:
        """What tells the data from others, see :func:`.data.fingerprint`. A snapshot has it, and goes on with no other
        data.
        """
        parts = self.data.parts.items()
        labels = {name: hashlib.sha256(part.labels.numpy().tobytes()).hexdigest() for name, part in parts}
        return {
            "classes": list(self.data.classes),
            "images": {name: len(part) for name, part in parts},
            "labels": labels,
            "pixels": {name: fingerprint(part) for name, part in parts},
        }

    def stop(self, reason: str) -> None:
        """Ends the training when the running step, or epoch, has ended. reason: a phrase, as "Ctrl-C"."""
        self.stopped = self.stopped or reason

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """In this context the model has its averaged weights, if there are any (``ema``)."""
        if self.average is None:
            yield
        else:
            with self.average.applied():
                yield

    def check_weights(self) -> None:
        """Raises NotFinite if a parameter of the model is infinite or NaN; a buffer, such as a mask, may be."""
        for name, parameter in self.model.named_parameters():
            if not parameter.isfinite().all():
                hint = "Go on from the snapshot before, with a lower learning_rate, or with clip=1."
                got = f"infinity or NaN in {name}"
                raise NotFinite(build("training", "weights that stay finite", got, step=self.step, hint=hint))

    def end_step(self, batch: Batch, loss: float, right: int, seconds: float, waited: float) -> None:
        """Counts a step. right: the images that it classified rightly; waited: seconds spent waiting for images."""
        images, sums = len(batch.indices), self.sums
        self.step, self.batch, self.loss = self.step + 1, batch, loss
        sums.images += images
        sums.loss += loss * images
        sums.right += right
        sums.seconds += seconds
        sums.waited += waited

    def end_epoch(self, loss: float | None, accuracy: float | None, seconds: float) -> Epoch:
        """Counts an epoch. loss, accuracy: of the monitored part; seconds: that evaluating it took."""
        sums = self.sums
        epoch = Epoch(
            number=self.epoch + 1,
            train_loss=sums.loss / sums.images,
            train_accuracy=sums.right / sums.images,
            monitored=self.monitored,
            loss=loss,
            accuracy=accuracy,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            seconds=sums.seconds + seconds,
            images_per_second=sums.images / sums.seconds,
            waiting=sums.waited / sums.seconds,
        )
        self.history.append(epoch)
        self.sums = Sums()
        if self.settings.patience is not None and self.is_best:
            with self.averaged():
                self.best = {name: tensor.detach().clone() for name, tensor in state_of(self.model).items()}
        self._stop_early()
        return epoch

    @torch.no_grad()
    def finish(self) -> None:
        """Gives the model the weights that are the result: with ``patience`` those of the best epoch, with ``ema`` the
        averaged ones, else the last ones.
        """
        self.optimizer.zero_grad()  # frees the gradients' memory
        if self.best:
            for name, tensor in state_of(self.model).items():
                tensor.copy_(self.best[name])
        elif self.average is not None:
            self.average.swap()

    def _stop_early(self) -> None:
        patience = self.settings.patience
        if patience is not None and self.history and self.epoch - self.history.best.number >= patience:
            self.stop(f"no better result on the validation part for {patience} epoch{'s' * (patience > 1)}")

    def snapshot(self) -> Snapshot:
        """All that the training depends on, copied, between two steps or after an epoch.

        Raises NotFinite if a weight is infinite or NaN: what goes on from such weights is lost.
        """
        self.check_weights()
        tensors = {MODEL + name: tensor for name, tensor in state_of(self.model).items()}
        if self.average is not None:
            tensors |= {AVERAGED + name: tensor for name, tensor in self.average.tensors.items()}
        tensors |= {BEST + name: tensor for name, tensor in self.best.items()}
        for name, parameter in self.model.named_parameters():
            for slot, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{OPTIMIZER}{name}.{slot}"] = value
        torchs, others = random_states.capture()
        tensors[RANDOM] = torchs
        facts = {
            "epoch": self.epoch,
            "step": self.step,
            "step_in_epoch": self.step_in_epoch,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "loss": self.loss if self.step else None,
            "sums": asdict(self.sums),
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.history.best.number if self.history else None,
            "settings": self.settings.to_dict(),
            "data": self.data_identity,
            "preprocessing": self.preprocessing.to_dict(),
            "random": others,
        }
        return Snapshot({name: tensor.detach().clone() for name, tensor in tensors.items()}, facts)

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot, so that the next step is, bit for bit, the one that followed it.

        Raises ArgumentError for a snapshot of other settings or data, CheckpointError for one of another model; the
        training is then unchanged.
        """
        tensors, facts = snapshot
        self._check_same(facts)
        state = {MODEL + name: tensor for name, tensor in state_of(self.model).items()}
        if self.average is not None:
            state |= {AVERAGED + name: tensor for name, tensor in self.average.tensors.items()}
        _check_fit(state, {key: tensor for key, tensor in tensors.items() if key.startswith((MODEL, AVERAGED))})
        best = {key.removeprefix(BEST): tensor for key, tensor in tensors.items() if key.startswith(BEST)}
        if best:
            _check_fit(state_of(self.model), best)
        for key, tensor in state.items():
            tensor.copy_(tensors[key])
        self.best = {name: tensor.clone() for name, tensor in best.items()}
        parameters = dict(self.model.named_parameters())
        self.optimizer.state.clear()
        for key, tensor in tensors.items():
            if key.startswith(OPTIMIZER):
                name, _, slot = key.removeprefix(OPTIMIZER).rpartition(".")
                self.optimizer.state[parameters[name]][slot] = tensor.clone()
        for group in self.optimizer.param_groups:
            group["lr"] = facts["learning_rate"]
        self.history[:] = [Epoch(**epoch) for epoch in facts["history"]]
        self.step, self.loss = facts["step"], math.nan if facts["loss"] is None else facts["loss"]
        self.sums = Sums(**facts["sums"])
        random_states.restore(tensors[RANDOM], facts["random"])
        self._stop_early()

    def _check_same(self, facts: Mapping[str, Any]) -> None:
        now, then = self.settings, facts["settings"]
        own = {name: value for name, value in then.items() if hasattr(now, name)}
        for name in now.differences(now.replace(**own)):
            got = f"{name}={getattr(now, name)!r} where it began with {own[name]!r}"
            hint = "Leave the setting out to go on, or begin a new training."
            raise ArgumentError(build("training", "the settings it began with", got, hint=hint))
        for what, here in (("data", self.data_identity), ("preprocessing", self.preprocessing.to_dict())):
            for name, value in here.items():
                if facts[what].get(name) != value:
                    got = f"other {what}: {name} differ"
                    hint = "Give the same data to go on, or begin a new training."
                    raise ArgumentError(build("training", "the data it began with", got, hint=hint))


def _optimizer(model: nn.Module, settings: FitSettings) -> torch.optim.Optimizer:
    lazy = next((name for name, one in model.named_parameters() if nn.parameter.is_lazy(one)), None)
    if lazy is not None:
        hint = "Call it once on an image: model(preprocessing(data.parts['train'].image(0))[None])."
        raise ArgumentError(build("training", "a model whose parameters have their sizes", f"a lazy {lazy}", hint=hint))
    rate, decay = settings.learning_rate, settings.weight_decay
    assert rate is not None and decay is not None
    groups = parameter_groups(model, decay)
    if not any(group["params"] for group in groups):
        hint = "Call model.requires_grad_(), or freeze less of it."
        raise ArgumentError(build("training", "a model with a parameter that learns", "none", hint=hint))
    if settings.decay_all:
        groups = [{"params": [p for group in groups for p in group["params"]], "weight_decay": decay}]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(settings.momentum, settings.beta2))
    nesterov = settings.nesterov and settings.momentum > 0
    return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, nesterov=nesterov)


def _check_fit(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises CheckpointError if a snapshot has other tensors than are wanted, or of other shapes or types."""
    got = next((f"one {'without' if n in wanted else 'with'} {n}" for n in sorted({*wanted} ^ {*given})), None)
    for name, tensor in wanted.items():
        if got is None and (tensor.shape, tensor.dtype) != (given[name].shape, given[name].dtype):
            shapes = f"shape {tuple(given[name].shape)} where the model has {tuple(tensor.shape)}"
            types = f"{given[name].dtype} where the model has {tensor.dtype}"
            got = f"{name} of {shapes if tensor.shape != given[name].shape else types}"
    if got is not None:
        hint = "Make the model it was taken of."
        raise CheckpointError(build("training", "a snapshot of this model", got, hint=hint))
