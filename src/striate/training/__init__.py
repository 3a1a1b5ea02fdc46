"""Training of small classifiers on the CPU: data, loop, checkpoints, figures, and the job that runs them together."""

from .checkpoint import load, save
from .data import Split, digits
from .finetune import Loaded, freeze_until, load_weights, new_head
from .loop import Epoch, History, evaluate, train
from .parameters import parameter_groups

__all__ = [
    "Epoch",
    "History",
    "Loaded",
    "Split",
    "digits",
    "evaluate",
    "freeze_until",
    "load",
    "load_weights",
    "new_head",
    "parameter_groups",
    "save",
    "train",
]
