"""Training of small classifiers on the CPU: data, loop, checkpoints, figures, and the job that runs them together."""

from .checkpoint import load, save
from .data import Split, digits
from .loop import Epoch, History, evaluate, train
from .parameters import parameter_groups

__all__ = ["Epoch", "History", "Split", "digits", "evaluate", "load", "parameter_groups", "save", "train"]
