"""Training of classifiers on the CPU: data, the loop, its settings, checkpoints, evaluation and figures."""

from .callbacks import Callback, ProgressBar, TensorBoard
from .checkpoint import load, save
from .data import DataSet, Split, digits, open_data
from .evaluation import Evaluation, evaluate
from .fit import fit
from .history import Epoch, History
from .parameters import parameter_groups
from .settings import FitSettings, RunSettings
from .state import NotFinite, Snapshot, Training

__all__ = [
    "Callback",
    "DataSet",
    "Epoch",
    "Evaluation",
    "FitSettings",
    "History",
    "NotFinite",
    "ProgressBar",
    "RunSettings",
    "Snapshot",
    "Split",
    "TensorBoard",
    "Training",
    "digits",
    "evaluate",
    "fit",
    "load",
    "open_data",
    "parameter_groups",
    "save",
]
