"""Normalization layers: drop-ins for torch.nn's, and what torch.nn lacks.

Every norm can compute the activation that follows it in its own pass: a container requests it at a call (see
:mod:`striate.nn.fusion`), and the ``…Act2d`` layers, which do not derive from torch's norms, take its name as an
argument.
"""

from .batch import BATCH_NORMS as BATCH_NORMS
from .batch import BatchNorm1d, BatchNorm2d, BatchNorm3d, BatchNormAct2d
from .ghost import GhostBatchNorm2d
from .group import GROUP_NORMS as GROUP_NORMS
from .group import GroupNorm, GroupNormAct2d
from .instance import AdaIN, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d, adaptive_instance_norm
from .layer import LayerNorm, LayerNorm2d, RMSNorm
from .local_response import LocalResponseNorm
from .noisy import NoisyBatchNorm2d
from .sync import SyncBatchNorm

__all__ = [
    "AdaIN",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormAct2d",
    "GhostBatchNorm2d",
    "GroupNorm",
    "GroupNormAct2d",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LayerNorm2d",
    "LocalResponseNorm",
    "NoisyBatchNorm2d",
    "RMSNorm",
    "SyncBatchNorm",
    "adaptive_instance_norm",
]
