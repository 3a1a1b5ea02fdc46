"""Training of classifiers on the CPU: data, the loop, its settings, runs and their checkpoints, evaluation, figures."""

from .callbacks import Callback, ProgressBar, TensorBoard
from .checkpoint import load, save
from .data import DataSet, Split, digits, open_data
from .evaluation import Evaluation, evaluate
from .finetune import Loaded, freeze_until, load_weights, new_head
from .fit import fit
from .history import Epoch, History
from .parameters import parameter_groups
from .run import Run, open_run, train_run
from .settings import FitSettings, RunSettings
from .state import NotFinite, Snapshot, Training
from .watch import Watch

__all__ = [
    "Callback",
    "DataSet",
    "Epoch",
    "Evaluation",
    "FitSettings",
    "History",
    "Loaded",
    "NotFinite",
    "ProgressBar",
    "Run",
    "RunSettings",
    "Snapshot",
    "Split",
    "TensorBoard",
    "Training",
    "Watch",
    "digits",
    "evaluate",
    "fit",
    "freeze_until",
    "load",
    "load_weights",
    "new_head",
    "open_data",
    "open_run",
    "parameter_groups",
    "save",
    "train_run",
]
