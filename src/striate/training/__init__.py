"""Training small classifiers on the CPU: data, loop, checkpoints, pictures, and the job that ties them together."""

from .checkpoint import load, save
from .data import Split, digits
from .loop import Epoch, History, evaluate, train
from .parameters import parameter_groups

__all__ = ["Epoch", "History", "Split", "digits", "evaluate", "load", "parameter_groups", "save", "train"]
