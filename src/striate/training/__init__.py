"""Training of classifiers on the CPU: data, the loop, its settings, runs and their checkpoints, evaluation, figures."""

from .callbacks import Callback, ProgressBar, TensorBoard
from .checkpoint import load, save
from .data import DataSet, open_data
from .evaluation import Evaluation, evaluate
from .find_lr import RangeTest, find_lr
from .finetune import Loaded, freeze_until, load_weights, new_head
from .fit import fit
from .history import Epoch, History
from .overfit import Overfit, overfit
from .parameters import parameter_groups
from .predict import Prediction, find_images, predict
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
    "Overfit",
    "Prediction",
    "ProgressBar",
    "RangeTest",
    "Run",
    "RunSettings",
    "Snapshot",
    "TensorBoard",
    "Training",
    "Watch",
    "evaluate",
    "find_images",
    "find_lr",
    "fit",
    "freeze_until",
    "load",
    "load_weights",
    "new_head",
    "open_data",
    "open_run",
    "overfit",
    "parameter_groups",
    "predict",
    "save",
    "train_run",
]
