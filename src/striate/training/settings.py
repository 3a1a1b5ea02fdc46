"""The settings of a training: one table, from which checks, command-line options, TOML files and documents follow.

Each field of :class:`FitSettings` and :class:`RunSettings` carries a :class:`Knob`: what it means, its group, and what
values it may have. :func:`knobs` lists them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from ..errors import ArgumentError, build, did_you_mean
from ..models import KNOBS, NAMES

__all__ = ["FitSettings", "Knob", "RunSettings", "knobs", "markdown", "resolved"]

S = TypeVar("S", bound="FitSettings")
WHERE = "training"  # what messages call what expects a setting

CROPS = {"digits": 2, "mnist": 2, "cifar10": 4, "cifar100": 4}  # px of padding, by the kind of the data set
RATES = {"sgd": 0.025, "adamw": 0.001}
DECAYS = {"sgd": 5e-4, "adamw": 0.01}
WARM_UPS = {"one-cycle": 0.2}  # else WARM_UP
WARM_UP = 0.05


@dataclass(frozen=True, kw_only=True)
class Knob:
    """What is known of one setting.

    kind: int, float, bool or str; default; unset: what None means, or "" where None is not a value; least, most: bounds
    that are values themselves; above, below: bounds that are none; choices: all words; placeholder: what stands for a
    value in help texts; free: whether it may change when a training goes on, since no result depends on it.
    """

    name: str = ""
    kind: type = str
    default: Any = None
    group: str
    help: str
    unset: str = ""
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()
    placeholder: str = ""
    free: bool = False

    @property
    def flag(self) -> str:
        """The option of the command line, as ``--learning-rate``."""
        return "--" + self.name.replace("_", "-")

    @property
    def metavar(self) -> str:
        """What stands for a value in help texts; "" for a switch."""
        return self.placeholder or {int: "N", float: "X", bool: "", str: "NAME"}[self.kind]

    @property
    def default_text(self) -> str:
        """The default in words, as help texts and documents give it."""
        if self.default is None:
            return self.unset
        if self.kind is bool:
            return "on" if self.default else "off"
        return str(self.default)

    @property
    def values(self) -> str:
        """The values in words.

        >>> knobs(FitSettings)["epochs"].values, knobs(FitSettings)["momentum"].values
        ('a whole number from 1 on', 'a number from 0 to below 1')
        """
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind in (bool, str):
            return "True or False" if self.kind is bool else "text"
        words = ["a whole number" if self.kind is int else "a number"]
        if self.above > -math.inf:
            words.append(f"above {self.above:g}")
        elif self.least > -math.inf:
            words.append(f"from {self.least:g}")
        if self.below < math.inf:
            words.append(f"to below {self.below:g}" if self.least > -math.inf else f"and below {self.below:g}")
        elif self.most < math.inf:
            words.append(f"to {self.most:.0f}" if self.kind is int else f"to {self.most:g}")
        elif self.least > -math.inf:
            words.append("on")
        return " ".join(words)

    def check(self, value: object) -> None:
        """Raises ArgumentError for a value that the setting cannot have."""
        if value is None and self.unset:
            return
        right = isinstance(value, float | int if self.kind is float else self.kind)
        if isinstance(value, bool) != (self.kind is bool) or not right:
            right = False
        elif isinstance(value, int | float) and self.kind is not bool:
            right = math.isfinite(value) and self.least <= value <= self.most and self.above < value < self.below
        elif self.choices:
            right = value in self.choices
        if not right:
            near = did_you_mean(value, self.choices) if self.choices and isinstance(value, str) else ""
            hint = f"Leave it out for {self.default_text}.{near}"
            raise ArgumentError(build(WHERE, f"{self.name} to be {self.values}", repr(value), hint=hint))


def _knob(default: Any, group: str, text: str, **facts: Any) -> Any:
    return field(default=default, metadata={"knob": Knob(group=group, help=text, **facts)})


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """The settings of :func:`striate.training.fit`.

    Raises ArgumentError, which names the setting and the values it may have, for any other value.

    >>> FitSettings(epochs=3).epochs
    3
    >>> FitSettings(optimizer="adam")
    Traceback (most recent call last):
    striate.errors.ArgumentError: training expects optimizer to be one of sgd, adamw, got 'adam'. Leave it out for \
sgd. Did you mean adamw?
    """

    epochs: int = _knob(8, "training", "times to go through the training images", least=1)
    batch_size: int = _knob(32, "training", "images in a step, at most", least=1)
    accumulate: int = _knob(
        1, "training", "parts in which a batch passes, to save memory; batch norms see the whole batch", least=1
    )
    label_smoothing: float = _knob(
        0.0, "training", "share of the target that is spread over all classes", least=0, below=1
    )
    ema: float | None = _knob(
        None,
        "training",
        "decay of averaged weights, which are then the result",
        above=0,
        below=1,
        unset="no average",
    )
    patience: int | None = _knob(
        None,
        "training",
        "epochs without a better result on the validation part after which training stops; the result is then the best "
        "epoch's weights",
        least=1,
        unset="no early stop",
    )
    optimizer: str = _knob("sgd", "optimizer", "the rule of a step", choices=("sgd", "adamw"))
    learning_rate: float | None = _knob(
        None, "optimizer", "at its peak", least=0, unset="0.025 with sgd, 0.001 with adamw"
    )
    momentum: float = _knob(
        0.9, "optimizer", "the part of the last step that carries on; with adamw β1", least=0, below=1
    )
    nesterov: bool = _knob(True, "optimizer", "look ahead along the momentum (sgd)")
    beta2: float = _knob(0.999, "optimizer", "decay of the squared gradients' average (adamw)", least=0, below=1)
    weight_decay: float | None = _knob(
        None, "optimizer", "pull of the weights towards zero", least=0, unset="0.0005 with sgd, 0.01 with adamw"
    )
    decay_all: bool = _knob(False, "optimizer", "let scales, shifts and biases decay too")
    clip: float | None = _knob(
        None, "optimizer", "largest norm of the gradient; a longer one is scaled down", above=0, unset="no limit"
    )
    schedule: str = _knob(
        "one-cycle",
        "learning rate",
        "how the learning rate falls",
        choices=("one-cycle", "cosine", "step", "constant"),
    )
    warm_up: float | None = _knob(
        None,
        "learning rate",
        "fraction of all steps in which the learning rate rises to its peak",
        least=0,
        most=1,
        unset="0.2 with one-cycle, else 0.05",
    )
    step_epochs: int | None = _knob(
        None, "learning rate", "epochs between the falls of schedule step", least=1, unset="a third of all epochs"
    )
    step_factor: float = _knob(
        0.1, "learning rate", "what each fall of schedule step multiplies the rate by", above=0, most=1
    )
    crop: int | None = _knob(
        None,
        "augmentation",
        "crop at random from the image padded by so many zeros",
        least=0,
        placeholder="PX",
        unset="2 for digits and mnist, 4 for cifar10 and cifar100, else 0",
    )
    resized_crop: float | None = _knob(
        None, "augmentation", "least area of a random crop that is resized", above=0, most=1, unset="no such crop"
    )
    flip: bool = _knob(False, "augmentation", "mirror half of the images left to right")
    rotate: float = _knob(
        0.0, "augmentation", "rotate by up to so many degrees", least=0, most=180, placeholder="DEGREES"
    )
    jitter: float = _knob(
        0.0, "augmentation", "change brightness, contrast and saturation by up to this share", least=0, most=1
    )
    cutout: int = _knob(0, "augmentation", "side of a square that is blanked", least=0, placeholder="PX")
    mixup: float = _knob(0.0, "augmentation", "mix pairs of images; the α of Beta(α, α)", least=0, most=1)
    cutmix: float = _knob(
        0.0, "augmentation", "paste a box of another image; the α of Beta(α, α)", least=0, most=1
    )
    precision: str | None = _knob(
        None,
        "computation",
        "fast lets convolutions use Winograd's methods, strict does not",
        choices=("fast", "strict"),
        unset="what striate.precision says, fast if nothing does",
    )
    threads: int | None = _knob(
        None, "computation", "threads for torch", least=1, most=1024, unset="its own choice", free=True
    )
    workers: int = _knob(1, "computation", "threads that prepare images ahead", least=0, most=64, free=True)
    seed: int = _knob(
        0, "computation", "decides the split, the first weights, the order, augmentation", least=0, most=2**32 - 1
    )

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises ArgumentError for the first setting with a value that it cannot have."""
        for name, knob in knobs(type(self)).items():
            knob.check(getattr(self, name))
        if self.accumulate > self.batch_size:
            expects, hint = f"accumulate to be at most batch_size, {self.batch_size}", "A part has an image at least."
            raise ArgumentError(build(WHERE, expects, self.accumulate, hint=hint))

    def replace(self: S, **changes: Any) -> S:
        """The same settings but for some. Raises ArgumentError for a name that is none, and for a value out of range.

        >>> FitSettings().replace(epochs=2).epochs
        2
        """
        _check_names(type(self), changes)
        return dataclasses.replace(self, **changes)

    @classmethod
    def of(cls: type[S], values: Mapping[str, Any]) -> S:
        """Settings from values by name, as :meth:`to_dict` gives them; what is missing has its default."""
        _check_names(cls, values)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The values by name: numbers, words and None, in the order of the table."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def differences(self, other: FitSettings) -> list[str]:
        """The names of the settings that two have in common and that differ, without those that change no result.

        >>> FitSettings().differences(FitSettings(epochs=2, threads=1))
        ['epochs']
        """
        shared = [k.name for k in knobs(type(self)).values() if not k.free and hasattr(other, k.name)]
        return [name for name in shared if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True, kw_only=True)
class RunSettings(FitSettings):
    """The settings of ``striate train``: those of a training, and what it needs to make its model and open its data.

    >>> RunSettings(model="resnet_cifar", data="shapes").epochs
    8
    """

    data: str = _knob("digits", "data", "the data set; striate data --help lists the kinds", placeholder="SPEC")
    val_fraction: float | None = _knob(
        None,
        "data",
        "part of the training images that is held out for validation",
        above=0,
        below=1,
        unset="only what the data set holds out",
    )
    size: int | None = _knob(
        None, "data", "height and width that images are brought to", least=1, placeholder="PX", unset="their own"
    )
    skip_broken: bool = _knob(False, "data", "leave broken images out and count them")
    model: str = _knob("lenet5", "model", f"one of {', '.join(NAMES)}, or package.module:callable")
    norm: str | None = _knob(
        None, "model", "the normalization layers", choices=KNOBS["norm"], unset="the model's own"
    )
    norm_position: str | None = _knob(
        None,
        "model",
        "where they stand, seen from the activation",
        choices=KNOBS["norm_position"],
        unset="the model's own, else before",
    )
    pool: str | None = _knob(None, "model", "how maps get smaller", choices=KNOBS["pool"], unset="the model's own")
    head: str | None = _knob(
        None,
        "model",
        "what the classifier sees: all places, or the mean over them (gap)",
        choices=KNOBS["head"],
        unset="the model's own",
    )
    init: str | None = _knob(None, "model", "the first weights", choices=KNOBS["init"], unset="the model's own")
    activation: str | None = _knob(
        None, "model", "the activations", choices=KNOBS["activation"], unset="the model's own"
    )
    weights: str | None = _knob(
        None, "model", "weights to start from: safetensors, or torchvision's", placeholder="FILE", unset="random ones"
    )
    weights_partial: bool = _knob(False, "model", "of weights, load what fits the model and name what does not")
    freeze_until: str | None = _knob(
        None, "model", "the first layer that learns", placeholder="LAYER", unset="all layers learn"
    )
    checkpoint_minutes: float = _knob(
        5.0, "run", "time between checkpoints within an epoch", above=0, placeholder="MINUTES", free=True
    )
    strict: bool = _knob(False, "run", "stop where inspecting the model finds an error")
    diagnose: bool = _knob(
        False, "run", "say what is wrong with the model, before and after, as striate diagnose does", free=True
    )
    log: str | None = _knob(None, "run", "also log for this program", choices=("tensorboard",), unset="no other log")


def knobs(cls: type[FitSettings]) -> dict[str, Knob]:
    """The table: a knob for each setting, by name, in order.

    >>> knobs(RunSettings)["learning_rate"].flag, knobs(RunSettings)["flip"].default_text
    ('--learning-rate', 'off')
    """
    if cls not in _KNOBS:
        hints = get_type_hints(cls)
        _KNOBS[cls] = {
            one.name: dataclasses.replace(
                one.metadata["knob"],
                name=one.name,
                default=one.default,
                kind=next(kind for kind in (*get_args(hints[one.name]), hints[one.name]) if kind is not NoneType),
            )
            for one in fields(cls)
        }
    return _KNOBS[cls]


_KNOBS: dict[type, dict[str, Knob]] = {}


def resolved(settings: S, kind: str) -> S:
    """The settings with a value for each that had none and depends on other settings or on the kind of the data set.

    Resolved settings stay as they are.

    >>> found = resolved(FitSettings(), "digits")
    >>> found.learning_rate, found.weight_decay, found.warm_up, found.crop
    (0.025, 0.0005, 0.2, 2)
    """
    from ..ops.precision import is_strict

    values: dict[str, Any] = {
        "learning_rate": RATES[settings.optimizer],
        "weight_decay": DECAYS[settings.optimizer],
        "warm_up": WARM_UPS.get(settings.schedule, WARM_UP),
        "step_epochs": max(1, settings.epochs // 3) if settings.schedule == "step" else None,
        "crop": CROPS.get(kind, 0),
        "precision": "strict" if is_strict() else "fast",
    }
    return settings.replace(**{name: value for name, value in values.items() if getattr(settings, name) is None})


def markdown(cls: type[FitSettings]) -> str:
    """The table as Markdown, a row for each setting."""
    rows = ["| setting | values | default | what it does |", "|---|---|---|---|"]
    for knob in knobs(cls).values():
        values = "on or off" if knob.kind is bool else knob.values
        rows.append(f"| `{knob.name}` | {values} | {knob.default_text} | {knob.help} |")
    return "\n".join(rows) + "\n"


def _check_names(cls: type[FitSettings], names: Iterable[str]) -> None:
    known = knobs(cls)
    for name in names:
        if name not in known:
            hint = f"{cls.__name__} lists them.{did_you_mean(name, known)}"
            raise ArgumentError(build(WHERE, "settings that it has", repr(name), hint=hint))
